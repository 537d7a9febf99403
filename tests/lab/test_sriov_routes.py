"""A VF in a pod that has eth0 with default routes, and later plugins in the chain that move the VF's routes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.conftest import LabVfs, Runtime, conf, host_local, in_namespace, sh
from wirespeed.cni.errors import Code

pytestmark = pytest.mark.usefixtures("unchanged")

MAC = "02:00:00:00:00:aa"
OTHER_MAC = "02:00:00:00:00:bb"
EVERYWHERE = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "192.168.7.0/24"}]
Namespaces = Callable[[], str]
Config = dict[str, Any]


@pytest.fixture
def pod(namespaces: Namespaces) -> str:
    """A namespace as the cluster network leaves it: eth0 with addresses and default routes, IPv4 and IPv6."""
    made = namespaces()
    in_namespace(made, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
    commands = """link set lo up
        link add eth0 type veth peer name wire0
        link set wire0 up
        link set eth0 up
        addr add 10.56.0.5/16 dev eth0
        addr add fd00:56::5/64 dev eth0 nodad
        route add default via 10.56.0.1 dev eth0
        route add default via fd00:56::1 dev eth0
        route add 192.168.7.0/24 via 10.56.0.1 dev eth0"""
    for command in commands.splitlines():
        in_namespace(made, "ip", *command.split())
    in_namespace(made, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")  # as runtimes do
    return made


def dual_stack(third: int) -> Config:
    ranges = [[{"subnet": f"10.8.{third}.0/24"}], [{"subnet": f"fd00:8:{third}::/64"}]]
    return {"type": "host-local", "ranges": ranges, "routes": EVERYWHERE}


def routes(pod: str) -> list[Config]:
    found: list[Config] = []
    for family in ("-4", "-6"):
        found += json.loads(in_namespace(pod, "ip", family, "-j", "route", "show"))
    return found


def behind(plugin: str, config: Config, container: str, pod: str, added: Config) -> Config:
    """Execute ADD of a plugin that follows the VF's plugin in the chain. Return its result."""
    environ = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": container,
        "CNI_NETNS": pod,
        "CNI_IFNAME": "net1",
        "CNI_PATH": "/usr/lib/cni",
    }
    own = {"cniVersion": "1.0.0", "name": "data", "type": plugin, "prevResult": added}
    done = subprocess.run(
        [f"/usr/lib/cni/{plugin}"],
        input=json.dumps(own | config),
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    result: Config = json.loads(done.stdout)
    return result


def test_two_redundant_vfs_and_eth0_have_the_same_routes(agent: Runtime, vfs: LabVfs, pod: str) -> None:
    before = routes(pod)
    asked = {f"net{n}": conf(vfs.kernel[n], vlan=50, ipam=dual_stack(n)) for n in (0, 1)}
    for ifname, each in asked.items():
        added = agent.add("redundant", each, pod, ifname=ifname)
        assert added.code == 0, added.body
        each["prevResult"] = added.body
    four = [route["dev"] for route in routes(pod) if route["dst"] == "default" and "dev" in route]
    assert four == ["net1", "net0", "eth0"]
    (six,) = (route for route in routes(pod) if route["dst"] == "default" and "nexthops" in route)
    assert sorted(hop["dev"] for hop in six["nexthops"]) == ["eth0", "net0", "net1"]
    for ifname, each in asked.items():
        assert agent.call("CHECK", "redundant", each, netns=pod, ifname=ifname).body == {}
    in_namespace(pod, "ip", "-6", "route", "del", "default", "via", "fd00:8:1::1", "dev", "net1")
    found = agent.call("CHECK", "redundant", asked["net1"], netns=pod, ifname="net1")
    assert (found.body["code"], "route ::/0 via fd00:8:1::1 is missing on net1" in found.body["msg"]) == (
        Code.DRIFT,
        True,
    )
    for ifname, each in asked.items():
        assert agent.delete("redundant", each, pod, ifname=ifname).code == 0
    assert routes(pod) == before


def test_check_finds_what_sbr_has_moved(agent: Runtime, vfs: LabVfs, pod: str) -> None:
    asked = conf(vfs.kernel[0], ipam=dual_stack(0)) | {"cniVersion": "1.0.0"}
    added = agent.add("sbr", asked, pod)
    assert added.code == 0, added.body
    asked["prevResult"] = behind("sbr", {}, "sbr", pod, added.body)
    assert "net1" not in in_namespace(pod, "ip", "-4", "route", "show", "default")
    assert agent.call("CHECK", "sbr", asked, netns=pod).body == {}
    in_namespace(pod, "ip", "route", "flush", "table", "100")
    assert "route 0.0.0.0/0 via 10.8.0.1 is missing" in agent.call("CHECK", "sbr", asked, netns=pod).body["msg"]
    assert agent.delete("sbr", asked, pod).code == 0


def test_check_finds_what_is_in_a_vrf(agent: Runtime, vfs: LabVfs, pod: str) -> None:
    sh("modprobe", "vrf")
    routed = [{"dst": "0.0.0.0/0"}, {"dst": "192.168.7.0/24"}]
    asked = conf(vfs.kernel[0], ipam=host_local(0, routes=routed)) | {"cniVersion": "1.0.0"}
    added = agent.add("vrf", asked, pod)
    assert added.code == 0, added.body
    asked["prevResult"] = behind("vrf", {"vrfname": "blue", "table": 1001}, "vrf", pod, added.body)
    # Early versions of the vrf plugin lose the routes that the kernel removes when the interface joins the VRF.
    # Later versions restore them like this.
    for route in routed:
        where = ("via", "10.8.0.1", "dev", "net1", "table", "1001")
        in_namespace(pod, "ip", "route", "replace", route["dst"], *where)
    assert "net1" not in in_namespace(pod, "ip", "-4", "route", "show", "default")
    found = agent.call("CHECK", "vrf", asked, netns=pod)
    assert found.body == {}
    in_namespace(pod, "ip", "route", "del", "default", "table", "1001")
    assert "route 0.0.0.0/0 via 10.8.0.1 is missing" in agent.call("CHECK", "vrf", asked, netns=pod).body["msg"]
    assert agent.delete("vrf", asked, pod).code == 0


def test_check_expects_the_mac_that_tuning_has_set(agent: Runtime, vfs: LabVfs, pod: str) -> None:
    asked = conf(vfs.kernel[0], mac=MAC, trust="on") | {"cniVersion": "1.0.0"}
    added = agent.add("tuning", asked, pod)
    assert added.code == 0, added.body
    asked["prevResult"] = behind("tuning", {"mac": OTHER_MAC}, "tuning", pod, added.body)
    assert agent.call("CHECK", "tuning", asked, netns=pod).body == {}
    asked["prevResult"] = added.body  # without tuning in prevResult, the changed MAC is drift
    found = agent.call("CHECK", "tuning", asked, netns=pod)
    assert f"mac of net1 is {OTHER_MAC}, expected {MAC}" in found.body["msg"]
    assert agent.delete("tuning", asked, pod).code == 0


def test_a_gateway_outside_the_network_is_used_if_it_is_link_local(agent: Runtime, vfs: LabVfs, pod: str) -> None:
    ranges = [[{"subnet": "fd00:8:9::/64", "gateway": "fe80::1"}]]
    asked = conf(vfs.kernel[0], ipam={"type": "host-local", "ranges": ranges, "routes": [{"dst": "fd99::/32"}]})
    added = agent.add("outside", asked, pod)
    assert added.code == 0, added.body
    assert "via fe80::1" in in_namespace(pod, "ip", "-6", "route", "show", "fd99::/32")
    assert agent.call("CHECK", "outside", asked | {"prevResult": added.body}, netns=pod).body == {}
    assert agent.delete("outside", asked, pod).code == 0

    far = {"type": "host-local", "subnet": "10.8.9.0/26", "gateway": "10.8.9.254"}
    refused = agent.add("far", conf(vfs.kernel[0], ipam=far | {"routes": [{"dst": "10.99.0.0/16"}]}), pod)
    assert refused.body["code"] == Code.ADDRESS
    assert "expected a gateway in a network of the interface (10.8.9.0/26)" in refused.body["msg"]

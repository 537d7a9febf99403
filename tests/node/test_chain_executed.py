"""Chains of Debian's CNI plugins, which are executed, with in-process plugins between them."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from wirespeed.cni import result as results
from wirespeed.cni.chain import Chain, Network, load_network
from wirespeed.cni.errors import code_of
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.kernel import netns

PLUGINS = Path("/usr/lib/cni")
T = TypeVar("T")


@pytest.fixture(autouse=True)
def _plugins_are_here() -> None:
    assert (PLUGINS / "bridge").exists(), "install containernetworking-plugins"


@dataclass
class Pair:
    """A namespace that acts as the node, and one of a pod."""

    node: str
    pod: str
    leases: Path

    def on_node(self, function: Callable[[], T]) -> T:
        """Call the function in the node's namespace, like an agent of that node."""
        with netns.opened(f"/run/netns/{self.node}") as ns:
            return netns.inside(ns.fd, function)

    def request(self, container: str = "c1") -> Request:
        path = (str(PLUGINS),)
        pod = f"/run/netns/{self.pod}"
        return Request(command="ADD", container_id=container, netns=pod, ifname="net1", path=path)

    def conflist(self, *more: dict[str, Any], version: str = "1.0.0") -> Network:
        ipam = {"type": "host-local", "subnet": "10.77.0.0/24", "dataDir": str(self.leases)}
        bridge = {"type": "bridge", "bridge": "br77", "isGateway": True, "ipam": ipam}
        return load_network({"cniVersion": version, "name": "net", "plugins": [bridge, *more]})

    def links(self, name: str) -> dict[str, Any]:
        """The interfaces of a namespace by name, with their addresses."""
        listed = json.loads(ip("-n", name, "-j", "addr", "show"))
        return {link["ifname"]: link for link in listed}

    def given(self) -> set[str]:
        """The addresses that have a lease."""
        folder = self.leases / "net"
        names = {path.name for path in folder.iterdir()} if folder.exists() else set()
        return {name for name in names if name[0].isdigit()}


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    mark = uuid.uuid4().hex[:8]
    pair = Pair(f"wsnode-{mark}", f"wspod-{mark}", tmp_path / "leases")
    for name in (pair.node, pair.pod):
        ip("netns", "add", name)
    try:
        yield pair
    finally:
        for name in (pair.pod, pair.node):
            if os.path.exists(f"/run/netns/{name}"):
                ip("netns", "del", name)


class Marker:
    """An in-process plugin that records the previous result and adds `socketPath` to the interface."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.seen: list[tuple[str, dict[str, Any] | None]] = []

    def _note(self, request: Request) -> None:
        self.seen.append((request.command, request.config.get("prevResult")))
        if request.command == "ADD" and self.error:
            raise self.error

    def add(self, request: Request) -> Result:
        self._note(request)
        result = results.read(request.config["prevResult"])
        result["interfaces"][-1]["socketPath"] = "/run/marker"
        return result

    delete = check = gc = status = _note


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_bridge_and_tuning_make_check_and_remove_an_interface(pair: Pair, version: str) -> None:
    tuning = {"type": "tuning", "mtu": 1400, "capabilities": {"mac": True}}
    network, chain = pair.conflist(tuning, version=version), Chain({})
    # Only the MAC has a capability.
    network = replace(network, runtime_config={"mac": "02:00:00:00:00:77", "ips": ["10.77.0.9/24"]})

    result = pair.on_node(lambda: chain.add(network, pair.request()))
    assert result["ips"][0]["address"] == "10.77.0.2/24"
    made = result["interfaces"][result["ips"][0]["interface"]]
    assert (made["name"], made["mac"], made["sandbox"]) == (
        "net1",
        "02:00:00:00:00:77",
        f"/run/netns/{pair.pod}",
    )
    link = pair.links(pair.pod)["net1"]
    assert (link["address"], link["mtu"]) == ("02:00:00:00:00:77", 1400)
    assert "10.77.0.2" in {address["local"] for address in link["addr_info"]}
    assert pair.given() == {"10.77.0.2"}

    pair.on_node(lambda: chain.check(network, pair.request(), result))
    pair.on_node(lambda: chain.delete(network, pair.request(), result))
    assert "net1" not in pair.links(pair.pod)
    assert pair.given() == set()


def test_check_of_an_executed_plugin_finds_the_drift(pair: Pair) -> None:
    network, chain = pair.conflist(), Chain({})
    result = pair.on_node(lambda: chain.add(network, pair.request()))
    ip("-n", pair.pod, "addr", "del", "10.77.0.2/24", "dev", "net1")
    with pytest.raises(Error, match=r"^plugin bridge: .*10\.77\.0\.2"):
        pair.on_node(lambda: chain.check(network, pair.request(), result))


def test_plugin_of_this_process_stands_between_executed_ones(pair: Pair) -> None:
    network, marker = pair.conflist({"type": "marker"}, {"type": "tuning", "mtu": 1300}), Marker()
    chain = Chain({"marker": marker})
    result = pair.on_node(lambda: chain.add(network, pair.request()))
    assert marker.seen[0][1] is not None
    assert marker.seen[0][1]["cniVersion"] == "1.0.0"
    assert marker.seen[0][1]["ips"][0]["address"] == "10.77.0.2/24"
    # tuning returns prevResult in its own version of the specification.
    assert result["ips"] == marker.seen[0][1]["ips"]
    assert pair.links(pair.pod)["net1"]["mtu"] == 1300
    pair.on_node(lambda: chain.delete(network, pair.request(), result))
    assert [command for command, _ in marker.seen] == ["ADD", "DEL"]
    assert pair.given() == set()


def test_failure_of_a_later_plugin_leaves_nothing_of_the_earlier_ones(pair: Pair) -> None:
    marker = Marker(Error(Kind.POLICY, "not here"))
    network, chain = pair.conflist({"type": "marker"}), Chain({"marker": marker})
    before = pair.links(pair.pod)
    with pytest.raises(Error) as failed:
        pair.on_node(lambda: chain.add(network, pair.request()))
    assert (failed.value.kind, failed.value.msg) == (Kind.POLICY, "plugin marker: not here")
    assert pair.links(pair.pod) == before
    assert pair.given() == set()
    assert [name for name in pair.links(pair.node) if name.startswith("veth")] == []


def test_failure_of_an_executed_plugin_keeps_its_code_and_frees_its_address(pair: Pair) -> None:
    network, chain = pair.conflist({"type": "tuning", "sysctl": {"net.no_such_key": "1"}}), Chain({})
    with pytest.raises(Error, match=r"^plugin tuning: .*no_such_key") as failed:
        pair.on_node(lambda: chain.add(network, pair.request()))
    assert code_of(failed.value) == 999  # the code of libcni-based plugins for an error without a code
    assert "net1" not in pair.links(pair.pod)
    assert pair.given() == set()


def test_version_that_a_plugin_does_not_speak_is_its_own_error(pair: Pair) -> None:
    with pytest.raises(Error, match="plugin bridge: incompatible CNI versions") as failed:
        pair.on_node(lambda: Chain({}).add(pair.conflist(version="1.1.0"), pair.request()))
    assert failed.value.kind == Kind.INCOMPATIBLE_VERSION
    assert "1.1.0" in failed.value.details


def test_delete_after_the_namespace_is_gone_frees_the_address(pair: Pair) -> None:
    network, chain = pair.conflist({"type": "tuning"}), Chain({})
    result = pair.on_node(lambda: chain.add(network, pair.request()))
    ip("netns", "del", pair.pod)
    pair.on_node(lambda: chain.delete(network, pair.request().derive(netns=""), result))
    assert pair.given() == set()

"""Ports that userspace-CNI created on a real Open vSwitch are removed by the DEL of their pods."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import multusfiles, userspacefiles
from tests.node.calling import DONE, Call
from tests.node.conftest import Agent, Netns
from tests.node.vhost.conftest import Host, Switch, network
from wirespeed.errors import Error, Kind
from wirespeed.node import NodeConfig, VhostConfig, load_config
from wirespeed.plugins.vhost import takeover
from wirespeed.plugins.vhost.ovs import Ovs
from wirespeed.plugins.vhost.sockets import Folder
from wirespeed.steps import carry_out
from wirespeed.takeover import caches
from wirespeed.takeover.record import MultusFiles

MakeNetns = Callable[[], Netns]
UID = "0f3c2e1a-7b5d-4c1e-9f64-1c2d3e4f5a6b"
VOLUME = "volumes/kubernetes.io~empty-dir/shared-dir"


class Attached:
    """A pod attached by userspace-CNI, with a host-local lease for each interface."""

    def __init__(self, host: Host, pod: Netns, switch: Switch, folder: Path) -> None:
        self.host, self.pod, self.switch, self.folder = host, pod, switch, folder
        self.container = host.request("DEL", conf(), pod).container_id
        folder.mkdir(parents=True, exist_ok=True)

    def port(self, ifname: str = "net1") -> str:
        return f"{self.container[:12]}-{ifname}"

    @property
    def kept(self) -> list[str]:
        """The interfaces for which userspace-CNI keeps a file."""
        files = (self.host.folder / "usrspcni/data").glob(f"local-{self.container[:12]}-*.json")
        return sorted(path.stem.rpartition("-")[2] for path in files)

    def attach(self, ifname: str = "net1", *, bridge: str = "br4", mode: str = "client") -> None:
        userspacefiles.make_port(self.switch, bridge, self.port(ifname), self.folder, mode=mode)
        if mode == "client":  # then the application creates the socket
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(str(self.folder / self.port(ifname)))
        userspacefiles.keep(self.host.folder / "usrspcni", self.container, ifname)
        lease = self.host.folder / f"leases/net/10.9.0.{9 + len(self.kept)}"
        lease.parent.mkdir(parents=True, exist_ok=True)
        lease.write_text(f"{self.container}\r\n{ifname}")

    def delete(self, ifname: str = "net1", **keys: Any) -> None:
        self.host.delete(conf(**keys), self.pod, ifname=ifname)


def conf(**keys: Any) -> dict[str, Any]:
    made = network(bridge={"bridgeName": "br4"}, vhost={"mode": "client"}, netType="bridge")
    return {**made, "cniVersion": "0.3.1", "type": "userspace", **keys}


@pytest.fixture
def attached(host: Host, switch: Switch, netns: MakeNetns, tmp_path: Path) -> Attached:
    return Attached(host, netns(), switch, tmp_path / "pod")


def test_del_takes_the_port_its_socket_its_address_and_what_was_kept(attached: Attached) -> None:
    attached.attach()
    attached.attach("net2")
    attached.delete()
    assert attached.switch.ports("br4") == [attached.port("net2")]
    assert [path.name for path in attached.folder.iterdir()] == [attached.port("net2")]
    assert attached.kept == ["net2"]
    assert attached.host.leases() == ["10.9.0.11"]
    attached.delete("net2")


def test_bridge_goes_with_its_last_port_and_its_rules_with_it(attached: Attached) -> None:
    attached.attach()
    assert attached.switch.flows("br4") == ["NORMAL", "NORMAL"]
    attached.delete()
    assert attached.switch.vsctl("list-br") == "br0"


def test_bridge_that_somebody_has_set_up_stays(attached: Attached) -> None:
    attached.switch.vsctl("set", "Bridge", "br0", "external_ids:owner=admin")
    attached.attach(bridge="br0")
    attached.delete()
    assert attached.switch.ports("br0") == []
    attached.switch.vsctl("remove", "Bridge", "br0", "external_ids", "owner")


def test_bridge_on_which_a_pod_of_ours_is_stays(attached: Attached, netns: MakeNetns) -> None:
    attached.attach()
    other = netns()
    attached.host.add(conf(), other)
    attached.delete()
    (port,) = attached.switch.ports("br4")
    assert port.startswith(attached.host.request("DEL", conf(), other).container_id[:12])
    attached.host.delete(conf(), other)
    attached.switch.vsctl("del-br", "br4")


def test_socket_that_the_switch_listened_on_goes_with_the_folder(
    host: Host, switch: Switch, netns: MakeNetns
) -> None:
    pod = netns()
    shared = host.folder / "shared"
    container = host.request("DEL", conf(), pod).container_id
    attached = Attached(host, pod, switch, shared / container[:12])
    attached.attach(mode="server")
    assert (attached.folder / attached.port()).is_socket()
    attached.delete(sharedDir=str(shared))
    assert list(shared.iterdir()) == []
    assert switch.vsctl("list-br") == "br0"


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A pod's emptyDir, bind-mounted at a short path."""
    volume, short = tmp_path / "volume", tmp_path / "vhost_sockets/uid"
    volume.mkdir()
    short.mkdir(parents=True)
    monkeypatch.setattr(takeover, "MOUNTS", short.parent)
    subprocess.run(["mount", "--bind", volume, short], check=True)
    yield short
    if short.exists():
        subprocess.run(["umount", short], check=True)


def test_mount_of_a_long_folder_goes_with_the_pods_last_port(
    host: Host, switch: Switch, netns: MakeNetns, mounted: Path
) -> None:
    attached = Attached(host, netns(), switch, mounted)
    attached.attach()
    attached.attach("net2")
    attached.delete()
    assert [path.name for path in mounted.iterdir()] == [attached.port("net2")]
    attached.delete("net2")
    assert not mounted.exists()
    assert list((mounted.parents[1] / "volume").iterdir()) == []


@pytest.mark.parametrize("mode", ["client", "server"])
def test_check_holds_the_port_against_what_userspace_cni_makes_of_the_configuration(
    attached: Attached, mode: str
) -> None:
    attached.attach(mode=mode)
    asked = conf(host={**conf()["host"], "vhost": {"mode": mode}, "mtu": 2000})
    asked["host"]["bridge"] = {"bridgeName": "br4", "vlanId": 5}
    attached.host.check(asked, attached.pod)
    attached.switch.vsctl("del-port", "br4", attached.port())
    with pytest.raises(Error, match=f"Open vSwitch has no port {attached.port()}") as caught:
        attached.host.check(asked, attached.pod)
    assert caught.value.kind == Kind.DRIFT
    attached.delete()
    attached.switch.vsctl("--if-exists", "del-br", "br4")
    (attached.folder / attached.port()).unlink(missing_ok=True)


def test_second_del_finds_nothing_to_do(attached: Attached) -> None:
    attached.attach()
    attached.delete()
    attached.delete()


def test_port_is_removed_when_the_switch_is_back(attached: Attached, netns: MakeNetns) -> None:
    attached.attach()
    attached.switch.stop_database()
    attached.delete()
    attached.switch.start_database()
    assert attached.switch.ports("br4") == [attached.port()]
    other = netns()
    attached.host.add(conf(), other)
    assert attached.port() not in attached.switch.ports("br4")
    attached.host.delete(conf(), other)
    attached.switch.vsctl("--if-exists", "del-br", "br4")
    (attached.folder / attached.port()).unlink()


def test_port_goes_with_a_pod_that_multus_attached(
    attached: Attached, shim: Path, agent_process: Callable[..., Agent], tmp_path: Path
) -> None:
    attached.attach()
    pod, base = attached.pod, tmp_path / "multus"
    eth0 = multusfiles.Attached(
        config={"cniVersion": "1.0.0", "name": "cbr0", "type": "bridge", "bridge": "none"},
        ifname="eth0",
        result={"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": pod.path}]},
    )
    net1 = multusfiles.Attached(
        config=conf(),
        ifname="net1",
        result={"cniVersion": "0.3.1", "interfaces": [{"name": "net1", "sandbox": pod.path}]},
    )
    multusfiles.write(base, attached.container, [eth0, net1], netns=pod.path)
    agent = agent_process()
    agent.stop()
    vhost = {"ovsdb": attached.switch.remote, "userspaceDir": str(attached.host.folder / "usrspcni")}
    more = {"leases": attached.host.node.config.leases, "vhost": vhost}
    where = NodeConfig(vhost=VhostConfig(userspace_dir=vhost["userspaceDir"]))
    files = MultusFiles(folder=str(base), configuration="multus", version="1.0.0", path=("/usr/lib/cni",))
    found = caches.read_multus(files, where)
    assert found.problems == []
    carry_out(caches.take_over(found, load_config(agent.config)))
    agent = agent_process(folder=agent.config.parent, **more)
    environ = agent.environ(
        "DEL", attached.container, CNI_NETNS=pod.path, CNI_IFNAME="eth0", CNI_PATH="/usr/lib/cni"
    )
    config = {"cniVersion": "1.0.0", "name": "multus", "type": "multus", "delegates": [eth0.config]}
    assert Call(shim, environ, config, name="multus").answer() == DONE
    assert attached.switch.vsctl("list-br") == "br0"
    assert (attached.kept, attached.host.leases(), list(attached.folder.iterdir())) == ([], [], [])


def test_what_is_kept_of_a_port_that_could_not_be_removed_stays_for_the_next_del(
    lone_host: Host, netns: MakeNetns, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = netns()
    file = userspacefiles.keep(
        lone_host.folder / "usrspcni", lone_host.request("DEL", conf(), pod).container_id, "net1"
    )

    def refuse(*_: object, **__: object) -> None:
        raise Error(Kind.DEVICE, "the switch refuses")

    with monkeypatch.context() as refusing:
        refusing.setattr(Ovs, "remove", refuse)
        with pytest.raises(Error, match=r"^the switch refuses$"):
            lone_host.delete(conf(), pod)
        assert file.exists()
        refusing.setattr(Ovs, "remove", lambda *_, **__: None)
        lone_host.delete(conf(), pod)
    assert not file.exists()


@pytest.mark.parametrize("settings", [["type=internal"], ["type=dpdkvhostuserclient"]])
def test_port_that_is_not_userspace_cnis_is_left_alone(attached: Attached, settings: list[str]) -> None:
    userspacefiles.keep(attached.host.folder / "usrspcni", attached.container, "net1", port="precious")
    mark = ["--", "set", "Port", "precious", "external_ids:wirespeed-port=precious"]
    mark += ["--", "set", "Interface", "precious", "external_ids:wirespeed-port=precious"]
    more = mark if settings != ["type=internal"] else []
    attached.switch.vsctl("add-port", "br0", "precious", "--", "set", "Interface", "precious", *settings, *more)
    attached.delete()
    assert attached.switch.ports("br0") == ["precious"]
    assert attached.kept == []
    attached.switch.vsctl("del-port", "br0", "precious")


@pytest.mark.parametrize("text", ["{", "[]", '{"vhostname":"a/b"}', '{"vhostname":""}', "{}"])
def test_file_that_cannot_be_read_is_told(attached: Attached, text: str) -> None:
    file = userspacefiles.keep(attached.host.folder / "usrspcni", attached.container, "net1")
    file.write_text(text)
    with pytest.raises(Error, match=rf"{file.name}.*expected") as caught:
        attached.delete()
    assert caught.value.kind == Kind.INVALID_DATA


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        (Folder(path=f"/var/lib/kubelet/pods/{UID}/{VOLUME}", kubelets=True), f"/var/lib/vhost_sockets/{UID}"),
        (Folder(path=f"/k/pods/{UID}/{VOLUME}"[:80], kubelets=True), f"/k/pods/{UID}/{VOLUME}"[:80]),
        (Folder(path=f"/srv/pods/{UID}/{'empty-dir' * 9}"), f"/srv/pods/{UID}/{'empty-dir' * 9}"),
    ],
)
def test_long_folders_of_the_kubelets_are_the_mounts_of_userspace_cni(folder: Folder, expected: str) -> None:
    assert takeover.path_on_switch(folder) == expected


def test_what_is_kept_is_read_as_it_was_found(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    file = tmp_path / "data/local-aaaaaaaaaaaa-net1.json"
    file.write_text(userspacefiles.KEPT)
    assert takeover.read_local_file(tmp_path, "aa" * 32, "net1") == takeover.LocalFile(
        file=file, engine="ovs-dpdk", port="aaaaaaaaaaaa-net1"
    )
    assert takeover.read_local_file(tmp_path, "aa" * 32, "net2") is None
    assert json.loads(userspacefiles.KEPT)["vhostmac"] == ""

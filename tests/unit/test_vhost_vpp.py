"""Interfaces of VPP, through the fake binary API of tests/vpp.py; no packets are forwarded."""

from __future__ import annotations

import json
import socket
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests import userspacefiles
from tests.vpp import FakeVpp
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.node import Node, NodeConfig, VhostConfig
from wirespeed.plugins.vhost import vhost
from wirespeed.plugins.vhost.engine import port_name
from wirespeed.state.locks import device_lock

CONTAINER = "a" * 64

pytestmark = pytest.mark.filterwarnings("ignore:open_text is deprecated")  # in VPP's client library


@pytest.fixture
def vpp(tmp_path: Path) -> Iterator[FakeVpp]:
    server = FakeVpp(tmp_path / "api.sock")
    yield server
    server.close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    config = NodeConfig(
        state=str(tmp_path / "run/state.db"),
        leases=str(tmp_path / "leases"),
        vhost=VhostConfig(
            vpp=str(tmp_path / "api.sock"), ovsdb=f"unix:{tmp_path}/db.sock", sockets=str(tmp_path / "s")
        ),
    )
    made = Node(config)
    yield made
    made.close()


def network(**keys: Any) -> dict[str, Any]:
    host = {
        "engine": "vpp",
        "iftype": "memif",
        "netType": "bridge",
        "memif": {"role": "master"},
        "bridge": {"bridgeName": "4", "create": True},
    }
    return {"cniVersion": "1.1.0", "name": "net", "type": "wirespeed-vhost", "host": host | keys}


def request(verb: str, conf: dict[str, Any], container: str = CONTAINER, ifname: str = "net1") -> Request:
    return Request(command=verb, container_id=container, netns="/proc/self/ns/net", ifname=ifname, config=conf)


def add(node: Node, conf: dict[str, Any], container: str = CONTAINER, ifname: str = "net1") -> Result:
    return node.plugin("vhost").add(request("ADD", conf, container, ifname))


def delete(node: Node, conf: dict[str, Any], container: str = CONTAINER, ifname: str = "net1") -> None:
    node.plugin("vhost").delete(request("DEL", conf, container, ifname))


def check(node: Node, conf: dict[str, Any]) -> None:
    node.plugin("vhost").check(request("CHECK", conf))


def left(node: Node) -> list[object]:
    folder = Path(node.config.vhost.sockets)
    return [*node.journal.claims(), *(path for path in folder.rglob("*") if path.name != "links")]


def test_a_memif_is_made_as_asked_joins_its_bridge_domain_and_is_removed(vpp: FakeVpp, node: Node) -> None:
    before = vpp.state()
    memif = {"role": "master", "mode": "ethernet", "ringSize": 2048, "bufferSize": 4096, "secret": "s3"}
    conf = network(memif=memif, queues=2, mtu=1400)
    result = add(node, conf)
    path = Path(result["interfaces"][0]["socketPath"])
    assert path.name == f"memif-{port_name(CONTAINER, 'net1')}.sock"
    (interface,) = vpp.interfaces.values()
    made = vpp.named("memif_create")[0]
    wanted = {"role": 0, "mode": 0, "rx_queues": 2, "tx_queues": 2, "id": 0, "ring_size": 2048}
    assert made.items() >= (wanted | {"buffer_size": 4096, "secret": "s3"}).items()
    assert (interface.file, interface.flags, interface.mtu, interface.domain) == (str(path), 1, 1400, 4)
    assert vpp.domains == {4: "wirespeed"}
    assert stat.S_ISSOCK(path.stat().st_mode)
    data = json.loads((path.parent / f"configData-{port_name(CONTAINER, 'net1')}.json").read_text())
    assert data["config"]["memif"] == {
        "role": "slave",
        "mode": "ethernet",
        "socketfile": path.name,
        "ringSize": 2048,
        "bufferSize": 4096,
        "secret": "s3",
    }
    check(node, conf)
    delete(node, conf)
    assert vpp.state() == before
    assert left(node) == []
    delete(node, conf)


def test_memif_of_userspace_cni_goes(vpp: FakeVpp, tmp_path: Path) -> None:
    base = tmp_path / "usrspcni"
    where = VhostConfig(vpp=str(tmp_path / "api.sock"), sockets=str(tmp_path / "s"), userspace_dir=str(base))
    node = Node(NodeConfig(state=str(tmp_path / "run/state.db"), leases=str(tmp_path / "leases"), vhost=where))
    before = vpp.state()
    conf = {**network(), "type": "userspace", "sharedDir": str(tmp_path)}
    add(node, conf)
    (interface,) = vpp.interfaces.values()
    interface.tag = ""  # userspace-CNI sets no tag
    Path(node.config.state).unlink()
    node.close()
    kept = base / f"data/local-{CONTAINER[:12]}-net1.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(userspacefiles.KEPT_OF_VPP)
    fresh = Node(node.config)
    delete(fresh, conf)
    assert vpp.state() == before
    assert not kept.exists()
    assert left(fresh) == []
    fresh.close()


@pytest.mark.parametrize(("mode", "listens"), [("client", False), ("server", True)])
def test_vhost_user_interfaces(vpp: FakeVpp, node: Node, mode: str, listens: bool) -> None:
    conf = network(iftype="vhostuser", memif={}, vhost={"mode": mode})
    before = vpp.state()
    path = Path(add(node, conf)["interfaces"][0]["socketPath"])
    assert path.exists() == listens
    assert vpp.named("create_vhost_user_if_v2")[0]["is_server"] is listens
    check(node, conf)
    delete(node, conf)
    assert vpp.state() == before
    assert left(node) == []


def test_a_listening_vpps_socket_gets_the_owner_and_mode_that_are_asked_for(vpp: FakeVpp, node: Node) -> None:
    conf = network() | {"socket": {"mode": "0666"}}
    path = Path(add(node, conf)["interfaces"][0]["socketPath"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as application:
        application.connect(str(path))
    delete(node, conf)


def test_a_routed_interface_is_the_pods_gateway(vpp: FakeVpp, node: Node) -> None:
    addresses = [{"address": "10.8.0.2/30", "gateway": "10.8.0.1"}, {"address": "fd00::2/64", "gateway": "fd00::1"}]
    conf = network(netType="interface", bridge={}) | {"ipam": {"type": "static", "addresses": addresses}}
    before = vpp.state()
    result = add(node, conf)
    assert [ip["address"] for ip in result["ips"]] == ["10.8.0.2/30", "fd00::2/64"]
    (interface,) = vpp.interfaces.values()
    assert interface.addresses == [
        (socket.inet_pton(socket.AF_INET, "10.8.0.1"), 30),
        (socket.inet_pton(socket.AF_INET6, "fd00::1"), 64),
    ]
    assert not vpp.named("sw_interface_set_l2_bridge")
    check(node, conf)
    delete(node, conf)
    assert vpp.state() == before


def test_a_routed_interface_without_a_gateway_is_refused(vpp: FakeVpp, node: Node) -> None:
    conf = network(netType="interface", bridge={}) | {
        "ipam": {"type": "static", "addresses": [{"address": "10.8.0.2/30"}]}
    }
    before = vpp.state()
    with pytest.raises(Error, match=r'key "ipam": it gives no gateway for 10\.8\.0\.2/30'):
        add(node, conf)
    assert (vpp.state(), left(node)) == (before, [])


def test_more_memifs_than_the_peer_could_number(vpp: FakeVpp, node: Node) -> None:
    before, conf = vpp.state(), network()
    names = [f"net{number}" for number in range(30)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: add(node, conf, ifname=name), names))
    assert len(vpp.interfaces) == len(vpp.sockets) - 1 == 30
    assert len({interface.tag for interface in vpp.interfaces.values()}) == 30
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: delete(node, conf, ifname=name), names))
    assert vpp.state() == before
    assert left(node) == []


def test_a_bridge_domain_is_removed_only_if_we_made_it_and_nothing_is_in_it(vpp: FakeVpp, node: Node) -> None:
    with pytest.raises(Error, match="VPP has no bridge domain 4"):
        add(node, network(bridge={"bridgeName": "4"}))
    vpp.domains[4] = "theirs"
    conf = network(bridge={"bridgeId": 4})
    add(node, conf)
    delete(node, conf)
    assert vpp.domains == {4: "theirs"}
    made = network(bridge={"bridgeName": "5", "create": True})
    add(node, made)
    add(node, made, ifname="net2")
    delete(node, made)
    assert vpp.domains == {4: "theirs", 5: "wirespeed"}
    delete(node, made, ifname="net2")
    assert vpp.domains == {4: "theirs"}


@pytest.mark.parametrize(
    "message",
    [
        "memif_socket_filename_add_del_v2",
        "memif_create",
        "sw_interface_tag_add_del",
        "sw_interface_set_mtu",
        "sw_interface_set_l2_bridge",
        "sw_interface_set_flags",
    ],
)
def test_whatever_vpp_refuses_nothing_is_left(vpp: FakeVpp, node: Node, message: str) -> None:
    before, real = vpp.state(), vpp._answer

    def answer(name: str, fields: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        if name == message and fields.get("is_add", fields.get("enable", True)):
            return [(f"{name}_reply", {"retval": -73, "socket_id": 0, "sw_if_index": 0})]
        return real(name, fields)

    vpp._answer = answer  # type: ignore[method-assign]
    with pytest.raises(Error) as caught:
        add(node, network(mtu=1400))
    assert caught.value.kind == Kind.DEVICE
    assert f"refuses {message}: -73, invalid argument" in caught.value.msg
    assert (vpp.state(), left(node)) == (before, [])


def test_an_interface_of_others_on_the_socket_is_refused_and_stays(vpp: FakeVpp, node: Node) -> None:
    conf = network(memif={"role": "master", "mode": "ethernet", "socketfile": "theirs.sock"})
    path = node.config.vhost.sockets / Path(CONTAINER[:12]) / "theirs.sock"
    vpp._memif_socket_filename_add_del_v2(is_add=True, socket_id=7, socket_filename=str(path))
    vpp._memif_create(role=1, mode=0, socket_id=7, ring_size=1024, buffer_size=2048)
    before = vpp.state()
    with pytest.raises(Error, match=rf"VPP already has an interface on {path}; expected another socketfile"):
        add(node, conf)
    delete(node, conf)
    assert (vpp.state(), left(node)) == (before, [])


def test_interfaces_are_found_by_their_socket_not_by_numbers_that_vpp_gave_before_its_restart(
    node: Node, tmp_path: Path
) -> None:
    conf, vpp = network(), FakeVpp(tmp_path / "api.sock")
    add(node, conf)
    vpp.close()
    again = FakeVpp(tmp_path / "api.sock")
    try:
        theirs = again._memif_socket_filename_add_del_v2(is_add=True, socket_id=7, socket_filename="/x")
        assert theirs == {"socket_id": 7}
        fields = {"role": 1, "mode": 0, "socket_id": 7, "ring_size": 1024, "buffer_size": 2048}
        assert again._memif_create(**fields) == {"sw_if_index": 1}  # the same number as ours had
        with pytest.raises(Error, match="VPP has no interface on") as caught:
            check(node, conf)
        assert caught.value.kind == Kind.DRIFT
        delete(node, conf)
        assert list(again.interfaces) == [1]
        assert again.sockets[7] == "/x"
    finally:
        again.close()


def test_check_tells_what_is_not_as_it_was_made(vpp: FakeVpp, node: Node) -> None:
    conf = network(mtu=1400)
    add(node, conf)
    (interface,) = vpp.interfaces.values()
    interface.flags, interface.mtu, interface.domain, interface.mode = 0, 1500, 0, 1
    with pytest.raises(Error) as caught:
        check(node, conf)
    for fault in ("is down", "mtu is 1500, expected 1400", "role and mode", "not in bridge domain 4"):
        assert fault in caught.value.msg
    delete(node, conf)


def test_del_while_vpp_is_down_is_made_good_by_the_next_call(vpp: FakeVpp, node: Node, tmp_path: Path) -> None:
    conf, before = network(), vpp.state()
    add(node, conf)
    vpp.path.rename(tmp_path / "away")
    delete(node, conf)
    assert [claim.step for claim in node.journal.claims()] == ["removing"]
    (tmp_path / "away").rename(vpp.path)
    add(node, conf, ifname="net2")
    assert len(vpp.interfaces) == 1
    delete(node, conf, ifname="net2")
    assert (vpp.state(), left(node)) == (before, [])


def test_an_attachment_that_was_made_again_is_not_taken_for_the_removal_that_it_was(
    vpp: FakeVpp, node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf, before = network(), vpp.state()
    add(node, conf)
    vpp.path.rename(tmp_path / "away")
    delete(node, conf)
    (tmp_path / "away").rename(vpp.path)
    before_the_lock_is_had = [lambda: add(node, conf)]

    def locked_late(folder: Path, device: str, *, deadline: float) -> AbstractContextManager[None]:
        if before_the_lock_is_had:
            before_the_lock_is_had.pop()()
        return device_lock(folder, device, deadline=deadline)

    monkeypatch.setattr(vhost, "device_lock", locked_late)
    add(node, conf, ifname="net2")  # first retries the pending removal; meanwhile another call holds the lock
    assert [claim.step for claim in node.journal.claims()] == ["attached", "attached"]
    assert len(vpp.interfaces) == 2
    for ifname in ("net1", "net2"):
        delete(node, conf, ifname=ifname)
    assert (vpp.state(), left(node)) == (before, [])


def test_an_add_does_not_wait_for_another_switch_that_hangs(vpp: FakeVpp, node: Node, tmp_path: Path) -> None:
    conf = network()
    switch = {"engine": "ovs-dpdk", "iftype": "vhostuser", "bridge": {"bridgeName": "br0"}}
    other = {**conf, "name": "other", "host": switch}
    with socket.socket(socket.AF_UNIX) as database:
        database.bind(str(tmp_path / "db.sock"))
        database.listen()  # connections are accepted, but never answered
        removing = request("DEL", other, ifname="net2").derive(deadline=time.monotonic() + 1)
        node.plugin("vhost").delete(removing)
        assert [claim.step for claim in node.journal.claims()] == ["removing"]
        node.plugin("vhost").add(request("ADD", conf).derive(deadline=time.monotonic() + 10))
        delete(node, conf)
    assert [claim.step for claim in node.journal.claims()] == ["removing"]


def test_add_without_a_vpp_is_to_be_tried_again_and_leaves_nothing(node: Node) -> None:
    conf = network() | {"ipam": {"type": "host-local", "subnet": "10.9.0.0/24"}}
    with pytest.raises(Error, match=f"VPP at {node.config.vhost.vpp}: No such file or directory") as caught:
        add(node, conf)
    assert caught.value.kind == Kind.TRY_AGAIN
    leases = Path(node.config.leases)
    assert (left(node), [path.name for path in leases.glob("*/10.9.*")]) == ([], [])


def test_gc_removes_what_has_no_attachment_and_no_journal(vpp: FakeVpp, node: Node) -> None:
    conf = network()
    add(node, conf)
    add(node, conf, ifname="net2")
    lost = node.journal.device_of(CONTAINER, "net1")
    assert lost is not None
    node.journal.release(lost)
    keep = [{"containerID": CONTAINER, "ifname": "net2"}]
    node.plugin("vhost").gc(Request(command="GC", config=conf | {"cni.dev/valid-attachments": keep}))
    (interface,) = vpp.interfaces.values()
    assert interface.tag.endswith("-net2")


def test_status_says_what_is_missing(tmp_path: Path, node: Node) -> None:
    def refusal() -> str:
        with pytest.raises(Error) as caught:
            node.plugin("vhost").status(request("STATUS", network()))
        assert caught.value.kind == Kind.UNAVAILABLE
        return caught.value.msg

    assert "No such file or directory" in refusal()
    server = FakeVpp(tmp_path / "api.sock", lacks=("memif_dump",))
    assert "has no message memif_dump as 23.10 to 26.06 define it" in refusal()
    server.close()
    server = FakeVpp(tmp_path / "api.sock")
    node.plugin("vhost").status(request("STATUS", network()))
    server.close()


def test_a_vpp_that_says_nothing_is_waited_for_no_longer_than_the_deadline(
    vpp: FakeVpp, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wirespeed.plugins.vhost.vpp.ANSWER_TIMEOUT", 0.3)
    vpp.silent = True
    with pytest.raises(Error, match="no answer") as caught:
        add(node, network())
    assert caught.value.kind == Kind.TRY_AGAIN
    vpp.silent = False
    delete(node, network())
    assert left(node) == []

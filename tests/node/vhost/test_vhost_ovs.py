"""Ports of Open vSwitch: what ADD creates, that DEL and every failure leave nothing behind, and that other ports
are never changed.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.node.calling import until
from tests.node.conftest import Netns
from tests.node.vhost.conftest import Host, Switch, network
from wirespeed.cni.errors import Code, code_of
from wirespeed.errors import Error, Kind
from wirespeed.plugins.vhost.engine import Port, port_name
from wirespeed.plugins.vhost.ovs import Ovs
from wirespeed.state.journal import ClaimStep

Pods = Callable[[], Netns]


def name_of(host: Host, pod: Netns, ifname: str = "net1") -> str:
    return port_name(host.request("ADD", {}, pod).container_id, ifname)


def socket_of(result: dict[str, Any]) -> Path:
    return Path(result["interfaces"][0]["socketPath"])


def test_a_port_is_made_as_asked_and_removed(switch: Switch, host: Host, netns: Pods) -> None:
    pod, info = netns(), host.folder / "devinfo/cni/info.json"
    conf = network(mtu=9000, queues=2) | {
        "mac": "02:00:00:00:00:07",
        "runtimeConfig": {"CNIDeviceInfoFile": str(info)},
    }
    result, name = host.add(conf, pod), name_of(host, pod)
    path = socket_of(result)
    assert result["interfaces"] == [
        {"name": "net1", "sandbox": pod.path, "socketPath": str(path), "mac": "02:00:00:00:00:07", "mtu": 9000}
    ]
    assert result["ips"] == [{"address": "10.9.0.2/16", "gateway": "10.9.0.1", "interface": 0}]
    assert path == host.folder / "sockets" / name.partition("-")[0] / name
    assert switch.ports() == [name]
    assert switch.get("Interface", name, "type") == "dpdkvhostuserclient"
    assert switch.get("Interface", name, "options:vhost-server-path") == str(path)
    assert switch.get("Interface", name, "mtu_request") == "9000"
    assert json.loads(info.read_text())["vhost-user"] == {"mode": "server", "path": str(path)}
    data = json.loads((path.parent / f"configData-{name}.json").read_text())
    assert data["config"]["vhost"] == {"mode": "server", "socketfile": name}
    assert (data["config"]["queues"], data["config"]["mtu"], data["config"]["mac"]) == (
        2,
        9000,
        "02:00:00:00:00:07",
    )
    host.check(conf, pod)
    host.delete(conf, pod)
    assert switch.ports() == []
    assert not info.exists()
    host.delete(conf, pod)  # a repeated DEL succeeds


@pytest.mark.parametrize(
    ("bridge", "expected"),
    [
        ({}, ("[]", "[]", "[]")),
        ({"vlanId": 100}, ("100", "[]", "[]")),
        ({"trunk": [7, 5]}, ("[]", "[5, 7]", "trunk")),
        ({"trunk": [5]}, ("[]", "[5]", "trunk")),
        ({"trunk": [5, 7], "vlanId": 3}, ("3", "[5, 7]", "native-untagged")),
    ],
)
def test_vlans_of_a_port(
    switch: Switch, host: Host, netns: Pods, bridge: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    conf, pod = network(bridge=bridge), netns()
    host.add(conf, pod)
    name = name_of(host, pod)
    assert tuple(switch.get("Port", name, column) for column in ("tag", "trunks", "vlan_mode")) == expected
    host.check(conf, pod)
    host.delete(conf, pod)


def test_limits_are_the_pods_ingress_and_egress(switch: Switch, host: Host, netns: Pods) -> None:
    limits = {"ingressRate": 80_000_000, "ingressBurst": 8_000_000, "egressRate": 50_000_000}
    conf, pod = network() | {"runtimeConfig": {"bandwidth": limits}}, netns()
    host.add(conf, pod)
    name = name_of(host, pod)
    qos = switch.get("Port", name, "qos")
    assert switch.get("QoS", qos, "type") == "egress-policer"
    assert switch.get("QoS", qos, "other_config:cir") == "10000000"  # bytes per second to the pod
    assert switch.get("QoS", qos, "other_config:cbs") == "1000000"
    assert switch.get("Interface", name, "ingress_policing_rate") == "50000"  # kbit/s from the pod
    assert switch.get("Interface", name, "ingress_policing_burst") == "5000"
    host.check(conf, pod)
    host.delete(conf, pod)
    assert switch.vsctl("list", "QoS") == ""


def test_traffic_is_mirrored_to_a_port_and_from_ports(switch: Switch, host: Host, netns: Pods) -> None:
    switch.vsctl("add-port", "br0", "tap0", "--", "set", "Interface", "tap0", "type=internal")
    seen, probe = netns(), netns()
    conf = network() | {"mirror": {"to": "tap0"}}
    host.add(conf, seen)
    name = name_of(host, seen)
    port, tap = switch.get("Port", name, "_uuid"), switch.get("Port", "tap0", "_uuid")
    assert switch.get("Mirror", name, "output_port") == tap
    assert switch.get("Mirror", name, "select_src_port") == f"[{port}]"
    assert switch.get("Mirror", name, "select_dst_port") == f"[{port}]"
    probing = network() | {"mirror": {"from": [name, "tap0"], "direction": "in"}}
    host.add(probing, probe)
    other = name_of(host, probe)
    assert switch.get("Mirror", other, "output_port") == switch.get("Port", other, "_uuid")
    assert set(switch.get("Mirror", other, "select_src_port").strip("[]").split(", ")) == {port, tap}
    assert switch.get("Mirror", other, "select_dst_port") == "[]"
    host.delete(probing, probe)
    host.delete(conf, seen)
    assert switch.vsctl("list", "Mirror") == ""
    switch.vsctl("del-port", "br0", "tap0")


def test_a_mirror_of_a_port_that_is_not_there_is_refused(switch: Switch, host: Host, netns: Pods) -> None:
    with pytest.raises(Error, match='key "mirror": bridge br0 has no port tap0'):
        host.add(network() | {"mirror": {"to": "tap0"}}, netns())


def test_a_listening_switchs_socket_is_moved_to_the_pod(switch: Switch, host: Host, netns: Pods) -> None:
    conf, pod = (
        network(vhost={"mode": "server"}) | {"socket": {"mode": "0660", "user": 1001, "group": 1002}},
        netns(),
    )
    path, name = socket_of(host.add(conf, pod)), name_of(host, pod)
    assert switch.get("Interface", name, "type") == "dpdkvhostuser"
    assert not (switch.rundir / name).exists()
    for each, mode in ((path, 0o660), (path.parent, 0o770)):
        shown = each.stat()
        assert (stat.S_IMODE(shown.st_mode), shown.st_uid, shown.st_gid) == (mode, 1001, 1002)
    with socket.socket(socket.AF_UNIX) as application:
        application.connect(str(path))
    host.check(conf, pod)
    host.delete(conf, pod)


def test_ports_of_one_pod_go_in_either_order(switch: Switch, host: Host, netns: Pods) -> None:
    # Names that a pattern for the first one would match too.
    conf, names = network(), ("net1", "net2", "net10", "net11")
    for order in (names, tuple(reversed(names))):
        pod = netns()
        results = [host.add(conf, pod, ifname=name) for name in names]
        folder = socket_of(results[0]).parent
        for name in names:
            (folder / name_of(host, pod, name)).touch()  # as applications do
        for number, name in enumerate(order, start=1):
            host.delete(conf, pod, ifname=name)
            left = sorted(name_of(host, pod, other) for other in order[number:])
            assert sorted(switch.ports()) == left
            assert sorted(p.name for p in folder.glob("*-net*") if not p.name.startswith("config")) == left
            for other in order[number:]:
                host.check(conf, pod, ifname=other)


def test_fifty_ports_at_once(switch: Switch, host: Host, netns: Pods) -> None:
    conf, pod = network(bridge={"bridgeName": "many", "create": True}), netns()
    names = [f"net{number}" for number in range(50)]
    with ThreadPoolExecutor(25) as pool:
        results = list(pool.map(lambda name: host.add(conf, pod, ifname=name), names))
    assert len({result["ips"][0]["address"] for result in results}) == 50
    assert sorted(switch.ports("many")) == sorted(name_of(host, pod, name) for name in names)
    with ThreadPoolExecutor(25) as pool:
        list(pool.map(lambda name: host.delete(conf, pod, ifname=name), names))
    assert "many" not in switch.vsctl("list-br").split()


def test_adding_and_deleting_on_one_bridge_at_once_loses_no_port(switch: Switch, host: Host, netns: Pods) -> None:
    conf, pods = network(bridge={"bridgeName": "busy", "create": True}), [netns() for _ in range(4)]

    def come_and_go(pod: Netns) -> None:
        for _ in range(5):
            host.add(conf, pod)
            assert name_of(host, pod) in switch.ports("busy")
            host.check(conf, pod)
            host.delete(conf, pod)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(come_and_go, pods))
    assert switch.vsctl("list-br").split() == ["br0"]


def test_an_agent_with_many_open_files_reaches_the_switch(switch: Switch, host: Host, netns: Pods) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]  # more than select(2) supports
    try:
        conf, pod = network(), netns()
        host.add(conf, pod)
        host.delete(conf, pod)
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_bridge_is_made_when_asked_and_removed_with_its_last_port(
    switch: Switch, host: Host, netns: Pods
) -> None:
    pods = [netns(), netns()]
    with pytest.raises(Error, match="no bridge made") as caught:
        host.add(network(bridge={"bridgeName": "made"}), pods[0])
    assert caught.value.kind == Kind.DEVICE
    conf = network(bridge={"bridgeName": "made", "create": True})
    for pod in pods:
        host.add(conf, pod)
    assert switch.get("Bridge", "made", "datapath_type") == "netdev"
    host.delete(conf, pods[0])
    assert "made" in switch.vsctl("list-br").split()
    host.delete(conf, pods[1])
    assert switch.vsctl("list-br").split() == ["br0"]


def test_a_bridge_that_the_administrator_uses_too_stays(switch: Switch, host: Host, netns: Pods) -> None:
    conf, pod = network(bridge={"bridgeName": "made", "create": True}), netns()
    host.add(conf, pod)
    switch.vsctl("add-port", "made", "theirs", "--", "set", "Interface", "theirs", "type=internal")
    host.delete(conf, pod)
    assert switch.ports("made") == ["theirs"]
    switch.vsctl("del-br", "made")


def test_ports_that_others_made_are_never_touched(switch: Switch, host: Host, netns: Pods) -> None:
    pod, conf = netns(), network()
    name = name_of(host, pod)
    theirs = ("--", "set", "Interface", name, "type=internal", "--", "set", "Port", name, "external_ids:owner=me")
    switch.vsctl("add-port", "br0", name, *theirs)
    before = switch.snapshot()
    with pytest.raises(Error) as caught:  # the port's name is taken
        host.add(conf, pod)
    assert caught.value.kind == Kind.INTERFACE
    host.delete(conf, pod)
    host.gc(conf, [])
    assert switch.snapshot() == before
    switch.vsctl("del-port", "br0", name)


def test_a_bridge_of_the_kernel_is_refused(switch: Switch, host: Host, netns: Pods) -> None:
    switch.vsctl("--no-wait", "add-br", "kernel")
    with pytest.raises(Error, match="bridge kernel: expected datapath_type netdev, got 'system'"):
        host.add(network(bridge={"bridgeName": "kernel"}), netns())
    switch.vsctl("--no-wait", "del-br", "kernel")


def test_check_tells_what_is_not_as_it_was_made(switch: Switch, host: Host, netns: Pods) -> None:
    conf, pod = network(bridge={"vlanId": 100}, mtu=1600), netns()
    path, name = socket_of(host.add(conf, pod)), name_of(host, pod)

    def drift() -> str:
        with pytest.raises(Error) as caught:
            host.check(conf, pod)
        assert caught.value.kind == Kind.DRIFT
        return caught.value.msg

    switch.vsctl("set", "Port", name, "tag=7", "--", "set", "Interface", name, "mtu_request=1500")
    assert "tag is 7, expected 100" in drift()
    assert "mtu_request is 1500, expected 1600" in drift()
    switch.vsctl("set", "Port", name, "tag=100", "--", "set", "Interface", name, "mtu_request=1600")
    host.check(conf, pod)
    data = path.parent / f"configData-{name}.json"
    text = data.read_text()
    data.unlink()
    assert f"{data} is gone" in drift()
    data.write_text(text)
    switch.vsctl("del-port", "br0", name)
    assert f"no port {name}" in drift()
    host.delete(conf, pod)
    with pytest.raises(Error) as caught:
        host.check(conf, pod)
    assert caught.value.kind == Kind.NOT_ATTACHED


# Failures leave nothing behind: `host` and `switch` are compared with their earlier state


def test_without_an_address_nothing_is_left(switch: Switch, host: Host, netns: Pods) -> None:
    conf = network() | {"ipam": {"type": "host-local", "subnet": "10.9.0.0/30", "rangeEnd": "10.9.0.2"}}
    pods = [netns(), netns()]
    host.add(conf, pods[0])
    with pytest.raises(Error) as caught:
        host.add(conf, pods[1])
    assert caught.value.kind == Kind.ADDRESS
    assert switch.ports() == [name_of(host, pods[0])]
    host.delete(conf, pods[0])


def test_a_device_info_file_that_cannot_be_written_undoes_the_port(switch: Switch, host: Host, netns: Pods) -> None:
    (host.folder / "devinfo").touch()
    conf = network(bridge={"bridgeName": "made", "create": True}) | {
        "runtimeConfig": {"CNIDeviceInfoFile": str(host.folder / "devinfo/info.json")}
    }
    with pytest.raises(Error, match="device-info file"):
        host.add(conf, netns())
    assert switch.vsctl("list-br").split() == ["br0"]


def test_a_folder_on_another_file_system_undoes_a_listening_switchs_port(
    switch: Switch, host: Host, netns: Pods
) -> None:
    conf = network(vhost={"mode": "server"}) | {"sharedDir": "/dev/shm/ws-vhost-test"}
    with pytest.raises(Error, match="have both in one filesystem") as caught:
        host.add(conf, netns())
    assert caught.value.kind == Kind.IO
    assert switch.ports() == []
    assert list(Path("/dev/shm/ws-vhost-test").iterdir()) == []
    Path("/dev/shm/ws-vhost-test").rmdir()
    until(  # ovs-vswitchd applies its database with a delay
        lambda: not any(path.name.endswith("-net1") for path in switch.rundir.iterdir()), "is the socket gone"
    )


def test_a_folder_for_an_unprivileged_pod_is_its_own(switch: Switch, host: Host, netns: Pods) -> None:
    base = host.folder / "base"
    base.mkdir()
    label = "system_u:object_r:container_file_t:s0"
    access = {"user": 1001, "group": 1002, "mode": "0640", "selinuxLabel": label}
    conf, pod = network() | {"sharedDir": str(base), "socket": access}, netns()
    folder = socket_of(host.add(conf, pod)).parent
    shown = folder.stat()
    assert (shown.st_uid, shown.st_gid, stat.S_IMODE(shown.st_mode)) == (1001, 1002, 0o750)
    for path in (folder, *folder.iterdir()):
        assert os.getxattr(path, "security.selinux") == label.encode() + b"\0"
    host.delete(conf, pod)
    assert list(base.iterdir()) == []


def test_an_add_that_takes_longer_than_its_deadline_is_undone(
    switch: Switch, host: Host, netns: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf, pod = network(bridge={"bridgeName": "made", "create": True}), netns()
    made = Ovs.add

    def late(engine: Ovs, port: Port, *, deadline: float) -> dict[str, Any]:
        result = made(engine, port, deadline=deadline)
        time.sleep(max(0.0, deadline - time.monotonic()) + 0.01)  # past the deadline
        return result

    monkeypatch.setattr(Ovs, "add", late)
    with pytest.raises(Error, match="took longer than its deadline") as caught:
        host.add(conf, pod, deadline=time.monotonic() + 0.5)
    assert caught.value.kind == Kind.TRY_AGAIN
    assert switch.vsctl("list-br").split() == ["br0"]


def test_a_namespace_that_is_none_is_refused_first(switch: Switch, host: Host, netns: Pods) -> None:
    pod = netns()
    with pytest.raises(Error) as caught:
        host.add(network(), pod, netns="/proc/self/status")
    assert caught.value.kind == Kind.NOT_ATTACHED


def test_a_second_add_of_an_attachment_is_refused_and_the_first_stays(
    switch: Switch, host: Host, netns: Pods
) -> None:
    conf, pod = network(), netns()
    host.add(conf, pod)
    with pytest.raises(Error) as caught:
        host.add(conf, pod)
    assert caught.value.kind in {Kind.TRY_AGAIN, Kind.INVALID_CONFIG}
    host.check(conf, pod)
    host.delete(conf, pod)


def test_a_socket_that_two_interfaces_would_share_is_refused(switch: Switch, host: Host, netns: Pods) -> None:
    conf, pod = network(vhost={"socketfile": "one"}), netns()
    host.add(conf, pod)
    with pytest.raises(Error, match="belongs to net1 of container"):
        host.add(conf, pod, ifname="net2")
    host.delete(conf, pod)


# GC, STATUS, and a switch that is down


def test_gc_removes_what_has_no_attachment(switch: Switch, host: Host, netns: Pods) -> None:
    conf, pods = network(), [netns() for _ in range(3)]
    for pod in pods:
        host.add(conf, pod)
    other, elsewhere = network("other"), netns()
    host.add(other, elsewhere)
    lost = host.node.journal.device_of(host.request("GC", conf, pods[1]).container_id, "net1")
    assert lost is not None
    host.node.journal.release(lost)  # as after a reboot: the journal is empty, the database is not
    host.gc(conf, [(pods[2], "net1")])
    assert sorted(switch.ports()) == sorted([name_of(host, pods[2]), name_of(host, elsewhere)])
    host.check(conf, pods[2])
    host.delete(conf, pods[2])
    host.delete(other, elsewhere)
    (host.folder / "sockets" / name_of(host, pods[1]).partition("-")[0]).joinpath(
        f"configData-{name_of(host, pods[1])}.json"
    ).unlink()
    (host.folder / "sockets" / name_of(host, pods[1]).partition("-")[0]).rmdir()


def test_del_after_a_reboot_finds_the_port_without_the_journal(switch: Switch, host: Host, netns: Pods) -> None:
    conf, pod = network(), netns()
    path = socket_of(host.add(conf, pod))
    claim = host.node.journal.device_of(host.request("DEL", conf, pod).container_id, "net1")
    assert claim is not None
    host.node.journal.release(claim)
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    host.delete(conf, pod)
    assert switch.ports() == []


def test_status_says_what_is_missing(switch: Switch, host: Host) -> None:
    conf = network()
    host.status(conf)

    def refusal() -> Error:
        with pytest.raises(Error) as caught:
            host.status(conf)
        return caught.value

    switch.stop()
    try:
        assert code_of(refusal()) == Code.UNAVAILABLE
        assert "ovs-vswitchd does not run" in refusal().msg
        switch.stop_database()
        assert "No such file or directory" in refusal().msg
        switch.start_database()
    finally:
        switch.start()
    host.status(conf)


def test_del_while_the_switch_is_down_succeeds_and_is_done_when_it_is_back(
    switch: Switch, host: Host, netns: Pods
) -> None:
    conf, pods = network(), [netns(), netns(), netns()]
    for pod in pods:
        host.add(conf, pod)
    switch.stop_database()
    try:
        host.delete(conf, pods[0])
        host.delete(conf, pods[0])  # repeated
        assert [claim.step for claim in host.node.journal.claims()].count(ClaimStep.REMOVING) == 1
        assert len(host.leases()) == 2
        with pytest.raises(Error) as caught:
            host.add(conf, netns())
        assert caught.value.kind == Kind.TRY_AGAIN
        assert len(host.node.journal.claims()) == 3
    finally:
        switch.start_database()
    assert name_of(host, pods[0]) in switch.ports()
    again = netns()
    host.add(conf, again)  # the next call performs the removal
    assert sorted(switch.ports()) == sorted(name_of(host, pod) for pod in (pods[1], pods[2], again))
    for pod in (pods[1], pods[2], again):
        host.delete(conf, pod)


def test_gc_makes_removals_good(switch: Switch, host: Host, netns: Pods) -> None:
    conf, pod = network(), netns()
    host.add(conf, pod)
    switch.stop_database()
    try:
        host.delete(conf, pod)
        with pytest.raises(Error):
            host.gc(conf, [])
    finally:
        switch.start_database()
    host.gc(conf, [])
    assert switch.ports() == []


def test_add_while_vswitchd_is_down_is_undone(
    switch: Switch, host: Host, netns: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wirespeed.switches.ovsdb.ANSWER_TIMEOUT", 1.0)
    switch.stop()
    try:
        with pytest.raises(Error, match="ovs-vswitchd did not create port") as caught:
            host.add(network(), netns())
        assert caught.value.kind == Kind.TRY_AGAIN
        assert switch.ports() == []
    finally:
        switch.start()

"""memif between two pods without a switch: roles, packets counted at both ends, and cleanup."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.node.calling import until
from tests.node.conftest import Netns
from tests.node.vhost.conftest import Host, Testpmd
from wirespeed.errors import Error, Kind
from wirespeed.plugins.vhost.engine import Engine

BURSTS = 3  # of 32 packets: less than a ring holds, so none is lost
PACKETS = 32 * BURSTS

Start = Callable[..., Testpmd]
Pods = Callable[[], Netns]


@pytest.fixture
def link(lone_host: Host) -> dict[str, Any]:
    """The configuration of a link between two pods."""
    return {
        "cniVersion": "1.1.0",
        "name": "link",
        "type": "wirespeed-vhost",
        "sharedDir": str(lone_host.folder / "link"),
        "host": {"engine": "none", "iftype": "memif"},
        "ipam": {"type": "host-local", "subnet": "10.9.0.0/16"},
    }


def role_of(result: dict[str, Any]) -> str:
    folder = Path(result["interfaces"][0]["socketPath"]).parent
    ip = result["ips"][0]["address"]
    for file in folder.glob("configData-*.json"):
        data = json.loads(file.read_text())
        if data["ipResult"]["ips"][0]["address"] == ip:
            return str(data["config"]["memif"]["role"])
    raise AssertionError("no configuration data")


def test_packets_go_from_pod_to_pod(lone_host: Host, link: dict[str, Any], netns: Pods, testpmd: Start) -> None:
    pods = [netns(), netns()]
    results = [lone_host.add(link, pod) for pod in pods]
    assert [role_of(result) for result in results] == ["master", "slave"]
    files = [lone_host.data_file(link, pod) for pod in pods]
    receiver, sender = (testpmd(pod, file) for pod, file in zip(pods, files, strict=True))
    for application in (receiver, sender):
        application.wait_link()
    receiver.command("set fwd rxonly")
    receiver.command("start")
    sender.command(f"start tx_first {BURSTS}")
    until(lambda: receiver.packets()[0] == PACKETS, f"{PACKETS} packets received")
    assert sender.packets()[1] == PACKETS
    for application in (sender, receiver):
        application.quit()
    for pod in pods:
        lone_host.check(link, pod)
        lone_host.delete(link, pod)


@pytest.mark.parametrize("killed", [0, 1])
def test_an_end_that_is_started_anew_is_connected_again(
    lone_host: Host, link: dict[str, Any], netns: Pods, testpmd: Start, killed: int
) -> None:
    pods = [netns(), netns()]
    for pod in pods:
        lone_host.add(link, pod)
    files = [lone_host.data_file(link, pod) for pod in pods]
    ends = [testpmd(pod, file) for pod, file in zip(pods, files, strict=True)]
    for application in ends:
        application.wait_link()
    ends[killed].kill()
    ends[killed] = testpmd(pods[killed], files[killed])
    if killed == 0:  # DPDK's slave only connects when its port is started; it does not reconnect
        ends[1].command("port stop 0")
        ends[1].command("port start 0")
    for application in ends:
        application.wait_link()
    receiver, sender = ends
    receiver.command("set fwd rxonly")
    receiver.command("start")
    sender.command(f"start tx_first {BURSTS}")
    until(lambda: receiver.packets()[0] == PACKETS, f"{PACKETS} packets received")
    for application in ends:
        application.quit()
    for pod in pods:
        lone_host.delete(link, pod)


def test_a_third_pod_is_refused_and_a_freed_end_is_given_again(
    lone_host: Host, link: dict[str, Any], netns: Pods
) -> None:
    first, second, third = netns(), netns(), netns()
    assert role_of(lone_host.add(link, first)) == "master"
    assert role_of(lone_host.add(link, second)) == "slave"
    with pytest.raises(Error) as caught:
        lone_host.add(link, third)
    assert caught.value.kind == Kind.TRY_AGAIN
    assert len(lone_host.leases()) == 2
    lone_host.delete(link, first)
    assert role_of(lone_host.add(link, third)) == "master"
    for pod in (second, third):
        lone_host.check(link, pod)
        lone_host.delete(link, pod)


def added_with_device_info(host: Host, link: dict[str, Any], pod: Netns) -> tuple[dict[str, Any], Path]:
    """Add an attachment whose device-info the runtime requests; return its configuration and that file."""
    info = host.folder / "devinfo/cni/link"
    conf = link | {"runtimeConfig": {"CNIDeviceInfoFile": str(info)}}
    host.add(conf, pod)
    return conf, info


def test_del_that_cannot_remove_the_device_info_frees_the_address_and_is_finished_by_the_next(
    lone_host: Host, link: dict[str, Any], netns: Pods
) -> None:
    pod = netns()
    conf, info = added_with_device_info(lone_host, link, pod)
    info.unlink()
    info.mkdir()
    with pytest.raises(Error, match=f"device-info file {info}: Is a directory"):
        lone_host.delete(conf, pod)
    assert lone_host.leases() == []
    with pytest.raises(Error, match=f"device-info file {info}: Is a directory"):
        lone_host.gc(conf, [])
    assert len(lone_host.node.journal.claims()) == 1
    info.rmdir()
    lone_host.delete(conf, pod)
    assert lone_host.left() == []


def refuse(*_: object, **__: object) -> None:
    raise Error(Kind.DEVICE, "the switch refuses")


def test_del_undoes_the_rest_if_the_switch_refuses_and_is_finished_by_the_next(
    lone_host: Host, link: dict[str, Any], netns: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = netns()
    conf, info = added_with_device_info(lone_host, link, pod)
    data = lone_host.data_file(conf, pod)
    assert data.exists()
    with monkeypatch.context() as refusing:
        refusing.setattr(Engine, "remove", refuse)
        with pytest.raises(Error, match=r"^the switch refuses$"):
            lone_host.delete(conf, pod)
    assert not info.exists()
    assert not data.exists()
    assert lone_host.leases() == []
    assert [claim.step for claim in lone_host.node.journal.claims()] == ["attached"]
    lone_host.delete(conf, pod)
    assert lone_host.left() == []


def test_del_reports_every_part_that_failed(
    lone_host: Host, link: dict[str, Any], netns: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = netns()
    conf, info = added_with_device_info(lone_host, link, pod)
    info.unlink()
    info.mkdir()
    with monkeypatch.context() as refusing:
        refusing.setattr(Engine, "remove", refuse)
        with pytest.raises(Error, match=r"^the switch refuses; also device-info file"):
            lone_host.delete(conf, pod)
    info.rmdir()
    lone_host.delete(conf, pod)


def test_failed_add_frees_its_address_if_the_switch_refuses_the_removal(
    lone_host: Host, link: dict[str, Any], netns: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = netns()
    with monkeypatch.context() as refusing:
        refusing.setattr(Engine, "add", refuse)
        refusing.setattr(Engine, "remove", refuse)
        with pytest.raises(Error, match=r"^the switch refuses$"):
            lone_host.add(link, pod)
    assert lone_host.leases() == []
    lone_host.delete(link, pod)
    assert lone_host.left() == []


def test_status_reports_a_journal_whose_file_is_gone(lone_host: Host, link: dict[str, Any]) -> None:
    journal = lone_host.node.journal.path
    lone_host.status(link)
    journal.rename(journal.with_suffix(".away"))
    with pytest.raises(Error, match=f"journal {journal}: No such file") as caught:
        lone_host.status(link)
    assert caught.value.kind == Kind.UNAVAILABLE


def test_the_end_of_a_pod_that_is_gone_without_a_del_is_freed(
    lone_host: Host, link: dict[str, Any], netns: Pods
) -> None:
    conf = link | {"container": {"memif": {"role": "master"}}}
    gone, new = netns(), netns()
    lone_host.add(conf, gone)
    with pytest.raises(Error):
        lone_host.add(conf, new)
    subprocess.run(["ip", "netns", "delete", gone.name], check=True)
    assert role_of(lone_host.add(conf, new)) == "master"
    lone_host.delete(conf, gone)  # late: must not affect the new pod
    lone_host.check(conf, new)
    lone_host.delete(conf, new)


def test_check_looks_at_the_port_whatever_an_executed_ipam_says(
    lone_host: Host, link: dict[str, Any], netns: Pods, tmp_path: Path
) -> None:
    def ipam_answers(answer: dict[str, Any], status: int) -> None:
        (tmp_path / "own-ipam").write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\nexit {status}\n")
        (tmp_path / "own-ipam").chmod(0o755)

    conf, pod, path = link | {"ipam": {"type": "own-ipam"}}, netns(), (str(tmp_path),)
    ipam_answers({"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.7/24"}]}, 0)
    lone_host.add(conf, pod, path=path)
    ipam_answers({"code": 999, "msg": "CNI CHECK method is not implemented"}, 1)
    lone_host.check(conf, pod, path=path)
    ipam_answers({"code": 104, "msg": "the lease is gone"}, 1)
    with pytest.raises(Error, match="the lease is gone"):
        lone_host.check(conf, pod, path=path)
    lone_host.data_file(conf, pod).unlink()
    with pytest.raises(Error, match=r"configData-.*\.json is gone"):
        lone_host.check(conf, pod, path=path)
    ipam_answers({}, 0)
    lone_host.delete(conf, pod, path=path)


def test_the_socket_stays_while_its_master_does(lone_host: Host, link: dict[str, Any], netns: Pods) -> None:
    master, slave = netns(), netns()
    socket = Path(lone_host.add(link, master)["interfaces"][0]["socketPath"])
    lone_host.add(link, slave)
    socket.touch()  # as the master's application does
    lone_host.delete(link, slave)
    assert socket.exists()
    lone_host.delete(link, master)
    assert not socket.exists()


def test_a_folder_that_two_pods_share_must_be_named(lone_host: Host, link: dict[str, Any], netns: Pods) -> None:
    with pytest.raises(Error, match=r'both pods need the same folder.*; expected the key "sharedDir"'):
        lone_host.add({key: value for key, value in link.items() if key != "sharedDir"}, netns())

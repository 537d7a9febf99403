"""What the SR-IOV plugin rejects: with a reason, and without changing anything."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import (
    LabVfs,
    Runtime,
    bind,
    conf,
    host_local,
    in_namespace,
    link_in,
    make_runtime,
    pf_disturbed,
    pf_of,
    serving,
    sh,
    state_of_everything,
)
from wirespeed.cni.errors import Code
from wirespeed.devices.pci import PciDevice

pytestmark = pytest.mark.usefixtures("unchanged")

MAC = "02:00:00:00:00:aa"
PATIENCE = 60.0  # seconds
Namespaces = Callable[[], str]


def test_the_same_vf_asked_for_twice_at_once_goes_to_one(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces
) -> None:
    device = vfs.kernel[0]
    pods = {name: namespaces() for name in ("one", "two")}
    with ThreadPoolExecutor(2) as pool:
        answers = dict(
            zip(pods, pool.map(lambda pod: agent.add(pod, conf(device, vlan=5), pods[pod]), pods), strict=True)
        )
    winner, loser = sorted(pods, key=lambda pod: answers[pod].code)
    assert (answers[winner].code, answers[loser].code) == (0, 1)
    assert answers[loser].body["code"] == Code.TRY_AGAIN_LATER
    assert f"{device} belongs to container {winner} net1" in answers[loser].body["msg"]
    assert link_in(pods[winner], "net1") is not None
    assert agent.delete(loser, conf(device), pods[loser]).code == 0
    assert link_in(pods[winner], "net1") is not None
    assert agent.delete(winner, conf(device), pods[winner]).code == 0


def test_a_taken_interface_name_is_refused_and_left_alone(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces
) -> None:
    netns = namespaces()
    in_namespace(netns, "ip", "link", "add", "net1", "type", "dummy")
    before, everything = link_in(netns, "net1"), state_of_everything()
    refused = agent.add("taken", conf(vfs.kernel[0], mac=MAC, vlan=5), netns)
    assert (refused.code, refused.body["code"]) == (1, Code.INTERFACE)
    assert f"network namespace {netns} already has an interface net1" in refused.body["msg"]
    assert link_in(netns, "net1") == before
    assert state_of_everything() == everything


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"link_state": "disable"}, '"link_state": it'),
        ({"max_tx_rate": 100}, '"max_tx_rate": it'),
        ({"vlanProto": "802.1ad"}, '"vlan": it and "vlanProto"'),
    ],
)
@pytest.mark.parametrize("kind", ["kernel", "vfio"])
def test_a_setting_that_the_driver_refuses_is_named_and_all_is_put_back(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces, kind: str, keys: dict[str, Any], named: str
) -> None:
    device = getattr(vfs, kind)[0]
    with pf_disturbed(pf_of(device)):
        if "max_tx_rate" in keys:  # while the PF has no link, igb rejects a rate
            sh("ip", "link", "set", pf_of(device), "down")
        everything = state_of_everything()
        asked = conf(device, mac=MAC, vlan=5, spoofchk="off", trust="on", **keys)
        refused = agent.add("refused", asked, namespaces())
        assert (refused.code, refused.body["code"]) == (1, Code.DEVICE)
        assert f"key {named} cannot be set: the driver of the PF refuses it" in refused.body["msg"]
        assert state_of_everything() == everything


def test_a_pf_is_no_vf(agent: Runtime, namespaces: Namespaces) -> None:
    pf = Path("/sys/class/net/ens1/device").resolve().name
    refused = agent.add("pf", conf(pf), namespaces())
    assert refused.body["code"] == Code.DEVICE
    assert "it is not an SR-IOV virtual function" in refused.body["msg"]


def test_an_mtu_that_the_driver_refuses_is_named_and_all_is_put_back(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces
) -> None:
    netns, everything = namespaces(), state_of_everything()
    refused = agent.add("big", conf(vfs.kernel[0], mac=MAC, vlan=5, mtu=20000), netns)
    assert (refused.code, refused.body["code"]) == (1, Code.DEVICE)
    assert '"mtu"' in refused.body["msg"]
    assert state_of_everything() == everything
    assert agent.delete("big", conf(vfs.kernel[0]), netns).code == 0


def test_an_mtu_for_a_vf_without_a_netdev_is_refused(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    refused = agent.add("dpdk", conf(vfs.vfio[0], mtu=1400), namespaces())
    assert refused.body["code"] == Code.INVALID_CONFIG
    assert 'key "mtu"' in refused.body["msg"]


def test_dhcp_for_a_vf_without_a_netdev_is_refused(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    refused = agent.add("dpdk", conf(vfs.vfio[0], ipam={"type": "dhcp"}), namespaces())
    assert refused.body["code"] == Code.INVALID_CONFIG
    assert 'key "ipam.type"' in refused.body["msg"]


@pytest.mark.parametrize("driver", ["", "pci-stub"])
def test_a_vf_that_no_known_driver_drives_is_refused(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces, driver: str
) -> None:
    device = vfs.kernel[-1]
    # igbvf assigns a new random MAC at each bind if the PF has set none.
    mac = PciDevice(device).attribute(f"net/{PciDevice(device).own_netdev}/address")
    sh("ip", "link", "set", pf_of(device), "vf", str(PciDevice(device).vf_index), "mac", mac)
    if driver:
        sh("modprobe", driver)
        bind(device, driver)
    else:
        Path(f"/sys/bus/pci/devices/{device}/driver/unbind").write_text(device)
    try:
        refused = agent.add("stub", conf(device, vlan=5), namespaces())
        assert refused.body["code"] == Code.DEVICE
        assert f"it has driver {driver or 'none'} and no network interface on the host" in refused.body["msg"]
    finally:
        bind(device, "igbvf")


def test_a_vf_that_the_host_uses_is_refused(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    name = PciDevice(vfs.kernel[0]).netdevs[0]
    sh("ip", "link", "add", "br9", "type", "bridge")
    sh("ip", "link", "set", name, "master", "br9")
    try:
        refused = agent.add("used", conf(vfs.kernel[0]), namespaces())
        assert refused.body["code"] == Code.DEVICE
        assert f"its interface {name} is a port of br9" in refused.body["msg"]
    finally:
        sh("ip", "link", "del", "br9")


def test_a_device_that_is_not_there_is_refused(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    refused = agent.add("none", conf("0000:7f:1f.7"), namespaces())
    assert refused.body["code"] == Code.DEVICE
    assert "there is no such pci device" in refused.body["msg"]


def test_a_namespace_that_is_not_there_is_refused(agent: Runtime, vfs: LabVfs) -> None:
    refused = agent.add("none", conf(vfs.kernel[0], vlan=5), "/run/netns/none")
    assert refused.body["code"] == Code.UNKNOWN_CONTAINER


@pytest.mark.parametrize("kind", ["kernel", "vfio"])
def test_a_pod_for_which_no_address_is_left_gets_no_vf(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces, kind: str
) -> None:
    one, two = getattr(vfs, kind)[:2]
    ipam = host_local(9, rangeStart="10.8.9.5", rangeEnd="10.8.9.5")
    first, second = namespaces(), namespaces()
    assert agent.add("first", conf(one, ipam=ipam), first).code == 0
    everything = state_of_everything()
    refused = agent.add("second", conf(two, mac=MAC, vlan=5, ipam=ipam), second)
    assert (refused.code, refused.body["code"]) == (1, Code.ADDRESS)
    assert state_of_everything() == everything
    assert agent.delete("first", conf(one, ipam=ipam), first).code == 0
    added = agent.add("second", conf(two, mac=MAC, vlan=5, ipam=ipam), second)
    assert added.body["ips"][0]["address"] == "10.8.9.5/24"
    assert agent.delete("second", conf(two, ipam=ipam), second).code == 0


@contextmanager
def slow_ipam(folder: Path) -> Iterator[tuple[dict[str, Any], str, Callable[[], None]]]:
    """An IPAM plugin whose ADD blocks on the fifo `gate`. Yields its configuration, CNI_PATH and a function that
    waits until its ADD has begun.

    It writes the verbs it is called with to `called`.
    """
    for name in ("begun", "gate"):
        os.mkfifo(folder / name)
    # opened read-write, so that opening does not block if ADD never comes
    begun = os.open(folder / "begun", os.O_RDWR)
    plugin = folder / "slow"
    plugin.write_text(
        f"#!/bin/sh\necho $CNI_COMMAND >> {folder}/called\n[ $CNI_COMMAND = ADD ] || exit 0\n"
        f"echo > {folder}/begun\nread x < {folder}/gate\n"
        'echo \'{"cniVersion":"1.0.0","ips":[{"address":"10.9.0.5/24"}]}\'\n'
    )
    plugin.chmod(0o755)

    def wait_begun() -> None:
        assert select.select([begun], [], [], PATIENCE)[0], "its ADD never began"
        os.read(begun, 1)

    yield {"type": "slow"}, str(folder), wait_begun
    os.close(begun)


def test_a_vf_whose_owner_waits_for_ipam_is_refused_at_once(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces, tmp_path: Path
) -> None:
    first, second, device = namespaces(), namespaces(), vfs.kernel[0]
    with slow_ipam(tmp_path) as (ipam, path, wait_begun), ThreadPoolExecutor(1) as pool:
        adding = pool.submit(agent.add, "first", conf(device, ipam=ipam), first, path=path)
        wait_begun()
        refused = agent.add("second", conf(device, vlan=5), second)
        assert refused.body["code"] == Code.TRY_AGAIN_LATER
        assert f"{device} belongs to container first net1" in refused.body["msg"]
        (tmp_path / "gate").write_text("\n")
        assert adding.result().code == 0
        assert agent.delete("first", conf(device, ipam=ipam), first, path=path).code == 0


def test_an_add_that_outlives_its_deadline_is_undone_with_its_address(
    vfs: LabVfs, namespaces: Namespaces, tmp_path: Path
) -> None:
    (tmp_path / "agent").mkdir()
    with serving(make_runtime(tmp_path / "agent", deadline=5.0)) as hasty, slow_ipam(tmp_path) as slow:
        ipam, path, wait_begun = slow
        asked = conf(vfs.kernel[0], mac=MAC, vlan=5, ipam=ipam)
        with ThreadPoolExecutor(1) as pool:
            adding = pool.submit(hasty.add, "late", asked, namespaces(), path=path)
            wait_begun()
            late = adding.result()
    assert (late.code, late.body["code"]) == (1, Code.TRY_AGAIN_LATER)
    assert (tmp_path / "called").read_text().split() == ["ADD", "DEL"]

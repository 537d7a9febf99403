"""VFs that are bound to another driver for their pod, resets between pods, and what a trusted netdev may do."""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import re
import select
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.lab.conftest import (
    LabVfs,
    Runtime,
    bind,
    conf,
    differences,
    host_local,
    in_namespace,
    link_in,
    sh,
    state_of_everything,
    vf_of,
)
from wirespeed.cni.errors import Code
from wirespeed.devices.pci import PciDevice

pytestmark = pytest.mark.usefixtures("unchanged")

MAC = "02:00:00:00:00:aa"
# RXDCTL and TXDCTL of a VF's first queue (82576 datasheet, 8.26)
RECEIVE_QUEUE, SEND_QUEUE = 0x2828 // 4, 0x3828 // 4
QUEUE_ENABLED = 1 << 25
Registers = ctypes.Array[ctypes.c_uint32]
Namespaces = Callable[[], str]

# linux/vfio.h
_SET_IOMMU, _SET_CONTAINER, _GET_DEVICE_FD, _GET_REGION_INFO = 0x3B66, 0x3B68, 0x3B6A, 0x3B6C
_TYPE1_IOMMU = 1


def override_of(device: str) -> Path:
    return Path(f"/sys/bus/pci/devices/{device}/driver_override")


def test_a_kernel_vf_is_on_vfio_while_its_pod_has_it(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    netns, device = namespaces(), vfs.kernel[0]
    asked = conf(device, driver="vfio-pci", mac=MAC, vlan=7, ipam=host_local())
    added = agent.add("bound", asked, netns)
    assert added.code == 0, added.body
    assert added.body["interfaces"] == [
        {"name": "net1", "mac": MAC, "mtu": 1500, "sandbox": netns, "pciID": device}
    ]
    assert (PciDevice(device).driver, PciDevice(device).netdevs, link_in(netns, "net1")) == ("vfio-pci", [], None)
    assert (vf_of(device)["address"], vf_of(device)["vlan_list"][0]["vlan"]) == (MAC, 7)
    asked["prevResult"] = added.body
    assert agent.call("CHECK", "bound", asked, netns=netns).body == {}
    bind(device, "igbvf")
    assert "driver is igbvf, was vfio-pci" in agent.call("CHECK", "bound", asked, netns=netns).body["msg"]
    bind(device, "vfio-pci")
    assert agent.delete("bound", asked, netns).code == 0
    assert agent.delete("bound", asked, netns).code == 0  # a repeated DEL succeeds


@pytest.mark.parametrize("netns_first", [False, True])
def test_a_vfio_vf_is_a_netdev_while_its_pod_has_it(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces, netns_first: bool
) -> None:
    netns, device = namespaces(), vfs.vfio[0]
    asked = conf(device, driver="netdevice", mac=MAC, mtu=1400, ipam=host_local())
    added = agent.add("netdev", asked, netns)
    assert added.code == 0, added.body
    link = link_in(netns, "net1")
    assert link is not None
    assert (link["address"], link["mtu"], PciDevice(device).driver) == (MAC, 1400, "igbvf")
    asked["prevResult"] = added.body
    assert agent.call("CHECK", "netdev", asked, netns=netns).body == {}
    in_namespace(netns, "ip", "link", "set", "net1", "down")
    assert "net1 is down" in agent.call("CHECK", "netdev", asked, netns=netns).body["msg"]
    if netns_first:
        sh("ip", "netns", "del", Path(netns).name)
    assert agent.delete("netdev", asked, netns).code == 0


def test_an_administrators_override_is_there_again(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    netns, device = namespaces(), vfs.vfio[0]
    override_of(device).write_text("vfio-pci\n")
    try:
        assert agent.add("override", conf(device, driver="netdevice"), netns).code == 0
        assert agent.delete("override", conf(device), netns).code == 0
        assert (PciDevice(device).driver, override_of(device).read_text()) == ("vfio-pci", "vfio-pci\n")
    finally:
        override_of(device).write_text("\n")


def test_gc_gives_back_the_driver(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    device = vfs.kernel[0]
    assert agent.add("lost", conf(device, driver="vfio-pci", vlan=6), namespaces()).code == 0
    assert agent.call("GC", "", conf(device) | {"cni.dev/valid-attachments": []}).code == 0
    assert PciDevice(device).driver == "igbvf"


def test_a_vf_without_a_driver_gets_one_and_is_without_again(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces
) -> None:
    netns, device = namespaces(), vfs.vfio[-1]
    Path(f"/sys/bus/pci/devices/{device}/driver/unbind").write_text(device)
    try:
        assert agent.add("bare", conf(device, driver="vfio-pci"), netns).code == 0
        assert PciDevice(device).driver == "vfio-pci"
        assert agent.delete("bare", conf(device), netns).code == 0
        assert PciDevice(device).driver == ""
    finally:
        bind(device, "vfio-pci")


@pytest.mark.parametrize(
    ("driver", "told"),
    [
        ("mlx5_vfio_pci", "there is no driver mlx5_vfio_pci"),
        ("pci-stub", "it has driver pci-stub and no network interface on the host"),
    ],
)
def test_a_driver_that_does_not_serve_is_refused_and_all_is_put_back(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces, driver: str, told: str
) -> None:
    everything = state_of_everything()
    refused = agent.add("wrong", conf(vfs.kernel[0], driver=driver, mac=MAC), namespaces())
    assert (refused.code, refused.body["code"]) == (1, Code.DEVICE)
    assert told in refused.body["msg"]
    assert differences(everything, state_of_everything()) == []


@pytest.mark.parametrize(
    "keys",
    [
        {"mtu": 1400},
        {"txQueueLen": 500},
        {"promisc": "on", "trust": "on"},
        {"queues": 2},
        {"rss": {"queues": 2}},
        {"ipam": {"type": "dhcp"}},
    ],
)
def test_what_a_netdev_alone_has_is_refused_on_vfio_and_all_is_put_back(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces, keys: dict[str, object]
) -> None:
    everything = state_of_everything()
    refused = agent.add("wrong", conf(vfs.kernel[0], driver="vfio-pci", **keys), namespaces())
    assert refused.body["code"] == Code.INVALID_CONFIG
    assert f'key "{next(iter(keys))}' in refused.body["msg"]
    assert differences(everything, state_of_everything()) == []


def test_a_vf_that_an_application_still_has_open_is_not_taken_from_it(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces
) -> None:
    netns, device = namespaces(), vfs.kernel[0]
    assert agent.add("open", conf(device, driver="vfio-pci"), netns).code == 0
    group = os.open(f"/dev/vfio/{PciDevice(device).iommu_group}", os.O_RDWR)
    try:
        early = agent.delete("open", conf(device), netns)
        assert early.body["code"] == Code.TRY_AGAIN_LATER
        assert f"process {os.getpid()} (" in early.body["msg"]
        assert "has it open" in early.body["msg"]
    finally:
        os.close(group)
    assert agent.delete("open", conf(device), netns).code == 0


@contextmanager
def registers(device: str) -> Iterator[Registers]:
    """The VF's registers through sysfs. The kernel allows this while the VF is not open through VFIO."""
    with Path(f"/sys/bus/pci/devices/{device}/resource0").open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0x4000)
    words = (ctypes.c_uint32 * (0x4000 // 4)).from_buffer(mapped)
    try:
        yield words
    finally:
        del words


def queues_that_are_on(device: str) -> list[int]:
    with registers(device) as words:
        return [queue for queue in (RECEIVE_QUEUE, SEND_QUEUE) if words[queue] & QUEUE_ENABLED]


@contextmanager
def opened_by_vfio(device: str) -> Iterator[tuple[int, int]]:
    """Open a VF through VFIO as an application does. Yields the file and the offset of the registers in it."""
    with ExitStack() as opened:

        def held(file: int) -> int:
            opened.callback(os.close, file)
            return file

        container = held(os.open("/dev/vfio/vfio", os.O_RDWR))
        group = held(os.open(f"/dev/vfio/{PciDevice(device).iommu_group}", os.O_RDWR))
        fcntl.ioctl(group, _SET_CONTAINER, struct.pack("i", container))
        fcntl.ioctl(container, _SET_IOMMU, _TYPE1_IOMMU)
        file = held(fcntl.ioctl(group, _GET_DEVICE_FD, ctypes.create_string_buffer(device.encode())))
        # struct vfio_region_info of region 0, BAR 0: argsz, flags, index, cap_offset, size, offset
        answer = fcntl.ioctl(file, _GET_REGION_INFO, struct.pack("IIIIQQ", 32, 0, 0, 0, 0, 0))
        yield file, struct.unpack("IIIIQQ", answer)[-1]


@pytest.mark.parametrize("keys", [{}, {"reset": "on"}, {"reset": "off"}], ids=str)
def test_what_an_application_left_in_a_uio_vf_is_reset_for_the_next_pod(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces, keys: dict[str, str]
) -> None:
    netns, device = namespaces(), vfs.vfio[-1]
    sh("modprobe", "uio_pci_generic")
    bind(device, "uio_pci_generic")
    try:
        asked = conf(device, mac=MAC, vlan=7, **keys)
        added = agent.add("uio", asked, netns)
        assert added.code == 0, added.body
        assert (vf_of(device)["address"], vf_of(device)["vlan_list"][0]["vlan"]) == (MAC, 7)
        asked["prevResult"] = added.body
        assert agent.call("CHECK", "uio", asked, netns=netns).body == {}
        with registers(device) as words:
            words[RECEIVE_QUEUE] |= QUEUE_ENABLED
            assert words[RECEIVE_QUEUE] & QUEUE_ENABLED
        assert agent.delete("uio", asked, netns).code == 0
        with registers(device) as words:
            assert bool(words[RECEIVE_QUEUE] & QUEUE_ENABLED) == (keys.get("reset") == "off")
            words[RECEIVE_QUEUE] &= ~QUEUE_ENABLED
    finally:
        bind(device, "vfio-pci")


def test_what_an_application_left_in_a_vfio_vf_is_off_once_it_has_closed_it(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces
) -> None:
    netns, device = namespaces(), vfs.vfio[-1]
    assert agent.add("closed", conf(device, reset="off"), netns).code == 0
    with opened_by_vfio(device) as (file, start):
        os.pwrite(file, QUEUE_ENABLED.to_bytes(4, "little"), start + 4 * RECEIVE_QUEUE)
        assert int.from_bytes(os.pread(file, 4, start + 4 * RECEIVE_QUEUE), "little") & QUEUE_ENABLED
    assert agent.delete("closed", conf(device), netns).code == 0
    assert queues_that_are_on(device) == []


def test_what_a_killed_application_left_in_a_vfio_vf_is_off(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces
) -> None:
    netns, device = namespaces(), vfs.vfio[-1]
    assert agent.add("killed", conf(device, reset="off", mac=MAC), netns).code == 0
    command = [
        "stdbuf",
        "-oL",
        "dpdk-testpmd",
        "-l",
        "0-1",
        "-a",
        device,
        "-m",
        "64",
        "--file-prefix",
        "killed",
        "--",
        "-i",
    ]
    with subprocess.Popen(
        [*command, "--auto-start", "--forward-mode=txonly", "--total-num-mbufs=2048"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as application:
        try:
            _output(application, r"testpmd> ")
            end = time.monotonic() + 60
            while _packets_sent(application) == 0:  # the prompt may be there before the first packet
                assert time.monotonic() < end, "it has sent nothing"
        finally:
            application.kill()
    assert agent.delete("killed", conf(device), netns).code == 0
    assert queues_that_are_on(device) == []


def _packets_sent(testpmd: subprocess.Popen[bytes]) -> int:
    assert testpmd.stdin is not None
    testpmd.stdin.write(b"show port stats 0\n")
    testpmd.stdin.flush()
    return int(_output(testpmd, r"TX-packets: (\d+)(?s:.*)testpmd> ")[1])


def _output(process: subprocess.Popen[bytes], pattern: str) -> re.Match[str]:
    """Read a process's output until it matches the pattern; return the match."""
    assert process.stdout is not None
    said = ""
    while not (found := re.search(pattern, said)):
        assert select.select([process.stdout], [], [], 60)[0], said
        more = os.read(process.stdout.fileno(), 4096)
        assert more, said
        said += more.decode()
    return found


@pytest.mark.parametrize("keys", [{}, {"reset": "on"}, {"reset": "off"}], ids=str)
def test_a_vfio_vf_is_reset_by_its_del_only_where_that_is_asked(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces, keys: dict[str, str]
) -> None:
    netns, device = namespaces(), vfs.vfio[-1]
    assert agent.add("asked", conf(device, **keys), netns).code == 0
    with registers(device) as words:
        words[RECEIVE_QUEUE] |= QUEUE_ENABLED
    assert agent.delete("asked", conf(device), netns).code == 0
    assert queues_that_are_on(device) == ([] if keys.get("reset") == "on" else [RECEIVE_QUEUE])
    with registers(device) as words:
        words[RECEIVE_QUEUE] &= ~QUEUE_ENABLED


def test_a_trusted_vf_is_promiscuous_in_its_pod(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    netns, device = namespaces(), vfs.kernel[0]
    asked = conf(device, trust="on", promisc="on", all_multicast="on")
    added = agent.add("promisc", asked, netns)
    assert added.code == 0, added.body
    link = link_in(netns, "net1")
    assert link is not None
    assert {"PROMISC", "ALLMULTI"} <= set(link["flags"])
    asked["prevResult"] = added.body
    assert agent.call("CHECK", "promisc", asked, netns=netns).body == {}
    in_namespace(netns, "ip", "link", "set", "net1", "promisc", "off", "allmulticast", "off")
    found = agent.call("CHECK", "promisc", asked, netns=netns)
    assert "promisc of net1 is False, expected True" in found.body["msg"]
    assert "all_multicast of net1 is False, expected True" in found.body["msg"]
    assert agent.delete("promisc", asked, netns).code == 0


def test_a_vfs_transmit_queue_is_as_long_as_asked_for_in_its_pod(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces
) -> None:
    everything, netns = state_of_everything(), namespaces()
    asked = conf(vfs.kernel[0], txQueueLen=500)
    added = agent.add("queue", asked, netns)
    assert added.code == 0, added.body
    link = link_in(netns, "net1")
    assert link is not None
    assert link["txqlen"] == 500
    asked["prevResult"] = added.body
    assert agent.call("CHECK", "queue", asked, netns=netns).body == {}
    in_namespace(netns, "ip", "link", "set", "net1", "txqueuelen", "77")
    found = agent.call("CHECK", "queue", asked, netns=netns)
    assert found.body["code"] == Code.DRIFT
    assert "txQueueLen of net1 is 77, expected 500" in found.body["msg"]
    assert agent.delete("queue", asked, netns).code == 0
    assert differences(everything, state_of_everything()) == []


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"queues": 2}, 'key "queues": its driver cannot change the number'),
        ({"rss": {"queues": 2}}, 'key "rss": its driver cannot change how'),
    ],
)
def test_queues_of_a_driver_that_tells_none_are_refused(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces, keys: dict[str, object], told: str
) -> None:
    everything = state_of_everything()
    refused = agent.add("queues", conf(vfs.kernel[0], mac=MAC, **keys), namespaces())
    assert (refused.code, refused.body["code"]) == (1, Code.DEVICE)
    assert told in refused.body["msg"]
    assert "driver igbvf" in refused.body["msg"]
    assert differences(everything, state_of_everything()) == []


@pytest.mark.parametrize("netns_first", [False, True])
def test_a_vf_that_has_the_pods_name_as_an_alternative_one(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces, netns_first: bool
) -> None:
    netns, device = namespaces(), vfs.kernel[0]
    name = PciDevice(device).netdevs[0]
    for altname in ("net1", "enp-of-the-host"):
        sh("ip", "link", "property", "add", "dev", name, "altname", altname)
    try:
        added = agent.add("altname", conf(device), netns)
        assert added.code == 0, added.body
        link = link_in(netns, "net1")
        assert link is not None
        assert link["altnames"] == ["enp-of-the-host"]
        if netns_first:
            sh("ip", "netns", "del", Path(netns).name)
        assert agent.delete("altname", conf(device), netns).code == 0
        shown = json.loads(sh("ip", "-j", "link", "show", name))[0]
        assert sorted(shown["altnames"]) == ["enp-of-the-host", "net1"]
    finally:
        for altname in ("net1", "enp-of-the-host"):
            sh("ip", "link", "property", "del", "dev", name, "altname", altname)

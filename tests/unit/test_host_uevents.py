"""Parsing of the kernel's uevents."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wirespeed.kernel.uevents import Changes, _add


def notice(action: str, path: str, subsystem: str, **more: str) -> bytes:
    """A uevent as formatted by the kernel (lib/kobject_uevent.c)."""
    values = {"ACTION": action, "DEVPATH": path, "SUBSYSTEM": subsystem, **more, "SEQNUM": "7"}
    return f"{action}@{path}\0".encode() + b"".join(f"{key}={value}\0".encode() for key, value in values.items())


def changes(*notices: bytes) -> Changes:
    found = Changes()
    for each in notices:
        _add(found, each)
    return found


VF = "/devices/pci0000:00/0000:00:02.0/0000:01:10.0"


def test_pci_device_is_told_by_its_address_and_not_by_that_of_its_bridge() -> None:
    bound = notice("bind", VF, "pci", DRIVER="igbvf", PCI_SLOT_NAME="0000:01:10.0")
    assert changes(bound) == Changes(devices={"0000:01:10.0"})


def test_interface_is_told_by_its_devices_address() -> None:
    moved = notice("move", f"{VF}/net/eth1", "net", INTERFACE="eth1", DEVPATH_OLD=f"{VF}/net/eth0")
    assert changes(moved) == Changes(interfaces={"0000:01:10.0"})
    assert changes(notice("add", f"{VF}/virtio0/net/eth0", "net")) == Changes(interfaces={"0000:01:10.0"})


def test_several_notices_add_up() -> None:
    other = VF.replace("10.0", "10.2")
    found = changes(notice("add", VF, "pci"), notice("remove", other, "pci"), notice("add", f"{VF}/net/e0", "net"))
    assert found == Changes({"0000:01:10.0", "0000:01:10.2"}, {"0000:01:10.0"})


def test_what_is_no_pci_device_and_no_interface_of_one_does_not_count() -> None:
    assert not any(
        changes(each) != Changes()
        for each in (
            notice("add", "/devices/virtual/net/veth1", "net"),
            notice("add", f"{VF}/net/eth0/queues/rx-0", "queues"),
            notice("add", f"{VF}/net/eth0/queues/rx-0", ""),
            notice("add", "/module/igbvf", "module"),
            notice("add", "/devices/pci0000:00", "pci"),
        )
    )


def test_domain_may_have_more_than_four_digits() -> None:
    assert changes(notice("add", "/devices/pci10000:e0/10000:e1:00.0", "pci")) == Changes(devices={"10000:e1:00.0"})


@given(st.binary())
def test_any_bytes_are_read(data: bytes) -> None:
    changes(data, b"add@/x\0" + data)

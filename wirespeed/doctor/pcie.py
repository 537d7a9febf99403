"""Checks of the cards' PCI Express links: width, speed, sizes of packets, power saving and errors."""

from __future__ import annotations

import re
from typing import NamedTuple

from wirespeed.doctor import pciconfig
from wirespeed.doctor.facts import Facts, Nic
from wirespeed.doctor.finding import Answer, Fails, Holds, Severity, Subject, check, check_each
from wirespeed.errors import within
from wirespeed.kernel.sysfs import attribute_number

_SUBJECT = Subject.NIC
_SPEED = re.compile(r"(\d+(?:\.\d+)?) GT/s")
# Parts of the raw rate that carry data: 8b/10b up to 5 GT/s, 128b/130b up to 32 GT/s, then flits (PCI Express Base
# Specification, "Encoding").
_ENCODED = {2.5: 0.8, 5.0: 0.8, 8.0: 128 / 130, 16.0: 128 / 130, 32.0: 128 / 130, 64.0: 242 / 256}
_READ_REQUEST = {"mlx5_core": 1024}  # bytes, by driver; others: 512, which the specification's reset value is


class _Link(NamedTuple):
    """A link's speed in GT/s, and its lanes."""

    speed: float
    width: int

    def __str__(self) -> str:
        return f"{self.speed:g} GT/s x{self.width}"

    @property
    def gbits(self) -> float:
        """Gbit/s in each direction, before the headers of PCI Express' own packets."""
        return self.speed * self.width * _ENCODED.get(self.speed, 0.8)


def _cards(facts: Facts) -> list[Nic]:
    """Return the cards' ports on a PCI Express link: a device without one, as in many VMs, has no such files."""
    return [nic for nic in facts.cards if _link(facts, nic.path, "current") is not None]


def _link(facts: Facts, path: str, which: str) -> _Link | None:
    """Return the "current" or "max" link of a device; None if the device does not report one."""
    speed = _SPEED.match(facts.files.text(f"{path}/{which}_link_speed", ""))
    width = facts.files.text(f"{path}/{which}_link_width", "0")
    if not speed or not width.isdigit() or int(width) in {0, 255}:  # 255: PCIE_LNK_WIDTH_UNKNOWN
        return None
    return _Link(float(speed[1]), int(width))


@check_each(
    _cards,
    "pcie-link",
    _SUBJECT,
    expected="a link as wide and as fast as the card and its slot can",
    why="a link that trained with fewer lanes, or slower, has that much less bandwidth: half the lanes, half of it",
    source='PCI Express Base Specification, "Link Training"; kernel: ABI/testing/sysfs-bus-pci, current_link_speed',
    fix="put the card firmly into its slot, clean its contacts, update its firmware; look at the slot's setting "
    "in the node's firmware",
)
def pcie_link(facts: Facts, nic: Nic) -> Answer:
    now, card = _link(facts, nic.path, "current"), _link(facts, nic.path, "max")
    if now is None or card is None:
        return None
    slot = _link(facts, facts.upstream(nic), "max") or card
    most = _Link(min(card.speed, slot.speed), min(card.width, slot.width))
    if now.speed < most.speed or now.width < most.width:
        return Fails(f"{now}, where card and slot can {most}")
    return Holds(str(now))


@check_each(
    _cards,
    "pcie-slot",
    _SUBJECT,
    expected="a slot with at least the lanes and the speed of the card",
    otherwise=Severity.INFO,
    why="a card has no more lanes, and is no faster, than its slot",
    source='DPDK Getting Started Guide, "How to get best performance"',
    fix="put the card into a slot with more lanes, or of a newer generation",
)
def pcie_slot(facts: Facts, nic: Nic) -> Answer:
    card, slot = _link(facts, nic.path, "max"), _link(facts, facts.upstream(nic), "max")
    if card is None or slot is None:
        return None
    if slot.speed < card.speed or slot.width < card.width:
        return Fails(f"the card can {card}, its slot {slot}")
    return Holds(f"the slot can {slot}")


@check_each(
    _cards,
    "pcie-bandwidth",
    _SUBJECT,
    expected="a link with more bandwidth than all ports of the card together",
    why="8 GT/s carry 7.9 Gbit/s a lane, 16 GT/s 15.8, and packets' headers take 4 to 16% of that (24 bytes for a "
    "payload of 512 to 128): a port of 100 Gbit/s needs 16 lanes of 8 GT/s, or 8 of 16 GT/s",
    source='PCI Express Base Specification, "Encoding"; DPDK Getting Started Guide, "How to get best performance"',
    fix="put the card into a slot with more lanes, or of a newer generation",
)
def pcie_bandwidth(facts: Facts, nic: Nic) -> Answer:
    now = _link(facts, nic.path, "current")
    card = nic.address.rpartition(".")[0]
    ports = [other for other in facts.nics if other.address.rpartition(".")[0] == card and other.interface]
    needed = sum(max(0, _port_speed(facts, port)) for port in ports)  # Mbit/s; -1: the port has no link
    if now is None or not needed:
        return None
    found = f"{now}: {now.gbits:.1f} Gbit/s, for ports with {needed / 1000:g} Gbit/s"
    return Fails(found) if now.gbits * 1000 < needed else Holds(found)


def _port_speed(facts: Facts, port: Nic) -> int:
    """Return the speed of a port in Mbit/s, -1 if it is down: the kernel then refuses to show it."""
    return attribute_number(facts.files.place(f"{port.path}/net/{port.interface}/speed"))


@check_each(
    _cards,
    "pcie-max-payload",
    _SUBJECT,
    expected="the largest payload that both card and slot can take",
    why="each packet of PCI Express has some 24 bytes around its payload: of 128 bytes, that takes 16% of the "
    "bandwidth, of 256 bytes 9%",
    source='PCI Express Base Specification, "Device Control Register"; kernel: admin-guide/kernel-parameters.txt, '
    '"pci="',
    fix="add `pci=pcie_bus_perf` to the kernel's command line, and reboot",
)
def pcie_max_payload(facts: Facts, nic: Nic) -> Answer:
    card = _express(facts, nic.path)
    if card is None:
        return None
    upstream = facts.upstream(nic)
    slot = _express(facts, upstream) if facts.files.exists(f"{upstream}/config") else None
    most = min(card.payload_capable, slot.payload_capable if slot else card.payload_capable)
    found = f"{card.payload} bytes"
    return Fails(f"{found}, {most} are possible") if card.payload < most else Holds(found)


@check_each(
    _cards,
    "pcie-max-read-request",
    _SUBJECT,
    expected="read requests of 512 bytes or more; for mlx5 1024",
    otherwise=Severity.INFO,
    why="the card fetches packets to be sent with reads of at most this size, and only so many are on their way "
    "at once",
    source='DPDK, NVIDIA MLX5 Common Driver, "Performance Tuning"; PCI Express Base Specification, "Device Control '
    'Register"',
)
def pcie_max_read_request(facts: Facts, nic: Nic) -> Answer:
    card = _express(facts, nic.path)
    if card is None:
        return None
    wanted = _READ_REQUEST.get(nic.device.driver, 512)
    if card.read_request < wanted:
        code = wanted.bit_length() - 8  # 0 is 128 bytes
        fix = f"`setpci -s {nic.address} CAP_EXP+8.w={code << 12:04x}:7000`"
        return Fails(f"{card.read_request} bytes", expected=f"{wanted} bytes", fix=fix)
    return Holds(f"{card.read_request} bytes")


def _express(facts: Facts, path: str) -> pciconfig.Express | None:
    with within(path):
        return pciconfig.express(facts.files.data(f"{path}/config"))


@check(
    "pcie-power-saving",
    _SUBJECT,
    expected="no power saving on PCI Express links (ASPM)",
    why="a link that sleeps has to wake before the next packet: the specification's exit latencies of L1 range "
    "from less than 1 to more than 64 microseconds",
    source='kernel: admin-guide/kernel-parameters.txt, pcie_aspm.policy; PCI Express Base Specification, "Link '
    'Capabilities Register"',
    fix="add `pcie_aspm.policy=performance` to the kernel's command line; now: `echo performance > "
    "/sys/module/pcie_aspm/parameters/policy`",
)
def pcie_power_saving(facts: Facts) -> Answer:
    text = facts.files.text("/sys/module/pcie_aspm/parameters/policy", "")
    chosen = text[text.find("[") + 1 : text.find("]")] if "[" in text else "not in this kernel"
    found = f"the policy is {chosen}"
    return Fails(found) if chosen.startswith("power") else Holds(found)


@check_each(
    _cards,
    "pcie-errors",
    _SUBJECT,
    expected="no errors on the link",
    why="each corrected error is a packet of PCI Express that was sent twice; an uncorrected one resets the card",
    source="kernel: PCI/pcieaer-howto.rst, ABI/testing/sysfs-bus-pci-devices-aer_stats",
    fix="put the card firmly into its slot, or into another one; `dmesg | grep -i aer` names the kind",
)
def pcie_errors(facts: Facts, nic: Nic) -> Answer:
    counted = {
        kind: int(match[1])
        for kind, total in (("correctable", "COR"), ("nonfatal", "NONFATAL"), ("fatal", "FATAL"))
        if (match := re.search(rf"TOTAL_ERR_{total} (\d+)", facts.files.text(f"{nic.path}/aer_dev_{kind}", "")))
    }
    if not counted:
        return None
    found = ", ".join(f"{count} {kind}" for kind, count in counted.items() if count)
    if not found:
        return Holds("none")
    return Fails(found, severity=Severity.ERROR if counted.get("fatal") else None)

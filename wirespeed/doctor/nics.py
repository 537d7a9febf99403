"""Checks of the network cards: their VFs, their NUMA node, rings, flow control and RDMA."""

from __future__ import annotations

from wirespeed.doctor import pciconfig
from wirespeed.doctor.facts import Facts, Nic
from wirespeed.doctor.files import number_in
from wirespeed.doctor.finding import Answer, Fails, Holds, Severity, Subject, check, check_each, some
from wirespeed.errors import within

_SUBJECT = Subject.NIC
_IOV_RESOURCES = slice(7, 13)  # linux/pci.h: PCI_IOV_RESOURCES, the VFs' BARs in the file `resource`
_LOSSES = ("rx_missed_errors", "rx_fifo_errors", "rx_over_errors")


def _with_vfs(facts: Facts) -> list[Nic]:
    return [nic for nic in facts.nics if nic.has_vfs]


def _with_interface(facts: Facts) -> list[Nic]:
    return [nic for nic in facts.cards if nic.interface]


@check(
    "sriov-card",
    _SUBJECT,
    expected="a network card with SR-IOV",
    why="only VFs (or scalable functions) give a pod a part of the card itself",
    source="kernel: PCI/pci-iov-howto.rst",
    fix="without such a card, pods can have vhost-user ports (docs/vhost.md)",
)
def sriov_card(facts: Facts) -> Answer:
    found = _with_vfs(facts)
    if found:
        return Holds(some(f"{nic}: up to {nic.device.total_vfs} VFs" for nic in found))
    return Fails(
        f"none of {len(facts.nics)} network cards offers VFs" if facts.nics else "no physical network card"
    )


@check_each(
    lambda facts: facts.nics,
    "sriov-firmware",
    _SUBJECT,
    expected="VFs in the card's firmware, if the card has SR-IOV",
    why="a card whose firmware has SR-IOV off, or no VFs, says so to the kernel, which then offers none",
    source='kernel: PCI/pci-iov-howto.rst; PCI Express Base Specification, "TotalVFs"',
    fix="mlx5: `mlxconfig -d DEVICE set SRIOV_EN=1 NUM_OF_VFS=8`; others: SR-IOV in the card's part of the node's "
    "firmware setup; then reboot",
)
def sriov_firmware(facts: Facts, nic: Nic) -> Answer:
    if nic.has_vfs:
        return Holds(f"{nic.device.total_vfs} VFs")
    with within(nic.path):
        total = pciconfig.total_vfs(facts.files.data(f"{nic.path}/config"))
    if total is None:
        return None
    if total == 0:
        return Fails("the card has SR-IOV, and its firmware offers 0 VFs")
    return Fails(f"the card offers {total} VFs, and the kernel none", fix="use a kernel with CONFIG_PCI_IOV")


@check_each(
    _with_vfs,
    "sriov-resources",
    _SUBJECT,
    expected="addresses for the VFs' memory",
    otherwise=Severity.ERROR,
    why='creating VFs fails with "not enough MMIO resources for SR-IOV"',
    source="kernel: drivers/pci/iov.c, sriov_enable; admin-guide/kernel-parameters.txt, pci=realloc",
    fix='turn on "SR-IOV" and "Above 4G decoding" in the node\'s firmware; or add `pci=realloc` to the '
    "kernel's command line; then reboot",
)
def sriov_resources(facts: Facts, nic: Nic) -> Answer:
    path = f"{nic.path}/resource"
    lines = facts.files.text(path).splitlines()[_IOV_RESOURCES]
    starts = [number_in(line.split(" ")[0], path, 16) for line in lines]
    if any(starts):
        return Holds(f"{sum(map(bool, starts))} ranges")
    return Fails("neither firmware nor kernel gave the VFs any")


@check_each(
    _with_vfs,
    "vfs-created",
    _SUBJECT,
    expected="at least one VF",
    otherwise=Severity.INFO,
    why="a pool offers the VFs that exist",
    source="docs/vf.md",
)
def vfs_created(facts: Facts, nic: Nic) -> Answer:
    count = len(facts.vfs(nic))
    if count:
        return Holds(f"{count} of {nic.device.total_vfs}")
    return Fails(f"none of {nic.device.total_vfs}", fix=f"`wirespeed vf create {nic.interface or nic.address} 8`")


@check_each(
    lambda facts: [nic for nic in _with_vfs(facts) if facts.vfs(nic)],
    "vf-drivers",
    _SUBJECT,
    expected="a driver on each VF",
    why="a VF without a driver is in no pool: the kernel's driver for VFs is missing, or its binding failed",
    source="docs/deviceplugin.md",
)
def vf_drivers(facts: Facts, nic: Nic) -> Answer:
    vfs = facts.vfs(nic)
    without = [vf.address for vf in vfs if not vf.driver]
    if without:
        fix = f"`wirespeed vf bind {' '.join(without[:3])} --driver vfio-pci` (or netdevice)"
        return Fails(f"{len(without)} of {len(vfs)} VFs have none: {some(without)}", fix=fix)
    return Holds(some(sorted({vf.driver for vf in vfs})))


@check_each(
    lambda facts: [nic for nic in _with_vfs(facts) if any(vf.iommu_group for vf in facts.vfs(nic))],
    "vf-iommu-groups",
    _SUBJECT,
    expected="an IOMMU group for each VF alone",
    otherwise=Severity.ERROR,
    why="vfio gives a group to one owner as a whole: two pods cannot have VFs of the same group",
    source='kernel: driver-api/vfio.rst, "Groups, Devices, and IOMMUs"',
    fix="put the card into a slot whose PCI port has ACS, or turn ACS on in the node's firmware",
)
def vf_iommu_groups(facts: Facts, nic: Nic) -> Answer:
    vfs = facts.vfs(nic)
    shared = [vf.address for vf in vfs if len(vf.entries("iommu_group/devices")) > 1]
    if shared:
        return Fails(f"{some(shared)}: the group has other devices too")
    return Holds(f"{len(vfs)} VFs, each alone")


@check_each(
    lambda facts: facts.cards,
    "nic-numa-node",
    _SUBJECT,
    expected="a card whose NUMA node is known",
    why="without one, neither the kubelet nor DPDK can place CPUs and memory near the card",
    source="kernel: ABI/testing/sysfs-bus-pci, numa_node",
    fix="update the node's firmware, whose ACPI tables (_PXM) lack it",
)
def nic_numa_node(facts: Facts, nic: Nic) -> Answer:
    if len(facts.numa_nodes) < 2:
        return None
    node = nic.device.numa_node
    return Fails("the firmware names none") if node < 0 else Holds(f"NUMA node {node}")


@check_each(
    lambda facts: [nic for nic in _with_interface(facts) if facts.vfs(nic)],
    "nic-link",
    _SUBJECT,
    expected="a link on each port with VFs",
    why="the VFs of a port without a link have no link either, unless a network sets their link state",
    source="docs/sriov.md",
)
def nic_link(facts: Facts, nic: Nic) -> Answer:
    state = facts.files.text(f"{nic.path}/net/{nic.interface}/operstate")
    if state == "up":
        return Holds("up")
    return Fails(f"operstate is {state}", fix=f"`ip link set {nic.interface} up`; look at cable and switch")


@check_each(
    _with_interface,
    "nic-rings",
    _SUBJECT,
    expected="rings as large as the card has them, if packets are lost",
    otherwise=Severity.INFO,
    why="a receive ring of 512 packets is full after 34 microseconds of packets of 64 bytes at 10 Gbit/s; a DPDK "
    "application has rings of its own (testpmd: --rxd, --txd)",
    source="ethtool(8), --set-ring; kernel: networking/statistics.rst, rx_missed_errors",
)
def nic_rings(facts: Facts, nic: Nic) -> Answer:
    rings = facts.sources.rings(nic.interface)
    if rings is None:
        return None
    folder = f"{nic.path}/net/{nic.interface}/statistics"
    lost = sum(facts.files.number(f"{folder}/{name}", 0) for name in _LOSSES)
    told = f"rx {rings.rx} of {rings.rx_maximum}, tx {rings.tx} of {rings.tx_maximum}; {lost} packets lost"
    if rings.rx < rings.rx_maximum or rings.tx < rings.tx_maximum:
        fix = f"`ethtool -G {nic.interface} rx {rings.rx_maximum} tx {rings.tx_maximum}`"
        return Fails(told, fix=fix, severity=Severity.WARNING if lost and rings.rx < rings.rx_maximum else None)
    return Holds(told)


@check_each(
    _with_interface,
    "nic-flow-control",
    _SUBJECT,
    expected="no pause frames",
    why="a receiver that is too slow stops the whole port, and with it the traffic of all pods",
    source='DPDK, NVIDIA MLX5 Common Driver, "Performance Tuning": "Disable pause frames"; ethtool(8), --pause',
)
def nic_flow_control(facts: Facts, nic: Nic) -> Answer:
    pause = facts.sources.pause(nic.interface)
    if pause is None:
        return None
    on = [name for name, value in (("rx", pause.rx), ("tx", pause.tx)) if value]
    if on:
        return Fails(f"{' and '.join(on)} on", fix=f"`ethtool -A {nic.interface} autoneg off rx off tx off`")
    return Holds("rx off, tx off")


@check_each(
    lambda facts: [nic for nic in _with_interface(facts) if nic.device.entries("infiniband")],
    "nic-priority-flow-control",
    _SUBJECT,
    expected="priority flow control on cards with RDMA over Ethernet",
    otherwise=Severity.INFO,
    why="RoCE expects a network that loses no packets: each loss makes the sender repeat what follows it",
    source="IEEE 802.1Qbb; dcb-pfc(8)",
)
def nic_priority_flow_control(facts: Facts, nic: Nic) -> Answer:
    if nic.device.link_type != "ether":
        return None
    priorities = facts.sources.priorities(nic.interface)
    if priorities is None:
        return None
    if priorities:
        return Holds(f"priorities {', '.join(map(str, priorities))}")
    return Fails("off for all priorities", fix=f"`dcb pfc set dev {nic.interface} prio-pfc 3:on`, as on the switch")


@check(
    "rdma-namespaces",
    _SUBJECT,
    expected="RDMA devices that belong to one network namespace each",
    why="in shared mode each pod sees the RDMA devices of all others, and rdmaIsolation is refused",
    source="rdma-system(8); docs/sriov.md",
    fix="`rdma system set netns exclusive`, before any pod has one; at boot `options ib_core netns_mode=0` in "
    "/etc/modprobe.d",
)
def rdma_namespaces(facts: Facts) -> Answer:
    if not facts.files.entries("/sys/class/infiniband"):
        return None
    return Holds("exclusive") if facts.sources.rdma_exclusive() else Fails("all namespaces share them")

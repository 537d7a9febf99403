"""Checks of the kernel: the IOMMU, vfio, the clock, the watchdog, and what security modules refused."""

from __future__ import annotations

import re
from collections import Counter

from wirespeed.doctor.facts import Facts
from wirespeed.doctor.finding import Answer, Fails, Holds, Severity, Subject, check, some
from wirespeed.errors import Error, Kind

_SUBJECT = Subject.KERNEL
_IDENTITY = "identity"
_FAST_CLOCKS = frozenset({"tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "timebase"})
_LOG = "/dev/kmsg"
_AUDIT = "/var/log/audit/audit.log"
_LAST = 1 << 20  # bytes of a log that are read
_COMM = re.compile(r'comm="([^"]*)"')
VFIO = "vfio-pci"


@check(
    "iommu-on",
    _SUBJECT,
    expected="an IOMMU, with groups of devices",
    otherwise=Severity.ERROR,
    why="vfio-pci binds no VF without an IOMMU, since such a VF could read and write all memory of the node",
    source='DPDK Getting Started Guide for Linux, "Linux Drivers"',
    fix="turn on VT-d or AMD-Vi in the firmware, add `intel_iommu=on iommu=pt` (AMD: `iommu=pt`) to the kernel's "
    "command line, and reboot",
)
def iommu_on(facts: Facts) -> Answer:
    groups = facts.files.entries("/sys/kernel/iommu_groups")
    if groups:
        return Holds(f"{len(groups)} IOMMU groups")
    return Fails("the kernel has no IOMMU group", severity=_severity(facts))


def _severity(facts: Facts) -> Severity | None:
    """Return the severity of what only vfio needs, None for the check's own."""
    return None if facts.need_vfio else Severity.INFO


@check(
    "iommu-passthrough",
    _SUBJECT,
    expected="passthrough (identity) for the node's own devices",
    why="otherwise each packet of the node's own interfaces costs a mapping and its invalidation; devices in pods "
    "keep the translation that protects the node",
    source='kernel: admin-guide/kernel-parameters.txt, "iommu="; DPDK Getting Started Guide, "Linux Drivers"',
    fix="add `iommu=pt` to the kernel's command line, and reboot",
)
def iommu_passthrough(facts: Facts) -> Answer:
    if not facts.files.entries("/sys/kernel/iommu_groups"):
        return None
    kinds = {
        str(nic): facts.files.text(f"{nic.path}/iommu_group/type", "")
        for nic in facts.cards
        if not nic.device.is_in_user_space
    }
    translated = [f"{name}: {kind}" for name, kind in kinds.items() if kind and kind != _IDENTITY]
    if translated:
        return Fails(f"the IOMMU translates for {some(translated)}")
    if kinds and all(kinds.values()):
        return Holds("the network cards' groups are of type identity")
    words = facts.command_line
    if words.get("iommu") == "pt" or words.get("iommu.passthrough") == "1":
        return Holds("the kernel's command line asks for it")
    return Fails("the kernel's command line has neither `iommu=pt` nor `iommu.passthrough=1`")


@check(
    "vfio-driver",
    _SUBJECT,
    expected="the driver vfio-pci, loaded or as a module of this kernel",
    otherwise=Severity.ERROR,
    why="DPDK applications use VFs through vfio-pci, except those of cards whose DPDK driver works together with "
    "the kernel's driver (mlx5)",
    source='DPDK Getting Started Guide for Linux, "Linux Drivers"',
    fix="install the kernel's package of modules, then `modprobe vfio-pci`",
)
def vfio_driver(facts: Facts) -> Answer:
    if facts.files.exists(f"/sys/bus/pci/drivers/{VFIO}"):
        return Holds("vfio-pci is loaded")
    release = facts.files.text("/proc/sys/kernel/osrelease")
    folder = f"/lib/modules/{release}"
    lists = [facts.files.text(f"{folder}/{name}", "") for name in ("modules.dep", "modules.builtin")]
    if not any(lists):
        return Fails(f"vfio-pci is not loaded, and there are no modules in {folder}", severity=_severity(facts))
    if any(f"/{VFIO}.ko" in text for text in lists):
        return Holds(f"{folder} has vfio-pci: it is loaded when a VF is bound")
    return Fails(f"vfio-pci is not loaded, and {folder} does not have it", severity=_severity(facts))


@check(
    "vfio-unsafe",
    _SUBJECT,
    expected="vfio with an IOMMU, and with interrupts that a device cannot forge",
    why="with the unsafe modes, a device in a pod can write to all memory, or forge interrupts of other devices",
    source="kernel: driver-api/vfio.rst; drivers/vfio/Kconfig, VFIO_NOIOMMU",
    fix="`echo N > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode`; remove `allow_unsafe_interrupts=1` "
    "from /etc/modprobe.d and the kernel's command line",
)
def vfio_unsafe(facts: Facts) -> Answer:
    unsafe = [
        parameter
        for parameter in (
            "vfio/parameters/enable_unsafe_noiommu_mode",
            "vfio_iommu_type1/parameters/allow_unsafe_interrupts",
        )
        if facts.files.text(f"/sys/module/{parameter}", "N") in {"Y", "1"}
    ]
    if unsafe:
        return Fails(f"on: {', '.join(each.rpartition('/')[2] for each in unsafe)}")
    return Holds("no unsafe mode of vfio is on")


@check(
    "clock-source",
    _SUBJECT,
    expected="a clock that is read without leaving the CPU: tsc, kvm-clock, arch_sys_counter",
    why="other clocks are registers of a device: reading the time leaves the CPU, and an application that does so "
    "for each packet waits for it; at 10 Gbit/s a packet of 64 bytes arrives every 67 ns",
    source='kernel: virt/kvm/x86/timekeeping.rst; admin-guide/kernel-parameters.txt, "clocksource=" and "tsc="',
    fix="find out why the kernel dropped it (`dmesg | grep -i tsc`); if the firmware is current, add "
    "`tsc=reliable` to the kernel's command line",
)
def clock_source(facts: Facts) -> Answer:
    name = facts.files.text("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    return Holds(name) if name in _FAST_CLOCKS else Fails(name)


@check(
    "kernel-watchdog",
    _SUBJECT,
    expected="no NMI watchdog",
    otherwise=Severity.INFO,
    why="it takes one performance counter of each CPU, and interrupts each CPU every few seconds, polling ones too",
    source="kernel: admin-guide/sysctl/kernel.rst, nmi_watchdog; admin-guide/lockup-watchdogs.rst",
    fix="`sysctl -w kernel.nmi_watchdog=0`; keep it in /etc/sysctl.d",
)
def kernel_watchdog(facts: Facts) -> Answer:
    value = facts.files.number("/proc/sys/kernel/nmi_watchdog", 0)
    return Fails("nmi_watchdog is 1") if value else Holds("nmi_watchdog is 0")


@check(
    "mitigations",
    _SUBJECT,
    expected="your choice: leave them on where pods of others run",
    otherwise=Severity.INFO,
    why="mitigations of CPU vulnerabilities make each entry into the kernel slower: traffic over kernel interfaces "
    "pays for it, a DPDK application that polls hardly does",
    source="kernel: admin-guide/hw-vuln",
)
def mitigations(facts: Facts) -> Answer:
    folder = "/sys/devices/system/cpu/vulnerabilities"
    names = facts.files.entries(folder)
    if not names:
        raise Error(Kind.IO, "this kernel reports no CPU vulnerabilities", where=folder)
    active = [name for name in names if "Mitigation:" in facts.files.text(f"{folder}/{name}")]
    if active:
        return Fails(f"{len(active)} mitigations are active: {some(active)}")
    return Holds(f"none of {len(names)} is active")


# What was refused


@check(
    "seccomp-denials",
    _SUBJECT,
    expected="no system call that seccomp refused",
    why="a program whose system call is refused ends, or fails in odd ways; the kernel logs calls that end a "
    "program, and those that only fail if the profile asks for it",
    source="kernel: userspace-api/seccomp_filter.rst; Kubernetes: Restrict a Container's Syscalls with seccomp",
    fix="allow the call in the pod's seccomp profile (securityContext.seccompProfile); `ausearch -m SECCOMP` "
    "shows all",
)
def seccomp_denials(facts: Facts) -> Answer:
    return _refused(facts, ("type=1326", "type=SECCOMP"))


@check(
    "security-module-denials",
    _SUBJECT,
    expected="nothing that SELinux or AppArmor refused",
    why="a refused access to a socket or a device node looks to the application as if the device were not there",
    source="SELinux: avc(8); AppArmor: apparmor(7)",
    fix="SELinux: label the file or directory, or extend the policy (`ausearch -m AVC | audit2allow`); AppArmor: "
    "change the pod's profile",
)
def security_module_denials(facts: Facts) -> Answer:
    return _refused(facts, ("avc:  denied", 'apparmor="DENIED"'))


def _refused(facts: Facts, marks: tuple[str, ...]) -> Answer:
    """Look for records of the audit subsystem: in auditd's log, else in the kernel's. Raises Error(IO)."""
    log = _AUDIT if facts.files.exists(_AUDIT) else _LOG
    lines = facts.files.data(log, last=_LAST).decode(errors="replace").splitlines()
    programs = Counter(
        found[1] if (found := _COMM.search(line)) else "an unknown program"
        for line in lines
        if any(mark in line for mark in marks)
    )
    if programs:
        told = [f"{program} ({count} times)" for program, count in programs.most_common()]
        return Fails(f"{log} has refusals for {some(told)}")
    return Holds(f"none in {log}")

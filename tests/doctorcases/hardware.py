"""Cases of the kernel, network cards, CPUs and memory."""

from __future__ import annotations

from dataclasses import replace

from tests.doctorcases.case import CPU, Case, answers, removes, writes
from tests.madenode import KUBELET, PF, VF, MadeNode, resources
from wirespeed.doctor import Severity
from wirespeed.kernel.ethtool import Pause, Rings

ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO
AUDIT = 'type=SECCOMP msg=audit(1764534182.331:81): pid=51 comm="dpdk-testpmd" sig=31 arch=c000003e syscall=237'
AVC = 'audit: type=1400 audit(1764.3:7): avc:  denied  { read write } for pid=51 comm="ovs-vswitchd" name="vhost"'


def no_iommu_of_legacy_card(node: MadeNode) -> None:
    node.remove("/sys/kernel/iommu_groups")
    node.nic("sriov_totalvfs", "0")


def without_vfio_for_mlx5(node: MadeNode) -> None:
    node.sysfs.bind(PF, "mlx5_core")
    node.remove("/sys/bus/pci/drivers/vfio-pci")


def translated_without_type(node: MadeNode) -> None:
    node.remove("/sys/kernel/iommu_groups/12/type")
    node.write("/proc/cmdline", "ro intel_iommu=on")


def without_vfio(node: MadeNode) -> None:
    node.remove("/sys/bus/pci/drivers/vfio-pci")
    node.write("/lib/modules/6.12.48+deb13-amd64/modules.dep", "kernel/drivers/net/dummy.ko.xz:")


def shared_group(node: MadeNode) -> None:
    for address in (VF, "0000:19:00.1"):
        node.sysfs.iommu_group(address, 40)


def no_hugepages(node: MadeNode) -> None:
    for size in (2048, 1048576):
        node.write(f"/sys/kernel/mm/hugepages/hugepages-{size}kB/nr_hugepages", "0")


def no_hugepages_near(node: MadeNode) -> None:
    for size in (2048, 1048576):
        node.hugepages(0, size, 0, 0)


def no_free_hugepages(node: MadeNode) -> None:
    for size in (2048, 1048576):
        node.hugepages(0, size, 8, 0)


def lost_packets(node: MadeNode) -> None:
    node.answers = replace(node.answers, rings=Rings(512, 512, 4096, 4096))
    node.nic("net/ens1f0/statistics/rx_missed_errors", "7")


def deep_idle_states(node: MadeNode) -> None:
    node.cpus(lambda _: ("cpuidle/state2/disable", "0"))


def threads_for_anybody(node: MadeNode) -> None:
    node.write(f"{KUBELET}/config.yaml", "cpuManagerPolicy: static\nreservedSystemCPUs: 0,2,4,6")


def balanced_everywhere(node: MadeNode) -> None:
    node.process(900, "irqbalance")
    node.write(f"{CPU}/isolated", "")


def small_slot(node: MadeNode) -> None:
    (node.slot / "max_link_width").write_text("8\n")


def no_pcie_8(node: MadeNode) -> None:
    node.nic("current_link_width", "4")


def vfs_are_gone(node: MadeNode) -> None:
    node.sysfs.set_vfs(PF, 0)


def kernel_without_sriov(node: MadeNode) -> None:
    node.nic("sriov_totalvfs", "0")


def firmware_without_sriov(node: MadeNode) -> None:
    node.nic("sriov_totalvfs", "0")
    node.config_space(PF, vfs=0)


CASES = [
    # Kernel and IOMMU
    Case("iommu-on", removes("/sys/kernel/iommu_groups"), ERROR, "the kernel has no IOMMU group"),
    Case("iommu-on", no_iommu_of_legacy_card, INFO, "the kernel has no IOMMU group"),
    Case(
        "iommu-passthrough",
        writes("/sys/kernel/iommu_groups/12/type", "DMA-FQ"),
        WARNING,
        "the IOMMU translates for ens1f0 (0000:18:00.0): DMA-FQ",
    ),
    Case(
        "iommu-passthrough",
        translated_without_type,
        WARNING,
        "the kernel's command line has neither `iommu=pt` nor `iommu.passthrough=1`",
    ),
    Case(
        "vfio-driver",
        removes("/sys/bus/pci/drivers/vfio-pci"),
        ERROR,
        "vfio-pci is not loaded, and there are no modules in /lib/modules/6.12.48+deb13-amd64",
    ),
    Case(
        "vfio-driver",
        without_vfio_for_mlx5,
        INFO,
        "vfio-pci is not loaded, and there are no modules in /lib/modules/6.12.48+deb13-amd64",
    ),
    Case(
        "vfio-driver",
        without_vfio,
        ERROR,
        "vfio-pci is not loaded, and /lib/modules/6.12.48+deb13-amd64 does not have it",
    ),
    Case(
        "vfio-unsafe",
        writes("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y"),
        WARNING,
        "on: enable_unsafe_noiommu_mode",
    ),
    Case(
        "clock-source",
        writes("/sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet"),
        WARNING,
        "hpet",
    ),
    Case("kernel-watchdog", writes("/proc/sys/kernel/nmi_watchdog", "1"), INFO, "nmi_watchdog is 1"),
    Case(
        "mitigations",
        writes(f"{CPU}/vulnerabilities/spectre_v2", "Mitigation: Enhanced / Automatic IBRS"),
        INFO,
        "1 mitigations are active: spectre_v2",
    ),
    Case(
        "seccomp-denials",
        writes("/var/log/audit/audit.log", f"{AUDIT}\n{AUDIT}"),
        WARNING,
        "/var/log/audit/audit.log has refusals for dpdk-testpmd (2 times)",
    ),
    Case(
        "security-module-denials",
        writes("/dev/kmsg", f"5,1204,98214332,-;{AVC}"),
        WARNING,
        "/dev/kmsg has refusals for ovs-vswitchd (1 times)",
    ),
    # Network cards and PCIe
    Case("sriov-card", kernel_without_sriov, WARNING, "none of 1 network cards offers VFs"),
    Case("sriov-firmware", firmware_without_sriov, WARNING, "the card has SR-IOV, and its firmware offers 0 VFs"),
    Case("sriov-firmware", kernel_without_sriov, WARNING, "the card offers 256 VFs, and the kernel none"),
    Case(
        "sriov-resources",
        lambda node: node.nic("resource", resources()),
        ERROR,
        "neither firmware nor kernel gave the VFs any",
    ),
    Case("vfs-created", vfs_are_gone, INFO, "none of 256"),
    Case("vf-drivers", lambda node: node.sysfs.bind(VF, ""), WARNING, "1 of 2 VFs have none: 0000:19:00.0"),
    Case(
        "vf-iommu-groups",
        shared_group,
        ERROR,
        "0000:19:00.0, 0000:19:00.1: the group has other devices too",
    ),
    Case("nic-numa-node", lambda node: node.nic("numa_node", "-1"), WARNING, "the firmware names none"),
    Case(
        "nic-link",
        lambda node: node.sysfs.set_interface("ens1f0", "operstate", "down"),
        WARNING,
        "operstate is down",
    ),
    Case(
        "nic-rings",
        answers(rings=Rings(512, 4096, 4096, 4096)),
        INFO,
        "rx 512 of 4096, tx 4096 of 4096; 0 packets lost",
    ),
    Case("nic-rings", lost_packets, WARNING, "rx 512 of 4096, tx 512 of 4096; 7 packets lost"),
    Case("nic-flow-control", answers(pause=Pause(rx=True, tx=True)), WARNING, "rx and tx on"),
    Case("nic-flow-control", answers(pause=Pause(rx=False, tx=True)), WARNING, "tx on"),
    Case("nic-priority-flow-control", answers(priorities=()), INFO, "off for all priorities"),
    Case("rdma-namespaces", answers(rdma_exclusive=False), WARNING, "all namespaces share them"),
    Case(
        "pcie-link",
        lambda node: node.nic("current_link_width", "8"),
        WARNING,
        "16 GT/s x8, where card and slot can 16 GT/s x16",
    ),
    Case(
        "pcie-link",
        lambda node: node.nic("current_link_speed", "8.0 GT/s PCIe"),
        WARNING,
        "8 GT/s x16, where card and slot can 16 GT/s x16",
    ),
    Case("pcie-slot", small_slot, INFO, "the card can 16 GT/s x16, its slot 16 GT/s x8"),
    Case("pcie-bandwidth", no_pcie_8, WARNING, "16 GT/s x4: 63.0 Gbit/s, for ports with 100 Gbit/s"),
    Case(
        "pcie-max-payload",
        lambda node: node.config_space(PF, payload=0),
        WARNING,
        "128 bytes, 256 are possible",
    ),
    Case("pcie-max-read-request", lambda node: node.config_space(PF, read=0), INFO, "128 bytes"),
    Case("pcie-max-read-request", lambda node: node.sysfs.bind(PF, "mlx5_core"), INFO, "512 bytes"),
    Case(
        "pcie-power-saving",
        writes("/sys/module/pcie_aspm/parameters/policy", "default performance [powersave] powersupersave"),
        WARNING,
        "the policy is powersave",
    ),
    Case(
        "pcie-errors", lambda node: node.nic("aer_dev_correctable", "TOTAL_ERR_COR 12"), WARNING, "12 correctable"
    ),
    Case("pcie-errors", lambda node: node.nic("aer_dev_fatal", "TOTAL_ERR_FATAL 1"), ERROR, "1 fatal"),
    # CPUs
    Case("cpu-isolation", writes(f"{CPU}/isolated", ""), WARNING, "no CPU is isolated"),
    Case("cpu-ticks", writes(f"{CPU}/nohz_full", "(null)"), WARNING, "the tick runs on isolated CPUs 1,3,5,7"),
    Case("cpu-ticks", writes(f"{CPU}/nohz_full", "1,3"), WARNING, "the tick runs on isolated CPUs 5,7"),
    Case(
        "cpu-workqueues",
        writes("/sys/devices/virtual/workqueue/cpumask", "ff"),
        WARNING,
        "it may run on isolated CPUs 1,3,5,7",
    ),
    Case(
        "irq-affinity",
        writes("/proc/irq/121/effective_affinity_list", "5"),
        WARNING,
        "1 of 2 interrupts are on CPUs 5",
    ),
    Case("irqbalance", balanced_everywhere, WARNING, "it runs, and may use all CPUs that are not isolated"),
    Case(
        "cpu-frequency",
        writes(f"{CPU}/cpu3/cpufreq/scaling_governor", "powersave"),
        WARNING,
        "powersave on 1 CPUs",
    ),
    Case("cpu-idle-states", deep_idle_states, WARNING, "C6 takes 133 microseconds"),
    Case(
        "cpu-threads",
        threads_for_anybody,
        INFO,
        "cores have two threads, and the kubelet may give them to different pods",
    ),
    # Memory
    Case("hugepages-reserved", no_hugepages, ERROR, "none"),
    Case("hugepages-near-card", no_hugepages_near, WARNING, "none"),
    Case("hugepages-free", no_free_hugepages, INFO, "none, of 8 of 2 MiB, 8 of 1024 MiB"),
    Case("hugepages-1g", no_hugepages, INFO, "none"),
    Case(
        "numa-memory",
        writes("/sys/devices/system/node/node0/meminfo", "Node 0 MemTotal:       0 kB"),
        ERROR,
        "NUMA node 0 has none",
    ),
    Case("numa-balancing", writes("/proc/sys/kernel/numa_balancing", "1"), WARNING, "numa_balancing is 1"),
    Case(
        "transparent-hugepages",
        writes("/sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never"),
        INFO,
        "always",
    ),
    Case("page-merging", writes("/sys/kernel/mm/ksm/run", "1"), INFO, "run is 1"),
    Case(
        "swap",
        writes("/proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/dev/sda3   partition\t4194300\t0\t-2"),
        WARNING,
        "on /dev/sda3",
    ),
]

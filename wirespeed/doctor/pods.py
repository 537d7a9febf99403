"""Checks of one pod, as its processes see it: its CPUs, memory, hugepages, rights and devices."""

from __future__ import annotations

import re
from pathlib import Path

from wirespeed.devices import vfio
from wirespeed.devices.functions import Function, of_id, pf_of
from wirespeed.devices.pci import PciDevice
from wirespeed.doctor import cpulists
from wirespeed.doctor.cpulists import Cpus
from wirespeed.doctor.facts import Facts
from wirespeed.doctor.files import number_in
from wirespeed.doctor.finding import Answer, Fails, Holds, Severity, Subject, check, check_each, some
from wirespeed.doctor.podview import Container
from wirespeed.errors import Error, Kind

_SUBJECT = Subject.POD
_DPDK = 'DPDK Getting Started Guide, "How to get best performance"'
_CPU_MANAGER = "Kubernetes: Control CPU Management Policies on the Node"
_IPC_LOCK = 1 << 14  # linux/capability.h: CAP_IPC_LOCK
_CGROUPS = "/sys/fs/cgroup"
_SIZES = ("2MB", "1GB", "64KB", "32MB", "512MB")  # in the names of hugetlb's files, of x86 and arm64


def _containers(facts: Facts) -> tuple[Container, ...]:
    return facts.pod.containers if facts.pod else ()


def _devices(facts: Facts) -> list[Function]:
    """Return the pod's devices that are there: VFs and scalable functions."""
    found = [of_id(each, Path(facts.files.sys)) for each in (facts.pod.devices if facts.pod else ())]
    return [device for device in found if device.exists]


def _on_vfio(facts: Facts) -> list[PciDevice]:
    return [each for each in _devices(facts) if isinstance(each, PciDevice) and each.is_in_user_space]


def _device_nodes(facts: Facts) -> Cpus:
    """Return the NUMA nodes of the pod's devices."""
    found = [each if isinstance(each, PciDevice) else pf_of(each) for each in _devices(facts)]
    return frozenset(each.numa_node for each in found if each.numa_node >= 0)


def _status(facts: Facts, container: Container, key: str) -> str:
    """Return a line of /proc/<pid>/status (proc(5)). Raises Error."""
    path = f"/proc/{container.pid}/status"
    match = re.search(rf"^{key}:\s*(.*)$", facts.files.text(path), re.MULTILINE)
    if match is None:
        raise Error(Kind.INVALID_DATA, f"it has no line {key}", where=path)
    return match[1].strip()


def _cpus(facts: Facts, container: Container) -> Cpus:
    return cpulists.of_list(_status(facts, container, "Cpus_allowed_list"))


@check(
    "pod-devices",
    _SUBJECT,
    expected="a VF or another device of a network card",
    otherwise=Severity.INFO,
    why="without one, all of the pod's packets pass through the kernel or a virtual switch",
    source="docs/concepts.md",
    fix="request a pool's resource in the limits of a container, and a network with that resource",
)
def pod_devices(facts: Facts) -> Answer:
    if facts.pod is None:
        return None
    found = [f"{each.address} ({each.driver or 'no driver'})" for each in _devices(facts)]
    return Holds(some(found)) if found else Fails("it has none")


@check_each(
    _containers,
    "pod-exclusive-cpus",
    _SUBJECT,
    expected="CPUs that the kubelet gave to this pod alone",
    why="on shared CPUs, the scheduler takes the CPU from a polling application whenever another pod wants it",
    source=_CPU_MANAGER,
    fix="make the pod Guaranteed: limits equal to requests for CPU (a whole number) and memory, in all "
    "containers; with cpuManagerPolicy static",
)
def pod_exclusive_cpus(facts: Facts, container: Container) -> Answer:
    assert facts.pod is not None
    mine, given = _cpus(facts, container), facts.cpu_state().of_pod(facts.pod.uid)
    if given and mine <= given:
        return Holds(f"CPUs {cpulists.text_of(mine)}")
    return Fails(f"it shares CPUs {cpulists.text_of(mine)} with other pods")


@check_each(
    _containers,
    "pod-isolated-cpus",
    _SUBJECT,
    expected="isolated CPUs",
    otherwise=Severity.INFO,
    why="the node's own processes and timers run on CPUs that are not isolated",
    source=f"{_DPDK}; kernel: admin-guide/kernel-parameters.txt, isolcpus",
    fix="isolate the CPUs that are not in the kubelet's reservedSystemCPUs (isolcpus, nohz_full)",
)
def pod_isolated_cpus(facts: Facts, container: Container) -> Answer:
    mine = _cpus(facts, container)
    if other := mine - facts.isolated:
        return Fails(f"CPUs {cpulists.text_of(other)} are not isolated")
    return Holds(f"CPUs {cpulists.text_of(mine)}")


@check_each(
    _containers,
    "pod-cpus-near-device",
    _SUBJECT,
    expected="CPUs of the device's NUMA node",
    why="from another node, each packet and each descriptor crosses the link between the sockets",
    source=f"{_DPDK}; Kubernetes: Control Topology Management Policies on a Node",
    fix="`topologyManagerPolicy: single-numa-node` in the kubelet's configuration; pools without excludeTopology; "
    "then create the pod again",
)
def pod_cpus_near_device(facts: Facts, container: Container) -> Answer:
    nodes = _device_nodes(facts)
    if not nodes:
        return None
    mine = _cpus(facts, container)
    if far := [cpu for cpu in mine if facts.numa_node_of_cpu(cpu) not in nodes]:
        return Fails(f"CPUs {cpulists.text_of(far)} are not on NUMA node {cpulists.text_of(nodes)}")
    return Holds(f"CPUs {cpulists.text_of(mine)} are on NUMA node {cpulists.text_of(nodes)}")


@check_each(
    _containers,
    "pod-memory-near-device",
    _SUBJECT,
    expected="memory of the device's NUMA node only",
    why="the card writes each packet to memory: on another node, over the link between the sockets",
    source=f"{_DPDK}; Kubernetes: Utilizing the NUMA-aware Memory Manager; cpuset(7), Mems_allowed",
    fix="`memoryManagerPolicy: Static` in the kubelet's configuration, and a Guaranteed pod; or `--socket-mem` of "
    "the application",
)
def pod_memory_near_device(facts: Facts, container: Container) -> Answer:
    nodes = _device_nodes(facts)
    if not nodes or len(facts.numa_nodes) < 2:
        return None
    mine = cpulists.of_list(_status(facts, container, "Mems_allowed_list"))
    if mine <= nodes:
        return Holds(f"NUMA node {cpulists.text_of(mine)}")
    found = f"it may come from NUMA node {cpulists.text_of(mine)}, the device is on {cpulists.text_of(nodes)}"
    return Fails(found, severity=Severity.INFO if mine & nodes else None)


@check_each(
    _containers,
    "pod-threads",
    _SUBJECT,
    expected="both hardware threads of each of its cores, or cores with one thread",
    why="what another pod does on the second thread slows down the first: they share the units of the core",
    source=f"{_DPDK}; {_CPU_MANAGER}, full-pcpus-only",
    fix='`cpuManagerPolicyOptions: {full-pcpus-only: "true"}` in the kubelet\'s configuration, and an even '
    "number of CPUs",
)
def pod_threads(facts: Facts, container: Container) -> Answer:
    mine = _cpus(facts, container)
    siblings = cpulists.NONE.union(*(facts.siblings(cpu) for cpu in mine))
    if other := siblings - mine:
        return Fails(f"CPUs {cpulists.text_of(other)}, of the same cores, are not its own")
    return Holds(f"CPUs {cpulists.text_of(mine)} are whole cores")


@check_each(
    _containers,
    "pod-throttling",
    _SUBJECT,
    expected="never throttled",
    why="a container that has used its quota stands still for the rest of 100 ms: 1,488,000 packets of 64 bytes "
    "at 10 Gbit/s",
    source="kernel: admin-guide/cgroup-v2.rst, cpu.stat; scheduler/sched-bwc.rst",
    fix="give the container whole exclusive CPUs, for which the kubelet sets no quota since Kubernetes 1.33 "
    "(DisableCPUQuotaWithExclusiveCPUs), or raise its limit",
)
def pod_throttling(facts: Facts, container: Container) -> Answer:
    unified, of_version_1 = (f"{_CGROUPS}{place}{container.cgroup}/cpu.stat" for place in ("", "/cpu"))
    text = facts.files.text(of_version_1 if facts.files.exists(of_version_1) else unified)
    match = re.search(r"^nr_throttled (\d+)$", text, re.MULTILINE)
    count = int(match[1]) if match else 0
    return Fails(f"throttled {count} times") if count else Holds("0 times")


@check_each(
    lambda facts: _containers(facts) if _on_vfio(facts) else (),
    "pod-hugepages",
    _SUBJECT,
    expected="hugepages in the container's limits",
    otherwise=Severity.ERROR,
    why="a DPDK application takes the memory of its packets from them: its first access beyond the limit ends it "
    "(SIGBUS)",
    source='Kubernetes: Manage HugePages; kernel: admin-guide/cgroup-v2.rst, "HugeTLB"',
    fix="`hugepages-1Gi: 2Gi` in the container's limits, and an emptyDir with `medium: HugePages`",
)
def pod_hugepages(facts: Facts, container: Container) -> Answer:
    folder = f"{_CGROUPS}{container.cgroup}"
    limits = {size: facts.files.text(f"{folder}/hugetlb.{size}.max", "") for size in _SIZES}
    known = {size: limit for size, limit in limits.items() if limit}
    if not known:
        raise Error(Kind.IO, "no file hugetlb.*.max: cgroup v1, or another cgroup's namespace", where=folder)
    granted = {size: "no limit" if limit == "max" else _mebibytes(limit, folder) for size, limit in known.items()}
    told = [f"{limit} of {size}" for size, limit in granted.items() if limit != "0 MiB"]
    return Holds(", ".join(told)) if told else Fails("its limits have none")


def _mebibytes(text: str, where: str) -> str:
    return f"{number_in(text, where) >> 20} MiB"


@check_each(
    lambda facts: _containers(facts) if _on_vfio(facts) else (),
    "pod-locked-memory",
    _SUBJECT,
    expected="the capability IPC_LOCK, or no limit of locked memory",
    otherwise=Severity.ERROR,
    why="vfio locks all memory that the device reads and writes; beyond the limit it fails with ENOMEM",
    source='DPDK Getting Started Guide, "Running DPDK Applications Without Root Privileges"; capabilities(7)',
    fix="`securityContext: {capabilities: {add: [IPC_LOCK]}}` of the container",
)
def pod_locked_memory(facts: Facts, container: Container) -> Answer:
    if number_in(_status(facts, container, "CapEff"), f"/proc/{container.pid}/status", 16) & _IPC_LOCK:
        return Holds("it has IPC_LOCK")
    path = f"/proc/{container.pid}/limits"
    match = re.search(r"Max locked memory\s+(\S+)", facts.files.text(path))
    limit = match[1] if match else ""
    return Holds("unlimited") if limit == "unlimited" else Fails(f"no IPC_LOCK, and a limit of {limit} bytes")


@check_each(
    _on_vfio,
    "pod-device-nodes",
    _SUBJECT,
    expected="the device's node in a container",
    otherwise=Severity.ERROR,
    why="an application opens the VF by its node in /dev/vfio",
    source="kernel: driver-api/vfio.rst; docs/deviceplugin.md",
    fix="request the pool's resource in the limits of the container that uses it; `cdi-on` and `cdi-directory` if "
    "by CDI",
)
def pod_device_nodes(facts: Facts, device: PciDevice) -> Answer:
    nodes = vfio.nodes(device)
    seen = [
        f"{node} in {container}"
        for container in _containers(facts)
        for node in nodes
        if facts.files.exists(f"/proc/{container.pid}/root{node}")
    ]
    return Holds(some(seen)) if seen else Fails(f"no container has {' or '.join(nodes)}")


@check_each(
    _containers,
    "pod-interrupts",
    _SUBJECT,
    expected="no interrupts of network cards on its CPUs",
    why="each interrupt takes the CPU from the application",
    source="kernel: core-api/irq/irq-affinity.rst",
    fix="see irq-affinity: move the interrupts to the kubelet's reservedSystemCPUs",
)
def pod_interrupts(facts: Facts, container: Container) -> Answer:
    mine = _cpus(facts, container)
    hits = []
    for nic in facts.cards:
        for number in facts.files.entries(f"{nic.path}/msi_irqs"):
            text = facts.files.text(f"/proc/irq/{number}/effective_affinity_list", "")
            if cpulists.of_list(text) & mine:
                hits.append(f"{number} of {nic}")
    return Fails(f"{len(hits)}: {some(hits)}") if hits else Holds("none")

"""What the checks know of the node. Each fact is read once, when the first check asks for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from wirespeed.devices.pci import PciDevice, network_devices
from wirespeed.doctor import cpulists
from wirespeed.doctor.cpulists import Cpus
from wirespeed.doctor.files import Files
from wirespeed.doctor.kubeletconfig import KubeletConfig, read_config, read_cpu_state, read_memory_policy
from wirespeed.errors import Error, Kind
from wirespeed.kernel import ethtool
from wirespeed.kernel.ethtool import Pause, Rings
from wirespeed.node import NodeConfig

if TYPE_CHECKING:
    from wirespeed.doctor.cluster import Permissions
    from wirespeed.doctor.kubeletconfig import CpuState
    from wirespeed.doctor.podview import PodView
    from wirespeed.doctor.switches import Ovs
    from wirespeed.kube.cri import Version

T = TypeVar("T")
_VIRTIO = "1af4"
_BIFURCATED = frozenset({"mlx4_core", "mlx5_core", "mana"})  # DPDK Linux guide, "Bifurcated Driver"
_NODE_PROCESSES = "pid:[4026531836]"  # linux/proc_ns.h: PROC_PID_INIT_INO, the namespace that has all processes


class Process(NamedTuple):
    """A process: its id, and its name (/proc/<pid>/comm, at most 15 characters)."""

    pid: int
    name: str


@dataclass(frozen=True)
class Nic:
    """A network card's port: a PCI function that is no VF, and its interface ("" without one)."""

    device: PciDevice
    interface: str

    def __str__(self) -> str:
        return f"{self.interface} ({self.address})" if self.interface else self.address

    @property
    def address(self) -> str:
        return self.device.address

    @property
    def path(self) -> str:
        """Its folder in sysfs, as a path of Files."""
        return f"/sys/bus/pci/devices/{self.address}"

    @property
    def has_vfs(self) -> bool:
        """Whether its firmware and the kernel offer VFs."""
        return self.device.total_vfs > 0


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What is asked of others than files; each raises Error if there is no answer.

    `rings`, `pause` and `priorities` (with flow control) are of an interface, None if its driver does not report
    them. `runtime` is what answers on a CRI socket. `kubelet` only has to answer. `permissions` is None if no
    cluster is configured.
    """

    rings: Callable[[str], Rings | None] = ethtool.rings
    pause: Callable[[str], Pause | None] = ethtool.pause
    priorities: Callable[[str], tuple[int, ...] | None]
    rdma_exclusive: Callable[[], bool]
    ovs: Callable[[], Ovs]
    runtime: Callable[[str], Version]
    kubelet: Callable[[], None]
    permissions: Callable[[], Permissions | None]


class Once(Generic[T]):
    """A call that is made once; its result, or its Error, is the answer of all later calls."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call

    def __call__(self) -> T:
        if (error := self._answer[1]) is not None:
            raise error
        return self._answer[0]  # type: ignore[return-value]

    @cached_property
    def _answer(self) -> tuple[T | None, Error | None]:
        try:
            return self._call(), None
        except Error as error:
            return None, error


class Facts:
    """The node as the checks see it. `pod` is the pod to check, if any. Facts that cannot be read raise Error."""

    def __init__(self, config: NodeConfig, files: Files, sources: Sources, pod: PodView | None = None) -> None:
        self.config = config
        self.files = files
        self.sources = sources
        self.pod = pod
        self.ovs = Once(sources.ovs)
        self.permissions = Once(sources.permissions)
        self.kubelet_config: Once[KubeletConfig] = Once(lambda: read_config(files, self._kubelet_arguments))
        self.cpu_state: Once[CpuState] = Once(lambda: read_cpu_state(files, config.kubelet))
        self.memory_policy: Once[str] = Once(lambda: read_memory_policy(files, config.kubelet))
        self._vfs: dict[str, list[PciDevice]] = {}  # by the address of the PF

    # The kernel

    @cached_property
    def command_line(self) -> dict[str, str]:
        """The kernel's parameters, the last of each name."""
        words = self.files.text("/proc/cmdline").split()
        return {name: value for name, _, value in (word.partition("=") for word in words)}

    @cached_property
    def processes(self) -> list[Process]:
        """All processes of the node, by id; those that end meanwhile are left out. Raises Error in a container."""
        if self.files.link("/proc/self/ns/pid") != _NODE_PROCESSES:
            hint = "run it on the node, or in a container with hostPID"
            raise Error(Kind.POLICY, "only the processes of a container are seen here", where="/proc", hint=hint)
        found = []
        for name in self.files.entries("/proc"):
            if name.isdigit() and (comm := self.files.text(f"/proc/{name}/comm", "")):
                found.append(Process(int(name), comm))
        return sorted(found)

    def process(self, *names: str) -> Process | None:
        """Return the first process with one of these names, None if there is none."""
        return next((each for each in self.processes if each.name in names), None)

    # CPUs and memory

    @cached_property
    def online(self) -> Cpus:
        return cpulists.of_list(self.files.text("/sys/devices/system/cpu/online"))

    @cached_property
    def isolated(self) -> Cpus:
        """CPUs that the scheduler leaves alone: `isolcpus`, and isolated partitions of cpusets (cgroup-v2.rst)."""
        places = ("/sys/devices/system/cpu/isolated", "/sys/fs/cgroup/cpuset.cpus.isolated")
        return cpulists.NONE.union(*(cpulists.of_list(self.files.text(place, "")) for place in places))

    @cached_property
    def quiet(self) -> Cpus:
        """CPUs on which only an application should run: isolated ones, and those that pods have exclusively."""
        return self.isolated | self.exclusive

    @cached_property
    def exclusive(self) -> Cpus:
        """CPUs that the kubelet gave to containers exclusively; none if it keeps no state."""
        if not self.files.exists(f"{self.config.kubelet}/cpu_manager_state"):
            return cpulists.NONE
        return self.cpu_state().exclusive

    @cached_property
    def numa_nodes(self) -> list[int]:
        folder = "/sys/devices/system/node"
        names = (name.removeprefix("node") for name in self.files.entries(folder) if name.startswith("node"))
        return sorted(int(name) for name in names if name.isdigit())

    def numa_node_of_cpu(self, cpu: int) -> int:
        """Return the NUMA node of a CPU, -1 if the kernel names none."""
        names = self.files.entries(f"/sys/devices/system/cpu/cpu{cpu}")
        nodes = [name.removeprefix("node") for name in names if name.startswith("node")]
        return int(nodes[0]) if nodes and nodes[0].isdigit() else -1

    def siblings(self, cpu: int) -> Cpus:
        """Return the hardware threads of a CPU's core, including itself."""
        place = f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        return cpulists.of_list(self.files.text(place))

    # Network cards

    @cached_property
    def nics(self) -> list[Nic]:
        """All ports of physical network cards, by address."""
        found = network_devices(Path(self.files.sys))
        physical = (each for each in found if each.physical_function is None and each.vendor != _VIRTIO)
        return [Nic(each, each.own_netdev) for each in physical]

    @cached_property
    def cards(self) -> list[Nic]:
        """The ports with VFs to offer; if there are none, all ports."""
        return [nic for nic in self.nics if nic.has_vfs] or self.nics

    @cached_property
    def card_nodes(self) -> list[int]:
        """The NUMA nodes that have ports of `cards`."""
        return sorted({nic.device.numa_node for nic in self.cards if nic.device.numa_node >= 0})

    def vfs(self, nic: Nic) -> list[PciDevice]:
        """Return the VFs of a port, by number. They are read once, as there may be hundreds."""
        if (found := self._vfs.get(nic.device.address)) is None:
            sysfs = Path(self.files.sys)
            found = [PciDevice(address, sysfs) for _, address in nic.device.virtual_functions()]
            self._vfs[nic.device.address] = found
        return found

    def upstream(self, nic: Nic) -> str:
        """Return the folder of the PCI port that a card is plugged into, as a path of Files."""
        real = os.path.dirname(os.path.realpath(self.files.place(nic.path)))
        return f"/sys{real.removeprefix(os.path.realpath(self.files.sys))}"

    @cached_property
    def need_vfio(self) -> bool:
        """Whether there are cards whose VFs DPDK drives by vfio, and not beside the kernel's driver."""
        return any(nic.has_vfs and nic.device.driver not in _BIFURCATED for nic in self.nics)

    # The kubelet

    @cached_property
    def _kubelet_arguments(self) -> tuple[str, ...]:
        """The kubelet's command line; none if no process is called kubelet."""
        if (kubelet := self.process("kubelet")) is None:
            return ()
        return tuple(self.files.text(f"/proc/{kubelet.pid}/cmdline").split("\0"))

    @cached_property
    def cni_folder(self) -> str:
        """Where the runtime reads its CNI configuration."""
        autoconf = self.config.autoconf
        return autoconf.cni_config_dir if autoconf else "/etc/cni/net.d"

    @cached_property
    def cni_files(self) -> list[str]:
        """The runtime's CNI configurations, in its order: by name, the first one is used."""
        names = self.files.entries(self.cni_folder)
        return [
            os.path.join(self.cni_folder, name) for name in names if name.endswith((".conf", ".conflist", ".json"))
        ]

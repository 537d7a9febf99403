"""A made node on which every check of `wirespeed doctor` holds: a server with two sockets, and a pod with a VF.

    node = MadeNode(tmp_path)
    node.write("/proc/sys/kernel/numa_balancing", "1")
    node.findings("numa-balancing")

Tests that each need one take it from a SharedNode, which restores only what a test has changed. Making its
400 files and folders takes longer than most tests.

Files look like those of a real server with an E810 card: two NUMA nodes with two cores each, of two threads.
Sockets are real ones. What the kernel, Open vSwitch, the runtime and the API server are asked is in `answers`.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from tests.fakesysfs import FakeSysfs
from wirespeed.doctor import CHECKS, Finding
from wirespeed.doctor.cluster import Permissions
from wirespeed.doctor.facts import Facts, Sources
from wirespeed.doctor.files import Files
from wirespeed.doctor.podview import Container, PodView
from wirespeed.doctor.switches import Ovs
from wirespeed.kernel.ethtool import Pause, Rings
from wirespeed.kube.cri import Version
from wirespeed.node import AutoconfConfig, NodeConfig

PF = "0000:18:00.0"
VF = "0000:19:00.0"
UID = "0a1b2c3d-0000-4000-8000-00000000abcd"
CGROUP = f"/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/cri-containerd-c1.scope"
APPLICATION = 4711
KUBELET = "/var/lib/kubelet"
NODE_OF_CPU = {0: 0, 1: 0, 2: 1, 3: 1, 4: 0, 5: 0, 6: 1, 7: 1}

KUBELET_CONFIG = """\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: systemd
cpuManagerPolicy: static
cpuManagerPolicyOptions:
  full-pcpus-only: "true"
memoryManagerPolicy: Static
reservedMemory: [{numaNode: 0, limits: {memory: 1Gi}}]
reservedSystemCPUs: "0,2,4,6"
topologyManagerPolicy: single-numa-node
"""
CONTAINERD_CONFIG = """\
version = 3
[plugins."io.containerd.cri.v1.runtime"]
  enable_cdi = true
  cdi_spec_dirs = ["/etc/cdi", "/var/run/cdi"]
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
"""
MOUNTS = """\
22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw
25 22 0:22 / /sys rw,nosuid - sysfs sysfs rw
26 22 0:25 / /run rw,nosuid,nodev shared:12 - tmpfs tmpfs rw,size=13146404k
"""
KMSG = "6,1203,98214331,-;ice 0000:18:00.0: 252.048 Gb/s available PCIe bandwidth (16.0 GT/s PCIe x16 link)\n"
LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max open files            1048576              1048576              files
Max locked memory         {0}            {0}            bytes
"""
STATUS = """\
Name:	dpdk-testpmd
CapEff:	00000000a80465fb
Seccomp:	2
Cpus_allowed:	22
Cpus_allowed_list:	1,5
Mems_allowed_list:	0
"""
# A function whose device control register has payloads of 256 of 512 bytes, read requests of 512, as E810 have it.
PAYLOAD_512, PAYLOAD_256, PAYLOAD_128 = 2, 1, 0


_RINGS, _NO_PAUSE = Rings(4096, 4096, 4096, 4096), Pause(rx=False, tx=False)
_OVS = Ovs("3.5.0", running=True, dpdk=True, config={"pmd-cpu-mask": "0x4", "hw-offload": "true"})
_RUNTIME, _ALL = Version("containerd", "v2.1.4"), Permissions((), networks=True)


@dataclass
class Answers:
    """What others than files tell; an Error in the place of an answer is raised."""

    rings: Rings | None = _RINGS
    pause: Pause | None = _NO_PAUSE
    priorities: tuple[int, ...] | None = (3,)
    rdma_exclusive: bool = True
    ovs: Ovs | Exception = _OVS
    runtime: Version | Exception = _RUNTIME
    kubelet: Exception | None = None
    permissions: Permissions | Exception | None = _ALL


class MadeNode:
    """The node's tree is below `root`; tests change it with `write`, `remove`, and as FakeSysfs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sysfs = FakeSysfs(root / "sys")
        self.answers = Answers()
        self.config = NodeConfig(autoconf=AutoconfConfig(), device_plugin="/etc/wirespeed/pools.yaml", cdi=True)
        self.pod: PodView | None = PodView(
            "default/fw", UID, (Container(APPLICATION, "dpdk-testpmd", CGROUP),), (VF,)
        )
        self._listening: list[socket.socket] = []
        for make in (self._kernel, self._card, self._cpus, self._memory, self._node, self._cni, self._pod):
            make()

    def close(self) -> None:
        for each in self._listening:
            each.close()

    def facts(self) -> Facts:
        answers = self.answers

        def given(name: str) -> Any:
            answer = getattr(answers, name)
            if isinstance(answer, Exception):
                raise answer
            return answer

        sources = Sources(
            rings=lambda _: given("rings"),
            pause=lambda _: given("pause"),
            priorities=lambda _: given("priorities"),
            rdma_exclusive=lambda: given("rdma_exclusive"),
            ovs=lambda: given("ovs"),
            runtime=lambda _: given("runtime"),
            kubelet=lambda: given("kubelet"),
            permissions=lambda: given("permissions"),
        )
        return Facts(self.config, Files.below(self.root), sources, self.pod)

    def findings(self, check: str) -> list[Finding]:
        return list(CHECKS[check].findings(self.facts()))

    # Changes

    def write(self, path: str, content: str | bytes) -> None:
        place = self.place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode() + b"\n")

    def place(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def remove(self, path: str) -> None:
        place = self.place(path)
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink()

    def configure(self, **changes: Any) -> None:
        self.config = msgspec.structs.replace(self.config, **changes)

    def process(self, pid: int, name: str, **files: str | bytes) -> None:
        self.write(f"/proc/{pid}/comm", name[:15])
        for file, content in files.items():
            self.write(f"/proc/{pid}/{file}", content)

    def listen(self, path: str) -> socket.socket:
        """Serve a unix socket; a connection is never read."""
        place = self.place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(place.parent, os.O_PATH)
        try:
            one = socket.socket(socket.AF_UNIX)
            one.bind(f"/proc/self/fd/{folder}/{place.name}")
        finally:
            os.close(folder)
        one.listen(4096)  # as connections are never accepted
        self._listening.append(one)
        return one

    def abandon(self, path: str) -> None:
        """Leave a socket's file without a server."""
        if not self.place(path).exists():
            self.listen(path)
        folder = os.open(self.place(path).parent, os.O_PATH)
        for one in [each for each in self._listening if each.getsockname().endswith(f"/{self.place(path).name}")]:
            one.close()
            self._listening.remove(one)
        os.close(folder)

    def nic(self, attribute: str, text: str) -> None:
        """Write an attribute of the PF."""
        self.sysfs.write(PF, attribute, text)

    def config_space(
        self,
        address: str,
        *,
        capable: int = PAYLOAD_512,
        payload: int = PAYLOAD_256,
        read: int = 2,
        vfs: int | None = 256,
    ) -> None:
        (self.sysfs.path(address) / "config").write_bytes(config_space(capable, payload, read, vfs))

    @property
    def slot(self) -> Path:
        """The folder of the port above the PF."""
        return self.sysfs.path(PF).parent

    def cpus(self, change: Callable[[int], tuple[str, str]]) -> None:
        """Write a file of each CPU: `change` returns its path in the CPU's folder, and its text."""
        for cpu in NODE_OF_CPU:
            path, text = change(cpu)
            self.write(f"/sys/devices/system/cpu/cpu{cpu}/{path}", text)

    # The node as it should be

    def _kernel(self) -> None:
        words = "BOOT_IMAGE=/vmlinuz root=UUID=1 ro intel_iommu=on iommu=pt isolcpus=1,3,5,7 nohz_full=1,3,5,7"
        self.write("/proc/cmdline", words)
        self.place("/proc/self/ns").mkdir(parents=True)
        self.place("/proc/self/ns/pid").symlink_to("pid:[4026531836]")
        self.write("/proc/sys/kernel/osrelease", "6.12.48+deb13-amd64")
        self.write("/proc/sys/kernel/nmi_watchdog", "0")
        self.write("/proc/sys/kernel/numa_balancing", "0")
        self.write("/proc/swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority")
        self.write("/proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu tsc pse pdpe1gb rdtscp")
        self.write("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "N")
        self.write("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "N")
        self.write("/sys/module/pcie_aspm/parameters/policy", "default [performance] powersave powersupersave")
        self.write("/sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc")
        self.write("/sys/devices/system/cpu/vulnerabilities/meltdown", "Not affected")
        self.write("/dev/kmsg", KMSG)

    def _card(self) -> None:
        self.sysfs.pf(PF, "ens1f0", vfs=2, vf_driver="vfio-pci", numa=0, speed="100000", operstate="up")
        self.sysfs.iommu_group(PF, 12)
        self.write("/sys/kernel/iommu_groups/12/type", "identity")
        (self.root / "sys/class/net/ens1f0/phys_switch_id").write_text("4cd98f8b7a2c\n")
        (self.root / "sys/class/net/ens1f0/phys_port_name").write_text("p0\n")
        self.sysfs.rdma(self.sysfs.path(PF), "rocep24s0f0", number=0)
        (self.root / "sys/class/infiniband").mkdir(parents=True)
        (self.root / "sys/class/infiniband/rocep24s0f0").symlink_to(self.sysfs.path(PF) / "infiniband/rocep24s0f0")
        for which in ("current", "max"):
            self.nic(f"{which}_link_speed", "16.0 GT/s PCIe")
            self.nic(f"{which}_link_width", "16")
            (self.slot / f"{which}_link_speed").write_text("16.0 GT/s PCIe\n")
            (self.slot / f"{which}_link_width").write_text("16\n")
        self.config_space(PF)
        (self.slot / "config").write_bytes(config_space(PAYLOAD_256, PAYLOAD_256, 2, None))
        self.nic("resource", resources(0x20FFE000000, 0x20FFD000000))
        for kind, name in (("correctable", "COR"), ("nonfatal", "NONFATAL"), ("fatal", "FATAL")):
            self.nic(f"aer_dev_{kind}", f"RxErr 0\nBadTLP 0\nTOTAL_ERR_{name} 0")
        statistics = self.sysfs.path(PF) / "net/ens1f0/statistics"
        statistics.mkdir()
        for counter in ("rx_missed_errors", "rx_fifo_errors", "rx_over_errors"):
            (statistics / counter).write_text("0\n")
        (self.sysfs.path(PF) / "msi_irqs").mkdir()
        for number, cpu in ((120, 0), (121, 4)):
            self.nic(f"msi_irqs/{number}", "msix")
            self.write(f"/proc/irq/{number}/smp_affinity_list", "0-7")
            self.write(f"/proc/irq/{number}/effective_affinity_list", str(cpu))

    def _cpus(self) -> None:
        folder = "/sys/devices/system/cpu"
        for name, text in {
            "online": "0-7",
            "isolated": "1,3,5,7",
            "nohz_full": "1,3,5,7",
            "smt/active": "1",
        }.items():
            self.write(f"{folder}/{name}", text)
        self.write("/sys/devices/virtual/workqueue/cpumask", "55")
        for cpu, node in NODE_OF_CPU.items():
            (self.place(f"{folder}/cpu{cpu}") / f"node{node}").mkdir(parents=True)
        self.cpus(lambda cpu: ("topology/thread_siblings_list", f"{cpu % 4},{cpu % 4 + 4}"))
        self.cpus(lambda _: ("cpufreq/scaling_governor", "performance"))
        for number, (name, latency, off) in enumerate((("POLL", 0, 0), ("C1", 2, 0), ("C6", 133, 1))):
            for file, value in (("name", name), ("latency", str(latency)), ("disable", str(off))):
                self.cpus(lambda _, n=number, f=file, v=value: (f"cpuidle/state{n}/{f}", v))  # type: ignore[misc]

    def _memory(self) -> None:
        for node in (0, 1):
            folder = f"/sys/devices/system/node/node{node}"
            self.write(f"{folder}/meminfo", f"Node {node} MemTotal:       65666364 kB\nNode {node} MemFree: 1 kB")
            self.hugepages(node, 2048, 512, 100)
            self.hugepages(node, 1048576, 8, 4)
        for size, count in ((2048, 1024), (1048576, 16)):
            self.write(f"/sys/kernel/mm/hugepages/hugepages-{size}kB/nr_hugepages", str(count))
        self.write("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never")
        self.write("/sys/kernel/mm/ksm/run", "0")

    def hugepages(self, node: int, size: int, total: int, free: int) -> None:
        """Set how many hugepages (of `size` KiB) a NUMA node has."""
        folder = f"/sys/devices/system/node/node{node}/hugepages/hugepages-{size}kB"
        self.write(f"{folder}/nr_hugepages", str(total))
        self.write(f"{folder}/free_hugepages", str(free))

    def _node(self) -> None:
        self.process(1, "systemd", mountinfo=MOUNTS)
        arguments = ("/usr/bin/kubelet", "--config=/var/lib/kubelet/config.yaml", "--node-ip", "10.0.0.5")
        self.process(700, "kubelet", cmdline="\0".join(arguments) + "\0")
        self.process(800, "containerd", limits=LIMITS.format("unlimited"))
        self.write(f"{KUBELET}/config.yaml", KUBELET_CONFIG)
        state = (
            '{"policyName":"static","defaultCpuSet":"0,2-4,6-7","entries":{"%s":{"fw":"1,5"}},"checksum":353318}'
        )
        self.write(f"{KUBELET}/cpu_manager_state", state % UID)
        self.write(f"{KUBELET}/memory_manager_state", '{"policyName":"Static","machineState":{},"checksum":4009}')
        for name in (
            "device-plugins/kubelet.sock",
            "device-plugins/intel.com_left.sock",
            "pod-resources/kubelet.sock",
        ):
            self.listen(f"{KUBELET}/{name}")
        self.place(f"{KUBELET}/plugins_registry").mkdir()
        self.write("/etc/containerd/config.toml", CONTAINERD_CONFIG)
        for path in ("/run/containerd/containerd.sock", "/run/wirespeed/agent.sock", "/run/vpp/api.sock"):
            self.listen(path)
        self.listen("/run/openvswitch/db.sock")

    def _cni(self) -> None:
        ours = '{"cniVersion":"1.0.0","name":"cbr0","plugins":[{"type":"wirespeed"}]}'
        flannel = '{"name":"cbr0","cniVersion":"0.3.1","plugins":[{"type":"flannel"},{"type":"portmap"}]}'
        self.write("/etc/cni/net.d/00-wirespeed.conflist", ours)
        self.write("/etc/cni/net.d/10-flannel.conflist", flannel)
        for name in ("wirespeed", "loopback", "flannel", "portmap"):
            self.program(f"/opt/cni/bin/{name}", b"\x7fELF WIRESPEED_SOCKET" if name == "wirespeed" else b"\x7fELF")

    def program(self, path: str, content: bytes) -> None:
        self.write(path, content)
        self.place(path).chmod(0o755)

    def _pod(self) -> None:
        self.process(
            APPLICATION, "dpdk-testpmd", status=STATUS, cgroup=f"0::{CGROUP}", limits=LIMITS.format("65536")
        )
        group = self.sysfs.path(VF).joinpath("iommu_group").resolve().name
        self.write(f"/proc/{APPLICATION}/root/dev/vfio/{group}", "")
        self.write(
            f"/sys/fs/cgroup{CGROUP}/cpu.stat", "usage_usec 5\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0"
        )
        self.write(f"/sys/fs/cgroup{CGROUP}/hugetlb.2MB.max", "0")
        self.write(f"/sys/fs/cgroup{CGROUP}/hugetlb.1GB.max", str(2 << 30))

    def status(self, key: str, value: str) -> None:
        """Set a line of the application's /proc/<pid>/status."""
        path = f"/proc/{APPLICATION}/status"
        lines = [f"{key}:\t{value}" if line.startswith(f"{key}:") else line for line in STATUS.splitlines()]
        self.write(path, "\n".join(lines))

    def without_devices(self) -> None:
        assert self.pod is not None
        self.pod = replace(self.pod, devices=())


class SharedNode:
    """A made node for one test after the other: `fresh` restores what the last one changed.

    Files have the time of 1970, so that one that was written since then is known, however fast that was.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._made = 0
        self._make()

    def fresh(self) -> MadeNode:
        """Return the node as it should be."""
        if not self._restore():
            self.close()
            self._make()
        return self.node

    def close(self) -> None:
        self.node.close()

    def _make(self) -> None:
        self._made += 1
        self.node = MadeNode(self._root / f"node{self._made}")
        self._sockets = list(self.node._listening)
        self._state = self.node.config, self.node.pod
        self._entries = {path: _Entry.of(path, content=True) for path in _paths(self.node.root)}
        for path, entry in self._entries.items():
            if entry.content is not None:
                os.utime(path, ns=(0, 0))

    def _restore(self) -> bool:
        """Restore all but sockets; return whether that is all of it."""
        if self.node._listening != self._sockets:
            return False
        for path in reversed([*_paths(self.node.root)]):  # what is in a folder comes before it
            if path not in self._entries or self._entries[path].kind != _Entry.of(path).kind:
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        for path, entry in self._entries.items():
            if not entry.holds(path) and not entry.restore(path):
                return False
        self.node.answers = Answers()
        self.node.config, self.node.pod = self._state
        return True


def _paths(root: Path) -> Iterator[Path]:
    """Yield all that is below a folder, a folder before what is in it."""
    for folder, folders, files in os.walk(root):
        yield from (Path(folder, name) for name in (*folders, *files))


@dataclass(frozen=True)
class _Entry:
    """A file, folder, symbolic link or socket: its type and permissions, and what is in a file or link."""

    mode: int
    target: str = ""
    content: bytes | None = None

    @classmethod
    def of(cls, path: Path, *, content: bool = False) -> _Entry:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            return cls(mode, target=os.readlink(path))
        return cls(mode, content=path.read_bytes() if content and stat.S_ISREG(mode) else None)

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.mode)

    def holds(self, path: Path) -> bool:
        """Whether it is still there, unchanged."""
        try:
            now = path.lstat()
        except FileNotFoundError:
            return False
        if now.st_mode != self.mode:
            return False
        return now.st_mtime_ns == 0 if stat.S_ISREG(self.mode) else self == _Entry.of(path)

    def restore(self, path: Path) -> bool:
        """Make it what it was; return False for a socket."""
        if stat.S_ISSOCK(self.mode):
            return False
        if stat.S_ISLNK(self.mode):
            path.unlink(missing_ok=True)
            path.symlink_to(self.target)
            return True
        if self.content is None:
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(self.content)
            os.utime(path, ns=(0, 0))
        path.chmod(stat.S_IMODE(self.mode))
        return True


def config_space(capable: int, payload: int, read: int, vfs: int | None) -> bytes:
    """The configuration space of a function with the capabilities power management, PCI Express and maybe SR-IOV.

    `capable` and `payload` are codes of payloads, `read` of read requests: 0 is 128 bytes, 1 is 256 ...
    """
    space = bytearray(4096)
    space[0x34] = 0x40
    struct.pack_into("<BB", space, 0x40, 0x01, 0xA0)  # PCI_CAP_ID_PM
    struct.pack_into("<BBHIH", space, 0xA0, 0x10, 0x00, 0x0002, capable, payload << 5 | read << 12)
    struct.pack_into("<I", space, 0x100, 0x0001 | 2 << 16 | 0x160 << 20)  # AER
    if vfs is not None:
        struct.pack_into("<I", space, 0x160, 0x0010 | 1 << 16)
        struct.pack_into("<H", space, 0x160 + 0x0E, vfs)
    return bytes(space)


def resources(*vf_bars: int) -> str:
    """The file `resource` of a PF: 7 ranges of its own, then 6 of its VFs; 0 is a range without address."""
    own = [
        f"{0x20FFA000000:#018x} {0x20FFBFFFFFF:#018x} 0x000000000014220c",
        *[f"{0:#018x} {0:#018x} {0:#018x}"] * 6,
    ]
    padded = (*vf_bars, *[0] * (6 - len(vf_bars)))
    return "\n".join([*own, *(f"{bar:#018x} {bar + 0xFFFF if bar else 0:#018x} {0:#018x}" for bar in padded)])

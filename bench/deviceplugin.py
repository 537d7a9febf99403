"""Benchmark of device plugins: 2,048 VFs on 8 PFs, offered to one kubelet by each system in turn.

Runs in its own network and mount namespaces. There, /sys is a generated tree with every VF on vfio-pci and /dev has
the VFs' nodes, so all systems see the same node at the usual paths. Each turn starts a new plugin process and a new
kubelet with /run and /var/lib empty.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from bench.figures import Figures, interleaved, machine
from bench.systems import ROOT, CallFailedError, executable, resident
from lab.process import enter_namespaces
from tests.fakesysfs import FakeSysfs
from wirespeed.errors import Error
from wirespeed.kube import rpc
from wirespeed.kube.proto import deviceplugin_pb2 as dp
from wirespeed.play.kubelet import Kubelet

PFS = {f"0000:{2 * number + 16:02x}:00.0": f"ens{number}f0" for number in range(8)}  # interface name by address
VFS = 256  # per PF, unless told otherwise
PREFIX = "intel.com"  # default prefix of resource names
KUBELET = Path("/var/lib/kubelet")
CALLS = {1: 300, 4: 100}  # number of calls per turn, by the number of VFs requested
READY = 300.0  # seconds for a plugin to announce its devices
ANSWER = 30.0  # seconds for an answer, and for the process to end
REST = 5.0  # seconds
OURS = "wirespeed"

PEER = "NAME=COMMAND"
PEER_TEXT = """\
another device plugin that reads the same configuration, in the same run as ours: its command, in which "@CONFIG@"
stands for the configuration's file
"""
_SERVICE = dp.DESCRIPTOR.services_by_name["DevicePlugin"]


class Peer(NamedTuple):
    """Another device plugin and its command."""

    name: str
    command: tuple[str, ...]


def read_peer(text: str) -> Peer:
    """Parse NAME=COMMAND. Raises ValueError that says what is wrong."""
    name, _, rest = text.partition("=")
    command = shlex.split(rest)
    if not (name and command):
        raise ValueError(f"expected {PEER}, got {text!r}")
    return Peer(name, (str(executable(name, command[0])), *command[1:]))


def measure(arguments: argparse.Namespace) -> Figures:
    enter_namespaces("bench", "--net", "--mount", "--propagation", "private")
    figures = Figures(f"Device plugin with {len(PFS) * arguments.vfs:,} VFs")
    with tempfile.TemporaryDirectory(prefix="wirespeed-bench-") as name:
        folder = Path(name)
        vfs = _lay_out(folder, arguments.vfs)
        pools, config = folder / "pools.json", folder / "agent.json"
        pools.write_text(json.dumps(_pools()))
        config.write_text(json.dumps({"devicePlugin": str(pools)}))
        systems = {OURS: (sys.executable, "-m", "wirespeed", "deviceplugin", "--config", str(config))}
        for peer in arguments.peer:
            systems[peer.name] = tuple(part.replace("@CONFIG@", str(pools)) for part in peer.command)
        with _node(folder):
            lives = [_Life(figures, system, command, folder, vfs) for system, command in systems.items()]
            interleaved(arguments.rounds, [life.turn for life in lives])
    figures.notes["machine"] = machine()
    return figures


# The node


def _lay_out(folder: Path, count: int) -> dict[str, list[str]]:
    """Create sysfs and /dev in the directory; return the VFs' addresses by pool name."""
    sysfs, dev = FakeSysfs(folder / "sys"), folder / "dev"
    (sysfs.root / "devices/system").mkdir(parents=True)
    (dev / "vfio").mkdir(parents=True)
    for name in ("vfio/vfio", *_DEVICES):
        (dev / name).touch()
    found = {}
    for address, name in PFS.items():
        vfs = sysfs.pf(address, name, vfs=count, vf_driver="vfio-pci", operstate="up", flags="0x1003")
        sysfs.write(address, "sriov_numvfs", str(count))
        for device in (address, *vfs):  # an Intel Ethernet device's, as drivers/pci/pci-sysfs.c writes it
            number = int(sysfs.read(device, "device"), 16)
            sysfs.write(device, "modalias", f"pci:v00008086d{number:08X}sv00008086sd00000000bc02sc00i00")
        for vf in vfs:
            (dev / "vfio" / (sysfs.path(vf) / "iommu_group").readlink().name).touch()
        found[name] = vfs
    return found


def _pools() -> dict[str, Any]:
    return {
        "resourceList": [
            {"resourceName": name, "selectors": {"pfNames": [name], "drivers": ["vfio-pci"]}}
            for name in PFS.values()
        ]
    }


# Directories that are empty on a node that has just booted.
_EMPTY = [("-t", "tmpfs", "none", place) for place in ("/run", "/var/lib")]
_DEVICES = ("null", "zero", "random", "urandom")  # devices that programs need


@contextlib.contextmanager
def _node(folder: Path) -> Iterator[None]:
    """Mount the node's directories at the usual paths and create the PFs' interfaces."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for name in PFS.values():  # plugins may query them by netlink; every kernel has bridges
        subprocess.run(["ip", "link", "add", name, "up", "type", "bridge"], check=True)
    mounts = [("--bind", f"/dev/{name}", f"{folder}/dev/{name}") for name in _DEVICES]
    mounts.append(("--rbind", "/sys/devices/system", f"{folder}/sys/devices/system"))
    mounts += [("--rbind", f"{folder}/{name}", f"/{name}") for name in ("sys", "dev")]
    with _mounted(mounts):
        yield


@contextlib.contextmanager
def _mounted(mounts: Iterable[tuple[str, ...]]) -> Iterator[None]:
    """Mount each: the arguments of mount(8), the mount point last; unmount all at the end."""
    with contextlib.ExitStack() as mounted:
        for arguments in mounts:
            subprocess.run(["mount", *arguments], check=True)
            mounted.callback(subprocess.run, ["umount", "--lazy", arguments[-1]], check=True)
        yield


# The life of a plugin process


@dataclass(frozen=True)
class _Life:
    """The turns of one system."""

    figures: Figures
    system: str
    command: tuple[str, ...]
    folder: Path
    vfs: Mapping[str, list[str]]

    def turn(self, number: int) -> None:
        """Start the process, call it, let it rest, and end it. Raises CallFailedError."""
        add = (self.figures if number else Figures("not counted")).add
        changed = threading.Condition()
        kubelet = Kubelet(KUBELET, plugin_watch=True, changed=changed)
        with _mounted(_EMPTY), contextlib.ExitStack() as stack, self._log.open("w") as log:
            kubelet.start()
            stack.callback(kubelet.stop)
            began = time.perf_counter()
            with _process(self.command, log, changed) as process:
                self._await_all(kubelet, process)
                add("start until all are announced", self.system, _since(began))
                for what, took in _calls(self.vfs, random.Random(number)):
                    add(what, self.system, took)
                add("resident memory then", self.system, resident(process.pid) / 1024, "MiB")
                add("CPU time of a second at rest", self.system, _at_rest(process.pid))
                began = time.perf_counter()
                process.terminate()
                process.wait(ANSWER)
                add("SIGTERM until it has ended", self.system, _since(began))

    @property
    def _log(self) -> Path:
        return self.folder / f"{self.system}.log"

    def _await_all(self, kubelet: Kubelet, process: subprocess.Popen[bytes]) -> None:
        """Wait until every VF is announced as healthy in the pool of its PF."""
        wanted = {f"{PREFIX}/{pool}": sorted(vfs) for pool, vfs in self.vfs.items()}

        def is_decided() -> bool:
            return process.poll() is not None or wanted == {
                resource: [device.ID for device in devices if device.health == "Healthy"]
                for resource, devices in kubelet.resources().items()
            }

        try:
            kubelet.wait_until(is_decided, READY, "announcement of all devices")
        except Error as error:
            raise self._failed(error.msg) from error
        if process.poll() is not None:
            raise self._failed(f"ended with {process.returncode}")

    def _failed(self, what: str) -> CallFailedError:
        last = " ".join(self._log.read_text(errors="replace").splitlines()[-3:])
        return CallFailedError(f"{self.system}: {what}: {last[-500:]}")


@contextlib.contextmanager
def _process(
    command: tuple[str, ...], log: IO[str], changed: threading.Condition
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the plugin's process; notify `changed` when it ends; kill it at the end of the context."""

    def tell() -> None:
        process.wait()
        with changed:
            changed.notify_all()

    process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    watch = threading.Thread(target=tell)
    watch.start()
    try:
        yield process
    finally:
        process.kill()
        watch.join()


def _calls(vfs: Mapping[str, list[str]], chance: random.Random) -> Iterator[tuple[str, float]]:
    """Yield calls and their duration in ms. The random choice is the same for all systems in one round."""
    with contextlib.ExitStack() as opened:
        clients = {}
        for pool in sorted(vfs):
            socket = KUBELET / f"plugins_registry/{PREFIX}_{pool}.sock"
            clients[pool] = rpc.Client(opened.enter_context(rpc.channel(str(socket))), _SERVICE)
            clients[pool].GetDevicePluginOptions(dp.Empty(), timeout=ANSWER, wait_for_ready=True)
        for size, count in CALLS.items():
            name = f"{size} VF" if size == 1 else f"{size} VFs"
            for _ in range(count):
                pool = chance.choice(sorted(vfs))
                began = time.perf_counter()
                options = clients[pool].GetDevicePluginOptions(dp.Empty(), timeout=ANSWER)
                yield "a call that does nothing", _since(began)
                if options.get_preferred_allocation_available:
                    yield f"GetPreferredAllocation of {name}", _prefer(clients[pool], vfs[pool], size)
                yield f"Allocate of {name}", _allocate(clients[pool], pool, chance.sample(vfs[pool], size))


def _prefer(client: rpc.Client, free: list[str], size: int) -> float:
    asked = dp.ContainerPreferredAllocationRequest(available_deviceIDs=free, allocation_size=size)
    began = time.perf_counter()
    answer = client.GetPreferredAllocation(
        dp.PreferredAllocationRequest(container_requests=[asked]), timeout=ANSWER
    )
    took = _since(began)
    if len(set(answer.container_responses[0].deviceIDs) & set(free)) != size:
        raise CallFailedError(f"a preference of {size} devices is answered with {answer}")
    return took


def _allocate(client: rpc.Client, pool: str, chosen: list[str]) -> float:
    """Return the ms of an Allocate call, and check that it returns the VFs' variable and vfio nodes."""
    asked = dp.ContainerAllocateRequest(devices_ids=chosen)
    began = time.perf_counter()
    (told,) = client.Allocate(dp.AllocateRequest(container_requests=[asked]), timeout=ANSWER).container_responses
    took = _since(began)
    variable = told.envs[f"PCIDEVICE_{PREFIX}_{pool}".replace(".", "_").upper()]
    if set(variable.split(",")) != set(chosen) or len(told.devices) != len(chosen) + 1:
        raise CallFailedError(f"an Allocate of {chosen} is answered with {told}")
    return took


def _at_rest(pid: int) -> float:
    """Return the ms of CPU time per second that an idle process uses."""
    clock = ~pid << 3 | 2  # CPUCLOCK_SCHED of the process, like clock_getcpuclockid(3)
    before = time.clock_gettime(clock)
    time.sleep(REST)
    return (time.clock_gettime(clock) - before) * 1000 / REST


def _since(began: float) -> float:
    return (time.perf_counter() - began) * 1000

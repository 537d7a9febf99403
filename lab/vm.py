"""The QEMU process: its command line, its lifetime, and the sockets to the guest."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lab.build import Artefacts
from lab.process import spawn

LIBRARIES = "usr/lib/x86_64-linux-gnu"
PORTS = ("ctl", "out", "err")
QUIET = "quiet loglevel=4 console=ttyS0 panic=-1"
NODE = "intel_iommu=on iommu=pt"
# Linux divides CPU time between sessions first. A VM is one session with several busy threads, beside a test run
# with many sessions: this priority (a nice value) gives it the share of three sessions.
PRIORITY = -5
# An older CPU model boots no faster under TCG.
ACCELERATORS = {"kvm": ("-accel", "kvm", "-cpu", "host"), "tcg": ("-accel", "tcg,thread=multi", "-cpu", "max")}
# The guest is never attacked, and each of these costs boot time under TCG (init_on_alloc: 2 s for the hugepages).
FAST = "mitigations=off nokaslr audit=0 apparmor=0 nowatchdog init_on_alloc=0 tsc=reliable"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The configurable properties of a VM."""

    accel: str = "tcg"
    memory: str = "4G"
    hugepages: int = 512
    hub: str = "separate"
    udev: bool = False
    extra_kernel: str = ""
    # The VM's number among VMs on one wire; part of the PFs' MAC addresses.
    number: int = 0
    # More devices as QEMU arguments, and whether a reset reboots the VM instead of ending it.
    devices: tuple[str, ...] = ()
    resets: bool = False


@dataclass(frozen=True, kw_only=True)
class Files:
    """Host paths of one run of the VM."""

    artefacts: Artefacts
    tree: Path
    out: Path
    console: Path


def qemu_program(artefacts: Artefacts) -> list[str]:
    """Return the command for QEMU in its own root, by that root's loader: it needs no chroot and no privileges."""
    root = artefacts.qemu / "root"
    libraries = root / LIBRARIES
    return [
        str(libraries / "ld-linux-x86-64.so.2"),
        *("--library-path", str(libraries)),
        str(root / "usr/bin/qemu-system-x86_64"),
        *("-L", str(root / "usr/share/seabios"), "-L", str(root / "usr/share/qemu")),
    ]


def kernel_line(machine: Machine) -> str:
    own = f"lab.hugepages={machine.hugepages} lab.udev={int(machine.udev)}"
    return " ".join(part for part in (QUIET, NODE, FAST, own, machine.extra_kernel) if part)


def base_arguments(artefacts: Artefacts, machine: Machine, console: Path) -> list[str]:
    """Return arguments for CPU, memory, kernel and serial console: enough to boot into the initrd."""
    return [
        *("-M", "q35,kernel-irqchip=split", "-smp", "2", "-m", machine.memory),
        *ACCELERATORS[machine.accel],
        *("-nodefaults", "-no-user-config", "-display", "none", *(() if machine.resets else ("-no-reboot",))),
        *("-kernel", str(artefacts.boot / "vmlinux"), "-initrd", str(artefacts.boot / "initrd.cpio")),
        *("-append", kernel_line(machine)),
        *("-chardev", f"file,id=console,path={escaped(console)}", "-serial", "chardev:console"),
    ]


def nic_arguments(machine: Machine) -> list[str]:
    """Return arguments for two PFs, each on its own root port; each on its own hub, or both on one (`joined`)."""
    result: list[str] = []
    for number in (1, 2):
        network = 1 if machine.hub == "joined" else number
        address = f"52:54:00:00:{machine.number:02x}:{number:02x}"
        result += [
            *("-netdev", f"hubport,hubid={network},id=net{number}"),
            *("-device", f"pcie-root-port,id=port{number},chassis={number},slot={number}"),
            *("-device", f"igb,netdev=net{number},bus=port{number},id=pf{number},mac={address},romfile="),
        ]
    return result


def qemu_arguments(files: Files, machine: Machine, descriptors: dict[str, int]) -> list[str]:
    """Return the whole command line. `descriptors` are QEMU's ends of the sockets of the guest's ports."""
    ports = ["-device", "virtio-serial-pci,id=serial"]
    for name in PORTS:
        ports += ["-chardev", f"socket,id={name},fd={descriptors[name]}"]
        ports += ["-device", f"virtserialport,bus=serial.0,chardev={name},name=lab.{name}"]
    disk = escaped(files.artefacts.image / "disk.img")
    return [
        *qemu_program(files.artefacts),
        *base_arguments(files.artefacts, machine, files.console),
        # eim: x2APIC, as on servers. With xAPIC on a busy machine, a boot under TCG rarely hangs: a CPU's APIC
        # keeps a timer interrupt in service although the guest has handled it, so it delivers no others.
        *("-device", "intel-iommu,intremap=on,eim=on,caching-mode=on"),
        # The image is not modified: writes go to an unlinked overlay in TMPDIR.
        *("-drive", f"if=none,id=disk,format=raw,snapshot=on,file={disk}"),
        *("-device", "virtio-blk-pci,drive=disk"),
        *("-drive", f"if=none,id=tree,format=raw,readonly=on,file={escaped(files.tree)}"),
        *("-device", "virtio-blk-pci,drive=tree"),
        *("-virtfs", f"local,path={escaped(files.out)},mount_tag=out,security_model=none,multidevs=remap"),
        *ports,
        *nic_arguments(machine),
        *machine.devices,
    ]


def escaped(path: Path) -> str:
    """Escape a path for a QEMU option, in which commas separate."""
    return str(path).replace(",", ",,")


class Vm(NamedTuple):
    """A running VM. `ports` are sockets to the guest's ports."""

    process: subprocess.Popen[bytes]
    ports: dict[str, socket.socket]
    console: Path
    messages: Path

    def log(self) -> str:
        """Return the messages of kernel, setup and QEMU."""
        texts = (path.read_text(errors="replace") for path in (self.messages, self.console) if path.exists())
        return "".join(texts).replace("\r", "")


@contextmanager
def started(files: Files, machine: Machine, folder: Path) -> Iterator[Vm]:
    """Run the VM during the context, then kill it: nothing in it is kept except /out."""
    with ExitStack() as stack:
        ours: dict[str, socket.socket] = {}
        theirs: dict[str, socket.socket] = {}
        for name in PORTS:
            ours[name], theirs[name] = (stack.enter_context(end) for end in socket.socketpair())
        descriptors = {name: end.fileno() for name, end in theirs.items()}
        messages = folder / "qemu.log"
        with messages.open("wb") as output:
            modules = files.artefacts.qemu / "root" / LIBRARIES / "qemu"
            environment = dict(os.environ, QEMU_MODULE_DIR=str(modules))
            command = qemu_arguments(files, machine, descriptors)
            process = spawn(command, output, environment=environment, pass_fds=descriptors.values())
        stack.callback(stop, process)
        with suppress(OSError):  # without the privilege, or a kernel without autogroups
            Path(f"/proc/{process.pid}/autogroup").write_text(str(PRIORITY))
        for end in theirs.values():
            end.close()
        yield Vm(process=process, ports=ours, console=files.console, messages=messages)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kill QEMU and wait for its end."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

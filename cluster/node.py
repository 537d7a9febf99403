"""The nodes: lab VMs, which have VFs and can be reset, and namespaces on this machine, which start fast."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from cluster.control import Control
from cluster.images import write_disk
from cluster.network import HERE, SERVICES, Plan, lead_to_process, lead_to_vm
from image.run import run
from lab.build import Artefacts
from lab.errors import LabError
from lab.process import spawn
from lab.session import Session
from lab.tree import GUEST_TREE
from lab.vm import Files, Machine, escaped, started

GUEST = Path(__file__).resolve().parent / "guest"
DISK_SIZE = "12G"
REFERENCE_PLUGINS = Path("/usr/lib/cni")


class Lab(NamedTuple):
    """What all VMs have in common: the lab's artefacts, the machine, disks and the project's tree."""

    artefacts: Artefacts
    machine: Machine
    programs: Path
    store: Path
    tree: Path


class Node:
    """One node. `folder` has its own files and logs; `failed` is the error that ended it."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.failed: LabError | None = None
        folder.mkdir()

    def write_data(self, control: Control, public_key: str) -> None:
        """Write the files of its disk: certificates and CNI configuration."""
        tree = self.folder / "data"
        pki = tree / "etc/kubernetes"
        pki.mkdir(parents=True)
        subject = f"/O=system:nodes/CN=system:node:{self.plan.name}"
        kubeconfig = control.kubeconfig(self.plan.name, subject, elsewhere=Path("/etc/kubernetes"))
        (pki / "kubeconfig").write_text(kubeconfig)
        for name in ("ca.crt", f"{self.plan.name}.crt", f"{self.plan.name}.key"):
            (pki / name).write_bytes((control.authority.folder / name).read_bytes())
        (tree / "authorized_keys").write_text(public_key)
        # The cluster network; other nodes' pods are reached by routes.
        ipam = {"type": "host-local", "ranges": [[{"subnet": self.plan.pods}]], "routes": [{"dst": "0.0.0.0/0"}]}
        plugin = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipam": ipam}
        conflist = {"cniVersion": "1.0.0", "name": "default", "plugins": [plugin]}
        network = tree / "etc/cni/net.d"
        network.mkdir(parents=True)
        (network / "10-default.conflist").write_text(json.dumps(conflist, indent=2))
        shutil.copytree(REFERENCE_PLUGINS, tree / "opt/cni/bin")

    def environment(self, plans: Sequence[Plan], control_version: str) -> dict[str, str]:
        """Return the environment of `node up`."""
        routes = [f"{other.pods}@{other.address}" for other in plans if other != self.plan]
        return {
            "NODE": self.plan.name,
            "ADDRESS": self.plan.address,
            "GATEWAY": HERE,
            "MAC": self.plan.mac,
            "KUBELET": self.plan.kubelet,
            "CONTROL": control_version,
            "ROUTES": " ".join([*routes, f"{SERVICES}@{HERE}"]),
            "LANG": "C.UTF-8",
        }


class VmNode(Node):
    def start(self, stack: ExitStack, lab: Lab) -> None:
        """Start the VM until `stack` is closed. Call it in the main thread: a VM ends with its starting thread."""
        lead_to_vm(self.plan)
        disk = self.folder / "data.img"
        tree = self.folder / "data"
        write_disk("data", tree, disk, DISK_SIZE)
        shutil.rmtree(tree)
        out = self.folder / "out"
        out.mkdir()
        console = self.folder / "console.log"
        files = Files(artefacts=lab.artefacts, tree=lab.tree, out=out, console=console)
        machine = replace(
            lab.machine,
            number=self.plan.number,
            devices=(
                *_drive("data", disk, "cache=unsafe"),
                *_drive("programs", lab.programs, "readonly=on"),
                # Each node writes to its own overlay, which is lost with its VM.
                *_drive("store", lab.store, "snapshot=on"),
                *self.plan.devices(),
            ),
        )
        log = stack.enter_context((self.folder / "node.log").open("ab"))
        vm = stack.enter_context(started(files, machine, self.folder))
        self._session = Session(vm, {"out": log.fileno(), "err": log.fileno()})

    def boot(self, environment: dict[str, str]) -> None:
        """Wait for the guest, then run `node up` in it, also after each reset. Raises LabError."""
        session = self._session
        session.boot()
        job = {
            "do": "run",
            "command": [f"{GUEST_TREE}/cluster/guest/node", "up"],
            "environment": environment,
            "folder": "/",
        }

        def keep() -> None:
            try:
                code = session.keep(job)
                self.failed = LabError(f"{self.plan.name}: node up ended with {code}")
            except LabError as error:
                self.failed = error

        threading.Thread(target=keep, name=self.plan.name, daemon=True).start()


class HereNode(Node):
    """A node in namespaces of this machine. It shares kernel and CPUs, but not network and files."""

    # Settings that a kubelet changes for the whole machine.
    SYSCTLS = (
        *("vm.overcommit_memory", "vm.panic_on_oom", "kernel.panic", "kernel.panic_on_oops"),
        *("kernel.keys.root_maxkeys", "kernel.keys.root_maxbytes"),
    )

    def start(self, stack: ExitStack, programs: Path, store: Path, environment: dict[str, str]) -> None:
        """Start the node until `stack` is closed. It gets a copy of `store`, containerd's image directory."""
        run(["cp", "-a", str(store), str(self.folder / "store")])
        before = {name: Path("/proc/sys", *name.split(".")).read_text() for name in self.SYSCTLS}
        group = f"wirespeed-cluster-{os.getpid()}-{self.plan.name}"
        log = stack.enter_context((self.folder / "node.log").open("ab"))
        namespaces = ("--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc")
        environment |= {"PATH": os.environ["PATH"], "HERE": str(self.folder)}
        environment |= {"PROGRAMS": str(programs / "bin"), "CGROUP": f"/{group}"}
        process = spawn(["unshare", *namespaces, "--", str(GUEST / "node"), "up"], log, environment=environment)
        stack.callback(self._stop, process, before, group)
        first = _child_of(process)
        (self.folder / "pid").write_text(str(first))
        lead_to_process(self.plan, first)

    def _stop(self, process: subprocess.Popen[bytes], before: dict[str, str], group: str) -> None:
        """Kill the node and restore the machine's settings."""
        process.send_signal(signal.SIGKILL)
        process.wait()
        for name, value in before.items():
            Path("/proc/sys", *name.split(".")).write_text(value)
        cgroups = Path("/sys/fs/cgroup")
        for found in (*cgroups.glob(f"*/{group}"), cgroups / group):
            _remove_group(found)


def _child_of(process: subprocess.Popen[bytes]) -> int:
    """Return the first process in the namespaces that unshare creates."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 10
    while not (found := children.read_text().split() if children.exists() else []):
        if time.monotonic() > deadline or process.poll() is not None:
            raise LabError("the node's namespaces could not be made (unshare)")
        time.sleep(0.01)
    return int(found[0])


def _remove_group(group: Path) -> None:
    """Remove a cgroup with its children, after their processes have ended."""
    deadline = time.monotonic() + 10
    while group.exists() and time.monotonic() < deadline:
        folders = [group, *(path for path in group.rglob("*") if path.is_dir())]
        for folder in sorted(folders, reverse=True):
            with suppress(OSError):
                folder.rmdir()
        time.sleep(0.05)


def _drive(name: str, path: Path, how: str) -> tuple[str, ...]:
    return (
        *("-drive", f"if=none,id={name},format=raw,{how},file={escaped(path)}"),
        *("-device", f"virtio-blk-pci,drive={name},serial={name}"),
    )

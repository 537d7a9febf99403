"""A lab VM as a node: its disk, its boot, and commands in it by ssh."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cluster.control import Control
from cluster.network import HERE, SERVICES, Place
from lab.build import Artefacts
from lab.errors import LabError
from lab.session import Session
from lab.tree import GUEST_TREE
from lab.vm import Files, Machine, escaped, started

DISK_SIZE = "12G"
REFERENCE_PLUGINS = Path("/usr/lib/cni")
# The cluster's own plugin on a node; others of the cluster are reached by routes.
PRIMARY = """\
{
  "cniVersion": "1.0.0",
  "name": "default",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0",
      "isGateway": true,
      "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "%s"}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    }
  ]
}
"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is chosen about one node."""

    name: str
    place: Place
    kubelet: str
    memory: str
    hugepages: int


@dataclass(frozen=True, kw_only=True)
class Lab:
    """What all nodes boot from: the lab's artefacts and accelerator, disks, the project's tree."""

    artefacts: Artefacts
    accel: str
    programs: Path
    store: Path
    tree: Path


class Node:
    """One node that runs. `folder` has its disk, logs and what leads into it."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.failed: LabError | None = None
        self._session: Session

    def write_disk(self, control: Control, public_key: str) -> None:
        """The disk that outlives resets: its certificates, the cluster's plugin."""
        tree = self.folder / "disk"
        pki = tree / "etc/kubernetes"
        pki.mkdir(parents=True)
        subject = f"/O=system:nodes/CN=system:node:{self.plan.name}"
        kubeconfig = control.kubeconfig(self.plan.name, subject, elsewhere=Path("/etc/kubernetes"))
        (pki / "kubeconfig").write_text(kubeconfig)
        for name in ("ca.crt", f"{self.plan.name}.crt", f"{self.plan.name}.key"):
            (pki / name).write_bytes((control.authority.folder / name).read_bytes())
        (tree / "authorized_keys").write_text(public_key)
        network = tree / "etc/cni/net.d"
        network.mkdir(parents=True)
        (network / "10-default.conflist").write_text(PRIMARY % self.plan.place.pods)
        plugins = tree / "opt/cni/bin"
        plugins.mkdir(parents=True)
        for plugin in sorted(REFERENCE_PLUGINS.iterdir()):
            _copy(plugin, plugins)
        _run("mke2fs", "-q", "-t", "ext4", "-m", "0", "-L", "data", "-d", str(tree), str(self.disk), DISK_SIZE)
        _run("rm", "-rf", str(tree))

    @property
    def disk(self) -> Path:
        """The disk's file."""
        return self.folder / "data.img"

    def start(self, stack: ExitStack, lab: Lab) -> None:
        """Starts the VM, until `stack` is left. By the main thread: a VM dies with the thread that started it."""
        out = self.folder / "out"
        out.mkdir()
        console = self.folder / "console.log"
        files = Files(artefacts=lab.artefacts, tree=lab.tree, out=out, console=console)
        machine = Machine(
            accel=lab.accel,
            memory=self.plan.memory,
            hugepages=self.plan.hugepages,
            number=self.plan.place.number,
            devices=(
                *_drive("data", self.disk, "cache=unsafe"),
                *_drive("programs", lab.programs, "readonly=on"),
                # Each node writes into an overlay of its own, which lasts as long as its VM.
                *_drive("store", lab.store, "snapshot=on"),
                *self.plan.place.devices(),
            ),
            resets=True,
        )
        log = stack.enter_context((self.folder / "node.log").open("ab"))
        vm = stack.enter_context(started(files, machine, self.folder))
        self._session = Session(vm, {"out": log.fileno(), "err": log.fileno()})

    def boot(self, job: dict[str, object]) -> None:
        """Waits for the guest, and has it do the job, after each reset too. Raises LabError."""
        session = self._session
        session.boot()

        def keep() -> None:
            try:
                code = session.keep(job)
                self.failed = LabError(f"{self.plan.name}: node up ended with {code}")
            except LabError as error:
                self.failed = error

        threading.Thread(target=keep, name=self.plan.name, daemon=True).start()

    def job(self, plans: Sequence[Plan], control_version: str) -> dict[str, object]:
        """What the guest is told to do."""
        others = [plan.place for plan in plans if plan is not self.plan]
        routes = [*(f"{place.pods}@{place.address}" for place in others), f"{SERVICES}@{HERE}"]
        place = self.plan.place
        return {
            "do": "run",
            "command": [f"{GUEST_TREE}/cluster/guest/node", "up"],
            "environment": {
                "NODE": self.plan.name,
                "ADDRESS": place.address,
                "GATEWAY": HERE,
                "MAC": place.mac,
                "KUBELET": self.plan.kubelet,
                "CONTROL": control_version,
                "PODS": place.pods,
                "ROUTES": " ".join(routes),
                "LANG": "C.UTF-8",
            },
            "folder": "/",
            "rows": 24,
            "columns": 80,
        }


def _drive(name: str, path: Path, how: str) -> tuple[str, ...]:
    return (
        *("-drive", f"if=none,id={name},format=raw,{how},file={escaped(path)}"),
        *("-device", f"virtio-blk-pci,drive={name},serial={name}"),
    )


def _copy(source: Path, folder: Path) -> None:
    _run("cp", "--reflink=auto", "--sparse=auto", str(source), str(folder))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ, LC_ALL="C"))
    if done.returncode:
        raise LabError(f"{' '.join(command[:2])} failed", detail=done.stderr)

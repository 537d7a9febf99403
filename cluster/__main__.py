"""The command line: python3 -m cluster build | programs | run | shell."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import cluster
from cluster import network, remote
from cluster.control import Control, is_ready
from cluster.images import STORE_SIZE, multus_archive, pause_archive, write_disk, write_store
from cluster.network import Plan
from cluster.node import HereNode, Lab, Node, VmNode
from cluster.recipe import NEWEST, NODE_DISK, OLDEST, programs, recipe
from image.build import build as build_image
from image.recipe import IMAGES, version
from lab.__main__ import exit_code
from lab.accel import choose
from lab.build import Artefacts, build
from lab.errors import LabError, tail
from lab.options import split
from lab.progress import Progress
from lab.recipe import REPO
from lab.scratch import scratch
from lab.tree import write_tree
from lab.vm import Machine

READY_TIMEOUT = 300.0
EPILOG = """\
examples:
  python3 -m cluster run -- pytest tests/cluster
  python3 -m cluster run --vms 0 -- kubectl get nodes
  python3 -m cluster shell

The command runs on this machine, with kubectl and helm of the cluster, KUBECONFIG an administrator's, and a program
for each node: `node1` is a shell on the node, `node1 COMMAND` a command there.
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; the command follows the first --. Raises SystemExit(2) for a usage error."""
    ours, command = split(arguments)
    parser = argparse.ArgumentParser(
        prog="python3 -m cluster",
        description=cluster.__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option("action", choices=("build", "programs", "run", "shell"))
    option("--kubernetes", default=NEWEST, metavar="VERSION", help=f"the control plane's (default: {NEWEST})")
    option(
        "--kubelets",
        default=f"{NEWEST},{OLDEST}",
        type=lambda text: tuple(text.split(",")),
        metavar="VERSION,...",
        help=f"kubelet versions, assigned to the nodes in turn (default: {NEWEST},{OLDEST})",
    )
    option("--vms", type=int, default=1, choices=(0, 1, 2), help="number of nodes that are lab VMs (default: 1)")
    option("--here", type=int, default=1, choices=(0, 1, 2), help="number of nodes that are processes (default: 1)")
    option("--memory", default="4G", metavar="SIZE", help="memory of a VM (default: 4G)")
    option(
        "--hugepages", type=int, default=512, metavar="N", help="number of 2 MiB hugepages of a VM (default: 512)"
    )
    option("--images", type=Path, metavar="DIR", help="use the archives in DIR instead of building them")
    option("--keep", type=Path, metavar="DIR", help="copy the logs to DIR at the end")
    result = parser.parse_args(ours)
    result.command = command or []
    if (result.action == "run") != bool(command):
        parser.error("run needs a command after --, and only run has one")
    return result


class Cluster:
    """A cluster that runs until `stack` is closed."""

    def __init__(self, asked: argparse.Namespace, folder: Path, stack: ExitStack, progress: Progress) -> None:
        self.asked = asked
        self.folder = folder
        self._stack = stack
        self._progress = progress
        self.plans = [
            Plan(number=number + 1, kubelet=asked.kubelets[number % len(asked.kubelets)])
            for number in range(asked.vms + asked.here)
        ]
        self._programs = Path()

    def start(self) -> None:
        """Start everything and wait until the nodes are Ready. Raises LabError."""
        progress, asked = self._progress, self.asked
        vms, here = self.plans[: asked.vms], self.plans[asked.vms :]
        artefacts = build(progress) if vms else None
        self._programs = programs(progress, recipe(asked.kubernetes, asked.kubelets))
        archives = self._archives()
        with progress.step("images"):
            store = write_store(self._programs, archives, self.folder)
        network.make(self.plans)
        addresses = {plan.name: plan.address for plan in vms}
        key = remote.prepare(self.folder, addresses, [plan.name for plan in here])
        control = Control(self._programs, asked.kubernetes, self.folder)
        self._stack.callback(control.stop)
        with ThreadPoolExecutor() as pool, progress.step("control plane and nodes", done="up"):
            waiting = [pool.submit(control.start)]
            nodes: list[Node] = []
            if artefacts:
                lab = self._lab(artefacts, store)
                for plan in vms:
                    vm = VmNode(plan, self.folder / plan.name)
                    vm.write_data(control, key)
                    vm.start(self._stack, lab)
                    waiting.append(pool.submit(vm.boot, vm.environment(self.plans, asked.kubernetes)))
                    nodes.append(vm)
            for plan in here:
                node = HereNode(plan, self.folder / plan.name)
                node.write_data(control, key)
                node.start(self._stack, self._programs, store, node.environment(self.plans, asked.kubernetes))
                nodes.append(node)
            for one in waiting:
                one.result()
        control.write_kubeconfig("admin", "/O=system:masters/CN=admin")
        with progress.step("nodes", done="Ready"):
            self._await_ready(nodes)

    def _lab(self, artefacts: Artefacts, store: Path) -> Lab:
        tree, asked = self.folder / "tree.tar", self.asked
        write_tree(tree, REPO)
        accel = choose(artefacts, "auto", self._progress)
        return Lab(
            artefacts=artefacts,
            machine=Machine(accel=accel, memory=asked.memory, hugepages=asked.hugepages, resets=True),
            programs=self._programs / NODE_DISK,
            store=write_disk("store", store, self.folder / "store.img", STORE_SIZE),
            tree=tree,
        )

    def environment(self) -> dict[str, str]:
        kubernetes = self._programs / "bin" / self.asked.kubernetes
        path = [str(self.folder / "bin"), str(kubernetes), str(self._programs / "bin"), os.environ["PATH"]]
        description = {
            "folder": str(self.folder),
            "nodes": [
                {"name": plan.name, "kubelet": plan.kubelet, "vm": number < self.asked.vms}
                for number, plan in enumerate(self.plans)
            ],
            "kubernetes": self.asked.kubernetes,
            "manifests": str(self._programs / "manifests"),
        }
        # Chart values for this cluster: its nodes have imported the image under this name.
        values = self.folder / "values.json"
        values.write_text(json.dumps({"image": {"repository": "localhost/wirespeed", "pullPolicy": "Never"}}))
        (self.folder / "cluster.json").write_text(json.dumps(description))
        return dict(
            os.environ,
            PATH=":".join(path),
            KUBECONFIG=str(self.folder / "admin.kubeconfig"),
            HELM=str(self._programs / "bin/helm"),
            KUBECTL=str(kubernetes / "kubectl"),
            CHART_VALUES=str(values),
            WIRESPEED_CLUSTER=str(self.folder / "cluster.json"),
        )

    def _archives(self) -> list[Path]:
        """Return the image archives that nodes import: the project's two, Multus' and the pause image."""
        folder = self.asked.images
        if folder is None:
            folder = self.folder / "images"
            for image in IMAGES.values():
                build_image(image, ["amd64"], folder / f"{image.name}-{version()}.tar", self._progress)
        found = [folder / f"{name}-{version()}.tar" for name in IMAGES]
        if missing := [path for path in found if not path.is_file()]:
            raise LabError(f"there is no {missing[0]}: build it (make image)")
        pause = pause_archive(self._programs, self.folder / "pause.tar")
        return [*found, pause, multus_archive(self._programs, self.folder / "multus.tar")]

    def _await_ready(self, nodes: Sequence[Node]) -> None:
        deadline = time.monotonic() + READY_TIMEOUT
        while late := {plan.name for plan in self.plans} - self._ready(nodes):
            if time.monotonic() > deadline:
                logs = "".join(tail((node.folder / "node.log").read_text(), 15) for node in nodes)
                names = ", ".join(sorted(late))
                raise LabError(f"{names} not Ready in {READY_TIMEOUT:.0f} s", detail=logs)
            time.sleep(1)

    def _ready(self, nodes: Sequence[Node]) -> set[str]:
        """Return the names of the nodes that are Ready. Raises the error of one that has ended."""
        for node in nodes:
            if node.failed is not None:
                raise node.failed
        kubectl = self._programs / "bin" / self.asked.kubernetes / "kubectl"
        config = self.folder / "admin.kubeconfig"
        done = subprocess.run(
            [str(kubectl), f"--kubeconfig={config}", "get", "nodes", "-o", "json"], capture_output=True, check=False
        )
        if done.returncode:
            return set()
        return {item["metadata"]["name"] for item in json.loads(done.stdout)["items"] if is_ready(item)}


def work(asked: argparse.Namespace, progress: Progress) -> int:
    if asked.action in {"build", "programs"}:
        if asked.action == "build":
            build(progress)
        place = programs(progress, recipe(asked.kubernetes, asked.kubelets))
        progress.say(f"built in {place}")
        return 0
    network.own_namespace()
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        running = Cluster(asked, folder, stack, progress)
        if asked.keep:
            stack.callback(keep_logs, folder, asked.keep)
        running.start()
        progress.close()
        command = asked.command or [os.environ.get("SHELL", "/bin/bash")]
        return subprocess.run(command, env=running.environment(), check=False).returncode


def keep_logs(folder: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in [*folder.glob("logs/*.log"), *folder.glob("node*/*.log")]:
        (target / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())


def main() -> int:
    """Run the command line; return the command's exit code, 125 if the cluster failed, 2 for a usage error."""
    return exit_code("cluster", partial(work, parse(sys.argv[1:])))


if __name__ == "__main__":
    sys.exit(main())

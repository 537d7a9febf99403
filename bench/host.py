"""Benchmark on this machine: the overhead of shim and agent, and pods with one bridge per network.

Runs in its own network namespace, which is the node: the bridges are created there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench.api import take_puts
from bench.figures import Figures, interleaved, machine
from bench.starts import start_callers, starts
from bench.systems import REFERENCE_PLUGINS, Caller, Suite, sandbox, suite
from lab.process import enter_namespaces
from tests.apiserver import ApiServer

NETWORKS = {"eth0": 1, "net1": 2, "net2": 3}
POD, ALONE = "pod with three bridged networks", "the three bridge plugins alone"
IN_PROCESS = "wirespeed, plugins in the agent"
ARGS = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=bench;K8S_POD_UID=bench"
PEER_TEXT = """\
Its configuration may say "@KUBECONFIG@", and a --service has KUBECONFIG in its environment: of the API server that
all systems ask. It has the pod default/bench, whose annotation names the networks net1 and net2
"""


def measure(arguments: argparse.Namespace) -> Figures:
    enter_namespaces("bench", "--net")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    figures = Figures("On this machine")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wirespeed-bench-")))
        take_puts()
        api = stack.enter_context(ApiServer(folder))
        for thing in _cluster(folder):
            api.put(thing)
        kubeconfig = str(api.kubeconfig())
        ours = stack.enter_context(suite(folder, {"kubeconfig": kubeconfig}))
        (folder / "in-process").mkdir()
        inside = stack.enter_context(
            suite(folder / "in-process", {"kubeconfig": kubeconfig}, referencePlugins="inProcess")
        )
        for command in arguments.service:
            stack.enter_context(_service(command, kubeconfig))
        floor = {"static C program": (Caller(binary=_static_program(folder), config={}), "VERSION")}
        starts(figures, floor | start_callers(ours, arguments.peer), arguments.rounds)
        peers = {peer.name: peer.caller({"KUBECONFIG": kubeconfig}, args=ARGS) for peer in arguments.peer}
        _pods(figures, {"wirespeed": ours, IN_PROCESS: inside}, api, peers, arguments.rounds)
        figures.notes["agent's resident memory"] = f"{ours.memory()}; {IN_PROCESS}: {inside.memory()}"
    figures.notes["machine"] = machine()
    return figures


@contextmanager
def _service(command: str, kubeconfig: str) -> Iterator[None]:
    """Run a shell command, with all of its processes, until the context ends."""
    environ = dict(os.environ, KUBECONFIG=kubeconfig)
    process = subprocess.Popen(["sh", "-c", command], env=environ, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _static_program(folder: Path) -> Path:
    """Compile a program that only reads its input, as a plugin must: the minimum cost of starting a process."""
    source, program = folder / "floor.c", folder / "floor"
    source.write_text(
        "#include <unistd.h>\nint main(void) { char b[4096]; while (read(0, b, sizeof b) > 0); return 0; }\n"
    )
    subprocess.run(["gcc", "-O2", "-static", "-o", program, source], check=True)
    return program


def _pods(
    figures: Figures, ours: Mapping[str, Suite], api: ApiServer, peers: Mapping[str, Caller], rounds: int
) -> None:
    """Measure ADD and DEL of whole pods: by the plugins alone, by agents that call them, and by the peers."""
    folder = next(iter(ours.values())).folder
    meta = {"cniVersion": "1.0.0", "name": "pods", "type": "wirespeed", "delegates": [_bridge(folder, "eth0")]}
    turns: dict[str, Callable[[], dict[str, float]]] = {
        ALONE: partial(_alone, folder),
        **{name: each.caller("wirespeed", meta, args=ARGS).add_and_delete for name, each in ours.items()},
        **{name: caller.add_and_delete for name, caller in peers.items()},
    }
    asked = dict.fromkeys(turns, 0)
    for verb in ("ADD", "DEL"):
        figures.series[f"{verb} of a {POD}"] = {system: [] for system in turns}

    def turn(system: str, number: int) -> None:
        before = len(api.requests)
        took = turns[system]()
        if number:
            asked[system] += len(api.requests) - before
            for verb, milliseconds in took.items():
                figures.add(f"{verb} of a {POD}", system, milliseconds)

    interleaved(rounds, [partial(turn, system) for system in turns])
    told = ", ".join(f"{system} {count / rounds:.1f}" for system, count in asked.items() if system != ALONE)
    figures.notes["requests to the API server for a pod's ADD and DEL"] = told


def _alone(folder: Path) -> dict[str, float]:
    """Run the plugins one after the other as a meta-plugin must, without a meta-plugin."""
    callers = {
        ifname: Caller(binary=Path(REFERENCE_PLUGINS) / "bridge", config=_bridge(folder, ifname), ifname=ifname)
        for ifname in NETWORKS
    }
    took = {"ADD": 0.0, "DEL": 0.0}
    with sandbox() as made:
        for verb in took:
            for ifname in NETWORKS if verb == "ADD" else reversed(NETWORKS):
                one, _ = callers[ifname].timed(verb, made)
                took[verb] += one
    return took


def _bridge(folder: Path, ifname: str) -> dict[str, Any]:
    number = NETWORKS[ifname]
    ipam = {"type": "host-local", "subnet": f"10.{number}.0.0/16", "dataDir": str(folder / "leases")}
    return {"cniVersion": "1.0.0", "name": f"net-{number}", "type": "bridge", "bridge": f"br{number}", "ipam": ipam}


def _cluster(folder: Path) -> Iterator[dict[str, Any]]:
    networks = [ifname for ifname in NETWORKS if ifname != "eth0"]
    for ifname in networks:
        yield {
            "apiVersion": "k8s.cni.cncf.io/v1",
            "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": ifname, "namespace": "default"},
            "spec": {"config": json.dumps(_bridge(folder, ifname))},
        }
    annotations = {"k8s.v1.cni.cncf.io/networks": ",".join(networks)}
    yield {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "bench", "namespace": "default", "uid": "bench", "annotations": annotations},
        "spec": {"nodeName": os.uname().nodename, "containers": [{"name": "main", "image": "none"}]},
    }

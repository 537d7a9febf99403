"""Figures of this machine: a call's way through shim and agent, and pods with a bridge for each network.

Runs in a network namespace of its own, which is the node: the bridges are made there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench.figures import Figures, interleaved, machine
from bench.starts import start_callers, starts
from bench.systems import REFERENCE_PLUGINS, Caller, Peer, Suite, sandbox, suite

NETWORKS = {"eth0": 1, "net1": 2, "net2": 3}
POD = "pod with three bridged networks"
NAMESPACE = "WIRESPEED_BENCH_NAMESPACE"  # set in the process that has one


def measure(arguments: argparse.Namespace) -> Figures:
    """All figures of this machine; the process is replaced by one in a network namespace first."""
    if NAMESPACE not in os.environ:
        os.environ[NAMESPACE] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, "-m", "bench", *sys.argv[1:]])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    figures = Figures("On this machine")
    with tempfile.TemporaryDirectory(prefix="wirespeed-bench-") as name, suite(Path(name)) as ours:
        floor = {"static C program": (Caller(binary=_static_program(ours.folder), config={}), "VERSION")}
        starts(figures, floor | start_callers(ours, arguments.peer), arguments.rounds)
        _pods(figures, ours, arguments)
        figures.notes["agent's resident memory"] = ours.memory()
    figures.notes["machine"] = machine()
    return figures


def _static_program(folder: Path) -> Path:
    """What the start of any process costs at least; it takes its input, as a plugin must."""
    source, program = folder / "floor.c", folder / "floor"
    source.write_text(
        "#include <unistd.h>\nint main(void) { char b[4096]; while (read(0, b, sizeof b) > 0); return 0; }\n"
    )
    subprocess.run(["gcc", "-O2", "-static", "-o", program, source], check=True)
    return program


def _pods(figures: Figures, ours: Suite, arguments: argparse.Namespace) -> None:
    """ADD and DEL of whole pods: the plugins alone, the agent that calls them, and the peers."""
    folder = ours.folder
    _write_manifests(folder)
    meta = {"cniVersion": "1.0.0", "name": "pods", "type": "wirespeed", "delegates": [_bridge(folder, "eth0")]}
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=bench"
    turns: dict[str, Callable[[], dict[str, float]]] = {
        "the three bridge plugins alone": partial(_alone, folder),
        "wirespeed": ours.caller("wirespeed", meta, args=args).add_and_delete,
    }
    for peer in arguments.peer:
        turns[peer.name] = _caller(peer, args).add_and_delete

    def turn(system: str, number: int) -> None:
        for verb, took in turns[system]().items() if number else ():
            figures.add(f"{verb} of a {POD}", system, took)
        if not number:
            turns[system]()

    interleaved(arguments.rounds, [partial(turn, system) for system in turns])


def _alone(folder: Path) -> dict[str, float]:
    """The same plugins as a meta-plugin must call them, one after another, and nothing else."""
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


def _caller(peer: Peer, args: str) -> Caller:
    return Caller(binary=peer.binary, config=peer.config, path=peer.path, args=args)


def _bridge(folder: Path, ifname: str) -> dict[str, Any]:
    number = NETWORKS[ifname]
    ipam = {"type": "host-local", "subnet": f"10.{number}.0.0/16", "dataDir": str(folder / "leases")}
    return {"cniVersion": "1.0.0", "name": f"net-{number}", "type": "bridge", "bridge": f"br{number}", "ipam": ipam}


def _write_manifests(folder: Path) -> None:
    networks = [ifname for ifname in NETWORKS if ifname != "eth0"]
    documents: list[dict[str, Any]] = [
        {
            "apiVersion": "k8s.cni.cncf.io/v1",
            "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": ifname, "namespace": "default"},
            "spec": {"config": json.dumps(_bridge(folder, ifname))},
        }
        for ifname in networks
    ]
    annotations = {"k8s.v1.cni.cncf.io/networks": ",".join(networks)}
    documents.append(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "bench", "namespace": "default", "uid": "bench", "annotations": annotations},
            "spec": {"containers": [{"name": "main", "image": "none"}]},
        }
    )
    for number, document in enumerate(documents):
        (folder / "manifests" / f"{number}.json").write_text(json.dumps(document))

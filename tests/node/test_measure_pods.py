"""`wirespeed measure` between pods: those of this node's agent, those of a play, and two that it makes itself."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import yaml

from tests.node.conftest import ROOT, Netns
from tests.node.plays import Manifest, Stage, standing, waiting
from tests.node.pods import World
from wirespeed.measure.report import Report

SHORT = ("--test", "throughput", "--size", "128", "--trial", "0.2", "--pause", "0", "--max-rate", "1000")
WIRESPEED = (sys.executable, "-m", "wirespeed")


@pytest.fixture
def stage(netns: Callable[[], Netns], tmp_path: Path, shim: Path) -> Iterator[Stage]:
    with standing(netns(), tmp_path, shim) as made:
        yield made


def bridged(name: str, **annotations: str) -> Manifest:
    config = {"cniVersion": "1.0.0", "type": "bridge", "bridge": "br1"}
    return {
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": name, "namespace": "lab", "annotations": annotations},
        "spec": {"config": json.dumps(config)},
    }


def run(*command: str, within: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*within, *WIRESPEED, "measure", *command, *SHORT], cwd=ROOT, capture_output=True, text=True, check=False
    )


def is_complete(report: bytes | str) -> bool:
    """Whether the report has one size, and its first trial lost nothing."""
    (size,) = msgspec.json.decode(report, type=Report).sizes
    assert size.throughput
    return size.size == 128 and size.throughput.trials[0].received == 200


def test_pods_of_the_agent_are_found_by_their_names(world: World) -> None:
    for name in ("left", "right"):
        world.add(world.pod(name, "bridged"))
    config = ("--config", str(world.agent.config))
    done = run("--from", "pod/left:net1", "--to", "pod/default/right:net1", "--json", *config)
    assert done.returncode == 0, done.stderr
    assert is_complete(done.stdout)
    absent = run("--from", "pod/left:net1", "--to", "pod/other/right:net1", *config)
    assert absent.returncode == 1
    assert "Error: pod other/right: not attached on this node\n" in absent.stderr


def test_the_command_of_a_play_measures_between_its_pods(stage: Stage) -> None:
    report = stage.folder / "report.json"
    ends = ("--from", "pod/left:net1", "--to", "pod/right:net1", "--json")
    then = f"exec {shlex.join((*WIRESPEED, 'measure', *ends, *SHORT))} > {report}"
    pods = [waiting(name) for name in ("left", "right")]
    for each in pods:
        each["metadata"]["annotations"] = {"k8s.v1.cni.cncf.io/networks": "lab/wire"}
    played = stage.play(bridged("wire"), *pods, options=("--then", then))
    assert played.status == 0, played.stderr
    assert is_complete(report.read_bytes())
    stage.node.run("ip", "link", "del", "br1")


def test_two_pods_are_made_for_a_measurement_and_removed_after_it(stage: Stage) -> None:
    networks = stage.folder / "networks.yaml"
    networks.write_text(yaml.safe_dump(bridged("wire")))
    node = ("nsenter", f"--net={stage.node.path}")
    options = ("--cni-conf", str(stage.conf), "--cni-path", "/usr/lib/cni", "--shim", str(stage.shim))
    done = run("--network", "lab/wire", "--play", str(networks), *options, "--json", within=node)
    assert done.returncode == 0, done.stderr
    assert is_complete(done.stdout)
    assert "128 bytes, throughput: 1000 frames/s: " in done.stderr
    stage.node.run("ip", "link", "del", "br1")
    absent = run("--network", "wire", "--play", str(networks), *options, within=node)
    assert absent.returncode == 1
    assert "Error: network default/wire: the files do not define it; they define: lab/wire\n" in absent.stderr

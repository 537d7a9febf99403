"""The benchmarks that need no hardware, run as their users run them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.deviceplugin import PFS
from tests.node.conftest import PATIENCE, ROOT


@pytest.fixture(autouse=True)
def built() -> None:
    if not (ROOT / "build/wirespeed-cni").exists():
        subprocess.run(["make", "build/wirespeed-cni"], cwd=ROOT, check=True)


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", "deviceplugin", "--rounds", "1", "--vfs", "16", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=4 * PATIENCE)


def test_device_plugins_life_is_measured_and_this_node_stays_as_it_is(tmp_path: Path) -> None:
    done = bench("--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    series = json.loads((tmp_path / "bench-deviceplugin.json").read_text())["series"]
    counts = {what: len(measured["wirespeed"]) for what, measured in series.items()}
    assert counts == {
        "start until all are announced": 1,
        "a call that does nothing": 400,
        "GetPreferredAllocation of 1 VF": 300,
        "Allocate of 1 VF": 300,
        "GetPreferredAllocation of 4 VFs": 100,
        "Allocate of 4 VFs": 100,
        "resident memory then": 1,
        "CPU time of a second at rest": 1,
        "SIGTERM until it has ended": 1,
    }
    assert not [name for name in PFS.values() if Path("/sys/class/net", name).exists()]
    assert "wirespeed-bench-" not in Path("/proc/self/mounts").read_text()


def test_peer_that_does_not_do_it_ends_the_bench_with_its_last_words() -> None:
    done = bench("--peer", "other=/bin/sh -c 'echo no config @CONFIG@ >&2; exit 3'")
    assert done.returncode == 1
    assert done.stderr.startswith("bench: other: ended with 3: no config /tmp/wirespeed-bench-")

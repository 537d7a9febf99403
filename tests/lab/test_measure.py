"""`wirespeed measure` from VF to VF of an emulated card, through a testpmd pod with two VFs on vfio-pci."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.lab.conftest import LabVfs
from wirespeed.measure.forwarder import Forwarded
from wirespeed.measure.report import Report

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SHORT = ("--test", "loss", "--size", "128", "--trial", "0.5", "--pause", "0", "--max-rate", "200")

pytestmark = pytest.mark.usefixtures("unchanged", "no_bridge")


def test_frames_go_from_vf_to_vf_through_the_vfs_of_testpmd_and_are_counted_there(vfs: LabVfs) -> None:
    command = [sys.executable, "-m", "wirespeed", "measure", "--json", *SHORT]
    command += ["--network", "outside-kernel", "--through", "outside", "--through", "outside"]
    command += [
        "--play",
        str(EXAMPLES / "chain/networks.yaml"),
        "--play",
        str(EXAMPLES / "chain-kernel/networks.yaml"),
    ]
    command += ["--cni-conf", str(EXAMPLES / "00-wirespeed.conf"), "--pools", str(EXAMPLES / "node/values.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = msgspec.json.decode(done.stdout, type=Report)
    assert report.forwarder
    ports = (report.forwarder.entry, report.forwarder.exit)
    assert sorted(port.device for port in ports) == vfs.vfio[:2]
    assert {report.source.driver, report.destination.driver} == {"igbvf"}
    (size,) = report.sizes
    last = size.loss[-1]
    assert last.lost == 0, done.stderr
    assert last.forwarded == Forwarded(received=last.sent, missed=0, sent=last.sent, dropped=0)

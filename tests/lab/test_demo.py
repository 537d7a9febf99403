"""The demonstration, on VFs that it creates itself, and concurrent plays with VFs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import examples
from tests.lab.conftest import PFS, LabVfs, make_vfs, remove_vfs, state_of_everything

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def no_vfs(vfs: LabVfs) -> Iterator[None]:
    """PFs without VFs. Afterwards they have the VFs that the other tests need."""
    remove_vfs()
    yield
    remove_vfs()
    assert make_vfs() == vfs


@pytest.mark.usefixtures("no_vfs", "no_bridge")
def test_the_demonstration_ends_as_it_should_be(tmp_path: Path) -> None:
    told, out = tmp_path / "demo.json", tmp_path / "out"
    then = f"cd {ROOT} && {sys.executable} -m tests.inside {{}}/seen"
    shown = subprocess.run(
        [sys.executable, EXAMPLES / "demo", "--json", told, "--out", out, "--then", then],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    found = json.loads(told.read_text())
    assert found["good"]
    firewall, vlan = found["vfw"], found["vlan"]
    counters = ("sent", "arrived", "forwarded", "received", "lost")
    assert [firewall[counter] for counter in counters] == [102_400] * 4 + [0]
    assert [(ping["sent"], ping["received"]) for ping in firewall["pings"]] == [(3, 3)] * 9
    assert {"node", "source", "sink"} <= {ping["from"] for ping in firewall["pings"] if ping["to"] == "vfw"}
    assert firewall["as_before"]
    assert vlan["as_before"]
    assert vlan["checks"] == {"blue-check": "Succeeded", "green-check": "Succeeded"}
    _check_interfaces(firewall["interfaces"], vlan["interfaces"])
    for example in ("vfw", "vlan"):
        assert examples.broken(example, examples.played(out / example)) == []


def _check_interfaces(firewall: dict[str, Any], vlan: dict[str, Any]) -> None:
    """Check network-status: networks, requested addresses, and devices, each used only once."""
    vfw = {entry["interface"]: entry for entry in firewall["vfw"]}
    assert [vfw[name]["name"] for name in ("eth0", "net1", "net2")] == [
        "mgmt",
        "default/data-left",
        "default/data-right",
    ]
    assert [vfw[name]["mac"] for name in ("net1", "net2")] == ["02:00:00:00:01:02", "02:00:00:00:02:02"]
    assert [entry["ips"] for entry in vlan["blue"]][1:] == [["10.56.0.1"]]
    for interfaces in (firewall, vlan):
        entries = [entry for pod in interfaces.values() for entry in pod if "device-info" in entry]
        devices = [entry["device-info"]["pci"]["pci-address"] for entry in entries]
        assert len(set(devices)) == len(devices) == 4


def _write(folder: Path, pods: int) -> Path:
    """Write manifests of pods that wait, each with a VF of the first PF that is bound to the kernel's driver."""
    config = {
        "resourceList": [{"resourceName": "kernel", "selectors": {"pfNames": [PFS[0]], "drivers": ["igbvf"]}}]
    }
    network = {"cniVersion": "1.1.0", "name": "data", "type": "wirespeed-sriov", "vlan": 77}
    documents: list[dict[str, Any]] = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "pools"},
            "data": {"config.json": json.dumps(config)},
        },
        {
            "apiVersion": "k8s.cni.cncf.io/v1",
            "kind": "NetworkAttachmentDefinition",
            "metadata": {
                "name": "data",
                "annotations": {"k8s.v1.cni.cncf.io/resourceName": "intel.com/kernel"},
            },
            "spec": {"config": json.dumps(network)},
        },
    ]
    documents += [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"pod{number}", "annotations": {"k8s.v1.cni.cncf.io/networks": "data"}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [
                    {
                        "name": "main",
                        "command": ["sh", "-c", "echo has $PCIDEVICE_INTEL_COM_KERNEL; exec sleep infinity"],
                        "resources": {"limits": {"intel.com/kernel": 1}},
                    }
                ],
            },
        }
        for number in range(pods)
    ]
    folder.mkdir()
    (folder / "pods.yaml").write_text(yaml.safe_dump_all(documents))
    return folder


def _play(manifests: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "wirespeed", "play", "--cni-conf", str(EXAMPLES / "00-wirespeed.conf")),
            *(*options, str(manifests)),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def _playing(manifests: Path, *parts: str) -> Iterator[subprocess.Popen[str]]:
    """Run a play until each part has occurred in a line of its output. Stop it after the body."""
    process = _play(manifests)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        missing = set(parts)
        while missing:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            missing -= {part for part in missing if part in line}
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    assert process.returncode == 0


@pytest.mark.usefixtures("unchanged", "no_bridge")
def test_each_pod_of_a_play_has_a_vf_of_its_own(vfs: LabVfs, tmp_path: Path) -> None:
    parts = [f"has {device}" for device in vfs.kernel[:2]]
    with _playing(_write(tmp_path / "one", pods=2), *parts):
        assert all(not os.listdir(f"/sys/bus/pci/devices/{device}/net") for device in vfs.kernel[:2])


@pytest.mark.usefixtures("unchanged", "no_bridge")
def test_pods_that_ask_for_more_vfs_than_there_are_are_not_admitted(vfs: LabVfs, tmp_path: Path) -> None:
    process = _play(_write(tmp_path / "many", pods=3))
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert (
        "pod default/pod2: not admitted: container main: resource intel.com/kernel: 1 requested, 0 free" in stderr
    )
    assert "has 0000" not in stdout


@pytest.mark.usefixtures("unchanged", "no_bridge")
def test_a_second_play_cannot_have_the_vf_of_the_first(vfs: LabVfs, tmp_path: Path) -> None:
    with _playing(_write(tmp_path / "first", pods=1), f"has {vfs.kernel[0]}"):
        before = state_of_everything()
        second = _play(_write(tmp_path / "second", pods=1))
        stdout, stderr = second.communicate(timeout=120)
        assert second.returncode == 1
        assert f"device {vfs.kernel[0]}" in stderr
        assert "belongs to container" in stderr
        assert "has 0000" not in stdout
        assert state_of_everything() == before

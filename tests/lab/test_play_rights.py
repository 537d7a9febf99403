"""DPDK in pods of `wirespeed play` that request too little: it fails as it would on a cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.conftest import PFS, LabVfs

ROOT = Path(__file__).parents[2]
NO_LOCK = "Cannot set up DMA remapping, error 12"
NO_PORTS = "No probed ethernet devices"
NO_POOL = "Creation of mbuf pool for socket 0 failed"
Manifest = dict[str, Any]


def played(folder: Path, *, add: tuple[str, ...] = (), memory: int, testpmd: str = "") -> str:
    """The output of testpmd in a pod with a VF on vfio-pci, these capabilities, and `memory` MiB of hugepages."""
    pools = [{"resourceName": "dpdk", "selectors": {"pfNames": [PFS[0]], "drivers": ["vfio-pci"]}}]
    network = {"cniVersion": "1.1.0", "name": "data", "type": "wirespeed-sriov"}
    options = f"--lcores='0@(0-1),1@(0-1)' --huge-unlink --socket-mem={memory} --allow=$PCIDEVICE_INTEL_COM_DPDK"
    container = {
        "name": "testpmd",
        # testpmd ends at the end of its standard input
        "command": ["sh", "-c", f"exec dpdk-testpmd {options} -- {testpmd}"],
        "securityContext": {"capabilities": {"add": list(add)}},
        "resources": {"limits": {"intel.com/dpdk": 1, "hugepages-2Mi": f"{memory}Mi", "memory": "256Mi"}},
        "volumeMounts": [{"name": "hugepages", "mountPath": "/dev/hugepages"}],
    }
    spec = {
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": "hugepages", "emptyDir": {"medium": "HugePages"}}],
    }
    documents: list[Manifest] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "pools"}}
        | {"data": {"config.json": json.dumps({"resourceList": pools})}},
        {"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition"}
        | {"metadata": {"name": "data", "annotations": {"k8s.v1.cni.cncf.io/resourceName": "intel.com/dpdk"}}}
        | {"spec": {"config": json.dumps(network)}},
        {"apiVersion": "v1", "kind": "Pod", "spec": spec}
        | {"metadata": {"name": "p", "annotations": {"k8s.v1.cni.cncf.io/networks": "data"}}},
    ]
    (folder / "pod.yaml").write_text(yaml.safe_dump_all(documents))
    command = [sys.executable, "-m", "wirespeed", "play", "--cni-conf", str(ROOT / "examples/00-wirespeed.conf")]
    done = subprocess.run(
        [*command, "--timeout", "120", str(folder / "pod.yaml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "default/p/testpmd | EAL:" in done.stdout, done.stdout + done.stderr
    assert "not enforced here" not in done.stdout  # the guest has the cgroup controllers
    assert "is left" not in done.stderr
    return done.stdout


@pytest.mark.usefixtures("unchanged", "no_bridge")
def test_without_ipc_lock_dpdk_has_no_port(vfs: LabVfs, tmp_path: Path) -> None:
    said = played(tmp_path, memory=64, testpmd="--total-num-mbufs=2048")
    assert NO_LOCK in said
    assert NO_PORTS in said


@pytest.mark.usefixtures("unchanged", "no_bridge")
def test_with_ipc_lock_dpdk_has_the_vf(vfs: LabVfs, tmp_path: Path) -> None:
    said = played(tmp_path, add=("IPC_LOCK",), memory=64, testpmd="--total-num-mbufs=2048")
    assert "Port 0: " in said
    assert [part for part in (NO_LOCK, NO_PORTS, NO_POOL) if part in said] == []


@pytest.mark.usefixtures("unchanged", "no_bridge")
def test_a_pool_larger_than_the_hugepages_of_the_limit_is_not_made(vfs: LabVfs, tmp_path: Path) -> None:
    free = int(Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").read_text())
    assert free * 2 > 400  # without the limit, testpmd's 155,456 mbufs would fit
    assert NO_POOL in played(tmp_path, add=("IPC_LOCK",), memory=128)

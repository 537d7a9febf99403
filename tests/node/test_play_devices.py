"""Devices of played pods through CDI; device plugin, kubelet and runtime are all part of wirespeed.

The VFs are a fake sysfs and nodes in /dev without a driver, mounted over the node's own for the play only.
`tests/lab/test_mixed_pools.py` does the same with real ones.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakesysfs import FakeSysfs
from tests.node.conftest import Netns
from tests.node.plays import Manifest, Stage, container, pod, standing
from wirespeed.node import NodeConfig
from wirespeed.play.kubelet import Kubelet

PF = "0000:18:00.0"
KERNEL, VFIO, OTHER = (f"0000:19:00.{number}" for number in range(3))
CDI: list[Manifest] = [
    {"resourceName": "net", "cdi": True, "selectors": {"drivers": ["iavf"]}},
    {"resourceName": "dpdk", "cdi": True, "selectors": {"drivers": ["vfio-pci"]}},
]
MIXED: list[Manifest] = [
    {"resourceName": "mixed", "cdi": True, "bind": True, "selectors": {"pfNames": ["ens1f0#1"]}}
]
PARTS = """
mount -t overlay -o lowerdir={folder}/dev:/dev overlay /dev
mount --bind {folder}/sys /sys
exec "$@"
"""


@pytest.fixture
def stage(netns: Callable[[], Netns], tmp_path: Path, shim: Path) -> Iterator[Stage]:
    """A node with a PF of three VFs, the last two bound to vfio-pci."""
    sysfs = FakeSysfs(tmp_path / "sys")
    sysfs.pf(PF, "ens1f0", vfs=3)
    nodes = tmp_path / "dev/vfio"
    nodes.mkdir(parents=True)
    os.mknod(nodes / "vfio", 0o644 | stat.S_IFCHR, os.makedev(10, 196))
    for vf in (VFIO, OTHER):
        sysfs.bind(vf, "vfio-pci")
        os.mknod(nodes / str(group(sysfs, vf)), 0o600 | stat.S_IFCHR, os.makedev(240, group(sysfs, vf)))
    with standing(netns(), tmp_path, shim) as made:
        made.within = ("unshare", "--mount", "sh", "-ec", PARTS.format(folder=tmp_path), "sh")
        yield made


def group(sysfs: FakeSysfs, vf: str) -> int:
    return int((sysfs.path(vf) / "iommu_group").resolve().name)


def pools(entries: list[Manifest]) -> Manifest:
    data = {"config.json": json.dumps({"resourceList": entries})}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "pools"}, "data": data}


def asking(name: str, script: str, **counts: int) -> Manifest:
    limits = {f"intel.com/{resource}": count for resource, count in counts.items()}
    return pod(name, container(script=script, resources={"limits": limits}))


def without_specifications(stage: Stage) -> None:
    """From the pod's attachment on, CDI specifications are inaccessible: their directory is a file."""
    stage.write_plugin('cd /run/wirespeed-play-*"$(basename $CNI_NETNS | cut -d- -f3)"; rm -fr cdi; touch cdi')


def test_pools_with_cdi_bring_nodes_and_variables(stage: Stage) -> None:
    sysfs = FakeSysfs(stage.folder / "sys")
    numbers = [group(sysfs, vf) for vf in (VFIO, OTHER)]
    show = (
        "env | grep -o ^WIRESPEED_DEVICE.*; echo $PCIDEVICE_INTEL_COM_DPDK; cd /dev; stat -c '%n %a %t,%T' vfio/*"
    )
    played = stage.play(pools(CDI), asking("one", show, net=1, dpdk=2))
    assert (played.status, played.stderr) == (0, "")
    assert played.said("default/one/main") == [
        f"WIRESPEED_DEVICE_0000_19_00_0={KERNEL}",
        f"{VFIO},{OTHER}",
        *(f"vfio/{number} 600 f0,{number:x}" for number in numbers),
        "vfio/vfio 644 a,c4",
    ]


def test_container_has_the_nodes_of_its_own_devices_alone(stage: Stage) -> None:
    sysfs = FakeSysfs(stage.folder / "sys")
    played = stage.play(pools(CDI), asking("one", "ls /dev/vfio", dpdk=1), asking("two", "ls /dev/vfio", dpdk=1))
    assert (played.status, played.stderr) == (0, "")
    for name, vf in (("one", VFIO), ("two", OTHER)):
        assert played.said(f"default/{name}/main") == [str(group(sysfs, vf)), "vfio"]


def test_device_that_no_specification_defines_fails_its_pod(stage: Stage) -> None:
    without_specifications(stage)
    played = stage.play(pools(CDI), asking("one", "echo ran", net=1))
    assert played.status == 1
    [line] = [line for line in played.stderr.splitlines() if "pod default/one" in line]
    assert f"container main: CDI device intel.com/net-pci-net={KERNEL}: no specification in /etc/cdi or" in line
    assert played.said("default/one/main") == []


def elsewhere(stage: Stage, **edits: Any) -> tuple[str, ...]:
    """Options for a play that finds another specification of the kernel VF in a second directory."""
    spec: Manifest = {"cdiVersion": "0.5.0", "kind": "intel.com/net-pci-net"}
    spec["devices"] = [{"name": KERNEL, "containerEdits": edits}]
    (stage.folder / "more").mkdir()
    (stage.folder / "more/a.json").write_text(json.dumps(spec))
    return ("--cdi-path", f"{stage.folder}/none:{stage.folder}/more")


def test_specifications_of_other_folders_count_less(stage: Stage) -> None:
    options = elsewhere(stage, env=["FROM=elsewhere"])
    played = stage.play(pools(CDI), asking("own", "echo $FROM.", net=1), options=options)
    assert played.said("default/own/main") == ["."]
    without_specifications(stage)
    played = stage.play(pools(CDI), asking("other", "echo $FROM.", net=1), options=options)
    assert (played.status, played.said("default/other/main")) == (0, ["elsewhere."])


def test_nodes_and_mounts_are_as_the_specification_says(stage: Stage) -> None:
    (stage.folder / "files/below").mkdir(parents=True)
    options = elsewhere(
        stage,
        deviceNodes=[
            {"path": "/dev/of/null", "hostPath": "/dev/null", "uid": 7, "gid": 8, "fileMode": 0o640},
            {"path": "/opt/pipe", "type": "p"},
        ],
        mounts=[
            {"hostPath": f"{stage.folder}/files", "containerPath": "/files", "options": ["ro", "rbind", "noexec"]},
            {"hostPath": f"{stage.folder}/files", "containerPath": "/other", "options": ["bind"]},
        ],
    )
    without_specifications(stage)
    show = (
        "stat -c '%F %u %g %a %t,%T' /dev/of/null; stat -c %F /opt/pipe; touch /other/made; ls /files; "
        "touch /files/more; grep -o ' /files r[a-z,]*' /proc/self/mountinfo"
    )
    played = stage.play(pools(CDI), asking("one", show, net=1), options=options)
    assert (played.status, played.stderr) == (0, "")
    assert played.said("default/one/main") == [
        "character special file 7 8 640 1,3",
        "fifo",
        "below",
        "made",
        "touch: cannot touch '/files/more': Read-only file system",
        " /files ro,noexec,relatime",
    ]


def test_pool_that_binds_is_told_before_the_container_is_made(stage: Stage) -> None:
    played = stage.play(pools(MIXED), asking("one", "ls /dev/vfio", mixed=1))
    assert (played.status, played.stderr) == (0, "")
    number = group(FakeSysfs(stage.folder / "sys"), VFIO)
    assert played.said("default/one/main") == [str(number), "vfio"]


def test_plugin_that_refuses_before_the_start_fails_the_pod(stage: Stage) -> None:
    without_specifications(stage)
    played = stage.play(pools(MIXED), asking("one", "echo ran", mixed=1))
    assert played.status == 1
    assert (
        "pod default/one: container main: resource intel.com/mixed: the device plugin refuses: INTERNAL: resource "
        "intel.com/mixed: CDI specification " in played.stderr
    )
    assert played.said("default/one/main") == []


def test_vf_that_is_bound_for_a_pod_of_another_kubelet_is_not_given(stage: Stage) -> None:
    other = Kubelet(stage.folder / "other")
    note = Path(NodeConfig().state).parent / "bound" / VFIO
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps({"driver": "iavf", "override": "", "kubelet": str(other.folder), "before": None}))
    other.start()
    try:
        played = stage.play(pools(MIXED), asking("one", "echo ran", mixed=1))
    finally:
        other.stop()
        note.unlink()
    assert (played.status, played.said("default/one/main")) == (1, [])
    assert "pod default/one: not admitted: container main: resource intel.com/mixed: " in played.stderr
    assert f"device {VFIO}: a pod of the kubelet in {other.folder} has it" in played.stderr

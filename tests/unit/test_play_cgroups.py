"""The limits of containers and pods, and the files of which cgroups they are written to."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml

from wirespeed.errors import Error
from wirespeed.play import cgroups, limits, manifests, objects
from wirespeed.play.cgroups import Cgroups, Hierarchy
from wirespeed.play.limits import Limits
from wirespeed.steps import Undo

MIB = 1 << 20
PAGES = (2 * MIB, 1 << 30)


def pod(tmp_path: Path, *containers: dict[str, Any], initial: tuple[dict[str, Any], ...] = ()) -> objects.Pod:
    def named(prefix: str, each: dict[str, Any], number: int) -> dict[str, Any]:
        return {"name": f"{prefix}{number}", "command": ["true"], "resources": {"limits": each}}

    spec = {
        "containers": [named("c", each, number) for number, each in enumerate(containers)],
        "initContainers": [named("i", each, number) for number, each in enumerate(initial)],
    }
    file = tmp_path / "pod.yaml"
    file.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}))
    return manifests.load([file]).pods[0]


def test_a_pod_has_the_sum_of_its_containers_or_what_an_init_container_needs(tmp_path: Path) -> None:
    first, second = {"memory": "64Mi", "hugepages-2Mi": "4Mi"}, {"memory": "32Mi"}
    made = pod(tmp_path, first, second)
    assert limits.of(made.spec.containers[0]) == Limits(memory=64 * MIB, hugepages={"2Mi": 4 * MIB})
    assert limits.of_pod(made) == Limits(memory=96 * MIB, hugepages={"2Mi": 4 * MIB})
    initial = ({"memory": "128Mi", "hugepages-2Mi": "2Mi", "hugepages-1Gi": "1Gi"},)
    hugepages = {"2Mi": 4 * MIB, "1Gi": 1 << 30}
    assert limits.of_pod(pod(tmp_path, first, second, initial=initial)) == Limits(
        memory=128 * MIB, hugepages=hugepages
    )


def test_a_pod_one_of_whose_containers_has_no_limit_has_none(tmp_path: Path) -> None:
    assert limits.of_pod(pod(tmp_path, {"memory": "64Mi"}, {"cpu": 1})).memory is None


@pytest.mark.parametrize(
    ("given", "asked", "told"),
    [
        ({"hugepages-2Mi": "4Mi"}, {}, "expected cpu or memory beside hugepages-2Mi"),
        ({}, {"hugepages-2Mi": "4Mi", "memory": 1}, "expected hugepages-2Mi in limits"),
        ({"hugepages-2Mi": "4Mi", "cpu": 1}, {"hugepages-2Mi": "2Mi"}, "expected hugepages-2Mi in limits, and"),
        ({"hugepages-2Mi": "4Mi"}, {"hugepages-2Mi": "4096Ki", "memory": "1Mi"}, ""),
        ({"memory": "4Mi"}, {"memory": "2Mi"}, ""),
    ],
)
def test_hugepages_that_the_api_server_does_not_take(given: Any, asked: Any, told: str) -> None:
    with pytest.raises(Error, match=told) if told else nullcontext():
        limits.check(given, asked)


def hierarchy(base: Path, *controllers: str, unified: bool = True) -> Hierarchy:
    return Hierarchy(base=base, controllers=controllers, unified=unified, place="/sys/fs/cgroup")


def test_hugepages_that_are_not_asked_for_are_none() -> None:
    wanted = Limits(memory=MIB, hugepages={"2Mi": 4 * MIB})
    assert cgroups.settings(hierarchy(Path("/"), "memory", "hugetlb"), wanted, PAGES) == {
        "memory.max": (MIB, True),
        "memory.swap.max": (0, False),
        "hugetlb.2MB.max": (4 * MIB, True),
        "hugetlb.2MB.rsvd.max": (4 * MIB, False),
        "hugetlb.1GB.max": (0, True),
        "hugetlb.1GB.rsvd.max": (0, False),
    }
    old = cgroups.settings(hierarchy(Path("/"), "memory", "hugetlb", unified=False), wanted, PAGES[:1])
    assert [*old] == [
        *("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
        *("hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.rsvd.limit_in_bytes"),
    ]
    assert cgroups.settings(hierarchy(Path("/"), "memory"), Limits(), PAGES) == {}


def process(folder: Path, mounts: str, groups: str) -> Path:
    """A directory like /proc/self."""
    (folder / "mountinfo").write_text(mounts)
    (folder / "cgroup").write_text(groups)
    return folder


def test_controllers_are_found_in_the_unified_hierarchy(tmp_path: Path) -> None:
    mount = tmp_path / "unified"
    mount.mkdir()
    (mount / "cgroup.controllers").write_text("cpu memory hugetlb pids\n")
    mounts = (
        f"30 24 0:26 / {mount} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n29 24 0:5 / /dev rw - devtmpfs dev rw\n"
    )
    found = cgroups.find(process(tmp_path, mounts, "0::/user.slice\n"))
    place = "/sys/fs/cgroup/unified"
    assert found == [Hierarchy(base=mount, controllers=("memory", "hugetlb"), unified=True, place=place)]
    assert Cgroups("play", found).missing == {}


def test_controllers_are_found_each_in_its_own_hierarchy(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    (memory / "mine").mkdir(parents=True)
    rest = "- cgroup cgroup rw,memory\n"
    mounts = f"31 24 0:27 / {memory} rw {rest}32 24 0:27 / {tmp_path} rw {rest}"
    found = cgroups.find(process(tmp_path, mounts, "5:cpu,cpuacct:/\n4:memory:/mine\n1:name=systemd:/\n0::/\n"))
    place = "/sys/fs/cgroup/memory"
    assert found == [Hierarchy(base=memory / "mine", controllers=("memory",), unified=False, place=place)]
    assert Cgroups("play", found).missing == {"hugetlb": "no cgroup controller hugetlb"}


def test_a_hierarchy_that_cannot_be_used_is_named_and_left_alone(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    undo = Undo()
    groups = Cgroups("play", [hierarchy(absent, "memory", unified=False)])
    groups.make(undo)
    assert groups.missing["memory"] == f"cgroup controller memory: {absent}/play: No such file or directory"
    assert groups.pod("p", Limits(memory=MIB), undo).container("main", Limits(memory=MIB)) == []
    assert (undo.run(), groups.leftovers()) == ([], [])

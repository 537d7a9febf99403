"""Privileges and memory of a play's containers: the same as with containerd and runc."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from tests.node import containerd
from tests.node.conftest import ROOT, Netns
from tests.node.containerd import cri
from tests.node.plays import WAITS, Manifest, Stage, container, pod, standing
from tests.node.vhost.conftest import missing
from wirespeed.play import cgroups

CASES: dict[str, Manifest] = {
    "default": {},
    "added": {"capabilities": {"add": ["IPC_LOCK", "NET_ADMIN"]}},
    "small-letters": {"capabilities": {"add": ["ipc_lock"]}},
    "with-prefix": {"capabilities": {"add": ["CAP_IPC_LOCK"], "drop": ["CAP_CHOWN"]}},
    "unknown": {"capabilities": {"add": ["IPC_LOCKS"]}},
    "none": {"capabilities": {"drop": ["ALL"]}},
    "one": {"capabilities": {"add": ["NET_RAW"], "drop": ["all"]}},
    "all-but-one": {"capabilities": {"add": ["ALL"], "drop": ["CHOWN"]}},
    "all-and-none": {"capabilities": {"add": ["ALL", "CHOWN"], "drop": ["ALL"]}},
    "both": {"capabilities": {"add": ["IPC_LOCK"], "drop": ["IPC_LOCK"]}},
    "privileged": {"privileged": True},
    "privileged-with-drops": {"privileged": True, "capabilities": {"drop": ["ALL"]}},
    "no-new-privileges": {"allowPrivilegeEscalation": False, "capabilities": {"add": ["IPC_LOCK"]}},
    "nobody": {"runAsUser": 65534, "capabilities": {"add": ["IPC_LOCK"]}},
    "daemon": {"runAsUser": 1, "runAsGroup": 2},
    "numbers": {"runAsUser": 12345, "runAsGroup": 54321},
    "group": {"runAsGroup": 54321},
    "read-only": {"readOnlyRootFilesystem": True},
}
SUPPLEMENTAL = {"numbers": [7, 8]}
# The default procMount, which the kubelet passes to the runtime.
MASKED = (
    *("/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"),
    *("/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"),
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@pytest.fixture
def stage(netns: Callable[[], Netns], tmp_path: Path, shim: Path) -> Iterator[Stage]:
    """A node to play on. Whatever the test does, nothing may be left on it."""
    with standing(netns(), tmp_path, shim) as made:
        yield made


@pytest.fixture
def rights(tmp_path: Path) -> Path:
    """The program that prints the privileges of its container; the only file in its directory."""
    folder = tmp_path / "rights"
    folder.mkdir()
    flags = ("-std=c11", "-D_GNU_SOURCE", "-static", "-Wall", "-Werror")
    subprocess.run(["cc", *flags, "-o", folder / "rights", ROOT / "tests/node/rights.c"], check=True)
    return folder / "rights"


def with_rights(manifest: Manifest, rights: Path) -> Manifest:
    """Mount that program into the pod's containers."""
    manifest["spec"]["volumes"] = [{"name": "rights", "hostPath": {"path": str(rights.parent)}}]
    for each in manifest["spec"]["containers"]:
        each["volumeMounts"] = [{"name": "rights", "mountPath": "/rights"}]
    return manifest


@pytest.fixture
def pages() -> Iterator[None]:
    """Eight free hugepages of 2 MiB."""
    folder = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
    count = folder / "nr_hugepages"
    if not count.exists():
        missing("needs hugepages of 2 MiB")
    added = max(0, 8 - int((folder / "free_hugepages").read_text()))
    count.write_text(str(int(count.read_text()) + added))
    yield
    count.write_text(str(int(count.read_text()) - added))  # relative, because others may have changed it


def needs(controller: str) -> None:
    if not any(controller in each.controllers for each in cgroups.find()):
        missing(f"needs the cgroup controller {controller}")


def asked_of_the_runtime(name: str) -> Any:
    """A case's securityContext, as the kubelet passes it to the runtime."""
    context = CASES[name]
    capabilities = context.get("capabilities", {})
    asked = cri.LinuxContainerSecurityContext(
        capabilities=cri.Capability(
            add_capabilities=capabilities.get("add", ()), drop_capabilities=capabilities.get("drop", ())
        ),
        privileged=context.get("privileged", False),
        readonly_rootfs=context.get("readOnlyRootFilesystem", False),
        no_new_privs=context.get("allowPrivilegeEscalation") is False,
        supplemental_groups=SUPPLEMENTAL.get(name, ()),
        run_as_user=cri.Int64Value(value=context.get("runAsUser", 0)),
        masked_paths=MASKED,
        readonly_paths=READ_ONLY,
    )
    if "runAsGroup" in context:
        asked.run_as_group.value = context["runAsGroup"]
    return asked


def by_containerd(folder: Path, node: Netns, rights: Path) -> dict[str, list[str]]:
    """The program's output in each case's container, created by containerd."""
    containerd.write_network(folder)
    files = {"rights": rights.read_bytes()}
    files |= {f"etc/{name}": Path("/etc", name).read_bytes() for name in ("passwd", "group")}
    with containerd.running(folder, node, {}, files) as runtime:
        return {name: runtime.output(name, ["/rights"], asked_of_the_runtime(name)) for name in CASES}


def differences(first: dict[str, list[str]], second: dict[str, list[str]]) -> list[str]:
    """The lines that differ, ignoring whitespace."""
    return [
        f"{name}: {' '.join(one.split())} / {' '.join(other.split())}"
        for name in first
        for one, other in zip_longest(first[name], second[name], fillvalue="nothing")
        if one.split() != other.split()
    ]


def test_containers_may_do_what_those_of_containerd_may(
    stage: Stage, netns: Callable[[], Netns], rights: Path, tmp_path: Path
) -> None:
    manifests = []
    for name, context in CASES.items():
        pod_context = {"supplementalGroups": SUPPLEMENTAL[name]} if name in SUPPLEMENTAL else {}
        told = {"name": "main", "command": ["/rights/rights"], "securityContext": context}
        manifests.append(with_rights(pod(name, told, securityContext=pod_context), rights))
    played = stage.play(*manifests)
    assert (played.status, played.stderr) == (0, "")
    found = {name: played.said(f"default/{name}/main") for name in CASES}
    assert all(found.values())
    assert differences(found, by_containerd(tmp_path / "containerd", netns(), rights)) == []


def test_a_command_beside_the_container_may_do_no_more(stage: Stage, rights: Path) -> None:
    shared = stage.folder / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    both = container(script=f"/rights/rights > /shared/own; cat /proc/self/cgroup >> /shared/own; {WAITS}")
    both["securityContext"] = {"runAsUser": 12345, "allowPrivilegeEscalation": False}
    probe = "/rights/rights > /shared/probe; cat /proc/self/cgroup >> /shared/probe; ! test -w /etc"
    both["readinessProbe"] = {"exec": {"command": ["sh", "-c", probe]}, "timeoutSeconds": 20}
    manifest = with_rights(pod("both", both, policy="Always"), rights)
    manifest["spec"]["volumes"].append({"name": "shared", "hostPath": {"path": str(shared)}})
    both["volumeMounts"].append({"name": "shared", "mountPath": "/shared"})
    played = stage.play(manifest, options=("--then", "true"))
    assert (played.status, played.stderr) == (0, "")
    own = (shared / "own").read_text()
    assert "Uid:\t12345" in own
    assert (shared / "probe").read_text() == own


def test_volumes_of_a_read_only_container_can_be_written(stage: Stage) -> None:
    writes = container(
        script="for place in /tmp /run/work /run /etc /dev; do test -w $place && echo $place; done; :"
    )
    writes["volumeMounts"] = [{"name": "work", "mountPath": place} for place in ("/tmp", "/run/work")]
    writes["securityContext"] = {"readOnlyRootFilesystem": True}
    played = stage.play(pod("writes", writes, volumes=[{"name": "work", "emptyDir": {}}]))
    assert played.said("default/writes/main") == ["/tmp", "/run/work", "/dev"]


def test_files_of_a_volume_are_the_pods_group(stage: Stage) -> None:
    writes = container(script="id -G; stat -c '%g %a' /work; touch /work/file; stat -c '%u %g' /work/file")
    writes["volumeMounts"] = [{"name": "work", "mountPath": "/work"}]
    writes["securityContext"] = {"runAsUser": 12345, "runAsGroup": 5}
    manifest = pod("writes", writes, securityContext={"fsGroup": 77}, volumes=[{"name": "work", "emptyDir": {}}])
    assert stage.play(manifest).said("default/writes/main") == ["5 77", "77 2777", "12345 77"]


def test_a_container_that_needs_more_memory_than_its_limit_is_killed(stage: Stage) -> None:
    needs("memory")
    script = "echo begins; head -c 100m /dev/zero | tail -c 90m > /dev/null"
    bounded = container(script=script, resources={"limits": {"memory": "32Mi"}})
    played = stage.play(pod("bounded", bounded), pod("free", container(script=script)))
    assert played.said("default/bounded/main")[0] == "begins"
    told = "wirespeed play: pod default/bounded: container main: exit status 137, out of memory (limit 32Mi)\n"
    assert (played.status, played.stderr) == (1, told)


@pytest.mark.usefixtures("pages")
def test_a_container_has_the_hugepages_of_its_limit_and_no_more(stage: Stage, rights: Path) -> None:
    needs("hugetlb")
    own = "find /sys/fs/cgroup -name hugetlb.2MB.max -o -name hugetlb.2MB.limit_in_bytes | xargs cat"
    four = container("four", f"/rights/rights 2; /rights/rights 3; {own}")
    four["resources"] = {"limits": {"hugepages-2Mi": "4Mi", "memory": "32Mi"}}
    none = container("none", "/rights/rights 1")
    played = stage.play(with_rights(pod("huge", four, none), rights))
    assert played.said("default/huge/four") == ["2 pages: used", "3 pages: Cannot allocate memory", str(4 << 20)]
    assert played.said("default/huge/none") == ["1 pages: Cannot allocate memory"]


def test_a_privileged_container_has_this_machines_devices(stage: Stage) -> None:
    script = "test -c /dev/kmsg && test -w /proc/sys/kernel/hostname && echo all"
    privileged = container(script=script, securityContext={"privileged": True})
    assert stage.play(pod("one", privileged)).said("default/one/main") == ["all"]


def test_what_has_no_effect_is_said_at_the_start(stage: Stage) -> None:
    context = {"capabilities": {"add": ["CAP_IPC_LOCK"]}, "seccompProfile": {"type": "RuntimeDefault"}}
    told = container(script="true", image="debian:13", securityContext=context)
    told["resources"] = {"limits": {"cpu": 1}}
    lines = stage.play(pod("one", told)).stdout.splitlines()
    images = "image (containers see this machine's file system)"
    assert lines[:2] == [
        f"not enforced here: {images}, cpu limits, seccompProfile",
        'default/one/main: capability CAP_IPC_LOCK is not known and has no effect; did you mean "IPC_LOCK"?',
    ]


@pytest.mark.parametrize("direct", [True, False])
def test_a_program_that_a_container_cannot_see_is_told_before_anything_is_made(stage: Stage, direct: bool) -> None:
    assert stage.folder.is_relative_to("/tmp")
    program = stage.folder / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    calls = stage.folder / "calls"
    stage.write_plugin(f"echo $CNI_COMMAND >> {calls}")
    main = container(script=f"until FOLDER={stage.folder} {program}; do sleep 1; done")
    if direct:
        main["command"] = [str(program)]
    played = stage.play(pod("one", main))
    assert played.status == 1
    hidden = f"Pod default/one: container main: {program} is hidden: a container has its own /tmp"
    assert hidden in played.stderr
    assert not calls.exists()

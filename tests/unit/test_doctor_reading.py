"""What `wirespeed doctor` reads: files that are missing or wrong, lists of CPUs, PCI and the kubelet's settings."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.madenode import (
    KUBELET,
    KUBELET_CONFIG,
    PAYLOAD_128,
    PAYLOAD_512,
    PF,
    VF,
    MadeNode,
    SharedNode,
    config_space,
)
from wirespeed.doctor import CHECKS, Severity, Subject, cpulists, judge, kubeletconfig, pciconfig
from wirespeed.doctor.facts import Facts
from wirespeed.doctor.files import Files
from wirespeed.errors import Error, Kind
from wirespeed.kernel.netlink import dcb
from wirespeed.kernel.netlink.codec import attribute, nested


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedNode]:
    with contextlib.closing(SharedNode(tmp_path_factory.mktemp("made"))) as nodes:
        yield nodes


@pytest.fixture
def node(shared: SharedNode) -> MadeNode:
    return shared.fresh()


# The node that tests share


def tree(root: Path) -> dict[str, tuple[int, str | bytes]]:
    """All that is below a folder: type and permissions, and content or target."""
    found: dict[str, tuple[int, str | bytes]] = {}
    for folder, folders, files in os.walk(root):
        for path in (Path(folder, name) for name in (*folders, *files)):
            content: str | bytes = os.readlink(path) if path.is_symlink() else b""
            if path.is_file() and not path.is_symlink():
                content = path.read_bytes()
            found[str(path.relative_to(root))] = path.lstat().st_mode, content
    return found


def test_a_node_that_tests_share_is_made_what_it_was(shared: SharedNode) -> None:
    node = shared.fresh()
    before = tree(node.root)
    node.write("/proc/swaps", "of the same length" * 3)
    node.write("/proc/sys/kernel/nmi_watchdog", "1")
    node.write("/new/folder/file", "new")
    node.remove("/sys/class/infiniband")
    node.place("/opt/cni/bin/loopback").chmod(0o644)
    node.place("/proc/self/ns/pid").unlink()
    node.place("/proc/self/ns/pid").symlink_to("pid:[1]")
    node.place("/dev/kmsg").unlink()
    node.place("/dev/kmsg").mkdir()
    node.sysfs.remove(VF)
    node.configure(cdi=False)
    node.answers.rdma_exclusive = False
    node.pod = None
    assert tree(node.root) != before
    again = shared.fresh()
    assert again is node
    assert tree(again.root) == before
    assert (again.config.cdi, again.answers.rdma_exclusive, again.pod is None) == (True, True, False)


@pytest.mark.parametrize("change", ["abandon", "remove"])
def test_a_node_whose_sockets_were_changed_is_made_anew(shared: SharedNode, change: str) -> None:
    node = shared.fresh()
    getattr(node, change)("/run/wirespeed/agent.sock")
    assert shared.fresh() is not node
    assert [each.id for each in judge(shared.fresh().facts()) if each.severity is not Severity.OK] == []


# Nothing ends it


def files_of(root: Path) -> list[Path]:
    """The files of the node; of CPUs, which are all alike, those of the first."""
    found = [Path(folder) / name for folder, _, names in os.walk(root) for name in names]
    return [
        path
        for path in found
        if path.is_file() and not path.is_symlink() and not re.search(r"/cpu[1-9]/", str(path))
    ]


def test_no_file_that_is_missing_or_wrong_ends_it(node: MadeNode) -> None:
    for path in files_of(node.root):
        aside = path.rename(path.with_name("aside"))
        assert judge(node.facts())
        for content in (b"", b"\xff garbage, not (a) number: 0-x\n"):
            path.write_bytes(content)
            assert judge(node.facts())
        aside.rename(path)
    assert [each.id for each in judge(node.facts()) if each.severity is not Severity.OK] == []


def test_what_cannot_be_read_is_unknown_with_the_reason(node: MadeNode) -> None:
    node.remove("/proc/cmdline")
    node.remove("/sys/kernel/iommu_groups/12/type")
    [found] = node.findings("iommu-passthrough")
    assert (found.severity, found.found) == (Severity.UNKNOWN, "/proc/cmdline: No such file or directory")
    assert found.expected
    assert found.fix == ""


def test_configuration_space_that_only_root_can_read_is_unknown(node: MadeNode) -> None:
    (node.sysfs.path(PF) / "config").write_bytes(config_space(PAYLOAD_512, PAYLOAD_128, 2, 256)[:64])
    [found] = node.findings("pcie-max-payload")
    assert found.severity is Severity.UNKNOWN
    assert found.found == f"/sys/bus/pci/devices/{PF}: only root can read its configuration space"


def test_a_machine_of_which_nothing_can_be_read_has_no_check_that_holds_by_chance(
    node: MadeNode, tmp_path: Path
) -> None:
    (tmp_path / "proc").mkdir()
    findings = judge(Facts(node.config, Files.below(tmp_path), node.facts().sources))
    held = {each.id for each in findings if each.severity is Severity.OK}
    # What is not there is as it should be, or what answers is not a file.
    assert held == {
        "vfio-unsafe",
        "kernel-watchdog",
        "transparent-hugepages",
        "page-merging",
        "swap",
        "pcie-power-saving",
        "api-server",
        "permissions",
        "networks-resource",
    }


def test_processes_that_a_container_hides_are_unknown(node: MadeNode) -> None:
    node.remove("/proc/self/ns/pid")
    node.place("/proc/self/ns/pid").symlink_to("pid:[4026532840]")
    [found] = node.findings("irqbalance")
    assert found.severity is Severity.UNKNOWN
    assert found.found == (
        "/proc: only the processes of a container are seen here; run it on the node, or in a container with hostPID"
    )


def test_cluster_that_is_not_configured_is_told_once(node: MadeNode) -> None:
    node.answers.permissions = Error(Kind.UNAVAILABLE, "no kubeconfig is configured")
    found = [each for each in judge(node.facts()) if each.subject is Subject.CLUSTER]
    assert [(each.id, each.severity, each.found) for each in found] == [
        ("api-server", Severity.UNKNOWN, "no kubeconfig is configured")
    ]


def test_findings_are_in_the_order_of_the_subjects(node: MadeNode) -> None:
    found = [each.subject for each in judge(node.facts())]
    assert list(dict.fromkeys(found)) == list(Subject)


def test_every_check_names_what_it_expects_and_where_that_is_written() -> None:
    for each in CHECKS.values():
        assert each.expected, each.id
        assert each.why, each.id
        assert each.source, each.id
        assert each.otherwise not in {Severity.OK, Severity.UNKNOWN}, each.id


# Files


def test_a_path_below_var_run_is_found_in_run(tmp_path: Path) -> None:
    (tmp_path / "run/cdi").mkdir(parents=True)
    assert Files.below(tmp_path).exists("/var/run/cdi")


def test_sysfs_and_procfs_may_be_elsewhere(tmp_path: Path) -> None:
    files = Files(root="/node", sys="/host/sys", proc="/host/proc")
    assert [files.place(path) for path in ("/sys", "/sys/class", "/proc/1", "/etc/x", "/system")] == [
        "/host/sys",
        "/host/sys/class",
        "/host/proc/1",
        "/node/etc/x",
        "/node/system",
    ]


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("first\nlast\n")
    assert Files.below(tmp_path).data("/log", last=5) == b"last\n"


def test_a_folder_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert Files.below(tmp_path).entries("/file") == []
    with pytest.raises(Error, match="/none: No such file or directory"):
        Files.below(tmp_path).text("/none")
    with pytest.raises(Error, match="/: Is a directory"):
        Files.below(tmp_path).text("/", "default")


# CPUs


@pytest.mark.parametrize(
    ("text", "numbers"), [("", ""), ("0", "0"), ("0-3,8\n", "0-3,8"), ("1,3,2", "1-3"), ("0,2-3,5", "0,2-3,5")]
)
def test_list_of_cpus_is_read_and_written(text: str, numbers: str) -> None:
    assert cpulists.text_of(cpulists.of_list(text)) == (numbers or "none")


@pytest.mark.parametrize(("mask", "numbers"), [("0", "none"), ("3", "0-1"), ("0xC", "2-3"), ("1,00000001", "0,32")])
def test_mask_of_cpus_is_read(mask: str, numbers: str) -> None:
    assert cpulists.text_of(cpulists.of_mask(mask)) == numbers


@pytest.mark.parametrize("text", ["a", "1-", "3-a", "-"])
def test_what_is_no_list_of_cpus_is_refused(text: str) -> None:
    with pytest.raises(Error, match='expected a list of numbers like "0-3,8"'):
        cpulists.of_list(text)


# PCI


def test_sizes_and_vfs_are_found_among_the_capabilities() -> None:
    space = config_space(PAYLOAD_512, PAYLOAD_128, 5, 64)
    assert pciconfig.express(space) == pciconfig.Express(512, 128, 4096)
    assert pciconfig.total_vfs(space) == 64


def test_capabilities_that_lead_in_a_circle_end() -> None:
    space = bytearray(config_space(0, 0, 0, 8))
    space[0x41] = 0x40
    space[0x100:0x104] = (0x0001 | 2 << 16 | 0x100 << 20).to_bytes(4, "little")
    assert pciconfig.express(bytes(space)) is None
    assert pciconfig.total_vfs(bytes(space)) is None


@pytest.mark.parametrize("length", [256, 4096])
def test_device_without_capabilities_has_none(length: int) -> None:
    assert pciconfig.express(bytes(length)) is None
    assert pciconfig.total_vfs(bytes(length)) is None


def test_priorities_with_flow_control_are_the_bits_of_the_answer() -> None:
    pfc = attribute(2, bytes([8, 0b1001, 0, 0]) + bytes(132))
    assert dcb.unpack(bytes(4) + attribute(1, b"ens1f0\0") + nested(13, pfc)) == (0, 3)
    assert dcb.unpack(bytes(4) + attribute(1, b"ens1f0\0")) is None


# The kubelet


def test_flags_of_the_kubelet_override_its_file(tmp_path: Path) -> None:
    (tmp_path / "k.yaml").write_text(KUBELET_CONFIG)
    arguments = ("kubelet", "--config", "/k.yaml", "--topology-manager-policy=restricted", "--reserved-cpus", "0")
    config = kubeletconfig.read_config(Files.below(tmp_path), arguments)
    assert (config.cpu_manager_policy, config.topology_manager_policy) == ("static", "restricted")
    assert config.reserved_system_cpus == "0"


def test_drop_in_files_of_the_kubelet_override_its_file(tmp_path: Path) -> None:
    (tmp_path / "k.yaml").write_text(KUBELET_CONFIG)
    (tmp_path / "k.d").mkdir()
    (tmp_path / "k.d/10-a.conf").write_text("topologyManagerPolicy: best-effort\n")
    (tmp_path / "k.d/20-b.conf").write_text("topologyManagerPolicy: restricted\n")
    (tmp_path / "k.d/README").write_text("topologyManagerPolicy: none\n")
    arguments = ("kubelet", "--config=/k.yaml", "--config-dir=/k.d")
    config = kubeletconfig.read_config(Files.below(tmp_path), arguments)
    assert (config.cpu_manager_policy, config.topology_manager_policy) == ("static", "restricted")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "not YAML: "),
        ("- a", "expected an object, got "),
        ("reservedSystemCPUs: 3", "Expected `str`, got `int`"),
    ],
)
def test_configuration_of_the_kubelet_that_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "k.yaml").write_text(text)
    with pytest.raises(Error) as caught:
        kubeletconfig.read_config(Files.below(tmp_path), ("kubelet", "--config=/k.yaml"))
    assert caught.value.msg.startswith(f"/k.yaml: {message}")


def test_cpus_of_a_pod_are_those_of_all_its_containers(node: MadeNode) -> None:
    text = '{"policyName":"static","entries":{"u":{"a":"2-3","b":"9"}},"checksum":1}'
    node.write(f"{KUBELET}/cpu_manager_state", text)
    state = kubeletconfig.read_cpu_state(Files.below(node.root), KUBELET)
    assert [cpulists.text_of(state.of_pod(uid)) for uid in ("u", "v")] == ["2-3,9", "none"]

"""Which plugins of the reference set run in this process, by what is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from wirespeed.plugins.reference.bridge import Bridge
from wirespeed.plugins.reference.catalogue import Reference

OLD = "CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0"
NEW = f"{OLD}, 1.1.0"


@pytest.fixture
def reference(tmp_path: Path) -> Reference:
    return Reference(tmp_path / "leases")


def install(folder: Path, body: str) -> list[str]:
    """Install a program `bridge`; return CNI_PATH."""
    folder.mkdir(exist_ok=True)
    program = folder / "bridge"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return [str(folder)]


def printing(text: str) -> str:
    return f"cat >&2 <<'END'\n{text}\nEND"


@pytest.mark.parametrize(
    ("printed", "inside"),
    [
        (f"CNI bridge plugin v1.9.1\n{NEW}", True),
        (f"CNI bridge plugin v0.8.7\n{OLD}", True),
        (f"CNI bridge plugin v1.5.1-k3s1\n{OLD}", True),
        (f"CNI bridge plugin v1.9.2\n{NEW}", False),
        (f"CNI bridge plugin v1.10.0\n{NEW}", False),
        (f"CNI bridge plugin v2.0.0\n{NEW}", False),
        (f"CNI bridge plugin version unknown\n{OLD}", True),  # Debian's
        (f"CNI bridge plugin version unknown\n{NEW}", False),
        ("CNI ovs plugin v0.1.0", False),
        ("another program", False),
    ],
)
def test_executable_that_is_not_newer_is_replaced(
    reference: Reference, tmp_path: Path, printed: str, inside: bool
) -> None:
    path = install(tmp_path / "bin", printing(printed))
    assert (reference.plugin({"type": "bridge"}, path) is not None) == inside


def test_executable_that_fails_is_executed(reference: Reference, tmp_path: Path) -> None:
    path = install(tmp_path / "bin", "exit 3")
    assert reference.plugin({"type": "bridge"}, path) is None


def test_without_an_executable_it_runs_here(reference: Reference, tmp_path: Path) -> None:
    assert isinstance(reference.plugin({"type": "bridge"}, [str(tmp_path)]), Bridge)


def test_first_executable_of_the_path_counts(reference: Reference, tmp_path: Path) -> None:
    newer = install(tmp_path / "newer", printing(f"CNI bridge plugin v9.0.0\n{NEW}"))
    older = install(tmp_path / "older", printing(f"CNI bridge plugin v1.0.0\n{OLD}"))
    assert reference.plugin({"type": "bridge"}, newer + older) is None
    assert reference.plugin({"type": "bridge"}, older + newer) is not None


def test_version_is_read_again_only_when_the_executable_changes(reference: Reference, tmp_path: Path) -> None:
    noted = f"echo run >> {tmp_path}/runs"
    path = install(tmp_path / "bin", f"{noted}\n{printing('CNI bridge plugin v1.9.1')}")
    assert all(reference.plugin({"type": "bridge"}, path) for _ in range(3))
    assert (tmp_path / "runs").read_text() == "run\n"
    install(tmp_path / "bin", f"{noted}\n{printing('CNI bridge plugin v9.9.9 ')}")
    assert reference.plugin({"type": "bridge"}, path) is None


def test_version_is_asked_for_without_a_command(reference: Reference, tmp_path: Path) -> None:
    path = install(tmp_path / "bin", f'[ -z "$CNI_COMMAND" ] || exit 1\n{printing("CNI bridge plugin v1.9.1")}')
    assert reference.plugin({"type": "bridge"}, path) is not None


@pytest.mark.parametrize("key", ["ipMasq", "IPMASQ", "macspoofchk", "macSpoofChk"])
def test_what_needs_a_firewall_is_executed(reference: Reference, tmp_path: Path, key: str) -> None:
    assert reference.plugin({"type": "bridge", key: True}, [str(tmp_path)]) is None
    assert reference.plugin({"type": "bridge", key: False}, [str(tmp_path)]) is not None


def test_other_types_are_executed(reference: Reference, tmp_path: Path) -> None:
    assert reference.plugin({"type": "portmap"}, [str(tmp_path)]) is None

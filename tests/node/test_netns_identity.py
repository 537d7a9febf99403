"""Network namespaces are distinguished even if path and inode number are the same."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.node.conftest import Netns
from wirespeed.errors import Error, Kind
from wirespeed.kernel import netns as host_netns
from wirespeed.kernel.netns import Identity


def identity(path: str) -> Identity:
    with host_netns.opened(path) as ns:
        return ns.identity


def test_two_namespaces_have_two_identities(netns: Callable[[], Netns]) -> None:
    one, two = netns(), netns()
    assert identity(one.path) == identity(one.path)
    assert identity(one.path).cookie != identity(two.path).cookie


def test_a_namespace_is_found_by_its_path(netns: Callable[[], Netns]) -> None:
    made = netns()
    with host_netns.reopened(made.path, identity(made.path)) as found:
        assert found is not None
        assert found.path == made.path


def test_a_namespace_whose_path_is_gone_is_found_in_the_process_that_is_in_it(
    netns: Callable[[], Netns],
) -> None:
    made = netns()
    noted = identity(made.path)
    inside = subprocess.Popen(
        ["ip", "netns", "exec", made.name, "sh", "-c", "echo in; read x"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert inside.stdout is not None
    inside.stdout.readline()
    subprocess.run(["ip", "netns", "del", made.name], check=True)
    try:
        with host_netns.reopened(made.path, noted) as found:
            assert found is not None
            assert found.path == f"/proc/{inside.pid}/ns/net"
    finally:
        inside.communicate(b"\n")
    assert not host_netns.alive(made.path, noted)


def test_a_path_that_names_another_namespace_now_is_not_the_old_one(netns: Callable[[], Netns]) -> None:
    old, new = netns(), netns()
    assert not host_netns.alive(new.path, replace(identity(old.path), dev=0))


def test_a_namespace_with_the_inode_number_of_a_dead_one_is_not_taken_for_it(
    netns: Callable[[], Netns],
) -> None:
    made = netns()
    noted = identity(made.path)
    dead = replace(noted, cookie=noted.cookie - 1)  # the previous namespace with this inode number
    assert not host_netns.alive(made.path, dead)
    assert host_netns.alive(made.path, noted)


def test_what_is_no_namespace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, message in ((tmp_path / "file", "not a network namespace"), (tmp_path / "none", "No such file")):
        with pytest.raises(Error, match=message) as refused, host_netns.opened(os.fspath(path)):
            pass
        assert refused.value.kind == Kind.NOT_ATTACHED

"""Who has a device, when the kubelet is not running."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from wirespeed.errors import Error, Kind
from wirespeed.node import NodeConfig
from wirespeed.provision.owners import owners


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """The socket left behind by a kubelet that has ended."""
    path = tmp_path / "pod-resources/kubelet.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    return path


def config(folder: Path) -> NodeConfig:
    return NodeConfig(kubelet=str(folder), state=str(folder / "state.db"))


def test_kubelet_that_is_away_may_have_given_devices(left: Path, tmp_path: Path) -> None:
    with pytest.raises(Error) as raised:
        owners(config(tmp_path))
    assert raised.value.kind == Kind.TRY_AGAIN


def test_kubelet_that_has_not_run_since_the_boot_has_given_none(left: Path, tmp_path: Path) -> None:
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    os.utime(left, (booted - 60, booted - 60))
    assert owners(config(tmp_path)) == {}


def test_node_without_a_kubelet_has_given_none(tmp_path: Path) -> None:
    assert owners(config(tmp_path)) == {}

"""vdpa devices created and deleted with the kernel's own simulators."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.conftest import sh
from wirespeed.devices.vdpa import VdpaDevice, devices
from wirespeed.devices.vfio import users
from wirespeed.errors import Error, Kind
from wirespeed.provision import vdpa

MAKER, NAME = "vdpasim_net", "vdpa:test"


@pytest.fixture(autouse=True)
def _simulator() -> Iterator[None]:
    sh("modprobe", "vdpa_sim_net")
    yield
    vdpa.delete(NAME)


@pytest.mark.parametrize("kind", ["virtio", "vhost"])
def test_a_vdpa_device_is_made_on_the_driver_of_its_type(kind: str) -> None:
    for driver in ("virtio_vdpa", "vhost_vdpa"):  # both are loaded: the kernel binds a new device to the first
        sh("modprobe", driver)
    vdpa.create(MAKER, NAME, kind)
    made = VdpaDevice(NAME)
    assert (devices(), made.kind) == ([made], kind)
    assert (made.virtio is not None, Path(made.node).is_char_device()) == (kind == "virtio", kind == "vhost")
    vdpa.delete(NAME)
    assert not made.exists
    vdpa.delete(NAME)


def test_who_has_a_vdpa_device_open_is_told() -> None:
    vdpa.create(MAKER, NAME, "vhost")
    node = VdpaDevice(NAME).node
    with Path(node).open("rb") as opened:
        user = subprocess.Popen(["sleep", "60"], stdin=opened)
    try:
        assert users()[node] == f"process {user.pid} (sleep)"
    finally:
        user.kill()
        user.wait()


def test_a_device_that_cannot_be_made_is_told_with_its_maker() -> None:
    with pytest.raises(Error, match=rf"vdpa device {NAME} of pci/0000:01:10.0: No such device") as refused:
        vdpa.create("pci/0000:01:10.0", NAME, "vhost")
    assert refused.value.kind == Kind.DEVICE
    assert not VdpaDevice(NAME).exists

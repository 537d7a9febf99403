"""A vhost-user port in the directory of a device allocated by the device plugin."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.node.conftest import Netns
from tests.node.vhost.conftest import Host, Switch, network
from wirespeed.deviceplugin import vhostuser
from wirespeed.deviceplugin.config import VHOST_USER, PoolConfig
from wirespeed.errors import Error, Kind
from wirespeed.plugins.vhost.conf import Access

Pods = Callable[[], Netns]
POOL = PoolConfig(resource="intel.com/vhost", kind=VHOST_USER, count=2, access=Access(group=2345, mode=0o660))


@pytest.fixture
def devices(host: Host) -> Iterator[Path]:
    """The devices' directories. They outlive the attachments and are removed here."""
    folder = Path(host.node.config.vhost.sockets) / "devices"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_add_makes_its_socket_in_the_folder_of_the_given_device(
    switch: Switch, host: Host, netns: Pods, devices: Path
) -> None:
    told = vhostuser.container_response(POOL, ["vhost-1"], devices.parent)
    [mount] = told.mounts
    pod, conf = netns(), {**network(), "runtimeConfig": {"deviceID": "vhost-1"}}
    result = host.add(conf, pod)
    path = Path(result["interfaces"][0]["socketPath"])
    assert path.parent == Path(mount.host_path) == devices / "vhost-1"
    status = path.parent.stat()
    assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (2345, 0o770)
    host.check(conf, pod)
    assert switch.get("Interface", path.name, "options:vhost-server-path") == str(path)
    host.delete(conf, pod)
    assert list(path.parent.iterdir()) == []


def test_device_that_was_not_given_is_refused_and_nothing_is_left(
    switch: Switch, host: Host, netns: Pods, devices: Path
) -> None:
    with pytest.raises(Error, match=r"device vhost-0: there is no folder .*/devices/vhost-0") as caught:
        host.add({**network(), "runtimeConfig": {"deviceID": "vhost-0"}}, netns())
    assert caught.value.kind == Kind.DEVICE
    assert host.left() == []
    assert not devices.exists()

"""Pools of vhost-user devices: containers get directories for sockets."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.deviceplugins import BY_PF, VFS, Place, allocate, standing
from wirespeed.node import VhostConfig

POOL = {
    "resourceName": "vhost",
    "deviceType": "vhostUser",
    "count": 3,
    "socket": {"user": 1234, "group": "2345", "mode": "0640"},
}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with standing(tmp_path) as place:
        yield place


def sockets(place: Place) -> Path:
    return place.folder / "sockets"


def more(place: Place) -> dict[str, Any]:
    return {"vhost": VhostConfig(sockets=str(sockets(place)))}


def test_container_gets_a_folder_for_each_device(place: Place) -> None:
    with place.running(POOL, BY_PF[0], **more(place)):
        place.kubelet.wait_ids("intel.com/vhost", ["vhost-0", "vhost-1", "vhost-2"])
        place.kubelet.wait_ids("intel.com/one", VFS)
        answer = place.kubelet.allocate("default", "pod", "app", "intel.com/vhost", 2)
    assert dict(answer.envs) == {"VHOSTUSER_INTEL_COM_VHOST": "/run/vhost-user/vhost-0,/run/vhost-user/vhost-1"}
    assert [(mount.container_path, mount.host_path, mount.read_only) for mount in answer.mounts] == [
        (f"/run/vhost-user/{key}", str(sockets(place) / "devices" / key), False) for key in ("vhost-0", "vhost-1")
    ]
    assert not answer.devices
    for mount in answer.mounts:
        status = Path(mount.host_path).stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 2345, 0o750)
    assert not place.devinfo.exists()


def test_folder_is_another_one_each_time_that_the_device_is_given(place: Place) -> None:
    with place.running(POOL, **more(place)):
        place.kubelet.wait_ids("intel.com/vhost", ["vhost-0", "vhost-1", "vhost-2"])
        [mount] = allocate(place, "vhost-1", resource="vhost").container_responses[0].mounts
        before = Path(mount.host_path)
        (before / "left-by-a-pod").touch()
        with before.joinpath("left-by-a-pod").open() as held:
            allocate(place, "vhost-1", resource="vhost")
            assert list(before.iterdir()) == []
            assert held.read() == ""


def test_pool_that_shrinks_or_grows_is_told_as_it_is(place: Place) -> None:
    file = place.folder / "pools.json"
    with place.running(POOL, **more(place)):
        place.kubelet.wait_ids("intel.com/vhost", ["vhost-0", "vhost-1", "vhost-2"])
        for count in (1, 2):
            file.write_text(json.dumps({"resourceList": [{**POOL, "count": count}]}))
            place.kubelet.wait_until(
                lambda count=count: len(place.kubelet.resources()["intel.com/vhost"]) == count,  # type: ignore[misc]
                30,
                f"{count} devices",
            )

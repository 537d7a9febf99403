"""Keys of vhost-user pools."""

from __future__ import annotations

import json
from typing import Any

import pytest

from wirespeed.deviceplugin import vhostuser
from wirespeed.deviceplugin.config import PoolConfig, parse
from wirespeed.errors import Error
from wirespeed.plugins.vhost.conf import Access


def pools(*entries: dict[str, Any]) -> list[PoolConfig]:
    resources = [{"resourceName": "vhost", "deviceType": "vhostUser", **entry} for entry in entries]
    return parse(json.dumps({"resourceList": resources}).encode(), "intel.com")


def test_devices_are_named_after_the_resource() -> None:
    [pool] = pools({"count": 2})
    assert list(vhostuser.devices(pool)) == ["vhost-0", "vhost-1"]
    assert pool.access == Access()


def test_folders_have_an_owner_a_mode_and_a_label() -> None:
    socket = {"user": 1, "group": "2", "MODE": "0660", "selinuxLabel": "a:b:c:s0"}
    [pool] = pools({"count": 1, "socket": socket})
    assert pool.access == Access(user=1, group=2, mode=0o660, label="a:b:c:s0")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, 'key "resourceList[0].count" is missing: expected a number from 1 to 1024'),
        ({"count": 0}, 'key "resourceList[0].count": expected a number from 1 to 1024, got 0'),
        ({"count": True}, 'key "resourceList[0].count": expected a number from 1 to 1024, got True'),
        ({"count": 1, "socket": 5}, 'key "resourceList[0].socket": expected an object, got 5'),
        ({"count": 1, "socket": {"mode": "rw"}}, 'key "resourceList[0].socket.mode": expected octal digits'),
        (
            {"count": 1, "resourceName": "n" * 59},
            'key "resourceList[0].resourceName": expected at most 58 characters, because device ids are made of it',
        ),
    ],
)
def test_wrong_pool_is_refused_with_what_was_expected(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(Error) as caught:
        pools(entry)
    assert message in caught.value.msg


def test_pools_of_the_same_name_would_have_the_same_devices_and_are_refused() -> None:
    with pytest.raises(Error, match="another vhostUser pool has the name vhost too"):
        pools({"count": 1}, {"count": 1, "resourcePrefix": "acme.io"})

"""The kubelet's device checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wirespeed.cni.errors import Code, code_of
from wirespeed.errors import Error
from wirespeed.kube import checkpoint

UID = "970a395d-bb3b-11e8-89df-408d5c537d23"


def entry(uid: str, container: str, resource: str, **devices: list[str]) -> dict[str, Any]:
    by_node = {node.replace("node", ""): ids for node, ids in devices.items()}
    return {
        "PodUID": uid,
        "ContainerName": container,
        "ResourceName": resource,
        "DeviceIDs": by_node,
        "AllocResp": "CikKC3NyaW92X25ldA==",
    }


def written(folder: Path, *entries: dict[str, Any]) -> Path:
    path = folder / checkpoint.NAME
    registered = {"intel.com/net_A": ["0000:03:02.3", "0000:03:02.0"]}
    data = {"PodDeviceEntries": list(entries) or None, "RegisteredDevices": registered}
    path.write_text(json.dumps({"Data": data, "Checksum": 229855270}))
    return path


def test_devices_come_sorted_by_resource_whatever_container_and_numa_node_they_are_for(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        entry(UID, "a", "intel.com/net_A", **{"node-1": ["0000:03:02.3", "0000:03:02.0"]}),
        entry(UID, "b", "intel.com/net_A", node0=["0000:03:01.7"], node1=["0000:83:02.0"]),
        entry(UID, "b", "intel.com/net_B", node0=["0000:06:02.0"]),
        entry("another", "a", "intel.com/net_A", node0=["0000:03:02.9"]),
    )
    assert checkpoint.devices(path, UID) == {
        "intel.com/net_A": ["0000:03:01.7", "0000:03:02.0", "0000:03:02.3", "0000:83:02.0"],
        "intel.com/net_B": ["0000:06:02.0"],
    }


def test_resources_are_those_that_plugins_serve_and_those_that_pods_have(tmp_path: Path) -> None:
    path = written(tmp_path, entry("another", "a", "intel.com/net_B", node0=["0000:03:02.9"]))
    assert checkpoint.registered_resources(path) == {"intel.com/net_A", "intel.com/net_B"}
    path.write_text('{"Data": {"RegisteredDevices": null}}')
    assert checkpoint.registered_resources(path) == set()


def test_a_pod_that_is_not_in_it_has_none(tmp_path: Path) -> None:
    assert checkpoint.devices(written(tmp_path), UID) == {}


@pytest.mark.parametrize(
    ("text", "uid", "code"),
    [
        (None, UID, Code.IO_FAILURE),
        ('{"Data": {"PodDeviceEntries": [', UID, Code.DECODING_FAILURE),
        ('{"Data": {"PodDeviceEntries": [{"PodUID": 7}]}}', UID, Code.DECODING_FAILURE),
        ("[]", UID, Code.DECODING_FAILURE),
        ('{"Data": {}}', "", Code.INVALID_CONFIG),
    ],
    ids=["no file", "no JSON", "no entry", "no checkpoint", "no UID"],
)
def test_what_cannot_be_read_is_an_error_that_names_the_file(
    tmp_path: Path, text: str | None, uid: str, code: Code
) -> None:
    path = tmp_path / checkpoint.NAME
    if text is not None:
        path.write_text(text)
    with pytest.raises(Error) as error:
        checkpoint.devices(path, uid)
    assert code_of(error.value) == code
    assert error.value.msg.startswith(f"{path}: ")


@given(st.binary() | st.text().map(str.encode))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_is_read_or_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / checkpoint.NAME
    path.write_bytes(text)
    with pytest.raises(Error, match="not a checkpoint"):
        checkpoint.devices(path, UID)

"""CDI as in a runtime: which specification is used, its effect on a container, and what is rejected."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakesysfs import FakeSysfs
from wirespeed.deviceplugin.allocation import container_response
from wirespeed.deviceplugin.cdi import Specs
from wirespeed.deviceplugin.config import PoolConfig
from wirespeed.devices.inventory import Reader
from wirespeed.errors import Error, Kind
from wirespeed.play import cdi
from wirespeed.play.cdi import ContainerEdits
from wirespeed.play.devices import Node
from wirespeed.play.process import Mount

NULL, ZERO = (os.stat(path).st_rdev for path in ("/dev/null", "/dev/zero"))


def device(name: str = "one", **edits: Any) -> dict[str, Any]:
    return {"name": name, "containerEdits": edits or {"env": [f"NAME={name}"]}}


def spec(*devices: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"cdiVersion": "1.1.0", "kind": "acme.io/net", "devices": list(devices) or [device()], **keys}


def written(file: Path, *documents: Any) -> Path:
    """Write the specifications to the file. Return its directory."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(documents[0]) if file.suffix == ".json" else yaml.safe_dump_all(documents))
    return file.parent


def resolve_edits(folder: Path, *names: str) -> ContainerEdits:
    return cdi.resolve_edits([f"acme.io/net={name}" for name in names or ("one",)], [folder])


def node(path: str, number: int, mode: int = 0o666, uid: int = 0, gid: int = 0) -> Node:
    return Node(path, "c", os.major(number), os.minor(number), mode, uid, gid)


def test_container_gets_what_is_said_of_the_devices_that_it_names(tmp_path: Path) -> None:
    folder = written(
        tmp_path / "a.json",
        spec(
            device("one", env=["FIRST=1=one", "SHARED=one"], deviceNodes=[{"path": "/dev/zero"}]),
            device("two", deviceNodes=[{"path": "/dev/x/two", "hostPath": "/dev/null", "permissions": "rw"}]),
            device("three", env=["THIRD=3"]),
            containerEdits={
                "env": ["SHARED=all"],
                "mounts": [
                    {"hostPath": "/etc", "containerPath": "/a", "options": ["ro", "rbind", "nosuid", "rprivate"]}
                ],
            },
        ),
    )
    found = resolve_edits(folder, "one", "two", "one")
    assert found.environment == {"SHARED": "one", "FIRST": "1=one"}
    assert [*found.devices.values()] == [node("/dev/zero", ZERO), node("/dev/x/two", NULL)]
    assert [*found.mounts.values()] == [Mount("/etc", "/a", ("ro", "nosuid"))]


def test_no_name_needs_no_specification(tmp_path: Path) -> None:
    assert cdi.resolve_edits([], [tmp_path / "none"]) == ContainerEdits()


def test_node_has_what_the_specification_says_and_the_rest_from_this_machine(tmp_path: Path) -> None:
    owned = {"path": "/dev/a", "hostPath": "/dev/null", "type": "c", "fileMode": 0o640, "uid": 7, "gid": 8}
    whole = {"path": "/dev/not/here", "type": "b", "major": 7, "minor": 3}
    other = {"path": "/dev/zero", "type": "u", "major": 1, "minor": 3}
    pipe = {"path": "/dev/pipe", "hostPath": "/etc/passwd", "type": "p", "fileMode": 0o600}
    folder = written(tmp_path / "a.json", spec(device(deviceNodes=[owned, whole, other, pipe])))
    assert [*resolve_edits(folder).devices.values()] == [
        node("/dev/a", NULL, 0o640, 7, 8),
        Node("/dev/not/here", "b", 7, 3, 0o666),
        node("/dev/zero", NULL),
        Node("/dev/pipe", "p", 0, 0, 0o600),
    ]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"path": "/dev/not/here"}, "device /dev/not/here: No such file or directory"),
        ({"path": "/dev/a", "hostPath": "/etc/passwd"}, "device /etc/passwd: expected a device node"),
        ({"path": "/dev/null", "type": "b"}, "device /dev/null: expected a node of type b, got 'c'"),
        ({"path": "/dev/null", "type": "u"}, "device /dev/null: expected a node of type u, got 'c'"),
    ],
)
def test_node_that_is_not_as_it_should_be_is_refused(tmp_path: Path, keys: dict[str, str], told: str) -> None:
    folder = written(tmp_path / "a.json", spec(device(deviceNodes=[keys])))
    with pytest.raises(Error) as refused:
        resolve_edits(folder)
    assert refused.value.msg == f"CDI device acme.io/net=one: {tmp_path}/a.json: {told}"
    assert refused.value.kind == Kind.DEVICE


def test_later_folder_wins(tmp_path: Path) -> None:
    folders = [
        written(tmp_path / name / "a.yaml", spec(device(env=[f"FROM={name}"]), device(name)))
        for name in ("static", "dynamic")
    ]
    names = ["acme.io/net=one", "acme.io/net=static"]
    assert cdi.resolve_edits(names, folders).environment == {"FROM": "dynamic", "NAME": "static"}
    assert cdi.resolve_edits(names[:1], folders[::-1]).environment == {"FROM": "static"}


def test_device_that_two_files_of_a_folder_define_is_not_defined(tmp_path: Path) -> None:
    for name in "ab":
        written(tmp_path / f"{name}.json", spec(device(), device(name)))
    assert resolve_edits(tmp_path, "a", "b").environment == {"NAME": "b"}
    with pytest.raises(Error, match=rf"acme\.io/net=one: defined by {tmp_path}/a\.json and {tmp_path}/b\.json"):
        resolve_edits(tmp_path)


def test_name_that_nothing_defines_is_refused_with_the_files_that_are_wrong(tmp_path: Path) -> None:
    written(tmp_path / "good.json", spec())
    written(tmp_path / "bad.json", {"kind": 3})
    written(tmp_path / "other.txt", {"kind": 3})
    with pytest.raises(Error) as refused:
        cdi.resolve_edits(
            ["acme.io/net=two", "acme.io/net=one", "acme.io/net=three"], [tmp_path / "none", tmp_path]
        )
    assert refused.value.kind == Kind.DEVICE
    assert refused.value.msg == (
        f"CDI device acme.io/net=two, acme.io/net=three: no specification in {tmp_path}/none or {tmp_path} "
        f'defines it; {tmp_path}/bad.json: key "kind": expected a string, got 3'
    )


@pytest.mark.parametrize(
    ("edits", "told"),
    [
        ({"hooks": [{"hookName": "createContainer", "path": "/bin/x"}]}, "hook createContainer /bin/x"),
        ({"netDevices": [{"hostInterfaceName": "eth7", "name": "net1"}]}, "netDevice eth7"),
        ({"intelRdt": {"closID": "gold"}}, "intelRdt"),
        ({"additionalGids": [0, 44]}, "additionalGids"),
        (
            {"mounts": [{"hostPath": "tmpfs", "containerPath": "/a", "type": "tmpfs"}]},
            "mount on /a of type tmpfs with options none",
        ),
        (
            {"mounts": [{"hostPath": "/a", "containerPath": "/a", "options": ["bind", "slave"]}]},
            "mount on /a of type none with options bind,slave",
        ),
    ],
)
def test_edit_that_is_not_done_here_is_refused_by_its_name(
    tmp_path: Path, edits: dict[str, Any], told: str
) -> None:
    folder = written(tmp_path / "a.json", spec(device(**edits), device("other")))
    with pytest.raises(Error) as refused:
        resolve_edits(folder)
    assert (
        refused.value.msg
        == f"CDI device acme.io/net=one: {tmp_path}/a.json: `wirespeed play` does not support {told}"
    )
    assert resolve_edits(folder, "other").environment == {"NAME": "other"}


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"cdiVersion": "2.0.0"}, 'key "cdiVersion": expected one of 0.3.0, '),
        ({"kind": "acme.io"}, "expected vendor/class, got 'acme.io'"),
        ({"kind": "7.io/net"}, "expected vendor/class"),
        ({"devices": []}, 'key "devices": expected at least one'),
        ({"devices": [device(), device()]}, 'key "devices": one is there twice'),
        ({"devices": [device("a/b")]}, 'key "devices[0].name": expected letters, digits'),
        ({"devices": [{"name": "one"}]}, 'key "devices[0].containerEdits": expected at least one edit'),
        (
            {"devices": [device(env=["=x"])]},
            "key \"devices[0].containerEdits.env[0]\": expected NAME=VALUE, got '=x'",
        ),
        ({"devices": [device(envs=["A=x"])]}, 'unknown key "devices[0].containerEdits.envs"'),
        ({"devices": [device(deviceNodes=[{"path": ""}])]}, 'containerEdits.deviceNodes[0].path": expected a path'),
        (
            {"devices": [device(deviceNodes=[{"path": "/a", "type": "x"}])]},
            'deviceNodes[0].type": expected "b", "c", "u" or "p", got \'x\'',
        ),
        (
            {"devices": [device(deviceNodes=[{"path": "/a", "permissions": "rwx"}])]},
            "containerEdits.deviceNodes[0].permissions\": expected rwm or some of these, got 'rwx'",
        ),
        (
            {"containerEdits": {"mounts": [{"hostPath": "/a", "containerPath": ""}]}},
            'key "containerEdits.mounts[0].containerPath": expected a path',
        ),
        ({"cdiVersion": "0.5.0", "annotations": {"a": "b"}}, "at least 0.6.0, for what it uses, got '0.5.0'"),
        ({"cdiVersion": "0.5.0", "kind": "acme.io/a.b"}, "expected at least 0.6.0"),
        ({"cdiVersion": "0.4.0", "devices": [device("1")]}, "expected at least 0.5.0"),
        (
            {"cdiVersion": "v0.4.0", "devices": [device(deviceNodes=[{"path": "/a", "hostPath": "/b"}])]},
            "expected at least 0.5.0",
        ),
        (
            {
                "cdiVersion": "0.3.0",
                "containerEdits": {"mounts": [{"hostPath": "/a", "containerPath": "/b", "type": "bind"}]},
            },
            "expected at least 0.4.0",
        ),
        ({"cdiVersion": "0.6.0", "containerEdits": {"additionalGids": [4]}}, "expected at least 0.7.0"),
        ({"cdiVersion": "0.6.0", "containerEdits": {"intelRdt": {}}}, "expected at least 0.7.0"),
        (
            {"cdiVersion": "1.0.0", "containerEdits": {"intelRdt": {"enableMonitoring": True}}},
            "expected at least 1.1.0",
        ),
        ({"cdiVersion": "1.0.0", "containerEdits": {"netDevices": [{}]}}, "expected at least 1.1.0"),
    ],
)
def test_specification_that_is_not_valid_defines_nothing(tmp_path: Path, keys: dict[str, Any], told: str) -> None:
    folder = written(tmp_path / "a.json", spec(**keys))
    with pytest.raises(Error) as refused:
        resolve_edits(folder)
    assert told in refused.value.msg


def test_key_without_a_value_is_not_given(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "cdiVersion: 0.6.0\nkind: acme.io/net\nannotations:\ncontainerEdits:\n"
        "devices:\n- name: 52:54:00\n  annotations:\n  containerEdits: {env: [A=1], deviceNodes: , mounts: ~}\n"
    )
    assert resolve_edits(tmp_path, "52:54:00").environment == {"A": "1"}


def test_file_of_several_documents_is_no_specification(tmp_path: Path) -> None:
    with pytest.raises(Error, match=r"a\.yaml: expected one document, got 2"):
        resolve_edits(written(tmp_path / "a.yaml", spec(), spec()))


def test_what_the_device_plugin_writes_is_valid(tmp_path: Path) -> None:
    sysfs = FakeSysfs(tmp_path / "sys")
    kernel, vfio = sysfs.pf("0000:18:00.0", "ens1f0", vfs=2)
    sysfs.bind(vfio, "vfio-pci")
    pool, found = PoolConfig(resource="intel.com/dpdk"), Reader(str(sysfs.root)).read().devices
    specs = Specs(pool, sysfs=str(sysfs.root), folder=tmp_path / "cdi")
    told = container_response(pool, [found[kernel], found[vfio]], str(sysfs.root), specs)
    [first, second] = [each.name for each in told.cdi_devices]
    assert cdi.resolve_edits([first], [tmp_path / "cdi"]).environment == {"WIRESPEED_DEVICE_0000_19_00_0": kernel}
    with pytest.raises(Error, match=r"device /dev/vfio/.*: No such file or directory"):
        cdi.resolve_edits([second], [tmp_path / "cdi"])

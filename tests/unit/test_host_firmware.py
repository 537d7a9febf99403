"""Parsing of devlink's and ddptool's output, in the documented formats, from fake programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fakesysfs import FakeSysfs
from wirespeed.devices.firmware import Firmware, profile_of_ddptool
from wirespeed.devices.inventory import Reader

PF, VF0, VF1 = "0000:18:00.0", "0000:19:00.0", "0000:19:00.1"
COMMS = "ICE COMMS Package"

# The format of `devlink -j dev info` of iproute2, with the keys that the kernel documents for ice.
INFO = {
    "info": {
        f"pci/{PF}": {
            "driver": "ice",
            "serial_number": "00-01-00-ff-ff-00-00-00",
            "versions": {
                "fixed": {"board.id": "K65390-000"},
                "running": {"fw.mgmt": "5.4.5", "fw.app.name": COMMS, "fw.app": "1.3.20.0"},
                "stored": {"fw.undi": "1.2581.0"},
            },
        },
        "pci/0000:3b:00.0": {"driver": "mlx5_core", "versions": {"running": {"fw": "22.31.1014"}}},
        "pci/0000:3b:00.1": {"driver": "virtio_net"},
    }
}
# `devlink -j dev param show` for ConnectX VFs, shortened.
PARAMS = {
    "param": {
        f"pci/{VF0}": [
            {"name": "enable_eth", "type": "generic", "values": [{"cmode": "driverinit", "value": True}]},
            {"name": "enable_rdma", "type": "generic", "values": [{"cmode": "driverinit", "value": True}]},
        ],
        f"pci/{VF1}": [
            {"name": "enable_rdma", "type": "generic", "values": [{"cmode": "driverinit", "value": False}]}
        ],
    }
}
DDPTOOL = {
    "DDPInventory": {
        "device": "154c",
        "address": VF0,
        "name": "ens1f0v0",
        "DDPpackage": {"track_id": "80000008", "version": "1.0.3.0", "name": "GTPv1-C/U IPv4/IPv6 payload"},
    }
}


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for programs; PATH has only it and the shell's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
    return folder


def program(folder: Path, name: str, answer: str, status: int = 0) -> Path:
    """A program that prints the answer and exits with `status`. Return the file that gets its arguments."""
    calls = folder / f"{name}.calls"
    (folder / f"{name}.answer").write_text(answer)
    file = folder / name
    file.write_text(f'#!/bin/sh\necho "$*" >> {calls}\ncat {folder}/{name}.answer\nexit {status}\n')
    file.chmod(0o755)
    return calls


@pytest.fixture
def sysfs(tmp_path: Path) -> FakeSysfs:
    made = FakeSysfs(tmp_path / "sys")
    made.pf(PF, "ens1f0", vfs=2)
    return made


def test_profile_of_a_vf_is_that_of_its_pf_and_all_cost_one_question(programs: Path, sysfs: FakeSysfs) -> None:
    calls = program(programs, "devlink", json.dumps(INFO))
    found = Reader(str(sysfs.root), Firmware(wants_profiles=True)).read().devices
    assert {device.ddp_profile for device in found.values()} == {COMMS}
    assert calls.read_text() == "-j dev info\n"


def test_profile_that_devlink_does_not_know_is_asked_of_ddptool(programs: Path, sysfs: FakeSysfs) -> None:
    program(programs, "devlink", "{}")
    calls = program(programs, "ddptool", json.dumps(DDPTOOL))
    found = Reader(str(sysfs.root), Firmware(wants_profiles=True)).read().devices
    assert found[VF0].ddp_profile == "GTPv1-C/U IPv4/IPv6 payload"
    assert calls.read_text() == f"-l -a -j -s {VF0}\n-l -a -j -s {VF1}\n"


def test_profile_is_asked_again_with_each_look(programs: Path, sysfs: FakeSysfs) -> None:
    program(programs, "devlink", json.dumps(INFO))
    reader = Reader(str(sysfs.root), Firmware(wants_profiles=True))
    reader.read()
    program(programs, "devlink", json.dumps(INFO).replace(COMMS, "ICE OS Default Package"))
    assert reader.read_one(VF0).ddp_profile == COMMS  # type: ignore[union-attr]
    assert reader.read().devices[VF0].ddp_profile == "ICE OS Default Package"


def test_rdma_that_is_switched_on_counts_where_its_device_cannot_be_seen(programs: Path, sysfs: FakeSysfs) -> None:
    program(programs, "devlink", json.dumps(PARAMS))
    found = Reader(str(sysfs.root), Firmware(wants_rdma=True)).read().devices
    assert (found[VF0].has_rdma, found[VF0].rdma) == (True, ())
    assert not found[VF1].has_rdma


def test_nobody_is_asked_for_what_no_pool_wants(programs: Path, sysfs: FakeSysfs) -> None:
    asked = [program(programs, name, "{}") for name in ("devlink", "ddptool")]
    Reader(str(sysfs.root)).read()
    assert not any(calls.exists() for calls in asked)


@pytest.mark.parametrize("answer", ["not JSON", "[]", ""])
def test_answer_that_is_none_is_as_no_profile(programs: Path, sysfs: FakeSysfs, answer: str) -> None:
    program(programs, "devlink", answer, status=1)
    program(programs, "ddptool", answer, status=1)
    found = Reader(str(sysfs.root), Firmware(wants_profiles=True, wants_rdma=True)).read().devices
    assert (found[VF0].ddp_profile, found[VF0].has_rdma) == ("", False)


def test_what_goes_wrong_is_told_once(programs: Path, sysfs: FakeSysfs, caplog: pytest.LogCaptureFixture) -> None:
    program(programs, "devlink", "", status=1)
    reader = Reader(str(sysfs.root), Firmware(wants_rdma=True))
    for _ in range(3):
        reader.read()
    assert [record.getMessage() for record in caplog.records] == ["devlink dev param show: exit status 1: "]


def test_profile_of_ddptool() -> None:
    assert profile_of_ddptool(0, json.dumps(DDPTOOL)) == "GTPv1-C/U IPv4/IPv6 payload"
    assert profile_of_ddptool(0, json.dumps({"DDPInventory": [DDPTOOL["DDPInventory"]]})).startswith("GTPv1")
    assert profile_of_ddptool(8, "") == ""


@pytest.mark.parametrize(
    ("status", "output"),
    [
        (0, "Intel(R) Dynamic Device Personalization Tool"),
        (127, json.dumps(DDPTOOL)),
        (0, '{"other": {}}'),
        (0, '{"DDPInventory": {"device": "154c"}}'),
        (0, '{"DDPInventory": {"DDPpackage": {"name": 7}}}'),
        (0, '{"DDPInventory": []}'),
    ],
)
def test_answer_of_ddptool_that_names_no_profile_is_refused(status: int, output: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        profile_of_ddptool(status, output)

"""vdpa devices of VFs: in plans, and how they are found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests import pfs
from tests.fakesysfs import FakeSysfs, vf_address
from wirespeed.devices import vdpa
from wirespeed.devices.snapshot import VdpaState
from wirespeed.devices.vdpa import VdpaDevice
from wirespeed.provision import plan
from wirespeed.provision.facts import VfFacts
from wirespeed.provision.policy import Group, Wanted

PF = pfs.ADDRESS
VF = vf_address(PF, 0)
WHERE = f"PF ens1f0 ({PF}): VF 0 ({VF}): "


def planned(vf: VfFacts, *, device_type: str = "netdevice", vdpa_type: str | None) -> plan.Plan:
    """The plan for a PF in switchdev mode with this VF, which is to have these types."""
    pf = replace(pfs.PF, driver="mlx5_core", eswitch="switchdev", vfs=(vf,))
    group = Group(resource="r", numbers=frozenset({0}), device_type=device_type, vdpa=vdpa_type)
    return plan.make({PF: Wanted(num_vfs=1, eswitch="switchdev", groups=(group,))}, [pf])


def vf(vdpa_type: str = "", *, user: str = "") -> VfFacts:
    made = VdpaState(name="vdpa0", driver=vdpa_type.removesuffix("none")) if vdpa_type else None
    return replace(pfs.vf("mlx5_core"), vdpa=made, user=user)


def texts(made: plan.Plan) -> list[str]:
    assert all(change.what.startswith(WHERE) for change in made.changes)
    return [change.what.removeprefix(WHERE) for change in made.changes]


@pytest.mark.parametrize(
    ("now", "wanted", "steps"),
    [
        ("", "vhost", ["vdpa device of type vhost"]),
        ("vhost", "vhost", []),
        ("virtio", "vhost", ["remove its vdpa device vdpa0 (type virtio)", "vdpa device of type vhost"]),
        ("none", "virtio", ["remove its vdpa device vdpa0 (type none)", "vdpa device of type virtio"]),
        ("virtio", "", ["remove its vdpa device vdpa0 (type virtio)"]),
        ("none", "", ["remove its vdpa device vdpa0 (type none)"]),
        ("virtio", None, []),  # no vdpa type is wanted
    ],
)
def test_a_vf_has_the_vdpa_device_that_its_policy_names(now: str, wanted: str | None, steps: list[str]) -> None:
    assert texts(planned(vf(now), vdpa_type=wanted)) == steps


def test_a_vf_that_goes_to_vfio_loses_its_vdpa_device_first() -> None:
    made = planned(vf("vhost"), device_type="vfio-pci", vdpa_type="")
    assert texts(made) == ["remove its vdpa device vdpa0 (type vhost)", "driver vfio-pci (now mlx5_core)"]


def test_a_vdpa_device_in_use_is_left_alone() -> None:
    made = planned(vf("vhost", user="process 10 (dpdk-testpmd)"), vdpa_type="virtio")
    assert made.changes == []
    assert [error.msg for error in made.refused] == [
        f"PF ens1f0 ({PF}): VF 0 ({VF}) would be changed, and is in use: process 10 (dpdk-testpmd)"
    ]


def test_vdpa_devices_are_known_by_what_they_were_made_of(tmp_path: Path) -> None:
    sysfs = FakeSysfs(tmp_path)
    first, second, _ = sysfs.pf(PF, "ens1", vfs=3, driver="mlx5_core", vf_driver="mlx5_core")
    sysfs.vdpa(sysfs.path(first), "vdpa:a", "vhost_vdpa")
    sysfs.vdpa(sysfs.path(second), "vdpa:b", "virtio_vdpa")
    (sysfs.path(second) / "vdpa:b/driver").unlink()
    assert vdpa.by_parent(tmp_path) == {
        first: VdpaDevice("vdpa:a", tmp_path),
        second: VdpaDevice("vdpa:b", tmp_path),
    }


def test_a_node_without_vdpa_has_none(tmp_path: Path) -> None:
    assert vdpa.by_parent(tmp_path) == {}

"""Snapshots of network functions: what is written to the journal is what is read from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from wirespeed.devices.pci import PciDevice
from wirespeed.devices.snapshot import NETDEV_PROPERTIES, Snapshot, VdpaState, take
from wirespeed.devices.vf import Vf
from wirespeed.errors import Error, Kind
from wirespeed.kernel.ethtool import RssConfig
from wirespeed.kernel.netlink.link import IFF_UP, Link
from wirespeed.kernel.netlink.vf import VfSettings
from wirespeed.kernel.netns import Identity
from wirespeed.plugins.sriov.record import record_of
from wirespeed.state.journal import DeviceClaim

LINK = Link(index=9, name="eth9", mac="02:00:00:00:00:01", mtu=1500, flags=IFF_UP, altnames=("alt",), parent="p")


def function(tmp_path: Path, **more: Any) -> Vf:
    device, pf = (PciDevice(address, tmp_path) for address in ("0000:03:02.0", "0000:03:00.0"))
    settings = VfSettings(mac="02:00:00:00:00:02", vlan=5, trust=False)
    return Vf(device=device, pf=pf, index=3, driver="iavf", settings=settings, **more)


def as_record(snapshot: Snapshot) -> dict[str, Any]:
    record: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(snapshot))
    return record


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"link": LINK},
        {"link": LINK, "queues": 4, "rss": RssConfig(table=(0, 1, 0, 1), hash="toeplitz", key="6d:5a")},
    ],
)
def test_snapshot_comes_back_from_its_json_as_it_was(tmp_path: Path, more: dict[str, Any]) -> None:
    snapshot = take(function(tmp_path, **more))
    record = as_record(snapshot)
    assert msgspec.convert(record, Snapshot) == snapshot
    assert json.loads(json.dumps(record)) == record


def test_record_of_an_older_release_lacks_properties_which_then_stay_as_they_are(tmp_path: Path) -> None:
    record = as_record(take(function(tmp_path, link=LINK)))
    for key in NETDEV_PROPERTIES:
        del record["link"][key]
    link = msgspec.convert(record, Snapshot).link
    assert link is not None
    assert link.changes(Link(index=9, name="eth9", mac="02:00:00:00:00:09", mtu=9000, flags=0)) == {}


def test_infiniband_address_is_no_property_to_set(tmp_path: Path) -> None:
    link = take(function(tmp_path, link=LINK)).link
    assert link is not None
    now = Link(index=9, name="eth9", mac=":".join(["00"] * 20), mtu=4096, flags=IFF_UP, infiniband=True)
    assert link.changes(now)["mtu"] == 1500
    assert "mac" not in link.changes(now)


def test_vdpa_device_of_a_snapshot_is_that_of_the_function_even_if_it_is_gone(tmp_path: Path) -> None:
    vf = function(tmp_path)
    before = Snapshot(
        pf="0000:03:00.0",
        index=3,
        driver="mlx5_core",
        settings=VfSettings(),
        vdpa=VdpaState(name="vdpa7", driver="virtio"),
    )
    made = before.with_vdpa(vf).vdpa
    assert made is not None
    assert (made.address, made.exists) == ("vdpa7", False)
    assert take(vf).with_vdpa(vf).vdpa is None


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("index", "3", r"\$\.before\.index"),
        ("settings", {"vlan": "5"}, r"\$\.before\.settings\.vlan"),
        ("pf", None, r"\$\.before\.pf"),
    ],
)
def test_unreadable_record_is_an_error_that_names_the_key(
    tmp_path: Path, key: str, value: object, told: str
) -> None:
    before = as_record(take(function(tmp_path))) | {key: value}
    claim = DeviceClaim(
        device="0000:03:02.0",
        plugin="sriov",
        container="c",
        ifname="net1",
        netns="/n",
        identity=Identity(1, 2, 3),
        record={"before": before, "wanted": {"settings": {}}},
    )
    with pytest.raises(Error, match=told) as refused:
        record_of(claim)
    assert refused.value.kind == Kind.INVALID_DATA

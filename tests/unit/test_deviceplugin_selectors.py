"""Selectors: which devices match, and why the others do not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirespeed.deviceplugin import selectors
from wirespeed.deviceplugin.selectors import Selectors
from wirespeed.devices.inventory import NetDevice
from wirespeed.errors import Error

VF = NetDevice(
    address="0000:03:02.1",
    vendor="8086",
    device="154c",
    driver="vfio-pci",
    numa_node=1,
    iommu_group="42",
    pf="0000:03:00.0",
    pf_name="ens1f0",
    vf_index=1,
    link_type="ether",
    acpi_index="101",
    ddp_profile="ICE COMMS Package",
)
NIC = NetDevice(
    address="0000:05:00.0",
    vendor="15b3",
    device="1017",
    driver="mlx5_core",
    link_type="infiniband",
    acpi_index="102",
    ddp_profile="ICE OS Default Package",
    pkey="0x8001",
    rdma=("mlx5_0",),
    has_rdma=True,
    vdpa="vdpa0",
    vdpa_driver="vhost",
)


def function(pf: str, number: int) -> NetDevice:
    """The VF with this number of a PF with this name or address; number -1 is not a VF."""
    return dataclasses.replace(VF, pf=pf, pf_name=pf, vf_index=number)


@pytest.mark.parametrize(
    ("key", "fits", "others"),
    [
        ("vendors", "8086", "15b3"),
        ("devices", "154c", "1017"),
        ("drivers", "vfio-pci", "mlx5_core"),
        ("pci_addresses", "0000:03:02.1", "0000:05:00.0"),
        ("link_types", "ether", "infiniband"),
        ("acpi_indexes", "101", "102"),
        ("ddp_profiles", "ICE COMMS Package", "ICE OS Default Package"),
    ],
)
def test_key_takes_what_has_one_of_its_values_and_nothing_else(key: str, fits: str, others: str) -> None:
    def selecting(*values: str) -> Selectors:
        return Selectors(**{key: frozenset(values)})  # type: ignore[arg-type]

    assert selecting(fits).mismatch(VF) == ""
    assert selecting(fits, "else").mismatch(VF) == ""
    assert selecting(fits).mismatch(NIC) != ""
    assert selecting(others).mismatch(NIC) == ""
    assert selecting(others).mismatch(VF) != ""


def test_keys_that_only_some_devices_have_anything_for() -> None:
    for key, value in (("pkeys", frozenset({"0x8001"})), ("is_rdma", True), ("vdpa_type", "vhost")):
        selecting = Selectors(**{key: value})  # type: ignore[arg-type]
        assert selecting.mismatch(NIC) == ""
        assert " none is not " in selecting.mismatch(VF)
    assert Selectors(pkeys=frozenset({"0x8002"})).mismatch(NIC) == "pKeys: 0x8001 is not 0x8002"
    assert Selectors(vdpa_type="virtio").mismatch(NIC) == "vdpaType: vhost is not virtio"
    assert Selectors(need_vhost_net=True).mismatch(VF) == ""


def test_all_keys_have_to_fit() -> None:
    fitting = Selectors(
        vendors=frozenset({"8086"}),
        devices=frozenset({"154c"}),
        drivers=frozenset({"vfio-pci"}),
        pci_addresses=frozenset({"0000:03:02.1"}),
        link_types=frozenset({"ether"}),
        pf_names=selectors.pf_names(["ens1f0#1"]),
        root_devices=selectors.root_devices(["0000:03:00.0"]),
    )
    assert fitting.mismatch(VF) == ""
    for field in ("vendor", "device", "driver", "address", "link_type", "pf_name", "pf"):
        other: Any = {field: "other"}
        assert fitting.mismatch(dataclasses.replace(VF, **other)) != ""
    assert fitting.mismatch(dataclasses.replace(VF, vf_index=2)) != ""


def test_refusal_says_which_key_and_what_the_device_has() -> None:
    assert (
        Selectors(drivers=frozenset({"iavf", "ixgbevf"})).mismatch(VF) == "drivers: vfio-pci is not iavf or ixgbevf"
    )
    assert Selectors(pf_names=selectors.pf_names(["ens1f1"])).mismatch(VF) == "pfNames: ens1f0#1 is not ens1f1"
    assert Selectors(pf_names=selectors.pf_names(["ens1f1"])).mismatch(NIC) == "pfNames: none is not ens1f1"
    many = Selectors(pci_addresses=frozenset(f"0000:07:00.{number}" for number in range(7)))
    assert many.mismatch(VF).endswith(
        "is not 0000:07:00.0 or 0000:07:00.1 or 0000:07:00.2 or 0000:07:00.3 or 3 more"
    )


def test_pf_names_take_the_functions_that_they_name() -> None:
    taking = Selectors(pf_names=selectors.pf_names(["ens0", "ens2f0#1", "ens2f1#0,3-5,7"]))
    devices = [("ens0", -1), ("eth0", -1), ("ens2f0", 1), *[("ens2f1", number) for number in range(8)]]
    taken = [each for each in devices if not taking.mismatch(function(*each))]
    assert taken == [("ens0", -1), ("ens2f0", 1), *[("ens2f1", number) for number in (0, 3, 4, 5, 7)]]


def test_root_devices_take_the_functions_that_they_name() -> None:
    taking = Selectors(
        root_devices=selectors.root_devices(["0000:86:00.0", "0000:86:00.1#1", "0000:86:00.2#0-2,5,7"])
    )
    devices = [
        ("0000:86:00.0", -1),
        ("0000:a0:00.0", -1),
        ("0000:86:00.1", 1),
        *[("0000:86:00.2", number) for number in range(8)],
    ]
    taken = [each for each in devices if not taking.mismatch(function(*each))]
    assert taken == [devices[0], devices[2], *[("0000:86:00.2", number) for number in (0, 1, 2, 5, 7)]]


def test_pf_is_taken_in_any_case_and_its_entries_add_up() -> None:
    taking = Selectors(pf_names=selectors.pf_names(["eth0#0", "ETH0#3"]))
    assert [number for number in range(5) if not taking.mismatch(function("Eth0", number))] == [0, 3]


def test_pf_names_never_take_a_device_that_is_no_vf() -> None:
    assert Selectors(pf_names=selectors.pf_names(["ens1f0"])).mismatch(NIC) != ""


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"], exclude_characters="/#"), min_size=1)


@given(NAMES.filter(lambda name: len(name.lower()) < 128), st.sets(st.integers(0, 300), min_size=1))
def test_numbers_behind_a_pf_are_those_and_no_others(name: str, numbers: set[int]) -> None:
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    text = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
    [(key, ranges)] = selectors.pf_names([f"{name}#{text}"]).items()
    assert key == name.lower()
    assert {number for each in ranges for number in each} == numbers


@given(st.lists(st.text() | st.from_regex(r"\A[a-z0:.]{0,14}(#[0-9,\- #a]{0,12})?\Z"), max_size=4))
def test_any_entries_are_either_functions_or_refused(entries: list[str]) -> None:
    for parser in (selectors.pf_names, selectors.root_devices):
        try:
            found: Any = parser(entries)
        except Error as error:
            assert error.expected
        else:
            assert all(each.start < each.stop for ranges in found.values() for each in ranges)

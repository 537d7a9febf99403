"""Which devices are preferred together: NUMA nodes, IOMMU groups, PFs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirespeed.deviceplugin.preference import preferred, without_memory_or_cpus
from wirespeed.devices.inventory import NetDevice


def vf(pf: int, number: int, *, node: int = 0, group: str = "") -> NetDevice:
    return NetDevice(
        address=f"0000:{pf:02x}:10.{number}",
        vendor="8086",
        device="154c",
        driver="iavf",
        pf=f"0000:{pf:02x}:00.0",
        numa_node=node,
        iommu_group=group,
    )


def short(addresses: list[str]) -> list[str]:
    """The PF's and the VF's number of each address."""
    return [f"{int(address[5:7], 16)}.{address[-1]}" for address in addresses]


THREE_PFS = [vf(pf, number) for pf in (1, 2, 3) for number in range(3)]


def test_devices_are_spread_over_the_pfs() -> None:
    assert short(preferred(THREE_PFS, [], 3)) == ["1.0", "2.0", "3.0"]
    assert short(preferred(THREE_PFS, [], 4)) == ["1.0", "1.1", "2.0", "3.0"]


def test_what_must_be_given_counts_on_its_pf() -> None:
    assert short(preferred(THREE_PFS, [THREE_PFS[0]], 3)) == ["1.0", "2.0", "3.0"]
    assert short(preferred(THREE_PFS, [THREE_PFS[0]], 3, packed=True)) == ["1.0", "1.1", "1.2"]


def test_one_device_after_the_other_is_spread_too() -> None:
    left, taken = list(THREE_PFS), []
    for _ in range(6):
        [address] = preferred(left, [], 1)
        taken.append(address)
        left = [device for device in left if device.address != address]
    assert Counter(address[5:7] for address in taken) == {"01": 2, "02": 2, "03": 2}


def test_packed_devices_fill_the_pf_with_least_left() -> None:
    available = [*THREE_PFS[:3], *THREE_PFS[4:]]  # two VFs are left on the second PF
    assert short(preferred(available, [], 1, packed=True)) == ["2.1"]
    assert short(preferred(available, [], 3, packed=True)) == ["1.0", "2.1", "2.2"]
    assert short(preferred(THREE_PFS, [], 3, packed=True)) == ["1.0", "1.1", "1.2"]


def test_numa_node_comes_before_the_spread() -> None:
    available = [vf(1, 0), vf(1, 1), vf(2, 0, node=1)]
    assert short(preferred(available, [], 2)) == ["1.0", "1.1"]


def test_iommu_groups_stay_whole() -> None:
    pairs = [vf(1, number, group=f"g{number // 2}") for number in range(4)]
    single = vf(2, 0, group="g9")
    assert short(preferred([*pairs, single], [], 1)) == ["2.0"]
    assert short(preferred(pairs, [pairs[3]], 2)) == ["1.2", "1.3"]
    assert short(preferred(pairs, [], 2)) == ["1.0", "1.1"]


def test_nodes_to_be_taken_last_are() -> None:
    available = [vf(1, 0), vf(1, 1), vf(2, 0, node=1)]
    assert short(preferred(available, [], 1, last={0})) == ["2.0"]
    assert short(preferred(available, [], 2, last={0})) == ["1.0", "2.0"]
    assert short(preferred(available, [available[0]], 2, last={0})) == ["1.0", "1.1"]


@pytest.mark.parametrize(
    ("cpus", "free", "size", "last"),
    [
        ("0-3", "2", 2048, set()),
        ("0-3", "0", 2048, {0}),
        ("0-3", "0", 0, set()),
        ("", "2", 0, {0}),
        ("0", "2", 4, {0}),
    ],
)
def test_node_without_cpus_or_free_hugepages_is_last(
    tmp_path: Path, cpus: str, free: str, size: int, last: set[int]
) -> None:
    node = tmp_path / "devices/system/node/node0"
    (node / "hugepages/hugepages-2048kB").mkdir(parents=True)
    (node / "cpulist").write_text(f"{cpus}\n")
    (node / "hugepages/hugepages-2048kB/free_hugepages").write_text(f"{free}\n")
    assert without_memory_or_cpus([0, 1, -1], size, str(tmp_path)) == last


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 7), st.integers(0, 1), st.integers(0, 4)), max_size=20),
    st.booleans(),
    st.data(),
)
def test_choice_is_complete_and_the_same_in_any_order(
    raw: list[tuple[int, int, int, int]], packed: bool, data: st.DataObject
) -> None:
    by_address = {
        device.address: device
        for pf, number, node, group in raw
        for device in [vf(pf, number, node=node, group=str(group or ""))]
    }
    devices = list(by_address.values())
    size = data.draw(st.integers(0, len(devices)))
    must = devices[: data.draw(st.integers(0, size))]
    chosen = preferred(devices, must, size, packed=packed)
    assert len(set(chosen)) == len(chosen) == size
    assert {device.address for device in must} <= set(chosen) <= set(by_address)
    assert preferred(data.draw(st.permutations(devices)), must, size, packed=packed) == chosen

"""Keys of a pool that control health checks and allocation."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from wirespeed.deviceplugin.config import PoolConfig, parse
from wirespeed.deviceplugin.health import REASONS
from wirespeed.deviceplugin.pools import assign, mismatch
from wirespeed.devices.inventory import Inventory, NetDevice
from wirespeed.errors import Error


def pool(**keys: Any) -> PoolConfig:
    text = json.dumps({"resourceList": [{"resourceName": "a", **keys}]})
    [found] = parse(text.encode(), "intel.com")
    return found


def test_all_faults_count_unless_the_pool_names_some_or_none() -> None:
    assert pool().health == set(REASONS)
    assert pool(health=None).health == set(REASONS)
    assert pool(health=[]).health == set()
    assert pool(health=["link", "driver"]).health == {"link", "driver"}


def test_devices_are_spread_unless_the_pool_is_packed() -> None:
    assert not pool().packed
    assert not pool(allocation="spread").packed
    assert pool(allocation="packed").packed


@pytest.mark.parametrize(("text", "size"), [("", 0), ("4Ki", 4), ("2Mi", 2048), ("1Gi", 1 << 20)])
def test_hugepages_are_of_a_size(text: str, size: int) -> None:
    assert pool(hugepages=text).hugepages == size


@pytest.mark.parametrize(
    ("value", "driver"),
    [(None, ""), (False, ""), ("", ""), (True, "vfio-pci"), ("uio_pci_generic", "uio_pci_generic")],
)
def test_bind_names_a_driver_or_means_vfio_pci(value: object, driver: str) -> None:
    assert pool(bind=value).bind == driver


def test_vf_on_the_driver_that_is_bound_stays_in_its_pool() -> None:
    on_vfio = NetDevice(address="0000:19:00.0", vendor="8086", device="154c", driver="vfio-pci")
    assert not mismatch(pool(bind=True, selectors={"drivers": ["iavf"]}), on_vfio)
    assert mismatch(pool(selectors={"drivers": ["iavf"]}), on_vfio)
    assert mismatch(pool(bind=True, selectors={"drivers": ["iavf"], "vendors": ["15b3"]}), on_vfio)


def test_vf_that_is_bound_does_not_go_to_a_pool_that_takes_its_new_driver() -> None:
    on_vfio = NetDevice(address="0000:19:00.0", vendor="8086", device="154c", driver="vfio-pci")
    dpdk = replace(pool(selectors={"drivers": ["vfio-pci"]}), resource="a.b/dpdk")
    mixed = replace(pool(bind=True, selectors={"drivers": ["iavf"]}), resource="a.b/mixed")
    found = assign([dpdk, mixed], Inventory({on_vfio.address: on_vfio}))
    assert found == {"a.b/dpdk": {}, "a.b/mixed": {on_vfio.address: on_vfio}}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"health": ["links"]},
            'key "resourceList[0].health[0]": expected "gone", "driver", "pcie", "devlink", "vfio" or "link", got '
            "'links'",
        ),
        ({"health": "link"}, 'key "resourceList[0].health": expected a list'),
        ({"allocation": "even"}, 'key "resourceList[0].allocation": expected "spread" or "packed", got \'even\''),
        ({"allocation": True}, 'key "resourceList[0].allocation": expected "spread" or "packed", got True'),
        (
            {"hugepages": "2M"},
            'key "resourceList[0].hugepages": expected a page size like "2Mi" or "1Gi", got \'2M\'',
        ),
        ({"bind": 1}, 'key "resourceList[0].bind": expected true or the name of a driver like "vfio-pci", got 1'),
        ({"bind": 0}, 'key "resourceList[0].bind": expected true or the name of a driver'),
        ({"bind": "../x"}, 'key "resourceList[0].bind": expected true or the name of a driver'),
        ({"bind": [1]}, 'key "resourceList[0].bind": expected true or the name of a driver'),
        (
            {"bind": True, "deviceType": "accelerator"},
            'key "resourceList[0].bind": only devices of deviceType netDevice can be bound',
        ),
        ({"hugepages": 2}, 'key "resourceList[0].hugepages": expected a page size like "2Mi" or "1Gi", got 2'),
    ],
)
def test_wrong_value_is_refused_with_what_was_expected(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(Error) as caught:
        pool(**keys)
    assert message in caught.value.msg

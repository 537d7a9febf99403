"""Pools: a device is in at most one; and the table that shows where each device went."""

from __future__ import annotations

import json

from wirespeed.deviceplugin import selectors
from wirespeed.deviceplugin.config import PoolConfig, parse
from wirespeed.deviceplugin.pools import abbreviate, assign, explain, table
from wirespeed.deviceplugin.selectors import Selectors
from wirespeed.devices.inventory import Inventory, NetDevice


def vf(number: int, *, driver: str = "iavf", pf: str = "ens1f0") -> NetDevice:
    return NetDevice(
        address=f"0000:03:02.{number}",
        vendor="8086",
        device="154c",
        driver=driver,
        pf="0000:03:00.0",
        pf_name=pf,
        vf_index=number,
    )


def inventory(*devices: NetDevice, **left_out: str) -> Inventory:
    return Inventory({device.address: device for device in devices}, left_out)


def pool(name: str, *taking: Selectors) -> PoolConfig:
    return PoolConfig(resource=f"intel.com/{name}", selectors=taking)


DPDK = pool("dpdk", Selectors(drivers=frozenset({"vfio-pci"})))
FIRST_TWO = pool("net", Selectors(pf_names=selectors.pf_names(["ens1f0#0-1"])))
REST = pool("rest")


def members(pools: list[PoolConfig], found: Inventory) -> dict[str, list[str]]:
    return {resource: sorted(devices) for resource, devices in assign(pools, found).items()}


def test_first_pool_that_fits_takes_the_device() -> None:
    found = inventory(vf(0, driver="vfio-pci"), vf(1), vf(2), vf(3, driver="vfio-pci"))
    assert members([DPDK, FIRST_TWO, REST], found) == {
        "intel.com/dpdk": ["0000:03:02.0", "0000:03:02.3"],
        "intel.com/net": ["0000:03:02.1"],
        "intel.com/rest": ["0000:03:02.2"],
    }
    assert members([FIRST_TWO, DPDK, REST], found) == {
        "intel.com/net": ["0000:03:02.0", "0000:03:02.1"],
        "intel.com/dpdk": ["0000:03:02.3"],
        "intel.com/rest": ["0000:03:02.2"],
    }


def test_second_pool_of_the_same_devices_is_empty_and_still_there() -> None:
    assert members([REST, pool("again")], inventory(vf(0), vf(1))) == {
        "intel.com/rest": ["0000:03:02.0", "0000:03:02.1"],
        "intel.com/again": [],
    }


def test_devices_of_several_selectors_add_up() -> None:
    both = pool("both", *DPDK.selectors, *FIRST_TWO.selectors)
    found = inventory(vf(0), vf(2), vf(3, driver="vfio-pci"))
    assert members([both], found) == {"intel.com/both": ["0000:03:02.0", "0000:03:02.3"]}


def test_table_says_where_each_device_went_and_why_not() -> None:
    found = inventory(
        vf(0, driver="vfio-pci"),
        vf(2),
        NetDevice(address="0000:05:00.0", vendor="8086", device="1533", driver="igb"),
        **{"0000:03:00.0": "a PF with 3 VFs"},
    )
    pools = [DPDK, FIRST_TWO]
    assert table(explain(pools, found), pools).splitlines() == [
        "DEVICE        DRIVER    FUNCTION  POOL",
        "0000:03:00.0  -         -         left out: a PF with 3 VFs",
        "0000:03:02.0  vfio-pci  ens1f0#0  intel.com/dpdk",
        "0000:03:02.2  iavf      ens1f0#2  in none: intel.com/dpdk drivers: iavf is not vfio-pci; "
        "intel.com/net pfNames: ens1f0#2 is not ens1f0",
        "0000:05:00.0  igb       -         in none: intel.com/dpdk drivers: igb is not vfio-pci; "
        "intel.com/net pfNames: none is not ens1f0",
        "",
        "intel.com/dpdk: 1 devices",
        "intel.com/net: 0 devices",
    ]


def test_vhost_user_sockets_are_explained_with_their_pool() -> None:
    raw = {"resourceList": [{"resourceName": "vhost", "deviceType": "vhostUser", "count": 2}]}
    (sockets,) = parse(json.dumps(raw).encode(), "intel.com")
    found = explain([sockets], inventory())
    assert [each.resource for each in found] == ["intel.com/vhost"] * 2
    assert table(found, [sockets]).endswith("intel.com/vhost: 2 devices")


def test_log_line_names_eight_addresses_and_how_many_there_are() -> None:
    assert abbreviate(["b", "a"]) == "a,b"
    assert abbreviate(str(number) for number in range(9)) == "0,1,2,3,4,5,6,7,... (9)"

"""Assigns devices to pools: each device to the first pool of the configuration whose selectors match."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from wirespeed import text
from wirespeed.deviceplugin import vhostuser
from wirespeed.deviceplugin.config import VHOST_USER, PoolConfig
from wirespeed.deviceplugin.selectors import Selectors
from wirespeed.devices.firmware import Firmware
from wirespeed.devices.inventory import Inventory, NetDevice, Reader

Devices = dict[str, NetDevice]  # by PCI address


def matching_selectors(pool: PoolConfig, device: NetDevice) -> Selectors | None:
    """Return the first of the pool's selectors that matches the device; it determines what the container gets."""
    if device.kind != pool.kind:
        return None
    return next((each for each in pool.selectors or (Selectors(),) if not _mismatch(pool, each, device)), None)


def mismatch(pool: PoolConfig, device: NetDevice) -> str:
    """Return why the pool does not take the device: what of each selector does not match; "" if it takes it."""
    if device.kind != pool.kind:
        return f"deviceType: {device.kind} is not {pool.kind}"
    reasons = [_mismatch(pool, selectors, device) for selectors in pool.selectors]
    return " and ".join(reasons) if all(reasons) else ""


def _mismatch(pool: PoolConfig, selectors: Selectors, device: NetDevice) -> str:
    """Return the selectors' refusal, but ignore `drivers` for a VF that the pool has bound to its own driver."""
    if pool.bind and device.driver == pool.bind:
        selectors = replace(selectors, drivers=frozenset())
    return selectors.mismatch(device)


def firmware(pools: Iterable[PoolConfig]) -> Firmware:
    """Return what to query from the NICs' firmware: only what the selectors use, because each query takes time."""
    selectors = [each for pool in pools for each in pool.selectors]
    return Firmware(
        wants_profiles=any(each.ddp_profiles for each in selectors),
        wants_rdma=any(each.is_rdma for each in selectors),
    )


def reader(pools: Iterable[PoolConfig], sysfs: str) -> Reader:
    """Return a reader of the devices that queries from the firmware only what the pools' selectors use."""
    return Reader(sysfs, firmware(pools))


def assign(pools: Sequence[PoolConfig], inventory: Inventory) -> dict[str, Devices]:
    """Return the devices of each pool, by resource; a device is in at most one pool.

    Pools with `bind` come first: a VF that one has bound must not move to a pool that selects the new driver.
    """
    ordered = sorted(pools, key=lambda pool: not pool.bind)
    found: dict[str, Devices] = {pool.resource: {} for pool in pools}
    for address, device in inventory.devices.items():
        pool = next((pool for pool in ordered if matching_selectors(pool, device)), None)
        if pool:
            found[pool.resource][address] = device
    return found | {pool.resource: vhostuser.devices(pool) for pool in pools if pool.kind == VHOST_USER}


@dataclass(frozen=True)
class Explained:
    """A device of the node, with its pool's resource, or with the reason why it is in no pool."""

    device: str  # PCI address, or the name of a device on another bus
    driver: str
    function: str  # "ens1#0", the PF and the number of a VF; "" for another device
    resource: str
    reason: str


def explain(pools: Sequence[PoolConfig], inventory: Inventory) -> list[Explained]:
    """Return all devices, each with its pool or with the reason why it has none."""
    by_device = {address: resource for resource, devices in assign(pools, inventory).items() for address in devices}
    found = []
    for address in sorted({*inventory.devices, *inventory.left_out, *by_device}):
        device, resource = inventory.devices.get(address), by_device.get(address, "")
        if device is None:  # left out, or a vhost-user socket
            reason = "" if resource else f"left out: {inventory.left_out[address]}"
            found.append(Explained(address, "", "", resource, reason))
            continue
        function = f"{device.pf_name or device.pf}#{device.vf_index}" if device.pf else ""
        none = "; ".join(f"{pool.resource} {mismatch(pool, device)}" for pool in pools)
        found.append(Explained(address, device.driver, function, resource, "" if resource else f"in none: {none}"))
    return found


def table(found: Sequence[Explained], pools: Sequence[PoolConfig]) -> str:
    """Return what `explain` found as a table, and the number of each pool's devices."""
    rows = [("DEVICE", "DRIVER", "FUNCTION", "POOL")]
    for each in found:
        rows.append((each.device, each.driver or "-", each.function or "-", each.resource or each.reason))
    counts = [f"{pool.resource}: {sum(each.resource == pool.resource for each in found)} devices" for pool in pools]
    return "\n".join([*text.table(rows), "", *counts])


def abbreviate(addresses: Iterable[str]) -> str:
    """Format addresses for the log: the first eight, and the total number if there are more."""
    listed = sorted(addresses)
    return ",".join(listed[:8]) + (f",... ({len(listed)})" if len(listed) > 8 else "")

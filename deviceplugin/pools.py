"""Which device belongs to which pool: to the first one of the configuration that it fits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from wirespeed.deviceplugin import vhostuser
from wirespeed.deviceplugin.config import VHOST_USER, PoolConfig
from wirespeed.deviceplugin.selectors import Selectors
from wirespeed.host.firmware import Firmware
from wirespeed.host.inventory import Inventory, NetDevice, Reader

Devices = dict[str, NetDevice]  # by PCI address


def fits(pool: PoolConfig, device: NetDevice) -> bool:
    """Whether one of the pool's selectors takes the device."""
    return taken_by(pool, device) is not None


def taken_by(pool: PoolConfig, device: NetDevice) -> Selectors | None:
    """The first of the pool's selectors that takes the device, which says what is given with it."""
    if device.kind != pool.kind:
        return None
    return next((each for each in pool.selectors or (Selectors(),) if not _refusal(pool, each, device)), None)


def refusal(pool: PoolConfig, device: NetDevice) -> str:
    """Why the pool does not take the device: what does not fit each of its selectors."""
    if device.kind != pool.kind:
        return f"deviceType: {device.kind} is not {pool.kind}"
    return " and ".join(_refusal(pool, selectors, device) for selectors in pool.selectors)


def _refusal(pool: PoolConfig, selectors: Selectors, device: NetDevice) -> str:
    """As the selectors say, but that a VF on the driver that the pool binds is one on the driver that they name."""
    if pool.bind and device.driver == pool.bind:
        selectors = replace(selectors, drivers=frozenset())
    return selectors.refusal(device)


def firmware(pools: Iterable[PoolConfig]) -> Firmware:
    """What to ask the NICs' firmware for: what the pools' selectors look at, for each answer takes time."""
    selectors = [each for pool in pools for each in pool.selectors]
    return Firmware(
        wants_profiles=any(each.ddp_profiles for each in selectors),
        wants_rdma=any(each.is_rdma for each in selectors),
    )


def reader(pools: Iterable[PoolConfig], sysfs: str) -> Reader:
    """A reader of the devices that knows what the pools' selectors look at."""
    return Reader(sysfs, firmware(pools))


def assign(pools: Sequence[PoolConfig], inventory: Inventory) -> dict[str, Devices]:
    """The devices of each pool by its resource; a device is in one pool at most.

    Pools that bind come first: a VF that one of them has bound must not go to one that takes its new driver.
    """
    ordered = sorted(pools, key=lambda pool: not pool.bind)
    found: dict[str, Devices] = {pool.resource: {} for pool in pools}
    for address, device in inventory.devices.items():
        pool = next((pool for pool in ordered if fits(pool, device)), None)
        if pool:
            found[pool.resource][address] = device
    return found | {pool.resource: vhostuser.devices(pool) for pool in pools if pool.kind == VHOST_USER}


def explain(pools: Sequence[PoolConfig], inventory: Inventory) -> str:
    """A table of every device: the pool that it is in, or why it is in none."""
    by_device = {address: resource for resource, devices in assign(pools, inventory).items() for address in devices}
    rows = [("DEVICE", "DRIVER", "FUNCTION", "POOL")]
    for address in sorted({*inventory.devices, *inventory.left_out}):
        device = inventory.devices.get(address)
        if device is None:
            rows.append((address, "-", "-", f"left out: {inventory.left_out[address]}"))
            continue
        function = f"{device.pf_name or device.pf}#{device.vf_index}" if device.pf else "-"
        pool = by_device.get(address) or f"in none: {_refusals(pools, device)}"
        rows.append((address, device.driver, function, pool))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]
    counts = [f"{pool.resource}: {list(by_device.values()).count(pool.resource)} devices" for pool in pools]
    return "\n".join([*lines, "", *counts])


def some(addresses: Iterable[str]) -> str:
    """Addresses for a line of the log: the first eight, and how many there are."""
    listed = sorted(addresses)
    return ",".join(listed[:8]) + (f",... ({len(listed)})" if len(listed) > 8 else "")


def _refusals(pools: Sequence[PoolConfig], device: NetDevice) -> str:
    return "; ".join(f"{pool.resource} {refusal(pool, device)}" for pool in pools)

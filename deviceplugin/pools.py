"""Which device belongs to which pool: to the first one of the configuration that it fits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deviceplugin.config import PoolConfig
from wirespeed.host.inventory import Inventory, NetDevice

Devices = dict[str, NetDevice]  # by PCI address


def fits(pool: PoolConfig, device: NetDevice) -> bool:
    """Whether one of the pool's selectors takes the device."""
    return not pool.selectors or any(not selectors.refusal(device) for selectors in pool.selectors)


def assign(pools: Sequence[PoolConfig], inventory: Inventory) -> dict[str, Devices]:
    """The devices of each pool by its resource; a device is in one pool at most."""
    found: dict[str, Devices] = {pool.resource: {} for pool in pools}
    for address, device in inventory.devices.items():
        pool = next((pool for pool in pools if fits(pool, device)), None)
        if pool:
            found[pool.resource][address] = device
    return found


def explain(pools: Sequence[PoolConfig], inventory: Inventory) -> str:
    """A table of every network device: the pool that it is in, or why it is in none."""
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
    return "; ".join(
        f"{pool.resource} {' and '.join(selectors.refusal(device) for selectors in pool.selectors)}"
        for pool in pools
    )

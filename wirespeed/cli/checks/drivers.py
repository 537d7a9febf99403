"""Warnings for misspelt driver names. No reader rejects them, because any name may be a driver's."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from wirespeed.cli.checks.findings import Finding
from wirespeed.cli.checks.places import Place

_KNOWN = {each: each for each in ("vfio-pci", "uio_pci_generic", "igb_uio", "netdevice")}
_MEANT = {**_KNOWN, "kernel": "netdevice"}
_ALIKE = 0.82  # difflib's ratio: below that of "vfio_pci" and "kernal", above that of real NIC drivers


def slip(key: str, value: Any, place: Place, *, kernels: bool = True) -> Iterator[Finding]:
    """Warn about a name close to a known driver's. With `kernels`, "netdevice" (the kernel's) is known too."""
    known = _MEANT if kernels else {name: name for name in _KNOWN if name != "netdevice"}
    if not isinstance(value, str) or value in known.values():
        return
    near = difflib.get_close_matches(value.lower(), known, 1, _ALIKE)
    if near:
        text = f'{key}: no driver called "{value}" is known here, the nearest is "{known[near[0]]}"'
        yield Finding(place.line, error=False, text=text)


def of_pools(config: Any, place: Place) -> Iterator[Finding]:
    """Check the driver names in a device plugin's configuration. Its keys are case-insensitive."""
    for step, pools in _items(config, "resourcelist"):
        for number, pool in enumerate(pools if isinstance(pools, list) else ()):
            where = place.at((step, number))
            for key, value in _items(pool, "bind"):
                yield from slip(f"resourceList[{number}].bind", value, where.at((key,)), kernels=False)
            for key, chosen in _items(pool, "selectors"):
                selectors = enumerate(chosen) if isinstance(chosen, list) else [(None, chosen)]
                for index, selector in selectors:
                    inside = where.at((key,) if index is None else (key, index))
                    name = f"resourceList[{number}].selectors{'' if index is None else f'[{index}]'}.drivers"
                    for inner, drivers in _items(selector, "drivers"):
                        for each in drivers if isinstance(drivers, list) else ():
                            yield from slip(name, each, inside.at((inner,)), kernels=False)


def _items(value: Any, key: str) -> list[tuple[str, Any]]:
    return [item for item in value.items() if str(item[0]).lower() == key] if isinstance(value, dict) else []

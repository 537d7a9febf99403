"""Warnings for misspelt driver names. No reader rejects them, because any name may be a driver's."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from wirespeed.cli.checks.findings import Finding
from wirespeed.cli.checks.places import Place, list_at, object_at
from wirespeed.errors import Error, Kind
from wirespeed.keys import did_you_mean

_KNOWN = {each: each for each in ("vfio-pci", "uio_pci_generic", "igb_uio", "netdevice")}
_NAMES = {**_KNOWN, "kernel": "netdevice"}
_MIN_SIMILARITY = 0.82  # difflib's ratio: below that of "vfio_pci" and "kernal", above that of real NIC drivers


def misspelt(key: str, value: Any, place: Place, *, kernels: bool = True) -> Iterator[Finding]:
    """Warn about a name close to a known driver's. With `kernels`, "netdevice" (the kernel's) is known too."""
    known = _NAMES if kernels else {name: name for name in _KNOWN if name != "netdevice"}
    if not isinstance(value, str) or value in known.values():
        return
    near = difflib.get_close_matches(value.lower(), known, 1, _MIN_SIMILARITY)
    if near:
        what, hint = f'no driver called "{value}" is known here', did_you_mean(known[near[0]])
        yield Finding(place.line, error=False, text=Error(Kind.INVALID_CONFIG, what, key=key, hint=hint).msg)


def of_pools(config: Any, place: Place, path: str) -> Iterator[Finding]:
    """Check the drivers in a device plugin's configuration (keys in any case), whose pools messages call `path`."""
    for step, pools in _items(config, "resourcelist"):
        for number, pool in enumerate(list_at(pools)):
            where = place.at((step, number))
            for key, value in _items(pool, "bind"):
                yield from misspelt(f"{path}[{number}].bind", value, where.at((key,)), kernels=False)
            for key, chosen in _items(pool, "selectors"):
                selectors = enumerate(chosen) if isinstance(chosen, list) else [(None, chosen)]
                for index, selector in selectors:
                    inside = where.at((key,) if index is None else (key, index))
                    name = f"{path}[{number}].selectors{'' if index is None else f'[{index}]'}.drivers"
                    for inner, drivers in _items(selector, "drivers"):
                        for each in list_at(drivers):
                            yield from misspelt(name, each, inside.at((inner,)), kernels=False)


def _items(value: Any, key: str) -> list[tuple[str, Any]]:
    return [item for item in object_at(value).items() if str(item[0]).lower() == key]

"""The versions of the CNI specification that are spoken here, and comparing them."""

from __future__ import annotations

import json
from typing import Any

from wirespeed.cni.errors import CniError, Code

SUPPORTED = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
LATEST = SUPPORTED[-1]
IMPLIED = "0.1.0"  # of a configuration without a cniVersion, as libcni has it

_RANK = {version: rank for rank, version in enumerate(SUPPORTED)}


def at_least(version: str, least: str) -> bool:
    """Whether `version` is `least` or newer; `least` is a supported one. An unknown version is at least nothing."""
    return _RANK.get(version, -1) >= _RANK[least]


def check(version: object) -> str:
    """The version, if it is a supported one; None and "" are IMPLIED.

    Raises CniError(INCOMPATIBLE_VERSION) that lists the supported ones.
    """
    if version is None or version == "":
        return IMPLIED
    if isinstance(version, str) and version in _RANK:
        return version
    listed = ", ".join(SUPPORTED)
    raise CniError(Code.INCOMPATIBLE_VERSION, f'key "cniVersion": expected one of {listed}, got {version!r}')


def highest(version: object, versions: object) -> str:
    """The version to use of a configuration's `cniVersion` and its list `cniVersions` (specification 1.1.0).

    The highest supported one that either names; those of the list that are not known are another runtime's
    business. Raises CniError: INVALID_CONFIG for a list of another shape, INCOMPATIBLE_VERSION for no known one.
    """
    if versions is None or versions == []:
        return check(version)
    if not isinstance(versions, list) or not all(isinstance(each, str) for each in versions):
        raise CniError(Code.INVALID_CONFIG, f'key "cniVersions": expected a list of versions, got {versions!r}')
    known = [each for each in (*versions, version) if isinstance(each, str) and each in _RANK]
    if not known:
        named = ", ".join(map(str, [*versions, *([version] if version else [])]))
        raise CniError(
            Code.INCOMPATIBLE_VERSION, f'key "cniVersions": expected one of {", ".join(SUPPORTED)}, got {named}'
        )
    return max(known, key=_RANK.__getitem__)


def of_error(config: object) -> str:
    """The version to tell an error in, whatever is wrong with the configuration (decoded JSON)."""
    if not isinstance(config, dict):
        return LATEST
    try:
        return check(config.get("cniVersion"))
    except CniError:
        return LATEST


def answer(config: dict[str, Any]) -> bytes:
    """What VERSION prints: in the version of standard input where that is a supported one, else in the latest."""
    version = config.get("cniVersion")
    spoken = version if isinstance(version, str) and version in _RANK else LATEST
    return json.dumps({"cniVersion": spoken, "supportedVersions": SUPPORTED}, separators=(",", ":")).encode()

"""The supported versions of the CNI specification, and comparing them."""

from __future__ import annotations

import json
from typing import Any

from wirespeed.errors import Error, Kind

SUPPORTED = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
LATEST = SUPPORTED[-1]
IMPLIED = "0.1.0"  # the version of a configuration without a cniVersion, as in libcni

_ONE_OF = f"one of {', '.join(SUPPORTED)}"
_RANK = {version: rank for rank, version in enumerate(SUPPORTED)}


def at_least(version: str, least: str) -> bool:
    """Whether `version` is `least`, a supported version, or newer; false for an unknown version."""
    return _RANK.get(version, -1) >= _RANK[least]


def check(version: object) -> str:
    """Return the version if it is supported; None and "" mean IMPLIED. Raises Error(INCOMPATIBLE_VERSION)."""
    if version is None or version == "":
        return IMPLIED
    if isinstance(version, str) and version in _RANK:
        return version
    raise Error(Kind.INCOMPATIBLE_VERSION, key="cniVersion", expected=_ONE_OF, got=version)


def highest(version: object, versions: object) -> str:
    """Return the version to use, given a configuration's `cniVersion` and `cniVersions` (specification 1.1.0).

    It is the highest supported one in either; unknown versions in the list are ignored. Raises Error:
    INVALID_CONFIG if `versions` is not a list of strings, INCOMPATIBLE_VERSION if none is known.
    """
    if versions is None or versions == []:
        return check(version)
    if not isinstance(versions, list) or not all(isinstance(each, str) for each in versions):
        raise Error(Kind.INVALID_CONFIG, key="cniVersions", expected="a list of versions", got=versions)
    known = [each for each in (*versions, version) if isinstance(each, str) and each in _RANK]
    if not known:
        named = [*versions, version] if version else versions
        raise Error(Kind.INCOMPATIBLE_VERSION, key="cniVersions", expected=_ONE_OF, got=named)
    return max(known, key=_RANK.__getitem__)


def answer(config: dict[str, Any]) -> bytes:
    """Return what VERSION prints: in the version of standard input if that is supported, else in the latest."""
    version = config.get("cniVersion")
    chosen = version if isinstance(version, str) and version in _RANK else LATEST
    return json.dumps({"cniVersion": chosen, "supportedVersions": SUPPORTED}, separators=(",", ":")).encode()

"""The device plugin's configuration file, that of the SR-IOV network device plugin; all its mistakes at once."""

from __future__ import annotations

import difflib
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deviceplugin import selectors
from deviceplugin.selectors import Selectors
from wirespeed.cni.errors import CniError, Code
from wirespeed.host import pci
from wirespeed.kube import resources

log = logging.getLogger(__name__)

POOL_KEYS = (
    "resourceName",  # required: letters, digits, - and _
    "resourcePrefix",  # a DNS name; default: resourcePrefix of the agent's configuration
    "deviceType",  # "netDevice"
    "excludeTopology",  # true: the kubelet is not told the devices' NUMA nodes
    "selectors",  # an object, or a list of them whose devices add up; none: every network device
    "additionalInfo",  # {"<PCI address>" or "*": {name: text}}, told to the pod as `extra`
)
SELECTOR_KEYS = (
    "vendors",  # ["8086"]
    "devices",  # ["10ed"]
    "drivers",  # ["vfio-pci"]
    "pciAddresses",  # ["0000:03:02.0"]
    "pfNames",  # ["ens1f0", "ens1f1#0,3-5"]: VFs of these PFs, numbered from 0
    "rootDevices",  # ["0000:86:00.0", "0000:86:00.1#0-7"]: the same by the PFs' addresses
    "linkTypes",  # ["ether"], ["infiniband"]
)
# Keys of the peer that may be there with nothing in them: its operator writes them always.
_NOT_YET = ("isRdma", "needVhostNet", "vdpaType", "ddpProfiles", "acpiIndexes", "pKeys", "auxTypes")
_WITHOUT_EFFECT = ("SelectorObj", "SelectorObjs")
_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_HEX = re.compile(r"[0-9a-f]{4}")
_HALF = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """One entry of resourceList: the pool takes what fits one of its selectors; none means everything.

    `additional_info` is None where the entry has none, else what pods are told, by PCI address or "*".
    """

    resource: str  # "prefix/name"
    selectors: tuple[Selectors, ...] = ()
    exclude_topology: bool = False
    additional_info: Mapping[str, Mapping[str, str]] | None = None


def load(path: Path, prefix: str) -> list[PoolConfig]:
    """The pools of a file, in its order; `prefix` is for those that name none.

    Raises CniError: IO_FAILURE when the file cannot be read, INVALID_CONFIG with all that is wrong with it.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CniError(Code.IO_FAILURE, f"device plugin configuration {path}: {error.strerror}") from error
    try:
        return parse(text, prefix)
    except CniError as error:
        raise error.prefixed(f"device plugin configuration {path}") from None


def parse(text: bytes, prefix: str) -> list[PoolConfig]:
    """The pools of a file's text. Raises CniError(INVALID_CONFIG) with all that is wrong, joined by "; "."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CniError(Code.INVALID_CONFIG, f"not JSON: {error}") from error
    problems: list[str] = []
    reader = _Object("", config, ("resourceList",), problems)
    pools = []
    for place, raw in enumerate(reader.list("resourceList", "a list of at least one pool", empty=False)):
        pools.append(_pool(_Object(f"resourceList[{place}]", raw, POOL_KEYS, problems, _WITHOUT_EFFECT), prefix))
    names = [pool.resource for pool in pools]
    twice = sorted({name for name in names if names.count(name) > 1})
    problems += [f"resource {name} is there {names.count(name)} times: expected once" for name in twice]
    if problems:
        raise CniError(Code.INVALID_CONFIG, "; ".join(problems))
    return pools


@dataclass
class _Object:
    """A JSON object whose keys are read in any case; what is wrong goes to `problems`, led by `where`."""

    where: str
    raw: object
    keys: tuple[str, ...]
    problems: list[str]
    others: tuple[str, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.raw, dict):
            self.problem("", "an object", self.raw)
            return
        known = {key.lower(): key for key in (*self.keys, *self.others)}
        for key, value in self.raw.items():
            if key.lower() in known:
                self.values[known[key.lower()]] = value
            else:
                near = difflib.get_close_matches(key.lower(), known, 1)
                hint = f'; nearest known key: "{known[near[0]]}"' if near else ""
                log.warning('device plugin configuration: unknown key "%s" is ignored%s', self.place(key), hint)

    def place(self, key: str) -> str:
        return ".".join(part for part in (self.where, key) if part)

    def problem(self, key: str, expected: str, got: object) -> None:
        place = self.place(key)
        self.problems.append(f"{place}{': ' if place else ''}expected {expected}, got {_short(got)}")

    def text(self, key: str, expected: str, default: str) -> str:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            self.problem(key, expected, value)
            return default
        return value

    def flag(self, key: str) -> bool:
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            self.problem(key, "true or false", value)
        return value is True

    def list(self, key: str, expected: str, *, empty: bool = True) -> list[Any]:
        value = self.values.get(key)
        if value is None and empty:
            return []
        if not isinstance(value, list) or not (value or empty):
            self.problem(key, expected, value)
            return []
        return value

    def texts(self, key: str, expected: str, canonical: Callable[[str], str | None]) -> frozenset[str]:
        """The list's strings as `canonical` writes them; None from it means a wrong one."""
        found = set()
        for value in self.list(key, f"a list, each {expected}"):
            text = canonical(value) if isinstance(value, str) else None
            if text is None:
                self.problem(key, expected, value)
            else:
                found.add(text)
        return frozenset(found)

    def functions(self, key: str, parser: Callable[[Iterable[str]], selectors.Functions]) -> selectors.Functions:
        found: dict[str, tuple[range, ...]] = {}
        for value in self.list(key, "a list of PFs"):
            if not isinstance(value, str):
                self.problem(key, "a PF", value)
                continue
            try:
                for pf, numbers in parser([value]).items():
                    found[pf] = found.get(pf, ()) + numbers
            except ValueError as error:
                self.problems.append(f"{self.place(key)}: {error}")
        return found


def _pool(reader: _Object, default_prefix: str) -> PoolConfig:
    name = reader.values.get("resourceName")
    prefix = reader.text("resourcePrefix", "a DNS name", "") or default_prefix
    resource = f"{prefix}/{name}"
    if isinstance(reader.raw, dict):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            reader.problem("resourceName", "letters, digits, - and _", name)
        elif problem := resources.refusal(resource):
            reader.problems.append(f"{reader.where}: resource {resource!r}: {problem}")
    kind = reader.text("deviceType", '"netDevice"', "") or "netDevice"
    if kind in {"accelerator", "auxNetDevice"}:
        reader.problems.append(f'{reader.place("deviceType")}: not supported yet: "{kind}" (expected "netDevice")')
    elif kind != "netDevice":
        reader.problem("deviceType", '"netDevice"', kind)
    return PoolConfig(
        resource=resource,
        selectors=_selectors(reader),
        exclude_topology=reader.flag("excludeTopology"),
        additional_info=_additional_info(reader),
    )


def _selectors(reader: _Object) -> tuple[Selectors, ...]:
    value = reader.values.get("selectors")
    if value is None:
        return ()
    place = reader.place("selectors")
    if isinstance(value, dict):
        return (_selector(place, value, reader.problems),)
    if not isinstance(value, list) or not value:
        reader.problem("selectors", "an object or a list of at least one", value)
        return ()
    return tuple(_selector(f"{place}[{number}]", each, reader.problems) for number, each in enumerate(value))


def _selector(place: str, raw: object, problems: list[str]) -> Selectors:
    reader = _Object(place, raw, SELECTOR_KEYS, problems, (*_NOT_YET, *_WITHOUT_EFFECT))
    for key in _NOT_YET:
        if reader.values.get(key) not in (None, False, "", [], {}):
            problems.append(f"{reader.place(key)}: not supported yet: {_short(reader.values[key])}")
    return Selectors(
        vendors=reader.texts("vendors", "four hex digits", _hex),
        devices=reader.texts("devices", "four hex digits", _hex),
        drivers=reader.texts("drivers", "a driver's name", lambda text: text or None),
        pci_addresses=reader.texts("pciAddresses", "a PCI address like 0000:03:02.0", _address),
        pf_names=reader.functions("pfNames", selectors.pf_names),
        root_devices=reader.functions("rootDevices", selectors.root_devices),
        link_types=reader.texts(
            "linkTypes", '"ether" or "infiniband"', lambda text: text if text in {"ether", "infiniband"} else None
        ),
    )


def _additional_info(reader: _Object) -> Mapping[str, Mapping[str, str]] | None:
    value = reader.values.get("additionalInfo")
    if value is None:
        return None
    if not isinstance(value, dict):
        reader.problem("additionalInfo", "an object by PCI address", value)
        return None
    found = {}
    for key, info in value.items():
        address = "*" if key == "*" else _address(key)
        if address is None:
            reader.problem("additionalInfo", 'a PCI address or "*" as key', key)
        elif not isinstance(info, dict) or not all(_is_text(part) for pair in info.items() for part in pair):
            reader.problem(f'additionalInfo["{key}"]', "an object of strings", info)
        else:
            found[address] = info
    return found


def _hex(text: str) -> str | None:
    """As sysfs has it, without 0x."""
    text = text.lower().removeprefix("0x")
    return text if _HEX.fullmatch(text) else None


def _address(text: str) -> str | None:
    return text.lower() if pci.ADDRESS.fullmatch(text.lower()) else None


def _is_text(value: object) -> bool:
    """Whether it is a string that can be sent: JSON can write halves of characters."""
    return isinstance(value, str) and not _HALF.search(value)


def _short(value: object) -> str:
    if value is None:
        return "nothing"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

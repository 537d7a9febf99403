"""The device plugin's configuration file, in the format of the SR-IOV network device plugin.

All errors of a file are reported at once.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.keys import nearest, nearest_value
from wirespeed.deviceplugin import selectors
from wirespeed.deviceplugin.health import REASONS
from wirespeed.deviceplugin.selectors import Selectors
from wirespeed.host import pci
from wirespeed.host.inventory import ACCELERATOR, AUXILIARY, NETWORK
from wirespeed.kube import resources
from wirespeed.node import Node, NodeConfig
from wirespeed.plugins.vhost.conf import Access, SocketKeys, access
from wirespeed.structs import keys_of

log = logging.getLogger(__name__)

POOL_KEYS = (
    "resourceName",  # required: letters, digits, - and _
    "resourcePrefix",  # a DNS name; default: resourcePrefix of the agent's configuration
    "deviceType",  # "netDevice" (default), "accelerator", "auxNetDevice", "vhostUser"
    "excludeTopology",  # true: do not report the devices' NUMA nodes to the kubelet
    "selectors",  # an object, or a list of them (a device must match one of them); none: all network devices
    "additionalInfo",  # {"<PCI address>" or "*": {name: text}}, passed to the pod as `extra`
    "cdi",  # true: containers get the devices by CDI; default: cdi of the agent's configuration
    "health",  # which faults make a device Unhealthy, ["driver", "link"]; default: all (health.REASONS)
    "allocation",  # "spread" (default) over the PFs, or "packed" on as few PFs as possible
    "hugepages",  # "2Mi", "1Gi": NUMA nodes without free hugepages of this size are preferred last
    "bind",  # driver for containers whose VF no CNI plugin attached, or true for "vfio-pci"; needs cdi
    "count",  # required for vhostUser: number of devices, 1 to 1024
    "socket",  # for vhostUser: owner, mode and label of the folders, keys as plugins.vhost.conf.SocketKeys
)
SELECTOR_KEYS = (
    "vendors",  # ["8086"]
    "devices",  # ["10ed"]
    "drivers",  # ["vfio-pci"]
    "pciAddresses",  # ["0000:03:02.0"]
    "pfNames",  # ["ens1f0", "ens1f1#0,3-5"]: VFs of these PFs, numbered from 0
    "rootDevices",  # ["0000:86:00.0", "0000:86:00.1#0-7"]: the same by the PFs' PCI addresses
    "linkTypes",  # ["ether"], ["infiniband"]
    "acpiIndexes",  # ["101"]: the firmware's index of the device (sysfs acpi_index)
    "ddpProfiles",  # ["GTPv1-C/U IPv4/IPv6 payload"]: the DDP profile that is loaded into the NIC
    "pKeys",  # ["0x8001"]: the first partition key of InfiniBand devices
    "auxTypes",  # ["sf"], required for auxNetDevice
    "isRdma",  # true: devices with RDMA; the container also gets the RDMA device nodes
    "needVhostNet",  # true: the container also gets /dev/vhost-net and /dev/net/tun
    "vdpaType",  # "virtio" or "vhost": devices with such a vdpa device; not together with isRdma
)
VHOST_USER = "vhostUser"  # deviceType whose devices are folders for the sockets of vhost-user interfaces
# The selectors of each device type; other selectors have no effect for it.
_SELECTORS_OF = {
    NETWORK: frozenset(SELECTOR_KEYS) - {"auxTypes"},
    ACCELERATOR: frozenset({"vendors", "devices", "drivers", "pciAddresses", "acpiIndexes"}),
    VHOST_USER: frozenset(),
    AUXILIARY: frozenset(SELECTOR_KEYS) - {"pciAddresses", "acpiIndexes", "ddpProfiles", "pKeys", "vdpaType"},
}
_WITHOUT_EFFECT = ("SelectorObj", "SelectorObjs")
_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_MOST_SOCKETS = 1024  # devices of a vhost-user pool
_LONGEST_ID = 63  # characters of a device id
_DRIVER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_NUMBER = re.compile(r"[0-9]{1,10}")
_KINDS = '"netDevice", "accelerator", "auxNetDevice" or "vhostUser"'
_EMPTY: tuple[object, ...] = (None, False, "", [], {})
_HEX = re.compile(r"[0-9a-f]{4}")
_PAGE = re.compile(r"([1-9][0-9]{0,5})(Ki|Mi|Gi)")
_HALF = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """One entry of resourceList: the pool takes devices that match one of its selectors; without selectors, all.

    `additional_info` is the information for pods, by PCI address or "*"; None if the entry has none.
    """

    resource: str  # "prefix/name"
    kind: str = NETWORK  # the deviceType
    selectors: tuple[Selectors, ...] = ()
    exclude_topology: bool = False
    additional_info: Mapping[str, Mapping[str, str]] | None = None
    cdi: bool | None = None  # None: the default of the agent's configuration
    health: frozenset[str] = frozenset(REASONS)
    packed: bool = False  # take a container's devices from few PFs instead of spreading them
    hugepages: int = 0  # size in KiB; 0: not checked
    bind: str = ""  # driver to bind a VF to for a container; "": it keeps its driver
    count: int = 0  # number of devices of a vhost-user pool
    access: Access = field(default_factory=Access)  # owner, mode and label of a vhost-user pool's folders


def file_of(where: NodeConfig) -> Path:
    """Return the node's file: `devicePlugin`, or if that is a folder, the file in it with the node's name."""
    path = Path(where.device_plugin)
    return path / Node(where).name if path.is_dir() else path


def load_of(where: NodeConfig) -> list[PoolConfig]:
    """Return the node's pools; [] if `devicePlugin` is a folder without a file for this node. Raises as `load`."""
    path = file_of(where)
    if path.parent == Path(where.device_plugin) and not path.exists():
        log.info("no pools: there is no file %s", path)
        return []
    return load(path, where.resource_prefix)


def load(path: Path, prefix: str) -> list[PoolConfig]:
    """Return the pools of a file, in its order; `prefix` is the default of resourcePrefix.

    Raises CniError: IO_FAILURE if the file cannot be read, INVALID_CONFIG with all its errors.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CniError(Code.IO_FAILURE, f"device plugin configuration {path}: {error.strerror}") from error
    try:
        pools = parse(text, prefix)
    except CniError as error:
        raise error.prefixed(f"device plugin configuration {path}") from None
    if not pools:  # the SR-IOV operator writes such a file for a node without a policy
        log.info("no pools: %s lists none", path)
    return pools


def parse(text: bytes, prefix: str) -> list[PoolConfig]:
    """Parse the pools of a file. Raises CniError(INVALID_CONFIG) with all errors, joined by "; "."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CniError(Code.INVALID_CONFIG, f"not JSON: {error}") from error
    problems: list[str] = []
    reader = _Object("", config, ("resourceList",), problems)
    pools = []
    if isinstance(config, dict) and "resourceList" not in reader.values:
        reader.problem("resourceList", "a list of pools", None)
    for place, raw in enumerate(reader.list("resourceList", "a list of pools")):
        pools.append(_pool(_Object(f"resourceList[{place}]", raw, POOL_KEYS, problems, _WITHOUT_EFFECT), prefix))
    names = [pool.resource for pool in pools]
    sockets = [pool.resource.rpartition("/")[2] for pool in pools if pool.kind == VHOST_USER]
    problems += [
        f"{sockets.count(name)} vhostUser pools have the resourceName {name}: expected one, for ids are made of it"
        for name in sorted({name for name in sockets if sockets.count(name) > 1})
    ]
    twice = sorted({name for name in names if names.count(name) > 1})
    problems += [f"resource {name} is there {names.count(name)} times: expected once" for name in twice]
    if problems:
        raise CniError(Code.INVALID_CONFIG, "; ".join(problems))
    return pools


@dataclass
class _Object:
    """A JSON object with case-insensitive keys; errors are appended to `problems`, prefixed with `where`."""

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
                hint = nearest(key, known)
                log.warning('device plugin configuration: unknown key "%s" is ignored%s', self.place(key), hint)

    def place(self, key: str) -> str:
        return ".".join(part for part in (self.where, key) if part)

    def problem(self, key: str, expected: str, got: object) -> None:
        place = self.place(key)
        hint = nearest_value(got, expected)
        self.problems.append(f"{place}{': ' if place else ''}expected {expected}, got {_short(got)}{hint}")

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

    def list(self, key: str, expected: str) -> list[Any]:
        value = self.values.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self.problem(key, expected, value)
            return []
        return value

    def texts(self, key: str, expected: str, canonical: Callable[[str], str | None]) -> frozenset[str]:
        """Return the list's strings in canonical form; `canonical` returns None for an invalid one."""
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
    kind = reader.text("deviceType", _KINDS, "") or NETWORK
    if kind not in _SELECTORS_OF:
        reader.problem("deviceType", _KINDS, kind)
        kind = NETWORK
    return PoolConfig(
        resource=resource,
        kind=kind,
        selectors=_selectors(reader, kind),
        exclude_topology=reader.flag("excludeTopology"),
        additional_info=_additional_info(reader),
        cdi=reader.flag("cdi") if reader.values.get("cdi") is not None else None,
        health=_health(reader),
        packed=_packed(reader),
        hugepages=_hugepages(reader),
        bind=_bind(reader, kind),
        count=_count(reader, kind),
        access=_access(reader),
    )


def _bind(reader: _Object, kind: str) -> str:
    """Return the name of the driver to bind, "" for none."""
    value = reader.values.get("bind")
    driver = "vfio-pci" if value is True else "" if value is None or value is False else value
    if not isinstance(driver, str) or (driver and not _DRIVER.fullmatch(driver)):
        reader.problem("bind", 'true or the name of a driver like "vfio-pci"', value)
        return ""
    if driver and kind != NETWORK:
        reader.problems.append(f"{reader.place('bind')}: only devices of deviceType {NETWORK} can be bound")
    return driver


def _count(reader: _Object, kind: str) -> int:
    value = reader.values.get("count")
    is_count = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST_SOCKETS
    if (kind == VHOST_USER or value is not None) and not is_count:
        reader.problem("count", f"a number from 1 to {_MOST_SOCKETS}", value)
    name = reader.values.get("resourceName")
    longest = _LONGEST_ID - len(f"-{_MOST_SOCKETS - 1}")
    if kind == VHOST_USER and isinstance(name, str) and len(name) > longest:
        reader.problem("resourceName", f"at most {longest} letters, for ids of devices are made of it", name)
    return value if isinstance(value, int) and is_count else 0


def _access(reader: _Object) -> Access:
    raw = reader.values.get("socket")
    if raw is None:
        return Access()
    inner = _Object(reader.place("socket"), raw, keys_of(SocketKeys), reader.problems)
    try:
        return access(inner.values)
    except CniError as error:
        reader.problems.append(f"{reader.where}: {error.msg}")
        return Access()


def _health(reader: _Object) -> frozenset[str]:
    if reader.values.get("health") is None:
        return frozenset(REASONS)
    expected = " or ".join(f'"{reason}"' for reason in REASONS)
    return reader.texts("health", expected, lambda text: text if text in REASONS else None)


def _packed(reader: _Object) -> bool:
    policy = reader.text("allocation", '"spread" or "packed"', "spread")
    if policy not in {"spread", "packed"}:
        reader.problem("allocation", '"spread" or "packed"', policy)
    return policy == "packed"


def _hugepages(reader: _Object) -> int:
    """Return the page size in KiB."""
    expected = 'a page size like "2Mi" or "1Gi"'
    text = reader.text("hugepages", expected, "")
    match = _PAGE.fullmatch(text)
    if text and not match:
        reader.problem("hugepages", expected, text)
    return int(match[1]) * {"Ki": 1, "Mi": 1 << 10, "Gi": 1 << 20}[match[2]] if match else 0


def _selectors(reader: _Object, kind: str) -> tuple[Selectors, ...]:
    value = reader.values.get("selectors")
    place = reader.place("selectors")
    if value is None:
        if kind == AUXILIARY and isinstance(reader.raw, dict):
            reader.problem("selectors", 'an object with "auxTypes": ["sf"]', value)
        return ()
    if isinstance(value, dict):
        return (_selector(place, value, kind, reader.problems),)
    if not isinstance(value, list) or not value:
        reader.problem("selectors", "an object or a list of at least one", value)
        return ()
    return tuple(_selector(f"{place}[{number}]", each, kind, reader.problems) for number, each in enumerate(value))


def _selector(place: str, raw: object, kind: str, problems: list[str]) -> Selectors:
    reader = _Object(place, raw, SELECTOR_KEYS, problems, _WITHOUT_EFFECT)
    read = _read_selector(reader)
    if kind == AUXILIARY and not reader.values.get("auxTypes") and isinstance(raw, dict):
        reader.problem("auxTypes", '["sf"]', reader.values.get("auxTypes"))
    useless = reader.values.keys() - _SELECTORS_OF[kind]
    for key in sorted(useless):
        if reader.values.pop(key) not in _EMPTY and key not in _WITHOUT_EFFECT:
            log.warning("device plugin configuration: %s has no effect: deviceType is %s", reader.place(key), kind)
    if not useless:
        return read
    reader.problems = []  # the first pass has reported them
    return _read_selector(reader)


def _read_selector(reader: _Object) -> Selectors:
    reader.texts("auxTypes", '"sf"', lambda text: text if text == "sf" else None)
    vdpa = reader.text("vdpaType", '"virtio" or "vhost"', "")
    if vdpa not in {"", "virtio", "vhost"}:
        reader.problem("vdpaType", '"virtio" or "vhost"', vdpa)
    if vdpa and reader.values.get("isRdma") is True:
        reader.problems.append(f"{reader.where}: isRdma and vdpaType exclude each other: expected one of them")
    return Selectors(
        vendors=reader.texts("vendors", "four hex digits", _hex),
        devices=reader.texts("devices", "four hex digits", _hex),
        drivers=reader.texts("drivers", "a driver's name", _any),
        pci_addresses=reader.texts("pciAddresses", "a PCI address like 0000:03:02.0", _address),
        pf_names=reader.functions("pfNames", selectors.pf_names),
        root_devices=reader.functions("rootDevices", selectors.root_devices),
        link_types=reader.texts(
            "linkTypes", '"ether" or "infiniband"', lambda text: text if text in {"ether", "infiniband"} else None
        ),
        acpi_indexes=reader.texts("acpiIndexes", "a number in quotes", _index),
        ddp_profiles=reader.texts("ddpProfiles", "a profile's name", _any),
        pkeys=reader.texts("pKeys", "0x and four hex digits", _pkey),
        is_rdma=reader.flag("isRdma"),
        need_vhost_net=reader.flag("needVhostNet"),
        vdpa_type=vdpa,
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
    """Return four hex digits as in sysfs, without 0x."""
    text = text.lower().removeprefix("0x")
    return text if _HEX.fullmatch(text) else None


def _index(text: str) -> str | None:
    return str(int(text)) if _NUMBER.fullmatch(text) else None


def _pkey(text: str) -> str | None:
    """Return the partition key as in sysfs, with 0x."""
    digits = _hex(text)
    return f"0x{digits}" if digits else None


def _any(text: str) -> str | None:
    return text or None


def _address(text: str) -> str | None:
    return text.lower() if pci.ADDRESS.fullmatch(text.lower()) else None


def _is_text(value: object) -> bool:
    """Whether it is a string that can be encoded as UTF-8: JSON can contain lone surrogates."""
    return isinstance(value, str) and not _HALF.search(value)


def _short(value: object) -> str:
    if value is None:
        return "nothing"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

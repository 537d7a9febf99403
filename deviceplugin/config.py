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
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from wirespeed import structs
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.keys import known_in_any_case, nearest, nearest_value
from wirespeed.deviceplugin import selectors
from wirespeed.deviceplugin.health import REASONS, Reason
from wirespeed.deviceplugin.selectors import Selectors
from wirespeed.devices import pci
from wirespeed.devices.inventory import ACCELERATOR, AUXILIARY, NETWORK
from wirespeed.kube import resources
from wirespeed.node import Node, NodeConfig
from wirespeed.plugins.vhost.conf import Access, SocketKeys, access
from wirespeed.structs import Cell, Words, only, whole

log = logging.getLogger(__name__)

VHOST_USER = "vhostUser"  # deviceType whose devices are folders for the sockets of vhost-user interfaces
MOST_SOCKETS = 1024  # devices of a vhost-user pool
_DEFAULT_DRIVER = "vfio-pci"

_Hex4 = Annotated[str, Meta(pattern=whole("(0[xX])?[0-9a-fA-F]{4}")), Words("four hex digits")]
_PKey = Annotated[str, Meta(pattern=whole("(0[xX])?[0-9a-fA-F]{4}")), Words("0x and four hex digits")]
_DriverName = Annotated[str, Meta(min_length=1), Words("a driver's name")]
_Address = Annotated[
    str, Meta(pattern=whole(pci.ADDRESS.pattern.replace("a-f", "a-fA-F"))), Words("a PCI address like 0000:03:02.0")
]
_Pf = Annotated[str, Words("a PF")]
_Index = Annotated[str, Meta(pattern=whole("[0-9]{1,10}")), Words("a number in quotes")]
_Profile = Annotated[str, Meta(min_length=1), Words("a profile's name")]
_Bind = Annotated[
    bool | Annotated[str, Meta(pattern=whole("([A-Za-z0-9][A-Za-z0-9_-]{0,63})?"))],
    Words(
        f'true or the name of a driver like "{_DEFAULT_DRIVER}"',
        f"`true` (`{_DEFAULT_DRIVER}`), or a driver's name",
    ),
]
_PageSize = Annotated[
    str,
    Meta(pattern=whole("([1-9][0-9]{0,5}(Ki|Mi|Gi))?")),
    Words('a page size like "2Mi" or "1Gi"', "page size, `2Mi`, `1Gi`"),
]
_of_devices = only(NETWORK, ACCELERATOR, AUXILIARY)
_on_pci, _of_interfaces = only(NETWORK, ACCELERATOR), only(NETWORK, AUXILIARY)


class SelectorKeys(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The keys of a selector; each has an effect only for some values of deviceType."""

    vendors: Annotated[list[_Hex4] | None, _of_devices, Cell('`["8086"]`')] = None
    devices: Annotated[list[_Hex4] | None, _of_devices, Cell('`["10ed"]`')] = None
    drivers: Annotated[list[_DriverName] | None, _of_devices, Cell('`["vfio-pci"]`')] = None
    """the driver that the device is bound to"""
    pci_addresses: Annotated[list[_Address] | None, _on_pci, Cell('`["0000:03:02.0"]`')] = None
    pf_names: Annotated[list[_Pf] | None, _of_interfaces, Cell('`["ens1f0", "ens1f1#0,3-5"]`')] = None
    """VFs of these PFs, numbered from 0"""
    root_devices: Annotated[list[_Pf] | None, _of_interfaces, Cell('`["0000:86:00.0", "0000:86:00.1#0-7"]`')] = None
    """the same by the PFs' PCI addresses"""
    link_types: Annotated[
        list[Literal["ether", "infiniband"]] | None, _of_interfaces, Cell('`["ether"]`, `["infiniband"]`')
    ] = None
    acpi_indexes: Annotated[list[_Index] | None, _on_pci, Cell('`["101"]`')] = None
    """the number that the firmware assigns to the device"""
    ddp_profiles: Annotated[list[_Profile] | None, only(NETWORK), Cell('`["GTPv1-C/U IPv4/IPv6 payload"]`')] = None
    """the loaded DDP profile, as devlink or ddptool reports it"""
    p_keys: Annotated[list[_PKey] | None, only(NETWORK), Cell('`["0x8001"]`')] = None
    """the first partition key of an InfiniBand device"""
    aux_types: Annotated[list[Literal["sf"]] | None, only(AUXILIARY), Cell('`["sf"]`')] = None
    """required for `auxNetDevice`"""
    is_rdma: Annotated[bool | None, _of_interfaces] = None
    """devices with RDMA; the container also gets the RDMA device nodes"""
    need_vhost_net: Annotated[bool | None, _of_interfaces] = None
    """the container also gets `/dev/vhost-net` and `/dev/net/tun`"""
    vdpa_type: Annotated[Literal["virtio", "vhost", ""] | None, only(NETWORK)] = None
    """devices with a vdpa device of this type; not together with `isRdma`"""


@structs.prepared
class PoolKeys(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The keys of an element of resourceList; null is the same as no key."""

    resource_name: (
        Annotated[
            str,
            Meta(pattern=whole("[a-zA-Z0-9_-]+")),
            Words("letters, digits, - and _", "letters, digits, `-` and `_`"),
        ]
        | None
    ) = None
    """required"""
    resource_prefix: Annotated[str, Words("a DNS name")] | None = None
    """default: `resourcePrefix` of the agent"""
    device_type: Literal["netDevice", "accelerator", "auxNetDevice", "vhostUser", ""] | None = None
    """default: `netDevice`; `auxNetDevice` is scalable functions, `vhostUser` [directories for
    sockets](health-and-reload.md#vhost-user-pools)"""
    exclude_topology: bool | None = None
    """do not report the devices' NUMA nodes to the kubelet"""
    selectors: Annotated[
        SelectorKeys | Annotated[list[SelectorKeys], Meta(min_length=1)] | None,
        Words("an object or a list of at least one", "object, or list of objects whose devices add up"),
    ] = None
    """which devices the pool has; default: every network device"""
    additional_info: Annotated[
        dict[str, dict[str, str]] | None,
        Words("an object by PCI address", '`{"<PCI address>" or "*": {name: text}}`'),
    ] = None
    """passed to the pod, in `PCIDEVICE_<RESOURCE>_INFO`"""
    cdi: bool | None = None
    """containers get the devices by CDI; default: `cdi` of the agent"""
    health: list[Reason] | None = None
    """which faults make a device Unhealthy, default: all: [Health](health-and-reload.md#health)"""
    allocation: Literal["spread", "packed"] | None = None
    """allocate devices from all PFs (default), or from few of them: [Preferred
    devices](health-and-reload.md#preferred-devices)"""
    hugepages: _PageSize | None = None
    """NUMA nodes without free hugepages of this size are preferred last"""
    bind: _Bind | None = None
    """the driver of a VF that no CNI plugin attached, while a container has it. Requires CDI: [Mixed
    pools](health-and-reload.md#mixed-pools)"""
    count: (
        Annotated[
            int, Meta(ge=1, le=MOST_SOCKETS), Words(f"a number from 1 to {MOST_SOCKETS}", f"1 to {MOST_SOCKETS}")
        ]
        | None
    ) = None
    """required for `vhostUser`: how many devices the pool has"""
    socket: Annotated[SocketKeys | None, Cell("object: `user`, `group`, `mode`, `selinuxLabel`")] = None
    """for `vhostUser`: owner, mode and SELinux label of the [directories for
    sockets](health-and-reload.md#vhost-user-pools)"""


@structs.prepared
class _File(msgspec.Struct):
    pools: list[Any] | None = msgspec.field(name="resourceList", default=None)


POOL_KEYS, SELECTOR_KEYS = structs.keys_of(PoolKeys), structs.keys_of(SelectorKeys)
_WITHOUT_EFFECT = ("SelectorObj", "SelectorObjs")
_LONGEST_ID = 63  # characters of a device id
_EMPTY: tuple[object, ...] = (None, False, "", [], {})
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
    reader = _Object("", config, _File, problems)
    pools = []
    if isinstance(config, dict) and "resourceList" not in reader.values:
        reader.problem("resourceList", "a list of pools", None)
    for place, raw in enumerate(_listed(reader)):
        pools.append(_pool(_Object(f"resourceList[{place}]", raw, PoolKeys, problems, _WITHOUT_EFFECT), prefix))
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


def _listed(reader: _Object) -> list[Any]:
    value = reader.values.get("resourceList")
    if value is not None and not isinstance(value, list):
        reader.problem("resourceList", "a list of pools", value)
        return []
    return value or []


@dataclass
class _Object:
    """A JSON object with the keys of `kind`, in any case; errors go to `problems`, prefixed with `where`."""

    where: str
    raw: object
    kind: type[msgspec.Struct]
    problems: list[str]
    others: tuple[str, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.raw, dict):
            self.problem("", "an object", self.raw)
            return
        self.values = known_in_any_case(self.raw, (*structs.keys_of(self.kind), *self.others), self._warn)

    def _warn(self, key: str) -> None:
        hint = nearest(key, {known.lower(): known for known in (*structs.keys_of(self.kind), *self.others)})
        log.warning('device plugin configuration: unknown key "%s" is ignored%s', self.place(key), hint)

    def place(self, key: str) -> str:
        return ".".join(part for part in (self.where, key) if part)

    def problem(self, key: str, expected: str, got: object) -> None:
        place = self.place(key)
        hint = nearest_value(got, expected)
        self.problems.append(f"{place}{': ' if place else ''}expected {expected}, got {_short(got)}{hint}")

    def missing(self, key: str) -> None:
        self.problem(key, structs.expected(structs.types_of(self.kind)[key]), None)

    def read(self, key: str) -> Any:
        """Return the value of a key, None if it is not given or not as declared, which is then a problem.

        A list is returned without the elements that are not as declared; each of them is a problem.
        """
        value, hint = self.values.get(key), structs.types_of(self.kind)[key]
        if value is None:
            return None
        element = structs.element(hint) if isinstance(value, list) else None
        if element is not None:
            return [each for each in value if self._fits(key, each, element)]
        return value if self._fits(key, value, hint) else None

    def _fits(self, key: str, value: object, hint: Any) -> bool:
        if not structs.fits(value, hint):
            self.problem(key, structs.expected(hint), value)
            return False
        return True

    def texts(self, key: str, canonical: Callable[[str], str] = str) -> frozenset[str]:
        """Return the list's strings in canonical form."""
        return frozenset(canonical(text) for text in self.read(key) or ())

    def functions(self, key: str, parser: Callable[[Iterable[str]], selectors.Functions]) -> selectors.Functions:
        found: dict[str, tuple[range, ...]] = {}
        for value in self.read(key) or ():
            try:
                for pf, numbers in parser([value]).items():
                    found[pf] = found.get(pf, ()) + numbers
            except ValueError as error:
                self.problems.append(f"{self.place(key)}: {error}")
        return found


def _pool(reader: _Object, default_prefix: str) -> PoolConfig:
    resource = f"{reader.read('resourcePrefix') or default_prefix}/{reader.values.get('resourceName')}"
    if isinstance(reader.raw, dict):
        if reader.values.get("resourceName") is None:
            reader.missing("resourceName")
        elif reader.read("resourceName") and (problem := resources.refusal(resource)):
            reader.problems.append(f"{reader.where}: resource {resource!r}: {problem}")
    kind = reader.read("deviceType") or NETWORK
    health = reader.read("health")
    return PoolConfig(
        resource=resource,
        kind=kind,
        selectors=_selectors(reader, kind),
        exclude_topology=reader.read("excludeTopology") is True,
        additional_info=_additional_info(reader),
        cdi=reader.read("cdi"),
        health=frozenset(REASONS if health is None else health),
        packed=reader.read("allocation") == "packed",
        hugepages=_hugepages(reader.read("hugepages") or ""),
        bind=_bind(reader, kind),
        count=_count(reader, kind),
        access=_access(reader),
    )


def _bind(reader: _Object, kind: str) -> str:
    """Return the name of the driver to bind, "" for none."""
    value = reader.read("bind")
    driver = _DEFAULT_DRIVER if value is True else str(value or "")
    if driver and kind != NETWORK:
        reader.problems.append(f"{reader.place('bind')}: only devices of deviceType {NETWORK} can be bound")
    return driver


def _count(reader: _Object, kind: str) -> int:
    count = reader.read("count")
    if kind == VHOST_USER and reader.values.get("count") is None:
        reader.missing("count")
    name = reader.values.get("resourceName")
    longest = _LONGEST_ID - len(f"-{MOST_SOCKETS - 1}")
    if kind == VHOST_USER and isinstance(name, str) and len(name) > longest:
        reader.problem("resourceName", f"at most {longest} letters, for ids of devices are made of it", name)
    return count or 0


def _access(reader: _Object) -> Access:
    raw = reader.values.get("socket")
    if raw is None:
        return Access()
    inner = _Object(reader.place("socket"), raw, SocketKeys, reader.problems)
    try:
        return access(inner.values)
    except CniError as error:
        reader.problems.append(f"{reader.where}: {error.msg}")
        return Access()


def _hugepages(text: str) -> int:
    """Return a page size in KiB."""
    match = _PAGE.fullmatch(text)
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
        reader.problem("selectors", structs.expected(structs.types_of(PoolKeys)["selectors"]), value)
        return ()
    return tuple(_selector(f"{place}[{number}]", each, kind, reader.problems) for number, each in enumerate(value))


def _selector(place: str, raw: object, kind: str, problems: list[str]) -> Selectors:
    reader = _Object(place, raw, SelectorKeys, problems, _WITHOUT_EFFECT)
    read = _read_selector(reader)
    if kind == AUXILIARY and not reader.values.get("auxTypes") and isinstance(raw, dict):
        reader.problem("auxTypes", '["sf"]', reader.values.get("auxTypes"))
    limits = structs.limits(SelectorKeys)
    useless = {key for key in reader.values if kind not in limits.get(key, ())}
    for key in sorted(useless):
        if reader.values.pop(key) not in _EMPTY and key not in _WITHOUT_EFFECT:
            log.warning("device plugin configuration: %s has no effect: deviceType is %s", reader.place(key), kind)
    if not useless:
        return read
    reader.problems = []  # the first pass has reported them
    return _read_selector(reader)


def _read_selector(reader: _Object) -> Selectors:
    reader.read("auxTypes")
    vdpa = reader.read("vdpaType") or ""
    if vdpa and reader.values.get("isRdma") is True:
        reader.problems.append(f"{reader.where}: isRdma and vdpaType exclude each other: expected one of them")
    return Selectors(
        vendors=reader.texts("vendors", _hex),
        devices=reader.texts("devices", _hex),
        drivers=reader.texts("drivers"),
        pci_addresses=reader.texts("pciAddresses", str.lower),
        pf_names=reader.functions("pfNames", selectors.pf_names),
        root_devices=reader.functions("rootDevices", selectors.root_devices),
        link_types=reader.texts("linkTypes"),
        acpi_indexes=reader.texts("acpiIndexes", lambda text: str(int(text))),
        ddp_profiles=reader.texts("ddpProfiles"),
        pkeys=reader.texts("pKeys", lambda text: f"0x{_hex(text)}"),
        is_rdma=reader.read("isRdma") is True,
        need_vhost_net=reader.read("needVhostNet") is True,
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


def _hex(text: str) -> str:
    """Return four hex digits as in sysfs, without 0x."""
    return text.lower().removeprefix("0x")


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

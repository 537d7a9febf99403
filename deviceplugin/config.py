"""Reads the device plugin's file, in the SR-IOV network device plugin's format; reports all its errors at once."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from wirespeed import errors, structs
from wirespeed.deviceplugin import selectors
from wirespeed.deviceplugin.health import REASONS, Reason
from wirespeed.deviceplugin.selectors import Selectors
from wirespeed.devices import pci
from wirespeed.devices.inventory import ACCELERATOR, AUXILIARY, NETWORK
from wirespeed.errors import CombinedError, Error, Kind, PathStep, Thing
from wirespeed.keys import drop_unknown, unknown_key
from wirespeed.kube import resources
from wirespeed.node import Node, NodeConfig
from wirespeed.plugins.vhost.conf import Access, SocketKeys, access
from wirespeed.structs import Cell, Words, only, whole

log = logging.getLogger(__name__)

VHOST_USER = "vhostUser"  # deviceType: each device is a folder for the sockets of vhost-user interfaces
MOST_SOCKETS = 1024  # devices of a vhost-user pool
_DEFAULT_DRIVER = "vfio-pci"

_Hex4 = Annotated[str, Meta(pattern=whole("(0[xX])?[0-9a-fA-F]{4}")), Words("four hex digits")]
_PKey = Annotated[str, Meta(pattern=whole("(0[xX])?[0-9a-fA-F]{4}")), Words("0x and four hex digits")]
_DriverName = Annotated[str, Meta(min_length=1), Words("a driver's name")]
_Address = Annotated[
    str, Meta(pattern=whole(pci.ADDRESS.pattern.replace("a-f", "a-fA-F"))), Words("a PCI address like 0000:03:02.0")
]
_Pf = Annotated[str, Words("a PF")]
_Name = Annotated[
    str, Meta(pattern=whole("[a-zA-Z0-9_-]+")), Words("letters, digits, - and _", "letters, digits, `-` and `_`")
]
_Count = Annotated[
    int, Meta(ge=1, le=MOST_SOCKETS), Words(f"a number from 1 to {MOST_SOCKETS}", f"1 to {MOST_SOCKETS}")
]
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
    """the device's PCI vendor ID"""
    devices: Annotated[list[_Hex4] | None, _of_devices, Cell('`["10ed"]`')] = None
    """its PCI device ID"""
    drivers: Annotated[list[_DriverName] | None, _of_devices, Cell('`["vfio-pci"]`')] = None
    """the driver that the device is bound to"""
    pci_addresses: Annotated[list[_Address] | None, _on_pci, Cell('`["0000:03:02.0"]`')] = None
    """the device's own PCI address"""
    pf_names: Annotated[list[_Pf] | None, _of_interfaces, Cell('`["ens1f0", "ens1f1#0,3-5"]`')] = None
    """VFs of these PFs, numbered from 0"""
    root_devices: Annotated[list[_Pf] | None, _of_interfaces, Cell('`["0000:86:00.0", "0000:86:00.1#0-7"]`')] = None
    """VFs of the PFs with these PCI addresses, numbered from 0"""
    link_types: Annotated[
        list[Literal["ether", "infiniband"]] | None, _of_interfaces, Cell('`["ether"]`, `["infiniband"]`')
    ] = None
    """the link type of the PF's interface, or of the device's own"""
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

    resource_name: _Name | None = None
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
    count: _Count | None = None
    """required for `vhostUser`: how many devices the pool has"""
    socket: Annotated[SocketKeys | None, Cell("object: `user`, `group`, `mode`, `selinuxLabel`")] = None
    """for `vhostUser`: owner, mode and SELinux label of the [directories for
    sockets](health-and-reload.md#vhost-user-pools)"""


@structs.prepared
class _File(msgspec.Struct):
    pools: Annotated[list[Any] | None, Words("a list of pools")] = msgspec.field(name="resourceList", default=None)


_IGNORED_KEYS = ("SelectorObj", "SelectorObjs")
_LONGEST_ID = 63  # characters of a device id
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # a lone one, which JSON can contain, cannot be encoded as UTF-8


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """One entry of resourceList: the pool takes devices that match one of its selectors; without selectors, all."""

    resource: str  # "prefix/name"
    kind: str = NETWORK  # the deviceType
    selectors: tuple[Selectors, ...] = ()
    exclude_topology: bool = False
    additional_info: Mapping[str, Mapping[str, str]] | None = None  # for pods, by PCI address or "*"
    cdi: bool | None = None  # None: the default of the agent's configuration
    health: frozenset[str] = frozenset(REASONS)
    packed: bool = False  # take a container's devices from few PFs instead of spreading them
    hugepages: int = 0  # size in KiB; 0: not checked
    bind: str = ""  # driver to bind a VF to for a container; "": it keeps its driver
    count: int = 0  # number of devices of a vhost-user pool
    access: Access = field(default_factory=Access)  # owner, mode and label of a vhost-user pool's folders


def config_file(where: NodeConfig) -> Path:
    """Return the node's file: `devicePlugin`, or if that is a folder, the file in it with the node's name."""
    path = Path(where.device_plugin)
    return path / Node(where).name if path.is_dir() else path


def load_node_pools(where: NodeConfig) -> list[PoolConfig]:
    """Return the node's pools; [] if `devicePlugin` is a folder without a file for this node. Raises as `load`."""
    path = config_file(where)
    if path.parent == Path(where.device_plugin) and not path.exists():
        log.info("no pools: there is no file %s", path)
        return []
    return load(path, where.resource_prefix)


def load(path: Path, prefix: str) -> list[PoolConfig]:
    """Return the pools of a file, in its order; `prefix` is the default of resourcePrefix.

    Raises Error: IO if the file cannot be read, INVALID_CONFIG with all its errors.
    """
    where = f"device plugin configuration {path}"
    with errors.os_errors(where):
        text = path.read_bytes()
    with errors.within(where):
        pools = parse(text, prefix)
    if not pools:  # the SR-IOV operator writes such a file for a node without a policy
        log.info("no pools: %s lists none", path)
    return pools


def parse(text: bytes, prefix: str) -> list[PoolConfig]:
    """Parse the pools of a file. Raises CombinedError(INVALID_CONFIG), with an error for each mistake."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Error(Kind.INVALID_CONFIG, f"not JSON: {error}") from error
    faults: list[Error] = []
    reader = _ObjectReader((), config, _File, faults)
    if isinstance(config, dict) and "resourceList" not in reader.values:
        reader.missing("resourceList")
    pools = [
        _pool(_ObjectReader(("resourceList", place), raw, PoolKeys, faults, _IGNORED_KEYS), prefix)
        for place, raw in enumerate(reader.read("resourceList") or ())
    ]
    faults += _duplicate_errors(pools)
    if faults:
        raise CombinedError(faults, between="; ")
    return pools


def _duplicate_errors(pools: list[PoolConfig]) -> Iterator[Error]:
    """Yield an error for each pool with the name of an earlier one."""
    resources_seen: set[str] = set()
    sockets_seen: set[str] = set()
    for place, pool in enumerate(pools):
        key, name = ("resourceList", place, "resourceName"), pool.resource.rpartition("/")[2]
        if pool.resource in resources_seen:
            thing = Thing("resource", pool.resource)
            yield Error(Kind.INVALID_CONFIG, f"another pool has {thing} too", key=key, about=[thing])
        elif pool.kind == VHOST_USER and name in sockets_seen:
            what = f"another vhostUser pool has the name {name} too, and device ids are made of the name"
            yield Error(Kind.INVALID_CONFIG, what, key=key)
        resources_seen.add(pool.resource)
        sockets_seen |= {name} if pool.kind == VHOST_USER else set()


@dataclass
class _ObjectReader:
    """Reads a JSON object at `path` with the case-insensitive keys of `kind`; errors are added to `faults`."""

    path: tuple[PathStep, ...]
    raw: object
    kind: type[msgspec.Struct]
    faults: list[Error]
    ignored_keys: tuple[str, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.raw, dict):
            self.wrong("an object", self.raw)
            return
        known = (*structs.keys_of(self.kind), *self.ignored_keys)

        def warn(key: str) -> None:
            ignored = unknown_key(key, known, within=self.path, what="it has no effect")
            log.warning("%s", ignored.within("device plugin configuration"))

        self.values = drop_unknown(self.raw, known, warn)

    def refuse(self, what: str, *key: PathStep, about: Sequence[Thing] = ()) -> None:
        self.faults.append(Error(Kind.INVALID_CONFIG, what, key=(*self.path, *key), about=about))

    def wrong(self, expected: str, got: object, *key: PathStep) -> None:
        self.faults.append(structs.wrong((*self.path, *key), expected, got))

    def missing(self, key: str, expected: str = "") -> None:
        expected = expected or structs.expected(structs.types_of(self.kind)[key])
        self.faults.append(Error(Kind.INVALID_CONFIG, key=(*self.path, key), missing=True, expected=expected))

    def read(self, key: str) -> Any:
        """Return the value of a key; None if it is missing, or invalid, which adds an error.

        A list is returned without its invalid elements; each of them adds an error.
        """
        value, hint = self.values.get(key), structs.types_of(self.kind)[key]
        if value is None:
            return None
        if isinstance(value, list) and (element := structs.element(hint)) is not None:
            return [each for number, each in enumerate(value) if self._fits(each, element, key, number)]
        return value if self._fits(value, hint, key) else None

    def _fits(self, value: object, hint: Any, *key: PathStep) -> bool:
        fits = structs.fits(value, hint)
        if not fits:
            self.wrong(structs.expected(hint), value, *key)
        return fits

    def texts(self, key: str, canonical: Callable[[str], str] = str) -> frozenset[str]:
        """Return the list's strings in canonical form."""
        return frozenset(canonical(text) for text in self.read(key) or ())

    def functions(self, key: str, parser: Callable[[Iterable[str]], selectors.Functions]) -> selectors.Functions:
        found: dict[str, tuple[range, ...]] = {}
        for value in self.read(key) or ():
            try:
                for pf, numbers in parser([value]).items():
                    found[pf] = found.get(pf, ()) + numbers
            except Error as error:
                self.faults.append(error.under(*self.path, key, self.values[key].index(value)))
        return found


def _pool(reader: _ObjectReader, default_prefix: str) -> PoolConfig:
    resource = f"{reader.read('resourcePrefix') or default_prefix}/{reader.values.get('resourceName')}"
    if isinstance(reader.raw, dict):
        if reader.values.get("resourceName") is None:
            reader.missing("resourceName")
        elif reader.read("resourceName") and (problem := resources.name_problem(resource)):
            reader.refuse(f"resource {resource!r}: {problem}")
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
        hugepages=_page_size(reader.read("hugepages") or "0Ki"),
        bind=_bind(reader, kind),
        count=_count(reader, kind),
        access=_access(reader),
    )


def _bind(reader: _ObjectReader, kind: str) -> str:
    """Return the name of the driver to bind, "" for none."""
    value = reader.read("bind")
    driver = _DEFAULT_DRIVER if value is True else str(value or "")
    if driver and kind != NETWORK:
        reader.refuse(f"only devices of deviceType {NETWORK} can be bound", "bind")
    return driver


def _count(reader: _ObjectReader, kind: str) -> int:
    count = reader.read("count")
    if kind == VHOST_USER and reader.values.get("count") is None:
        reader.missing("count")
    name = reader.values.get("resourceName")
    longest = _LONGEST_ID - len(f"-{MOST_SOCKETS - 1}")
    if kind == VHOST_USER and isinstance(name, str) and len(name) > longest:
        reader.wrong(f"at most {longest} characters, because device ids are made of it", name, "resourceName")
    return count or 0


def _access(reader: _ObjectReader) -> Access:
    raw = reader.values.get("socket")
    if raw is None:
        return Access()
    inner = _ObjectReader((*reader.path, "socket"), raw, SocketKeys, reader.faults)
    try:
        return access(inner.values)
    except Error as error:
        reader.faults.append(error.under(*reader.path))
        return Access()


def _page_size(text: str) -> int:
    """Return the page size in KiB."""
    return int(text[:-2]) * {"Ki": 1, "Mi": 1 << 10, "Gi": 1 << 20}[text[-2:]]


def _selectors(reader: _ObjectReader, kind: str) -> tuple[Selectors, ...]:
    value = reader.values.get("selectors")
    path = (*reader.path, "selectors")
    if value is None:
        if kind == AUXILIARY:
            reader.missing("selectors", 'an object with "auxTypes": ["sf"]')
        return ()
    if isinstance(value, dict):
        return (_selector(path, value, kind, reader.faults),)
    if not isinstance(value, list) or not value:
        reader.wrong(structs.expected(structs.types_of(PoolKeys)["selectors"]), value, "selectors")
        return ()
    return tuple(_selector((*path, number), each, kind, reader.faults) for number, each in enumerate(value))


def _selector(path: tuple[PathStep, ...], raw: object, kind: str, faults: list[Error]) -> Selectors:
    reader = _ObjectReader(path, raw, SelectorKeys, faults, _IGNORED_KEYS)
    _read_selector(reader)  # for the errors, also those of keys without effect
    given = reader.values.get("auxTypes")
    if kind == AUXILIARY and given is None and isinstance(raw, dict):
        reader.missing("auxTypes", '["sf"]')
    elif kind == AUXILIARY and not given and isinstance(raw, dict):
        reader.wrong('["sf"]', given, "auxTypes")
    limits = structs.restricted_keys(SelectorKeys)
    for key in sorted(key for key in reader.values if kind not in limits.get(key, ())):
        if reader.values.pop(key) and key not in _IGNORED_KEYS:
            what, where = f"it has no effect with deviceType {kind}", "device plugin configuration"
            log.warning("%s", Error(Kind.UNSUPPORTED, what, where=where, key=(*path, key)))
    reader.faults = []
    return _read_selector(reader)


def _read_selector(reader: _ObjectReader) -> Selectors:
    reader.read("auxTypes")
    vdpa = reader.read("vdpaType") or ""
    if vdpa and reader.values.get("isRdma") is True:
        reader.refuse('it must not be combined with "isRdma"', "vdpaType", about=[Thing("key", "isRdma")])
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


def _additional_info(reader: _ObjectReader) -> Mapping[str, Mapping[str, str]] | None:
    value = reader.values.get("additionalInfo")
    if value is None:
        return None
    if not isinstance(value, dict):
        reader.wrong("an object by PCI address", value, "additionalInfo")
        return None
    found = {}
    for key, info in value.items():
        if key != "*" and not pci.ADDRESS.fullmatch(key.lower()):
            reader.wrong('a PCI address or "*" as the key', key, "additionalInfo", key)
        elif not structs.fits(info, dict[str, str]) or _SURROGATE.search("".join([*info, *info.values()])):
            reader.wrong("an object of strings", info, "additionalInfo", key)
        else:
            found[key.lower()] = info
    return found


def _hex(text: str) -> str:
    """Return four hex digits as in sysfs, without 0x."""
    return text.lower().removeprefix("0x")

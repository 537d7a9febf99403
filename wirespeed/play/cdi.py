"""CDI devices, as a container runtime handles them: read the specifications and apply their edits to a container.

The rules are those of the Go library of containerd and CRI-O (container-device-interface, SPEC.md 1.1.0).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from wirespeed import errors, structs
from wirespeed.errors import CombinedError, Error, Kind, Thing
from wirespeed.kube import documents
from wirespeed.play.devices import Node, node
from wirespeed.play.process import Mount

_VERSIONS = ("0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0")
_SUFFIXES = (".json", ".yaml")
_KIND = re.compile(r"[A-Za-z]([\w.-]*[A-Za-z0-9])?/[A-Za-z]([\w.-]*[A-Za-z0-9])?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9]([\w.:-]*[A-Za-z0-9])?", re.ASCII)
_PERMISSIONS = re.compile(r"[rwm]*|none")
_BINDS = {"bind", "rbind"}
_OPTIONS = _BINDS | {"ro", "rw", "nosuid", "nodev", "noexec", "private", "rprivate"}


class _Part(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """A part of a specification. An unknown key makes the specification invalid."""


class _DeviceNode(_Part):
    path: str
    host_path: str = ""
    type: Literal["", "b", "c", "u", "p"] = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    permissions: str = ""  # for the device cgroup, which is not used here
    uid: int = 0
    gid: int = 0


class _Mount(_Part):
    host_path: str
    container_path: str
    type: str = ""
    options: list[str] = []


class _Edits(_Part):
    env: list[str] = []
    device_nodes: list[_DeviceNode] = []
    mounts: list[_Mount] = []
    # Unsupported:
    hooks: list[dict[str, Any]] = []
    net_devices: list[dict[str, Any]] = []
    intel_rdt: dict[str, Any] | None = None
    additional_gids: list[int] = []


class _Device(_Part):
    name: str
    annotations: dict[str, str] = {}
    container_edits: _Edits = msgspec.field(default_factory=_Edits)


@structs.prepared
class _Spec(_Part):
    cdi_version: str
    kind: str
    devices: list[_Device]
    annotations: dict[str, str] = {}
    container_edits: _Edits = msgspec.field(default_factory=_Edits)


@dataclass(frozen=True)
class _Defined:
    """A device and the specification that defines it. The definition in the later directory wins."""

    device: _Device
    spec: _Spec
    file: Path
    priority: int


@dataclass(frozen=True)
class ContainerEdits:
    """What a container gets for its CDI devices: variables; device nodes and mounts by path in the container."""

    environment: dict[str, str] = field(default_factory=dict)
    devices: dict[str, Node] = field(default_factory=dict)
    mounts: dict[str, Mount] = field(default_factory=dict)

    def add(self, edits: _Edits) -> None:
        """Add edits; an edit replaces an earlier one of the same name or path. Raises Error if unsupported."""
        if unsupported := _unsupported(edits):
            raise Error(Kind.UNSUPPORTED, f"`wirespeed play` does not support {', '.join(unsupported)}")
        for name, _, value in (variable.partition("=") for variable in edits.env):
            self.environment[name] = value
        self.devices.update((each.path, _node(each)) for each in edits.device_nodes)
        self.mounts.update((each.container_path, _mount(each)) for each in edits.mounts)


def resolve_edits(names: Iterable[str], folders: Sequence[Path]) -> ContainerEdits:
    """Return the edits for the named devices. A specification in a later directory of `folders` takes precedence.

    Raises Error: DEVICE for an undefined name (the message lists invalid specifications) and for a missing
    device node; UNSUPPORTED_FIELD that names the unsupported edits.
    """
    asked = list(dict.fromkeys(names))
    if not asked:
        return ContainerEdits()
    defined, problems = _read(folders)
    if unknown := [name for name in asked if name not in defined]:
        places = " or ".join(map(str, folders)) or "no directory"
        what = f"no specification in {places} defines it"
        undefined = Error(Kind.DEVICE, what, where=Thing("CDI device", ", ".join(unknown)))
        raise CombinedError([undefined, *problems], between="; ")
    result = ContainerEdits()
    files: set[Path] = set()
    for name in asked:
        found = defined[name]
        with errors.within(Thing("CDI device", name), str(found.file)):
            if found.file not in files:  # a specification's own edits are applied once, before those of its devices
                result.add(found.spec.container_edits)
            result.add(found.device.container_edits)
        files.add(found.file)
    return result


def _read(folders: Sequence[Path]) -> tuple[dict[str, _Defined], list[Error]]:
    """Return the devices by their qualified names, and the problems with specifications."""
    defined: dict[str, _Defined] = {}
    conflicts: dict[str, Error] = {}
    problems: list[Error] = []
    for priority, folder in enumerate(folders):
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            if file.suffix not in _SUFFIXES or file.is_dir():
                continue
            try:
                spec = _load(file)
            except Error as error:
                problems.append(error)
                continue
            for device in spec.devices:
                name = f"{spec.kind}={device.name}"
                other = defined.get(name)
                if other and other.priority == priority:
                    what = f"defined by {other.file} and {file}"
                    conflicts[name] = Error(Kind.INVALID_CONFIG, what, where=name)
                else:
                    defined[name] = _Defined(device, spec, file, priority)
    kept = {name: each for name, each in defined.items() if name not in conflicts}
    return kept, [*problems, *conflicts.values()]


def _load(file: Path) -> _Spec:
    """Read a file with one specification. Raises Error(INVALID_CONFIG) that names the file."""
    found = [documents.without_nulls(value) for _, value in documents.read(file)]
    with errors.within(str(file)):
        if len(found) != 1:
            raise Error(Kind.INVALID_CONFIG, expected="one document", got=len(found))
        spec = structs.read(found[0], _Spec)
        _check(spec)
    return spec


def _check(spec: _Spec) -> None:
    """Raise Error(INVALID_CONFIG) for violations of the specification that the types do not express."""
    if spec.cdi_version.removeprefix("v") not in _VERSIONS:
        raise structs.wrong(("cdiVersion",), f"one of {', '.join(_VERSIONS)}", spec.cdi_version)
    if not _KIND.fullmatch(spec.kind):
        raise structs.wrong(("kind",), "vendor/class", spec.kind)
    if not spec.devices:
        raise structs.wrong(("devices",), "at least one", [])
    names = [device.name for device in spec.devices]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Error(Kind.INVALID_CONFIG, f"{', '.join(twice)} is there twice", key="devices")
    with errors.under("containerEdits"):
        _check_edits(spec.container_edits)
    for number, device in enumerate(spec.devices):
        with errors.under("devices", number):
            if not _NAME.fullmatch(device.name):
                expected = "letters, digits and _.:- between a letter or digit at each end"
                raise structs.wrong(("name",), expected, device.name)
            with errors.under("containerEdits"):
                if device.container_edits == _Edits():
                    raise Error(Kind.INVALID_CONFIG, expected="at least one edit")
                _check_edits(device.container_edits)
    if _VERSIONS.index(spec.cdi_version.removeprefix("v")) < _VERSIONS.index(needed := _needed(spec)):
        raise structs.wrong(("cdiVersion",), f"at least {needed}, for what it uses", spec.cdi_version)


def _check_edits(edits: _Edits) -> None:
    for number, variable in enumerate(edits.env):
        if variable.find("=") < 1:
            raise structs.wrong(("env", number), "NAME=VALUE", variable)
    for number, each in enumerate(edits.device_nodes):
        if not each.path:
            raise structs.wrong(("deviceNodes", number, "path"), "a path", each.path)
        if not _PERMISSIONS.fullmatch(each.permissions):
            raise structs.wrong(("deviceNodes", number, "permissions"), "rwm or some of these", each.permissions)
    for number, mount in enumerate(edits.mounts):
        for key, path in (("hostPath", mount.host_path), ("containerPath", mount.container_path)):
            if not path:
                raise structs.wrong(("mounts", number, key), "a path", path)


def _needed(spec: _Spec) -> str:
    """Return the oldest CDI version that has everything the specification uses."""
    edits = [spec.container_edits, *(device.container_edits for device in spec.devices)]
    rdt = [each.intel_rdt for each in edits if each.intel_rdt is not None]
    if any("schemata" in each or each.get("enableMonitoring") for each in rdt) or any(e.net_devices for e in edits):
        return "1.1.0"
    if rdt or any(each.additional_gids for each in edits):
        return "0.7.0"
    annotated = spec.annotations or any(device.annotations for device in spec.devices)
    if annotated or "." in spec.kind.partition("/")[2]:
        return "0.6.0"
    by_host_path = any(each.host_path for part in edits for each in part.device_nodes)
    if by_host_path or any(device.name[0].isdigit() for device in spec.devices):
        return "0.5.0"
    return "0.4.0" if any(each.type for part in edits for each in part.mounts) else "0.3.0"


def _unsupported(edits: _Edits) -> list[str]:
    """Name the edits that are not supported here."""
    found = [f"hook {hook.get('hookName', '')} {hook.get('path', '')}" for hook in edits.hooks]
    found += [f"netDevice {device.get('hostInterfaceName', '')}" for device in edits.net_devices]
    found += ["intelRdt"] if edits.intel_rdt is not None else []
    found += ["additionalGids"] if any(edits.additional_gids) else []
    for mount in edits.mounts:
        strange = sorted(set(mount.options) - _OPTIONS)
        is_bind = mount.type == "bind" or (mount.type in {"", "none"} and not _BINDS.isdisjoint(mount.options))
        if strange or not is_bind:
            what = f"of type {mount.type or 'none'} with options {','.join(mount.options) or 'none'}"
            found.append(f"mount on {mount.container_path} {what}")
    return found


def _node(each: _DeviceNode) -> Node:
    """Return the device node; what the specification omits is copied from this machine. Raises Error(DEVICE)."""
    host_path = each.host_path or each.path
    is_whole = each.type == "p" or (each.type != "" and each.major != 0)
    try:
        host = node(each.path, host_path)
    except Error:
        if not is_whole:
            raise
        host = Node(each.path, each.type, each.major, each.minor, 0o666)
    if not is_whole and each.type not in {"", host.kind}:
        where, expected = Thing("device", host_path), f"a node of type {each.type}"
        raise Error(Kind.DEVICE, where=where, expected=expected, got=host.kind)
    kind = (each.type or host.kind).replace("u", "c")  # mknod(1): "u" is the same as "c"
    major, minor = (each.major, each.minor) if each.major or kind == "p" else (host.major, host.minor)
    mode = host.mode if each.file_mode is None else each.file_mode
    return Node(each.path, kind, major, minor, mode, each.uid, each.gid)


def _mount(each: _Mount) -> Mount:
    options = tuple(option for option in each.options if option not in {"rw", "rbind", "private", "rprivate"})
    return Mount(each.host_path, each.container_path, options)

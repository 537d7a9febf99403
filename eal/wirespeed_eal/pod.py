"""The interfaces of the pod in which this runs, from three sources:

    network-status              each interface, with device-info if the network's plugin wrote it
    userspace/configuration-data, and the files configData-*.json    sockets, roles, queues
    PCIDEVICE_<RESOURCE>        the PCI addresses of the pod's devices

Invalid data in a source is ignored.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import downward

NETWORK_STATUS = "k8s.v1.cni.cncf.io/network-status"
CONFIGURATION_DATA = "userspace/configuration-data"
MAPPED_DIR = "userspace/mapped-dir"
DEFAULT_MAPPED_DIR = "/var/lib/cni/usrspcni"
POOL_DIR = "run/vhost-user"  # the parent of the devices' directories of vhost-user pools

_PCI = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_KINDS = ("pci", "vhost-user", "memif", "vdpa")

Object = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where to read. `sockets` are directories with sockets, or single files configData-*.json.

    By default these are the directory that the pod's annotation userspace/mapped-dir names, and the devices'
    directories in /run/vhost-user. `root` is the root of the file system, for /sys and /run.
    """

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    podinfo: Path = Path("/etc/podnetinfo")
    sockets: tuple[Path, ...] = ()
    root: Path = Path("/")
    hostname: str = field(default_factory=socket.gethostname)


@dataclass(kw_only=True)
class Interface:
    """An interface of the pod.

    `kind` is "host" (a kernel interface, such as the cluster network's), "sr-iov", "pci" (a device that is not in
    the environment), "vhost-user", "memif" or "vdpa"; "unknown" only while the sources are read. `role` is the
    application's: "client" or "server", "master" or "slave". `path` is the socket, or the vdpa device. `name` is
    "" for a device of no network.
    """

    name: str = ""
    network: str = ""
    kind: str = "unknown"
    default: bool = False
    ips: list[str] = field(default_factory=list)
    mac: str = ""
    mtu: int = 0
    pci: str = ""
    path: str = ""
    role: str = ""
    mode: str = ""  # for memif: "ethernet", "ip" or "inject-punt"
    driver: str = ""  # for vdpa: "vhost" or "virtio"
    queues: int = 1
    ring_size: int = 0  # for memif; 0 is DPDK's default
    buffer_size: int = 0
    secret: str = ""
    version: str = ""  # the version of device-info


def interfaces(sources: Sources | None = None) -> list[Interface]:
    """Return the interfaces in the order of network-status, then those that are not in it."""
    sources = sources or Sources()
    annotations = _annotations(sources.podinfo)
    found = [_of_status(entry) for entry in _objects(annotations.get(NETWORK_STATUS))]
    mapped = annotations.get(MAPPED_DIR) or DEFAULT_MAPPED_DIR
    for data in _objects(annotations.get(CONFIGURATION_DATA)):
        _add_data(found, data, mapped)
    for folder, data in _files(sources, mapped):
        _add_data(found, data, folder)
    _add_devices(found, _devices(sources.environ))
    return found


def _annotations(podinfo: Path) -> dict[str, str]:
    try:
        return downward.read((podinfo / "annotations").read_text(errors="replace"))
    except OSError:
        return {}


def _objects(text: str | None) -> list[Object]:
    """Return the objects in a JSON list; none if the text is invalid."""
    try:
        values = json.loads(text or "[]")
    except (ValueError, RecursionError):
        return []
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _text(value: object) -> str:
    """Return the value if it is a string, else ""; lone surrogates become "?"."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else ""


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31 else 0


def _object(value: object) -> Object:
    return value if isinstance(value, dict) else {}


def remove_stale(found: list[Interface]) -> list[str]:
    """Remove sockets that a killed application left, and on which this one is to listen: it could not bind to them.

    Return their paths. Raises OSError.
    """
    paths = dict.fromkeys(interface.path for interface in found if interface.role in {"server", "master"})
    stale = [path for path in paths if _is_stale(path)]
    for path in stale:
        os.unlink(path)
    return stale


def _is_stale(path: str) -> bool:
    """Return whether the path is a socket on which nobody listens."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):  # vhost-user, then memif
        with socket.socket(socket.AF_UNIX, kind) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                return True
            except OSError as error:
                if error.errno != errno.EPROTOTYPE:
                    return False
            else:
                return False
    return False


# network-status


def _of_status(entry: Object) -> Interface:
    ips = entry.get("ips")
    interface = Interface(
        name=_text(entry.get("interface")),
        network=_text(entry.get("name")),
        default=entry.get("default") is True,
        ips=[ip for ip in ips if isinstance(ip, str)] if isinstance(ips, list) else [],
        mac=_text(entry.get("mac")),
        mtu=_number(entry.get("mtu")),
    )
    info = _object(entry.get("device-info"))
    kind = _text(info.get("type"))
    if kind not in _KINDS:
        return interface
    device = _object(info.get(kind))
    interface.kind, interface.version = kind, _text(info.get("version"))
    interface.pci = _text(device.get("pci-address")).lower()
    interface.path = _text(device.get("path"))
    interface.driver = _text(device.get("driver"))
    interface.role = _text(device.get("role" if kind == "memif" else "mode"))
    interface.mode = _text(device.get("mode")) if kind == "memif" else ""
    return interface


# Configuration data


def _files(sources: Sources, mapped: str) -> Iterator[tuple[str, Object]]:
    """Yield the data in configData-*.json files with their directory; the newest one for each interface."""
    newest: dict[str, tuple[int, str, Object]] = {}
    pool = sorted((sources.root / POOL_DIR).glob("*"))
    for place in sources.sockets or (Path(mapped), *pool):
        # Path.is_dir() raises if a parent directory is not accessible. Such a directory has nothing of this pod.
        for path in sorted(place.glob("configData-*.json")) if os.path.isdir(place) else [place]:
            try:
                data, age = json.loads(path.read_text()), path.stat().st_mtime_ns
            except (OSError, ValueError, RecursionError):
                continue
            if isinstance(data, dict) and (path == place or _is_ours(data, sources)):
                name = _text(data.get("ifName"))
                if name not in newest or newest[name][0] < age:
                    newest[name] = (age, str(path.parent), data)
    for _, (_, folder, data) in sorted(newest.items()):
        yield folder, data


def _is_ours(data: Object, sources: Sources) -> bool:
    """Return whether podName is this pod's (POD_NAME, or else the hostname): pods may share a directory."""
    pod_name = _text(data.get("podName"))
    return not pod_name or pod_name == (sources.environ.get("POD_NAME") or sources.hostname)


def _add_data(found: list[Interface], data: Object, folder: str) -> None:
    """Add the data to the interface of that name. Values from device-info take precedence."""
    config = _object(data.get("config"))
    kind = {"vhostuser": "vhost-user", "memif": "memif"}.get(_text(config.get("iftype")), "")
    name = _text(data.get("ifName"))
    if not kind or not name:
        return
    known = next((interface for interface in found if interface.name == name), None)
    interface = known or Interface(name=name, network=_text(data.get("name")), ips=_addresses(data))
    if known is None:
        found.append(interface)
    if interface.kind not in {"unknown", kind}:
        return
    part = _object(config.get("memif" if kind == "memif" else "vhost"))
    file = _text(part.get("socketfile"))
    interface.kind = kind
    interface.path = interface.path or (os.path.join(folder, file) if file else "")
    interface.role = interface.role or _text(part.get("role" if kind == "memif" else "mode"))
    interface.mode = interface.mode or (_text(part.get("mode")) or "ethernet" if kind == "memif" else "")
    interface.mac = interface.mac or _text(config.get("mac"))
    interface.mtu = interface.mtu or _number(config.get("mtu"))
    interface.queues = _number(config.get("queues")) or interface.queues
    interface.ring_size = _number(part.get("ringSize"))
    interface.buffer_size = _number(part.get("bufferSize"))
    interface.secret = _text(part.get("secret"))


def _addresses(data: Object) -> list[str]:
    ips = _object(data.get("ipResult")).get("ips")
    found = [_text(_object(ip).get("address")).partition("/")[0] for ip in ips] if isinstance(ips, list) else []
    return [ip for ip in found if ip]


# Devices of the environment


def _devices(environ: Mapping[str, str]) -> list[str]:
    """Return the PCI addresses in PCIDEVICE_<RESOURCE>, sorted by variable. PCIDEVICE_<RESOURCE>_INFO is JSON."""
    names = [name for name in sorted(environ) if name.startswith("PCIDEVICE_") and not name.endswith("_INFO")]
    values = [value.strip().lower() for name in names for value in environ[name].split(",")]
    return list(dict.fromkeys(value for value in values if _PCI.fullmatch(value)))


def _add_devices(found: list[Interface], devices: list[str]) -> None:
    """Assign devices to the interfaces that name them, then in order to the interfaces of unknown kind."""
    left = list(devices)
    for interface in found:
        if interface.pci in left and interface.kind in {"pci", "vdpa"}:
            left.remove(interface.pci)
            interface.kind = "sr-iov" if interface.kind == "pci" else "vdpa"
    for interface in found:
        if interface.kind != "unknown":
            continue
        if interface.default or not left:
            interface.kind = "host"
        else:
            interface.kind, interface.pci, interface.version = "sr-iov", left.pop(0), "1.0.0"
    found += [Interface(kind="sr-iov", pci=address, version="1.0.0") for address in left]

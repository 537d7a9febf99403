"""EAL arguments for the pod's interfaces, for DPDK 20.11 and newer."""

from __future__ import annotations

import re

from .pod import Interface, Sources, interfaces
from .resources import cpus, hugepages

_ROLES = {"master": "server", "slave": "client"}  # DPDK's names for memif roles since 20.11
_PLAIN = re.compile(r"[^\s,\"'\\\0]+")
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


class EalError(Exception):
    """An interface has no EAL argument; the text names it and the reason."""


def arguments(
    sources: Sources | None = None, *, cores: int = 0, memory: int | None = None, file_prefix: str = ""
) -> list[str]:
    """Return the EAL arguments: CPUs, hugepage memory, the pod's own file prefix, devices.

    `cores` limits the number of the container's CPUs (0: all). `memory` is in MiB and overrides the container's
    limit (0: leave it to DPDK). Raises EalError.
    """
    sources = sources or Sources()
    found = interfaces(sources)
    addresses = [each.pci for each in found if each.kind in {"sr-iov", "pci"} and each.pci]
    virtual = _virtual(found)
    listed = cpus(sources)
    if cores > len(listed):
        raise EalError(f"{cores} CPUs are asked for, and the container has {len(listed)}")
    mib = hugepages(sources) if memory is None else memory
    args = ["-l", ",".join(map(str, listed[: cores or None]))]
    args += ["-m", str(mib)] if mib else []
    args.append(f"--file-prefix={file_prefix or _prefix(sources)}")
    if any(device.startswith("virtio_user") for device in virtual):
        args.append("--single-file-segments")  # vhost-user supports at most 8 memory regions
    args += [part for address in dict.fromkeys(addresses) for part in ("-a", address)] or ["--no-pci"]
    return [*args, *(f"--vdev={device}" for device in virtual)]


def _prefix(sources: Sources) -> str:
    """Return a prefix for hugepage files that is unique among the node's processes and the pod's containers."""
    parts = [sources.environ.get("POD_NAME") or sources.hostname, sources.environ.get("CONTAINER_NAME", "")]
    return "-".join(["ws", *(re.sub(r"[^A-Za-z0-9._-]", "-", part) for part in parts if part)])


def _virtual(found: list[Interface]) -> list[str]:
    users = [
        each for each in found if each.kind == "vhost-user" or (each.kind == "vdpa" and each.driver == "vhost")
    ]
    memifs = [one for one in found if one.kind == "memif"]
    return [
        *(_virtio_user(number, interface) for number, interface in enumerate(users)),
        *(_memif(number, interface) for number, interface in enumerate(memifs)),
    ]


def _virtio_user(number: int, interface: Interface) -> str:
    parts = [f"virtio_user{number}", f"path={_path(interface)}"]
    parts += ["server=1"] if interface.kind == "vhost-user" and interface.role == "server" else []
    parts += [f"queues={interface.queues}"] if interface.queues > 1 else []
    return ",".join(parts + _mac(interface))


def _memif(number: int, interface: Interface) -> str:
    if interface.mode not in {"", "ethernet"}:
        raise EalError(f"interface {interface.name}: DPDK has no memif of mode {interface.mode}, only ethernet")
    role = _ROLES.get(interface.role)
    if role is None:
        raise EalError(
            f'interface {interface.name}: expected memif\'s role master or slave, got "{interface.role}"'
        )
    parts = [f"net_memif{number}", "id=0", f"role={role}", f"socket={_path(interface)}", "socket-abstract=no"]
    if interface.ring_size:
        parts.append(f"rsize={interface.ring_size.bit_length() - 1}")
    parts += [f"bsize={interface.buffer_size}"] if interface.buffer_size else []
    if interface.secret:
        if not _PLAIN.fullmatch(interface.secret):
            raise EalError(f"interface {interface.name}: its secret cannot be an argument")
        parts.append(f"secret={interface.secret}")
    return ",".join(parts + _mac(interface))


def _path(interface: Interface) -> str:
    if not _PLAIN.fullmatch(interface.path):
        raise EalError(
            f"interface {interface.name}: its path cannot be an argument: expected no space, comma or quote, "
            f'got "{interface.path}"'
        )
    return interface.path


def _mac(interface: Interface) -> list[str]:
    return [f"mac={interface.mac}"] if _MAC.fullmatch(interface.mac) else []

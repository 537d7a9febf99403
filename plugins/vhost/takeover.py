"""Ports that userspace-CNI made, from what it keeps of each: a DEL takes them over as removals.

`<dir>/data/local-<container>-<interface>.json` has the name of Open vSwitch's port (userspace-CNI,
cniovs/localdb.go) or the number of VPP's interface (cnivpp/localdb.go). The container is 12 digits of its id there,
so a file is taken over when the DEL of its attachment comes, and lies until then where userspace-CNI finds it too.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from wirespeed import structs
from wirespeed.cni.errors import CniError, Code
from wirespeed.plugins.vhost.conf import OVS, VPP
from wirespeed.plugins.vhost.engine import port_name
from wirespeed.plugins.vhost.sockets import Folder

# Where userspace-CNI mounts an emptyDir whose path is too long for a socket, by the pod's UID (cniovs/cniovs.go,
# getShortSharedDir).
MOUNTS = Path("/var/lib/vhost_sockets")
_LONG = 89
_DIGITS = 12  # of a container's id
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # of a port; its socket's file has the same
_UMOUNT_NOFOLLOW = 8


@structs.prepared
class _File(msgspec.Struct, kw_only=True):
    """What may be in a file."""

    port: str = msgspec.field(name="vhostname", default="")
    index: int | None = msgspec.field(name="swIfIndex", default=None)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What userspace-CNI keeps of one attachment: in which switch, and the port's name there.

    VPP's number of the interface is nothing to trust: it numbers everything anew when it starts.
    """

    file: Path
    engine: str
    port: str


def kept(base: Path, container: str, ifname: str) -> Kept | None:
    """What is kept of an attachment in the folder `base`; None where nothing is.

    Raises CniError: DECODING_FAILURE that says what was expected, IO_FAILURE.
    """
    file = base / "data" / f"local-{container[:_DIGITS]}-{ifname}.json"
    try:
        found = msgspec.json.decode(file.read_bytes(), type=_File)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CniError(Code.IO_FAILURE, f"{file}: {error.strerror}") from error
    except (msgspec.MsgspecError, RecursionError) as error:
        raise CniError(Code.DECODING_FAILURE, f"{file}: expected what userspace-CNI keeps: {error}") from error
    if found.index is not None:
        return Kept(file=file, engine=VPP, port=port_name(container, ifname))
    if not _NAME.fullmatch(found.port):
        raise CniError(
            Code.DECODING_FAILURE, f'{file}: key "vhostname": expected the name of a port, got {found.port!r}'
        )
    return Kept(file=file, engine=OVS, port=found.port)


def as_switch_has_it(folder: Folder) -> str:
    """The path by which a pod's folder was told to the switch."""
    if not folder.kubelets or len(folder.path) < _LONG:
        return folder.path
    uid = folder.path.partition("/pods/")[2].partition("/")[0]
    return str(MOUNTS / uid)


def forget(file: Path, folder: str) -> None:
    """Remove what is kept of an attachment, and the mount of its pod's `folder` with the last one of them.

    Raises CniError(IO_FAILURE).
    """
    try:
        file.unlink(missing_ok=True)
        if Path(folder).parent == MOUNTS and not _others(file):
            _unmount(folder)
    except OSError as error:
        raise CniError(Code.IO_FAILURE, f"{error.filename or folder}: {error.strerror}") from error


def _others(file: Path) -> bool:
    """Whether anything else is kept of the same container."""
    return any(file.parent.glob(f"{file.name[: len('local-') + _DIGITS]}-*.json"))


def _unmount(folder: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(folder.encode(), _UMOUNT_NOFOLLOW):
        number = ctypes.get_errno()
        if number not in {errno.EINVAL, errno.ENOENT}:  # not mounted any more, or gone
            raise OSError(number, os.strerror(number), folder)
    with suppress(OSError):  # gone, or the folder of something else
        os.rmdir(folder)

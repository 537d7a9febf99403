"""Takeover from userspace-CNI: reads its files on its ports, so that a DEL can remove these ports.

`<dir>/data/local-<container>-<interface>.json` contains the name of the Open vSwitch port (userspace-CNI,
cniovs/localdb.go) or the index of the VPP interface (cnivpp/localdb.go). <container> is only the first 12 digits of
the id, so the full id is known only when the DEL comes; until then the file stays in place for userspace-CNI.
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
from wirespeed.errors import Error, Kind, as_error, os_errors
from wirespeed.plugins.vhost.conf import OVS, VPP
from wirespeed.plugins.vhost.engine import port_name
from wirespeed.plugins.vhost.sockets import Folder

# userspace-CNI bind-mounts an emptyDir whose path is too long for a socket at <MOUNTS>/<pod UID>
# (cniovs/cniovs.go, getShortSharedDir).
MOUNTS = Path("/var/lib/vhost_sockets")
_LONG = 89  # paths of at least this length
_DIGITS = 12  # of the container id
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # a port's name, also the name of its socket
_UMOUNT_NOFOLLOW = 8


@structs.prepared
class _File(msgspec.Struct, kw_only=True):
    """The keys of a file of userspace-CNI."""

    port: str = msgspec.field(name="vhostname", default="")
    index: int | None = msgspec.field(name="swIfIndex", default=None)


@dataclass(frozen=True, kw_only=True)
class LocalFile:
    """userspace-CNI's file of one attachment: the switch, and the port's name in it.

    The stored VPP interface index is not used: VPP assigns new indexes when it restarts.
    """

    file: Path
    engine: str
    port: str


def read_local_file(base: Path, container: str, ifname: str) -> LocalFile | None:
    """Read the file of an attachment in the folder `base`; None if there is none.

    Raises Error: INVALID_DATA that names what was expected, IO.
    """
    file = base / "data" / f"local-{container[:_DIGITS]}-{ifname}.json"
    try:
        found = msgspec.json.decode(file.read_bytes(), type=_File)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise as_error(error, file) from error
    except (msgspec.MsgspecError, RecursionError) as error:
        expected = "the format of userspace-CNI"
        raise Error(Kind.INVALID_DATA, str(error), where=str(file), expected=expected) from error
    if found.index is not None:
        return LocalFile(file=file, engine=VPP, port=port_name(container, ifname))
    if not _NAME.fullmatch(found.port):
        expected = "the name of a port"
        raise Error(Kind.INVALID_DATA, where=str(file), key="vhostname", expected=expected, got=found.port)
    return LocalFile(file=file, engine=OVS, port=found.port)


def path_on_switch(folder: Folder) -> str:
    """Return the path by which the switch knows a pod's folder: the one that userspace-CNI passed to it."""
    if not folder.kubelets or len(folder.path) < _LONG:
        return folder.path
    uid = folder.path.partition("/pods/")[2].partition("/")[0]
    return str(MOUNTS / uid)


def remove_local_file(file: Path, folder: str) -> None:
    """Remove the file of an attachment. If it is the container's last one, also unmount its pod's `folder`.

    Raises Error(IO).
    """
    others = f"{file.name[: len('local-') + _DIGITS]}-*.json"
    with os_errors():
        file.unlink(missing_ok=True)
        if Path(folder).parent == MOUNTS and not any(file.parent.glob(others)):
            _unmount(folder)


def _unmount(folder: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(folder.encode(), _UMOUNT_NOFOLLOW):
        number = ctypes.get_errno()
        if number not in {errno.EINVAL, errno.ENOENT}:  # no longer mounted, or no longer there
            raise OSError(number, os.strerror(number), folder)
    with suppress(OSError):  # no longer there, or not empty
        os.rmdir(folder)

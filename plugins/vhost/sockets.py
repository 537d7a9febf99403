"""The socket of an attachment: its folder, a path that is short enough for the kernel, owner, mode and label.

Pods can write into the folders that they mount, so symlinks in them are never followed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind, Thing, os_errors
from wirespeed.kube.cluster import SOCKETS_VOLUME as VOLUME
from wirespeed.plugins.vhost.conf import Access
from wirespeed.plugins.vhost.engine import short_id
from wirespeed.system.files import temporary_name

LONGEST_PATH = 107  # bytes of a socket's path: sun_path has 108 with the terminating 0 (unix(7))
_FOLDER_MODE = 0o750
_UID = re.compile(r"[A-Za-z0-9-]{1,63}")


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder for sockets: `path` on the node, `inside` in the container ("" if unknown).

    A folder that is `ours` is removed when it is empty; one that is `kubelets` is created and removed by the
    kubelet. Any other belongs to the administrator and keeps its owner and mode. `link` is a short symlink to the
    folder, "" if none is needed.
    """

    path: str
    inside: str = ""
    ours: bool = False
    kubelets: bool = False
    link: str = ""

    def switch_path(self, file: str) -> str:
        """Return the path of a socket in the folder for programs on the node, through `link` if there is one."""
        return f"{self.link or self.path}/{file}"


def of_pod(pod: dict[str, Any], request: Request, kubelet: Path) -> Folder | None:
    """Return the folder of the pod's volume "shared-dir"; None if it has no such volume.

    Raises Error: INVALID_CONFIG for a volume that is neither hostPath nor emptyDir, INVALID_REQUEST for an invalid
    pod UID.
    """
    volume = next((v for v in pod["spec"].get("volumes") or [] if v.get("name") == VOLUME), None)
    if volume is None:
        return None
    inside = _mount_path(pod)
    if path := (volume.get("hostPath") or {}).get("path"):
        if not path.startswith("/") or ".." in path.split("/"):
            expected = "a hostPath that is absolute and has no .."
            raise Error(Kind.INVALID_CONFIG, where=Thing("volume", VOLUME), expected=expected, got=path)
        return Folder(path=path.rstrip("/") or "/", inside=inside)
    if "emptyDir" in volume:
        uid = request.args.get("K8S_POD_UID") or pod["metadata"].get("uid") or ""
        if not _UID.fullmatch(uid):
            expected = "letters, digits and -"
            raise Error(Kind.INVALID_REQUEST, where="UID of the pod", expected=expected, got=uid)
        path = str(kubelet / "pods" / uid / "volumes/kubernetes.io~empty-dir" / VOLUME)
        return Folder(path=path, inside=inside, kubelets=True)
    kinds = ", ".join(sorted(key for key in volume if key != "name")) or "nothing"
    expected = "a hostPath or an emptyDir"
    raise Error(Kind.INVALID_CONFIG, where=Thing("volume", VOLUME), expected=expected, got=kinds)


def of_device(base: Path, device: str) -> Folder:
    """Return the folder of a device of a vhost-user pool. The device plugin sets its owner, mode and label."""
    return Folder(path=str(base / "devices" / device), inside=inside_of_device(device))


def inside_of_device(device: str) -> str:
    """Return the path in containers of the folder of a device of a vhost-user pool."""
    return f"/run/vhost-user/{device}"


def container_folder(base: Path, container: str) -> Folder:
    """Return the container's own folder below `base`."""
    return Folder(path=str(base / short_id(container)), ours=True)


def check_inside(folder: Folder, file: str) -> None:
    """Raise Error(INVALID_CONFIG) if the socket's path in the container is too long."""
    if folder.inside:
        what, hint = "the path in the container is too long", "mount the volume at a shorter path"
        _check_length(f"{folder.inside}/{file}", what, hint)


def with_short_path(folder: Folder, file: str, links: Path) -> Folder:
    """Return the folder, with a link in `links` if the socket's path is too long without one.

    Raises Error(INVALID_CONFIG) if it is too long even with the link.
    """
    path = folder.switch_path(file).encode()
    if len(path) <= LONGEST_PATH:
        return folder
    linked = replace(folder, link=str(links / hashlib.blake2s(path, digest_size=8).hexdigest()))
    _check_length(linked.switch_path(file), "the path is too long", "configure a shorter vhost.sockets")
    return linked


def _check_length(path: str, what: str, hint: str) -> None:
    if (length := len(path.encode())) > LONGEST_PATH:
        where, expected = f"socket {path}", f"at most {LONGEST_PATH} bytes, the kernel's limit"
        raise Error(Kind.INVALID_CONFIG, what, where=where, expected=expected, got=length, hint=hint)


def _mount_path(pod: dict[str, Any]) -> str:
    """Return the mount path of the volume in the containers; of several the last one, as userspace-CNI does."""
    mounts = [mount for each in pod["spec"].get("containers") or [] for mount in each.get("volumeMounts") or []]
    found = [str(mount.get("mountPath") or "") for mount in mounts if mount.get("name") == VOLUME]
    return found[-1].rstrip("/") if found else ""


# Changes


def prepare(folder: Folder, access: Access) -> None:
    """Create the folder and its link if they are missing, and set the folder's owner, mode and label if it is not
    the administrator's.

    Raises Error(IO, INVALID_CONFIG).
    """
    with os_errors(f"folder for sockets {folder.path}"):
        if not folder.kubelets:
            os.makedirs(Path(folder.path).parent, mode=0o755, exist_ok=True)
            with suppress(FileExistsError):
                os.mkdir(folder.path, _FOLDER_MODE)
        with _opened(folder.path) as at:
            if folder.ours or folder.kubelets:
                mode = access.mode if access.mode is None else access.mode | (access.mode & 0o444) >> 2
                _set_access(at, folder.path, access, mode)
        if folder.link:
            _make_link(Path(folder.link), folder.path)


def set_access(folder: Folder, file: str, access: Access) -> None:
    """Set owner, mode and label of a socket that the switch created. Raises Error(IO, INVALID_CONFIG)."""
    path = f"{folder.path}/{file}"
    # O_PATH, because a socket cannot be opened; the path in /proc then refers to exactly this socket.
    with (
        os_errors(f"socket {path}"),
        _opened(folder.path) as at,
        _opened(file, os.O_PATH | os.O_NOFOLLOW, at=at) as fd,
    ):
        _set_access(f"/proc/self/fd/{fd}", path, access, access.mode)


def write_file(folder: Folder, file: str, content: bytes, access: Access) -> None:
    """Write a file into the folder atomically, with mode 0644. Raises Error(IO)."""
    new = temporary_name(file)
    with os_errors(f"file {folder.path}/{file}"), _opened(folder.path) as at:
        with suppress(FileNotFoundError):
            os.unlink(new, dir_fd=at)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=at)
        with open(fd, "wb") as stream:
            stream.write(content)
            os.fchmod(fd, 0o644)
            _label(f"/proc/self/fd/{fd}", access.label)
        os.rename(new, file, src_dir_fd=at, dst_dir_fd=at)


def clear(folder: Folder, files: Sequence[str]) -> None:
    """Remove the files, the folder's link, and the folder if it is ours and empty.

    Also remove temporary files of a killed `write_file`. Idempotent. Raises Error(IO).
    """
    gone = suppress(FileNotFoundError, NotADirectoryError)  # the kubelet has removed the pod's volumes
    with os_errors(f"folder for sockets {folder.path}"), gone, _opened(folder.path) as at:
        for file in files:
            _unlink(file, at)
            _unlink(temporary_name(file), at)
    if folder.ours:
        with suppress(OSError):  # it has files of other attachments, or no longer exists
            os.rmdir(folder.path)
    if folder.link:
        with os_errors(f"short path {folder.link}"):
            Path(folder.link).unlink(missing_ok=True)


def exists(folder: Folder, file: str) -> bool:
    """Whether the folder contains the file."""
    with suppress(OSError), _opened(folder.path) as at:
        os.stat(file, dir_fd=at, follow_symlinks=False)
        return True
    return False


@contextmanager
def _opened(path: str, flags: int = os.O_RDONLY | os.O_DIRECTORY, *, at: int | None = None) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC, dir_fd=at)
    try:
        yield fd
    finally:
        os.close(fd)


def _unlink(file: str, at: int) -> None:
    try:
        os.unlink(file, dir_fd=at)
    except FileNotFoundError:
        pass
    except OSError as error:
        # A pod may have replaced its socket with a folder: leave that alone.
        if error.errno not in {errno.EISDIR, errno.EPERM}:
            raise


def _set_access(target: int | str, name: str, access: Access, mode: int | None) -> None:
    """Set owner, mode and label of an open folder, or of the file behind a path in /proc/self/fd."""
    if access.user is not None or access.group is not None:
        os.chown(target, -1 if access.user is None else access.user, -1 if access.group is None else access.group)
    if mode is not None:
        os.chmod(target, mode)
    try:
        _label(target, access.label)
    except OSError as error:
        raise Error(
            Kind.INVALID_CONFIG,
            f"{access.label} on {name}: {error.strerror}",
            key="socket.selinuxLabel",
            expected="a label that this node's policy has",
        ) from error


def _label(target: int | str, label: str) -> None:
    if label:
        os.setxattr(target, "security.selinux", label.encode() + b"\0")


def _make_link(link: Path, target: str) -> None:
    link.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        link.symlink_to(target)
    except FileExistsError:
        if os.readlink(link) != target:
            raise

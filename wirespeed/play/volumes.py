"""A pod's directory: its volumes, hosts, hostname and resolv.conf, created as the kubelet does."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from wirespeed import errors
from wirespeed.errors import Error, Kind, Thing
from wirespeed.play import quantity, texts
from wirespeed.play.manifests import hugepages
from wirespeed.play.objects import ConfigMaps, Container, EmptyDir, Facts, HostPath, Pod, Volume
from wirespeed.play.process import Mount
from wirespeed.play.programs import run
from wirespeed.steps import Undo

_HOSTS = """\
# Kubernetes-managed hosts file.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
"""
_TYPE_CHECKS = {
    "Directory": stat.S_ISDIR,
    "File": stat.S_ISREG,
    "Socket": stat.S_ISSOCK,
    "CharDevice": stat.S_ISCHR,
    "BlockDevice": stat.S_ISBLK,
}


class Volumes:
    """The volumes of `pod` in the new directory `folder`. `undo` unmounts what is mounted there."""

    def __init__(self, pod: Pod, folder: Path, config_maps: ConfigMaps, undo: Undo) -> None:
        self._pod, self._folder, self._undo = pod, folder, undo
        self._config_maps = config_maps
        context = pod.spec.security_context
        self._group = context.fs_group if context else None
        self._sources: dict[str, str] = {}
        self._lock = threading.Lock()  # for _written and the files
        self._written: dict[str, dict[str, texts.File]] = {}  # the written files, by volume

    def make(self, facts: Facts) -> None:
        """Create all volumes. Raises Error that names the volume."""
        self._folder.mkdir(parents=True)
        for volume in self._pod.spec.volumes:
            with _volume_in_errors(volume):
                self._sources[volume.name] = self._create(volume)
        self._write_texts(facts)

    def refresh(self, facts: Facts) -> None:
        """Rewrite the text volumes whose content has changed. Raises Error that names the volume."""
        if self._written:
            self._write_texts(facts)

    def write_names(self, hostname: str, ips: Sequence[str]) -> None:
        """Write the pod's /etc/hosts, /etc/hostname and /etc/resolv.conf, once its addresses are known."""
        lines = [f"{ip}\t{hostname}\n" for ip in ips]
        if aliases := self._pod.spec.host_aliases:
            lines.append("\n# Entries added by HostAliases.\n")
            lines += [f"{alias.ip}\t{' '.join(alias.hostnames)}\n" for alias in aliases]
        (self._folder / "hosts").write_text(_HOSTS + "".join(lines))
        (self._folder / "hostname").write_text(f"{hostname}\n")
        node = Path("/etc/resolv.conf")
        (self._folder / "resolv.conf").write_text(node.read_text() if node.exists() else "")

    def mounts(self, container: Container) -> list[Mount]:
        read_only = {volume.name for volume in self._pod.spec.volumes if volume.texts}
        found = []
        for mount in container.volume_mounts:
            options = ("ro",) if mount.read_only or mount.name in read_only else ()
            found.append(Mount(self._sources[mount.name], mount.mount_path, options))
        taken = {mount.target.rstrip("/") for mount in found}
        for name in ("hosts", "hostname", "resolv.conf"):
            if f"/etc/{name}" not in taken:
                found.append(Mount(str(self._folder / name), f"/etc/{name}"))
        return found

    def _create(self, volume: Volume) -> str:
        if volume.host_path:
            return _host_path(volume.host_path)
        place = self._folder / "volumes" / volume.name
        place.mkdir(parents=True)
        if volume.empty_dir:
            self._mount(place, volume.empty_dir)
            place.chmod(0o777)
        if self._group is not None:
            texts.set_group(place, self._group)
        return str(place)

    def _write_texts(self, facts: Facts) -> None:
        with self._lock:
            for volume in self._pod.spec.volumes:
                if volume.texts is None:
                    continue
                found = texts.files(volume.texts, self._pod, facts, self._config_maps)
                if self._written.get(volume.name) != found:
                    with _volume_in_errors(volume):
                        texts.write(self._folder / "volumes" / volume.name, found, group=self._group)
                    self._written[volume.name] = found

    def _mount(self, place: Path, volume: EmptyDir) -> None:
        """Mount an emptyDir's medium on this machine, so that the pod's containers share it."""
        if volume.medium == "Memory":
            size = ["-o", f"size={quantity.whole_number(volume.size_limit)}"] if volume.size_limit else []
            run("mount", "-t", "tmpfs", *size, "tmpfs", str(place))
        elif volume.medium:
            run("mount", "-t", "hugetlbfs", "-o", f"pagesize={self._page_size(volume)}", "hugetlbfs", str(place))
        else:
            return
        self._undo.push(f"volume {place.name}", lambda: run("umount", str(place)))

    def _page_size(self, volume: EmptyDir) -> str:
        """Return the page size for mount: "2M" for HugePages-2Mi; for HugePages, the size that the pod requests."""
        _, _, size = volume.medium.partition("-")
        return (size or next(iter(hugepages(self._pod)))).removesuffix("i")


@contextlib.contextmanager
def _volume_in_errors(volume: Volume) -> Iterator[None]:
    """Prefix errors with the volume's name."""
    with errors.within(Thing("volume", volume.name)), errors.os_errors():
        yield


def _host_path(volume: HostPath) -> str:
    path = Path(volume.path)
    if volume.type == "DirectoryOrCreate":
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    elif volume.type == "FileOrCreate" and not path.exists():
        path.touch(mode=0o644)
    kind = volume.type.removesuffix("OrCreate")
    mode = os.stat(path).st_mode
    if kind and not _TYPE_CHECKS[kind](mode):
        raise Error(Kind.INVALID_CONFIG, where=f"hostPath {path}", expected=f"a {kind}")
    return os.path.realpath(path)

"""Volumes that consist of texts: configMap, downwardAPI and projected. Their checks, content and files."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from wirespeed.play import downward
from wirespeed.play.downward import FieldRef, ResourceFieldRef

if TYPE_CHECKING:
    from wirespeed.play.environment import ConfigMaps, Facts
    from wirespeed.play.manifests import Container, Pod

ROOT_CA = "kube-root-ca.crt"  # a ConfigMap that a cluster has in each namespace
_MODE = 0o644


class _Part(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """A part of a volume. An unknown key is an error, as in Kubernetes."""


class _Item(_Part, kw_only=True):
    """A file of a volume: its path in the volume, and its permissions."""

    path: str
    mode: int | None = None


class DownwardItem(_Item):
    field_ref: FieldRef | None = None
    resource_field_ref: ResourceFieldRef | None = None


class DownwardVolume(_Part):
    items: list[DownwardItem] = []
    default_mode: int | None = None


class KeyItem(_Item, kw_only=True):
    key: str


class ConfigMapVolume(_Part):
    name: str = ""
    items: list[KeyItem] = []
    default_mode: int | None = None
    default_user: Any = None  # rejected
    optional: bool = False


class Source(_Part, forbid_unknown_fields=False):
    """A source of a projected volume. Keys of other kinds are rejected in play.manifests."""

    config_map: ConfigMapVolume | None = None
    downward_api: DownwardVolume | None = msgspec.field(name="downwardAPI", default=None)
    service_account_token: Any = None  # without effect: there is no API server to accept the token


class ProjectedVolume(_Part):
    sources: list[Source] = []
    default_mode: int | None = None


Volume = ConfigMapVolume | DownwardVolume | ProjectedVolume


class File(NamedTuple):
    """A file of a volume; `mode` is its permissions."""

    text: str
    mode: int


# Checks


def refusal(volume: Volume, containers: Iterable[Container]) -> str:
    """Return what is wrong with a volume, starting with the key; "" if nothing is."""
    names = {container.name for container in containers}
    for where, part in _parts(volume):
        if problem := _mode_refusal(part.default_mode):
            return f"{where}.defaultMode: {problem}"
        items: Sequence[_Item] = part.items
        for number, item in enumerate(items):
            here = f"{where}.items[{number}]"
            if problem := _path_refusal(item.path):
                return f"{here}.path: {problem}"
            if problem := _mode_refusal(item.mode):
                return f"{here}.mode: {problem}"
            if isinstance(item, DownwardItem) and (problem := _item_refusal(item, names)):
                return f"{here}{problem}"
    problem = _mode_refusal(volume.default_mode)  # a projected volume is not among its parts
    return problem and f".defaultMode: {problem}"


def _parts(volume: Volume) -> Iterator[tuple[str, ConfigMapVolume | DownwardVolume]]:
    """Yield the volume, or the sources of a projected one, each with its path of keys in the volume."""
    if not isinstance(volume, ProjectedVolume):
        yield "", volume
        return
    for number, source in enumerate(volume.sources):
        if source.config_map:
            yield f".sources[{number}].configMap", source.config_map
        if source.downward_api:
            yield f".sources[{number}].downwardAPI", source.downward_api


def config_maps(volume: Volume) -> list[ConfigMapVolume]:
    """Return the ConfigMaps that the volume uses."""
    return [part for _, part in _parts(volume) if isinstance(part, ConfigMapVolume)]


def has_token(volume: Volume) -> bool:
    """Return whether the volume has a service account token."""
    sources = volume.sources if isinstance(volume, ProjectedVolume) else ()
    return any(source.service_account_token is not None for source in sources)


def _mode_refusal(mode: int | None) -> str:
    return "" if mode is None or 0 <= mode <= 0o777 else f"expected permissions from 0 to 0777, got {mode:#o}"


def _path_refusal(path: str) -> str:
    wrong = not path or path.startswith(("/", "..")) or ".." in path.split("/") or "\0" in path
    return f"expected a path in the volume, got {path!r}" if wrong else ""


def _item_refusal(item: DownwardItem, containers: set[str]) -> str:
    if (item.field_ref is None) == (item.resource_field_ref is None):
        return ": expected one of fieldRef and resourceFieldRef"
    if item.field_ref:
        path = item.field_ref.field_path
        problem = downward.field_refusal(path, volume=True)
        return problem and f".fieldRef.fieldPath: {problem}"
    assert item.resource_field_ref is not None
    if item.resource_field_ref.container_name not in containers:
        got = item.resource_field_ref.container_name
        return f".resourceFieldRef.containerName: expected one of {', '.join(sorted(containers))}, got {got!r}"
    problem = downward.resource_refusal(item.resource_field_ref)
    return problem and f".resourceFieldRef{problem}"


# Content


def files(volume: Volume, pod: Pod, facts: Facts, known: ConfigMaps) -> dict[str, File]:
    """Return the volume's files by path in the volume. A later source replaces files of an earlier one."""
    found: dict[str, File] = {}
    for _, part in _parts(volume):
        modes = (part.default_mode, volume.default_mode, _MODE)
        if isinstance(part, DownwardVolume):
            for item in part.items:
                found[item.path] = File(_text(item, pod, facts), _first(item.mode, *modes))
            continue
        data = known.get((pod.namespace, part.name), {})
        items = part.items or [KeyItem(key=key, path=key) for key in data]
        found |= {each.path: File(data[each.key], _first(each.mode, *modes)) for each in items if each.key in data}
    return found


def _first(*modes: int | None) -> int:
    return next(mode for mode in modes if mode is not None)


def _text(item: DownwardItem, pod: Pod, facts: Facts) -> str:
    if item.resource_field_ref:
        return downward.resource(item.resource_field_ref, [*pod.spec.init_containers, *pod.spec.containers])
    assert item.field_ref is not None
    return downward.field(pod, item.field_ref.field_path, facts)


# Writing


def write(place: Path, found: Mapping[str, File], *, group: int | None = None) -> None:
    """Replace the content of the volume's directory with these files, atomically for readers.

    As in the kubelet, the files are in a directory of their own, to which the link ..data points.
    """
    new = Path(tempfile.mkdtemp(prefix="..", dir=place))
    new.chmod(0o755)
    for path, file in found.items():
        target = new / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(file.text)
        target.chmod(file.mode)
    if group is not None:
        give_to(new, group)
    data = place / "..data"
    old = data.resolve() if data.is_symlink() else None
    (place / "..new").symlink_to(new.name)
    os.replace(place / "..new", data)
    names = {path.partition("/")[0] for path in found}
    for name in names:
        with contextlib.suppress(FileExistsError):
            (place / name).symlink_to(f"..data/{name}")
    for entry in place.iterdir():
        if not entry.name.startswith("..") and entry.name not in names:
            entry.unlink()
    if old:
        shutil.rmtree(old)


def give_to(place: Path, group: int) -> None:
    """Give a group access to a volume, as the kubelet does for fsGroup."""
    for path in (place, *place.rglob("*")):
        mode = path.stat().st_mode
        os.chown(path, -1, group)
        path.chmod(stat.S_IMODE(mode) | (0o2070 if path.is_dir() else 0o060 if mode & 0o200 else 0o040))

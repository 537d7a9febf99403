"""Volumes that consist of texts: configMap, downwardAPI and projected. Their checks, content and files."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from wirespeed import errors
from wirespeed.errors import Error, Kind, PathStep
from wirespeed.play import downward
from wirespeed.play.objects import (
    ConfigMaps,
    ConfigMapVolume,
    Container,
    DownwardItem,
    DownwardVolume,
    Facts,
    Item,
    KeyItem,
    Pod,
    ProjectedVolume,
    TextVolume,
)

ROOT_CA = "kube-root-ca.crt"  # a ConfigMap that a cluster has in each namespace
_MODE = 0o644


class File(NamedTuple):
    """A file of a volume; `mode` is its permissions."""

    text: str
    mode: int


# Checks


def check(volume: TextVolume, containers: Iterable[Container]) -> None:
    """Check a volume. Raises Error(INVALID_CONFIG) about a key in it."""
    names = {container.name for container in containers}
    for path, part in _parts(volume):
        with errors.under(*path):
            _check_mode(part.default_mode, "defaultMode")
            items: Sequence[Item] = part.items
            for number, item in enumerate(items):
                with errors.under("items", number):
                    _check_item(item, names)
    _check_mode(volume.default_mode, "defaultMode")  # a projected volume is not among its parts


def _parts(volume: TextVolume) -> Iterator[tuple[tuple[PathStep, ...], ConfigMapVolume | DownwardVolume]]:
    """Yield the volume, or the sources of a projected one, each with the path to it in the volume."""
    if not isinstance(volume, ProjectedVolume):
        yield (), volume
        return
    for number, source in enumerate(volume.sources):
        if source.config_map:
            yield ("sources", number, "configMap"), source.config_map
        if source.downward_api:
            yield ("sources", number, "downwardAPI"), source.downward_api


def config_maps(volume: TextVolume) -> list[ConfigMapVolume]:
    return [part for _, part in _parts(volume) if isinstance(part, ConfigMapVolume)]


def has_token(volume: TextVolume) -> bool:
    sources = volume.sources if isinstance(volume, ProjectedVolume) else ()
    return any(source.service_account_token is not None for source in sources)


def _check_mode(mode: int | None, key: str) -> None:
    if mode is not None and not 0 <= mode <= 0o777:
        what = f"expected permissions from 0 to 0777, got {mode:#o}"
        raise Error(Kind.INVALID_CONFIG, what, key=key)


def _check_item(item: Item, containers: set[str]) -> None:
    path = item.path
    if not path or path.startswith(("/", "..")) or ".." in path.split("/") or "\0" in path:
        raise Error(Kind.INVALID_CONFIG, key="path", expected="a path in the volume", got=path)
    _check_mode(item.mode, "mode")
    if not isinstance(item, DownwardItem):
        return
    if (item.field_ref is None) == (item.resource_field_ref is None):
        raise Error(Kind.INVALID_CONFIG, expected="one of fieldRef and resourceFieldRef")
    if item.field_ref:
        with errors.under("fieldRef"):
            downward.check_field(item.field_ref, volume=True)
    if item.resource_field_ref:
        with errors.under("resourceFieldRef"):
            if (name := item.resource_field_ref.container_name) not in containers:
                expected = f"one of {', '.join(sorted(containers))}"
                raise Error(Kind.INVALID_CONFIG, key="containerName", expected=expected, got=name)
            downward.check_resource(item.resource_field_ref)


# Content


def files(volume: TextVolume, pod: Pod, facts: Facts, known: ConfigMaps) -> dict[str, File]:
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
        return downward.resource(item.resource_field_ref, pod.spec.all_containers)
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
        set_group(new, group)
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


def set_group(place: Path, group: int) -> None:
    """Give a group access to a volume, as the kubelet does for fsGroup."""
    for path in (place, *place.rglob("*")):
        mode = path.stat().st_mode
        os.chown(path, -1, group)
        path.chmod(stat.S_IMODE(mode) | (0o2070 if path.is_dir() else 0o060 if mode & 0o200 else 0o040))

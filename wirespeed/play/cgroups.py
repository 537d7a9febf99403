"""Cgroups that limit the memory and hugepages of containers, as kubelet and runtime do."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from wirespeed.errors import as_error
from wirespeed.play import quantity
from wirespeed.play.limits import Limits
from wirespeed.steps import Undo

CONTROLLERS = ("memory", "hugetlb")
_PLACE = "/sys/fs/cgroup"  # where a container sees its own cgroup (v2), or one directory per hierarchy (v1)
_HUGEPAGES = "/sys/kernel/mm/hugepages"


@dataclass(frozen=True, kw_only=True)
class Hierarchy:
    """A cgroup hierarchy: where the play's cgroup is created, and which of CONTROLLERS it has."""

    base: Path
    controllers: tuple[str, ...]
    unified: bool  # cgroup v2
    place: str  # the mount point of a container's own cgroup in the container


@dataclass(frozen=True, kw_only=True)
class Group:
    """A container's cgroup in one hierarchy."""

    hierarchy: Hierarchy
    folder: Path

    def oom_kills(self) -> int:
        """Return how many processes the kernel's OOM killer has killed in the cgroup."""
        name = "memory.events" if self.hierarchy.unified else "memory.oom_control"
        try:
            found = re.search(r"^oom_kill (\d+)$", (self.folder / name).read_text(), re.MULTILINE)
        except OSError:
            return 0
        return int(found[1]) if found else 0


class Cgroups:
    """The cgroups of the play `name`. `missing` maps controllers that cannot be used to the reason."""

    def __init__(self, name: str, hierarchies: Iterable[Hierarchy] | None = None) -> None:
        self._name = name
        self._hierarchies = list(find() if hierarchies is None else hierarchies)
        have = {controller for each in self._hierarchies for controller in each.controllers}
        self.missing = {each: f"no cgroup controller {each}" for each in CONTROLLERS if each not in have}

    def make(self, undo: Undo) -> None:
        """Create the play's cgroup in each hierarchy that allows it."""
        for each in list(self._hierarchies):
            folder = each.base / self._name
            try:
                _enable(each, each.base)
                folder.mkdir()
                undo.push(f"cgroup {folder}", folder.rmdir)
                _enable(each, folder)
            except OSError as error:
                self._hierarchies.remove(each)
                for controller in each.controllers:
                    self.missing[controller] = f"cgroup controller {controller}: {error.filename}: {error.strerror}"

    def pod(self, name: str, limits: Limits, undo: Undo) -> PodGroups:
        """Create a pod's cgroups. Raises Error(IO)."""
        folders = {each: each.base / self._name / name for each in self._hierarchies}
        for hierarchy, folder in folders.items():
            _make(hierarchy, folder, limits, undo, inner=True)
        return PodGroups(folders, undo)

    def leftovers(self) -> list[str]:
        """Return the play's cgroups that still exist."""
        folders = [each.base / self._name for each in self._hierarchies]
        return [str(folder) for folder in folders if folder.exists()]


class PodGroups:
    """A pod's cgroups, one per hierarchy."""

    def __init__(self, folders: Mapping[Hierarchy, Path], undo: Undo) -> None:
        self._folders, self._undo = folders, undo
        self._made: dict[str, list[Group]] = {}

    def container(self, name: str, limits: Limits) -> list[Group]:
        """Return a container's cgroups; create them on its first start. Raises Error(IO)."""
        if name not in self._made:
            self._made[name] = []
            for hierarchy, folder in self._folders.items():
                group = Group(hierarchy=hierarchy, folder=folder / f"container-{name}")
                _make(hierarchy, group.folder, limits, self._undo)
                self._made[name].append(group)
        return self._made[name]


def find(process: Path = Path("/proc/self")) -> list[Hierarchy]:
    """Return the hierarchies that have CONTROLLERS.

    In cgroup v1, the play's cgroups are created below this process's own cgroup. In v2, a cgroup that has processes
    cannot have children with limits, except the root cgroup, so they are created there, as the kubelet does.
    """
    own_cgroups = dict(line.split(":", 2)[1:] for line in (process / "cgroup").read_text().splitlines())
    found: list[Hierarchy] = []
    for line in (process / "mountinfo").read_text().splitlines():
        first, _, second = line.partition(" - ")
        (root, place), (kind, _, options) = first.split()[3:5], second.split()[:3]
        mount = Path(place)
        if kind == "cgroup2":
            listed, base = _read(mount / "cgroup.controllers").split(), mount
        elif kind == "cgroup":
            listed = options.split(",")
            wanted = {*listed} & {*CONTROLLERS}
            own = next((path for names, path in own_cgroups.items() if wanted & {*names.split(",")}), "/")
            base = mount / own.removeprefix(root).lstrip("/")
            base = base if base.is_dir() else mount
        else:
            continue
        known = {controller for each in found for controller in each.controllers}  # it may be mounted twice
        controllers = tuple(each for each in CONTROLLERS if each in listed and each not in known)
        if controllers:
            inside = _PLACE if place == _PLACE else f"{_PLACE}/{mount.name}"
            found.append(Hierarchy(base=base, controllers=controllers, unified=kind == "cgroup2", place=inside))
    return found


def settings(hierarchy: Hierarchy, limits: Limits, pages: Iterable[int]) -> dict[str, tuple[int, bool]]:
    """Return value by file of a cgroup, and whether the file always exists. `pages` are hugepage sizes in bytes."""
    found: dict[str, tuple[int, bool]] = {}
    if "memory" in hierarchy.controllers and limits.memory is not None:
        if hierarchy.unified:
            found |= {"memory.max": (limits.memory, True), "memory.swap.max": (0, False)}
        else:
            found |= {"memory.limit_in_bytes": (limits.memory, True)}
            found |= {"memory.memsw.limit_in_bytes": (limits.memory, False)}
    if "hugetlb" in hierarchy.controllers:
        name = "max" if hierarchy.unified else "limit_in_bytes"
        asked = {quantity.whole_number(size): amount for size, amount in limits.hugepages.items()}
        for page in pages:
            amount = asked.get(page, 0)
            found[f"hugetlb.{_size(page)}.{name}"] = (amount, True)
            found[f"hugetlb.{_size(page)}.rsvd.{name}"] = (amount, False)
    return found


def _size(page: int) -> str:
    """Return a hugepage size as the kernel writes it in file names, such as 2MB."""
    unit = next(power for power in (3, 2, 1) if page >= 1024**power)
    return f"{page // 1024**unit}{'KMG'[unit - 1]}B"


def _page_sizes() -> list[int]:
    names = os.listdir(_HUGEPAGES) if os.path.isdir(_HUGEPAGES) else []
    return sorted(int(name.removeprefix("hugepages-").removesuffix("kB")) * 1024 for name in names)


def _make(hierarchy: Hierarchy, folder: Path, limits: Limits, undo: Undo, *, inner: bool = False) -> None:
    """Create a cgroup with its limits; an `inner` one gets child cgroups."""
    try:
        folder.mkdir()
        undo.push(f"cgroup {folder}", folder.rmdir)
        for name, (value, always) in settings(hierarchy, limits, _page_sizes()).items():
            if always or (folder / name).exists():
                _write(folder / name, str(value))
        if inner:
            _enable(hierarchy, folder)
    except OSError as error:
        raise as_error(error, f"cgroup {error.filename or folder}") from error


def _enable(hierarchy: Hierarchy, folder: Path) -> None:
    """Enable the controllers for a cgroup's children; in v1 they always are."""
    file = folder / "cgroup.subtree_control"
    if hierarchy.unified and not {*hierarchy.controllers} <= {*_read(file).split()}:
        _write(file, " ".join(f"+{each}" for each in hierarchy.controllers))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:  # an error of write(2) has no file name
        raise OSError(error.errno, error.strerror, str(path)) from None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""

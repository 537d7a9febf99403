"""Control groups of a play's containers, which bound memory and hugepages as kubelet and runtime do."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from wirespeed.cni.errors import CniError, Code
from wirespeed.play import quantity
from wirespeed.play.limits import Limits
from wirespeed.play.undo import Undo

CONTROLLERS = ("memory", "hugetlb")
_PLACE = "/sys/fs/cgroup"  # where a container sees its own group, or one of each hierarchy below it
_HUGEPAGES = "/sys/kernel/mm/hugepages"


@dataclass(frozen=True, kw_only=True)
class Hierarchy:
    """A hierarchy of groups: the folder that the play's is made in, and which of CONTROLLERS it has."""

    base: Path
    controllers: tuple[str, ...]
    unified: bool  # cgroup v2
    place: str  # of a container's own group, in the container


@dataclass(frozen=True, kw_only=True)
class Group:
    """A container's group in one hierarchy."""

    hierarchy: Hierarchy
    folder: Path

    def oom_kills(self) -> int:
        """How many processes the kernel has killed there for want of memory."""
        name = "memory.events" if self.hierarchy.unified else "memory.oom_control"
        try:
            found = re.search(r"^oom_kill (\d+)$", (self.folder / name).read_text(), re.MULTILINE)
        except OSError:
            return 0
        return int(found[1]) if found else 0


class Cgroups:
    """The groups of the play `name`; `missing` says why a controller is not used here, if it is not."""

    def __init__(self, name: str, hierarchies: Iterable[Hierarchy] | None = None) -> None:
        self._name = name
        self._hierarchies = list(find() if hierarchies is None else hierarchies)
        self.missing: dict[str, str] = {}
        have = {controller for each in self._hierarchies for controller in each.controllers}
        for controller in CONTROLLERS:
            if controller not in have:
                self.missing[controller] = f"no cgroup controller {controller}"

    def make(self, undo: Undo) -> None:
        """Make the play's own groups, in the hierarchies where that is possible."""
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
        """Make the groups of a pod. Raises CniError(IO_FAILURE)."""
        made = PodGroups({each: each.base / self._name / name for each in self._hierarchies}, undo)
        made.make(limits)
        return made

    def left(self) -> list[str]:
        """The play's groups that are there."""
        folders = [each.base / self._name for each in self._hierarchies]
        return [str(folder) for folder in folders if folder.exists()]


class PodGroups:
    """The groups of a pod, by hierarchy."""

    def __init__(self, folders: Mapping[Hierarchy, Path], undo: Undo) -> None:
        self._folders, self._undo = folders, undo
        self._made: dict[str, list[Group]] = {}

    def make(self, limits: Limits) -> None:
        for hierarchy, folder in self._folders.items():
            _make(hierarchy, folder, limits, self._undo, inner=True)

    def container(self, name: str, limits: Limits) -> list[Group]:
        """The groups of a container, made when it is first started. Raises CniError(IO_FAILURE)."""
        if name not in self._made:
            self._made[name] = []
            for hierarchy, folder in self._folders.items():
                group = Group(hierarchy=hierarchy, folder=folder / f"container-{name}")
                _make(hierarchy, group.folder, limits, self._undo)
                self._made[name].append(group)
        return self._made[name]


def find(process: Path = Path("/proc/self")) -> list[Hierarchy]:
    """The hierarchies that have CONTROLLERS.

    Of cgroup v1, groups are made below the one that this process is in. A group of v2 that has processes cannot
    have groups with limits below it, but for the topmost: they are made there, as the kubelet makes its own.
    """
    mine = dict(line.split(":", 2)[1:] for line in (process / "cgroup").read_text().splitlines())
    found: list[Hierarchy] = []
    for line in (process / "mountinfo").read_text().splitlines():
        first, _, second = line.partition(" - ")
        (root, place), (kind, _, options) = first.split()[3:5], second.split()[:3]
        mount = Path(place)
        if kind == "cgroup2":
            listed, base = _read(mount / "cgroup.controllers").split(), mount
        elif kind == "cgroup":
            listed = options.split(",")
            base = mount / _own(mine, listed).removeprefix(root).lstrip("/")
            base = base if base.is_dir() else mount
        else:
            continue
        known = {controller for each in found for controller in each.controllers}  # it may be mounted twice
        controllers = tuple(each for each in CONTROLLERS if each in listed and each not in known)
        if controllers:
            inside = _PLACE if place == _PLACE else f"{_PLACE}/{mount.name}"
            found.append(Hierarchy(base=base, controllers=controllers, unified=kind == "cgroup2", place=inside))
    return found


def _own(mine: Mapping[str, str], listed: Iterable[str]) -> str:
    """The group that this process is in, in the hierarchy with the listed controllers."""
    wanted = {*listed} & {*CONTROLLERS}
    return next((path for names, path in mine.items() if wanted & {*names.split(",")}), "/")


def settings(hierarchy: Hierarchy, limits: Limits, pages: Iterable[int]) -> dict[str, tuple[int, bool]]:
    """What is written to which file of a group, and whether that is always there; `pages` are sizes in bytes."""
    found: dict[str, tuple[int, bool]] = {}
    if "memory" in hierarchy.controllers and limits.memory is not None:
        if hierarchy.unified:
            found |= {"memory.max": (limits.memory, True), "memory.swap.max": (0, False)}
        else:
            found |= {"memory.limit_in_bytes": (limits.memory, True)}
            found |= {"memory.memsw.limit_in_bytes": (limits.memory, False)}
    if "hugetlb" in hierarchy.controllers:
        name = "max" if hierarchy.unified else "limit_in_bytes"
        asked = {quantity.whole(size): amount for size, amount in limits.hugepages.items()}
        for page in pages:
            amount = asked.get(page, 0)
            found[f"hugetlb.{_size(page)}.{name}"] = (amount, True)
            found[f"hugetlb.{_size(page)}.rsvd.{name}"] = (amount, False)
    return found


def _size(page: int) -> str:
    """As the kernel calls it: 2MB."""
    unit = next(power for power in (3, 2, 1) if page >= 1024**power)
    return f"{page // 1024**unit}{'KMG'[unit - 1]}B"


def _page_sizes() -> list[int]:
    names = os.listdir(_HUGEPAGES) if os.path.isdir(_HUGEPAGES) else []
    return sorted(int(name.removeprefix("hugepages-").removesuffix("kB")) * 1024 for name in names)


def _make(hierarchy: Hierarchy, folder: Path, limits: Limits, undo: Undo, *, inner: bool = False) -> None:
    """Make a group with its limits; an `inner` one has groups below it."""
    try:
        folder.mkdir()
        undo.push(f"cgroup {folder}", folder.rmdir)
        for name, (value, always) in settings(hierarchy, limits, _page_sizes()).items():
            if always or (folder / name).exists():
                _write(folder / name, str(value))
        if inner:
            _enable(hierarchy, folder)
    except OSError as error:
        raise CniError(Code.IO_FAILURE, f"cgroup {error.filename or folder}: {error.strerror}") from error


def _enable(hierarchy: Hierarchy, folder: Path) -> None:
    """Have the controllers act in the groups below a folder; those of v1 always do."""
    file = folder / "cgroup.subtree_control"
    if hierarchy.unified and not {*hierarchy.controllers} <= {*_read(file).split()}:
        _write(file, " ".join(f"+{each}" for each in hierarchy.controllers))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:  # one of write(2) does not name the file
        raise OSError(error.errno, error.strerror, str(path)) from None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""

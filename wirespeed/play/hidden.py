"""Paths of this machine that a container uses but cannot see, because it has its own directory mounted there."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from wirespeed.errors import Error, Kind, Thing
from wirespeed.play.environment import BASE, PROGRAM
from wirespeed.play.launcher import OWN_FOLDERS
from wirespeed.play.objects import Container, Pod, containers

# Not /proc and /sys, which show the same kernel, and not /dev, which has what the container was given.
_OVER = tuple(folder for folder in OWN_FOLDERS if folder not in {"/proc", "/sys", "/dev"})
_PATH = re.compile(r"(?<![\w./-])/[^\s'\"`$;|&<>(){}\[\],:=*?!\\]+")


@dataclass(frozen=True)
class Hidden:
    """A hidden path of this machine: `named` is the path in the manifest, `over` the mount that hides `path`."""

    named: str
    path: str
    over: str

    def __str__(self) -> str:
        to = "" if self.named == self.path else f", to which {self.named} leads,"
        return f"{self.path}{to} is hidden: a container has its own {self.over}"


def refuse(pods: Iterable[Pod]) -> None:
    """Raise Error(INVALID_CONFIG) for a program that a container uses but would not find."""
    for pod, container in containers(pods):
        for each in of(container):
            if _is_program(each.path):
                where = (*pod.places, Thing("container", container.name))
                expected = "a path elsewhere, or a volume mounted above it"
                raise Error(Kind.INVALID_CONFIG, str(each), where=where, expected=expected)


def notes(pods: Iterable[Pod]) -> Iterator[str]:
    """Yield the other hidden paths that containers use. Some may be files that the containers create."""
    for pod, container in containers(pods):
        for each in of(container):
            if not _is_program(each.path):
                yield f"{pod.label}/{container.name}: {each}"


def of(container: Container) -> list[Hidden]:
    """Return the paths of this machine that the container uses or runs but does not see."""
    mounts = [mount.mount_path for mount in container.volume_mounts]
    found: dict[str, Hidden] = {}
    for named in _absolute_paths(container):
        for path in _resolved_paths(named):
            over = next((folder for folder in _OVER if _is_below(path, folder)), None)
            if (
                over
                and path != over
                and not any(_is_below(path, mount) for mount in mounts)
                and os.path.exists(path)
            ):
                found.setdefault(path, Hidden(named, path, over))
    return list(found.values())


def _absolute_paths(container: Container) -> Iterator[str]:
    """Yield absolute paths in commands, probes, variables and the working directory, and the programs' paths."""
    probes = [each.exec for each in (container.startup_probe, container.readiness_probe) if each and each.exec]
    commands = [[*container.command, *container.args], *(probe.command for probe in probes)]
    values = {each.name: each.value or "" for each in container.env}
    for command in commands:
        if (
            command
            and "/" not in command[0]
            and command[0] != os.path.basename(PROGRAM)
            and (program := shutil.which(command[0], path=values.get("PATH", BASE["PATH"])))
        ):
            yield program
    for text in (*(part for command in commands for part in command), *values.values(), container.working_dir):
        yield from (os.path.normpath(path) for path in _PATH.findall(text))


def _resolved_paths(path: str) -> Iterator[str]:
    """Yield the path, the targets of its symbolic links, and a script's interpreter."""
    places = [os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)), os.path.realpath(path)]
    yield from dict.fromkeys(places)
    if _is_program(path):
        try:
            with open(path, "rb") as file:
                first = file.readline(256)
        except OSError:
            return
        if first.startswith(b"#!") and (words := first[2:].split()):
            yield os.fsdecode(words[0])


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")

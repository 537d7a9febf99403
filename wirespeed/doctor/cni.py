"""Checks of the runtime's CNI configuration, other meta-plugins, and the agent's own files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

from wirespeed.doctor.facts import Facts
from wirespeed.doctor.finding import Answer, Fails, Holds, Severity, Subject, check, some
from wirespeed.errors import Error, Kind
from wirespeed.node import ALIASES

_SUBJECT = Subject.CNI
_BIN = "/opt/cni/bin"
_SHIM = b"WIRESPEED_SOCKET"  # a text in the shim's executable: it reads this variable
# `type` in a configuration of another meta-plugin, and the program that it belongs to.
_METAS = {
    "multus": "Multus",
    "multus-shim": "Multus",
    "danm": "DANM",
    "fakeipam": "DANM",
    "genie": "CNI-Genie",
    "knitter": "Knitter",
    "coil": "Coil",
}
_DAEMONS = {"multus-daemon": "Multus", "danm-netwatcher": "DANM"}
# proc(5), mountinfo: mount, parent, device, root, mount point, options, optional fields, "-", filesystem type.
_MOUNT = re.compile(r"^(?:\S+ ){4}(?P<point>\S+) .* - (?P<kind>\S+) ", re.MULTILINE)
_MEMORY = frozenset({"tmpfs", "ramfs"})


@check(
    "cni-first",
    _SUBJECT,
    expected="the first configuration by name is one of wirespeed",
    otherwise=Severity.ERROR,
    why="the runtime uses the first file in its directory: if that is another plugin's, pods get no additional "
    "networks",
    source="containerd: docs/cri/config.md, CNI Config; CRI-O: crio.conf(5), network_dir; docs/install.md",
    fix="`autoconf: {}` in the agent's configuration, or `wirespeed install`; remove files that come before",
)
def cni_first(facts: Facts) -> Answer:
    if not facts.cni_files:
        return Fails(f"no configuration in {facts.cni_folder}")
    first = facts.cni_files[0]
    kinds = _kinds(_document(facts, first))
    others = f", before {some(facts.cni_files[1:])}" if facts.cni_files[1:] else ""
    if kinds and _is_ours(facts, kinds[0]):
        return Holds(f"{first} ({kinds[0]}){others}")
    return Fails(f"{first} is a configuration of {', '.join(kinds) or 'no plugin'}{others}")


@check(
    "cni-readable",
    _SUBJECT,
    expected="configurations that are JSON, with a name and plugins",
    why="the runtime skips a file that it cannot read, and may use the next one, of another plugin",
    source="CNI specification 1.1.0, section 1",
    fix="correct the files, or remove them; `wirespeed check /etc/cni/net.d` shows the lines",
)
def cni_readable(facts: Facts) -> Answer:
    wrong = []
    for path in facts.cni_files:
        try:
            _kinds(_document(facts, path))
        except Error as error:
            wrong.append(error.msg)
    if wrong:
        return Fails("; ".join(wrong))
    return Holds(f"{len(facts.cni_files)} files") if facts.cni_files else None


@check(
    "cni-plugins",
    _SUBJECT,
    expected="an executable for each plugin of the first configuration, and loopback",
    otherwise=Severity.ERROR,
    why="without it, no pod starts",
    source="CNI specification 1.1.0, section 3; containerd executes loopback itself",
    fix="install the plugin into /opt/cni/bin: `wirespeed install`, or containernetworking-plugins",
)
def cni_plugins(facts: Facts) -> Answer:
    if not facts.cni_files:
        return None
    wanted = {"loopback", *_kinds(_document(facts, facts.cni_files[0]))}
    missing = [name for name in sorted(wanted) if not _is_executable(facts, f"{_bin_dir(facts)}/{name}")]
    if missing:
        return Fails(f"{', '.join(missing)}: not in {_bin_dir(facts)}")
    return Holds(f"{', '.join(sorted(wanted))}: in {_bin_dir(facts)}")


@check(
    "other-meta-plugins",
    _SUBJECT,
    expected="no other meta-plugin",
    why="two meta-plugins attach the same networks twice, or write over each other's configuration",
    source="docs/multus.md",
    fix="`wirespeed install --replace multus` takes its place; remove the DaemonSet of the other one",
)
def other_meta_plugins(facts: Facts) -> Answer:
    found = {each.name: f"process {each.name} ({each.pid})" for each in facts.processes if each.name in _DAEMONS}
    for path in facts.cni_files:
        for kind in _kinds_or_none(facts, path):
            if kind in _METAS and not _is_ours(facts, kind):
                found[path] = f"{path} is a configuration of {_METAS[kind]}"
    if found:
        return Fails(some(found.values()))
    binaries = [
        name for name in _METAS if facts.files.exists(f"{_bin_dir(facts)}/{name}") and not _is_ours(facts, name)
    ]
    if binaries:
        told = f"{', '.join(binaries)} in {_bin_dir(facts)}, and no configuration uses it"
        return Fails(
            told, severity=Severity.INFO, fix=f"`rm {' '.join(f'{_bin_dir(facts)}/{n}' for n in binaries)}`"
        )
    return Holds("none")


@check(
    "agent-answers",
    _SUBJECT,
    expected="an agent that listens on its socket",
    otherwise=Severity.ERROR,
    why="the shim waits 30 s for the agent, then the ADD fails, and the runtime tries again",
    source="docs/architecture.md",
    fix="`systemctl restart wirespeed-agent`, or look at the agent's pod: `kubectl -n kube-system logs "
    "ds/wirespeed`",
)
def agent_answers(facts: Facts) -> Answer:
    try:
        facts.files.check_connects(facts.config.socket)
    except Error as error:
        return Fails(error.msg)
    return Holds(facts.config.socket)


@check(
    "journal-in-memory",
    _SUBJECT,
    expected="the journal on a tmpfs, and the records on a disk",
    why="after a reboot, VFs have their original settings again: a journal that survived would describe changes "
    "that no longer exist; without the records, nothing releases the addresses of pods from before the reboot",
    source="docs/configuration.md, keys state and attachments",
    fix="set the keys `state` and `attachments` of the agent's configuration",
)
def journal_in_memory(facts: Facts) -> Answer:
    state, records = facts.config.state, facts.config.attachments
    kinds = {path: _filesystem(facts, path) for path in (state, records)}
    wrong = []
    if kinds[state] not in _MEMORY:
        wrong.append(f"the journal {state} is on {kinds[state]}")
    if kinds[records] in _MEMORY:
        wrong.append(f"the records {records} are on {kinds[records]}")
    return Fails("; ".join(wrong)) if wrong else Holds(f"{kinds[state]}, and {kinds[records]}")


# Reading


def _document(facts: Facts, path: str) -> dict[str, Any]:
    try:
        value = json.loads(facts.files.data(path))
    except (ValueError, RecursionError) as error:
        raise Error(Kind.INVALID_DATA, f"not JSON: {error}", where=path) from error
    if not isinstance(value, dict):
        raise Error(Kind.INVALID_DATA, where=path, expected="an object", got=value)
    if not value.get("name") or not _kinds(value):
        raise Error(Kind.INVALID_DATA, "it has no name, or no plugin", where=path)
    return value


def _kinds(document: dict[str, Any]) -> list[str]:
    """Return the types of the plugins of a configuration (list), in order."""
    plugins = document.get("plugins", [document])
    found = [each.get("type") for each in plugins if isinstance(each, dict)] if isinstance(plugins, list) else []
    return [kind for kind in found if isinstance(kind, str) and kind]


def _kinds_or_none(facts: Facts, path: str) -> Iterator[str]:
    try:
        yield from _kinds(_document(facts, path))
    except Error:
        return  # cni-readable tells


def _is_ours(facts: Facts, kind: str) -> bool:
    """Whether a type is a name of the meta-plugin, and the executable of that name is the shim."""
    if ALIASES.get(kind) != "meta":
        return False
    path = f"{_bin_dir(facts)}/{kind}"
    return kind == "wirespeed" or (facts.files.exists(path) and _SHIM in facts.files.data(path))


def _is_executable(facts: Facts, path: str) -> bool:
    return os.access(facts.files.place(path), os.X_OK)


def _bin_dir(facts: Facts) -> str:
    autoconf = facts.config.autoconf
    return str((autoconf.meta.get("binDir") if autoconf else None) or _BIN)


def _filesystem(facts: Facts, path: str) -> str:
    """Return the type of the filesystem that a path is on, or would be on. Raises Error(INVALID_DATA)."""
    found, longest = "", -1
    # The mounts of process 1: they are those of the node, also when this process is in a container.
    for mount in _MOUNT.finditer(facts.files.text("/proc/1/mountinfo")):
        point, kind = mount["point"], mount["kind"]
        if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= longest:
            found, longest = kind, len(point)
    if not found:
        raise Error(Kind.INVALID_DATA, f"no mount of {path}", where="/proc/1/mountinfo")
    return found

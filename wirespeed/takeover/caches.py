"""Moving the state that Multus and sriov-cni keep of their pods into the journal, and back.

Their files are moved aside when they are taken over. They are therefore not taken over again after their pods are
detached, and an uninstallation can move the files of pods that still run back. The files of userspace-CNI stay in
place (`wirespeed.plugins.vhost.takeover`).
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from wirespeed import steps
from wirespeed.cni.request import check_container_id
from wirespeed.devices.pci import PciDevice
from wirespeed.errors import Error, Kind, Thing, as_error
from wirespeed.kernel import netns
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netns import Identity
from wirespeed.node import ALIASES, NodeConfig, open_journal
from wirespeed.plugins.meta.delegate import NO_NETNS, recorded_delegate
from wirespeed.plugins.sriov import takeover as sriov
from wirespeed.plugins.vhost import takeover as userspace
from wirespeed.plugins.vhost.conf import USERSPACE_CNI
from wirespeed.state.journal import Attachment, DeviceClaim
from wirespeed.state.records import Records
from wirespeed.steps import Step, Undo, backup_path
from wirespeed.takeover import multus_cache, sriov_cni
from wirespeed.takeover.record import PEERS, MultusFiles, Record


@dataclass
class TakenOver:
    """What is taken over of one container: rows and claims for the journal, and the files they were read from."""

    what: str
    rows: list[Attachment] = field(default_factory=list)
    claims: list[DeviceClaim] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


@dataclass
class Found:
    """Everything in one folder that can be taken over, and errors about what cannot."""

    base: Path
    taken: list[TakenOver] = field(default_factory=list)
    problems: list[Error] = field(default_factory=list)


# Reading


def read_multus(multus: MultusFiles, config: NodeConfig) -> Found:
    """Read the state in Multus' cniDir."""
    base = Path(multus.folder)
    found = Found(base)
    results: dict[str, list[tuple[multus_cache.Cached, Path]]] = defaultdict(list)
    for file in _files(base / "results"):
        try:
            cached = multus_cache.read_cached(file.read_bytes())
        except Error as error:
            found.problems.append(error.within(str(file)))
        else:
            results[cached.container].append((cached, file))
    lists = {file.name: file for file in _files(base) if _is_container(file.name)}
    for container in sorted({*lists, *results}):
        listed = lists.get(container)
        data, cached_ones = listed.read_bytes() if listed else None, [cached for cached, _ in results[container]]
        try:
            rows = multus_cache.attachments(container, data, cached_ones, multus=multus, identity=_identity)
        except Error as error:
            found.problems.append(error.within(str(listed or base)))
            continue
        files = [*([listed] if listed else []), *(file for _, file in results[container])]
        found.problems += _missing_state(container, rows, Path(config.vhost.userspace_dir))
        names = ", ".join(row.ifname for row in rows)
        found.taken.append(TakenOver(f"container {container}: {names or 'no network'}", rows=rows, files=files))
    return found


def _missing_state(container: str, rows: list[Attachment], base: Path) -> Iterator[Error]:
    """Yield an error for each network of userspace-CNI that has no files in `base`: its DEL would fail."""
    for row, delegate in zip(rows, map(recorded_delegate, rows), strict=True):
        if USERSPACE_CNI not in delegate.network().kinds:
            continue
        where = (Thing("container", container), delegate.where, "attached by userspace-CNI")
        try:
            if userspace.read_local_file(base, container, row.ifname) is None:
                yield Error(Kind.INVALID_DATA, f"{base} has no files of it", where=where)
        except Error as error:
            yield error.within(*where)


def find(installation: Record, config: NodeConfig) -> list[Found]:
    """Find the state of the replaced tools; if Multus was replaced, also what sriov-cni keeps of its pods' VFs."""
    found = [read_multus(installation.multus, config)] if installation.multus else []
    # The VF of a pod that Multus attached is now released by the SR-IOV plugin in this process.
    pairs = {(row.container, row.ifname) for each in found for taken in each.taken for row in taken.rows}
    only = None if "sriov-cni" in installation.replaced else pairs
    return [*found, read_sriov(Path(installation.sriov_dir), config, only=only)]


def read_sriov(base: Path, config: NodeConfig, *, only: set[tuple[str, str]] | None) -> Found:
    """Read the state of sriov-cni in `base`, of the attachments (container, interface) `only`, or of all."""
    found = Found(base)
    for file in _files(base):
        owner = sriov_cni.owner(file.name)
        if owner is None or (only is not None and owner not in only):
            continue
        try:
            saved = sriov_cni.read_saved(file.read_bytes())
            place = base / "pci" / saved.device
            claim = _claim(*owner, saved, place, config)
        except (Error, NetlinkError) as error:
            found.problems.append(as_error(error).within(str(file)))
            continue
        what = f"container {owner[0]}: VF {saved.device} ({owner[1]})"
        files = [each for each in (file, place) if each.exists()]
        found.taken.append(TakenOver(what, claims=[claim], files=files))
    return found


def _claim(container: str, ifname: str, saved: sriov_cni.SavedVf, place: Path, config: NodeConfig) -> DeviceClaim:
    path = place.read_text() if place.exists() else ""
    device = PciDevice(saved.device, Path(config.sysfs))
    identity = _identity(path)
    with netns.reopened(path, identity) as ns:
        now = sriov.current_state(device, ns)
    return sriov_cni.claim(
        container, ifname, saved, current=now, netns=path, identity=identity, devinfo=Path(config.devinfo)
    )


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in sorted(folder.iterdir()) if path.is_file() and not path.is_symlink())


def _is_container(name: str) -> bool:
    try:
        return bool(check_container_id(name))
    except Error:
        return False


def _identity(path: str) -> Identity:
    """Return the identity of the network namespace that is at the path now, NOWHERE if there is none."""
    if path:
        try:
            with netns.opened(path) as ns:
                return ns.identity
        except Error:
            pass  # the pod is gone
    return NO_NETNS


# Into the journal


def take_over(found: Found, config: NodeConfig) -> Iterator[Step]:
    """Yield the steps that write what was found to the node's journal, and move its files aside."""
    for taken in found.taken:
        yield Step(f"take over {taken.what}", partial(_take, taken, found.base, config))


def _take(taken: TakenOver, base: Path, config: NodeConfig, undo: Undo) -> None:
    moved: list[Path] = []

    def put_back() -> None:
        _move(reversed(moved), backup_path(base), base)
        _forget(config, taken)

    undo.push(taken.what, put_back)
    _record(config, taken)
    _move(taken.files, base, backup_path(base), moved)


def _record(config: NodeConfig, taken: TakenOver) -> None:
    """Write the rows and claims, unless an installation that was killed has already done so."""
    with closing(open_journal(config)) as journal:
        if taken.rows:
            multus_cache.record(journal, taken.rows)
        for claim in taken.claims:
            if journal.device_of(claim.container, claim.ifname) is None:
                journal.claim(claim)


def _forget(config: NodeConfig, taken: TakenOver) -> None:
    with closing(open_journal(config)) as journal:
        for row in taken.rows:
            journal.forget(row.container, row.ifname)
        for claim in taken.claims:
            journal.release(claim)


def _move(files: Iterable[Path], source: Path, target: Path, moved: list[Path] | None = None) -> None:
    """Move the files from one folder to the other; add their new paths to `moved` as soon as they are there."""
    for file in files:
        path = target / file.relative_to(source)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.replace(file, path)
        if moved is not None:
            moved.append(path)


# And back


def give_back(multus_base: Path, sriov_base: Path, config: NodeConfig) -> Iterator[Step]:
    """Yield the steps that give pods that were taken over and still exist back to the other tools.

    Raises Error if a file that was moved aside cannot be read.
    """
    rows, claims = _journal_state(config)
    for container, files in _saved_of_multus(multus_base).items():
        own_rows = [row for row in rows if row.container == container]
        taken = TakenOver(f"container {container}", rows=own_rows, files=files)
        yield from _give_back_steps(taken, multus_base, config, "Multus")
    for (container, ifname), files in _saved_of_sriov(sriov_base).items():
        own = [claim for claim in claims if (claim.container, claim.ifname) == (container, ifname)]
        taken = TakenOver(f"container {container} ({ifname})", claims=own, files=files)
        yield from _give_back_steps(taken, sriov_base, config, "sriov-cni")


def known_only_here(multus_base: Path, sriov_base: Path, config: NodeConfig) -> set[str]:
    """Return the containers in the journal or the records that no other tool knows, and so cannot detach."""
    rows, claims = _journal_state(config)
    known = {row.container for row in rows} | {claim.container for claim in claims}
    known_elsewhere = {*_saved_of_multus(multus_base), *(container for container, _ in _saved_of_sriov(sriov_base))}
    return known - known_elsewhere


def attached_by(peer: str, config: NodeConfig) -> set[str]:
    """Return the containers in the journal or the records whose DEL may be called under one of the peer's names."""
    rows, claims = _journal_state(config)
    containers = {row.container for row in rows}
    if peer == "multus":
        return containers
    plugins = {ALIASES.get(name, name) for name in PEERS[peer]}
    return {claim.container for claim in claims if claim.plugin in plugins} - containers


def _journal_state(config: NodeConfig) -> tuple[list[Attachment], list[DeviceClaim]]:
    """Return the rows and claims of the journal and the records, without creating a missing journal."""
    rows: list[Attachment] = []
    claims: list[DeviceClaim] = []
    if Path(config.state).exists():
        with closing(open_journal(config)) as journal:
            rows, claims = journal.attachments(), journal.claims()
    records, known = Records(Path(config.attachments)), {row.container for row in rows}
    rows += [row for each in records.containers() if each not in known for row in records.read(each)]
    return rows, claims


def _give_back_steps(taken: TakenOver, base: Path, config: NodeConfig, peer: str) -> Iterator[Step]:
    if taken.rows or taken.claims:
        yield Step(f"give {taken.what} back to {peer}", partial(_give_back_one, taken, base, config))
    else:
        for file in taken.files:
            yield steps.remove(file, f"remove {file}: {taken.what} is gone")


def _give_back_one(taken: TakenOver, base: Path, config: NodeConfig, undo: Undo) -> None:
    moved: list[Path] = []

    def take_again() -> None:
        _record(config, taken)
        _move(reversed(moved), base, backup_path(base))

    undo.push(taken.what, take_again)
    _move(taken.files, backup_path(base), base, moved)
    _forget(config, taken)


def _saved_of_multus(base: Path) -> dict[str, list[Path]]:
    aside = backup_path(base)
    found: dict[str, list[Path]] = defaultdict(list)
    for file in _files(aside):
        found[file.name].append(file)
    for file in _files(aside / "results"):
        found[multus_cache.read_cached(file.read_bytes()).container].append(file)
    return found


def _saved_of_sriov(base: Path) -> dict[tuple[str, str], list[Path]]:
    aside = backup_path(base)
    found: dict[tuple[str, str], list[Path]] = {}
    for file in _files(aside):
        owner = sriov_cni.owner(file.name)
        if owner is not None:
            place = aside / "pci" / sriov_cni.read_saved(file.read_bytes()).device
            found[owner] = [each for each in (file, place) if each.exists()]
    return found

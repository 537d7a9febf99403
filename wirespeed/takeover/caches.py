"""Moving the state that Multus and sriov-cni keep of their pods into the journal, and back.

Their files are moved aside when they are taken over. So they are not taken over a second time after their pods are
detached, and an uninstallation can give back those of pods that still run. The files of userspace-CNI stay where
they are (`wirespeed.plugins.vhost.takeover`).
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from wirespeed import steps
from wirespeed.cni.errors import CniError
from wirespeed.cni.request import check_container_id
from wirespeed.devices.pci import PciDevice
from wirespeed.kernel import netns
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netns import Identity
from wirespeed.node import ALIASES, NodeConfig, open_journal
from wirespeed.plugins.meta.delegate import NOWHERE, recorded
from wirespeed.plugins.sriov import takeover as sriov
from wirespeed.plugins.vhost import takeover as userspace
from wirespeed.plugins.vhost.conf import PEER
from wirespeed.state.journal import Attachment, DeviceClaim, Journal
from wirespeed.state.records import Records
from wirespeed.steps import Step, Undo, kept
from wirespeed.takeover import multus_cache, sriov_cni
from wirespeed.takeover.record import PEERS, Record

Pairs = set[tuple[str, str]]  # container, interface


@dataclass
class Taken:
    """What is taken over of one container: rows and claims for the journal, and the files they were read from."""

    what: str
    rows: list[Attachment] = field(default_factory=list)
    claims: list[DeviceClaim] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


@dataclass
class Found:
    """Everything in one folder that can be taken over, and messages about what cannot."""

    base: Path
    taken: list[Taken] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


# Reading


def read_multus(
    base: Path, config: NodeConfig, *, configuration: str, version: str, path: tuple[str, ...]
) -> Found:
    """Read the state in Multus' cniDir `base`; the keyword arguments are those of `multus_cache.attachments`."""
    found = Found(base)
    results: dict[str, list[tuple[multus_cache.Cached, Path]]] = defaultdict(list)
    for file in _files(base / "results"):
        try:
            cached = multus_cache.read_cached(file.read_bytes())
        except CniError as error:
            found.problems.append(f"{file}: {error.msg}")
        else:
            results[cached.container].append((cached, file))
    lists = {file.name: file for file in _files(base) if _is_container(file.name)}
    for container in sorted({*lists, *results}):
        listed = lists.get(container)
        own = results[container]
        try:
            rows = multus_cache.attachments(
                container,
                listed.read_bytes() if listed else None,
                [cached for cached, _ in own],
                configuration=configuration,
                version=version,
                path=path,
                identity=_identity,
            )
        except CniError as error:
            found.problems.append(f"{listed or base}: {error.msg}")
            continue
        files = [*([listed] if listed else []), *(file for _, file in own)]
        found.problems += _of_nobody(container, rows, Path(config.vhost.userspace_dir))
        names = ", ".join(row.ifname for row in rows)
        found.taken.append(Taken(f"container {container}: {names or 'no network'}", rows=rows, files=files))
    return found


def _of_nobody(container: str, rows: list[Attachment], base: Path) -> Iterator[str]:
    """Yield a message for each network of userspace-CNI of which there is no state in `base`.

    Its DEL would now come to this process, which could not detach it.
    """
    for row, delegate in zip(rows, map(recorded, rows), strict=True):
        if PEER not in delegate.network().kinds:
            continue
        where = f"container {container}: {delegate.where} was attached by userspace-CNI"
        try:
            if userspace.kept(base, container, row.ifname) is None:
                yield f"{where}, and {base} has nothing of it"
        except CniError as error:
            yield f"{where}: {error.msg}"


def find(noted: Record, config: NodeConfig) -> list[Found]:
    """Find the state of the replaced tools; if Multus was replaced, also what sriov-cni keeps of its pods' VFs."""
    found = []
    pairs: Pairs = set()
    if (files := noted.multus) is not None:
        found.append(
            read_multus(
                Path(files.folder),
                config,
                configuration=files.configuration,
                version=files.version,
                path=files.path,
            )
        )
        pairs = {(row.container, row.ifname) for taken in found[0].taken for row in taken.rows}
    # The VF of a pod that Multus attached is now released by the SR-IOV plugin in this process.
    only = None if "sriov-cni" in noted.replaced else pairs
    found.append(read_sriov(Path(noted.sriov_dir), config, only=only))
    return found


def read_sriov(base: Path, config: NodeConfig, *, only: Pairs | None = None) -> Found:
    """Read the state of sriov-cni in `base`, of the attachments `only` or of all."""
    found = Found(base)
    for file in _files(base):
        owner = sriov_cni.owner(file.name)
        if owner is None or (only is not None and owner not in only):
            continue
        try:
            kept_of = sriov_cni.read_kept(file.read_bytes())
            place = base / "pci" / kept_of.device
            claim = _claim(*owner, kept_of, place, config)
        except (CniError, NetlinkError) as error:
            found.problems.append(f"{file}: {error}")
            continue
        files = [file, *([place] if place.exists() else [])]
        what = f"container {owner[0]}: VF {kept_of.device} ({owner[1]})"
        found.taken.append(Taken(what, claims=[claim], files=files))
    return found


def _claim(container: str, ifname: str, kept_of: sriov_cni.Kept, place: Path, config: NodeConfig) -> DeviceClaim:
    path = place.read_text() if place.exists() else ""
    device = PciDevice(kept_of.device, Path(config.sysfs))
    identity = _identity(path)
    with netns.reopened(path, identity) as ns:
        now = sriov.current_state(device, ns)
    return sriov_cni.claim(
        container, ifname, kept_of, now=now, netns=path, identity=identity, devinfo=Path(config.devinfo)
    )


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in sorted(folder.iterdir()) if path.is_file() and not path.is_symlink())


def _is_container(name: str) -> bool:
    try:
        return bool(check_container_id(name))
    except CniError:
        return False


def _identity(path: str) -> Identity:
    """Return the identity of the network namespace that is at the path now, NOWHERE if there is none."""
    if path:
        try:
            with netns.opened(path) as ns:
                return ns.identity
        except CniError:
            pass  # the pod is gone
    return NOWHERE


# Into the journal


def take_over(found: Found, config: NodeConfig) -> Iterator[Step]:
    """Yield the steps that write what was found to the node's journal, and move its files aside."""
    for taken in found.taken:
        yield Step(f"take over {taken.what}", partial(_take, taken, found.base, config))


def _take(taken: Taken, base: Path, config: NodeConfig, undo: Undo) -> None:
    moved: list[tuple[Path, Path]] = []

    def back() -> None:
        for here, aside in reversed(moved):
            _move(aside, here)
        with closing(open_journal(config)) as journal:
            _forget(journal, taken)

    undo.push(taken.what, back)
    with closing(open_journal(config)) as journal:
        _record(journal, taken)
    for file in taken.files:
        aside = kept(base) / file.relative_to(base)
        _move(file, aside)
        moved.append((file, aside))


def _record(journal: Journal, taken: Taken) -> None:
    """Write the rows and claims, unless an installation that was killed has already done so."""
    if taken.rows:
        multus_cache.record(journal, taken.rows)
    for claim in taken.claims:
        if journal.device_of(claim.container, claim.ifname) is None:
            journal.claim(claim)


def _forget(journal: Journal, taken: Taken) -> None:
    for row in taken.rows:
        journal.forget(row.container, row.ifname)
    for claim in taken.claims:
        journal.release(claim)


def _move(here: Path, there: Path) -> None:
    there.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.replace(here, there)


# And back


def give_back(multus_base: Path, sriov_base: Path, config: NodeConfig) -> Iterator[Step]:
    """Yield the steps that give back what was taken over and has not been undone since, from the node's journal.

    Raises CniError if a file that was moved aside cannot be read.
    """
    rows, claims = _journaled(config)
    for container, files in _aside_of_multus(multus_base).items():
        mine = Taken(
            f"container {container}", rows=[row for row in rows if row.container == container], files=files
        )
        yield from _back(mine, multus_base, config, "Multus")
    for (container, ifname), files in _aside_of_sriov(sriov_base).items():
        own = [claim for claim in claims if (claim.container, claim.ifname) == (container, ifname)]
        mine = Taken(f"container {container} ({ifname})", claims=own, files=files)
        yield from _back(mine, sriov_base, config, "sriov-cni")


def ours_alone(multus_base: Path, sriov_base: Path, config: NodeConfig) -> set[str]:
    """Return the containers in the journal or the records that no other tool knows, so none could detach them."""
    rows, claims = _journaled(config)
    known = {row.container for row in rows} | {claim.container for claim in claims}
    theirs = {*_aside_of_multus(multus_base), *(container for container, _ in _aside_of_sriov(sriov_base))}
    return known - theirs


def held(peer: str, config: NodeConfig) -> set[str]:
    """Return the containers in the journal or the records whose DEL may be called by one of the peer's names."""
    rows, claims = _journaled(config)
    containers = {row.container for row in rows}
    if peer == "multus":
        return containers
    plugins = {ALIASES.get(name, name) for name in PEERS[peer]}
    return {claim.container for claim in claims if claim.plugin in plugins} - containers


def _journaled(config: NodeConfig) -> tuple[list[Attachment], list[DeviceClaim]]:
    """Return the rows and claims of the journal and the records, without creating a missing journal."""
    rows: list[Attachment] = []
    claims: list[DeviceClaim] = []
    if Path(config.state).exists():
        with closing(open_journal(config)) as journal:
            rows, claims = journal.attachments(), journal.claims()
    records, known = Records(Path(config.attachments)), {row.container for row in rows}
    rows += [row for each in records.containers() if each not in known for row in records.read(each)]
    return rows, claims


def _back(taken: Taken, base: Path, config: NodeConfig, peer: str) -> Iterator[Step]:
    if taken.rows or taken.claims:
        yield Step(f"give {taken.what} back to {peer}", partial(_give, taken, base, config))
    else:
        for file in taken.files:
            yield steps.remove(file, f"remove {file}: {taken.what} is gone")


def _give(taken: Taken, base: Path, config: NodeConfig, undo: Undo) -> None:
    moved: list[tuple[Path, Path]] = []

    def back() -> None:
        with closing(open_journal(config)) as journal:
            _record(journal, taken)
        for aside, there in reversed(moved):
            _move(there, aside)

    undo.push(taken.what, back)
    for aside in taken.files:
        there = base / aside.relative_to(kept(base))
        _move(aside, there)
        moved.append((aside, there))
    with closing(open_journal(config)) as journal:
        _forget(journal, taken)


def _aside_of_multus(base: Path) -> dict[str, list[Path]]:
    aside = kept(base)
    found: dict[str, list[Path]] = defaultdict(list)
    for file in _files(aside):
        found[file.name].append(file)
    for file in _files(aside / "results"):
        found[multus_cache.read_cached(file.read_bytes()).container].append(file)
    return found


def _aside_of_sriov(base: Path) -> dict[tuple[str, str], list[Path]]:
    aside = kept(base)
    found: dict[tuple[str, str], list[Path]] = {}
    for file in _files(aside):
        owner = sriov_cni.owner(file.name)
        if owner is not None:
            place = aside / "pci" / sriov_cni.read_kept(file.read_bytes()).device
            found[owner] = [file, *([place] if place.exists() else [])]
    return found

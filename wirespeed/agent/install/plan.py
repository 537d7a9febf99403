"""What an installation or an uninstallation changes on a node: planned completely before anything is changed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from textwrap import indent
from typing import Any

import msgspec

from wirespeed import steps, structs
from wirespeed.agent import cniconf
from wirespeed.agent.install import binaries, demands
from wirespeed.agent.listener import only_agent
from wirespeed.cni import versions
from wirespeed.cni.errors import CniError, Code
from wirespeed.kube import kubeyaml
from wirespeed.node import NodeConfig, load_config
from wirespeed.plugins.meta.config import OWN_TYPE
from wirespeed.steps import Step, Undo, kept
from wirespeed.takeover import caches, multus, record
from wirespeed.takeover.multus import RuntimeConf
from wirespeed.takeover.record import PEERS, MultusFiles, Record

_CALL_TIME = 90.0  # seconds for calls of replaced plugins to end; runtimes give up on them earlier
_SHOWN = 5  # pods that a message names; the others are only counted
_UNIT = "wirespeed-agent.service"
_COMMAND = "/usr/local/bin/wirespeed"  # as in the unit's template
_CNI_CONFIG_DIR = Path("/etc/cni/net.d")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Paths on the node, and the tools of `record.PEERS` to replace."""

    shim: Path
    bin_dir: Path = Path("/opt/cni/bin")
    config: Path = Path("/etc/wirespeed/agent.yaml")
    cni_config_dir: Path = _CNI_CONFIG_DIR
    replace: tuple[str, ...] = ()
    daemon_config: Path | None = None  # Multus' daemon-config.json
    kubeconfig: str = ""
    unit: Path | None = None  # template of the systemd unit; None writes none
    unit_dir: Path = Path("/etc/systemd/system")
    command: str = _COMMAND  # the command that the unit starts
    multus_dir: Path | None = None  # Multus' state; see _multus_dir
    sriov_dir: Path | None = None  # sriov-cni's state; see _sriov_dir
    force: bool = False  # continue even if something cannot be taken over or given back


@dataclass(kw_only=True)
class Plan:
    """The steps, the agent's configuration for which they were planned, and notes for the user."""

    config: NodeConfig
    alone: bool = False  # whether no agent may run during the steps
    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    outlook: Callable[[], Iterable[str]] = tuple  # further notes, which need requests to the cluster


@contextlib.contextmanager
def no_agent(config: NodeConfig) -> Iterator[None]:
    """Hold the agent's lock, so that no agent starts; meanwhile the shim lets calls wait.

    Raises CniError(TRY_AGAIN_LATER) that names the process of a running agent.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(only_agent(Path(config.socket)))
        except CniError as error:
            raise CniError(error.code, f"{error.msg}; stop it first: the shim lets calls wait") from error
        yield


# Installation


def installation(options: Options) -> Plan:
    """Plan the installation of wirespeed on the node; no steps if it is already installed like that.

    Raises CniError that says why it cannot be installed.
    """
    shim = binaries.read_shim(options.shim)
    theirs = multus.find(options.cni_config_dir) if "multus" in options.replace else None
    translation = _translation(options, theirs)
    plan, text = _configuration(options, translation, theirs)
    if text is not None:
        shown = indent(text.decode().rstrip(), "    ")
        plan.steps.append(steps.write(options.config, text, 0o600, f"write {options.config}:\n{shown}"))
    replaced = {*options.replace, *_giving_back(plan, options)}
    noted = _noted(options, replaced, plan.config, translation, theirs)
    placing = list(binaries.place(shim, options.bin_dir, noted.replaced))
    plan.steps += placing
    if options.replace:
        plan.steps += _taking_over(options, noted, plan.config, bool(placing))
    if theirs is not None and plan.config.autoconf and theirs.path.name in plan.config.autoconf.files:
        # A copy, not a link: Multus writes its file in place, which would also change the kept one.
        data, mode = theirs.path.read_bytes(), theirs.path.stat().st_mode & 0o777
        plan.steps.append(
            steps.write(kept(theirs.path), data, mode, f"keep {theirs.path} as {kept(theirs.path).name}")
        )
    plan.steps += record.write(plan.config, noted)
    plan.steps += _unit_steps(options)
    plan.notes += _notes(options, plan.config)
    plan.alone = plan.alone or bool(options.replace)
    if "multus" in options.replace:
        plan.outlook = partial(demands.notes, plan.config)
    return plan


def _giving_back(plan: Plan, options: Options) -> list[str]:
    """Plan to give back names that are no longer to be replaced; return the tools that must stay replaced."""
    before = record.read(plan.config) or Record()
    staying = []
    for peer in before.replaced:
        if peer in options.replace:
            continue
        held = caches.held(peer, plan.config)
        if held and not options.force:
            staying.append(peer)
            plan.notes.append(
                f"{peer} stays replaced until {len(held)} containers are gone that were attached in its place "
                f"({_first(sorted(held))}); run this again then, or use --force"
            )
            continue
        plan.steps += binaries.give_back(Path(before.bin_dir), PEERS[peer])
        plan.alone = True
    return staying


def _first(names: list[str], between: str = ", ") -> str:
    return between.join([*names[:_SHOWN], *([f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else [])])


def _translation(options: Options, theirs: RuntimeConf | None) -> multus.Translation:
    """Translate Multus' configurations. The daemon's takes precedence, except for the name of the network."""
    said = multus.said_by(theirs.raw) if theirs else {}
    daemon = multus.read_daemon(options.daemon_config) if options.daemon_config else {}
    name = {"name": theirs.name} if theirs else {}
    return multus.translate({**said, **daemon, **name})


def _configuration(
    options: Options, translation: multus.Translation, theirs: RuntimeConf | None
) -> tuple[Plan, bytes | None]:
    """Return a plan with the agent's configuration only, and the text to write if there is no such file yet."""
    document = deepcopy(translation.document) if "multus" in options.replace else {"autoconf": {}}
    if options.kubeconfig:
        document["cluster"] = {"kubeconfig": options.kubeconfig}
    if "autoconf" in document:
        if options.cni_config_dir != _CNI_CONFIG_DIR:
            document["autoconf"]["cniConfigDir"] = str(options.cni_config_dir)
        if theirs is not None:
            document["autoconf"]["files"] = ["00-wirespeed.conflist", theirs.path.name]
            document["autoconf"] |= _pinned(document["autoconf"], theirs)
    text = kubeyaml.dump(document)
    if options.config.exists():
        plan = Plan(config=load_config(options.config), notes=translation.warnings)
        if theirs is not None and not _says(kubeyaml.load(options.config.read_bytes()), document):
            plan.notes.append(f"{options.config} stays as it is; Multus' configuration would make it:\n{text}")
        return plan, None
    return Plan(config=_converted(document, options.config), notes=translation.warnings), text.encode()


def _says(document: Any, asked: Any) -> bool:
    """Whether the document contains everything in `asked`."""
    if isinstance(asked, dict):
        return isinstance(document, dict) and all(_says(document.get(key), value) for key, value in asked.items())
    return bool(document == asked)


def _converted(document: dict[str, Any], path: Path) -> NodeConfig:
    try:
        config = structs.convert(document, NodeConfig)
    except msgspec.ValidationError as error:
        raise CniError(Code.INVALID_CONFIG, f"{path}, as it would be written: {error}") from error
    if config.autoconf is not None:
        cniconf.check(config.autoconf)
    return config


def _pinned(autoconf: dict[str, Any], theirs: RuntimeConf) -> dict[str, str]:
    """Return the key `primary` with the file that Multus uses, if autoconf would choose another one; else {}."""
    file = Path(str(multus.said_by(theirs.raw).get("clusterNetwork", ""))).name
    where = _converted({"autoconf": autoconf}, theirs.path).autoconf
    assert where is not None
    primary = cniconf.find_primary(where)
    if primary is None or primary.path.name == file or not (primary.path.parent / file).is_file():
        return {}
    return {"primary": file}


# The state of the replaced tools


def _taking_over(options: Options, noted: Record, config: NodeConfig, switched: bool) -> list[Step]:
    """Return the steps that take over the pods that the replaced tools attached.

    Empty if there are none, and no shim is installed now (`switched`), so that no running call can add one.
    """

    def find_pods() -> list[caches.Found]:
        found = caches.find(noted, config)
        problems = [problem for each in found for problem in each.problems]
        if problems and not options.force:
            raise CniError(
                Code.POLICY, "; ".join([*problems, "remove those pods first, or use --force to leave them"])
            )
        return found

    def take(undo: Undo) -> None:
        # Read again: calls that were running meanwhile have written more.
        for found in find_pods():
            for step in caches.take_over(found, config):
                step.do(undo)

    there = [taken.what for found in find_pods() for taken in found.taken]
    if not there and not switched:
        return []
    waiting = binaries.await_calls(options.bin_dir, options.replace, _CALL_TIME)
    shown = _first(there, "; ")
    return [waiting, Step(f"take over pods that were attached by others: {shown or 'none now'}", take)]


def _noted(
    options: Options,
    replaced: Iterable[str],
    config: NodeConfig,
    translation: multus.Translation,
    theirs: RuntimeConf | None,
) -> Record:
    """Return the record of this installation."""
    before = record.read(config) or Record()
    return Record(
        bin_dir=str(options.bin_dir.absolute()),
        replaced=tuple(sorted(replaced)),
        sriov_dir=str(_sriov_dir(options, before)),
        multus=_multus_files(options, before, config, translation, theirs) if "multus" in replaced else None,
    )


def _multus_files(
    options: Options,
    before: Record,
    config: NodeConfig,
    translation: multus.Translation,
    theirs: RuntimeConf | None,
) -> MultusFiles:
    folder = str(_multus_dir(options, before, translation.cni_dir))
    if theirs is None and before.multus is not None:  # we replaced its file already
        return msgspec.structs.replace(before.multus, folder=folder)
    version = multus.said_by(theirs.raw).get("cniVersion") if theirs else None
    return MultusFiles(
        folder=folder,
        configuration=_network_name(config, theirs),
        version=version if version in versions.SUPPORTED else versions.IMPLIED,
        path=(translation.bin_dir or str(options.bin_dir),),
    )


def _multus_dir(options: Options, before: Record, said: str = "") -> Path:
    """Return Multus' state directory.

    The order is: the option, `said` by Multus' configuration ("": nothing), the last installation's record, Multus'
    default.
    """
    if options.multus_dir:
        return options.multus_dir.absolute()
    return Path(said or (before.multus.folder if before.multus else multus.CNI_DIR))


def _sriov_dir(options: Options, before: Record) -> Path:
    """Return sriov-cni's state directory: as the option says, else as recorded, else sriov-cni's default."""
    return options.sriov_dir.absolute() if options.sriov_dir else Path(before.sriov_dir)


def _network_name(config: NodeConfig, theirs: RuntimeConf | None) -> str:
    """Return the name of the configuration with which the runtime will call us."""
    if config.autoconf is not None:
        if config.autoconf.network_name:
            return config.autoconf.network_name
        primary = cniconf.find_primary(config.autoconf)
        if primary is not None:
            return primary.network.name
    return theirs.name if theirs is not None else multus.NETWORK_NAME


# The service


def _unit_steps(options: Options) -> Iterator[Step]:
    if options.unit is None:
        return
    text = options.unit.read_text().replace(_COMMAND, options.command).encode()
    path = options.unit_dir / _UNIT
    if not path.exists() or path.read_bytes() != text:
        yield steps.write(path, text, 0o644, f"write {path}")


def _notes(options: Options, config: NodeConfig) -> Iterator[str]:
    ports = list(Path(config.vhost.userspace_dir, "data").glob("local-*.json"))
    if "userspace-cni" in options.replace and ports:
        yield f"ports that userspace-CNI made are removed here when their pods go: {len(ports)}"
    if options.unit is not None:
        if not config.cluster.kubeconfig and not config.cluster.manifests:
            yield f"the agent needs a kubeconfig where it is no pod: --kubeconfig, or cluster in {options.config}"
        yield f"start it with: systemctl daemon-reload && systemctl enable --now {_UNIT}"


# Removal


def removal(options: Options) -> Plan:
    """Plan the uninstallation, which restores the node's state before the installation.

    Raises CniError(POLICY) while there are pods that only this agent can detach, unless forced.
    """
    config = load_config(options.config) if options.config.exists() else NodeConfig()
    plan = Plan(config=config, alone=True)
    before = _recorded(options, plan)
    multus_dir, sriov_dir = _multus_dir(options, before), _sriov_dir(options, before)
    alone = caches.ours_alone(multus_dir, sriov_dir, config)
    if alone:
        text = f"{len(alone)} containers were attached by wirespeed and would never be detached"
        if not options.force:
            names = ", ".join(sorted(alone)[:5])
            raise CniError(Code.POLICY, f"{text} ({names}): drain the node first, or use --force")
        plan.notes.append(text)
    plan.steps += caches.give_back(multus_dir, sriov_dir, config)
    if config.autoconf is not None:
        for name in config.autoconf.files:
            plan.steps += _conf_removal(Path(config.autoconf.cni_config_dir) / name)
    plan.steps += binaries.take_away(options.bin_dir)
    plan.steps += record.write(config, Record())
    unit = options.unit_dir / _UNIT
    if unit.exists():
        plan.steps.append(steps.remove(unit, f"remove {unit}"))
    if options.config.exists():
        plan.notes.append(f"{options.config} stays")
    return plan


def _recorded(options: Options, plan: Plan) -> Record:
    """Read the record of the installation; with --force, one that cannot be read is empty, and noted."""
    try:
        return record.read(plan.config, hint="") or Record()
    except CniError as error:
        empty = Record()
        folders = f"{_multus_dir(options, empty)} and {_sriov_dir(options, empty)}"
        text = f"{error.msg}; without it, the state of Multus and of sriov-cni is expected in {folders}"
        if not options.force:
            raise CniError(error.code, f"{text}; use --force to go on like that") from error
        plan.notes.append(text)
        return empty


def _conf_removal(path: Path) -> Iterator[Step]:
    ours = path.exists() and OWN_TYPE.encode() in path.read_bytes()
    if kept(path).exists() and (ours or not path.exists()):
        yield steps.put_back(path, f"put {kept(path).name} back at {path}")
    elif ours:
        yield steps.remove(path, f"remove {path}")

"""What an installation or an uninstallation changes on a node: planned completely before anything is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from textwrap import indent
from typing import Any

import msgspec

from wirespeed import steps
from wirespeed.agent import cniconf
from wirespeed.agent.install import binaries, demands
from wirespeed.agent.listener import Lock
from wirespeed.cni import versions
from wirespeed.errors import Error, Kind, combine, within
from wirespeed.kube import kubeyaml
from wirespeed.node import NodeConfig, load_config
from wirespeed.plugins.meta.config import OWN_TYPE
from wirespeed.steps import ShownPlan, Step, Undo, backup_path
from wirespeed.takeover import caches, multus, record
from wirespeed.takeover.multus import RuntimeConf
from wirespeed.takeover.record import PEERS, MultusFiles, Record

_CALLS_TIMEOUT = 90.0  # seconds for calls of replaced plugins to end; runtimes give up on them earlier
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
    without_agent: bool = False  # whether no agent may run during the steps
    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cluster_notes: Callable[[], Iterable[str]] = tuple  # further notes, which need requests to the cluster

    def shown(self) -> ShownPlan:
        return ShownPlan([step.what for step in self.steps], self.notes)


def no_agent(config: NodeConfig) -> closing[Lock]:
    """Hold the agent's lock, so that no agent starts. Until it is released, calls wait in the shim.

    Raises Error(TRY_AGAIN) that names the process of a running agent.
    """
    try:
        return closing(Lock(Path(config.socket)))
    except Error as error:
        raise error.with_hint("stop it first: until it runs again, calls wait in the shim") from error


# Installation


def installation(options: Options) -> Plan:
    """Plan the installation of wirespeed on the node; no steps if it is already installed with these options.

    Raises Error that says why it cannot be installed.
    """
    shim = binaries.read_shim(options.shim)
    multus_conf = multus.find(options.cni_config_dir) if "multus" in options.replace else None
    translation = _translation(options, multus_conf)
    plan, text = _configuration(options, translation, multus_conf)
    if text is not None:
        shown = indent(text.decode().rstrip(), "    ")
        plan.steps.append(steps.write(options.config, text, 0o600, f"write {options.config}:\n{shown}"))
    previous = record.read(plan.config) or Record()
    replaced = {*options.replace, *_names_to_restore(plan, options, previous)}
    installation = Record(
        bin_dir=str(options.bin_dir.absolute()),
        replaced=tuple(sorted(replaced)),
        sriov_dir=str(_sriov_dir(options, previous)),
        multus=_multus_files(options, previous, plan.config, translation, multus_conf)
        if "multus" in replaced
        else None,
    )
    shim_steps = list(binaries.install_steps(shim, options.bin_dir, installation.replaced))
    plan.steps += shim_steps
    if options.replace:
        plan.steps += _takeover_steps(options, installation, plan.config, bool(shim_steps))
    if multus_conf is not None and plan.config.autoconf and multus_conf.path.name in plan.config.autoconf.files:
        # A copy, not a link: Multus writes its file in place, which would also change the kept one.
        data, mode = multus_conf.path.read_bytes(), multus_conf.path.stat().st_mode & 0o777
        aside = backup_path(multus_conf.path)
        plan.steps.append(steps.write(aside, data, mode, f"keep {multus_conf.path} as {aside.name}"))
    plan.steps += record.write(plan.config, installation)
    plan.steps += _unit_steps(options)
    plan.notes += _notes(options, plan.config)
    plan.without_agent = plan.without_agent or bool(options.replace)
    if "multus" in options.replace:
        plan.cluster_notes = partial(demands.notes, plan.config)
    return plan


def _names_to_restore(plan: Plan, options: Options, previous: Record) -> list[str]:
    """Plan to restore names that are no longer to be replaced; return the tools that must stay replaced."""
    staying = []
    for peer in previous.replaced:
        if peer in options.replace:
            continue
        held = caches.attached_by(peer, plan.config)
        if held and not options.force:
            staying.append(peer)
            plan.notes.append(
                f"{peer} stays replaced until {len(held)} containers are gone that were attached in its place "
                f"({_first(sorted(held))}); run this again then, or use --force"
            )
            continue
        plan.steps += binaries.restore_names(Path(previous.bin_dir), PEERS[peer])
        plan.without_agent = True
    return staying


def _first(names: list[str], between: str = ", ") -> str:
    return between.join([*names[:_SHOWN], *([f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else [])])


def _translation(options: Options, multus_conf: RuntimeConf | None) -> multus.Translation:
    """Translate Multus' configurations. The daemon's takes precedence, except for the name of the network."""
    keys = multus.own_keys(multus_conf.raw) if multus_conf else {}
    daemon = multus.read_daemon(options.daemon_config) if options.daemon_config else {}
    name = {"name": multus_conf.name} if multus_conf else {}
    return multus.translate({**keys, **daemon, **name})


def _configuration(
    options: Options, translation: multus.Translation, multus_conf: RuntimeConf | None
) -> tuple[Plan, bytes | None]:
    """Return a plan with the agent's configuration only, and the text to write if there is no such file yet."""
    document = deepcopy(translation.document) if "multus" in options.replace else {"autoconf": {}}
    if options.kubeconfig:
        document["cluster"] = {"kubeconfig": options.kubeconfig}
    if "autoconf" in document:
        if options.cni_config_dir != _CNI_CONFIG_DIR:
            document["autoconf"]["cniConfigDir"] = str(options.cni_config_dir)
        if multus_conf is not None:
            document["autoconf"]["files"] = ["00-wirespeed.conflist", multus_conf.path.name]
            document["autoconf"] |= _pinned_primary(document["autoconf"], multus_conf)
    text, notes = kubeyaml.dump(document), [warning.msg for warning in translation.warnings]
    if options.config.exists():
        plan = Plan(config=load_config(options.config), notes=notes)
        if multus_conf is not None and not _contains(kubeyaml.load(options.config.read_bytes()), document):
            plan.notes.append(f"{options.config} stays as it is; Multus' configuration would make it:\n{text}")
        return plan, None
    return Plan(config=_convert(document, options.config), notes=notes), text.encode()


def _contains(document: Any, asked: Any) -> bool:
    """Whether the document contains everything in `asked`."""
    if isinstance(asked, dict):
        return isinstance(document, dict) and all(
            _contains(document.get(key), value) for key, value in asked.items()
        )
    return bool(document == asked)


def _convert(document: dict[str, Any], path: Path) -> NodeConfig:
    with within(f"{path}, as it would be written"):
        return cniconf.read_config(document)


def _pinned_primary(autoconf: dict[str, Any], multus_conf: RuntimeConf) -> dict[str, str]:
    """Return the key `primary` with the file that Multus uses, if autoconf would choose another one; else {}."""
    file = Path(str(multus.own_keys(multus_conf.raw).get("clusterNetwork", ""))).name
    where = _convert({"autoconf": autoconf}, multus_conf.path).autoconf
    assert where is not None
    primary = cniconf.find_primary(where)
    if primary is None or primary.path.name == file or not (primary.path.parent / file).is_file():
        return {}
    return {"primary": file}


# The state of the replaced tools


def _takeover_steps(options: Options, installation: Record, config: NodeConfig, switched: bool) -> list[Step]:
    """Return the steps that take over the pods that the replaced tools attached.

    Empty if there are none, and no shim is installed now (`switched`), so that no running call can add one.
    """

    def find_pods() -> list[caches.Found]:
        found = caches.find(installation, config)
        problems = [problem for each in found for problem in each.problems]
        if problems and not options.force:
            hint = "remove those pods first, or use --force to leave them"
            raise combine(problems).of_kind(Kind.POLICY).with_hint(hint)
        return found

    def take(undo: Undo) -> None:
        # Read again: calls that were running meanwhile have written more.
        for found in find_pods():
            for step in caches.take_over(found, config):
                step.do(undo)

    to_take_over = [taken.what for found in find_pods() for taken in found.taken]
    if not to_take_over and not switched:
        return []
    waiting = binaries.await_calls(options.bin_dir, options.replace, _CALLS_TIMEOUT)
    shown = _first(to_take_over, "; ")
    return [waiting, Step(f"take over pods that were attached by other tools: {shown or 'none now'}", take)]


def _multus_files(
    options: Options,
    previous: Record,
    config: NodeConfig,
    translation: multus.Translation,
    multus_conf: RuntimeConf | None,
) -> MultusFiles:
    folder = str(_multus_dir(options, previous, translation.cni_dir))
    if multus_conf is None and previous.multus is not None:  # we replaced its file already
        return msgspec.structs.replace(previous.multus, folder=folder)
    version = multus.own_keys(multus_conf.raw).get("cniVersion") if multus_conf else None
    return MultusFiles(
        folder=folder,
        configuration=_network_name(config, multus_conf),
        version=version if version in versions.SUPPORTED else versions.IMPLIED,
        path=(translation.bin_dir or str(options.bin_dir),),
    )


def _multus_dir(options: Options, previous: Record, configured: str = "") -> Path:
    """Return Multus' state directory: as the option or `configured` says, else as recorded, else its default."""
    if options.multus_dir:
        return options.multus_dir.absolute()
    return Path(configured or (previous.multus.folder if previous.multus else multus.CNI_DIR))


def _sriov_dir(options: Options, previous: Record) -> Path:
    """Return sriov-cni's state directory: as the option says, else as recorded, else sriov-cni's default."""
    return options.sriov_dir.absolute() if options.sriov_dir else Path(previous.sriov_dir)


def _network_name(config: NodeConfig, multus_conf: RuntimeConf | None) -> str:
    """Return the name of the CNI configuration with which the runtime will call wirespeed."""
    if config.autoconf is not None:
        if config.autoconf.network_name:
            return config.autoconf.network_name
        primary = cniconf.find_primary(config.autoconf)
        if primary is not None:
            return primary.network.name
    return multus_conf.name if multus_conf is not None else multus.NETWORK_NAME


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
        yield f"ports that userspace-CNI created are removed by wirespeed when their pods are deleted: {len(ports)}"
    if options.unit is not None:
        if not config.cluster.kubeconfig and not config.cluster.manifests:
            yield f"the agent needs a kubeconfig where it is no pod: --kubeconfig, or cluster in {options.config}"
        yield f"start it with: systemctl daemon-reload && systemctl enable --now {_UNIT}"


# Removal


def removal(options: Options) -> Plan:
    """Plan the uninstallation, which restores the node's state before the installation.

    Raises Error(POLICY) while there are pods that only this agent can detach, unless forced.
    """
    config = load_config(options.config) if options.config.exists() else NodeConfig()
    plan = Plan(config=config, without_agent=True)
    previous = _read_record(options, plan)
    multus_dir, sriov_dir = _multus_dir(options, previous), _sriov_dir(options, previous)
    attached_here = caches.known_only_here(multus_dir, sriov_dir, config)
    if attached_here:
        text = f"{len(attached_here)} containers were attached by wirespeed and would never be detached"
        if not options.force:
            names = ", ".join(sorted(attached_here)[:5])
            raise Error(Kind.POLICY, f"{text} ({names})", hint="drain the node first, or use --force")
        plan.notes.append(text)
    plan.steps += caches.give_back(multus_dir, sriov_dir, config)
    if config.autoconf is not None:
        for name in config.autoconf.files:
            plan.steps += _conf_removal(Path(config.autoconf.cni_config_dir) / name)
    plan.steps += binaries.restore_names(options.bin_dir, [*binaries.OWN_NAMES, *binaries.names_of(PEERS)])
    plan.steps += record.write(config, Record())
    unit = options.unit_dir / _UNIT
    if unit.exists():
        plan.steps.append(steps.remove(unit, f"remove {unit}"))
    if options.config.exists():
        plan.notes.append(f"{options.config} stays")
    return plan


def _read_record(options: Options, plan: Plan) -> Record:
    """Read the record of the installation; with --force, one that cannot be read is empty, and noted."""
    try:
        return record.read(plan.config, hint="") or Record()
    except Error as error:
        empty = Record()
        folders = f"{_multus_dir(options, empty)} and {_sriov_dir(options, empty)}"
        error = error.with_hint(f"without it, the state of Multus and of sriov-cni is expected in {folders}")
        if not options.force:
            raise error.with_hint("use --force to go on like that") from None
        plan.notes.append(error.msg)
        return empty


def _conf_removal(path: Path) -> Iterator[Step]:
    ours = path.exists() and OWN_TYPE.encode() in path.read_bytes()
    if backup_path(path).exists() and (ours or not path.exists()):
        yield steps.restore_backup(path, f"put {backup_path(path).name} back at {path}")
    elif ours:
        yield steps.remove(path, f"remove {path}")

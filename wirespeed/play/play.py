"""Runs a play from its manifests to its end: starts everything in order, waits, and removes everything."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from wirespeed.deviceplugin.binding import Bindings
from wirespeed.errors import Error, Kind, Thing
from wirespeed.kube.manifests import ManifestCluster
from wirespeed.play import admission, hidden, manifests, notices, report, sandbox
from wirespeed.play import session as sessions
from wirespeed.play.agent import Agent
from wirespeed.play.cgroups import Cgroups
from wirespeed.play.command import Command
from wirespeed.play.follow import watching
from wirespeed.play.kubelet import Kubelet
from wirespeed.play.manifests import Manifests
from wirespeed.play.pod import Phase, PodRun, Stage
from wirespeed.play.sandbox import Runtime
from wirespeed.play.screen import Screen
from wirespeed.play.session import Session, write
from wirespeed.state.journal import Journal
from wirespeed.steps import Undo
from wirespeed.system import signals

TIMED_OUT = 124  # as timeout(1) does
_READY = 30.0  # seconds for the agent to be ready
_DEVICES = 15.0  # seconds for the device plugin to send its list of devices
_PROGRAMS = ("ip", "mount", "umount", "pivot_root", "setpriv")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a play; see `wirespeed play --help`."""

    files: Sequence[Path]
    cni_conf: Path
    cni_path: tuple[str, ...]
    cdi_path: tuple[str, ...] = ()
    pools: Path | None = None
    shim: Path | None = None
    in_order: bool = False
    then: str = ""
    timeout: float | None = None
    out: Path | None = None
    logs: bool = True
    log_level: str = "warning"


class _StoppedError(Exception):
    """A signal was received, or the time is over."""


def play(options: Options, console: Console, errors: Console) -> int:
    """Play the manifests; return the exit status.

    It is 0 if every pod that ends by itself and the command `then` succeeded, all other pods were ready when they
    were stopped, and everything was removed. Raises Error for errors found before anything is started.
    """
    if os.geteuid() != 0:
        raise Error(Kind.UNAVAILABLE, "`wirespeed play` needs root: for network namespaces, mounts and devices")
    if missing := [program for program in _PROGRAMS if not shutil.which(program)]:
        raise Error(Kind.UNAVAILABLE, f"programs are missing: {', '.join(missing)} (util-linux, iproute2)")
    loaded = manifests.load(options.files, pools=options.pools)
    if not loaded.pods:
        raise Error(Kind.INVALID_CONFIG, "the files contain no Pod")
    network = sandbox.load_conf(options.cni_conf)
    shim = sessions.find_shim(options.shim, options.cni_path)
    hidden.refuse(loaded.pods)
    notices.check_capabilities(loaded.pods)
    device_plugin, unserved = sessions.device_plugin(loaded), sessions.unserved_resources(loaded)
    admission.check_hugepages(loaded.pods)
    with sessions.session_folder() as session:
        session.write(loaded, device_plugin)
        chain = sandbox.own_plugins(network, shim=shim, links=session.links, socket=session.config.socket)
        screen = Screen(console, logs=options.logs)
        for note in loaded.notes:
            screen.note(note)
        for resource in unserved:
            what = "no device plugin serves it, so pods are given no device"
            _print_problem(errors, f"warning: resource {resource}: {what}")
        runtime = Runtime(network, options.cni_path, chain)
        return _Play(
            options, loaded, unserved=unserved, session=session, runtime=runtime, screen=screen, errors=errors
        ).run()


def _print_problem(errors: Console, text: str) -> None:
    errors.print(f"wirespeed play: {text}", style="red", markup=False, highlight=False, soft_wrap=True)


class _Play:
    def __init__(
        self,
        options: Options,
        loaded: Manifests,
        *,
        unserved: Sequence[str],
        session: Session,
        runtime: Runtime,
        screen: Screen,
        errors: Console,
    ) -> None:
        self._options, self._manifests, self._unserved, self._session = options, loaded, unserved, session
        self._screen, self._errors = screen, errors
        self._changed = threading.Condition()
        self._stopped = 0  # the signal received, 0 for none
        self._timed_out = False
        self._problems: list[str] = []
        self._undo = Undo()
        self._kubelet = Kubelet(session.kubelet, plugin_watch=True, changed=self._changed)
        log = partial(screen.line, "agent")
        self._agent = Agent(
            session.agent, session.folder, log_level=options.log_level, changed=self._changed, write=log
        )
        self._cgroups = Cgroups(session.name)
        self._runs: list[PodRun] = []
        self._cluster = ManifestCluster(session.manifests)
        self._devices: set[str] = set()  # devices allocated to the pods
        self._then = Command(options.then, screen, self._changed) if options.then else None
        self._stage = Stage(
            changed=self._changed,
            screen=screen,
            kubelet=self._kubelet,
            runtime=runtime,
            cgroups=self._cgroups,
            cdi=[*map(Path, options.cdi_path), session.cdi],
            session=session,
            cluster=self._cluster,
            config_maps=loaded.config_maps,
            logs=options.out / "logs" if options.out else None,
        )
        if self._stage.logs:
            self._stage.logs.mkdir(parents=True, exist_ok=True)

    def run(self) -> int:
        with (
            self._signals(),
            self._screen.showing(lambda: [run.row for run in self._runs]),
            watching(self._cluster.status_folder, self._refresh, "annotations"),
        ):
            try:
                self._set_up()
                self._run_pods()
            except _StoppedError:
                pass
            except Error as error:
                self._problems.append(error.msg)
            finally:
                self._record_problems()
                self._tear_down()
        return self._status()

    # The stages of a play

    def _set_up(self) -> None:
        """Start kubelet and agent, and allocate devices. All pods are admitted before any is set up."""
        self._cgroups.make(self._undo)
        for line in notices.notes(self._manifests.pods, self._cgroups.missing):
            self._screen.note(line)
        self._kubelet.start()
        self._undo.push("kubelet", self._kubelet.stop)
        self._agent.start()
        self._undo.push("agent", self._agent.stop)
        if not self._await(lambda: self._agent.ready, _READY):
            raise Error(Kind.UNAVAILABLE, f"the agent was not ready within {_READY:g} s")
        served = [
            each for each in admission.requested_resources(self._manifests.pods) if each not in self._unserved
        ]
        for resource in served:
            self._kubelet.wait_until(
                lambda: self._interrupted() or self._kubelet.is_listed(resource),  # noqa: B023
                _DEVICES,
                f"device plugin of {resource}",
            )
            self._check()
        for number, pod in enumerate(self._manifests.pods, start=1):
            try:
                given = admission.allocate(self._kubelet, pod, unserved=self._unserved)
            except Error as error:
                raise error.within(f"pod {pod.label}: not admitted") from None
            self._runs.append(PodRun(pod, number=number, stage=self._stage, given=given))
        self._devices = {device for given in self._kubelet.allocations() for device in given.devices}
        for run in self._runs:
            self._session.add_pod(run.pod, run.uid)

    def _run_pods(self) -> None:
        """Start the pods, and wait until the play is over."""
        for run in self._runs:
            self._check()
            run.start()
            if self._options.in_order:
                self._await(lambda: run.ready or run.ended)  # noqa: B023
                if run.phase is Phase.FAILED:
                    what = "it failed: those after it are not started"
                    raise Error(Kind.UNAVAILABLE, what, where=Thing("pod", run.pod.label))
        self._await(lambda: all(run.attachment or run.ended for run in self._runs))
        self._screen.interfaces(report.interfaces(self._runs))
        if self._then:
            self._run_then(self._then)
        endings = [run for run in self._runs if run.pod.ends_by_itself]
        if endings:
            self._await(lambda: all(run.ended for run in endings))
        elif not self._then:
            self._await(lambda: False)

    def _run_then(self, command: Command) -> None:
        self._await(lambda: all(run.ready or run.ended for run in self._runs))
        if failed := [run.pod.label for run in self._runs if run.phase is Phase.FAILED]:
            raise Error(Kind.UNAVAILABLE, f"pod {', '.join(failed)} failed: the command is not run")
        write(self._session.state, report.pods(self._runs))
        command.start({"PODS": str(self._session.state)})
        self._await(lambda: command.ended)
        if command.exit_code:
            raise Error(Kind.UNAVAILABLE, f"the command ended with {command.exit_code}: {self._options.then}")

    def _record_problems(self) -> None:
        """Record failed, unfinished and unready pods, before all are stopped."""
        for run in self._runs:
            where = f"pod {run.pod.label}"
            if run.phase is Phase.FAILED:
                self._problems.append(f"{where}: {run.reason}")
            elif run.ended or not run.started:
                continue
            elif self._timed_out:
                what = "had not ended" if run.pod.ends_by_itself else "was stopped"
                self._problems.append(f"{where} {what} after {self._options.timeout:g} s")
            elif not run.pod.ends_by_itself and not run.ready and (run.row.reason or not self._stopped):
                self._problems.append(
                    f"{where} was not ready when it was stopped: {run.row.reason or 'its probe fails'}"
                )

    def _tear_down(self) -> None:
        """Remove everything that was created, even after failures."""
        if self._then:
            self._then.stop()
        for run in reversed(self._runs):
            run.stop()
        if self._stopped:
            self._screen.note(f"{signal.Signals(self._stopped).name}: stopping all pods")
        for run in self._runs:
            run.join()
        if self._agent.ended and any(run.started for run in self._runs):  # the agent is needed to detach them
            self._agent.start()
        for run in reversed(self._runs):
            self._problems += run.tear_down()
            self._kubelet.free(run.pod.namespace, run.pod.name)
        if self._agent.ended:
            self._problems.append(self._agent.failure().msg)
        if self._options.out:
            write(self._options.out / "pods.json", report.pods(self._runs))
        self._problems += map(str, self._undo.run())
        self._problems += self._leftovers()

    def _leftovers(self) -> list[str]:
        """Return what is left of the pods' namespaces, mounts, cgroups, driver bindings and journal entries."""
        names = [run.sandbox.name for run in self._runs if Path(run.sandbox.netns).exists()]
        found = [f"network namespace {name} is left" for name in names]
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
            places = [line.split()[1] for line in file]
        found += [f"a mount is left: {place}" for place in places if place.startswith(f"{self._session.folder}/")]
        found += [f"a control group is left: {folder}" for folder in self._cgroups.leftovers()]
        bound = [each for each in Bindings(self._session.config).handed_over() if each in self._devices]
        found += [f"device {device} is not bound to its original driver" for device in bound]
        if self._runs:
            with contextlib.closing(Journal(Path(self._session.config.state))) as journal:
                kept = [(entry.container, entry.ifname) for entry in journal.attachments()]
                kept += [(entry.container, entry.ifname) for entry in journal.claims()]
            pods = {run.sandbox.id: run.pod.label for run in self._runs}
            found += [f"the journal still has {name} of pod {pods[each]}" for each, name in kept if each in pods]
        return found

    def _status(self) -> int:
        for problem in dict.fromkeys(self._problems):
            _print_problem(self._errors, problem)
        if self._timed_out:
            return TIMED_OUT
        # If no pod ends by itself, a signal is the normal end of a play.
        unfinished = any(run.pod.ends_by_itself for run in self._runs) or not self._runs or self._then
        if self._stopped and unfinished:
            return 128 + self._stopped
        return 1 if self._problems else 0

    def _refresh(self) -> None:
        for run in self._runs:
            run.refresh()

    # Waiting

    def _await(self, condition: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait for the condition; return whether it was met within `timeout` seconds.

        Raises _StoppedError, and Error if the agent has ended or a pod could not be set up.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._interrupted() or condition(), timeout)
            self._check()
            return condition()

    def _interrupted(self) -> bool:
        ended = bool(self._stopped) or self._timed_out or self._agent.ended
        return ended or any(run.broken for run in self._runs)

    def _check(self) -> None:
        if self._stopped or self._timed_out:
            raise _StoppedError
        if self._agent.ended:
            raise self._agent.failure()
        if any(run.broken for run in self._runs):
            raise Error(Kind.UNAVAILABLE, "a pod could not be set up")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Handle SIGINT, SIGTERM and SIGHUP (end the play; the second kills the containers), and the timeout."""
        timer = threading.Timer(self._options.timeout, self._on_timeout) if self._options.timeout else None
        if timer:
            timer.daemon = True
            timer.start()
        try:
            with signals.handled((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), self._on_signal):
                yield
        finally:
            if timer:
                timer.cancel()

    def _on_signal(self, number: int) -> None:
        is_second, self._stopped = bool(self._stopped), number
        if is_second:
            for run in self._runs:
                run.kill()
        else:
            self._notify()

    def _on_timeout(self) -> None:
        self._timed_out = True
        self._notify()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

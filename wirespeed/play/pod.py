"""The life of one pod: its volumes, its network, its containers, as kubelet and runtime see to it."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, cast

from wirespeed.cni.errors import CniError
from wirespeed.cni.plugin import Result
from wirespeed.kube.cluster import NETWORK_STATUS
from wirespeed.play import cdi, devices, environment, limits, security
from wirespeed.play.admission import Given
from wirespeed.play.cgroups import Cgroups, Group, PodGroups
from wirespeed.play.environment import ConfigMaps, Facts
from wirespeed.play.kubelet import Kubelet
from wirespeed.play.launcher import CANNOT_RUN
from wirespeed.play.manifests import Container, ExecAction, Pod, Probe
from wirespeed.play.process import Mount, Plan, Process
from wirespeed.play.sandbox import IFNAME, Runtime, Sandbox, pod_arguments
from wirespeed.play.screen import PodRow, Screen
from wirespeed.play.undo import Undo
from wirespeed.play.volumes import Volumes
from wirespeed.plugins.meta import status

log = logging.getLogger(__name__)

# As the kubelet's: the first restart is at once, the second after this many seconds, then twice as many.
_BACKOFF, _MOST_BACKOFF = 10.0, 300.0
_CALM = 600.0  # seconds of running after which a container's crashes are forgotten


class Phase(StrEnum):
    """The phases of Kubernetes."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What all pods of a play have in common. `changed` is told of each change of a pod's state."""

    changed: threading.Condition
    screen: Screen
    kubelet: Kubelet
    runtime: Runtime
    cgroups: Cgroups
    cdi: Sequence[Path]  # folders of CDI specifications, the last counts most
    session: str  # the play's name, which leads the names of what is made
    folder: Path  # of the pods' folders
    root: Path  # an empty folder, where containers' roots are put together
    program: Path  # what containers have of this program
    config_maps: ConfigMaps
    node: str
    status_file: Callable[[str, str], Path]  # of a pod, by its namespace and name
    annotations_file: Callable[[str, str], Path]
    logs: Path | None  # folder of the containers' output


@dataclass
class State:
    """The state of a container; `exit_code` is that of its last end."""

    name: str
    restarts: int = 0
    running: bool = False
    ready: bool = False
    exit_code: int | None = None
    reason: str = ""


@dataclass
class _Attachment:
    """The pod's network: its addresses, and what network-status tells."""

    ips: list[str] = field(default_factory=list)
    status: list[dict[str, Any]] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)  # that the pod got here


class PodRun:
    """A pod that is played. Its work is done in threads of its own, from `start`; `given` is by container."""

    def __init__(self, pod: Pod, *, number: int, stage: Stage, given: Mapping[str, Given]) -> None:
        self.pod, self.given = pod, given
        self.uid = pod.metadata.uid or str(uuid.uuid4())
        self.hostname = (pod.spec.hostname or pod.name)[:63].rstrip("-.")
        self.phase, self.reason = Phase.PENDING, ""
        self.broken = False  # whether it failed before any of its containers ran
        self.attachment: _Attachment | None = None
        self.init_states = {each.name: State(each.name) for each in pod.spec.init_containers}
        self.states = {each.name: State(each.name) for each in pod.spec.containers}
        self._stage = stage
        self._undo = Undo()
        self.sandbox = Sandbox(
            stage.runtime,
            name=f"{stage.session}-{number}-{pod.name}"[:200],
            arguments=pod_arguments(pod.namespace, pod.name, self.uid),
            undo=self._undo,
        )
        self._groups: PodGroups | None = None
        self._volumes = Volumes(pod, stage.folder / self.uid, stage.config_maps, self._undo)
        self._lock = threading.Lock()  # of the two that follow
        self._processes: set[Process] = set()
        self._ending = 0  # the signal for processes that have yet to be started
        self._stop = threading.Event()
        self._leaving = threading.Event()  # set when it is taken down
        self._logs: set[Path] = set()  # that this play has begun
        self._thread = threading.Thread(target=self._run, name=f"pod {pod.label}")
        self._killer: threading.Timer | None = None

    # What is to be seen of it

    @property
    def started(self) -> bool:
        return self._thread.ident is not None

    @property
    def ready(self) -> bool:
        """Whether all of its containers are."""
        return self.phase is Phase.RUNNING and all(state.ready for state in self.states.values())

    @property
    def ended(self) -> bool:
        """Whether its containers have ended and will not be started again."""
        return self.phase in {Phase.SUCCEEDED, Phase.FAILED}

    @property
    def row(self) -> PodRow:
        ready = sum(state.ready for state in self.states.values())
        both = [*self.init_states.values(), *self.states.values()]
        reason = self.reason or next((state.reason for state in both if state.reason), "")
        restarts = sum(state.restarts for state in both)
        return PodRow(self.pod.label, self.phase, f"{ready}/{len(self.states)}", restarts, reason)

    @property
    def annotations(self) -> dict[str, str]:
        """The pod's annotations, network-status among them."""
        found = dict(self.pod.metadata.annotations or {})
        if self.attachment:
            found |= self.attachment.annotations
        if self.attachment and self.attachment.status:
            found[NETWORK_STATUS] = json.dumps(self.attachment.status)
        return found

    @property
    def _facts(self) -> Facts:
        return Facts(
            uid=self.uid,
            hostname=self.hostname,
            node=self._stage.node,
            ips=self.sandbox.ips,
            annotations=self.annotations,
        )

    # What is done with it, by the one who plays it

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Have its containers end: SIGTERM, and SIGKILL after the pod's grace period."""
        self._end(signal.SIGTERM)
        self._killer = threading.Timer(self.pod.spec.termination_grace_period_seconds, self.kill)
        self._killer.daemon = True
        self._killer.start()

    def kill(self) -> None:
        """End its containers at once."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        with self._lock:
            self._ending = number if self._ending != signal.SIGKILL else self._ending
            self._stop.set()
            processes = list(self._processes)
        for process in processes:
            process.signal(number)

    def refresh(self) -> None:
        """See what the agent has written of the pod since, and let its volumes tell it."""
        if self.attachment is None or self._leaving.is_set():
            return
        self._change(attachment=self._written(self.attachment))
        try:
            self._volumes.refresh(self._facts)
        except CniError as error:
            self._stage.screen.note(f"pod {self.pod.label}: {error.msg}")

    def join(self) -> None:
        """Wait until its threads have ended, after `stop`."""
        if self.started:
            self._thread.join()
        if self._killer:
            self._killer.cancel()

    def tear_down(self) -> list[str]:
        """Detach it and remove all that was made for it; what failed."""
        self._leaving.set()
        return [f"pod {self.pod.label}: {problem}" for problem in self._undo.run()]

    # Inside

    def _run(self) -> None:
        try:
            self._attach()
            if all(self._initialise(container) for container in self.pod.spec.init_containers):
                self._run_containers()
        except CniError as error:
            self._change(phase=Phase.FAILED, reason=error.msg, broken=True)
        except Exception as error:
            log.exception("pod %s", self.pod.label)
            self._change(phase=Phase.FAILED, reason=repr(error), broken=True)

    def _attach(self) -> None:
        self._groups = self._stage.cgroups.pod(self.sandbox.name, limits.of_pod(self.pod), self._undo)
        self._volumes.make(self._facts)
        self.sandbox.make()
        result = self.sandbox.attach()
        self._volumes.write_names(self.hostname, self.sandbox.ips)
        self._change(attachment=self._written(_Attachment(self.sandbox.ips, self._network_status(result))))
        self._volumes.refresh(self._facts)

    def _network_status(self, result: Result) -> list[dict[str, Any]]:
        """What the result tells of the one network, under a CNI conf that writes no network-status."""
        network = self._stage.runtime.network.name
        return status.entries(label=network, ifname=IFNAME, master=True, result=result, device_info=None)

    def _written(self, known: _Attachment) -> _Attachment:
        """What is known, with what the agent has written."""
        names = (self.pod.namespace, self.pod.name)
        return _Attachment(
            known.ips,
            _read(self._stage.status_file(*names), known.status),
            _read(self._stage.annotations_file(*names), known.annotations),
        )

    def _initialise(self, container: Container) -> bool:
        """Run an init container to its success; whether the pod goes on."""
        state = self.init_states[container.name]
        self._repeat(container, state, again=lambda code: code != 0 and self.pod.spec.restart_policy != "Never")
        if self._stop.is_set():
            self._change(phase=Phase.FAILED, reason="stopped")
            return False
        if state.exit_code:
            self._change(phase=Phase.FAILED, reason=f"init container {container.name}: {_reason(state)}")
            return False
        return True

    def _run_containers(self) -> None:
        policy = self.pod.spec.restart_policy

        def again(code: int) -> bool:
            return policy == "Always" or (policy == "OnFailure" and code != 0)

        self._change(phase=Phase.RUNNING)
        threads = [
            threading.Thread(target=self._repeat, args=(container, self.states[container.name], again))
            for container in self.pod.spec.containers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._stop.is_set() and policy == "Always":
            self._change(phase=Phase.SUCCEEDED)  # its only end is that it is stopped
            return
        failed = [
            f"container {state.name}: {_reason(state)}" for state in self.states.values() if state.exit_code != 0
        ]
        self._change(phase=Phase.FAILED if failed else Phase.SUCCEEDED, reason=", ".join(failed))

    def _repeat(self, container: Container, state: State, again: Callable[[int], bool]) -> None:
        """Run a container until it is not to run `again` after an exit status."""
        crashes = 0
        while not self._stop.is_set():
            began = time.monotonic()
            code = self._run_once(container, state)
            if self._stop.is_set() or not again(code):
                return
            crashes = 1 if time.monotonic() - began > _CALM else crashes + 1
            delay = backoff(crashes)
            self._change(state, restarts=state.restarts + 1, reason=f"{_reason(state)}, again in {delay:g} s")
            self._stop.wait(delay)

    def _run_once(self, container: Container, state: State) -> int:
        """Run a container to its end; the exit status."""
        with self._log_file(container) as file:
            try:
                groups = self._groups_of(container)
                killed = sum(group.oom_kills() for group in groups)
                process = Process(self._plan(container, groups), lambda line: self._write(container, line, file))
            except CniError as error:
                self._stage.screen.note(f"pod {self.pod.label}: container {container.name}: {error.msg}")
                self._change(state, exit_code=CANNOT_RUN, reason=error.msg)
                return CANNOT_RUN
            with self._lock:
                self._processes.add(process)
                ending = self._ending
            if ending:
                process.signal(ending)
            probed = any(each and each.exec for each in (container.startup_probe, container.readiness_probe))
            self._change(state, running=True, ready=not probed, reason="")
            if probed:
                name = f"probe {self.pod.label}/{container.name}"
                threading.Thread(
                    target=self._probe, args=(process, container, state), name=name, daemon=True
                ).start()
            code = process.wait()
        with self._lock:
            self._processes.discard(process)
        out_of_memory = sum(group.oom_kills() for group in groups) > killed
        reason = f"exit status {code}, out of memory (limit {_memory_limit(container)})" if out_of_memory else ""
        self._change(state, running=False, ready=False, exit_code=code, reason=reason)
        return code

    def _groups_of(self, container: Container) -> list[Group]:
        """Its control groups. Raises CniError(IO_FAILURE)."""
        assert self._groups is not None  # made with the pod's network
        return self._groups.container(container.name, limits.of(container))

    def _probe(self, process: Process, container: Container, state: State) -> None:
        """Ask whether a container has started, and then whether it is ready, for as long as it runs."""
        startup, readiness = container.startup_probe, container.readiness_probe
        if startup and startup.exec:
            for started in self._answers(process, startup, startup.exec):
                if started:
                    break
                if started is False:
                    self._end_unstarted(process, container, startup)
                    return
        if not (readiness and readiness.exec):
            self._change(state, unless=process.ended, ready=True)
            return
        for ready in self._answers(process, readiness, readiness.exec):
            if ready is not None:
                self._change(state, unless=process.ended, ready=ready)

    @staticmethod
    def _answers(process: Process, probe: Probe, action: ExecAction) -> Iterator[bool | None]:
        """What a probe has found each time: None while its thresholds are not reached."""
        successes = failures = 0
        ended = process.ended.wait(probe.initial_delay_seconds)
        while not ended:
            good = process.execute(action.command, probe.timeout_seconds) == 0
            successes, failures = (successes + 1, 0) if good else (0, failures + 1)
            if successes >= probe.success_threshold:
                yield True
            else:
                yield False if failures >= probe.failure_threshold else None
            ended = process.ended.wait(probe.period_seconds)

    def _end_unstarted(self, process: Process, container: Container, probe: Probe) -> None:
        """End a container whose startup probe has failed; its restartPolicy says what follows, as in a cluster."""
        self._stage.screen.note(f"pod {self.pod.label}: container {container.name}: its startup probe fails: ended")
        own = probe.termination_grace_period_seconds
        process.signal(signal.SIGTERM)
        if not process.ended.wait(self.pod.spec.termination_grace_period_seconds if own is None else own):
            process.signal(signal.SIGKILL)

    def _plan(self, container: Container, groups: Sequence[Group]) -> Plan:
        """What its process is, once the device plugins know that it is to be made. Raises CniError(DEVICE)."""
        given = self.given.get(container.name, Given())
        self._stage.kubelet.pre_start(self.pod.namespace, self.pod.name, container.name)
        added = cdi.added(given.cdi, self._stage.cdi)
        rights = security.rights(self.pod.spec.security_context, container.security_context)
        facts = Facts(
            uid=self.uid,
            hostname=self.hostname,
            node=self._stage.node,
            home=rights.home,
            ips=self.sandbox.ips,
            annotations=self.annotations,
        )
        variables = environment.variables(
            self.pod, container, facts=facts, config_maps=self._stage.config_maps, given=given.environment
        )
        nodes = {path: devices.node(path, os.path.realpath(host)) for path, host in given.devices.items()}
        own = [*self._volumes.mounts(container), *given.mounts]
        mounts = {mount.target: mount for mount in (*with_program(own, self._stage.program), *own)}
        return Plan(
            netns=self.sandbox.netns,
            root=str(self._stage.root),
            hostname=self.hostname,
            command=environment.command(container, variables),
            environment={**variables, **added.environment},
            rights=rights,
            groups=[(str(group.folder), group.hierarchy.place) for group in groups],
            folder=container.working_dir,
            devices=[*{**nodes, **added.devices}.values()],
            mounts=[*{**mounts, **added.mounts}.values()],
            stdin=container.stdin,
        )

    def _log_file(self, container: Container) -> IO[bytes]:
        """The file of a container's output, from its first run on."""
        if self._stage.logs is None:
            return open(os.devnull, "ab")
        path = self._stage.logs / f"{self.pod.namespace}_{self.pod.name}_{container.name}.log"
        mode = "ab" if path in self._logs else "wb"
        self._logs.add(path)
        return cast(IO[bytes], open(path, mode))

    def _write(self, container: Container, line: bytes, file: IO[bytes]) -> None:
        file.write(line + b"\n")
        file.flush()
        self._stage.screen.output(f"{self.pod.label}/{container.name}", line.decode(errors="replace"))

    def _change(self, target: State | None = None, *, unless: threading.Event | None = None, **values: Any) -> None:
        """Set attributes of a container's state, or of this pod, and tell of it; not after the event `unless`."""
        with self._stage.changed:
            if unless is not None and unless.is_set():
                return
            for key, value in values.items():
                setattr(target or self, key, value)
            self._stage.changed.notify_all()
        # Not under the lock: a slow terminal shall hold up nobody who waits for a change.
        self._stage.screen.state(self.row)


def with_program(mounts: Sequence[Mount], program: Path) -> list[Mount]:
    """What gives a container this program; nothing where one of `mounts` lies there or above."""
    over = {environment.PROGRAM, *map(str, Path(environment.PROGRAM).parents)}
    if any(mount.target.rstrip("/") in over for mount in mounts):
        return []
    return [Mount(str(program), environment.PROGRAM, ("ro",))]


def backoff(crashes: int) -> float:
    """Seconds until a container is started again that has crashed so many times."""
    return 0.0 if crashes < 2 else min(_BACKOFF * 2.0 ** min(crashes - 2, 10), _MOST_BACKOFF)


def _read(file: Path, otherwise: Any) -> Any:
    """What a JSON file of the agent's says; until there is one, something else."""
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return otherwise


def _memory_limit(container: Container) -> str:
    return str(container.resources.limits.get("memory", "of the pod"))


def _reason(state: State) -> str:
    return state.reason or ("did not run" if state.exit_code is None else f"exit status {state.exit_code}")

"""The lifecycle of one pod: volumes, network and containers, as kubelet and runtime manage it."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, cast

from wirespeed.errors import Error
from wirespeed.kube.cluster import NETWORK_STATUS
from wirespeed.kube.manifests import ManifestCluster
from wirespeed.play import cdi, devices, environment, limits, security
from wirespeed.play.admission import Allocated
from wirespeed.play.cgroups import Cgroups, Group, PodGroups
from wirespeed.play.kubelet import Kubelet
from wirespeed.play.launcher import CANNOT_RUN
from wirespeed.play.objects import ConfigMaps, Container, ExecAction, Facts, Pod, Probe
from wirespeed.play.process import Mount, Plan, Process
from wirespeed.play.sandbox import IFNAME, Runtime, Sandbox
from wirespeed.play.screen import PodRow, Screen
from wirespeed.play.session import Session
from wirespeed.play.volumes import Volumes
from wirespeed.plugins.meta import status
from wirespeed.steps import Undo

log = logging.getLogger(__name__)

# As in the kubelet: the first restart is immediate, the second after _BACKOFF seconds, then the delay doubles.
_BACKOFF, _MOST_BACKOFF = 10.0, 300.0
_CRASH_RESET = 600.0  # seconds of running after which a container's earlier crashes are ignored


class Phase(StrEnum):
    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What all pods of a play share. `changed` is notified of each change of a pod's state."""

    changed: threading.Condition
    screen: Screen
    kubelet: Kubelet
    runtime: Runtime
    cgroups: Cgroups
    cdi: Sequence[Path]  # directories of CDI specifications; later ones take precedence
    session: Session
    cluster: ManifestCluster  # what the agent has instead of an API server
    config_maps: ConfigMaps
    logs: Path | None  # directory of the containers' output


@dataclass
class State:
    """The state of a container; `exit_code` is that of its last run."""

    name: str
    restarts: int = 0
    running: bool = False
    ready: bool = False
    exit_code: int | None = None
    reason: str = ""


@dataclass
class _Attachment:
    """What is known of a pod's networks."""

    status: list[dict[str, Any]]  # network-status
    annotations: dict[str, str] = field(default_factory=dict)  # those that the agent has written


class PodRun:
    """A pod that is played, in its own threads once it is started. `given` is by container name."""

    def __init__(self, pod: Pod, *, number: int, stage: Stage, given: Mapping[str, Allocated]) -> None:
        self.pod, self.given = pod, given
        self.uid = pod.metadata.uid or str(uuid.uuid4())
        self.hostname = (pod.spec.hostname or pod.name)[:63].rstrip("-.")
        self.phase, self.reason = Phase.PENDING, ""
        self.broken = False  # failed before any of its containers ran
        self.attachment: _Attachment | None = None
        self.init_states = {each.name: State(each.name) for each in pod.spec.init_containers}
        self.states = {each.name: State(each.name) for each in pod.spec.containers}
        self._stage = stage
        self._undo = Undo()
        self.sandbox = Sandbox(
            stage.runtime,
            name=f"{stage.session.name}-{number}-{pod.name}"[:200],
            arguments={"K8S_POD_NAMESPACE": pod.namespace, "K8S_POD_NAME": pod.name, "K8S_POD_UID": self.uid},
            undo=self._undo,
        )
        self._groups: PodGroups | None = None
        self._volumes = Volumes(pod, stage.session.pods / self.uid, stage.config_maps, self._undo)
        self._lock = threading.Lock()  # for _processes and _ending
        self._processes: set[Process] = set()
        self._ending = 0  # the signal for processes that are started from now on
        self._stop = threading.Event()
        self._tearing_down = threading.Event()  # set at tear-down
        self._logs: set[Path] = set()  # log files that this play has created
        self._thread = threading.Thread(target=self._run, name=f"pod {pod.label}")
        self._killer: threading.Timer | None = None

    # State

    @property
    def started(self) -> bool:
        return self._thread.ident is not None

    @property
    def ready(self) -> bool:
        """Whether all containers are ready."""
        return self.phase is Phase.RUNNING and all(state.ready for state in self.states.values())

    @property
    def ended(self) -> bool:
        """Whether all containers have ended and will not be restarted."""
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
        """The pod's annotations, including network-status."""
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
            node=os.uname().nodename,
            ips=self.sandbox.ips,
            annotations=self.annotations,
        )

    # Methods for the play

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop the containers: SIGTERM, then SIGKILL after the pod's grace period."""
        self._end(signal.SIGTERM)
        self._killer = threading.Timer(self.pod.spec.termination_grace_period_seconds, self.kill)
        self._killer.daemon = True
        self._killer.start()

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        with self._lock:
            self._ending = number if self._ending != signal.SIGKILL else self._ending
            self._stop.set()
            processes = list(self._processes)
        for process in processes:
            process.signal(number)

    def refresh(self) -> None:
        """Read what the agent has written about the pod, and update its volumes."""
        if self.attachment is None or self._tearing_down.is_set():
            return
        self._change(attachment=self._update(self.attachment))
        try:
            self._volumes.refresh(self._facts)
        except Error as error:
            self._stage.screen.note(f"pod {self.pod.label}: {error.msg}")

    def join(self) -> None:
        """Wait until its thread has ended, after `stop`."""
        if self.started:
            self._thread.join()
        if self._killer:
            self._killer.cancel()

    def tear_down(self) -> list[str]:
        """Detach the pod and remove everything created for it; return the failures."""
        self._tearing_down.set()
        return [f"pod {self.pod.label}: {failure}" for failure in self._undo.run()]

    # In the pod's threads

    def _run(self) -> None:
        try:
            self._attach()
            if all(self._run_init(container) for container in self.pod.spec.init_containers):
                self._run_containers()
        except Error as error:
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
        # For a CNI configuration whose plugin does not write network-status.
        network = self._stage.runtime.network.name
        entries = status.entries(label=network, ifname=IFNAME, master=True, result=result, device_info=None)
        self._change(attachment=self._update(_Attachment(entries)))
        self._volumes.refresh(self._facts)

    def _update(self, known: _Attachment) -> _Attachment:
        """Return the attachment updated with what the agent has written."""
        names, cluster = (self.pod.namespace, self.pod.name), self._stage.cluster
        return _Attachment(
            _read(cluster.status_file(*names), known.status),
            _read(cluster.annotations_file(*names), known.annotations),
        )

    def _run_init(self, container: Container) -> bool:
        """Run an init container until it succeeds; return whether the pod continues."""
        state = self.init_states[container.name]
        self._repeat(container, state, "Never" if self.pod.spec.restart_policy == "Never" else "OnFailure")
        if self._stop.is_set():
            self._change(phase=Phase.FAILED, reason="stopped")
            return False
        if state.exit_code:
            self._change(phase=Phase.FAILED, reason=f"init container {container.name}: {_reason(state)}")
            return False
        return True

    def _run_containers(self) -> None:
        policy = self.pod.spec.restart_policy
        self._change(phase=Phase.RUNNING)
        threads = [
            threading.Thread(target=self._repeat, args=(container, self.states[container.name], policy))
            for container in self.pod.spec.containers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._stop.is_set() and policy == "Always":
            self._change(phase=Phase.SUCCEEDED)  # such a pod ends only by being stopped
            return
        failed = [
            f"container {state.name}: {_reason(state)}" for state in self.states.values() if state.exit_code != 0
        ]
        self._change(phase=Phase.FAILED if failed else Phase.SUCCEEDED, reason=", ".join(failed))

    def _repeat(self, container: Container, state: State, policy: str) -> None:
        """Run a container until its restart policy and its exit status say that it has ended."""
        crashes = 0
        while not self._stop.is_set():
            began = time.monotonic()
            code = self._run_once(container, state)
            if self._stop.is_set() or policy == "Never" or (policy == "OnFailure" and code == 0):
                return
            crashes = 1 if time.monotonic() - began > _CRASH_RESET else crashes + 1
            delay = backoff(crashes)
            self._change(state, restarts=state.restarts + 1, reason=f"{_reason(state)}, again in {delay:g} s")
            self._stop.wait(delay)

    def _run_once(self, container: Container, state: State) -> int:
        """Run a container once; return the exit status."""
        with self._log_file(container) as file:
            try:
                assert self._groups is not None  # created before the pod's network
                groups = self._groups.container(container.name, limits.of(container))
                killed = sum(group.oom_kills() for group in groups)
                process = Process(self._plan(container, groups), lambda line: self._write(container, line, file))
            except Error as error:
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
        reason = ""
        if sum(group.oom_kills() for group in groups) > killed:
            limit = container.resources.limits.get("memory", "of the pod")
            reason = f"exit status {code}, out of memory (limit {limit})"
        self._change(state, running=False, ready=False, exit_code=code, reason=reason)
        return code

    def _probe(self, process: Process, container: Container, state: State) -> None:
        """Run the startup probe, then the readiness probe, as long as the container runs."""
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
        """Yield a probe's result after each run; None while its thresholds are not reached."""
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
        """End a container whose startup probe failed. Its restartPolicy decides what follows, as in a cluster."""
        self._stage.screen.note(f"pod {self.pod.label}: container {container.name}: its startup probe fails: ended")
        own = probe.termination_grace_period_seconds
        process.signal(signal.SIGTERM)
        if not process.ended.wait(self.pod.spec.termination_grace_period_seconds if own is None else own):
            process.signal(signal.SIGKILL)

    def _plan(self, container: Container, groups: Sequence[Group]) -> Plan:
        """Call PreStartContainer, and return the plan of the container's process. Raises Error(DEVICE)."""
        given = self.given.get(container.name, Allocated())
        self._stage.kubelet.pre_start(self.pod.namespace, self.pod.name, container.name)
        edits = cdi.resolve_edits(given.cdi, self._stage.cdi)
        rights = security.rights(self.pod.spec.security_context, container.security_context)
        facts = replace(self._facts, home=rights.home)
        variables = environment.variables(self.pod, container, facts, self._stage.config_maps, given.environment)
        nodes = {path: devices.node(path, os.path.realpath(host)) for path, host in given.devices.items()}
        own = [*self._volumes.mounts(container), *given.mounts]
        mounts = {mount.target: mount for mount in (*with_program(own, self._stage.session.program), *own)}
        return Plan(
            netns=self.sandbox.netns,
            root=str(self._stage.session.root),
            hostname=self.hostname,
            command=environment.command(container, variables),
            environment={**variables, **edits.environment},
            rights=rights,
            groups=[(str(group.folder), group.hierarchy.place) for group in groups],
            folder=container.working_dir,
            devices=[*{**nodes, **edits.devices}.values()],
            mounts=[*{**mounts, **edits.mounts}.values()],
            stdin=container.stdin,
        )

    def _log_file(self, container: Container) -> IO[bytes]:
        """Open the container's log file; the first run of the play truncates it."""
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
        """Set attributes of a container's state or of this pod, and notify; do nothing if `unless` is set."""
        with self._stage.changed:
            if unless is not None and unless.is_set():
                return
            for key, value in values.items():
                setattr(target or self, key, value)
            self._stage.changed.notify_all()
        # Without the lock: a slow terminal must not block threads that wait for a change.
        self._stage.screen.state(self.row)


def with_program(mounts: Sequence[Mount], program: Path) -> list[Mount]:
    """Return the mount of this program in a container; none if one of `mounts` is at its path or above."""
    over = {environment.PROGRAM, *map(str, Path(environment.PROGRAM).parents)}
    if any(mount.target.rstrip("/") in over for mount in mounts):
        return []
    return [Mount(str(program), environment.PROGRAM, ("ro",))]


def backoff(crashes: int) -> float:
    """Return the seconds before the restart of a container that has crashed `crashes` times."""
    return 0.0 if crashes < 2 else min(_BACKOFF * 2.0 ** min(crashes - 2, 10), _MOST_BACKOFF)


def _read(file: Path, otherwise: Any) -> Any:
    """Read a JSON file of the agent; return `otherwise` while it does not exist."""
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return otherwise


def _reason(state: State) -> str:
    return state.reason or ("did not run" if state.exit_code is None else f"exit status {state.exit_code}")

"""A measurement on a node of the cluster: its pods, and `wirespeed measure` in the container of the agent."""

from __future__ import annotations

import re
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from wirespeed.cli.kubectl import pods
from wirespeed.cli.kubectl.session import (
    CONTAINER,
    TIMEOUTS,
    AgentPod,
    Session,
    check_runs,
    hint_at,
    is_ready,
    path_of,
)
from wirespeed.errors import Error, Kind, Thing, within
from wirespeed.kube import reviews
from wirespeed.kube.cluster import NotFoundError, Object
from wirespeed.kube.execute import Container, ExecuteError, execute
from wirespeed.kube.refusals import request_errors
from wirespeed.kube.reviews import Right
from wirespeed.measure.pods import is_made
from wirespeed.measure.report import Report, Settings, arguments
from wirespeed.observe.lines import why_lines
from wirespeed.plugins.meta.networks import RESOURCE_NAME
from wirespeed.plugins.meta.selection import NETWORKS

LABEL = "wirespeed/measure"  # of the pods that are made; its value is the same for those of one measurement
_END = "net1"
_EVERY = 1.0  # seconds between two looks at a pod that is not Ready yet
_PLACE = re.compile(r"pod/(?:(?P<namespace>[^/:]+)/)?(?P<name>[^/:]+):(?P<interface>[^/:]+)")
# The agent's image has no `sleep`.
_WAIT = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit()); signal.pause()"
_PYTHON = "/opt/wirespeed/bin/python3"
_NOBODY = 65534
_MAY_EXECUTE = "it takes the rights get and create on pods/exec, which are as good as root on the node"
_DELETED = "it was deleted"
_SAME_VERSION = "use the version of this program that the agent has"

Note = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to measure: between two pods that are made on `networks` and on `node`, or between the `ends`.

    The ends, and the ports of a forwarder in `through`, are as on the command line. `flags` are more options for
    the command on the node. The pods have `image`, "" for the agent's, and may take `timeout` seconds to get ready.
    """

    networks: tuple[str, ...]
    node: str
    ends: tuple[str, ...]
    through: tuple[str, ...]
    flags: tuple[str, ...]
    image: str
    timeout: float


class Network(NamedTuple):
    """A network, namespace/name, and the resource of its devices, "" for none."""

    label: str
    resource: str


def measure(session: Session, wanted: Wanted, settings: Settings, *, note: Note) -> Report:
    """Measure; `note` gets a line for each step and trial. Pods that are made are removed. Raises Error."""
    ends = [_Place.of(each, session) for each in wanted.ends]
    ports = [_port(each, session) for each in wanted.through]
    there = [each for each in (*ends, *ports) if isinstance(each, _Place)]
    node = _node_of(session, wanted.node, there)
    agent = session.agent(node)
    check_runs(agent)
    _check_may_execute(session, agent)
    networks = [_network(session, each) for each in wanted.networks]
    names = networks * 2 if len(networks) == 1 else networks
    with ExitStack() as made:
        if networks:
            run = secrets.token_hex(4)
            objects = [
                pod(f"wirespeed-measure-{role}-{run}", run, network, agent, wanted.image)
                for role, network in zip(("sender", "receiver"), names, strict=True)
            ]
            labels = [_create(session, each, made, note) for each in objects]
            _wait_ready(session, labels, wanted.timeout, note)
            ends = [_Place(label, _END) for label in labels]
        sender, receiver = ends
        path = [f"--from={sender}", f"--to={receiver}", *(f"--through={each}" for each in ports)]
        command = ("wirespeed", "measure", "--json", "--until-eof", *path, *wanted.flags, *arguments(settings))
        try:
            return _run(session, agent, command, note)
        except Error:
            _check_there(session, [each.pod for each in (*ends, *there)])
            raise


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the body as Ctrl-C does, so that it removes what it made."""
    before = {
        number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# The path


class _Place(NamedTuple):
    """An interface of a pod, namespace/name."""

    pod: str
    interface: str

    @classmethod
    def of(cls, text: str, session: Session) -> _Place:
        """Return the place that an option names. Raises Error(INVALID_REQUEST)."""
        if match := _PLACE.fullmatch(text):
            return cls(f"{match['namespace'] or session.namespace}/{match['name']}", match["interface"])
        expected = "pod/[NAMESPACE/]NAME:INTERFACE"
        raise Error(Kind.INVALID_REQUEST, "no interface of a pod", expected=expected, got=text)

    def __str__(self) -> str:
        return f"pod/{self.pod}:{self.interface}"


def _port(text: str, session: Session) -> _Place | str:
    """Return the port of a forwarder, a place or a MAC address. Raises Error."""
    if is_made(text):
        what = "no port of a forwarder that runs"
        expected = "pod/[NAMESPACE/]NAME:INTERFACE, or a MAC address"
        hint = "only `wirespeed measure` without a cluster makes a forwarder on a network"
        raise Error(Kind.INVALID_REQUEST, what, expected=expected, got=text, hint=hint)
    return _Place.of(text, session) if text.startswith("pod/") else text


def _node_of(session: Session, node: str, places: Sequence[_Place]) -> str:
    """Return the node of the pods, which is `node` if that is given. Raises Error if they are on several."""
    for each in places:
        found = (session.pod(each.pod).get("spec") or {}).get("nodeName") or ""
        where = Thing("pod", each.pod)
        if not found:
            hint = f"`kubectl wirespeed why {each.pod}` says why"
            raise Error(Kind.NOT_ATTACHED, "it is on no node", where=where, hint=hint)
        if node and found != node:
            what = "a measurement is between pods of one node"
            raise Error(Kind.INVALID_REQUEST, what, where=where, expected=f"a pod on node {node}", got=found)
        node = found
    return node


def _network(session: Session, name: str) -> Network:
    """Return the network "[namespace/]name". Raises Error."""
    label = session.label(name)
    path = path_of(label, api="/apis/k8s.cni.cncf.io/v1", resource="network-attachment-definitions")
    try:
        with request_errors(session.api, Thing("network", label)):
            found = session.api.get(path, timeouts=TIMEOUTS)
    except NotFoundError as error:
        raise error.with_hint("-n names the namespace of a network without one") from error
    return Network(label, (found["metadata"].get("annotations") or {}).get(RESOURCE_NAME) or "")


# Pods


def pod(name: str, run: str, network: Network, agent: AgentPod, image: str) -> Object:
    """Return a pod that waits with an interface on the network, in its namespace, on the node of the agent.

    The scheduler puts it there, as only it counts devices. Pod Security Standards: restricted.
    """
    container: Object = {
        "name": "waits",
        "image": image or agent.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "infinity"] if image else [_PYTHON, "-c", _WAIT],
        "resources": {
            "requests": {"cpu": "10m", "memory": "64Mi"},
            "limits": {"memory": "64Mi", **({network.resource: "1"} if network.resource else {})},
        },
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    on_node = {"key": "metadata.name", "operator": "In", "values": [agent.node]}
    required = {"nodeSelectorTerms": [{"matchFields": [on_node]}]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": network.label.partition("/")[0],
            "labels": {LABEL: run},
            "annotations": {NETWORKS: f"{network.label}@{_END}"},
        },
        "spec": {
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
            "tolerations": list(agent.tolerations),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": _NOBODY,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
        },
    }


def _create(session: Session, wanted: Object, made: ExitStack, note: Note) -> str:
    """Create a pod, which is deleted at the end of `made`; return its label. Raises Error."""
    metadata = wanted["metadata"]
    label = f"{metadata['namespace']}/{metadata['name']}"
    made.callback(_remove, session, label, note)  # before: a request without an answer may have created it
    with request_errors(session.api, Thing("pod", label)):
        session.api.post(path_of(label).rpartition("/")[0], wanted, timeouts=TIMEOUTS)
    note(f"pod {label} is made")
    return label


def _remove(session: Session, label: str, note: Note) -> None:
    """Delete a pod that may be there; say so if that fails, and how to do it by hand."""
    namespace, _, name = label.partition("/")
    try:
        with request_errors(session.api, Thing("pod", label)):
            session.api.delete(path_of(label), timeouts=TIMEOUTS)
    except NotFoundError:
        return
    except Error as error:
        note(f"warning: {error.msg}; remove it: kubectl delete pod -n {namespace} {name}")


def _wait_ready(session: Session, labels: Sequence[str], timeout: float, note: Note) -> None:
    """Wait until the pods are Ready. Raises Error, with the reason, if one does not get ready in time."""
    until = time.monotonic() + timeout
    for label in labels:
        while not is_ready(whole := _made_pod(session, label)):
            if ended := _ended(whole):
                raise _not_ready(session, whole, ended, note)
            if time.monotonic() >= until:
                raise _not_ready(session, whole, f"it is not Ready after {timeout:g} s", note)
            time.sleep(_EVERY)
        note(f"pod {label} is Ready")


def _made_pod(session: Session, label: str) -> Object:
    """Return a pod that was made. Raises Error."""
    try:
        return session.pod(label)
    except NotFoundError as error:
        raise Error(Kind.UNAVAILABLE, _DELETED, where=Thing("pod", label)) from error


def _not_ready(session: Session, whole: Object, what: str, note: Note) -> Error:
    """Return the error about a pod that does not get ready; `note` gets what is known of it."""
    label = f"{whole['metadata']['namespace']}/{whole['metadata']['name']}"
    try:
        found = pods.why(session, label)
    except Error as error:  # the agent does not answer this caller
        found = pods.from_api(session, whole, f"its agent cannot be asked: {error.msg}")
    for line in pods.lines(found) if isinstance(found, pods.FromApi) else why_lines(found):
        note(line)
    return Error(Kind.UNAVAILABLE, f"{what}: {found.answer}", where=Thing("pod", label))


def _ended(whole: Object) -> str:
    """Return why a pod is not there any more, or soon; "" if it is."""
    status = whole.get("status") or {}
    if status.get("phase") in {"Failed", "Succeeded"}:
        told = ": ".join(filter(None, (status.get("reason"), status.get("message"))))
        return f"it has ended ({told or status['phase']})"
    return "it is being deleted" if whole["metadata"].get("deletionTimestamp") else ""


def _check_there(session: Session, labels: Sequence[str]) -> None:
    """Raise Error if one of the pods went away during the measurement, which explains any other error."""
    for label in labels:
        with within(Thing("pod", label)):
            try:
                ended = _ended(session.pod(label))
            except NotFoundError:
                ended = _DELETED
            except Error:  # what failed first is more important
                ended = ""
            if ended:
                raise Error(Kind.UNAVAILABLE, f"{ended}, so the measurement failed")


# The command on the node


def _check_may_execute(session: Session, agent: AgentPod) -> None:
    """Raise Error(POLICY) before pods are made, if the caller may not run the command afterwards."""
    right = Right("get", "pods", subresource="exec", namespace=agent.namespace, name=agent.name)
    try:
        with request_errors(session.api, str(right)):
            allowed = reviews.may(session.api, right, timeouts=TIMEOUTS)
    except Error:  # no review for this caller: the request itself will tell
        return
    if not allowed:
        where = (Thing("node", agent.node), Thing("agent", str(agent)))
        raise Error(Kind.POLICY, "you may not execute commands in it", where=where, hint=_MAY_EXECUTE)


class _Told:
    """What the command writes to standard error: its error is kept, other lines are passed on."""

    def __init__(self, note: Note) -> None:
        self.error = ""
        self._note = note

    def __call__(self, line: str) -> None:
        if line.startswith("Error: "):
            self.error = line.removeprefix("Error: ")
        elif line and not line.startswith(("Usage: ", "Try ")):  # as click begins an error of usage
            self._note(line)


def _run(session: Session, agent: AgentPod, command: Sequence[str], note: Note) -> Report:
    """Run `wirespeed measure` in the agent's container; return its report. Raises Error."""
    told = _Told(note)
    container = Container(agent.namespace, agent.name, CONTAINER)
    with within(Thing("node", agent.node), Thing("agent", str(agent))):
        try:
            with hint_at(_MAY_EXECUTE), request_errors(session.api, "execute a command in it"):
                ended = execute(session.api, container, command, tell=told)
        except ExecuteError as error:
            raise Error(Kind.UNAVAILABLE, f"`wirespeed measure` could not be run in it: {error}") from error
        if ended.status == 2:
            what = f"its `wirespeed measure` does not accept the command line: {told.error}"
            raise Error(Kind.UNSUPPORTED, what, hint=_SAME_VERSION)
        if ended.status:
            what = told.error or f"`wirespeed measure` ended with status {ended.status}"
            raise Error(Kind.UNAVAILABLE, what)
        try:
            return msgspec.json.decode(ended.output, type=Report)
        except msgspec.DecodeError as error:
            raise Error(Kind.INVALID_DATA, f"its report is not understood: {error}", hint=_SAME_VERSION) from error

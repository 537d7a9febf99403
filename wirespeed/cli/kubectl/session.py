"""The caller at the API server: finds the agents of nodes, and asks them as the caller."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from wirespeed import structs
from wirespeed.agent.web import Index
from wirespeed.cli.kubectl.request import Answer, Place, ask
from wirespeed.errors import Error, Kind, Thing, within
from wirespeed.kube import kubeconfig
from wirespeed.kube.access import AUDIENCE
from wirespeed.kube.api import Api, RefusedError, Timeouts
from wirespeed.kube.cluster import NotFoundError, Object
from wirespeed.kube.credentials import authorization
from wirespeed.kube.portforward import ForwardError
from wirespeed.kube.refusals import request_errors
from wirespeed.kube.watch import list_all

T = TypeVar("T")

LABEL = "app.kubernetes.io/name=wirespeed"  # of the chart's pods
CONTAINER = "agent"  # the chart's other pods, which uninstall, have no container of this name
_PORT = "web"
TIMEOUTS = Timeouts(connect=10.0, read=20.0, total=30.0)
_TOKEN_SECONDS = 600  # the shortest time for which the API server makes a token
_KINDS = {401: Kind.POLICY, 403: Kind.POLICY, 404: Kind.NOT_ATTACHED}
_VIEWER = "the ClusterRole wirespeed-viewer of the chart has this right"
_CONNECT = "the Role wirespeed-connect of the chart has this right"
_ENABLE = "the chart's value web.enabled=true makes the agents serve it"


class Caller(NamedTuple):
    """What the command line says about the cluster and the caller; "" is kubectl's default."""

    kubeconfig: str
    context: str
    namespace: str
    agent_namespace: str
    account: str
    """"[NAMESPACE/]NAME" of a service account to ask as, "" for the caller's own token"""


class AgentPod(NamedTuple):
    """The pod of a node's agent. `waits` is why its container does not run, `port` 0 without the web API."""

    node: str
    namespace: str
    name: str
    port: int
    waits: str
    ready: bool
    image: str
    tolerations: tuple[dict[str, Any], ...]

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@structs.prepared
class _Problem(msgspec.Struct):
    error: str


class NoAgentError(Error):
    """No agent can be asked on this node: none is there, it does not run, or it does not serve the API."""

    def __init__(self, node: str, what: str, *, hint: str = "", pod: AgentPod | None = None) -> None:
        places = [*([Thing("node", node)] if node else []), *([Thing("agent", str(pod))] if pod else [])]
        super().__init__(Kind.UNAVAILABLE, what, where=places, hint=hint)


class Session:
    """Requests to the API server and the agents. The constructor raises Error(INVALID_CONFIG), all others Error."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.api = Api(*kubeconfig.find(caller.kubeconfig, os.environ), context=caller.context)
        self.namespace = caller.namespace or self.api.credentials.namespace
        self._lock = threading.Lock()
        self._made, self._made_until = "", 0.0  # the token of the service account, and until when it is used

    def close(self) -> None:
        self.api.close()

    # Objects

    def pod(self, label: str) -> Object:
        """Return a pod, namespace/name."""
        try:
            with request_errors(self.api, Thing("pod", label)):
                return self.api.get(path_of(label), timeouts=TIMEOUTS)
        except NotFoundError as error:
            raise error.with_hint("-n names its namespace") from error

    def label(self, pod: str) -> str:
        """Return namespace/name of a pod of the command line, "[namespace/]name"."""
        namespace, _, name = pod.rpartition("/")
        return f"{namespace or self.namespace}/{name}"

    def objects(
        self,
        path: str,
        what: str,
        *,
        query: Mapping[str, str] | None = None,
        trim: Callable[[Object], Object] = lambda whole: whole,
    ) -> list[Object]:
        """Return all objects at `path` that `query` selects, trimmed."""
        with request_errors(self.api, what):
            return list_all(self.api, path, query or {}, trim, timeouts=TIMEOUTS)[0]

    def names_of_pods(self, namespace: str) -> list[str]:
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods"
        return [each["name"] for each in self.objects(path, "pods", trim=lambda pod: pod["metadata"])]

    # Agents

    def agents(self) -> list[AgentPod]:
        """Return an agent for each node that has one, by the nodes' names. Raises NoAgentError if there is none."""
        found = {agent.node: agent for agent in self._agent_pods()}
        if not found:
            raise self._no_agent("")
        return [found[node] for node in sorted(found)]

    def agent(self, node: str) -> AgentPod:
        """Return the agent of a node. Raises NoAgentError."""
        if found := list(self._agent_pods(fieldSelector=f"spec.nodeName={node}")):
            return found[-1]
        raise self._no_agent(node)

    def _agent_pods(self, **more: str) -> Iterator[AgentPod]:
        """Yield the agents' pods; of one node, the one to ask is the last.

        Only those of one namespace: in another one, anybody who may create pods could get the callers' tokens.
        """
        space = self._caller.agent_namespace
        path = f"/api/v1/namespaces/{quote(space, safe='')}/pods"
        with within(f"agents in namespace {space}"), hint_at(_CONNECT):
            pods = self.objects(path, "pods", query={"labelSelector": LABEL, **more})
        pods.sort(key=lambda pod: (not pod["metadata"].get("deletionTimestamp"), is_ready(pod)))
        for pod in pods:
            for container in pod["spec"].get("containers") or ():
                if container["name"] == CONTAINER and pod["spec"].get("nodeName"):
                    yield _agent_pod(pod, container)

    def _no_agent(self, node: str) -> NoAgentError:
        space = self._caller.agent_namespace
        what = f"no agent: namespace {space} has no pod with the label {LABEL}{' on it' if node else ''}"
        return NoAgentError(node, what, hint="--agent-namespace names the namespace of the agents")

    # Views

    def view(self, agent: AgentPod, name: str, kind: type[T], **arguments: str) -> T:
        """Return a view of an agent, which checks what the caller may see."""
        _check_serves(agent)
        with within(Thing("node", agent.node), Thing("agent", str(agent))):
            query = f"?{urlencode(arguments)}" if arguments else ""
            answer = self._ask(agent, f"/v1/{name}{query}")
            if answer.status == 404:
                self._check_known(agent, name)
            if answer.status != 200:
                raise _refusal(answer)
            try:
                return msgspec.json.decode(answer.body, type=kind)
            except msgspec.DecodeError as error:
                hint = "use the version of this program that the agent has"
                raise Error(Kind.INVALID_DATA, f"its view {name} is not understood: {error}", hint=hint) from error

    def _check_known(self, agent: AgentPod, name: str) -> None:
        """Raise Error if the agent is of a version that does not have the view."""
        index = self._ask(agent, "/v1")
        if index.status == 200 and name not in (known := msgspec.json.decode(index.body, type=Index)).views:
            what = f"version {known.version} of the agent has no view {name}"
            raise Error(Kind.UNSUPPORTED, what, hint="upgrade the chart")

    def _ask(self, agent: AgentPod, path: str) -> Answer:
        token = self._token()
        try:
            with hint_at(_CONNECT), request_errors(self.api, "port-forward to it"):
                return ask(self.api, Place(agent.namespace, agent.name, agent.port), path, token)
        except ForwardError as error:
            ready = "" if agent.ready else "; the pod is not Ready"
            hint = (
                "web.address has to be 127.0.0.1, 0.0.0.0 or [::] for this, and the agent's log says if it serves"
            )
            raise Error(
                Kind.UNAVAILABLE, f"its port {agent.port} does not answer: {error}{ready}", hint=hint
            ) from error

    # The token

    def _token(self) -> str:
        """Return the token that agents get: of the service account, or the caller's own."""
        if not self._caller.account:
            return self._own_token()
        with self._lock:
            if time.monotonic() >= self._made_until:
                self._made = self._account_token()
                self._made_until = time.monotonic() + _TOKEN_SECONDS / 2
            return self._made

    def _own_token(self) -> str:
        configuration = self.api.loaded().configuration
        scheme, _, token = authorization(configuration).partition(" ")
        if scheme.lower() == "bearer" and token:
            return token
        raise Error(
            Kind.INVALID_CONFIG,
            "it has no token for the agent, which cannot check a client certificate or a password",
            where=self.api.credentials.label,
            hint="--as-service-account [NAMESPACE/]NAME asks as a service account that may see the node",
        )

    def _account_token(self) -> str:
        """Ask the API server for a token of the service account that only agents accept."""
        label = self.label(self._caller.account)
        path = f"{path_of(label, resource='serviceaccounts')}/token"
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [AUDIENCE], "expirationSeconds": _TOKEN_SECONDS},
        }
        with request_errors(self.api, Thing("service account", label)):
            made = self.api.post(path, body, timeouts=TIMEOUTS)
        return str(made["status"]["token"])


def path_of(label: str, *, api: str = "/api/v1", resource: str = "pods") -> str:
    """Return the path of an object, namespace/name."""
    namespace, _, name = label.partition("/")
    return f"{api}/namespaces/{quote(namespace, safe='')}/{resource}/{quote(name, safe='')}"


@contextmanager
def hint_at(role: str) -> Iterator[None]:
    """Add a hint to an error about a missing right."""
    try:
        yield
    except Error as error:
        refused = error.__cause__
        if isinstance(refused, RefusedError) and refused.status == 403:
            raise error.with_hint(role) from refused
        raise


def _refusal(answer: Answer) -> Error:
    """Return the error with which an agent answers."""
    try:
        what = msgspec.json.decode(answer.body, type=_Problem).error
    except msgspec.DecodeError:
        what = f"it answers with status {answer.status}"
    kind = _KINDS.get(answer.status, Kind.UNAVAILABLE)
    return Error(kind, what, hint=_VIEWER if answer.status == 403 else "")


def _agent_pod(pod: Object, container: Object) -> AgentPod:
    ports = {port.get("name"): port["containerPort"] for port in container.get("ports") or ()}
    return AgentPod(
        node=pod["spec"]["nodeName"],
        namespace=pod["metadata"]["namespace"],
        name=pod["metadata"]["name"],
        port=ports.get(_PORT, 0),
        waits=_waits(pod),
        ready=is_ready(pod),
        image=container.get("image", ""),
        tolerations=tuple(pod["spec"].get("tolerations") or ()),
    )


def is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def _waits(pod: Object) -> str:
    """Return why the agent's container does not run; "" if it does."""
    status = pod.get("status") or {}
    for each in status.get("containerStatuses") or ():
        if each.get("name") == CONTAINER:
            state = each.get("state") or {}
            if "running" in state:
                return ""
            told = state.get("waiting") or state.get("terminated") or {}
            return ": ".join(filter(None, (told.get("reason"), told.get("message")))) or "no reason is given"
    return f"its phase is {status.get('phase') or 'unknown'}"


def check_runs(agent: AgentPod) -> None:
    """Raises NoAgentError."""
    if agent.waits:
        hint = f"`kubectl describe pod -n {agent.namespace} {agent.name}` says more"
        raise NoAgentError(agent.node, f"its container does not run: {agent.waits}", hint=hint, pod=agent)


def _check_serves(agent: AgentPod) -> None:
    check_runs(agent)
    if not agent.port:
        raise NoAgentError(
            agent.node, f"its pod has no port {_PORT}: it does not serve the API", hint=_ENABLE, pod=agent
        )

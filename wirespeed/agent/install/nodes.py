"""All nodes of a cluster given back at once: what the chart's hook does before a release goes.

A DaemonSet of removers runs `wirespeed uninstall --dry-run` on every node, as an init container. Only when all have
found that they may go are the agents stopped, and the removers told to do it. Where one may not, or anything else
fails, the agents come back: their init container installs again what was taken away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import quote

from wirespeed.cni.errors import CniError, Code
from wirespeed.kube.api import Api, Patience, RefusedError, UnreachableError
from wirespeed.kube.retry import Waits, persist
from wirespeed.kube.watch import listed

_DAEMONSET = "/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}"
_PODS = "/api/v1/namespaces/{namespace}/pods"
_LOOK_AGAIN = 1.0  # seconds between two looks at the pods
_LOOK = "--dry-run"
# The label of every node that runs our pods. Another value takes them from all nodes, and an upgrade of the release
# brings this one back.
_OS, _ANY, _NONE = "kubernetes.io/os", "linux", "none"
_SHOWN = 5  # nodes that are named before the rest is counted

Object = dict[str, Any]
T = TypeVar("T")


class Nodes:
    """The DaemonSets of a namespace: those of `agents`, and of `removers`, one for each.

    `told` is given each thing that is done, `seconds` is for all of it. Calls raise CniError.
    """

    def __init__(
        self, api: Api, namespace: str, *, agents: Sequence[str], removers: Sequence[str], seconds: float
    ) -> None:
        self._api, self._namespace = api, namespace
        self._agents, self._removers = agents, removers
        self._until = time.monotonic() + seconds

    def give_back(self, told: Callable[[str], None]) -> None:
        """Uninstall on all nodes, or on none. Raises CniError that names a node and says why it may not go."""
        with self._removers_gone_on_failure():
            told("asking the nodes")
            self._await(self._looked, "has not answered")
            with self._agents_back_on_failure(told):
                told("stopping the agents")
                for name in self._agents:
                    self._place(name, _NONE)
                self._await(self._stopped, "still runs its agent")
                told("uninstalling")
                for name in self._removers:
                    self._let_go(name)
                self._await(self._gone, "has not uninstalled")
        told("all nodes are as they were")

    # What is waited for: which nodes are not done

    def _looked(self) -> list[str]:
        return self._unfinished(look=True)

    def _gone(self) -> list[str]:
        return self._unfinished(look=False)

    def _stopped(self) -> list[str]:
        return [_node(pod) for name in self._agents for pod in self._pods_of(self._get(name))]

    def _unfinished(self, *, look: bool) -> list[str]:
        """The nodes whose remover has not ended. Raises CniError(POLICY) for one that has failed."""
        waiting = []
        for name in self._removers:
            daemonset = self._get(name)
            if daemonset is None:
                raise CniError(Code.POLICY, f"DaemonSet {self._namespace}/{name}: expected that it is there")
            # Not those of a time before, which end: of another attempt, or that have only looked.
            pods = [
                pod
                for pod in self._pods_of(daemonset)
                if (_LOOK in _init(pod["spec"])["args"]) is look and "deletionTimestamp" not in pod["metadata"]
            ]
            done = [pod for pod in pods if self._has_ended(pod)]
            waiting += [f"{_node(pod)}{_waits_for(pod)}" for pod in pods if pod not in done]
            status = daemonset.get("status") or {}
            if status.get("observedGeneration", 0) < daemonset["metadata"]["generation"]:
                waiting.append(f"DaemonSet {name}")
            missing = status.get("desiredNumberScheduled", 0) - len(pods)
            if missing > 0:
                waiting.append(f"{missing} without a pod of {name}")
        return waiting

    def _has_ended(self, pod: Object) -> bool:
        """Whether the pod's init container has done its part. Raises CniError(POLICY) if it has failed."""
        for status in pod.get("status", {}).get("initContainerStatuses") or ():
            for state in (status.get("state") or {}, status.get("lastState") or {}):
                ended = state.get("terminated")
                if ended and ended["exitCode"] == 0:
                    return True
                if ended:
                    text = " ".join((ended.get("message") or f"exit status {ended['exitCode']}").split())
                    raise CniError(Code.POLICY, f"node {_node(pod)}: {text.removeprefix('Error: ')}")
        return False

    def _await(self, unfinished: Callable[[], list[str]], what: str) -> None:
        while waiting := unfinished():
            if time.monotonic() > self._until:
                more = f" and {len(waiting) - _SHOWN} more" if len(waiting) > _SHOWN else ""
                raise CniError(Code.TRY_AGAIN_LATER, f"{what}: {', '.join(sorted(waiting)[:_SHOWN])}{more}")
            time.sleep(_LOOK_AGAIN)

    # What is done

    def _place(self, name: str, system: str) -> None:
        self._patch(name, {"nodeSelector": {_OS: system}})

    def _let_go(self, name: str) -> None:
        """Have the removers of the DaemonSet do what they have looked at."""
        daemonset = self._get(name)
        assert daemonset is not None
        first, *others = daemonset["spec"]["template"]["spec"]["initContainers"]
        first = {**first, "args": [argument for argument in first["args"] if argument != _LOOK]}
        self._patch(name, {"initContainers": [first, *others]})

    @contextmanager
    def _removers_gone_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            for name in self._removers:
                self._place(name, _NONE)
            raise

    @contextmanager
    def _agents_back_on_failure(self, told: Callable[[str], None]) -> Iterator[None]:
        try:
            yield
        except BaseException:
            told("starting the agents again")
            for name in self._removers:  # first, for they and an agent do not go together
                self._place(name, _NONE)
            for name in self._agents:
                self._place(name, _ANY)
            raise

    # Requests

    def _get(self, name: str) -> Object | None:
        path = _DAEMONSET.format(namespace=quote(self._namespace, safe=""), name=quote(name, safe=""))
        try:
            return self._asked(f"DaemonSet {name}", lambda patience: self._api.get(path, patience=patience))
        except RefusedError as error:
            if error.status == 404:  # of an agent: somebody has deleted it
                return None
            raise CniError(Code.POLICY, f"DaemonSet {name}: {error}") from error

    def _pods_of(self, daemonset: Object | None) -> list[Object]:
        if daemonset is None:
            return []
        labels = daemonset["spec"]["selector"]["matchLabels"]
        query = {"labelSelector": ",".join(f"{key}={value}" for key, value in sorted(labels.items()))}
        path = _PODS.format(namespace=quote(self._namespace, safe=""))
        try:
            return self._asked(
                "pods", lambda patience: listed(self._api, path, query, _as_is, patience=patience)[0]
            )
        except RefusedError as error:
            raise CniError(Code.POLICY, f"pods: {error}") from error

    def _patch(self, name: str, spec: Object) -> None:
        path = _DAEMONSET.format(namespace=quote(self._namespace, safe=""), name=quote(name, safe=""))
        body = {"spec": {"template": {"spec": spec}}}
        try:
            self._asked(f"DaemonSet {name}", lambda patience: self._api.patch(path, body, patience=patience))
        except RefusedError as error:
            if error.status != 404:
                raise CniError(Code.POLICY, f"DaemonSet {name}: {error}") from error

    def _asked(self, what: str, ask: Callable[[Patience], T]) -> T:
        try:
            return persist(ask, what=what, until=self._until, waits=Waits(), ending=self._api.ending)
        except UnreachableError as error:
            raise CniError(Code.TRY_AGAIN_LATER, f"{what}: no answer from the API server: {error}") from error


def _as_is(value: Object) -> Object:
    return value


def _node(pod: Object) -> str:
    return str(pod["spec"].get("nodeName") or "(none yet)")


def _init(spec: Object) -> Object:
    container: Object = spec["initContainers"][0]
    return container


def _waits_for(pod: Object) -> str:
    """Why a pod does not begin, in brackets: that its image is not there."""
    for status in pod.get("status", {}).get("initContainerStatuses") or ():
        waiting = (status.get("state") or {}).get("waiting") or {}
        if waiting.get("message"):
            return f" ({waiting.get('reason', 'waiting')}: {' '.join(waiting['message'].split())})"
    return ""

"""Uninstalling wirespeed from all nodes of a cluster at once: the chart's pre-delete hook.

A DaemonSet of removers runs `wirespeed uninstall --dry-run` on every node, as an init container. Only if all nodes
agree are the agents stopped, and the removers started without --dry-run. If a node refuses, or anything else fails,
the agents are started again: their init container reinstalls what was removed.
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
_LOOK_AGAIN = 1.0  # seconds between two checks of the pods
_LOOK = "--dry-run"
# A nodeSelector that matches every node with our pods. With the other value, it matches no node; an upgrade of the
# release restores it.
_OS, _ANY, _NONE = "kubernetes.io/os", "linux", "none"
_SHOWN = 5  # nodes that a message names; the others are only counted

Object = dict[str, Any]
T = TypeVar("T")


class Nodes:
    """The DaemonSets of a namespace: the `agents`, and one of `removers` for each of them.

    `seconds` is the time limit for all of it.
    """

    def __init__(
        self, api: Api, namespace: str, *, agents: Sequence[str], removers: Sequence[str], seconds: float
    ) -> None:
        self._api, self._namespace = api, namespace
        self._agents, self._removers = agents, removers
        self._until = time.monotonic() + seconds

    def give_back(self, told: Callable[[str], None]) -> None:
        """Uninstall on all nodes, or on none; `told` is called with the progress.

        Raises CniError that names a node, and the reason why it refuses.
        """
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

    # Conditions to wait for: each returns the nodes that do not meet it yet

    def _looked(self) -> list[str]:
        return self._unfinished(look=True)

    def _gone(self) -> list[str]:
        return self._unfinished(look=False)

    def _stopped(self) -> list[str]:
        return [_node(pod) for name in self._agents for pod in self._pods_of(self._get(name))]

    def _unfinished(self, *, look: bool) -> list[str]:
        """Return the nodes whose remover has not finished. Raises CniError(POLICY) for one that failed."""
        waiting = []
        for name in self._removers:
            daemonset = self._get(name)
            if daemonset is None:
                raise CniError(Code.POLICY, f"DaemonSet {self._namespace}/{name}: expected that it is there")
            # Without pods that are being deleted, and without those of the other stage (dry run or removal).
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
        """Whether the pod's init container has succeeded. Raises CniError(POLICY) if it has failed."""
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

    # Actions

    def _place(self, name: str, system: str) -> None:
        self._patch(name, {"nodeSelector": {_OS: system}})

    def _let_go(self, name: str) -> None:
        """Let the removers of a DaemonSet uninstall, by removing --dry-run from their arguments."""
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
            for name in self._removers:  # first, as a remover and an agent must not run at the same time
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
            if error.status == 404:  # the DaemonSet of an agent may have been deleted
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
    """Return in parentheses why a pod does not start, such as an image that cannot be pulled; "" if unknown."""
    for status in pod.get("status", {}).get("initContainerStatuses") or ():
        waiting = (status.get("state") or {}).get("waiting") or {}
        if waiting.get("message"):
            return f" ({waiting.get('reason', 'waiting')}: {' '.join(waiting['message'].split())})"
    return ""

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

from wirespeed.errors import Error, Kind, Thing
from wirespeed.kube.api import Api, RefusedError, Timeouts, UnreachableError
from wirespeed.kube.retry import RetryPolicy, with_retries
from wirespeed.kube.watch import list_all

_DAEMONSET = "/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}"
_PODS = "/api/v1/namespaces/{namespace}/pods"
_CHECK_INTERVAL = 1.0  # seconds between two checks of the pods
_DRY_RUN = "--dry-run"
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

    def uninstall(self, report: Callable[[str], None]) -> None:
        """Uninstall on all nodes, or on none; `report` is called with the progress.

        Raises Error that names a node, and the reason why it refuses.
        """
        with _on_failure(lambda: self._set_node_selector(self._removers, _NONE)):
            report("checking the nodes")
            self._wait(lambda: self._unfinished(dry_run=True), "has not answered")
            with _on_failure(lambda: self._restart_agents(report)):
                report("stopping the agents")
                self._set_node_selector(self._agents, _NONE)
                self._wait(self._still_running, "still runs its agent")
                report("uninstalling")
                for name in self._removers:
                    self._start_removal(name)
                self._wait(lambda: self._unfinished(dry_run=False), "has not uninstalled")
        report("wirespeed is removed from all nodes")

    # Conditions to wait for: each returns the nodes that do not meet it yet

    def _still_running(self) -> list[str]:
        return [_node(pod) for name in self._agents for pod in self._pods_of(self._get(name))]

    def _unfinished(self, *, dry_run: bool) -> list[str]:
        """Return the nodes whose remover has not finished. Raises Error(POLICY) for one that failed."""
        waiting = []
        for name in self._removers:
            daemonset = self._get(name)
            if daemonset is None:
                raise Error(Kind.POLICY, "it does not exist", where=self._daemonset(name))
            # Without pods that are being deleted, and without those of the other stage (dry run or removal).
            pods = [
                pod
                for pod in self._pods_of(daemonset)
                if (_DRY_RUN in pod["spec"]["initContainers"][0]["args"]) is dry_run
                and "deletionTimestamp" not in pod["metadata"]
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
        """Whether the pod's init container has succeeded. Raises Error(POLICY) if it has failed."""
        for status in pod.get("status", {}).get("initContainerStatuses") or ():
            for state in (status.get("state") or {}, status.get("lastState") or {}):
                ended = state.get("terminated")
                if ended and ended["exitCode"] == 0:
                    return True
                if ended:
                    text = " ".join((ended.get("message") or f"exit status {ended['exitCode']}").split())
                    raise Error(Kind.POLICY, text.removeprefix("Error: "), where=Thing("node", _node(pod)))
        return False

    def _wait(self, unfinished: Callable[[], list[str]], what: str) -> None:
        while waiting := unfinished():
            if time.monotonic() > self._until:
                more = f" and {len(waiting) - _SHOWN} more" if len(waiting) > _SHOWN else ""
                raise Error(Kind.TRY_AGAIN, f"{what}: {', '.join(sorted(waiting)[:_SHOWN])}{more}")
            time.sleep(_CHECK_INTERVAL)

    # Actions

    def _set_node_selector(self, names: Sequence[str], system: str) -> None:
        for name in names:
            self._patch(name, {"nodeSelector": {_OS: system}})

    def _start_removal(self, name: str) -> None:
        """Make the removers of a DaemonSet uninstall, by removing --dry-run from their arguments."""
        daemonset = self._get(name)
        assert daemonset is not None
        first, *others = daemonset["spec"]["template"]["spec"]["initContainers"]
        first = {**first, "args": [argument for argument in first["args"] if argument != _DRY_RUN]}
        self._patch(name, {"initContainers": [first, *others]})

    def _restart_agents(self, report: Callable[[str], None]) -> None:
        report("starting the agents again")
        self._set_node_selector(self._removers, _NONE)  # first: a remover and an agent must not run at once
        self._set_node_selector(self._agents, _ANY)

    # Requests

    def _get(self, name: str) -> Object | None:
        """Return the DaemonSet; None if there is none: that of an agent may have been deleted."""
        path = self._path(_DAEMONSET, name)
        return self._request(self._daemonset(name), lambda timeouts: self._api.get(path, timeouts=timeouts))

    def _patch(self, name: str, spec: Object) -> None:
        path, body = self._path(_DAEMONSET, name), {"spec": {"template": {"spec": spec}}}
        self._request(self._daemonset(name), lambda timeouts: self._api.patch(path, body, timeouts=timeouts))

    def _pods_of(self, daemonset: Object | None) -> list[Object]:
        if daemonset is None:
            return []
        labels = daemonset["spec"]["selector"]["matchLabels"]
        query = {"labelSelector": ",".join(f"{key}={value}" for key, value in sorted(labels.items()))}
        path = self._path(_PODS)
        listed = self._request(
            "pods", lambda timeouts: list_all(self._api, path, query, lambda pod: pod, timeouts=timeouts)[0]
        )
        assert listed is not None  # without pods, the list is empty
        return listed

    def _request(self, where: str | Thing, request: Callable[[Timeouts], T]) -> T | None:
        """Make a request, with retries; return its result, None if there is no such object.

        Raises Error: POLICY if it is refused, TRY_AGAIN without an answer.
        """
        stopped = self._api.retries_stopped
        try:
            return with_retries(request, what=str(where), until=self._until, policy=RetryPolicy(), stopped=stopped)
        except RefusedError as error:
            if error.status == 404:
                return None
            raise Error(Kind.POLICY, str(error), where=where) from error
        except UnreachableError as error:
            raise Error(Kind.TRY_AGAIN, f"no answer from the API server: {error}", where=where) from error

    def _path(self, template: str, name: str = "") -> str:
        return template.format(namespace=quote(self._namespace, safe=""), name=quote(name, safe=""))

    def _daemonset(self, name: str) -> Thing:
        return Thing("DaemonSet", f"{self._namespace}/{name}")


@contextmanager
def _on_failure(undo: Callable[[], None]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        undo()
        raise


def _node(pod: Object) -> str:
    return str(pod["spec"].get("nodeName") or "(none yet)")


def _waits_for(pod: Object) -> str:
    """Return in parentheses why a pod does not start, such as an image that cannot be pulled; "" if unknown."""
    for status in pod.get("status", {}).get("initContainerStatuses") or ():
        waiting = (status.get("state") or {}).get("waiting") or {}
        if waiting.get("message"):
            return f" ({waiting.get('reason', 'waiting')}: {' '.join(waiting['message'].split())})"
    return ""

"""Who may see a view over HTTP: users of the API server who may get the node, or the pod that the view shows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

from wirespeed.agent.web import POD, Guard
from wirespeed.agent.webserver import Answer, Request, problem
from wirespeed.kube.access import Access, ForbiddenError, UnauthenticatedError
from wirespeed.kube.api import Api
from wirespeed.kube.reviews import Right
from wirespeed.node import Node

_OF_POD = frozenset({"why"})  # views that show a single pod; all others show the node
_TOKEN = re.compile(r"(?i:bearer) +(?P<token>[A-Za-z0-9._~+/-]{1,16384}=*)")  # RFC 6750
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="wirespeed"'}


@contextmanager
def users(node: Node) -> Iterator[Guard]:
    """Yield the guard of a node whose cluster has an API server. Raises Error(INVALID_CONFIG)."""
    # Connections of its own: what callers make it ask delays no request of a CNI call.
    with closing(Api(node.config.cluster.kubeconfig)) as api:
        access = Access(api)

        def refuse(request: Request, view: str, arguments: Mapping[str, str]) -> Answer | None:
            sent = _TOKEN.fullmatch(request.authorization.strip())
            if sent is None:
                return problem(401, "expected a token: Authorization: Bearer <token>", _CHALLENGE)
            try:
                access.check(sent["token"], needed(node.name, view, arguments))
            except UnauthenticatedError as error:
                return problem(401, error.msg, _CHALLENGE)
            except ForbiddenError as error:
                return problem(403, error.msg)
            return None

        yield refuse


def needed(node: str, view: str, arguments: Mapping[str, str]) -> list[Right]:
    """Return the rights that a user must have to see a view; "" is the list of views."""
    pod = POD.fullmatch(arguments.get("pod", ""))
    of_pod = [Right("get", "pods", namespace=pod["namespace"], name=pod["name"])] if pod else []
    return of_pod if pod and view in _OF_POD else [*of_pod, Right("get", "nodes", name=node)]

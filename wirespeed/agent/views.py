"""The agent's views of its node, by name: for the commands of the node, and for what is served over HTTP.

On the agent's socket, a view is a call of "agent" with CNI_COMMAND=VIEW, and {"view": its name, "arguments": {...}}
as standard input; the answer is the view in JSON.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, NamedTuple

import msgspec

from wirespeed import extras, structs
from wirespeed.agent import client, frame
from wirespeed.agent.hotplug import error_answer
from wirespeed.cni.dispatch import Answer
from wirespeed.cni.errors import PluginError
from wirespeed.errors import Error, Kind
from wirespeed.node import Node
from wirespeed.observe.recent import Recent
from wirespeed.observe.status import Status, status
from wirespeed.observe.why import Why, why

log = logging.getLogger(__name__)


def _topology(node: Node) -> Any:
    extras.need("provision", "view topology")
    from wirespeed.observe.topology import topology  # noqa: PLC0415 — not every node has what it imports

    return topology(node)


def _doctor(node: Node, pod: str | None = None) -> Any:
    from wirespeed import doctor  # noqa: PLC0415 — memory, only once somebody looks

    return doctor.examine(node, pod)


class View(NamedTuple):
    """A view: the function that computes it, the type that `ask` decodes, and its arguments."""

    compute: Callable[..., Any]
    kind: Any = Any
    required: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()


VIEWS: Mapping[str, View] = {
    "status": View(status, Status),
    "why": View(why, Why, required=frozenset({"pod"})),
    "topology": View(_topology),
    "rates": View(Recent().interval),
    "doctor": View(_doctor, optional=frozenset({"pod"})),
}


@structs.prepared
class _Body(msgspec.Struct, forbid_unknown_fields=True):
    view: str
    arguments: dict[str, str] = {}


def view(node: Node, name: str, arguments: Mapping[str, str]) -> Any:
    """Return the struct of a view. Raises Error: INVALID_REQUEST for an unknown one, or why it has none."""
    where = f"view {name}"
    known = VIEWS.get(name)
    if known is None:
        raise Error(Kind.INVALID_REQUEST, expected=f"a view: {', '.join(VIEWS)}", got=name)
    if unknown := arguments.keys() - known.required - known.optional:
        raise Error(Kind.INVALID_REQUEST, "unknown argument", where=where, got=", ".join(sorted(unknown)))
    if missing := [each for each in sorted(known.required) if not arguments.get(each)]:
        raise Error(Kind.INVALID_REQUEST, f"missing argument: {', '.join(missing)}", where=where)
    return known.compute(node, **arguments)


def answer(node: Node, call: frame.Call) -> Answer:
    """Serve a VIEW call; never raises. An error is returned as the error object of the CNI specification."""
    try:
        body = msgspec.json.decode(call.stdin, type=_Body)
        return Answer(0, msgspec.json.encode(view(node, body.view, body.arguments)))
    except msgspec.DecodeError as error:
        return error_answer(Error(Kind.INVALID_DATA, str(error), where=(frame.VIEW, "standard input")))
    except Error as error:
        return error_answer(error)
    except Exception as error:
        log.exception("a view failed")
        return error_answer(Error(Kind.INTERNAL, f"{type(error).__name__}: {error}", where=frame.VIEW))


def ask(node: Node, name: str, **arguments: str) -> Any:
    """Return the struct of a view from the node's agent, or computed here if no agent answers. Raises Error."""
    body = msgspec.json.encode(_Body(name, arguments))
    call = frame.Call("agent", {"CNI_COMMAND": frame.VIEW}, body)
    try:
        return msgspec.json.decode(
            client.ask(node.config.socket, call, timeout=node.config.deadline), type=VIEWS[name].kind
        )
    except Error as error:
        if error.kind is not Kind.UNAVAILABLE or isinstance(error, PluginError):  # an agent has answered
            raise
    with closing(node):
        return view(node, name, arguments)

"""The agent's own calls for one container, besides those of the runtime: ATTACH, DETACH and FOLLOW for a running
container, COLLECT for one that is gone.

They arrive on the agent's socket like calls of the meta-plugin, with CNI_COMMAND and CNI_CONTAINERID, so they are
queued with the runtime's calls for that container. The standard input of ATTACH is {"network": a network in either
form of the annotation k8s.v1.cni.cncf.io/networks}, that of DETACH {"network": its name or its interface}.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import msgspec

from wirespeed import structs
from wirespeed.agent import client, frame
from wirespeed.cni.dispatch import Answer
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.request import check_container_id
from wirespeed.cni.versions import LATEST
from wirespeed.kernel import netns
from wirespeed.node import Node
from wirespeed.plugins.meta.delegate import recorded, recorded_identity
from wirespeed.plugins.meta.hotplug import Hotplug
from wirespeed.plugins.meta.meta import Meta
from wirespeed.state.journal import Attachment, Journal

log = logging.getLogger(__name__)

VERBS = frozenset({"ATTACH", "DETACH", "FOLLOW", "COLLECT"})


@structs.prepared
class _Order(msgspec.Struct, forbid_unknown_fields=True):
    network: str


def answer(node: Node, call: frame.Call, *, deadline: float) -> Answer:
    """Serve one call; never raises. An error is returned as the error object of the CNI specification."""
    verb = call.environ["CNI_COMMAND"]
    try:
        return Answer(0, msgspec.json.encode(_serve(node, verb, call, deadline)))
    except CniError as error:
        return refused(error)
    except Exception as error:
        log.exception("%s of container %s failed", verb, call.environ.get("CNI_CONTAINERID", ""))
        return refused(CniError(Code.INTERNAL, f"{verb}: {type(error).__name__}: {error}"))


def refused(error: CniError) -> Answer:
    """Return the answer for an error."""
    return Answer(1, error.to_json(LATEST))


def _serve(node: Node, verb: str, call: frame.Call, deadline: float) -> dict[str, Any]:
    container = check_container_id(call.environ.get("CNI_CONTAINERID", ""))
    if not container:
        raise CniError(Code.INVALID_ENVIRONMENT, f"{verb}: CNI_CONTAINERID is missing")
    meta = node.plugin("meta")
    assert isinstance(meta, Meta)
    if verb == "COLLECT":
        meta.collect(container, deadline=deadline)
        return {}
    hotplug = Hotplug(node, meta)
    if verb == "FOLLOW":
        hotplug.follow(container, deadline=deadline)
        return {}
    try:
        network = msgspec.json.decode(call.stdin, type=_Order).network
    except msgspec.DecodeError as error:
        raise CniError(Code.DECODING_FAILURE, f"{verb}: {error}") from error
    change = hotplug.attach if verb == "ATTACH" else hotplug.detach
    return _answer(change(container, network, deadline=deadline))


def _answer(row: Attachment) -> dict[str, Any]:
    """Return what the caller gets about an attachment."""
    addresses = [ip["address"] for ip in (row.result or {}).get("ips", ())]
    return {"network": recorded(row).label, "interface": row.ifname, "ips": addresses}


def masters(journal: Journal, namespace: str, name: str) -> Iterator[Attachment]:
    """Yield the master's row for each container of a pod that is attached and whose network namespace exists."""
    for row in journal.attachments():
        delegate = recorded(row)
        args = delegate.args
        if (
            delegate.master
            and (args.get("K8S_POD_NAMESPACE"), args.get("K8S_POD_NAME")) == (namespace, name)
            and netns.alive(row.netns, recorded_identity(row))
        ):
            yield row


def order(node: Node, verb: str, pod: str, network: str) -> dict[str, Any]:
    """Call this node's agent to change a pod, "[namespace/]name"; return its answer.

    Raises CniError: the agent's error, UNKNOWN_CONTAINER for a pod that is not attached here, or UNAVAILABLE.
    """
    namespace, _, name = pod.rpartition("/")
    found = list(masters(node.journal, namespace or "default", name))
    if not found:
        raise CniError(Code.UNKNOWN_CONTAINER, f"pod {namespace or 'default'}/{name}: not attached on this node")
    return ask(node, verb, found[-1].container, msgspec.json.encode({"network": network}))


def ask(node: Node, verb: str, container: str, stdin: bytes = b"{}") -> dict[str, Any]:
    """Make one call, and wait for its answer for up to twice the agent's deadline. Raises CniError."""
    call = frame.Call("meta", {"CNI_COMMAND": verb, "CNI_CONTAINERID": container}, stdin)
    status, stdout = client.ask(node.config.socket, call, patience=2 * node.config.deadline)
    if status == frame.AGAIN:
        raise CniError(Code.TRY_AGAIN_LATER, "the agent is ending: try again")
    made: dict[str, Any] = msgspec.json.decode(stdout)
    if status:
        raise CniError(made["code"], made["msg"], made.get("details", ""))
    return made

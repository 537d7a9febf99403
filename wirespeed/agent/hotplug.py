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
from wirespeed.cni.errors import to_json
from wirespeed.cni.request import check_container_id
from wirespeed.cni.versions import LATEST
from wirespeed.errors import Error, Kind, Thing
from wirespeed.kernel import netns
from wirespeed.node import Node
from wirespeed.plugins.meta.delegate import recorded_delegate, recorded_identity
from wirespeed.plugins.meta.hotplug import Hotplug
from wirespeed.plugins.meta.meta import Meta
from wirespeed.state.journal import Attachment, Journal

log = logging.getLogger(__name__)

VERBS = frozenset({"ATTACH", "DETACH", "FOLLOW", "COLLECT"})


@structs.prepared
class _NetworkBody(msgspec.Struct, forbid_unknown_fields=True):
    network: str


@structs.prepared
class Changed(msgspec.Struct, frozen=True):
    """The answer to ATTACH and DETACH: the network, its interface in the pod, and the interface's addresses."""

    network: str
    interface: str
    ips: list[str]


def answer(node: Node, call: frame.Call, *, deadline: float) -> Answer:
    """Serve one call; never raises. An error is returned as the error object of the CNI specification."""
    verb = call.environ["CNI_COMMAND"]
    try:
        return Answer(0, msgspec.json.encode(_serve(node, verb, call, deadline)))
    except Error as error:
        return error_answer(error)
    except Exception as error:
        log.exception("%s of container %s failed", verb, call.environ.get("CNI_CONTAINERID", ""))
        return error_answer(Error(Kind.INTERNAL, f"{type(error).__name__}: {error}", where=verb))


def error_answer(error: Error) -> Answer:
    return Answer(1, to_json(error, LATEST))


def _serve(node: Node, verb: str, call: frame.Call, deadline: float) -> Changed | dict[str, Any]:
    container = check_container_id(call.environ.get("CNI_CONTAINERID", ""))
    if not container:
        raise Error(Kind.INVALID_REQUEST, "missing environment variable: CNI_CONTAINERID", where=verb)
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
        network = msgspec.json.decode(call.stdin, type=_NetworkBody).network
    except msgspec.DecodeError as error:
        raise Error(Kind.INVALID_DATA, str(error), where=(verb, "standard input")) from error
    change = hotplug.attach if verb == "ATTACH" else hotplug.detach
    row = change(container, network, deadline=deadline)
    addresses = [ip["address"] for ip in (row.result or {}).get("ips", ())]
    return Changed(recorded_delegate(row).label, row.ifname, addresses)


def master_rows(journal: Journal, namespace: str, name: str) -> Iterator[Attachment]:
    """Yield the master's row for each container of a pod that is attached and whose network namespace exists."""
    for row in journal.attachments():
        delegate = recorded_delegate(row)
        pod = delegate.args.get("K8S_POD_NAMESPACE"), delegate.args.get("K8S_POD_NAME")
        if delegate.master and pod == (namespace, name) and netns.alive(row.netns, recorded_identity(row)):
            yield row


def change_network(node: Node, verb: str, pod: str, network: str) -> Changed:
    """Call this node's agent to change a pod, "[namespace/]name"; return its answer.

    Raises Error: the agent's error, NOT_ATTACHED for a pod that is not attached here, or UNAVAILABLE.
    """
    namespace, _, name = pod.rpartition("/")
    namespace = namespace or "default"
    found = list(master_rows(node.journal, namespace, name))
    if not found:
        raise Error(Kind.NOT_ATTACHED, "not attached on this node", where=Thing("pod", f"{namespace}/{name}"))
    answered = call_agent(node, verb, found[-1].container, msgspec.json.encode({"network": network}))
    return msgspec.convert(answered, Changed)


def call_agent(node: Node, verb: str, container: str, stdin: bytes = b"{}") -> dict[str, Any]:
    """Make one call, and wait for its answer for up to twice the agent's deadline. Raises Error."""
    call = frame.Call("meta", {"CNI_COMMAND": verb, "CNI_CONTAINERID": container}, stdin)
    answered: dict[str, Any] = msgspec.json.decode(
        client.ask(node.config.socket, call, timeout=2 * node.config.deadline)
    )
    return answered

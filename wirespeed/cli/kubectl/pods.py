"""Why a pod does not start, as far as the API server alone tells: if no agent can be asked about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from urllib.parse import quote

import msgspec

from wirespeed import structs
from wirespeed.cli.kubectl.session import NoAgentError, Session
from wirespeed.errors import Error
from wirespeed.kube.cluster import Object
from wirespeed.observe.lines import why_lines
from wirespeed.observe.why import Why, before_its_node, waiting_containers
from wirespeed.play.quantity import whole_number
from wirespeed.text import clock, printable, table

_EVENTS = 5  # the most that are shown


@structs.prepared
class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What a node offers of a resource; `requested` is what pods have of it, None if that is not known."""

    node: str
    allocatable: int
    requested: int | None = None


@structs.prepared
class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """An extended resource that a pod asks for, such as VFs, and the nodes that offer it."""

    resource: str
    asked: int
    nodes: tuple[Offer, ...] = ()


@structs.prepared
class Warned(msgspec.Struct, frozen=True, kw_only=True):
    """A warning about the pod among the cluster's events. `at` is the last time, in seconds since 1970."""

    at: float
    reason: str
    message: str
    count: int = 1


@structs.prepared
class FromApi(Why, frozen=True, kw_only=True):
    """What the API server alone tells of a pod. `unasked` is why no agent was asked."""

    unasked: str
    resources: tuple[Wanted, ...] = ()
    events: tuple[Warned, ...] = ()


def why(session: Session, label: str) -> Why:
    """Return what happened to a pod, namespace/name: from its node's agent, or else from the API server alone."""
    whole = session.pod(label)
    node = (whole.get("spec") or {}).get("nodeName")
    if not node:
        return from_api(session, whole, "the pod is on no node, so no agent knows of it")
    try:
        return session.view(session.agent(node), "why", Why, pod=label)
    except NoAgentError as error:
        return from_api(session, whole, f"its agent cannot be asked: {error.msg}")


def from_api(session: Session, whole: Object, unasked: str) -> FromApi:
    """Return what the API server tells of a pod, given as its object."""
    metadata, spec = whole["metadata"], whole.get("spec") or {}
    node = spec.get("nodeName") or ""
    faults: list[str] = []
    answer, advice = before_its_node(whole) or _on_its_node(whole)
    return FromApi(
        pod=f"{metadata['namespace']}/{metadata['name']}",
        node=node,
        answer=answer,
        advice=tuple(advice),
        unasked=unasked,
        resources=() if node else tuple(_wanted(session, spec, faults)),
        events=tuple(_warnings(session, metadata, faults)),
        faults=tuple(faults),
    )


def lines(found: FromApi) -> Iterator[str]:
    """Yield the text of an answer from the API server alone."""
    answer, *rest = why_lines(found)
    yield answer
    yield from (line for line in rest if line.startswith("  do:"))
    yield ""
    yield f"from the API server alone: {found.unasked}"
    if found.resources:
        yield ""
        rows = [("RESOURCE", "ASKED", "NODE", "ALLOCATABLE", "REQUESTED")]
        rows += [row for each in found.resources for row in _rows(each)]
        yield from table(rows, right={1, 3, 4})
    if found.events:
        yield ""
        yield "LAST WARNINGS"
        for event in found.events:
            times = f" ({event.count} times)" if event.count > 1 else ""
            yield printable(f"  {clock(event.at)}  {event.reason}{times}: {event.message}")
    for fault in found.faults:
        yield ""
        yield f"not known: {fault}"


def _rows(wanted: Wanted) -> Iterator[tuple[str, str, str, str, str]]:
    for offer in wanted.nodes:
        requested = "?" if offer.requested is None else str(offer.requested)
        yield wanted.resource, str(wanted.asked), offer.node, str(offer.allocatable), requested
    if not wanted.nodes:
        yield wanted.resource, str(wanted.asked), "no node offers it", "-", "-"


def _on_its_node(whole: Object) -> tuple[str, list[str]]:
    waiting = [f"container {name}: {what}" for name, what in waiting_containers(whole)]
    phase = (whole.get("status") or {}).get("phase") or "unknown"
    return f"it is on its node in phase {phase}; what happened there is known to the agent alone", waiting


# Resources


def _wanted(session: Session, spec: Object, faults: list[str]) -> Iterator[Wanted]:
    """Yield the extended resources that a pod asks for, with the nodes that offer them."""
    asked = requests_of(spec)
    if not asked:
        return
    try:
        nodes = session.objects("/api/v1/nodes", "nodes")
    except Error as error:
        faults.append(error.msg)
        return
    taken = _taken(session, faults)
    for resource, number in sorted(asked.items()):
        offers = [_offer(node, resource, taken) for node in nodes]
        yield Wanted(resource=resource, asked=number, nodes=tuple(each for each in offers if each is not None))


def _offer(node: Object, resource: str, taken: Counter[tuple[str, str]] | None) -> Offer | None:
    there = ((node.get("status") or {}).get("allocatable") or {}).get(resource)
    if there is None:
        return None
    name = node["metadata"]["name"]
    return Offer(
        node=name, allocatable=whole_number(there), requested=None if taken is None else taken[name, resource]
    )


def _taken(session: Session, faults: list[str]) -> Counter[tuple[str, str]] | None:
    """Return how much of each resource the pods on each node ask for; None if they cannot be listed."""
    try:
        pods = session.objects("/api/v1/pods", "pods of all namespaces", trim=_what_it_takes)
    except Error as error:
        faults.append(error.msg)
        return None
    found: Counter[tuple[str, str]] = Counter()
    for pod in pods:
        found.update({(pod["node"], resource): number for resource, number in pod["requests"].items()})
    return found


def _what_it_takes(pod: Object) -> Object:
    """Return of a pod what it takes of which node; nothing if it has ended."""
    ended = (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}
    return {
        "node": pod["spec"].get("nodeName") or "",
        "requests": {} if ended else requests_of(pod["spec"]),
    }


def requests_of(spec: Object) -> dict[str, int]:
    """Return the extended resources that a pod asks for, as the scheduler counts them.

    Those of its containers and sidecars together; or of an init container and the sidecars before it, if those are
    more.
    """
    sidecars: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for container in spec.get("initContainers") or ():
        wanted = Counter(_extended(container))
        most |= sidecars + wanted
        if container.get("restartPolicy") == "Always":
            sidecars += wanted
    together = sum((Counter(_extended(each)) for each in spec.get("containers") or ()), sidecars)
    return dict(most | together)


def _extended(container: Object) -> dict[str, int]:
    resources = container.get("resources") or {}
    # Of an extended resource, the request is the limit if only that is given.
    wanted = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: whole_number(value) for name, value in wanted.items() if _is_extended(name)}


def _is_extended(resource: str) -> bool:
    prefix, slash, _ = resource.partition("/")
    return bool(slash) and not prefix.endswith("kubernetes.io")


# Events


def _warnings(session: Session, metadata: Object, faults: list[str]) -> list[Warned]:
    """Return the last warnings about a pod, the newest last."""
    wanted = {"involvedObject.kind": "Pod", "involvedObject.name": metadata["name"], "type": "Warning"}
    if metadata.get("uid"):
        wanted["involvedObject.uid"] = metadata["uid"]
    selector = ",".join(f"{key}={value}" for key, value in wanted.items())
    path = f"/api/v1/namespaces/{quote(metadata['namespace'], safe='')}/events"
    try:
        events = session.objects(path, "events", query={"fieldSelector": selector})
    except Error as error:
        faults.append(error.msg)
        return []
    return sorted(map(_warned, events), key=lambda event: event.at)[-_EVENTS:]


def _warned(event: Object) -> Warned:
    """Return an event; its time and number are in a series, if it is one of events.k8s.io."""
    series = event.get("series") or {}
    at = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return Warned(
        at=_seconds(at or event["metadata"].get("creationTimestamp") or ""),
        reason=event.get("reason") or "",
        message=" ".join((event.get("message") or "").split()),
        count=series.get("count") or event.get("count") or 1,
    )


def _seconds(time: str) -> float:
    """Return a time of the API, RFC 3339, in seconds since 1970; 0 without one."""
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return 0.0

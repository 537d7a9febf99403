"""What happened to a pod: what it requested, the steps of each call, where one failed, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from wirespeed import structs
from wirespeed.cni.errors import Code
from wirespeed.errors import Error, Kind, Thing
from wirespeed.kube.cluster import NotFoundError, Object
from wirespeed.live import RunningCall
from wirespeed.node import Node
from wirespeed.observe.status import AttachmentStatus, attachments_of
from wirespeed.plugins.meta import selection
from wirespeed.state.calls import Call
from wirespeed.state.journal import AttachmentStep


class RequestedNetwork(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A network that the pod's annotation requests, and the interface that it has for it ("" if none)."""

    network: str
    interface: str = ""
    state: str
    """attached, not attached, or what its row of the journal says"""


class AllocatedDevices(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Devices of one resource that the kubelet allocated to the pod."""

    resource: str
    devices: tuple[str, ...]


class Failure(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The last failure of the pod: `path` are the steps that it ended, from the outermost to the innermost."""

    verb: str
    path: tuple[str, ...]
    error: str
    details: str = ""
    code: int
    count: int
    """number of calls that failed with this error"""
    first: float
    last: float
    """seconds since 1970"""


@structs.prepared
class Why(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What happened to a pod on this node. `answer` says it in one sentence, `advice` what to do next."""

    pod: str
    node: str
    answer: str
    advice: tuple[str, ...] = ()
    failure: Failure | None = None
    networks: tuple[RequestedNetwork, ...] = ()
    devices: tuple[AllocatedDevices, ...] = ()
    attachments: tuple[AttachmentStatus, ...] = ()
    running: tuple[RunningCall, ...] = ()
    calls: tuple[Call, ...] = ()
    """the calls that the node remembers, from the oldest to the newest"""
    faults: tuple[str, ...] = ()
    """what could not be read, and why"""


# What to do about an error, by its code.
_ADVICE: Mapping[int, str] = {
    Code.INCOMPATIBLE_VERSION: "give the network a cniVersion that its plugins and the runtime support",
    Code.UNSUPPORTED_FIELD: "remove what the error names from the network or the pod's annotation",
    Code.DECODING_FAILURE: "correct or remove the file that the error names",
    Code.INVALID_CONFIG: "correct the network or the pod's annotation, then delete the pod; "
    "`wirespeed check FILE` checks both before they are applied",
    Code.TRY_AGAIN_LATER: "the runtime repeats the call by itself; if the error stays, fix what it names",
    Code.UNAVAILABLE: "fix what the error names; `wirespeed doctor` checks the node",
    Code.IO_FAILURE: "check the file or socket that the error names: that it exists, and that root may use it",
    Code.INTERNAL: "this is a defect of wirespeed: please report it, with this trace's lines of the agent's log",
    Code.DEVICE: "`wirespeed doctor` checks the node's devices, `wirespeed topology` shows who has them",
    Code.INTERFACE: "give the interfaces of the pod different names; `wirespeed status` lists what is left over",
    Code.ADDRESS: "free an address, or enlarge the network's range; `wirespeed status` lists what is left over",
    Code.DRIFT: "find out who changed the interface; deleting the pod restores the device",
    Code.POLICY: "grant what the error names, or ask for less",
}
_OF_OTHERS = (
    "the plugin that the error names belongs to another project: its own log and documentation may say more"
)
_UNSCHEDULED = "`wirespeed status` on a node shows its pools, and `kubectl describe node NODE` what is allocated"

_UNCALLED = (
    "`wirespeed doctor` checks the CNI configuration and the runtime; the kubelet's log says what it waits for"
)


def why(node: Node, pod: str) -> Why:
    """Return what happened to a pod, "[namespace/]name". Raises Error(NOT_ATTACHED) if nothing is known of it."""
    namespace, _, name = pod.rpartition("/")
    label = f"{namespace or 'default'}/{name}"
    faults: list[str] = []
    whole = _whole_pod(node, label, faults)
    calls = _calls_of(node, label, whole, faults)
    live = node.live.calls()
    attachments = tuple(each for each in attachments_of(node, live, faults) if each.pod == label)
    running = tuple(call for call in live if call.pod == label)
    if whole is None and not calls and not attachments:
        hint = "; ".join(faults) or f"`kubectl get pod {name} -n {namespace or 'default'} -o wide` says which node"
        raise Error(Kind.NOT_ATTACHED, "no call for it is known on this node", where=Thing("pod", label), hint=hint)
    failure = _failure(calls)
    answer, advice = _answer(node, whole, attachments, running, failure)
    return Why(
        pod=label,
        node=node.name,
        answer=answer,
        advice=tuple(advice),
        failure=failure,
        networks=tuple(_networks(whole, attachments, faults)),
        devices=_devices(node, label, faults),
        attachments=attachments,
        running=running,
        calls=tuple(calls),
        faults=tuple(faults),
    )


def _whole_pod(node: Node, pod: str, faults: list[str]) -> Object | None:
    try:
        return node.cluster.whole_pod(*pod.split("/", 1))
    except NotFoundError:
        faults.append("the API server has no such pod any more")
    except Error as error:
        faults.append(error.msg)
    return None


def _calls_of(node: Node, pod: str, whole: Object | None, faults: list[str]) -> list[Call]:
    """Return the pod's calls; those of an earlier pod with the same name are left out if the UID tells."""
    try:
        calls = list(node.calls.read(pod))
    except OSError as error:
        faults.append(f"history of calls: {error.strerror}")
        return []
    uid = whole["metadata"].get("uid", "") if whole else calls[-1].uid if calls else ""
    return [call for call in calls if not uid or not call.uid or call.uid == uid]


def _devices(node: Node, pod: str, faults: list[str]) -> tuple[AllocatedDevices, ...]:
    try:
        devices = node.pod_resources.devices(*pod.split("/", 1))
    except Error as error:
        faults.append(error.msg)
        return ()
    return tuple(AllocatedDevices(resource=name, devices=tuple(ids)) for name, ids in sorted(devices.items()))


def _networks(
    whole: Object | None, attachments: Sequence[AttachmentStatus], faults: list[str]
) -> Iterator[RequestedNetwork]:
    """Yield each network of the annotation with its state."""
    if whole is None:
        return
    metadata = whole["metadata"]
    text = (metadata.get("annotations") or {}).get(selection.NETWORKS, "")
    try:
        wanted = selection.parse(text, namespace=metadata["namespace"])
    except Error as error:
        faults.append(error.msg)
        return
    left = list(attachments)
    for each in wanted:
        found = next((row for row in left if row.network == each.label), None)
        if found is not None:
            left.remove(found)
        yield RequestedNetwork(
            network=each.label,
            interface=found.interface if found else each.interface,
            state="not attached" if found is None else _state(found),
        )


def _state(row: AttachmentStatus) -> str:
    return row.problem or ("attached" if row.step == AttachmentStep.ADDED else str(row.step))


def _failure(calls: Sequence[Call]) -> Failure | None:
    """Return the last call's error; None if it succeeded or there is none. A DEL after a failed ADD cleans up."""
    relevant = [call for call in calls if call.verb not in {"DEL", "GC", "COLLECT"} or call.code]
    if not relevant or not relevant[-1].code:
        return None
    last = relevant[-1]
    same = [call for call in calls if (call.verb, call.error) == (last.verb, last.error)]
    return Failure(
        verb=last.verb,
        path=tuple(last.failed_path),
        error=last.error,
        details=last.details,
        code=last.code,
        count=len(same),
        first=same[0].at,
        last=last.at,
    )


def _answer(
    node: Node,
    whole: Object | None,
    attachments: Sequence[AttachmentStatus],
    running: Sequence[RunningCall],
    failure: Failure | None,
) -> tuple[str, list[str]]:
    """Return the answer in one sentence, and what to do next."""
    now = ""
    if running:
        call = running[0]
        doing = call.step or "waits for other calls"
        now = f"{call.verb} has been running for {call.seconds:.1f} s: {doing}"
    if failure is not None:
        where = f" at: {' > '.join(failure.path)}" if failure.path else ""
        again = f"; {now}" if now else ""
        return f"{failure.verb} fails{where}{again}", [_ADVICE.get(failure.code, _OF_OTHERS)]
    if now:
        return now, []
    wrong = [row for row in attachments if row.problem]
    if wrong:
        return f"{wrong[0].interface} ({wrong[0].network}): {wrong[0].problem}", []
    if attachments:
        names = ", ".join(f"{row.interface} ({row.network})" for row in attachments)
        return f"attached: {names}", _after_attachment(whole)
    return _before_first_call(node, whole)


def _after_attachment(whole: Object | None) -> list[str]:
    """Return what else keeps a pod whose networks are attached from running."""
    found = [f"container {name}: {what}" for name, what in waiting_containers(whole)]
    return [*found, "its network is not the reason: see `kubectl describe pod`"] if found else []


def _before_first_call(node: Node, whole: Object | None) -> tuple[str, list[str]]:
    """Return why no call for the pod was made on this node."""
    if whole is None:
        return "nothing is attached", []
    if (found := before_its_node(whole)) is not None:
        return found
    bound = whole["spec"]["nodeName"]
    if bound != node.name:
        return f"it is on node {bound}; this is node {node.name}", [f"run `wirespeed why` on node {bound}"]
    what = "the runtime has not called the agent for it: the pod waits for the kubelet, a volume or the runtime"
    return what, [_UNCALLED]


def before_its_node(whole: Object) -> tuple[str, list[str]] | None:
    """Return why a pod needs nothing of a node's agent, as its object tells, and what to do; None if it may."""
    spec, now = whole.get("spec") or {}, whole.get("status") or {}
    if spec.get("hostNetwork"):
        return "it uses the node's network (hostNetwork): no network is attached", []
    if now.get("phase") == "Failed":
        reason = ": ".join(filter(None, (now.get("reason"), now.get("message"))))
        if reason or not now.get("containerStatuses"):
            advice = ["fix what the message names, then delete the pod"]
            return f"the kubelet refused it: {reason or 'no reason is given'}", advice
        return "it has failed: a container of it ended with an error", ["`kubectl logs` shows what it wrote"]
    if not spec.get("nodeName"):
        return _unscheduled(now)
    return None


def _unscheduled(now: Object) -> tuple[str, list[str]]:
    for condition in now.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"the scheduler finds no node for it: {condition.get('message', '')}", [_UNSCHEDULED]
    return "it is not scheduled yet", []


def waiting_containers(whole: Object | None) -> Iterator[tuple[str, str]]:
    """Yield each container that waits, with the reason."""
    for container in ((whole or {}).get("status") or {}).get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in {None, "", "ContainerCreating", "PodInitializing"}:
            text = ": ".join(filter(None, (waiting["reason"], waiting.get("message"))))
            yield container.get("name", ""), text

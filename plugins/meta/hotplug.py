"""Hotplug: attach and detach networks of a running container, by hand or when the pod's annotation changes.

A hotplugged network has a row in the journal like any other, so the pod's CHECK, DEL and GC find it. The inputs of
the runtime's ADD are read from the journal. The caller must serialize the calls of one container.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count

import msgspec

from wirespeed.cni.chain import Chain
from wirespeed.cni.errors import CniError, Code, combined
from wirespeed.cni.request import Request
from wirespeed.kernel import netns
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netns import NetNs
from wirespeed.kube.cluster import asked_until
from wirespeed.node import Node
from wirespeed.plugins.meta import budget, checks, selection
from wirespeed.plugins.meta.config import MetaConfig
from wirespeed.plugins.meta.delegate import Delegate, planned, recorded, recorded_identity
from wirespeed.plugins.meta.meta import Meta, errors_prefixed, refusal
from wirespeed.plugins.meta.reporter import attached
from wirespeed.plugins.meta.resolve import Pod, named_pod, read_pod
from wirespeed.plugins.meta.selection import Selection
from wirespeed.state.journal import Attachment, AttachmentStep

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Container:
    """An attached container: its ADD request rebuilt from the journal, and the settings of that ADD."""

    request: Request
    settings: MetaConfig
    pod: Pod
    ns: NetNs
    times: budget.Budget


class Hotplug:
    """Attaches and detaches single networks of containers that the meta-plugin has attached."""

    def __init__(self, node: Node, meta: Meta) -> None:
        self._node, self._meta, self._journal = node, meta, node.journal
        self._chain = Chain(node.plugins)

    def attach(self, container: str, text: str, *, deadline: float) -> Attachment:
        """Attach one network, given as in the networks annotation; return its journal row.

        Raises CniError, with the attachment undone.
        """
        with self._opened(container, deadline) as here:
            asked = selection.parse(text, namespace=here.pod.namespace)
            if len(asked) != 1:
                raise CniError(Code.INVALID_CONFIG, f"expected one network, got {len(asked)}")
            return self._attach(here, asked[0], selected=False)

    def detach(self, container: str, what: str, *, deadline: float) -> Attachment:
        """Detach a network, given by interface or by [<namespace>/]<name>; return the journal row that it had.

        Raises CniError; the row then stays in the journal.
        """
        with self._opened(container, deadline) as here:
            row = self._named_row(here, what)
            self._detach(here, row)
        return row

    def follow(self, container: str, *, deadline: float) -> None:
        """Attach the networks that were added to the pod's annotation, detach those that were removed from it.

        All are attempted; raises the first error with the others appended. A change of an element's other keys
        (ips, mac ...) has no effect. Networks attached by hand or by the configuration are left alone.
        """
        with self._opened(container, deadline) as here:
            if here.pod.found["metadata"].get("deletionTimestamp"):
                return
            text = here.pod.annotation(selection.NETWORKS)
            with self._refusals_as_events(here.pod):
                wanted = selection.parse(text, namespace=here.pod.namespace)
            missing, surplus = difference(wanted, self._rows(here))
            errors: list[CniError] = []
            for row in reversed(surplus):
                _attempt(lambda row=row: self._detach(here, row), errors)  # type: ignore[misc]
            for asked in missing:
                _attempt(lambda asked=asked: self._attach(here, asked, selected=True), errors)  # type: ignore[misc]
        if errors:
            raise combined(errors)

    @contextmanager
    def _opened(self, container: str, deadline: float) -> Iterator[_Container]:
        """Open the container for hotplug; errors inside are prefixed with its pod.

        Raises CniError: UNKNOWN_CONTAINER, TRY_AGAIN_LATER while its ADD or DEL is unfinished, POLICY if it belongs
        to no pod or has no recorded settings.
        """
        row = next((row for row in self._journal.attachments(container) if recorded(row).master), None)
        if row is None:
            raise CniError(Code.UNKNOWN_CONTAINER, f"container {container}: not attached")
        master = recorded(row)
        pod = named_pod(master.args)
        if row.step != AttachmentStep.ADDED:
            raise CniError(Code.TRY_AGAIN_LATER, f"container {container}: its ADD or DEL has not finished")
        if pod is None or not master.settings:
            why = "is no pod's" if pod is None else "was attached by another version"
            raise CniError(Code.POLICY, f"container {container}: it {why}: networks cannot be attached later")
        with errors_prefixed(f"pod {pod.label}"), netns.reopened(row.netns, recorded_identity(row)) as ns:
            if ns is None:
                raise CniError(Code.UNKNOWN_CONTAINER, f"network namespace {row.netns}: it is gone")
            request = Request(
                command="ADD",
                container_id=container,
                netns=ns.path,
                ifname=master.request_ifname,
                args=master.args,
                path=master.path,
                config=master.settings,
                deadline=deadline,
            )
            times = budget.of(request, at_most=self._node.config.deadline)
            with asked_until(times.read):
                pod = read_pod(pod, self._node.cluster)
            settings = msgspec.convert(master.settings, MetaConfig)
            yield _Container(request=request, settings=settings, pod=pod, ns=ns, times=times)

    def _rows(self, here: _Container) -> list[Attachment]:
        """The container's attachments that belong to the same ADD call of the runtime."""
        rows = self._journal.attachments(here.request.container_id)
        return [row for row in rows if recorded(row).request_ifname == here.request.ifname]

    def _named_row(self, here: _Container, what: str) -> Attachment:
        """The row with that interface or network name. Raises CniError(INVALID_CONFIG, POLICY)."""
        rows = self._rows(here)
        labels = (what, f"{here.pod.namespace}/{what}")
        found = [row for row in rows if row.ifname == what] or [
            row for row in rows if recorded(row).label in labels
        ]
        if not found:
            raise CniError(Code.INVALID_CONFIG, f"it has neither an interface nor a network {what!r}")
        if len(found) > 1:
            names = " or ".join(row.ifname for row in found)
            raise CniError(Code.INVALID_CONFIG, f"it has network {what!r} {len(found)} times: expected {names}")
        delegate = recorded(found[0])
        if delegate.master or delegate.auxiliary:
            raise CniError(Code.POLICY, f"{delegate.where}: it goes with the pod, not before")
        return found[0]

    def _attach(self, here: _Container, asked: Selection, *, selected: bool) -> Attachment:
        request, ifname = here.request, asked.interface or self._free_name(here)
        with self._refusals_as_events(here.pod):
            delegate = self._resolved(here, asked, ifname=ifname, selected=selected)
            rows = self._rows(here)
            (row,) = planned(
                [delegate], container=request.container_id, netns=rows[0].netns, identity=here.ns.identity
            )
            self._journal.plan([replace(row, position=rows[-1].position + 1)])
            try:
                with errors_prefixed(delegate.where):
                    result = self._meta.attach_one(request, delegate)
                self._report(here)
            except BaseException as error:
                raise self._meta.undone(request, error, self._row(here, ifname)) from error
        self._meta.tell_added(here.pod, delegate, result)
        return self._row(here, ifname)[0]

    def _resolved(self, here: _Container, asked: Selection, *, ifname: str, selected: bool) -> Delegate:
        """The delegate of the network, after all checks that need no change of the node."""
        if asked.default_route is not None:
            raise CniError(
                Code.POLICY,
                f'network {asked.label}: key "default-route": a pod that runs keeps the default route that it has',
            )
        devices = [(each.resource, each.device) for each in map(recorded, self._rows(here)) if each.device]
        with asked_until(here.times.read):
            delegate = self._meta.resolver.later(
                here.request, here.settings, here.pod, asked, ifname=ifname, taken=devices, selected=selected
            )
        checks.check([delegate], self._chain)
        checks.check_interfaces([delegate], here.ns)
        here.request.check_deadline()
        return delegate

    def _free_name(self, here: _Container) -> str:
        """The first free name of net1, net2 ... (from firstInterface), used by no attachment and no interface."""
        with Rtnl(netns_fd=here.ns.fd) as inside:
            taken = {name for link in inside.links() for name in (link.name, *link.altnames)}
        taken |= {row.ifname for row in self._rows(here)}
        return next(name for n in count(here.settings.first_interface) if (name := f"net{n}") not in taken)

    def _row(self, here: _Container, ifname: str) -> list[Attachment]:
        return [row for row in self._rows(here) if row.ifname == ifname]

    def _detach(self, here: _Container, row: Attachment) -> None:
        delegate = recorded(row)
        # Write network-status first: if that fails, the attachment is still there and detach can be repeated.
        told = self._report(here, without=row.ifname)
        self._meta.remove([row], here.request.derive(command="DEL"))
        if not told:  # a write that was retried meanwhile still contained the attachment
            self._meta.reporter.owe(here.request, here.pod, f"{delegate.where} was detached meanwhile")
        self._meta.tell(here.pod, "RemovedInterface", f"Remove {row.ifname} from {delegate.label}")

    def _report(self, here: _Container, *, without: str = "") -> bool:
        """Write network-status; return False if that was deferred because the API server did not answer."""
        rows = self._rows(here)
        made = attached(rows, rows[0], without=without)
        with errors_prefixed("network-status"):
            return self._meta.reporter.report(here.request, here.pod, made, until=here.times.report)

    @contextmanager
    def _refusals_as_events(self, pod: Pod) -> Iterator[None]:
        """Create an event of the pod for a CniError raised inside."""
        try:
            yield
        except CniError as error:
            self._meta.tell(pod, *refusal(error), warning=True)
            raise


def difference(wanted: Sequence[Selection], rows: Sequence[Attachment]) -> tuple[list[Selection], list[Attachment]]:
    """Return the selections to attach and the rows to detach.

    A selection matches a row if both name the same network and the selection names the row's interface or none. To
    detach are rows from the annotation that no selection matches, and those whose ADD or DEL did not finish.
    """
    left = [row for row in rows if recorded(row).selected]
    whole = [row for row in left if row.step == AttachmentStep.ADDED]
    matched: set[int] = set()
    for number, asked in sorted(enumerate(wanted), key=lambda item: not item[1].interface):
        for row in whole:
            if recorded(row).label == asked.label and asked.interface in ("", row.ifname):
                whole.remove(row)
                left.remove(row)
                matched.add(number)
                break
    return [asked for number, asked in enumerate(wanted) if number not in matched], left


def _attempt(change: Callable[[], object], errors: list[CniError]) -> None:
    try:
        change()
    except CniError as error:
        errors.append(error)

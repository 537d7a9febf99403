"""Hotplug: attach and detach networks of a running container, by hand or when the pod's annotation changes.

A hotplugged network has a row in the journal like any other, so the pod's CHECK, DEL and GC find it. The inputs of
the runtime's ADD are read from the journal. The caller must serialize the calls of one container.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

import msgspec

from wirespeed import errors
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind, Thing
from wirespeed.kernel import netns
from wirespeed.kernel.netns import NetNs
from wirespeed.kube.cluster import retry_until
from wirespeed.node import Node
from wirespeed.plugins.meta import budget, checks, selection
from wirespeed.plugins.meta.config import MetaConfig
from wirespeed.plugins.meta.delegate import Delegate, planned_rows, recorded_delegate, recorded_identity
from wirespeed.plugins.meta.meta import Meta, error_context
from wirespeed.plugins.meta.reporter import attached_networks
from wirespeed.plugins.meta.resolve import Pod, named_pod, read_pod
from wirespeed.plugins.meta.selection import Selection
from wirespeed.state.journal import Attachment, AttachmentStep
from wirespeed.trace import name_pod, step

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

    def attach(self, container: str, text: str, *, deadline: float) -> Attachment:
        """Attach a network, given as in the annotation; return its row. Raises Error, with everything undone."""
        with self._open_container(container, deadline) as target:
            asked = selection.parse(text, namespace=target.pod.namespace)
            if len(asked) != 1:
                raise Error(Kind.INVALID_CONFIG, expected="one network", got=len(asked))
            return self._attach(target, asked[0], selected=False)

    def detach(self, container: str, what: str, *, deadline: float) -> Attachment:
        """Detach a network, given by interface or [<namespace>/]<name>; return its row, which an Error leaves."""
        with self._open_container(container, deadline) as target:
            row = self._named_row(target, what)
            self._detach(target, row)
        return row

    def follow(self, container: str, *, deadline: float) -> None:
        """Attach the networks that were added to the pod's annotation, detach those that were removed from it.

        Continues after errors; raises the first with the others appended. A change of an element's other keys
        (ips, mac ...) has no effect. Networks attached by hand or by the configuration are not detached.
        """
        with self._open_container(container, deadline) as target:
            if target.pod.found["metadata"].get("deletionTimestamp"):
                return
            text = target.pod.annotation(selection.NETWORKS)
            with self._meta.errors_as_events(target.pod):
                wanted = selection.parse(text, namespace=target.pod.namespace)
            to_attach, to_detach = difference(wanted, self._meta.rows(target.request))
            found = errors.collect_errors(partial(self._detach, target, row) for row in reversed(to_detach))
            found += errors.collect_errors(
                partial(self._attach, target, asked, selected=True) for asked in to_attach
            )
        if found:
            raise errors.combine(found)

    @contextmanager
    def _open_container(self, container: str, deadline: float) -> Iterator[_Container]:
        """Open the container for hotplug; errors inside are prefixed with its pod.

        Raises Error: NOT_ATTACHED; TRY_AGAIN while its ADD or DEL is unfinished; POLICY without a pod or settings.
        """
        where = Thing("container", container)
        with step("find the attachments"):
            rows = self._journal.attachments(container)
            row = next((row for row in rows if recorded_delegate(row).master), None)
        if row is None:
            raise Error(Kind.NOT_ATTACHED, "not attached", where=where)
        master = recorded_delegate(row)
        pod = named_pod(master.args)
        if row.step != AttachmentStep.ADDED:
            raise Error(Kind.TRY_AGAIN, "its ADD or DEL has not finished", where=where)
        if pod is None or not master.settings:
            why = "belongs to no pod" if pod is None else "was attached by another version"
            raise Error(Kind.POLICY, f"networks cannot be attached later: it {why}", where=where)
        name_pod(pod.label, pod.uid)
        with error_context(Thing("pod", pod.label)), netns.reopened(row.netns, recorded_identity(row)) as ns:
            if ns is None:
                raise Error(Kind.NOT_ATTACHED, "it is gone", where=Thing("network namespace", row.netns))
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
            with retry_until(times.read), step("read the pod"):
                pod = read_pod(pod, self._node.cluster)
            settings = msgspec.convert(master.settings, MetaConfig)
            yield _Container(request=request, settings=settings, pod=pod, ns=ns, times=times)

    def _named_row(self, target: _Container, what: str) -> Attachment:
        """The row with that interface or network name. Raises Error(INVALID_CONFIG, POLICY)."""
        rows = self._meta.rows(target.request)
        labels = (what, f"{target.pod.namespace}/{what}")
        found = [row for row in rows if row.ifname == what] or [
            row for row in rows if recorded_delegate(row).label in labels
        ]
        if not found:
            raise Error(Kind.INVALID_CONFIG, f"it has neither an interface nor a network {what!r}")
        if len(found) > 1:
            names = " or ".join(row.ifname for row in found)
            raise Error(Kind.INVALID_CONFIG, f"it has network {what!r} {len(found)} times", expected=names)
        delegate = recorded_delegate(found[0])
        if delegate.master or delegate.auxiliary:
            raise Error(Kind.POLICY, "it is detached only with the pod", where=delegate.where)
        return found[0]

    def _attach(self, target: _Container, asked: Selection, *, selected: bool) -> Attachment:
        request, ifname = target.request, asked.interface or self._free_name(target)
        with self._meta.errors_as_events(target.pod):
            delegate = self._checked_delegate(target, asked, ifname=ifname, selected=selected)
            with step("write the plan"):
                rows = self._meta.rows(request)
                (row,) = planned_rows([delegate], request.container_id, rows[0].netns, target.ns.identity)
                self._journal.plan([replace(row, position=rows[-1].position + 1)])
            try:
                with error_context(delegate.where):
                    result = self._meta.attach_one(request, delegate)
                self._report(target)
            except BaseException as error:
                raise self._meta.roll_back(request, error, self._rows_named(target, ifname)) from error
        with step("send events"):
            self._meta.send_added_event(target.pod, delegate, result)
        return self._rows_named(target, ifname)[0]

    def _checked_delegate(self, target: _Container, asked: Selection, *, ifname: str, selected: bool) -> Delegate:
        """Resolve the network and run all checks that do not change the node."""
        if asked.default_route is not None:
            where = Thing("network", asked.label)
            raise Error(Kind.POLICY, "a running pod keeps its default routes", where=where, key="default-route")
        attached = map(recorded_delegate, self._meta.rows(target.request))
        devices = [(each.resource, each.device) for each in attached if each.device]
        with retry_until(target.times.read), step("resolve the network"):
            delegate = self._meta.resolver.hotplug_delegate(
                target.request, target.settings, target.pod, asked, ifname=ifname, taken=devices, selected=selected
            )
        with step("check the network"):
            checks.check([delegate], self._meta.chain)
            checks.check_interfaces([delegate], target.ns)
        target.request.check_deadline()
        return delegate

    def _free_name(self, target: _Container) -> str:
        """The first free name of net1, net2 ... (from firstInterface), used by no attachment and no interface."""
        taken = checks.interface_names(target.ns) | {row.ifname for row in self._meta.rows(target.request)}
        return next(name for n in count(target.settings.first_interface) if (name := f"net{n}") not in taken)

    def _rows_named(self, target: _Container, ifname: str) -> list[Attachment]:
        return [row for row in self._meta.rows(target.request) if row.ifname == ifname]

    def _detach(self, target: _Container, row: Attachment) -> None:
        delegate = recorded_delegate(row)
        # Write network-status first: if that fails, the attachment is still there and detach can be repeated.
        written = self._report(target, without=row.ifname)
        self._meta.remove([row], target.request.derive(command="DEL"))
        if not written:  # a retry meanwhile may have written a status that still contains the attachment
            self._meta.reporter.defer(target.request, target.pod, f"{delegate.where} was detached meanwhile")
        with step("send events"):
            self._meta.send_event(target.pod, "RemovedInterface", f"Remove {row.ifname} from {delegate.label}")

    def _report(self, target: _Container, *, without: str = "") -> bool:
        """Write network-status; return False if that was deferred because the API server did not answer."""
        rows = self._meta.rows(target.request)
        attached = attached_networks(rows, rows[0], without=without)
        with error_context("network-status"), step("write network-status"):
            return self._meta.reporter.report(target.request, target.pod, attached, until=target.times.report)


def difference(wanted: Sequence[Selection], rows: Sequence[Attachment]) -> tuple[list[Selection], list[Attachment]]:
    """Return the selections to attach and the rows to detach.

    A selection matches a row if both name the same network and the selection names the row's interface or none. To
    detach are rows from the annotation that no selection matches, and those whose ADD or DEL did not finish.
    """
    left = [row for row in rows if recorded_delegate(row).selected]
    whole = [row for row in left if row.step == AttachmentStep.ADDED]
    new = list(wanted)
    for asked in sorted(wanted, key=lambda each: not each.interface):
        for row in whole:
            if recorded_delegate(row).label == asked.label and asked.interface in ("", row.ifname):
                whole.remove(row)
                left.remove(row)
                new.remove(asked)
                break
    return new, left

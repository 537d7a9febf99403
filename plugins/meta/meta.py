"""The CNI verbs of the meta-plugin.

ADD resolves the networks, checks them, writes the plan into the journal, attaches, and writes network-status. The
other verbs work from the journal: DEL undoes every attachment that was begun, CHECK compares the pod with the
recorded results, GC removes the attachments that the runtime no longer lists. A row is deleted from the journal
only after its DEL has succeeded, so a later DEL can always finish what failed or was killed. After a reboot the
rows are restored from the records on disk.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import groupby
from pathlib import Path

from wirespeed import errors
from wirespeed.cni.chain import UNDO_TIME, Chain, load_network
from wirespeed.cni.errors import NotUndoneError
from wirespeed.cni.orphans import kill_orphans
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind, Thing
from wirespeed.ipam.leases import release_lost
from wirespeed.kernel import netns
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netns import NetNs
from wirespeed.kube import deviceinfo
from wirespeed.kube.cluster import Event, NotFoundError, retry_until
from wirespeed.node import Node
from wirespeed.plugins.meta import budget, checks, config, gateway, readiness, requests
from wirespeed.plugins.meta.delegate import (
    Delegate,
    netns_gone,
    of_earlier_boot,
    planned_rows,
    recorded_delegate,
    recorded_identity,
)
from wirespeed.plugins.meta.detach import detach
from wirespeed.plugins.meta.reporter import Reporter
from wirespeed.plugins.meta.resolve import Pod, Resolver, named_pod, read_pod
from wirespeed.plugins.meta.restore import record_all, restore
from wirespeed.state.journal import Attachment, AttachmentStep
from wirespeed.trace import name_pod, step

log = logging.getLogger(__name__)

_PATIENCE = 1.0  # seconds to wait, at the start, for another process that has the lock of a network's leases


class Meta:
    """The meta-plugin (`wirespeed.cni.plugin.Plugin`): attaches and detaches all networks of a container."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._journal = node.journal
        self._leases = Path(node.config.leases)
        self.chain = Chain(node.plugins, node.reference_plugin)
        self.reporter = Reporter(node, self.send_event)
        self.resolver = Resolver(
            chain=self.chain,
            cluster=lambda: node.cluster,
            devices_of=lambda pod: node.devices.of(pod.found, pod.uid),
            is_served=lambda pod, resource: node.devices.serves(pod.found, resource),
            ignored=self._report_ignored,
            devinfo=Path(node.config.devinfo),
        )
        if not node.once:
            restore(self._journal)
            record_all(self._journal)
            try:
                release_lost(self._leases, deadline=time.monotonic() + _PATIENCE)
            except Error as error:
                log.warning("%s; addresses whose lease has no content are not released", error.msg)
            _ = node.devices, node.pod_resources  # import now: it would slow down the first call

    # ADD

    def add(self, request: Request) -> Result:
        with step("read the configuration"):
            settings = config.load(request.config)
            pod = named_pod(request.args)
            times = budget.of(request, at_most=self._node.config.deadline)
        with error_context(Thing("container", request.container_id) if pod is None else Thing("pod", pod.label)):
            if pod is not None:
                with retry_until(times.read), step("read the pod"):
                    pod = read_pod(pod, self._node.cluster)
                name_pod(pod.label, pod.uid)
            with self.errors_as_events(pod):
                return self._add(request, settings, pod, times)

    def _add(self, request: Request, settings: config.MetaConfig, pod: Pod | None, times: budget.Budget) -> Result:
        with retry_until(times.read), step("resolve the networks"):
            delegates = self.resolver.delegates(request, settings, pod)
        with ExitStack() as opened:
            with step("check the networks"):
                checks.check(delegates, self.chain)
                ns = opened.enter_context(netns.opened(request.netns))
                checks.check_interfaces(delegates, ns)
            with step("write the plan"):
                request.check_deadline()
                planned = planned_rows(delegates, request.container_id, request.netns, ns.identity)
                self._plan(request, planned)
            try:
                results = self._attach(request, delegates, ns)
                if pod is not None:
                    attached = [(delegate, results[delegate.ifname]) for delegate in delegates]
                    with error_context("network-status"), step("write network-status"):
                        self.reporter.report(request, pod, attached, until=times.report)
            except BaseException as error:
                raise self.roll_back(request, error, self.rows(request)) from error
        with step("send events"):
            for delegate in delegates:
                if not delegate.auxiliary:
                    self.send_added_event(pod, delegate, results[delegate.ifname])
        return results[delegates[0].ifname]

    def _plan(self, request: Request, rows: Sequence[Attachment]) -> None:
        """Write the plan into the journal; first undo what the container held before a reboot.

        Some runtimes use the same container id again after a reboot without a DEL for the old sandbox.
        """
        if self._node.once:
            restore(self._journal, request.container_id)
        try:
            self._journal.plan(rows)
        except Error as error:
            old = [row for row in self._journal.attachments(request.container_id) if of_earlier_boot(row)]
            if error.kind != Kind.INTERFACE or not old:
                raise
            self.remove(old, request.derive(command="DEL"))
            self._journal.plan(rows)

    def _attach(self, request: Request, delegates: Sequence[Delegate], ns: NetNs) -> dict[str, Result]:
        """Attach the networks in order; return the results by interface."""
        results: dict[str, Result] = {}
        for delegate in delegates:
            with error_context(delegate.where):
                results[delegate.ifname] = self.attach_one(request, delegate)
        for delegate in delegates:
            if delegate.default_route is not None:
                with error_context(delegate.where), _step("replace default routes", delegate):
                    changed = gateway.replace_default_routes(ns, delegate.ifname, delegate.default_route, results)
                for ifname, result in changed.items():
                    self._journal.mark(request.container_id, ifname, AttachmentStep.ADDED, result)
                results |= changed
        return results

    def attach_one(self, request: Request, delegate: Delegate) -> Result:
        """Attach a network of the journal. After an Error, its row is "planned" if all is undone, else "adding"."""
        with _step("attach", delegate):
            return self._attach_one(request, delegate)

    def _attach_one(self, request: Request, delegate: Delegate) -> Result:
        container, ifname = request.container_id, delegate.ifname
        self._journal.mark(container, ifname, AttachmentStep.ADDING)
        try:
            result = self.chain.add(delegate.network(), delegate.request(request, netns=request.netns))
        except NotUndoneError:
            raise  # the row stays "adding": a DEL must finish the undo
        except Error:
            self._journal.mark(container, ifname, AttachmentStep.PLANNED)  # fully undone
            raise
        self._journal.mark(container, ifname, AttachmentStep.ADDED, result)
        return result

    def send_event(self, pod: Pod | None, reason: str, message: str, *, warning: bool = False) -> None:
        """Create a Kubernetes event for the pod, if events are enabled."""
        if pod is not None and self._node.config.cluster.events:
            uid = pod.found["metadata"].get("uid") or pod.uid
            self._node.cluster.event(
                Event(
                    namespace=pod.namespace, name=pod.name, uid=uid, reason=reason, message=message, warning=warning
                )
            )

    @contextmanager
    def errors_as_events(self, pod: Pod | None) -> Iterator[None]:
        """Create an event of the pod for an Error raised inside."""
        try:
            yield
        except Error as error:
            reason = "NoNetworkFound" if isinstance(error, NotFoundError) else "AttachFailed"
            self.send_event(pod, reason, error.msg, warning=True)
            raise

    def send_added_event(self, pod: Pod | None, delegate: Delegate, result: Result) -> None:
        """Create the event of a successful attachment, and a warning per unmet request of the pod."""
        addresses = " ".join(ip["address"] for ip in result["ips"])
        self.send_event(pod, "AddedInterface", f"Add {delegate.ifname} [{addresses}] from {delegate.label}")
        for message in requests.unmet_requests(delegate, result):
            log.warning("%s%s", f"pod {pod.label}: " if pod else "", message)
            self.send_event(pod, "RequestNotMet", message, warning=True)

    def _report_ignored(self, pod: Pod, faults: Sequence[Error]) -> None:
        """Report parts of the pod's annotation that have no effect: as an event, or in the log without events."""
        if not self._node.config.cluster.events:
            for fault in faults:
                config.warn(fault.within(Thing("pod", pod.label)))
        self.send_event(pod, "RequestIgnored", "; ".join(map(str, faults)), warning=True)

    def roll_back(self, request: Request, error: BaseException, rows: Sequence[Attachment]) -> Error:
        """Undo the attachments of a failed call; return the error to raise (with failures of the undo)."""
        failure = error if isinstance(error, Error) else Error(Kind.INTERNAL, type(error).__name__)
        deadline = max(request.deadline, time.monotonic() + UNDO_TIME)
        try:
            with step("undo"):
                self.remove(rows, request.derive(command="DEL", deadline=deadline))
        except Error as left:
            self._node.undone.increase("meta", "incomplete")
            log.warning("container %s: undoing ADD: %s; DEL or GC will finish it", request.container_id, left)
            return failure.with_hint(f"not undone: {left.msg}")
        self._node.undone.increase("meta", "complete")
        return failure

    # DEL

    def delete(self, request: Request) -> None:
        with step("find the attachments"):
            rows = self.rows(request)
        if rows:
            self.remove(rows, request)
        else:
            self._delete_unrecorded(request)
            self._release_unrecorded(request.container_id, request.deadline)

    def rows(self, request: Request) -> list[Attachment]:
        """The attachments made or begun by the runtime's ADD for this interface."""
        rows = self._journal.attachments(request.container_id)
        if not rows:
            restore(self._journal, request.container_id)
            rows = self._journal.attachments(request.container_id)
        return [row for row in rows if recorded_delegate(row).request_ifname == request.ifname]

    def remove(self, rows: Sequence[Attachment], request: Request) -> None:
        """Undo attachments in reverse order, continuing after errors; raises the first with the others appended."""
        interrupted = {AttachmentStep.ADDING, AttachmentStep.DELETING}  # an earlier call did not finish
        if any(row.step in interrupted for row in rows):
            with step("end plugins that are still running"):
                kill_orphans(rows[0].container, rows[0].netns, deadline=request.deadline)
        deleted = self._delete_interfaces(rows, request)
        errors.run_all(
            partial(self._remove_one, row, request, is_deleted=row.ifname in deleted) for row in reversed(rows)
        )

    def _delete_interfaces(self, rows: Sequence[Attachment], request: Request) -> set[str]:
        """Delete at once the interfaces of the networks whose DEL begins with that; return the rows' interfaces.

        Most of a DEL's time, the kernel waits until no CPU uses an interface, and for several as long as for one.
        After a failure, each network's DEL deletes its own.
        """
        if len(rows) < 2:
            return set()
        chosen = [row for row in rows if self._begins_by_deleting(row, request)]
        if len(chosen) < 2:
            return set()
        with step("delete the interfaces"), netns.reopened(chosen[0].netns, recorded_identity(chosen[0])) as ns:
            if ns is None:
                return set()
            for row in chosen:
                self._journal.mark(row.container, row.ifname, AttachmentStep.DELETING)
            try:
                with Rtnl(netns_fd=ns.fd) as pod:
                    links = [pod.link(recorded_delegate(row).cni_ifname) for row in chosen]
                    pod.delete_links([link.index for link in links if link is not None])
            except OSError as error:
                log.info("container %s: deleting its interfaces at once: %s", rows[0].container, error)
                return set()
        return {row.ifname for row in chosen}

    def _begins_by_deleting(self, row: Attachment, request: Request) -> bool:
        if row.step == AttachmentStep.PLANNED or of_earlier_boot(row):
            return False
        delegate = recorded_delegate(row)
        with suppress(Error):  # its own DEL reports it
            return self.chain.begins_by_deleting(delegate.network(), delegate.request(request, netns="").path)
        return False

    def _remove_one(self, row: Attachment, request: Request, *, is_deleted: bool) -> None:
        delegate = recorded_delegate(row)
        with error_context(delegate.where), _step("detach", delegate):
            if is_deleted:
                detach(self.chain, delegate, request, netns="", result=row.result)  # what else the network holds
            elif row.step != AttachmentStep.PLANNED:
                self._journal.mark(row.container, row.ifname, AttachmentStep.DELETING)
                self._detach(row, delegate, request)
            if delegate.device_info_file:
                deviceinfo.remove(Path(delegate.device_info_file))
            self._journal.forget(row.container, row.ifname)

    def _detach(self, row: Attachment, delegate: Delegate, request: Request) -> None:
        # The netns path may name another namespace by now. Without a netns, plugins only release their resources.
        if of_earlier_boot(row):
            detach(self.chain, delegate, request, netns="", result=row.result, same_boot=False)
            return
        with ExitStack() as opened:
            with step("find the network namespace"):
                ns = opened.enter_context(netns.reopened(row.netns, recorded_identity(row)))
            detach(self.chain, delegate, request, netns=ns.path if ns else "", result=row.result)

    def _delete_unrecorded(self, request: Request) -> None:
        """DEL of a container that is neither in the journal nor in the records.

        Usually nothing was attached, or it is undone already. But the record may be lost, or another program
        attached the container, and addresses may still be leased on disk. DEL therefore runs for the networks of
        the configuration, which releases their addresses; GC releases those of networks that the pod asked for.
        No netns is passed: its path may name another container's namespace by now.
        """
        with step("resolve the networks"):
            delegates = self._configured_delegates(request)
        errors.run_all(partial(self._delete_configured, delegate, request) for delegate in reversed(delegates))

    def _delete_configured(self, delegate: Delegate, request: Request) -> None:
        try:
            checks.check([delegate], self.chain)
        except Error as error:
            log.warning("container %s is not known, and cannot be detached: %s", request.container_id, error)
            return
        with error_context(delegate.where), _step("detach", delegate):
            detach(self.chain, delegate, request, netns="", same_boot=False)

    def _release_unrecorded(self, container: str, deadline: float) -> None:
        """Release the addresses of a container whose record is damaged, from all of host-local's networks."""
        if self._journal.has_only_damaged_record(container):
            log.warning("container %s: its record is damaged; releasing its addresses of host-local", container)
            with step("release addresses"):
                release_lost(self._leases, container=container, deadline=deadline)
            self._journal.records.remove(container)

    def _configured_delegates(self, request: Request) -> list[Delegate]:
        """The networks of every container, none if the configuration is invalid. Raises Error(TRY_AGAIN)."""
        try:
            settings = config.load(request.config)
            pod = named_pod(request.args)
            return self.resolver.configured_delegates(request, settings, namespace=pod.namespace if pod else None)
        except Error as error:
            if error.kind == Kind.TRY_AGAIN:
                raise
            log.warning("%s of container %s: %s", request.command, request.container_id, error)
            return []

    def collect(self, container: str, *, deadline: float) -> None:
        """Undo the attachments whose network namespace no longer exists, of a removed container. Raises Error."""
        rows = [row for row in self._journal.attachments(container) if netns_gone(row)]
        if rows:
            log.info("container %s is gone without a DEL: undoing its attachments", container)
            with error_context(Thing("container", container)):
                self.remove(rows, Request(command="DEL", container_id=container, deadline=deadline))
        else:
            self._release_unrecorded(container, deadline)

    # CHECK, STATUS, GC

    def check(self, request: Request) -> None:
        rows = self.rows(request)
        if not rows:
            where = f"container {request.container_id} {request.ifname}"
            raise Error(Kind.NOT_ATTACHED, "not attached", where=where)
        with netns.opened(request.netns) as ns:
            errors.run_all(partial(self._check_one, row, request, ns) for row in rows)

    def _check_one(self, row: Attachment, request: Request, ns: NetNs) -> None:
        delegate = recorded_delegate(row)
        with error_context(delegate.where), _step("check", delegate):
            if row.result is None:
                raise Error(Kind.DRIFT, f"its ADD or DEL did not finish: it is {row.step}")
            self.chain.check(delegate.network(), delegate.request(request, netns=ns.path), row.result)
            gateways = delegate.default_route
            if gateways is not None and (wrong := gateway.fault(ns, delegate.ifname, gateways)):
                raise Error(Kind.DRIFT, wrong, where=gateway.WHERE)

    def status(self, request: Request) -> None:
        settings = config.load(request.config)
        with errors.as_kind(Kind.UNAVAILABLE):
            self._journal.check_usable()
            readiness.check(self._node.config.readiness_indicator_file)
            self._node.cluster.check()
            delegates = self.resolver.configured_delegates(request, settings, namespace="")
            checks.check(delegates, self.chain)
            if any(delegate.resource for delegate in delegates):
                self._node.devices.check()
        for delegate in delegates:
            with error_context(delegate.where):
                self.chain.status(delegate.network(), delegate.request(request, netns=""))

    def gc(self, request: Request) -> None:
        """Undo the attachments of containers that the runtime no longer lists, then run GC of the networks.

        The runtime lists one attachment per ADD call, so all interfaces of a listed container are kept.
        """
        valid = {container for container, _ in request.valid_attachments}
        restore(self._journal)
        rows = self._journal.attachments()
        own_rows = [row for row in rows if recorded_delegate(row).configuration == request.name]
        removed = [row for row in own_rows if row.container not in valid]
        found = errors.collect_errors(
            partial(self._gc_container, container, list(group), request)
            for container, group in groupby(removed, key=lambda row: row.container)
        )
        unknown = valid - {row.container for row in rows}
        if unknown:
            # Attached before this journal existed. Their interfaces are unknown: GC would release their resources.
            log.warning(
                "GC of %s: no GC of its networks, because %d containers are not in the journal",
                request.name,
                len(unknown),
            )
        else:
            gone = {(row.container, row.ifname) for row in removed}
            kept = [row for row in rows if (row.container, row.ifname) not in gone]
            found += self._gc_networks(
                [*map(recorded_delegate, own_rows), *self._configured_delegates(request)], kept, request
            )
        if found:
            raise errors.combine(found)

    def _gc_container(self, container: str, rows: Sequence[Attachment], request: Request) -> None:
        with error_context(Thing("container", container)):
            log.info("GC of %s: container %s is gone", request.name, container)
            self.remove(rows, request.derive(container_id=container))

    def _gc_networks(
        self, delegates: Sequence[Delegate], kept: Sequence[Attachment], request: Request
    ) -> list[Error]:
        """Run GC once per network, with all its attachments in `kept` as valid; return the errors."""
        valid: dict[str, list[dict[str, str]]] = {}
        for row in kept:
            attached = recorded_delegate(row)
            attachment = {"containerID": row.container, "ifname": attached.cni_ifname}
            valid.setdefault(attached.network().name, []).append(attachment)
        once: list[Delegate] = []
        for delegate in delegates:
            if all(delegate.raw != other.raw for other in once):
                once.append(delegate)
        return errors.collect_errors(partial(self._gc_network, delegate, valid, request) for delegate in once)

    def _gc_network(self, delegate: Delegate, valid: Mapping[str, list[dict[str, str]]], request: Request) -> None:
        with error_context(Thing("network", delegate.label)):
            network = load_network(delegate.raw, version=delegate.version)
            keys = dict.fromkeys(("cni.dev/valid-attachments", "cni.dev/attachments"), valid.get(network.name, []))
            call = delegate.request(request, netns="")
            self.chain.gc(network, call.derive(ifname="", args={}, config={**request.config, **keys}))


def _step(name: str, delegate: Delegate) -> step:
    device = {"device": delegate.device} if delegate.device else {}
    return step(name, network=delegate.label, ifname=delegate.ifname, **device)


@contextmanager
def error_context(where: str | Thing) -> Iterator[None]:
    """Add `where` to an Error; log any other exception with its traceback, and raise it as Error(INTERNAL).

    A bug in handling one network or container must not keep the caller from handling the others.
    """
    try:
        yield
    except Error as error:
        raise error.within(where) from error
    except Exception as error:
        log.exception("%s", where)
        raise Error(Kind.INTERNAL, f"{type(error).__name__}: {error}", where=where) from error

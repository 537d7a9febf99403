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
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from wirespeed.cni.chain import UNDO_TIME, Chain, load_network
from wirespeed.cni.errors import CniError, Code, NotUndoneError, combined
from wirespeed.cni.orphans import end_orphans
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.kernel import netns
from wirespeed.kernel.netns import NetNs
from wirespeed.kube import deviceinfo
from wirespeed.kube.cluster import NotFoundError, PodEvent, asked_until
from wirespeed.node import Node
from wirespeed.plugins.meta import budget, checks, config, gateway, readiness, requests
from wirespeed.plugins.meta.delegate import (
    Delegate,
    departed,
    of_earlier_boot,
    planned,
    recorded,
    recorded_identity,
)
from wirespeed.plugins.meta.detach import detach
from wirespeed.plugins.meta.reporter import Reporter
from wirespeed.plugins.meta.resolve import Pod, Resolver, named_pod, read_pod
from wirespeed.plugins.meta.restore import record_all, restore
from wirespeed.state.journal import Attachment, AttachmentStep

log = logging.getLogger(__name__)


class Meta:
    """The meta-plugin (`wirespeed.cni.plugin.Plugin`): attaches and detaches all networks of a container."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._journal = node.journal
        self._chain = Chain(node.plugins)
        self.reporter = Reporter(node, self.tell)
        self.resolver = Resolver(
            chain=self._chain,
            cluster=lambda: node.cluster,
            devices_of=lambda pod: node.devices.of(pod.found, pod.uid),
            served=lambda pod, resource: node.devices.serves(pod.found, resource),
            ignored=self._tell_ignored,
            devinfo=Path(node.config.devinfo),
        )
        if not node.once:
            restore(self._journal)
            record_all(self._journal)
            _ = node.devices, node.pod_resources  # import now: it would slow down the first call

    # ADD

    def add(self, request: Request) -> Result:
        settings = config.load(request.config)
        pod = named_pod(request.args)
        times = budget.of(request, at_most=self._node.config.deadline)
        with errors_prefixed(f"container {request.container_id}" if pod is None else f"pod {pod.label}"):
            if pod is not None:
                with asked_until(times.read):
                    pod = read_pod(pod, self._node.cluster)
            try:
                return self._add(request, settings, pod, times)
            except CniError as error:
                self.tell(pod, *refusal(error), warning=True)
                raise

    def _add(self, request: Request, settings: config.MetaConfig, pod: Pod | None, times: budget.Budget) -> Result:
        with asked_until(times.read):
            delegates = self.resolver.delegates(request, settings, pod)
        checks.check(delegates, self._chain)
        with netns.opened(request.netns) as ns:
            checks.check_interfaces(delegates, ns)
            request.check_deadline()
            self._plan(
                request,
                planned(delegates, container=request.container_id, netns=request.netns, identity=ns.identity),
            )
            try:
                results = self._attach(request, delegates, ns)
                if pod is not None:
                    made = [(delegate, results[delegate.ifname]) for delegate in delegates]
                    with errors_prefixed("network-status"):
                        self.reporter.report(request, pod, made, until=times.report)
            except BaseException as error:
                raise self.undone(request, error, self._rows(request)) from error
        for delegate in delegates:
            if not delegate.auxiliary:
                self.tell_added(pod, delegate, results[delegate.ifname])
        return results[delegates[0].ifname]

    def _plan(self, request: Request, rows: Sequence[Attachment]) -> None:
        """Write the plan into the journal; first undo what the container held before a reboot.

        Some runtimes use the same container id again after a reboot without a DEL for the old sandbox.
        """
        if self._node.once:
            restore(self._journal, request.container_id)
        try:
            self._journal.plan(rows)
        except CniError as error:
            old = [row for row in self._journal.attachments(request.container_id) if of_earlier_boot(row)]
            if error.code != Code.INTERFACE or not old:
                raise
            self.remove(old, request.derive(command="DEL"))
            self._journal.plan(rows)

    def _attach(self, request: Request, delegates: Sequence[Delegate], ns: NetNs) -> dict[str, Result]:
        """Attach the networks in order; return the results by interface."""
        results: dict[str, Result] = {}
        for delegate in delegates:
            with errors_prefixed(delegate.where):
                results[delegate.ifname] = self.attach_one(request, delegate)
        for delegate in delegates:
            if delegate.default_route is not None:
                with errors_prefixed(delegate.where):
                    changed = gateway.give(ns, delegate.ifname, delegate.default_route, results)
                for ifname, result in changed.items():
                    self._journal.mark(request.container_id, ifname, AttachmentStep.ADDED, result)
                results |= changed
        return results

    def attach_one(self, request: Request, delegate: Delegate) -> Result:
        """Attach a network that is already in the journal.

        Raises CniError; the row is then "planned" if nothing is left, else "adding" (see NotUndoneError).
        """
        container, ifname = request.container_id, delegate.ifname
        self._journal.mark(container, ifname, AttachmentStep.ADDING)
        try:
            result = self._chain.add(
                delegate.network(), delegate.request(request, netns=request.netns), delegate.runtime_config
            )
        except NotUndoneError:
            raise  # the row stays "adding": a DEL must finish the undo
        except CniError:
            self._journal.mark(container, ifname, AttachmentStep.PLANNED)  # fully undone
            raise
        self._journal.mark(container, ifname, AttachmentStep.ADDED, result)
        return result

    def tell(self, pod: Pod | None, reason: str, message: str, *, warning: bool = False) -> None:
        """Create a Kubernetes event for the pod, if events are enabled."""
        if pod is not None and self._node.config.cluster.events:
            uid = pod.found["metadata"].get("uid") or pod.uid
            self._node.cluster.event(
                PodEvent(
                    namespace=pod.namespace, name=pod.name, uid=uid, reason=reason, message=message, warning=warning
                )
            )

    def tell_added(self, pod: Pod | None, delegate: Delegate, result: Result) -> None:
        """Create the event of a successful attachment, and one for each request of the pod that was not met."""
        self.tell(pod, "AddedInterface", addition(delegate, result))
        for message in requests.unmet(delegate, result):
            log.warning("%s%s", f"pod {pod.label}: " if pod else "", message)
            self.tell(pod, "RequestNotMet", message, warning=True)

    def _tell_ignored(self, pod: Pod, text: str) -> None:
        """Report parts of the pod's annotation that have no effect: as an event, or in the log without events."""
        if not self._node.config.cluster.events:
            config.warn(f"pod {pod.label}: {text}")
        self.tell(pod, "RequestIgnored", text, warning=True)

    def undone(self, request: Request, error: BaseException, rows: Sequence[Attachment]) -> CniError:
        """Undo the attachments of a failed call; return the error to raise, with what could not be undone."""
        told = error if isinstance(error, CniError) else CniError(Code.INTERNAL, type(error).__name__)
        deadline = max(request.deadline, time.monotonic() + UNDO_TIME)
        try:
            self.remove(rows, request.derive(command="DEL", deadline=deadline))
        except CniError as left:
            log.warning("container %s: undoing ADD: %s; DEL or GC will finish it", request.container_id, left)
            return CniError(told.code, f"{told.msg}; not undone: {left.msg}", told.details)
        return told

    # DEL

    def delete(self, request: Request) -> None:
        rows = self._rows(request)
        if rows:
            self.remove(rows, request)
        else:
            self._delete_unrecorded(request)

    def _rows(self, request: Request) -> list[Attachment]:
        """The attachments made or begun by the runtime's ADD for this interface."""
        rows = self._journal.attachments(request.container_id)
        if not rows:
            restore(self._journal, request.container_id)
            rows = self._journal.attachments(request.container_id)
        return [row for row in rows if recorded(row).request_ifname == request.ifname]

    def remove(self, rows: Sequence[Attachment], request: Request) -> None:
        """Undo attachments in reverse order. All are attempted; raises the first error with the others appended."""
        interrupted = {AttachmentStep.ADDING, AttachmentStep.DELETING}  # an earlier call did not finish
        if any(row.step in interrupted for row in rows):
            end_orphans(rows[0].container, rows[0].netns, deadline=request.deadline)
        errors = []
        for row in reversed(rows):
            delegate = recorded(row)
            try:
                with errors_prefixed(delegate.where):
                    if row.step != AttachmentStep.PLANNED:
                        self._journal.mark(row.container, row.ifname, AttachmentStep.DELETING)
                        self._detach(row, delegate, request)
                    self._forget(row.container, delegate)
            except CniError as error:
                errors.append(error)
        if errors:
            raise combined(errors)

    def _detach(self, row: Attachment, delegate: Delegate, request: Request) -> None:
        # The netns path may name another namespace by now. Without a netns, plugins only release their resources.
        if of_earlier_boot(row):
            detach(self._chain, delegate, request, netns="", result=row.result, same_boot=False)
            return
        with netns.reopened(row.netns, recorded_identity(row)) as ns:
            path = ns.path if ns is not None else ""
            detach(self._chain, delegate, request, netns=path, result=row.result)

    def _forget(self, container: str, delegate: Delegate) -> None:
        """Remove an undone attachment's device-info file and its journal row."""
        if delegate.device_info_file:
            with deviceinfo.io_errors(delegate.device_info_file):
                deviceinfo.remove(Path(delegate.device_info_file))
        self._journal.forget(container, delegate.ifname)

    def _delete_unrecorded(self, request: Request) -> None:
        """DEL of a container that is neither in the journal nor in the records.

        Usually nothing was attached, or it is undone already. But the record may be lost, or another program
        attached the container, and addresses may still be leased on disk. DEL therefore runs for the networks of
        the configuration, which releases their addresses; GC releases those of networks that the pod asked for.
        No netns is passed: its path may name another container's namespace by now.
        """
        errors = []
        for delegate in reversed(self._configured(request)):
            try:
                checks.check([delegate], self._chain)
            except CniError as error:
                log.warning("container %s is not known, and cannot be detached: %s", request.container_id, error)
                continue
            try:
                with errors_prefixed(delegate.where):
                    detach(self._chain, delegate, request, netns="", same_boot=False)
            except CniError as error:
                errors.append(error)
        if errors:
            raise combined(errors)

    def _configured(self, request: Request) -> list[Delegate]:
        """The networks that every container gets; none if the configuration cannot be used.

        Raises CniError(TRY_AGAIN_LATER) if a retry may succeed.
        """
        try:
            settings = config.load(request.config)
            pod = named_pod(request.args)
            return self.resolver.configured(request, settings, namespace=pod.namespace if pod else None)
        except CniError as error:
            if error.code == Code.TRY_AGAIN_LATER:
                raise
            log.warning("%s of container %s: %s", request.command, request.container_id, error)
            return []

    def collect(self, container: str, *, deadline: float) -> None:
        """Undo the container's attachments whose network namespace no longer exists. Raises CniError."""
        rows = [row for row in self._journal.attachments(container) if departed(row)]
        if rows:
            log.info("container %s is gone, and nobody has detached it", container)
            with errors_prefixed(f"container {container}"):
                self.remove(rows, Request(command="DEL", container_id=container, deadline=deadline))

    # CHECK, STATUS, GC

    def check(self, request: Request) -> None:
        rows = self._rows(request)
        if not rows:
            raise CniError(
                Code.UNKNOWN_CONTAINER, f"container {request.container_id} {request.ifname}: not attached"
            )
        errors = []
        with netns.opened(request.netns) as ns:
            for row in rows:
                try:
                    with errors_prefixed(recorded(row).where):
                        self._check_one(row, request, ns)
                except CniError as error:
                    errors.append(error)
        if errors:
            raise combined(errors)

    def _check_one(self, row: Attachment, request: Request, ns: NetNs) -> None:
        delegate = recorded(row)
        if row.result is None:
            raise CniError(Code.DRIFT, f"expected an attachment that was made, got one that is {row.step}")
        self._chain.check(
            delegate.network(), delegate.request(request, netns=ns.path), delegate.runtime_config, row.result
        )
        if delegate.default_route is not None:
            wrong = gateway.fault(ns, delegate.ifname, delegate.default_route)
            if wrong:
                raise CniError(Code.DRIFT, f"default route: {wrong}")

    def status(self, request: Request) -> None:
        settings = config.load(request.config)
        try:
            self._journal.check_usable()
            readiness.check(self._node.config.readiness_indicator_file)
            self._node.cluster.check()
            delegates = self.resolver.configured(request, settings, namespace="")
            checks.check(delegates, self._chain)
            if any(delegate.resource for delegate in delegates):
                self._node.devices.check()
        except CniError as error:
            raise CniError(Code.UNAVAILABLE, error.msg, error.details) from error
        for delegate in delegates:
            with errors_prefixed(delegate.where):
                self._chain.status(delegate.network(), delegate.request(request, netns=""))

    def gc(self, request: Request) -> None:
        """Undo the attachments of containers that the runtime no longer lists, then run GC of the networks.

        The runtime lists one attachment per ADD call, so all interfaces of a listed container are valid.
        """
        valid = {container for container, _ in request.valid_attachments}
        restore(self._journal)
        rows = self._journal.attachments()
        mine = [row for row in rows if recorded(row).configuration == request.name]
        dead = [row for row in mine if row.container not in valid]
        errors = []
        for container, group in groupby(dead, key=lambda row: row.container):
            try:
                with errors_prefixed(f"container {container}"):
                    log.info("GC of %s: container %s is gone", request.name, container)
                    self.remove(list(group), request.derive(container_id=container))
            except CniError as error:
                errors.append(error)
        unknown = valid - {row.container for row in rows}
        if unknown:
            # Attached before this journal existed. Their interfaces are unknown, so GC would treat them as invalid.
            log.warning(
                "GC of %s: networks are left alone: %d containers are not in the journal",
                request.name,
                len(unknown),
            )
        else:
            kept = [row for row in rows if row.container in valid or recorded(row).configuration != request.name]
            errors += self._collect([*map(recorded, mine), *self._configured(request)], kept, request)
        if errors:
            raise combined(errors)

    def _collect(
        self, delegates: Sequence[Delegate], kept: Sequence[Attachment], request: Request
    ) -> list[CniError]:
        """Run GC once per network, with all its attachments in `kept` as valid; return the errors."""
        valid: dict[str, list[dict[str, str]]] = {}
        for row in kept:
            delegate = recorded(row)
            attachment = {"containerID": row.container, "ifname": delegate.cni_ifname}
            valid.setdefault(delegate.network().name, []).append(attachment)
        errors = []
        done: list[dict[str, Any]] = []
        for delegate in delegates:
            if delegate.raw in done:
                continue
            done.append(delegate.raw)
            try:
                with errors_prefixed(f"network {delegate.label}"):
                    self._collect_one(delegate, valid, request)
            except CniError as error:
                errors.append(error)
        return errors

    def _collect_one(self, delegate: Delegate, valid: Mapping[str, list[dict[str, str]]], request: Request) -> None:
        network = load_network(delegate.raw, version=delegate.version)
        keys = dict.fromkeys(("cni.dev/valid-attachments", "cni.dev/attachments"), valid.get(network.name, []))
        call = delegate.request(request, netns="")
        self._chain.gc(network, call.derive(ifname="", args={}, config={**request.config, **keys}))


def refusal(error: CniError) -> tuple[str, str]:
    """Return the reason and the message of the event for a failed ADD."""
    return "NoNetworkFound" if isinstance(error, NotFoundError) else "AttachFailed", error.msg


def addition(delegate: Delegate, result: Result) -> str:
    """Return the message of the event for a successful attachment."""
    addresses = " ".join(ip["address"] for ip in result["ips"])
    return f"Add {delegate.ifname} [{addresses}] from {delegate.label}"


@contextmanager
def errors_prefixed(where: str) -> Iterator[None]:
    """Prefix CniErrors with `where`; log any other exception with its traceback and raise CniError(INTERNAL)."""
    try:
        yield
    except CniError as error:
        raise error.prefixed(where) from error
    except Exception as error:
        log.exception("%s", where)
        raise CniError(Code.INTERNAL, f"{where}: {type(error).__name__}: {error}") from error

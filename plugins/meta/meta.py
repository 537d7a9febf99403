"""The meta-plugin's verbs.

ADD: resolve, check, write the plan into the journal, act, report. Everything after reads the journal: DEL undoes
what it says was begun, CHECK holds the pod against the results in it, GC drops what the runtime no longer knows.
A row leaves the journal only when its DEL has succeeded, so whatever failed or was killed, a DEL finishes it. After
a reboot the rows come back from their records on disk.
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
from wirespeed.host import netns, readiness
from wirespeed.host.netns import NetNs
from wirespeed.kube import deviceinfo
from wirespeed.kube.cluster import NotFoundError, PodEvent, asked_until
from wirespeed.node import Node
from wirespeed.plugins.meta import budget, checks, config, gateway, requests
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
from wirespeed.state.journal import Attachment

log = logging.getLogger(__name__)


class Meta:
    """All networks of a container (`wirespeed.cni.plugin.Plugin`)."""

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
            _ = node.devices, node.pod_resources  # what they import is not for the time of a call

    # ADD

    def add(self, request: Request) -> Result:
        settings = config.load(request.config)
        pod = named_pod(request.args)
        times = budget.of(request, at_most=self._node.config.deadline)
        with named(f"container {request.container_id}" if pod is None else f"pod {pod.label}"):
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
                    with named("network-status"):
                        self.reporter.report(request, pod, made, until=times.report)
            except BaseException as error:
                raise self.undone(request, error, self._rows(request)) from error
        for delegate in delegates:
            if not delegate.auxiliary:
                self.tell_added(pod, delegate, results[delegate.ifname])
        return results[delegates[0].ifname]

    def _plan(self, request: Request, rows: Sequence[Attachment]) -> None:
        """Write the plan; what the container had before a reboot is given back first.

        Some runtimes give a container the same id after a reboot, and call no DEL for what it was.
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
        """Make the attachments in order; their results by interface."""
        results: dict[str, Result] = {}
        for delegate in delegates:
            with named(delegate.where):
                results[delegate.ifname] = self.attach_one(request, delegate)
        for delegate in delegates:
            if delegate.default_route is not None:
                with named(delegate.where):
                    changed = gateway.give(ns, delegate.ifname, delegate.default_route, results)
                for ifname, result in changed.items():
                    self._journal.mark(request.container_id, ifname, "added", result)
                results |= changed
        return results

    def attach_one(self, request: Request, delegate: Delegate) -> Result:
        """Make an attachment that is in the journal. Raises CniError; its row then says what is left of it."""
        container, ifname = request.container_id, delegate.ifname
        self._journal.mark(container, ifname, "adding")
        try:
            result = self._chain.add(
                delegate.network(), delegate.request(request, netns=request.netns), delegate.runtime_config
            )
        except NotUndoneError:
            raise  # its row says so, for what is left of it
        except CniError:
            self._journal.mark(container, ifname, "planned")  # nothing is left of it
            raise
        self._journal.mark(container, ifname, "added", result)
        return result

    def tell(self, pod: Pod | None, reason: str, message: str, *, warning: bool = False) -> None:
        """Make an event of the pod."""
        if pod is not None and self._node.config.cluster.events:
            uid = pod.found["metadata"].get("uid") or pod.uid
            self._node.cluster.event(
                PodEvent(
                    namespace=pod.namespace, name=pod.name, uid=uid, reason=reason, message=message, warning=warning
                )
            )

    def tell_added(self, pod: Pod | None, delegate: Delegate, result: Result) -> None:
        """Tell of an attachment, and of what the pod asked for and did not get."""
        self.tell(pod, "AddedInterface", addition(delegate, result))
        for message in requests.unmet(delegate, result):
            log.warning("%s%s", f"pod {pod.label}: " if pod else "", message)
            self.tell(pod, "RequestNotMet", message, warning=True)

    def _tell_ignored(self, pod: Pod, text: str) -> None:
        """Tell of what the pod asks for and does not get, though it runs."""
        if not self._node.config.cluster.events:
            config.warn(f"pod {pod.label}: {text}")
        self.tell(pod, "RequestIgnored", text, warning=True)

    def undone(self, request: Request, error: BaseException, rows: Sequence[Attachment]) -> CniError:
        """Undo these attachments of a call that failed; the error to tell, which names what could not be undone."""
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
        """The attachments that were made, or begun, by the runtime's call for this interface."""
        rows = self._journal.attachments(request.container_id)
        if not rows:
            restore(self._journal, request.container_id)
            rows = self._journal.attachments(request.container_id)
        return [row for row in rows if recorded(row).request_ifname == request.ifname]

    def remove(self, rows: Sequence[Attachment], request: Request) -> None:
        """Undo attachments, the last one first. All are attempted; raises the first error with the others named."""
        if any(row.step in {"adding", "deleting"} for row in rows):  # by a call that did not finish
            end_orphans(rows[0].container, rows[0].netns, deadline=request.deadline)
        errors = []
        for row in reversed(rows):
            delegate = recorded(row)
            try:
                with named(delegate.where):
                    if row.step != "planned":
                        self._journal.mark(row.container, row.ifname, "deleting")
                        self._detach(row, delegate, request)
                    self._forget(row.container, delegate)
            except CniError as error:
                errors.append(error)
        if errors:
            raise combined(errors)

    def _detach(self, row: Attachment, delegate: Delegate, request: Request) -> None:
        # Not into what may have taken the namespace's path since: without one, plugins give back what is theirs.
        if of_earlier_boot(row):
            detach(self._chain, delegate, request, netns="", result=row.result, same_boot=False)
            return
        with netns.reopened(row.netns, recorded_identity(row)) as ns:
            path = ns.path if ns is not None else ""
            detach(self._chain, delegate, request, netns=path, result=row.result)

    def _forget(self, container: str, delegate: Delegate) -> None:
        """Drop an attachment that is no more."""
        if delegate.device_info_file:
            with deviceinfo.named(delegate.device_info_file):
                deviceinfo.remove(Path(delegate.device_info_file))
        self._journal.forget(container, delegate.ifname)

    def _delete_unrecorded(self, request: Request) -> None:
        """DEL of a container that neither the journal nor a record knows: nothing was made, or it is undone.

        Or its record is lost, or whoever attached it kept none, and addresses are leased on disk. The networks of
        the configuration are told, so that they give them up; those that the pod asked for have theirs given up by
        GC. No network namespace is named: what the path is now may be another's.
        """
        errors = []
        for delegate in reversed(self._configured(request)):
            try:
                checks.check([delegate], self._chain)
            except CniError as error:
                log.warning("container %s is not known, and cannot be detached: %s", request.container_id, error)
                continue
            try:
                with named(delegate.where):
                    detach(self._chain, delegate, request, netns="", same_boot=False)
            except CniError as error:
                errors.append(error)
        if errors:
            raise combined(errors)

    def _configured(self, request: Request) -> list[Delegate]:
        """The networks that every container has; none where the configuration cannot be used.

        Raises CniError(TRY_AGAIN_LATER) where that may be another time.
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
        """Undo what a container has whose network namespace is gone, if it is gone. Raises CniError."""
        rows = [row for row in self._journal.attachments(container) if departed(row)]
        if rows:
            log.info("container %s is gone, and nobody has detached it", container)
            with named(f"container {container}"):
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
                    with named(recorded(row).where):
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
            with named(delegate.where):
                self._chain.status(delegate.network(), delegate.request(request, netns=""))

    def gc(self, request: Request) -> None:
        """Drop the attachments of containers that the runtime no longer has, and have the networks do the same.

        The runtime knows of an attachment for each of its calls, so each interface of such a container is valid.
        """
        valid = {container for container, _ in request.valid_attachments}
        restore(self._journal)
        rows = self._journal.attachments()
        mine = [row for row in rows if recorded(row).configuration == request.name]
        dead = [row for row in mine if row.container not in valid]
        errors = []
        for container, group in groupby(dead, key=lambda row: row.container):
            try:
                with named(f"container {container}"):
                    log.info("GC of %s: container %s is gone", request.name, container)
                    self.remove(list(group), request.derive(container_id=container))
            except CniError as error:
                errors.append(error)
        unknown = valid - {row.container for row in rows}
        if unknown:
            # Attached before this journal was: their interfaces are not known, and not to be called invalid.
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
        """GC of each network once, with all attachments to it that are kept; what failed."""
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
                with named(f"network {delegate.label}"):
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
    """The reason and the message of the event that tells of an ADD that failed."""
    return "NoNetworkFound" if isinstance(error, NotFoundError) else "AttachFailed", error.msg


def addition(delegate: Delegate, result: Result) -> str:
    """The message of the event that tells of an attachment."""
    addresses = " ".join(ip["address"] for ip in result["ips"])
    return f"Add {delegate.ifname} [{addresses}] from {delegate.label}"


@contextmanager
def named(where: str) -> Iterator[None]:
    """Errors inside are led by `where`; one that is no CniError becomes one, and is logged with its traceback."""
    try:
        yield
    except CniError as error:
        raise error.prefixed(where) from error
    except Exception as error:
        log.exception("%s", where)
        raise CniError(Code.INTERNAL, f"{where}: {type(error).__name__}: {error}") from error

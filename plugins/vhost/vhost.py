"""The CNI verbs of the vhost-user plugin.

ADD checks the configuration, claims the port in the journal, then creates the folder, the port, and the data for
the application. DEL undoes what the journal contains. If the switch is down, the claim stays in the journal at
step REMOVING, and the next ADD or GC with that switch removes the port: a switch that is down does not block the
deletion of a pod. After any other error, DEL undoes the rest and fails; the claim stays until a DEL or GC has
undone everything.
"""

from __future__ import annotations

import json
import logging
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from wirespeed import extras
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind, Thing, as_kind, collect_errors, combine, run_all
from wirespeed.extras import MissingExtraError
from wirespeed.ipam import Ipam
from wirespeed.kernel import netns
from wirespeed.kube import deviceinfo
from wirespeed.kube.cluster import SOCKETS_VOLUME
from wirespeed.node import Node
from wirespeed.plugins.vhost import conf as configuration
from wirespeed.plugins.vhost import poddata, sockets, takeover
from wirespeed.plugins.vhost.conf import MEMIF, NONE, OVS, VPP, BandwidthKeys, VhostConf
from wirespeed.plugins.vhost.engine import (
    Engine,
    ExistingPort,
    Port,
    SocketTakenError,
    end_name,
    port_name,
    short_id,
)
from wirespeed.plugins.vhost.record import PLUGIN, VhostRecord, record_of
from wirespeed.plugins.vhost.sockets import Folder
from wirespeed.plugins.vhost.takeover import LocalFile
from wirespeed.state.claims import Claims, only_port_left
from wirespeed.state.journal import ClaimStep, DeviceClaim, DeviceTakenError
from wirespeed.state.locks import device_lock
from wirespeed.switches.switch import SwitchDownError, UnreachableError
from wirespeed.trace import step

log = logging.getLogger(__name__)

_UNDO_TIME = 5.0  # seconds allowed for undoing a failed ADD, even after its deadline
_LOCKS = 64  # number of lock files; attachments with the same hash share one


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A checked attachment: its port, and the socket `file` in its `folder`."""

    port: Port
    folder: Folder
    file: str

    @property
    def path(self) -> str:
        """The path of the socket on the node."""
        return f"{self.folder.path}/{self.file}"

    @property
    def data_file(self) -> str:
        return poddata.file_name(self.port.name)


class Vhost:
    """The vhost-user plugin (`wirespeed.cni.plugin.Plugin`): gives one vhost-user or memif port to a pod."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._journal = node.journal
        self._ipam = Ipam(Path(node.config.leases))
        self._devinfo = Path(node.config.devinfo)
        self._locks = Path(node.config.state).parent / "locks"
        self._engines: dict[str, Engine] = {NONE: Engine()}
        self._claims = Claims(
            node.journal,
            PLUGIN,
            lock=lambda claim, deadline: self._lock(claim.container, claim.ifname, deadline=deadline),
            undo=self._undo,
            undoing="remove the port",
        )

    def capabilities(self, config: Mapping[str, Any]) -> frozenset[str]:
        """See `wirespeed.cni.plugin.Capable`. "ips" needs an IPAM plugin that reads requested addresses."""
        ips = {"ips"} if config.get("ipam") else set()
        host = config.get("host")
        limits = {"bandwidth"} if isinstance(host, dict) and host.get("engine") == OVS else set()
        return frozenset({"mac", "CNIDeviceInfoFile"} | limits | ips)

    def add(self, request: Request) -> Result:
        with step("read the configuration"):
            conf = configuration.parse(request, self._devinfo)
            self._engine(conf.engine)  # fails here, before any change, if its extra is missing
        with ExitStack() as held:
            ns = held.enter_context(netns.opened(request.netns))
            with step("read the pod"):
                pod = self._pod(request)
            with step("choose the socket"):
                plan = self._plan(request, conf, pod)
            self._finish_removals(conf.engine, deadline=request.deadline)
            with step("claim the port", port=plan.port.name):
                held.enter_context(self._lock(request.container_id, request.ifname, deadline=request.deadline))
                claim = self._claim(request, plan, ns)
            try:
                return self._attach(request, plan, claim, pod)
            except BaseException as error:
                self._undo_add(request, claim, error)
                raise

    def delete(self, request: Request) -> None:
        with step("find the port"):
            claim = self._journal.device_of(request.container_id, request.ifname)

        def port() -> None:
            nonlocal claim
            claim = claim or self._claim_userspace_port(request)
            if claim is None:
                if not request.undo:  # while the switch is down, each attempt would leave a claim
                    self._remove_unknown(request)
            elif claim.plugin == PLUGIN:
                self._claims.undo_and_release(claim, deadline=request.deadline)

        def addresses() -> None:
            # After a reboot the claim is gone, but the restored record contains the result (prevResult).
            attached = claim is not None or "prevResult" in request.config
            self._ipam.delete(request, attached=attached)

        run_all([port, addresses])

    def check(self, request: Request) -> None:
        conf = configuration.parse(request, self._devinfo)
        claim = self._journal.device_of(request.container_id, request.ifname)
        if claim is None and (local_file := self._local_file(request)) is not None:
            wrong = self._userspace_drift(request, conf, local_file)
        elif claim is not None and claim.plugin == PLUGIN and claim.step == ClaimStep.ATTACHED:
            wrong = self._drift(request, conf, record_of(claim))
        else:
            what = f"{request.ifname} of container {request.container_id} has no port here"
            raise Error(Kind.NOT_ATTACHED, what)
        if wrong:
            raise Error(Kind.DRIFT, ", ".join(wrong), where=request.ifname)
        self._ipam.check(request)

    def _drift(self, request: Request, conf: VhostConf, record: VhostRecord) -> list[str]:
        """Return how the port and its files differ from what ADD created."""
        with netns.opened(request.netns):
            port = _port(request, conf, record.socket)
            wrong = self._engine(record.engine).drift(port, deadline=request.deadline)
        folder = record.folder or Folder(path="")
        expected = (record.files[-1], *([record.files[0]] if _switch_listens(conf) else []))
        wrong += [f"{folder.path}/{file} is gone" for file in expected if not sockets.exists(folder, file)]
        if folder.link and not Path(folder.link).exists():
            wrong.append(f"the short path {folder.link} is gone")
        return wrong

    def gc(self, request: Request) -> None:
        conf = configuration.parse(request, self._devinfo)
        lost = self._claims.claims_of_network(request.name, keep=request.valid_attachments)
        for claim in lost:
            log.info("GC of network %s: %s of container %s", request.name, claim.device, claim.container)
        run_all(
            [
                lambda: self._finish_removals(conf.engine, deadline=request.deadline),
                *[partial(self._claims.undo_and_release, claim, deadline=request.deadline) for claim in lost],
                lambda: self._remove_unclaimed(request, conf.engine),
                lambda: self._ipam.gc(request),
            ]
        )

    def _remove_unclaimed(self, request: Request, engine_name: str) -> None:
        """Remove the network's ports that belong to no valid attachment and are not in the journal."""
        names = {port_name(*attachment) for attachment in request.valid_attachments}
        engine = self._engine(engine_name)
        for port in engine.own_ports(request.name, deadline=request.deadline):
            if port.name not in names:
                log.info("GC of network %s: port %s, which is not in the journal", request.name, port.name)
                engine.remove(port, deadline=request.deadline)

    def status(self, request: Request) -> None:
        conf = configuration.parse(request, self._devinfo)
        with as_kind(Kind.UNAVAILABLE):
            self._journal.check_usable()
            self._engine(conf.engine).status(deadline=request.deadline)
        self._ipam.status(request)

    # ADD, step by step

    def _engine(self, name: str) -> Engine:
        """Return the engine; its library is imported on first use. Raises MissingExtraError."""
        if name not in self._engines:
            where = self._node.config.vhost
            extras.need("ovs" if name == OVS else "vpp", f"engine {name}")
            if name == OVS:
                from wirespeed.plugins.vhost.ovs import Ovs  # noqa: PLC0415

                self._engines[name] = Ovs(where.ovsdb, Path(where.ovs_rundir))
            else:
                from wirespeed.plugins.vhost.vpp import Vpp  # noqa: PLC0415

                self._engines[name] = Vpp(Path(where.vpp))
        return self._engines[name]

    def _pod(self, request: Request) -> dict[str, Any] | None:
        """Return the pod; None if the call names none, or the node has no cluster.

        Raises NotFoundError, UnavailableError: without the pod, the folder for its sockets is unknown.
        """
        args = request.args
        if not args.get("K8S_POD_NAME"):
            return None
        try:
            cluster = self._node.cluster
        except Error as error:
            log.warning("%s: continuing without the pod's volumes and annotations", error.msg)
            return None
        return cluster.pod(args.get("K8S_POD_NAMESPACE", ""), args["K8S_POD_NAME"], args.get("K8S_POD_UID", ""))

    def _plan(self, request: Request, conf: VhostConf, pod: dict[str, Any] | None) -> _Plan:
        """Determine port, folder and socket. Raises Error for what can be detected before any change."""
        name = request.name if conf.engine == NONE else port_name(request.container_id, request.ifname)
        file = conf.socket_file or (f"memif-{name}.sock" if conf.kind == MEMIF else name)
        folder = self._folder(request, conf, pod)
        sockets.check_inside(folder, file)
        if conf.engine != NONE:  # without a switch, no program on the node uses the socket
            folder = sockets.with_short_path(folder, file, Path(self._node.config.vhost.sockets) / "links")
        return _Plan(port=_port(request, conf, folder.switch_path(file)), folder=folder, file=file)

    def _folder(self, request: Request, conf: VhostConf, pod: dict[str, Any] | None) -> Folder:
        """Return the folder: that of the device, else the pod's volume, else one below `sharedDir`, else one below
        the node's default folder.

        With engine "none" it is the shared folder: the pod's hostPath volume, else `sharedDir`.
        """
        where = self._node.config.vhost
        if conf.device and conf.engine != NONE:
            folder = sockets.of_device(Path(where.sockets), conf.device)
            if not Path(folder.path).is_dir():
                raise Error(
                    Kind.DEVICE,
                    f"there is no folder {folder.path}",
                    where=(Thing("network", request.name), Thing("device", conf.device)),
                    expected="a device that this node's device plugin gave to the pod from a vhostUser pool",
                )
            return folder
        volume = sockets.of_pod(pod, request, Path(self._node.config.kubelet)) if pod else None
        if conf.engine == NONE:
            if volume is not None and not volume.kubelets:
                return volume
            if volume is None and conf.shared_dir:
                return Folder(path=conf.shared_dir)
            but = f", and the pod's volume {SOCKETS_VOLUME} is an emptyDir" if volume else ""
            raise Error(
                Kind.INVALID_CONFIG,
                f"with engine none, both pods need the same folder{but}",
                where=Thing("network", request.name),
                expected=f'the key "sharedDir", or in both pods a volume {SOCKETS_VOLUME} that is a hostPath',
            )
        if volume is not None:
            return volume
        default = where.sockets
        if conf.userspace_cni:  # as in userspace-CNI: beside the switch's own sockets
            default = where.ovs_rundir if conf.engine == OVS else str(Path(where.vpp).parent)
        return sockets.container_folder(Path(conf.shared_dir or default), request.container_id)

    def _claim(self, request: Request, plan: _Plan, ns: netns.NetNs) -> DeviceClaim:
        """Claim the port in the journal; first release an old claim whose pod is gone without a DEL."""
        port, conf = plan.port, plan.port.conf
        roles = [conf.app_role] if conf.app_role else ["master", "slave"]
        if conf.engine != NONE and conf.socket_file:  # default names are unique
            self._check_socket(plan)
        for role in roles:
            claim = DeviceClaim(
                device=end_name(port.socket, role) if conf.engine == NONE else f"{conf.engine}:{port.name}",
                plugin=PLUGIN,
                container=request.container_id,
                ifname=request.ifname,
                netns=request.netns,
                identity=ns.identity,
                record=VhostRecord(
                    network=request.name,
                    engine=conf.engine,
                    bridge=conf.bridge,
                    port=port.name,
                    socket=port.socket,
                    role=role,
                    folder=plan.folder,
                    files=_files(plan, role),
                    device_info=conf.device_info_file,
                ).to_json(),
            )
            try:
                self._journal.claim(claim)
            except DeviceTakenError as error:
                owner = error.owner
                if owner.device != claim.device or netns.alive(owner.netns, owner.identity):
                    if role != roles[-1] and owner.device == claim.device:
                        continue
                    raise
                log.warning("%s: container %s is gone without a DEL", claim.device, owner.container)
                self._claims.undo_and_release_locked(owner, deadline=request.deadline)
                self._journal.claim(claim)
            return claim
        raise AssertionError("the last role was claimed or refused")

    def _check_socket(self, plan: _Plan) -> None:
        """Refuse a configured socket file that another attachment uses."""
        for other in self._journal.claims():
            if other.plugin == PLUGIN and record_of(other).socket == plan.port.socket:
                what, where = f"it belongs to {other.ifname} of container {other.container}", f"socket {plan.path}"
                raise Error(Kind.INVALID_CONFIG, what, where=where, expected="another socketfile, or none")

    def _attach(self, request: Request, plan: _Plan, claim: DeviceClaim, pod: dict[str, Any] | None) -> Result:
        conf, folder = plan.port.conf, plan.folder
        addressing = self._ipam.add(request)
        request.check_deadline()
        port = replace(plan.port, addresses=_gateways(request, addressing)) if conf.routed else plan.port
        with step("prepare the folder"):
            sockets.prepare(folder, conf.access)
        with step("create the port", engine=conf.engine, port=port.name):
            identifiers = self._engine(conf.engine).add(port, deadline=request.deadline)
            if _switch_listens(conf):
                sockets.set_access(folder, plan.file, conf.access)
        request.check_deadline()
        record = msgspec.structs.replace(record_of(claim), made=identifiers)
        with step("publish the port"):
            self._publish(request, plan, record.role, addressing, pod)
        with step("record the attachment"):
            self._journal.advance(claim, ClaimStep.ATTACHED, record.to_json())
        return _result(request, plan, addressing)

    def _publish(
        self, request: Request, plan: _Plan, role: str, addressing: Result, pod: dict[str, Any] | None
    ) -> None:
        """Publish the data for the application: in the folder, as device-info, and in the pod's annotations."""
        conf, folder = plan.port.conf, plan.folder
        data = poddata.configuration_data(request, conf, role=role, file=plan.file, addressing=addressing)
        sockets.write_file(folder, plan.data_file, json.dumps(data).encode(), conf.access)
        if conf.device_info_file:
            info = poddata.device_info(conf, folder, role=role, file=plan.file)
            deviceinfo.write(Path(conf.device_info_file), info)
        if conf.annotate and pod is not None:
            metadata = pod["metadata"]
            self._node.cluster.annotate(
                metadata["namespace"],
                metadata["name"],
                request.args.get("K8S_POD_UID", ""),
                lambda present: poddata.pod_annotations(present, data, folder.inside),
            )

    # Undoing

    def _undo_add(self, request: Request, claim: DeviceClaim, cause: BaseException) -> None:
        """Undo a failed ADD; what cannot be undone stays in the journal for DEL or GC."""
        deadline = max(request.deadline, time.monotonic() + _UNDO_TIME)
        port = not isinstance(cause, (UnreachableError, SocketTakenError))
        steps: list[Callable[[], None]] = [
            lambda: self._claims.undo_and_release_locked(claim, deadline=deadline, port=port),
            lambda: self._ipam.delete(request.derive(command="DEL"), attached=False),
        ]
        with step("undo"):
            found = collect_errors(steps)
        self._node.undone.increase(PLUGIN, "incomplete" if found else "complete")
        for error in found:
            log.error("undoing a failed ADD (%s): %s; DEL or GC will finish it", cause, error)

    def _undo(self, claim: DeviceClaim, *, deadline: float, port: bool) -> None:
        """Remove the port (with `port`) and clear the folder; see `wirespeed.state.claims.Undo`.

        After any error except that a switch is down, userspace-CNI's file of the port is kept too, because the
        journal is lost at a reboot.
        """
        record = record_of(claim)
        existing = ExistingPort(name=record.port, socket=record.socket, marked=not record.kept)
        steps: list[Callable[[], None]] = []
        if port:
            steps.append(lambda: self._engine(record.engine).remove(existing, deadline=deadline))
        if record.folder is not None:
            steps.append(partial(sockets.clear, record.folder, record.files))
        if record.device_info:
            steps.append(partial(deviceinfo.remove, Path(record.device_info)))
        errors = collect_errors(steps)
        if record.kept and only_port_left(*errors):
            path = record.folder.path if record.folder else ""
            errors += collect_errors([partial(takeover.remove_local_file, Path(record.kept), path)])
        if errors:
            raise combine(errors)

    def _remove_unknown(self, request: Request) -> None:
        """Remove the port of an attachment that is not in the journal: the switch may still have it."""
        try:
            conf = configuration.parse(request, self._devinfo)
        except Error as error:
            log.info("%s of container %s was never attached: %s", request.ifname, request.container_id, error.msg)
            return
        name = port_name(request.container_id, request.ifname)
        with self._lock(request.container_id, request.ifname, deadline=request.deadline):
            try:
                self._engine(conf.engine).remove(ExistingPort(name=name), deadline=request.deadline)
            except SwitchDownError as error:
                log.warning("port %s will be removed later, if it exists: %s", name, error.msg)
                record = VhostRecord(network=request.name, engine=conf.engine, port=name)
                self._journal.claim(_removal(request, record))
            except MissingExtraError as error:  # its ADD was probably refused for the same reason
                log.warning("port %s is left to GC, if it exists: %s", name, error.msg)

    def _finish_removals(self, engine: str, *, deadline: float) -> None:
        """Remove the ports that were left because this engine was down; other engines are not contacted."""
        self._claims.finish_removals(deadline=deadline, wanted=lambda claim: record_of(claim).engine == engine)

    # Ports of userspace-CNI

    def _local_file(self, request: Request) -> LocalFile | None:
        """Return userspace-CNI's file of this attachment; see `takeover.read_local_file`."""
        base = Path(self._node.config.vhost.userspace_dir)
        return takeover.read_local_file(base, request.container_id, request.ifname)

    def _userspace_drift(self, request: Request, conf: VhostConf, local_file: LocalFile) -> list[str]:
        """Like `_drift` for a port of userspace-CNI, ignoring the keys that userspace-CNI does not implement."""
        comparable = replace(conf, vlan=None, trunk=(), mtu=None, bandwidth=BandwidthKeys(), mirror=None)
        port = replace(_port(request, comparable, self._socket_of(local_file, request)), name=local_file.port)
        return self._engine(local_file.engine).drift(port, deadline=request.deadline)

    def _claim_userspace_port(self, request: Request) -> DeviceClaim | None:
        """Claim the port that userspace-CNI created for this attachment, as REMOVING; None if there is none."""
        with self._lock(request.container_id, request.ifname, deadline=request.deadline):
            local_file = self._local_file(request)
            if local_file is None:
                return None
            record = VhostRecord(
                network=request.name, engine=local_file.engine, port=local_file.port, kept=str(local_file.file)
            )
            if socket := self._socket_of(local_file, request):
                path, _, file = socket.rpartition("/")
                folder = Folder(path=path, ours=Path(path).name == short_id(request.container_id))
                record = msgspec.structs.replace(record, socket=socket, folder=folder, files=(file,))
            claim = _removal(request, record)
            self._journal.claim(claim)
        log.info("port %s of userspace-CNI is taken over", local_file.port)
        return claim

    def _socket_of(self, local_file: LocalFile, request: Request) -> str:
        """Return the socket's path of userspace-CNI's port, from the switch, else from the pod; "" if unknown."""
        try:
            if socket := self._engine(local_file.engine).socket_of(local_file.port, deadline=request.deadline):
                return socket
        except (SwitchDownError, MissingExtraError) as error:
            log.warning("port %s: %s", local_file.port, error.msg)
        try:
            conf = configuration.parse(request, self._devinfo)
            folder = self._folder(request, conf, self._pod(request))
        except Error as error:
            log.warning("port %s: its socket is not removed, if it exists: %s", local_file.port, error.msg)
            return ""
        file = conf.socket_file or (
            f"memif-{local_file.port}.sock" if local_file.engine == VPP else local_file.port
        )
        return f"{takeover.path_on_switch(folder)}/{file}"

    def _lock(self, container: str, ifname: str, *, deadline: float) -> AbstractContextManager[None]:
        number = zlib.crc32(f"{container} {ifname}".encode()) % _LOCKS
        return device_lock(self._locks, f"vhost-{number}", deadline=deadline)


def _port(request: Request, conf: VhostConf, socket: str) -> Port:
    return Port(
        name=port_name(request.container_id, request.ifname),
        network=request.name,
        container=request.container_id,
        ifname=request.ifname,
        socket=socket,
        conf=conf,
    )


def _files(plan: _Plan, role: str) -> tuple[str, ...]:
    """Return the attachment's files in the folder: first the socket, last the configuration data.

    On a link without a switch, the socket belongs to the master, which listens on it.
    """
    shared = plan.port.conf.engine == NONE and role != "master"
    return (plan.data_file,) if shared else (plan.file, plan.data_file)


def _switch_listens(conf: VhostConf) -> bool:
    return conf.role in {"server", "master"}


def _removal(request: Request, record: VhostRecord) -> DeviceClaim:
    """Return the claim of a pending removal: of the attachment, only the port can be left."""
    return DeviceClaim(
        device=f"{record.engine}:{record.port}",
        plugin=PLUGIN,
        container=request.container_id,
        ifname=request.ifname,
        netns=request.netns,
        identity=netns.Identity(0, 0, 0),
        step=ClaimStep.REMOVING,
        record=record.to_json(),
    )


def _gateways(request: Request, addressing: Result) -> tuple[str, ...]:
    """Return the switch's own addresses on a routed interface: the gateways, with the pod's prefix lengths."""
    found = []
    for ip in addressing.get("ips") or []:
        if not ip.get("gateway"):
            what = f"it gives no gateway for {ip['address']}, and with netType interface the switch is the gateway"
            raise Error(Kind.INVALID_CONFIG, what, where=Thing("network", request.name), key="ipam")
        found.append(f"{ip['gateway']}/{ip['address'].partition('/')[2]}")
    return tuple(found)


def _result(request: Request, plan: _Plan, addressing: Result) -> Result:
    conf = plan.port.conf
    interface: dict[str, Any] = {"name": request.ifname, "sandbox": request.netns, "socketPath": plan.path}
    interface |= {"mac": conf.mac} if conf.mac else {}
    interface |= {"mtu": conf.mtu} if conf.mtu else {}
    return {
        "interfaces": [interface],
        "ips": [{**ip, "interface": 0} for ip in addressing.get("ips") or []],
        "routes": addressing.get("routes") or [],
        "dns": addressing.get("dns") or {},
    }

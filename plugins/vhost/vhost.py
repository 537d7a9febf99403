"""The CNI verbs of the vhost-user plugin.

ADD checks the configuration, claims the port in the journal, then creates the folder, the port, and the data for
the application. DEL undoes what the journal contains. If the switch is down, its port stays in the journal as a
removal, and the next ADD or GC of that switch removes it. A switch that is down does not block the deletion of a
pod. After any other error DEL still undoes the rest, then fails; the claim stays until a DEL or GC has undone all.
"""

from __future__ import annotations

import json
import logging
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from wirespeed import extras
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.extras import MissingExtraError
from wirespeed.ipam import Ipam
from wirespeed.kernel import netns
from wirespeed.kube import deviceinfo
from wirespeed.kube.cluster import SOCKETS_VOLUME
from wirespeed.node import Node
from wirespeed.plugins.vhost import conf as configuration
from wirespeed.plugins.vhost import poddata, sockets, takeover
from wirespeed.plugins.vhost.conf import MEMIF, NONE, OVS, VPP, Bandwidth, VhostConf
from wirespeed.plugins.vhost.direct import Direct, end_name
from wirespeed.plugins.vhost.engine import Engine, Found, Port, SocketTakenError, port_name, short_id
from wirespeed.plugins.vhost.record import PLUGIN, VhostRecord, record_of
from wirespeed.plugins.vhost.sockets import Folder
from wirespeed.plugins.vhost.takeover import Kept
from wirespeed.state.claims import Claims, all_of, errors_of, only_port_left, raise_all
from wirespeed.state.journal import ClaimStep, DeviceClaim, DeviceTakenError
from wirespeed.state.locks import device_lock
from wirespeed.switches.switch import SwitchDownError, UnreachedError

log = logging.getLogger(__name__)

_UNDO_TIME = 5.0  # seconds for undoing an ADD, even if its deadline has passed
_LOCKS = 64  # number of lock files; attachments whose hash gives the same file wait for each other


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A checked attachment: its port, and the socket `file` in its `folder`."""

    port: Port
    folder: Folder
    file: str

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
        self._made: dict[str, Engine] = {NONE: Direct()}
        self._claims = Claims(node.journal, PLUGIN, lock=self._lock_of, undo=self._undo)

    def capabilities(self, config: Mapping[str, Any]) -> frozenset[str]:
        """See `wirespeed.cni.plugin.Capable`. "ips" needs an IPAM plugin that reads requested addresses."""
        ips = {"ips"} if config.get("ipam") else set()
        host = config.get("host")
        limits = {"bandwidth"} if isinstance(host, dict) and host.get("engine") == OVS else set()
        return frozenset({"mac", "CNIDeviceInfoFile"} | limits | ips)

    def add(self, request: Request) -> Result:
        conf = configuration.parse(request, self._devinfo)
        self._engine(conf.engine)  # refused here, before any change, if its extra is missing
        with netns.opened(request.netns) as ns:
            pod = self._pod(request)
            plan = self._plan(request, conf, pod)
            self._finish_removals(conf.engine, deadline=request.deadline)
            with self._lock(request.container_id, request.ifname, deadline=request.deadline):
                claim = self._claim(request, plan, ns)
                try:
                    result = self._attach(request, plan, claim, pod)
                except BaseException as error:
                    self._undo_add(request, claim, error)
                    raise
                return result

    def delete(self, request: Request) -> None:
        claim = self._journal.device_of(request.container_id, request.ifname)

        def port() -> None:
            nonlocal claim
            claim = claim or self._take_over(request)
            if claim is None:
                self._remove_unknown(request)
            elif claim.plugin == PLUGIN:
                self._claims.give_back(claim, deadline=request.deadline)

        def addresses() -> None:
            # After a reboot the claim is gone, but the restored record contains the result (prevResult).
            attached = claim is not None or "prevResult" in request.config
            self._ipam.delete(request, attached=attached)

        all_of([port, addresses])

    def check(self, request: Request) -> None:
        conf = configuration.parse(request, self._devinfo)
        claim = self._journal.device_of(request.container_id, request.ifname)
        if claim is None and (kept := self._kept(request)) is not None:
            self._check_kept(request, conf, kept)
            return
        if claim is None or claim.plugin != PLUGIN or claim.step != ClaimStep.ATTACHED:
            raise CniError(
                Code.UNKNOWN_CONTAINER, f"{request.ifname} of container {request.container_id} has no port here"
            )
        record = record_of(claim)
        with netns.opened(request.netns):
            port = _port(request, conf, record.socket)
            wrong = self._engine(record.engine).drift(port, deadline=request.deadline)
        folder = record.folder or Folder(path="")
        told = (record.files[-1], *([record.files[0]] if _switch_listens(conf) else []))
        wrong += [f"{folder.path}/{file} is gone" for file in told if not sockets.exists(folder, file)]
        if folder.link and not Path(folder.link).exists():
            wrong.append(f"the short path {folder.link} is gone")
        if wrong:
            raise CniError(Code.DRIFT, f"{request.ifname}: {', '.join(wrong)}")
        self._ipam.check(request)

    def gc(self, request: Request) -> None:
        conf = configuration.parse(request, self._devinfo)
        lost = self._claims.of_network(request.name, but=request.valid_attachments)
        for claim in lost:
            log.info("GC of network %s: %s of container %s", request.name, claim.device, claim.container)
        all_of(
            [
                lambda: self._finish_removals(conf.engine, deadline=request.deadline),
                *[partial(self._claims.give_back, claim, deadline=request.deadline) for claim in lost],
                lambda: self._remove_unclaimed(request, conf.engine),
                lambda: self._ipam.gc(request),
            ]
        )

    def _remove_unclaimed(self, request: Request, engine_name: str) -> None:
        """Remove the network's ports that no valid attachment has: no journal knows them."""
        names = {port_name(container, ifname) for container, ifname in request.valid_attachments}
        engine = self._engine(engine_name)
        for port in engine.ours(request.name, deadline=request.deadline):
            if port.name not in names:
                log.info("GC of network %s: port %s, which no journal knows", request.name, port.name)
                engine.remove(port, deadline=request.deadline)

    def status(self, request: Request) -> None:
        conf = configuration.parse(request, self._devinfo)
        try:
            self._journal.check_usable()
            self._engine(conf.engine).status(deadline=request.deadline)
        except CniError as error:
            raise CniError(Code.UNAVAILABLE, error.msg) from error
        self._ipam.status(request)

    # ADD, step by step

    def _engine(self, name: str) -> Engine:
        """Return the engine; its library is imported on first use. Raises MissingExtraError."""
        if name not in self._made:
            where = self._node.config.vhost
            extras.need("ovs" if name == OVS else "vpp", f"engine {name}")
            if name == OVS:
                from wirespeed.plugins.vhost.ovs import Ovs  # noqa: PLC0415

                self._made[name] = Ovs(where.ovsdb, Path(where.ovs_rundir))
            else:
                from wirespeed.plugins.vhost.vpp import Vpp  # noqa: PLC0415

                self._made[name] = Vpp(Path(where.vpp))
        return self._made[name]

    def _pod(self, request: Request) -> dict[str, Any] | None:
        """Return the pod; None if the call names none, or the node has no cluster.

        Raises NotFoundError, UnavailableError: without the pod, the folder for its sockets is unknown.
        """
        name = request.args.get("K8S_POD_NAME")
        if not name:
            return None
        try:
            cluster = self._node.cluster
        except CniError as error:
            log.warning("%s: going on without what the pod says", error.msg)
            return None
        namespace, uid = request.args.get("K8S_POD_NAMESPACE", ""), request.args.get("K8S_POD_UID", "")
        return cluster.pod(namespace, name, uid)

    def _plan(self, request: Request, conf: VhostConf, pod: dict[str, Any] | None) -> _Plan:
        """Determine port, folder and socket. Raises CniError for errors that are detectable before any change."""
        name = port_name(request.container_id, request.ifname)
        if conf.engine == NONE:
            file = conf.socket_file or f"memif-{request.name}.sock"
        else:
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
                raise CniError(
                    Code.DEVICE,
                    f"network {request.name}: device {conf.device}: no folder {folder.path}: expected a device of "
                    "a pool of deviceType vhostUser that this node's device plugin has given to the pod",
                )
            return folder
        volume = sockets.of_pod(pod, request, Path(self._node.config.kubelet)) if pod else None
        if conf.engine == NONE:
            if volume is not None and not volume.kubelets:
                return volume
            if volume is None and conf.shared_dir:
                return Folder(path=conf.shared_dir)
            got = "an emptyDir, which is one pod's own" if volume else "neither"
            raise CniError(
                Code.INVALID_CONFIG,
                f"network {request.name}: two pods share a folder; expected the key sharedDir, or in both pods a "
                f"volume {SOCKETS_VOLUME} that is a hostPath, got {got}",
            )
        if volume is not None:
            return volume
        default = where.sockets
        if conf.peer:  # where userspace-CNI has them: beside the switch's own sockets
            default = where.ovs_rundir if conf.engine == OVS else str(Path(where.vpp).parent)
        return sockets.below(Path(conf.shared_dir or default), request.container_id)

    def _claim(self, request: Request, plan: _Plan, ns: netns.NetNs) -> DeviceClaim:
        """Claim the port in the journal. Free a claim whose pod is gone without a DEL."""
        port, conf = plan.port, plan.port.conf
        roles = [conf.app_role] if conf.app_role else ["master", "slave"]
        if conf.engine != NONE and conf.socket_file:  # a default name is unique to the attachment
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
                self._claims.take_back(owner, deadline=request.deadline)
                self._journal.claim(claim)
            return claim
        raise AssertionError("the last role was claimed or refused")

    def _check_socket(self, plan: _Plan) -> None:
        """Refuse a configured socket file that another attachment uses."""
        for other in self._journal.claims():
            if other.plugin == PLUGIN and record_of(other).socket == plan.port.socket:
                raise CniError(
                    Code.INVALID_CONFIG,
                    f"socket {plan.folder.path}/{plan.file} is that of {other.ifname} of container "
                    f"{other.container}; expected another socketfile, or none",
                )

    def _attach(self, request: Request, plan: _Plan, claim: DeviceClaim, pod: dict[str, Any] | None) -> Result:
        conf, folder = plan.port.conf, plan.folder
        addressing = self._ipam.add(request)
        request.check_deadline()
        port = replace(plan.port, addresses=_gateways(request, addressing)) if conf.routed else plan.port
        sockets.prepare(folder, conf.access)
        made = self._engine(conf.engine).add(port, deadline=request.deadline)
        if _switch_listens(conf):
            sockets.set_access(folder, plan.file, conf.access)
        request.check_deadline()
        record = record_of(claim)
        self._tell(request, plan, record.role, addressing, pod)
        self._journal.advance(claim, ClaimStep.ATTACHED, msgspec.structs.replace(record, made=made).to_json())
        return _result(request, plan, addressing)

    def _tell(
        self, request: Request, plan: _Plan, role: str, addressing: Result, pod: dict[str, Any] | None
    ) -> None:
        """Publish the data for the application: in the folder, as device-info, and in the pod's annotations."""
        conf, folder = plan.port.conf, plan.folder
        data = poddata.configuration_data(request, conf, role=role, file=plan.file, addressing=addressing)
        sockets.write_file(folder, plan.data_file, json.dumps(data).encode(), conf.access)
        if conf.device_info_file:
            info = poddata.device_info(conf, folder, role=role, file=plan.file)
            with deviceinfo.io_errors(conf.device_info_file):
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
        port = not isinstance(cause, (UnreachedError, SocketTakenError))
        steps: list[Callable[[], None]] = [
            lambda: self._claims.take_back(claim, deadline=deadline, port=port),
            lambda: self._ipam.delete(request.derive(command="DEL"), attached=False),
        ]
        for error in errors_of(steps):
            log.error("undoing a failed ADD (%s): %s; DEL or GC will finish it", cause, error)

    def _undo(self, claim: DeviceClaim, *, deadline: float, port: bool) -> None:
        """Remove the port (with `port`) and clear the folder; see `wirespeed.state.claims.Undo`.

        After an error other than that of a switch that is down, userspace-CNI's file of the port stays too, because
        a reboot empties the journal.
        """
        record = record_of(claim)
        steps: list[Callable[[], None]] = [lambda: _clear_folder(record), lambda: _remove_device_info(record)]
        if port:
            steps.insert(0, lambda: self._engine(record.engine).remove(_found(record), deadline=deadline))
        errors = errors_of(steps)
        if only_port_left(errors):
            errors += errors_of([lambda: _forget_kept(record)])
        raise_all(errors)

    def _remove_unknown(self, request: Request) -> None:
        """Remove the port of an attachment that is not in the journal: a switch may keep it longer."""
        try:
            conf = configuration.parse(request, self._devinfo)
        except CniError as error:
            log.info("%s of container %s was never attached: %s", request.ifname, request.container_id, error.msg)
            return
        name = port_name(request.container_id, request.ifname)
        with self._lock(request.container_id, request.ifname, deadline=request.deadline):
            try:
                self._engine(conf.engine).remove(Found(name=name), deadline=request.deadline)
            except SwitchDownError as error:
                log.warning("port %s is removed later, if it is there: %s", name, error.msg)
                record = VhostRecord(network=request.name, engine=conf.engine, port=name)
                self._journal.claim(_removal(request, record))
            except MissingExtraError as error:  # most likely its ADD was refused for the same reason
                log.warning("port %s is left to GC, if it is there: %s", name, error.msg)

    def _finish_removals(self, engine: str, *, deadline: float) -> None:
        """Remove the ports that were left because this engine was down; a call waits for no other engine."""
        self._claims.finish_removals(deadline=deadline, wanted=lambda claim: record_of(claim).engine == engine)

    # Ports of userspace-CNI

    def _kept(self, request: Request) -> Kept | None:
        """Return userspace-CNI's file of this attachment, None without one. Raises as `takeover.kept`."""
        base = Path(self._node.config.vhost.userspace_dir)
        return takeover.kept(base, request.container_id, request.ifname)

    def _check_kept(self, request: Request, conf: VhostConf, kept: Kept) -> None:
        """CHECK a port of userspace-CNI, ignoring the keys that userspace-CNI does not implement."""
        made = replace(conf, vlan=None, trunk=(), mtu=None, bandwidth=Bandwidth(), mirror=None)
        port = replace(_port(request, made, self._socket_of(kept, request)), name=kept.port)
        if wrong := self._engine(kept.engine).drift(port, deadline=request.deadline):
            raise CniError(Code.DRIFT, f"{request.ifname}: {', '.join(wrong)}")
        self._ipam.check(request)

    def _take_over(self, request: Request) -> DeviceClaim | None:
        """Claim the port that userspace-CNI created for this attachment, as a removal; None if there is none."""
        with self._lock(request.container_id, request.ifname, deadline=request.deadline):
            kept = self._kept(request)
            if kept is None:
                return None
            record = VhostRecord(network=request.name, engine=kept.engine, port=kept.port, kept=str(kept.file))
            if socket := self._socket_of(kept, request):
                path, _, file = socket.rpartition("/")
                folder = Folder(path=path, ours=Path(path).name == short_id(request.container_id))
                record = msgspec.structs.replace(record, socket=socket, folder=folder, files=(file,))
            claim = _removal(request, record)
            self._journal.claim(claim)
        log.info("port %s of userspace-CNI is taken over", kept.port)
        return claim

    def _socket_of(self, kept: Kept, request: Request) -> str:
        """Return the socket's path of userspace-CNI's port, from the switch, else from the pod; "" if unknown."""
        try:
            if socket := self._engine(kept.engine).socket_of(kept.port, deadline=request.deadline):
                return socket
        except (SwitchDownError, MissingExtraError) as error:
            log.warning("port %s: %s", kept.port, error.msg)
        try:
            conf = configuration.parse(request, self._devinfo)
            folder = self._folder(request, conf, self._pod(request))
        except CniError as error:
            log.warning("port %s: its socket stays where it is, if it is there: %s", kept.port, error.msg)
            return ""
        file = conf.socket_file or (f"memif-{kept.port}.sock" if kept.engine == VPP else kept.port)
        return f"{takeover.as_switch_has_it(folder)}/{file}"

    def _lock_of(self, claim: DeviceClaim, deadline: float) -> AbstractContextManager[None]:
        return self._lock(claim.container, claim.ifname, deadline=deadline)

    @contextmanager
    def _lock(self, container: str, ifname: str, *, deadline: float) -> Iterator[None]:
        number = zlib.crc32(f"{container} {ifname}".encode()) % _LOCKS
        with device_lock(self._locks, f"vhost-{number}", deadline=deadline):
            yield


def _port(request: Request, conf: VhostConf, socket: str) -> Port:
    return Port(
        name=port_name(request.container_id, request.ifname),
        network=request.name,
        container=request.container_id,
        ifname=request.ifname,
        socket=socket,
        conf=conf,
    )


def _found(record: VhostRecord) -> Found:
    return Found(name=record.port, socket=record.socket, marked=not record.kept)


def _clear_folder(record: VhostRecord) -> None:
    if record.folder is not None:
        sockets.clear(record.folder, record.files)


def _remove_device_info(record: VhostRecord) -> None:
    if path := record.device_info:
        with deviceinfo.io_errors(path):
            deviceinfo.remove(Path(path))


def _forget_kept(record: VhostRecord) -> None:
    if record.kept:
        takeover.forget(Path(record.kept), record.folder.path if record.folder else "")


def _files(plan: _Plan, role: str) -> tuple[str, ...]:
    """Return the attachment's files in the folder: first the socket, last the configuration data.

    On a link between pods, the socket belongs to the master, which listens on it.
    """
    shared = plan.port.conf.engine == NONE and role != "master"
    return (plan.data_file,) if shared else (plan.file, plan.data_file)


def _switch_listens(conf: VhostConf) -> bool:
    return conf.role in {"server", "master"}


def _removal(request: Request, record: VhostRecord) -> DeviceClaim:
    """Return the claim of a pending removal, for an attachment of which only the port can be left."""
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
            raise CniError(
                Code.INVALID_CONFIG,
                f"network {request.name}: with netType interface the switch is the gateway; "
                f"expected IPAM to give one for {ip['address']}",
            )
        found.append(f"{ip['gateway']}/{ip['address'].partition('/')[2]}")
    return tuple(found)


def _result(request: Request, plan: _Plan, addressing: Result) -> Result:
    interface: dict[str, Any] = {
        "name": request.ifname,
        "sandbox": request.netns,
        "socketPath": f"{plan.folder.path}/{plan.file}",
    }
    interface |= {"mac": plan.port.conf.mac} if plan.port.conf.mac else {}
    interface |= {"mtu": plan.port.conf.mtu} if plan.port.conf.mtu else {}
    return {
        "interfaces": [interface],
        "ips": [{**ip, "interface": 0} for ip in addressing.get("ips") or []],
        "routes": addressing.get("routes") or [],
        "dns": addressing.get("dns") or {},
    }

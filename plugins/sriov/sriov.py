"""The CNI verbs of the SR-IOV plugin.

ADD checks the configuration, claims the VF in the journal with its current state, then changes it. DEL restores the
recorded state, wherever the VF is, and releases the claim. Every change is recorded in the journal first, so a DEL
or GC works after a crash too. If Open vSwitch is down, its port cannot be removed; the VF stays claimed until GC,
or the next ADD that requests that VF or a bridge, removes the port.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs

from wirespeed import extras
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request, pod_of
from wirespeed.devices import functions, guids, netdev, rdma, settings, snapshot
from wirespeed.devices.pci import USERSPACE_DRIVERS
from wirespeed.devices.restore import drift, restore
from wirespeed.devices.vf import Vf, find
from wirespeed.errors import Error, Kind, Thing, as_kind, run_all, within
from wirespeed.extras import MissingExtraError
from wirespeed.ipam import Ipam, addressing
from wirespeed.kernel import announce, ethtool, netns
from wirespeed.kernel.netlink.errors import as_device_error
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.vf import VfSettings
from wirespeed.kube import deviceinfo
from wirespeed.node import Node
from wirespeed.plugins.sriov import address_conflicts, infiniband, representor, rss
from wirespeed.plugins.sriov import conf as configuration
from wirespeed.plugins.sriov import vf as vfs
from wirespeed.plugins.sriov.conf import NETDEVICE, BridgePort, SriovConf, Wanted
from wirespeed.plugins.sriov.record import PLUGIN, Given, Port, SriovRecord, netdev_parent, record_of
from wirespeed.state.claims import Claims
from wirespeed.state.journal import ClaimStep, DeviceClaim
from wirespeed.state.locks import device_lock
from wirespeed.switches.switch import SwitchDownError, UnreachableError
from wirespeed.trace import step

if TYPE_CHECKING:
    from wirespeed.plugins.sriov.bridge import Bridges

log = logging.getLogger(__name__)

# Settings of the netdev: key of the configuration -> field of Wanted and of Link.
_NETDEV_KEYS = {
    "mac": "mac",
    "mtu": "mtu",
    "txQueueLen": "txqlen",
    "promisc": "promisc",
    "all_multicast": "allmulti",
    "queues": "queues",
}
# Keys that need a netdev -> field of Wanted.
_NETDEV_ONLY_KEYS = {**{key: field for key, field in _NETDEV_KEYS.items() if key != "mac"}, "rss": "rss"}

# Seconds allowed for undoing a failed ADD, even after its deadline.
_UNDO_TIME = 10.0


class Sriov:
    """The SR-IOV plugin (`wirespeed.cni.plugin.Plugin`): gives one VF or scalable function to a pod."""

    def __init__(self, node: Node) -> None:
        self._journal = node.journal
        self._ipam = Ipam(Path(node.config.leases))
        self._sysfs = Path(node.config.sysfs)
        self._devinfo = Path(node.config.devinfo)
        self._locks = Path(node.config.state).parent / "locks"
        self._ovsdb = node.config.vhost.ovsdb
        self._undone = node.undone
        self._claims = Claims(node.journal, PLUGIN, lock=self._lock, undo=self._undo)

    def _lock(self, claim: DeviceClaim, deadline: float) -> AbstractContextManager[None]:
        return device_lock(self._locks, claim.device, deadline=deadline)

    @cached_property
    def _bridges(self) -> Bridges:
        """Raises MissingExtraError."""
        extras.need("ovs", 'key "bridge"')
        from wirespeed.plugins.sriov.bridge import Bridges  # noqa: PLC0415 — only with a bridge

        return Bridges(self._ovsdb)

    def capabilities(self, config: Mapping[str, Any]) -> frozenset[str]:
        """See `wirespeed.cni.plugin.Capable`. "ips" needs an IPAM plugin that reads requested addresses."""
        name = functions.canonical(config.get("deviceID"))
        pf = functions.of_id(name, self._sysfs).physical_function if name else None
        ips = {"ips"} if config.get("ipam") else set()
        guid = {"infinibandGUID"} if pf is not None and pf.link_type == "infiniband" else set()
        return frozenset({"mac", "deviceID", "CNIDeviceInfoFile"} | ips | guid)

    def add(self, request: Request) -> Result:
        with step("read the configuration"):
            conf = configuration.parse(request, self._devinfo)
        if conf.port is not None:  # without a bridge, ADD must not wait for Open vSwitch
            _ = self._bridges  # fails here, before any change, if its extra is missing
            self._claims.finish_removals(deadline=request.deadline)
        with netns.opened(request.netns) as ns:
            with ExitStack() as held:
                with step("claim the device", device=conf.device):
                    # Fail early, before waiting for the lock: the owner may hold it while waiting for a slow IPAM.
                    self._claims.releasable_claim(conf.device, request.container_id, request.ifname)
                    self._free_address(conf, deadline=request.deadline)
                    held.enter_context(device_lock(self._locks, conf.device, deadline=request.deadline))
                    held.enter_context(as_device_error(Thing("device", conf.device)))
                    host = held.enter_context(Rtnl())
                    self._free_if_pod_is_gone(request, conf.device)
                    vf = find(host, functions.of_id(conf.device, self._sysfs), rebinding=bool(conf.driver))
                    _check_netdev_keys(request, conf, vf.where, has_netdev=_expects_netdev(conf, vf))
                    infiniband.check(vf, conf.settings)
                    claim = self._claim(request, conf, vf, ns, host)
                with self._undo_on_failure(request, claim):
                    result, vf = self._prepare_and_attach(request, conf, vf, ns, host=host, claim=claim)
            if vf.link is not None and not vf.infiniband:
                with step("announce the addresses"):
                    announce.in_background(ns, request.ifname, [ip["address"] for ip in result.get("ips", [])])
            return result

    def _prepare_and_attach(
        self, request: Request, conf: SriovConf, vf: Vf, ns: netns.NetNs, *, host: Rtnl, claim: DeviceClaim
    ) -> tuple[Result, Vf]:
        """Attach the claimed VF; return the result, and the VF as its driver has made it."""
        if conf.driver:
            with step("bind the driver", device=conf.device, driver=conf.driver):
                claim, vf = self._rebind(request, conf, vf, host, claim)
        if vf.infiniband:
            with step("set up InfiniBand", device=conf.device):
                claim, vf = self._set_up_infiniband(conf, vf, ns, host, claim, deadline=request.deadline)
        result = self._attach(request, conf, vf, ns, host)
        if not vf.infiniband and (moved := record_of(claim).rdma):
            with step("move the RDMA devices into the pod", device=conf.device):
                rdma.move(vf, moved, ns)
        with step("record the attachment"):
            self._journal.advance(claim, ClaimStep.ATTACHED)
        return result, vf

    def delete(self, request: Request) -> None:
        with step("find the device"):
            claim = self._journal.device_of(request.container_id, request.ifname)
        # After a reboot the claim is gone, but the restored record contains the result (prevResult).
        attached = claim is not None or "prevResult" in request.config
        steps: list[Callable[[], None]] = [lambda: self._ipam.delete(request, attached=attached)]
        if claim is not None and claim.plugin == PLUGIN:
            steps.insert(0, lambda: self._claims.undo_and_release(claim, deadline=request.deadline))
        elif claim is None and configuration.names_bridge(request.config) and not request.undo:
            steps.insert(0, lambda: self._remove_unclaimed_port(request))
        run_all(steps)

    def check(self, request: Request) -> None:
        conf = configuration.parse(request, self._devinfo)
        where = Thing("device", conf.device)
        claim = self._journal.device_of(request.container_id, request.ifname)
        if claim is None or claim.device != conf.device:
            raise Error(Kind.NOT_ATTACHED, "it does not belong to this attachment", where=where)
        with netns.opened(request.netns) as ns, as_device_error(where), Rtnl() as host:
            device = functions.of_id(conf.device, self._sysfs)
            record = record_of(claim)
            wanted = record.wanted.settings
            previous = request.config.get("prevResult") or {}
            if _result_interface(previous, claim.ifname)[1].get("mac") not in {None, wanted.mac}:
                wanted = replace(wanted, mac=None)  # a later plugin set another; the PF may still have the old one
            wrong = drift(host, device, record.before, record.driver, wanted)
            if record.has_netdev:
                wrong += _netdev_drift(claim, record, ns, previous)
            if conf.port is not None:
                wrong += self._port_drift(claim, conf.port, host, deadline=request.deadline)
        if wrong:
            raise Error(Kind.DRIFT, ", ".join(wrong), where=f"device {conf.device} of {request.ifname}")
        self._ipam.check(request)

    def gc(self, request: Request) -> None:
        valid = request.valid_attachments
        lost = self._claims.claims_of_network(request.name, keep=valid)
        for claim in lost:
            log.info("GC of network %s: device %s of container %s", request.name, claim.device, claim.container)
        steps: list[Callable[[], None]] = [
            partial(self._claims.undo_and_release, claim, deadline=request.deadline) for claim in lost
        ]
        if configuration.names_bridge(request.config):
            steps.append(lambda: self._bridges.sweep(request.name, valid, deadline=request.deadline))
        run_all([*steps, lambda: self._ipam.gc(request)])

    def status(self, request: Request) -> None:
        with as_kind(Kind.UNAVAILABLE):
            self._journal.check_usable()
            if configuration.names_bridge(request.config):
                self._bridges.status(deadline=request.deadline)
        self._ipam.status(request)

    # ADD, step by step

    def _free_if_pod_is_gone(self, request: Request, device: str) -> None:
        """Restore and release a VF whose pod is gone without a DEL: its network namespace no longer exists."""
        owner = self._claims.releasable_claim(device, request.container_id, request.ifname)
        if owner is None:
            return
        log.warning("device %s: container %s is gone without a DEL", device, owner.container)
        self._claims.undo_and_release_locked(owner, deadline=request.deadline)
        if self._journal.owner(device) is not None:
            port = record_of(owner).port
            bridge = port.bridge if port else "a bridge"
            what = f"its representor is still a port of {bridge}, and Open vSwitch is down"
            raise Error(Kind.TRY_AGAIN, what, where=Thing("device", device), hint="start Open vSwitch")

    def _free_address(self, conf: SriovConf, *, deadline: float) -> None:
        """Restore VFs of the same PF that have the requested address and whose pods are gone without a DEL.

        Must be called before the lock of the own VF is taken: holding two VF locks could deadlock.
        """
        pf = functions.of_id(conf.device, self._sysfs).physical_function
        if not conf.address or pf is None:
            return
        for owner in address_conflicts.claims_of_gone_pods(self._journal, pf.address, conf.address):
            if owner.device != conf.device:
                gone = f"{conf.address}: container {owner.container} is gone without a DEL"
                log.warning("device %s has %s", owner.device, gone)
                with within(Thing("device", conf.device), f"{conf.address} still belongs to a pod that is gone"):
                    self._claims.undo_and_release(owner, deadline=deadline)

    def _claim(self, request: Request, conf: SriovConf, vf: Vf, ns: netns.NetNs, host: Rtnl) -> DeviceClaim:
        claim = DeviceClaim(
            device=conf.device,
            plugin=PLUGIN,
            container=request.container_id,
            ifname=request.ifname,
            netns=request.netns,
            identity=ns.identity,
            record=SriovRecord(
                network=request.name,
                before=snapshot.take(vf if conf.settings.port_guid is None else guids.with_known_guids(vf)),
                wanted=Wanted(**{key: getattr(conf, key) for key in Wanted.__struct_fields__}),
                device_info=conf.device_info_file,
                port=_port_record(conf, vf, host),
                reset=conf.reset,
                rdma=rdma.devices(vf) if conf.rdma_isolation else {},
                override=vf.device.attribute("driver_override") if conf.driver else None,
                pod=pod_of(request.args),
            ).to_json(),
        )
        # Concurrent claims of an address on a PF must see each other.
        lock = device_lock(self._locks, f"addresses of {vf.pf.address}", deadline=request.deadline)
        with lock if conf.address else nullcontext():
            address_conflicts.check(self._journal, vf, claim)
            self._journal.claim(claim)
        return claim

    def _rebind(
        self, request: Request, conf: SriovConf, vf: Vf, host: Rtnl, claim: DeviceClaim
    ) -> tuple[DeviceClaim, Vf]:
        """Bind the VF to the requested driver; return the updated claim and VF."""
        driver = "" if conf.driver == NETDEVICE else conf.driver
        vf = vfs.rebind(host, vf, driver, timeout=_netdev_timeout(request.deadline))
        _check_netdev_keys(request, conf, vf.where, has_netdev=vf.link is not None)
        given = Given(driver=vf.driver, netdev=vf.link is not None)
        return self._record_binding(claim, given=given), vf

    def _record_binding(self, claim: DeviceClaim, **changes: Any) -> DeviceClaim:
        """Write these changes of the record, and the step BOUND, to the journal; return the updated claim."""
        claim = replace(claim, record=structs.replace(record_of(claim), **changes).to_json())
        self._journal.advance(claim, ClaimStep.BOUND, claim.record)
        return claim

    def _set_up_infiniband(
        self, conf: SriovConf, vf: Vf, ns: netns.NetNs, host: Rtnl, claim: DeviceClaim, *, deadline: float
    ) -> tuple[DeviceClaim, Vf]:
        """Set the requested GUIDs and move the RDMA devices into the pod; return the updated claim and VF.

        The driver reads GUIDs only when it binds. Both steps make the kernel recreate the netdev on the host.
        """
        timeout = _netdev_timeout(deadline)
        if conf.settings.port_guid is not None and vf.link is not None:
            guids = VfSettings(node_guid=conf.settings.node_guid, port_guid=conf.settings.port_guid)
            settings.apply(host, vf, guids)
            with self._rdma_lock(deadline=deadline):
                vf = vfs.reprobe(host, vf, timeout=timeout)
            moved = rdma.devices(vf) if conf.rdma_isolation else {}
            claim = self._record_binding(claim, rdma=moved)
        if moved := record_of(claim).rdma:
            rdma.move(vf, moved, ns)
            vf = vfs.wait_for_netdev(host, vf, timeout=timeout)
        return claim, vf

    def _rdma_lock(self, *, deadline: float) -> AbstractContextManager[None]:
        """Return the lock for recreating RDMA devices: two at once could swap names (mlx5_0 ...)."""
        return device_lock(self._locks, "rdma", deadline=deadline)

    def _attach(self, request: Request, conf: SriovConf, vf: Vf, ns: netns.NetNs, host: Rtnl) -> Result:
        # Addresses first, because they are easy to release. Only dhcp needs the interface to exist.
        ipam_after_move = _ipam_type(request) == "dhcp"
        given = {} if ipam_after_move else self._ipam.add(request)
        request.check_deadline()
        with step("set up the device", device=conf.device):
            deferred = settings.apply(host, vf, conf.settings)
            self._write_device_info(conf, vf)
        interface: dict[str, Any] = {"name": request.ifname, "sandbox": request.netns}
        interface |= {"pciID": vf.pci_address} if vf.pci_address else {}
        if conf.port is not None:
            with step("attach the representor", device=conf.device):
                self._attach_representor(request, conf, conf.port, vf, host)
        if vf.link is None:
            return _result(interface | _dpdk_facts(conf, vf), given)
        request.check_deadline()
        if conf.queues is not None or conf.rss is not None:
            with step("set the queues", device=conf.device):
                self._set_queues(conf, vf, vf.link)
        with step("move the interface into the pod", device=conf.device):
            vfs.move_in(host, vf, vf.link, ns, ifname=request.ifname, wanted=conf)
            settings.apply_deferred(host, vf, deferred)
        with step("configure the interface", ifname=request.ifname), Rtnl(netns_fd=ns.fd) as inside:
            link = _link_in_pod(inside, vf, request.ifname)
            if ipam_after_move:
                given = self._ipam.add(request)
            addressing.configure(inside, ns, link.index, request.ifname, given)
        request.check_deadline()
        return _result(interface | {"mac": link.mac, "mtu": link.mtu}, given)

    @staticmethod
    def _set_queues(conf: SriovConf, vf: Vf, link: Link) -> None:
        if conf.queues is not None:
            vfs.set_queues(vf, link, conf.queues)
        if conf.rss is not None:
            rss.apply(vf, link, conf.rss)

    def _attach_representor(self, request: Request, conf: SriovConf, port: BridgePort, vf: Vf, host: Rtnl) -> None:
        """Make the representor a port of the bridge, give it the MTU of the pod's interface, and set it up."""
        link = representor.find(host, vf)
        owner = {"network": request.name, "container": request.container_id, "ifname": request.ifname}
        self._bridges.attach(link.name, port, **owner, deadline=request.deadline)
        host.set_link(link.index, mtu=conf.mtu, up=True)
        request.check_deadline()

    def _write_device_info(self, conf: SriovConf, vf: Vf) -> None:
        """Write the requested device-info file; a scalable function has none unless it has a vdpa device."""
        if conf.device_info_file and (described := device_info(vf)) is not None:
            deviceinfo.write(Path(conf.device_info_file), described)

    def _port_drift(self, claim: DeviceClaim, port: BridgePort, host: Rtnl, *, deadline: float) -> list[str]:
        """Return how the representor and its port differ from what ADD set up, as messages."""
        port_record = record_of(claim).port
        link = host.link(port_record.before.index) if port_record else None
        if link is None:
            return ["its representor is gone"]
        wrong = [] if link.up else [f"its representor {link.name} is down"]
        return wrong + self._bridges.drift(link.name, port, deadline=deadline)

    # Undoing

    @contextmanager
    def _undo_on_failure(self, request: Request, claim: DeviceClaim) -> Iterator[None]:
        """Undo ADD after any exception in the block; what cannot be undone stays in the journal for DEL or GC."""
        try:
            yield
        except BaseException as cause:
            deadline = time.monotonic() + _UNDO_TIME
            undo = request.derive(command="DEL", deadline=deadline)
            try:
                port = not isinstance(cause, UnreachableError)  # else Open vSwitch never got the request for it
                release = partial(self._claims.undo_and_release_locked, claim, deadline=deadline, port=port)
                with step("undo"):
                    run_all([release, lambda: self._ipam.delete(undo, attached=False)])
            except Error as error:
                self._undone.increase(PLUGIN, "incomplete")
                log.error("undoing a failed ADD (%s): %s; DEL or GC will finish it", cause, error)  # noqa: TRY400
            else:
                self._undone.increase(PLUGIN, "complete")
            raise

    def _undo(self, claim: DeviceClaim, *, deadline: float, port: bool) -> None:
        """Remove the representor's port (with `port`), and restore the VF; see `wirespeed.state.claims.Undo`."""
        steps: list[Callable[[], None]] = []
        if port and record_of(claim).port is not None:  # first, before the representor is restored
            steps.append(lambda: self._bridges.detach(claim.container, claim.ifname, deadline=deadline))
        if claim.step != ClaimStep.REMOVING:
            steps.append(lambda: self._restore(claim, deadline=deadline))
        run_all(steps)

    def _remove_unclaimed_port(self, request: Request) -> None:
        """Remove the port of an attachment that is not in the journal: Open vSwitch's ports survive a reboot."""
        try:
            self._bridges.detach(request.container_id, request.ifname, deadline=request.deadline)
        except (SwitchDownError, MissingExtraError) as error:
            log.warning("a port of %s of %s is left to GC: %s", request.ifname, request.container_id, error.msg)

    def _restore(self, claim: DeviceClaim, *, deadline: float) -> None:
        record = record_of(claim)
        has_guid = record.wanted.settings.port_guid is not None
        with (
            as_device_error(Thing("device", claim.device), "restoring it"),
            self._rdma_lock(deadline=deadline) if has_guid else nullcontext(),
        ):
            restore(
                functions.of_id(claim.device, self._sysfs),
                record.before,
                (claim.netns, claim.identity),
                timeout=_netdev_timeout(deadline),
                override=record.override,
                reset=record.reset,
                reprobe=has_guid,
                rdma=record.rdma,
            )
            if record.port is not None:
                with Rtnl() as host:
                    representor.put_back(host, record.port.before)
        if record.device_info:
            deviceinfo.remove(Path(record.device_info))


def device_info(vf: Vf) -> dict[str, Any] | None:
    """Return its device-info; None for a scalable function, for which the specification has no type."""
    if vf.vdpa is None and not vf.pci_address:
        return None
    above = {"pf_pci_address": vf.pf.address, "representor_device": vf.representor}
    if vf.vdpa is None:
        return deviceinfo.pci_info(vf.pci_address, **above)
    more = {"path": vf.vdpa.node, "pci_address": vf.pci_address, **above}
    return deviceinfo.vdpa_info(vf.vdpa.address, vf.vdpa.kind, **more)


def _netdev_timeout(deadline: float) -> float:
    """Return the seconds to wait for an interface: until the deadline, at most RETURN_TIMEOUT."""
    return max(0.0, min(deadline - time.monotonic(), netdev.RETURN_TIMEOUT))


def _ipam_type(request: Request) -> str:
    return str((request.config.get("ipam") or {}).get("type") or "")


def _expects_netdev(conf: SriovConf, vf: Vf) -> bool:
    """Whether the pod gets a netdev; if a driver is requested, this is derived from the driver's name."""
    if not conf.driver:
        return vf.link is not None
    return conf.driver not in USERSPACE_DRIVERS and "vfio" not in conf.driver


def _port_record(conf: SriovConf, vf: Vf, host: Rtnl) -> Port | None:
    """Return the port's record, with the representor's current state; None without a port."""
    if conf.port is None:
        return None
    before = representor.state(representor.find(host, vf))
    return Port(bridge=conf.port.bridge, vlan=conf.port.vlan, before=before)


def _check_netdev_keys(request: Request, conf: SriovConf, where: str, *, has_netdev: bool) -> None:
    """Refuse keys that need a netdev if the VF has none. Raises Error(INVALID_CONFIG)."""
    if has_netdev:
        return

    def refusal(key: str, *, hint: str) -> Error:
        what = f"it has no netdev{f' on {conf.driver}' if conf.driver else ''}"
        return Error(Kind.INVALID_CONFIG, what, where=where, key=key, hint=hint)

    for key, field in _NETDEV_ONLY_KEYS.items():
        if getattr(conf, field) is not None:
            raise refusal(key, hint="remove the key, and set it in the application")
    if conf.mac is not None and conf.settings.mac is None:  # a scalable function: no admin MAC on a PF
        raise refusal("mac", hint="remove the key: its vdpa device keeps the MAC that it was created with")
    if _ipam_type(request) == "dhcp":
        raise refusal("ipam.type", hint="use another type than dhcp, which needs one")


def _dpdk_facts(conf: SriovConf, vf: Vf) -> dict[str, Any]:
    """Return MAC and MTU for the result of a VF without a netdev; the MTU is that of the PF."""
    mac = conf.mac or vf.settings.mac
    return ({"mac": mac} if mac and mac != settings.NO_MAC else {}) | ({"mtu": vf.pf_mtu} if vf.pf_mtu else {})


def _link_in_pod(inside: Rtnl, vf: Vf, ifname: str) -> Link:
    link = inside.link(ifname)
    if link is None or link.parent not in {"", vf.netdev_device.address}:
        raise Error(Kind.INTERFACE, f"its interface {ifname} has left the network namespace", where=vf.where)
    return link


def _result(interface: dict[str, Any], given: Result) -> Result:
    result: Result = {"interfaces": [interface]}
    if ips := [{**ip, "interface": 0} for ip in given.get("ips") or []]:
        result["ips"] = ips
    if given.get("routes"):
        result["routes"] = given["routes"]
    result["dns"] = given.get("dns") or {}
    return result


def _netdev_drift(claim: DeviceClaim, record: SriovRecord, ns: netns.NetNs, previous: dict[str, Any]) -> list[str]:
    """Return how the VF's netdev in the pod differs from what ADD set up, as messages."""
    wanted, name = record.wanted, claim.ifname
    parent = netdev_parent(claim)
    number, seen = _result_interface(previous, name)
    # A later plugin of the chain (tuning) may have set other values, which are then in the result.
    set_later = {key: seen[key] for key in ("mac", "mtu") if getattr(wanted, key) is not None and seen.get(key)}
    wanted = structs.replace(wanted, **set_later)
    with Rtnl(netns_fd=ns.fd) as inside:
        link = inside.link(name)
        if link is None or link.parent != parent:
            return [f"the namespace has no interface {name} of this device"]
        there = {**vars(link), "promisc": link.promisc, "allmulti": link.allmulti}
        if wanted.queues is not None:
            found = netns.inside(ns.fd, lambda: ethtool.queues(name))
            there["queues"] = found and found.count
        wrong = [
            f"{key} of {name} is {there[known]}, expected {expected}"
            for key, known in _NETDEV_KEYS.items()
            if (expected := getattr(wanted, known)) not in {None, there.get(known)}
        ]
        if wanted.rss is not None:
            wrong += rss.drift(name, wanted.rss, netns.inside(ns.fd, lambda: ethtool.read_rss(name)))
        guid = wanted.settings.port_guid
        if guid is not None and not link.mac.endswith(guid):
            wrong.append(f"infinibandGUID of {name} is not {guid}, its address is {link.mac}")
        if not link.up:
            wrong.append(f"{name} is down")
        wrong += rdma.missing(record.rdma, ns)
        return wrong + addressing.missing(inside, link, previous, number)


def _result_interface(previous: Mapping[str, Any], ifname: str) -> tuple[int, Mapping[str, Any]]:
    """Return the index and the entry of an interface in a result; (0, {}) if it has none of that name."""
    interfaces = enumerate(previous.get("interfaces") or [])
    return next(((number, each) for number, each in interfaces if each.get("name") == ifname), (0, {}))

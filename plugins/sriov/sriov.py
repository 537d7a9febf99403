"""The CNI verbs of the SR-IOV plugin.

ADD checks the configuration, claims the VF in the journal with its current state, then changes it. DEL restores the
recorded state, wherever the VF is, and releases the claim. Every change is recorded in the journal first, so a DEL
or GC after a crash has the same outcome as one without. If Open vSwitch is down, its port cannot be removed; the VF
stays claimed until GC, or the next ADD that asks for that VF or for a bridge, removes the port.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs

from wirespeed import extras
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.devices import functions, guids, netdev, rdma, settings, snapshot
from wirespeed.devices.pci import USERSPACE_DRIVERS
from wirespeed.devices.restore import drift, restore
from wirespeed.devices.vf import Vf, find
from wirespeed.extras import MissingExtraError
from wirespeed.ipam import Ipam
from wirespeed.kernel import announce, ethtool, netns
from wirespeed.kernel.netlink.errors import as_device_error
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.vf import VfSettings
from wirespeed.kube import deviceinfo
from wirespeed.node import Node
from wirespeed.plugins.sriov import addressing, describe, infiniband, representor, rivals, rss
from wirespeed.plugins.sriov import conf as configuration
from wirespeed.plugins.sriov import vf as vfs
from wirespeed.plugins.sriov.conf import NETDEVICE, BridgePort, SriovConf
from wirespeed.plugins.sriov.record import PLUGIN, Given, Port, SriovRecord, Wanted, record_of
from wirespeed.state.claims import Claims, all_of
from wirespeed.state.journal import ClaimStep, DeviceClaim
from wirespeed.state.locks import device_lock
from wirespeed.switches.switch import SwitchDownError, UnreachedError

if TYPE_CHECKING:
    from wirespeed.plugins.sriov.bridge import Bridges

log = logging.getLogger(__name__)

# Settings of the netdev: key of the configuration -> field of SriovConf and of Link.
_NETDEV_KEYS = {"mac": "mac", "mtu": "mtu", "promisc": "promisc", "all_multicast": "allmulti", "queues": "queues"}
# Keys that need a netdev -> field of SriovConf.
_OF_THE_NETDEV = {**{key: field for key, field in _NETDEV_KEYS.items() if key != "mac"}, "rss": "rss"}

# Seconds for undoing a failed ADD, even if its deadline has passed.
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
        ips = {"ips"} if config.get("ipam") else set()
        guid = {"infinibandGUID"} if self._is_infiniband(config.get("deviceID")) else set()
        return frozenset({"mac", "deviceID", "CNIDeviceInfoFile"} | ips | guid)

    def _is_infiniband(self, device: object) -> bool:
        """Whether it is a VF of an InfiniBand PF."""
        name = functions.canonical(device)
        pf = functions.of_id(name, self._sysfs).physical_function if name else None
        return pf is not None and pf.link_type == "infiniband"

    def add(self, request: Request) -> Result:
        conf = configuration.parse(request, self._devinfo)
        if conf.port is not None:  # an ADD without a bridge must not wait for Open vSwitch
            _ = self._bridges  # fails here, before any change, if its extra is missing
            self._claims.finish_removals(deadline=request.deadline)
        with netns.opened(request.netns) as ns:
            # Fail early, before waiting for the lock: the VF's owner may hold it while waiting for a slow IPAM.
            self._claims.of_dead_owner(conf.device, request.container_id, request.ifname)
            self._free_address(conf, deadline=request.deadline)
            with (
                device_lock(self._locks, conf.device, deadline=request.deadline),
                as_device_error(f"device {conf.device}"),
                Rtnl() as host,
            ):
                self._free_from_dead_owner(request, conf.device)
                vf = find(host, functions.of_id(conf.device, self._sysfs), rebinding=bool(conf.driver))
                _check_mode(request, conf, vf.where, has_netdev=_to_be_netdev(conf, vf))
                infiniband.check(vf, conf.settings)
                claim = self._claim(request, conf, vf, ns, host)
                with self._undone_on_failure(request, claim):
                    if conf.driver:
                        claim, vf = self._rebind(request, conf, vf, host, claim)
                    if vf.infiniband:
                        claim, vf = self._as_infiniband(conf, vf, ns, host, claim, deadline=request.deadline)
                    result = self._attach(request, conf, vf, ns, host)
                    if not vf.infiniband:
                        rdma.move(vf, record_of(claim).rdma, ns)
                    self._journal.advance(claim, ClaimStep.ATTACHED)
            if vf.link is not None and not vf.infiniband:
                announce.in_background(ns, request.ifname, [ip["address"] for ip in result.get("ips", [])])
            return result

    def delete(self, request: Request) -> None:
        claim = self._journal.device_of(request.container_id, request.ifname)
        # After a reboot the claim is gone, but the restored record contains the result (prevResult).
        attached = claim is not None or "prevResult" in request.config
        steps: list[Callable[[], None]] = [lambda: self._ipam.delete(request, attached=attached)]
        if claim is not None and claim.plugin == PLUGIN:
            steps.insert(0, lambda: self._claims.give_back(claim, deadline=request.deadline))
        elif claim is None and configuration.names_bridge(request.config):
            steps.insert(0, lambda: self._remove_unknown(request))
        all_of(steps)

    def check(self, request: Request) -> None:
        conf = configuration.parse(request, self._devinfo)
        claim = self._journal.device_of(request.container_id, request.ifname)
        if claim is None or claim.device != conf.device:
            raise CniError(Code.UNKNOWN_CONTAINER, f"device {conf.device} does not belong to this attachment")
        with netns.opened(request.netns) as ns, as_device_error(f"device {conf.device}"), Rtnl() as host:
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
            raise CniError(Code.DRIFT, f"device {conf.device} of {request.ifname}: {', '.join(wrong)}")
        self._ipam.check(request)

    def gc(self, request: Request) -> None:
        valid = request.valid_attachments
        lost = self._claims.of_network(request.name, but=valid)
        for claim in lost:
            log.info("GC of network %s: device %s of container %s", request.name, claim.device, claim.container)
        steps: list[Callable[[], None]] = [
            partial(self._claims.give_back, claim, deadline=request.deadline) for claim in lost
        ]
        if configuration.names_bridge(request.config):
            steps.append(lambda: self._bridges.sweep(request.name, valid, deadline=request.deadline))
        all_of([*steps, lambda: self._ipam.gc(request)])

    def status(self, request: Request) -> None:
        try:
            self._journal.check_usable()
            if configuration.names_bridge(request.config):
                self._bridges.status(deadline=request.deadline)
        except CniError as error:
            raise CniError(Code.UNAVAILABLE, error.msg) from error
        self._ipam.status(request)

    # ADD, step by step

    def _free_from_dead_owner(self, request: Request, device: str) -> None:
        """Restore and release a VF whose pod is gone without a DEL: its network namespace no longer exists."""
        owner = self._claims.of_dead_owner(device, request.container_id, request.ifname)
        if owner is None:
            return
        log.warning("device %s: container %s is gone without a DEL", device, owner.container)
        self._claims.take_back(owner, deadline=request.deadline)
        if self._journal.owner(device) is not None:
            port = record_of(owner).port
            raise CniError(
                Code.TRY_AGAIN_LATER,
                f"device {device}: its representor is still a port of {port.bridge if port else 'a bridge'}, and "
                "Open vSwitch is down; expected it to run",
            )

    def _free_address(self, conf: SriovConf, *, deadline: float) -> None:
        """Restore VFs of the same PF that have the requested address and whose pods are gone without a DEL.

        Must be called before the lock of the own VF is taken: holding two VF locks could deadlock.
        """
        address, pf = rivals.asked(conf), functions.of_id(conf.device, self._sysfs).physical_function
        if not address or pf is None:
            return
        for owner in rivals.dead(self._journal, pf.address, address):
            if owner.device != conf.device:
                log.warning(
                    "device %s has %s: container %s is gone without a DEL", owner.device, address, owner.container
                )
                try:
                    self._claims.give_back(owner, deadline=deadline)
                except CniError as error:
                    where = f"device {conf.device}: {address} is still that of a pod that is gone"
                    raise error.prefixed(where) from error

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
                before=snapshot.take(vf if conf.settings.port_guid is None else guids.known(vf)),
                wanted=Wanted(
                    settings=conf.settings,
                    rss=conf.rss,
                    **{key: getattr(conf, key) for key in _NETDEV_KEYS.values()},
                ),
                device_info=conf.device_info_file,
                port=_port_before(conf, vf, host),
                reset=conf.reset,
                rdma=rdma.devices(vf) if conf.rdma_isolation else {},
                override=vf.device.attribute("driver_override") if conf.driver else None,
                pod=rivals.pod_of(request.args),
            ).to_json(),
        )
        with self._addresses_of(vf, deadline=request.deadline) if rivals.asked(conf) else nullcontext():
            rivals.check(self._journal, vf, claim)
            self._journal.claim(claim)
        return claim

    def _addresses_of(self, vf: Vf, *, deadline: float) -> AbstractContextManager[None]:
        """Return the lock for claiming an address on a PF: of concurrent claims, each must see the one before."""
        return device_lock(self._locks, f"addresses of {vf.pf.address}", deadline=deadline)

    def _rebind(
        self, request: Request, conf: SriovConf, vf: Vf, host: Rtnl, claim: DeviceClaim
    ) -> tuple[DeviceClaim, Vf]:
        """Bind the VF to the requested driver; return the updated claim and VF."""
        driver = "" if conf.driver == NETDEVICE else conf.driver
        vf = vfs.rebound(host, vf, driver, timeout=_left(request.deadline))
        _check_mode(request, conf, vf.where, has_netdev=vf.link is not None)
        given = Given(driver=vf.driver, netdev=vf.link is not None)
        return self._bound(claim, given=given), vf

    def _bound(self, claim: DeviceClaim, **changes: Any) -> DeviceClaim:
        """Note the driver's binding with these changes of the record; return the updated claim."""
        claim = replace(claim, record=structs.replace(record_of(claim), **changes).to_json())
        self._journal.advance(claim, ClaimStep.BOUND, claim.record)
        return claim

    def _as_infiniband(
        self, conf: SriovConf, vf: Vf, ns: netns.NetNs, host: Rtnl, claim: DeviceClaim, *, deadline: float
    ) -> tuple[DeviceClaim, Vf]:
        """Set the requested GUIDs and move the RDMA devices into the pod; return the updated claim and VF.

        The driver reads GUIDs only when it binds. Both steps make the kernel recreate the netdev on the host.
        """
        timeout = _left(deadline)
        if conf.settings.port_guid is not None and vf.link is not None:
            guids = VfSettings(node_guid=conf.settings.node_guid, port_guid=conf.settings.port_guid)
            settings.apply(host, vf, guids)
            with self._made_again(deadline=deadline):
                vf = vfs.reprobed(host, vf, timeout=timeout)
            moved = rdma.devices(vf) if conf.rdma_isolation else {}
            claim = self._bound(claim, rdma=moved)
        if moved := record_of(claim).rdma:
            rdma.move(vf, moved, ns)
            vf = vfs.with_netdev(host, vf, timeout=timeout)
        return claim, vf

    def _made_again(self, *, deadline: float) -> AbstractContextManager[None]:
        """Return the lock for recreating RDMA devices: two at once could get each other's names (mlx5_0 ...)."""
        return device_lock(self._locks, "rdma", deadline=deadline)

    def _attach(self, request: Request, conf: SriovConf, vf: Vf, ns: netns.NetNs, host: Rtnl) -> Result:
        # Addresses first, because they are easy to release. Only dhcp needs the interface to exist.
        late = _ipam_type(request) == "dhcp"
        given = {} if late else self._ipam.add(request)
        request.check_deadline()
        rest = settings.apply(host, vf, conf.settings)
        interface: dict[str, Any] = {"name": request.ifname, "sandbox": request.netns}
        interface |= {"pciID": vf.pci_address} if vf.pci_address else {}
        self._describe(conf, vf)
        if conf.port is not None:
            self._into_bridge(request, conf, conf.port, vf, host)
        if vf.link is None:
            return _result(interface | _dpdk_facts(conf, vf), given)
        request.check_deadline()
        if conf.queues is not None:
            vfs.set_queues(vf, vf.link, conf.queues)
        if conf.rss is not None:
            rss.apply(vf, vf.link, conf.rss)
        flags = {"promisc": conf.promisc, "allmulti": conf.allmulti}
        vfs.move_in(host, vf, vf.link, ns, ifname=request.ifname, mac=conf.mac, mtu=conf.mtu, **flags)
        settings.settle(host, vf, rest)
        with Rtnl(netns_fd=ns.fd) as inside:
            link = _moved(inside, vf, request.ifname)
            if late:
                given = self._ipam.add(request)
            addressing.configure(inside, ns, link.index, request.ifname, given)
        request.check_deadline()
        return _result(interface | {"mac": link.mac, "mtu": link.mtu}, given)

    def _into_bridge(self, request: Request, conf: SriovConf, port: BridgePort, vf: Vf, host: Rtnl) -> None:
        """Make the representor a port of the bridge, give it the MTU of the pod's interface, and set it up."""
        link = representor.find(host, vf)
        owner = {"network": request.name, "container": request.container_id, "ifname": request.ifname}
        self._bridges.attach(link.name, port, **owner, deadline=request.deadline)
        host.set_link(link.index, mtu=conf.mtu, up=True)
        request.check_deadline()

    def _describe(self, conf: SriovConf, vf: Vf) -> None:
        """Write the requested device-info file; a scalable function has none unless it has a vdpa device."""
        if not conf.device_info_file or (described := describe.device_info(vf)) is None:
            return
        with deviceinfo.io_errors(conf.device_info_file):
            deviceinfo.write(Path(conf.device_info_file), described)

    def _port_drift(self, claim: DeviceClaim, port: BridgePort, host: Rtnl, *, deadline: float) -> list[str]:
        """Return how the representor and its port differ from what ADD made, as messages."""
        made = record_of(claim).port
        link = host.link(made.before.index) if made else None
        if link is None:
            return ["its representor is gone"]
        wrong = [] if link.up else [f"its representor {link.name} is down"]
        return wrong + self._bridges.drift(link.name, port, deadline=deadline)

    # Undoing

    @contextmanager
    def _undone_on_failure(self, request: Request, claim: DeviceClaim) -> Iterator[None]:
        """Undo a failed ADD after any exception; what cannot be undone stays in the journal for DEL or GC."""
        try:
            yield
        except BaseException as cause:
            deadline = time.monotonic() + _UNDO_TIME
            undo = request.derive(command="DEL", deadline=deadline)
            try:
                unreached = isinstance(cause, UnreachedError)  # Open vSwitch never got the request for the port
                steps = [lambda: self._claims.take_back(claim, deadline=deadline, port=not unreached)]
                all_of([*steps, lambda: self._ipam.delete(undo, attached=False)])
            except (CniError, OSError) as error:
                log.error("undoing a failed ADD (%s): %s; DEL or GC will finish it", cause, error)  # noqa: TRY400
            raise

    def _undo(self, claim: DeviceClaim, *, deadline: float, port: bool) -> None:
        """Remove the representor's port (with `port`), and restore the VF; see `wirespeed.state.claims.Undo`."""
        steps: list[Callable[[], None]] = []
        if claim.step != ClaimStep.REMOVING:
            steps.append(lambda: self._restore(claim, deadline=deadline))
        if port and record_of(claim).port is not None:
            # First, while the representor is as the switch knows it.
            steps.insert(0, lambda: self._bridges.detach(claim.container, claim.ifname, deadline=deadline))
        all_of(steps)

    def _remove_unknown(self, request: Request) -> None:
        """Remove the port of an attachment that is not in the journal: Open vSwitch's ports survive a reboot."""
        try:
            self._bridges.detach(request.container_id, request.ifname, deadline=request.deadline)
        except (SwitchDownError, MissingExtraError) as error:
            log.warning("a port of %s of %s is left to GC: %s", request.ifname, request.container_id, error.msg)

    def _restore(self, claim: DeviceClaim, *, deadline: float) -> None:
        record = record_of(claim)
        has_guid = record.wanted.settings.port_guid is not None
        with (
            as_device_error(f"device {claim.device}: restoring it"),
            self._made_again(deadline=deadline) if has_guid else nullcontext(),
        ):
            restore(
                functions.of_id(claim.device, self._sysfs),
                record.before,
                (claim.netns, claim.identity),
                timeout=_left(deadline),
                override=record.override,
                reset=record.reset,
                reprobe=has_guid,
                rdma=record.rdma,
            )
            if record.port is not None:
                with Rtnl() as host:
                    representor.put_back(host, record.port.before)
        if record.device_info:
            with deviceinfo.io_errors(record.device_info):
                deviceinfo.remove(Path(record.device_info))


def _left(deadline: float) -> float:
    """Return the seconds to wait for an interface: until the deadline, at most RETURN_TIMEOUT."""
    return max(0.0, min(deadline - time.monotonic(), netdev.RETURN_TIMEOUT))


def _ipam_type(request: Request) -> str:
    return str((request.config.get("ipam") or {}).get("type") or "")


def _to_be_netdev(conf: SriovConf, vf: Vf) -> bool:
    """Whether the pod gets the VF as a netdev; for a requested driver this is a guess from its name."""
    if not conf.driver:
        return vf.link is not None
    return conf.driver not in USERSPACE_DRIVERS and "vfio" not in conf.driver


def _port_before(conf: SriovConf, vf: Vf, host: Rtnl) -> Port | None:
    """Return the port's record, with the representor's current state; None without a port."""
    if conf.port is None:
        return None
    before = representor.state(representor.find(host, vf))
    return Port(bridge=conf.port.bridge, vlan=conf.port.vlan, before=before)


def _check_mode(request: Request, conf: SriovConf, where: str, *, has_netdev: bool) -> None:
    """Refuse keys that need a netdev if the VF has none. Raises CniError(INVALID_CONFIG)."""
    if has_netdev:
        return
    where += f", on {conf.driver}," if conf.driver else ""
    for key, field in _OF_THE_NETDEV.items():
        if getattr(conf, field) is not None:
            raise CniError(
                Code.INVALID_CONFIG,
                f'key "{key}": {where} has no netdev; expected the application to set it itself',
            )
    if conf.mac is not None and conf.settings.mac is None:  # a scalable function: no admin MAC on a PF
        raise CniError(
            Code.INVALID_CONFIG,
            f'key "mac": {where} has no netdev, and its PF holds no MAC for it; expected none, for its vdpa device '
            "has the one that it was made with",
        )
    if _ipam_type(request) == "dhcp":
        raise CniError(
            Code.INVALID_CONFIG,
            f'key "ipam": {where} has no netdev that could ask for an address; expected another type than dhcp',
        )


def _dpdk_facts(conf: SriovConf, vf: Vf) -> dict[str, Any]:
    """Return the interface facts of a VF without a netdev: its MAC, and as MTU that of the PF."""
    mac = conf.mac or vf.settings.mac
    return ({"mac": mac} if mac and mac != settings.NO_MAC else {}) | ({"mtu": vf.pf_mtu} if vf.pf_mtu else {})


def _moved(inside: Rtnl, vf: Vf, ifname: str) -> Link:
    link = inside.link(ifname)
    if link is None or link.parent not in {"", vf.owner.address}:
        raise CniError(Code.INTERFACE, f"{vf.where}: its interface {ifname} has left the network namespace")
    return link


def _result(interface: dict[str, Any], given: Result) -> Result:
    ips = [{**ip, "interface": 0} for ip in given.get("ips") or []]
    result: Result = {"interfaces": [interface]}
    if ips:
        result["ips"] = ips
    if given.get("routes"):
        result["routes"] = given["routes"]
    result["dns"] = given.get("dns") or {}
    return result


def _netdev_drift(claim: DeviceClaim, record: SriovRecord, ns: netns.NetNs, previous: dict[str, Any]) -> list[str]:
    """Return how the VF's netdev in the pod differs from what ADD made, as messages."""
    wanted, name = record.wanted, claim.ifname
    parent = describe.netdev_parent(claim)
    number, told = _result_interface(previous, name)
    # A later plugin of the chain (tuning) may have set other values, which are then in the result.
    set_later = {key: told[key] for key in ("mac", "mtu") if getattr(wanted, key) is not None and told.get(key)}
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
            wrong += rss.drift(name, wanted.rss, netns.inside(ns.fd, lambda: ethtool.spread(name)))
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

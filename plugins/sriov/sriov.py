"""The SR-IOV CNI's verbs.

ADD: check, take the VF in the journal with all that it is now, then change it. DEL: bring it back from
wherever it is to what the journal says, then give it up. Nothing is changed that the journal does not know,
so a DEL or GC after any crash ends as a clean one does.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from plugins.sriov import conf as configuration
from plugins.sriov import vf as vfs
from plugins.sriov.conf import SriovConf
from plugins.sriov.vf import Vf
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.host import netns
from wirespeed.host.pci import PciDevice
from wirespeed.host.rtnl import NetlinkError, Rtnl, VfSettings
from wirespeed.ipam import Ipam
from wirespeed.kube import deviceinfo
from wirespeed.node import Node
from wirespeed.state.journal import DeviceClaim
from wirespeed.state.locks import device_lock

log = logging.getLogger(__name__)

PLUGIN = "sriov"


class Sriov:
    """One VF into one pod (`wirespeed.cni.plugin.Plugin`)."""

    def __init__(self, node: Node) -> None:
        self._journal = node.journal
        self._ipam = Ipam(Path(node.config.leases))
        self._sysfs = Path(node.config.sysfs)
        self._locks = Path(node.config.state).parent / "locks"

    def capabilities(self, config: Mapping[str, Any]) -> frozenset[str]:
        """See `wirespeed.cni.plugin.Capable`; requested addresses are the IPAM's to read."""
        ips = {"ips"} if config.get("ipam") else set()
        return frozenset({"mac", "deviceID", "CNIDeviceInfoFile"} | ips)

    def add(self, request: Request) -> Result:
        conf = configuration.parse(request)
        with (
            netns.opened(request.netns) as ns,
            device_lock(self._locks, conf.device, deadline=request.deadline),
            Rtnl() as host,
        ):
            self._free_from_dead_owner(conf.device)
            vf = vfs.find(host, PciDevice(conf.device, self._sysfs))
            _check_mode(conf, vf)
            claim = self._claim(request, conf, vf, ns)
            try:
                result = self._attach(request, conf, vf, ns, host)
                self._journal.advance(claim, "attached")
            except BaseException as error:
                self._undo(request, claim, error)
                raise
            return result

    def delete(self, request: Request) -> None:
        errors = []
        claim = self._journal.device_of(request.container_id, request.ifname)
        if claim is not None and claim.plugin == PLUGIN:
            try:
                self._give_back(claim, deadline=request.deadline)
            except CniError as error:
                errors.append(error)
        try:
            self._ipam.delete(request)
        except CniError as error:
            errors.append(error)
        if errors:
            raise errors[0]

    def check(self, request: Request) -> None:
        conf = configuration.parse(request)
        claim = self._journal.device_of(request.container_id, request.ifname)
        if claim is None or claim.device != conf.device:
            raise CniError(Code.UNKNOWN_CONTAINER, f"device {conf.device} does not belong to this attachment")
        self._ipam.check(request)
        with netns.opened(request.netns) as ns, Rtnl() as host:
            wrong = _drift(host, claim, PciDevice(conf.device, self._sysfs), ns, _previous_ips(request))
        if wrong:
            raise CniError(Code.DRIFT, f"device {conf.device} of {request.ifname}: {', '.join(wrong)}")

    def gc(self, request: Request) -> None:
        valid = {
            (entry.get("containerID"), entry.get("ifname"))
            for entry in request.config.get("cni.dev/valid-attachments") or []
        }
        for claim in self._journal.claims():
            mine = claim.plugin == PLUGIN and claim.record["network"] == request.name
            if mine and (claim.container, claim.ifname) not in valid:
                log.info("GC of network %s: device %s of container %s", request.name, claim.device, claim.container)
                self._give_back(claim, deadline=request.deadline)
        self._ipam.gc(request)

    def status(self, request: Request) -> None:
        try:
            self._journal.claims()
        except CniError as error:
            raise CniError(Code.UNAVAILABLE, error.msg) from error
        self._ipam.status(request)

    # ADD, step by step

    def _free_from_dead_owner(self, device: str) -> None:
        """Bring back a VF whose pod is gone without a DEL: its namespace is no more."""
        owner = self._journal.owner(device)
        if owner is not None and not netns.alive(owner.netns, owner.netns_dev, owner.netns_ino):
            log.warning("device %s: container %s is gone without a DEL", device, owner.container)
            self._restore(owner, timeout=vfs.RETURN_TIMEOUT)
            self._journal.release(owner)

    def _claim(self, request: Request, conf: SriovConf, vf: Vf, ns: netns.NetNs) -> DeviceClaim:
        claim = DeviceClaim(
            device=conf.device,
            plugin=PLUGIN,
            container=request.container_id,
            ifname=request.ifname,
            netns=request.netns,
            netns_dev=ns.dev,
            netns_ino=ns.ino,
            record={
                "network": request.name,
                "before": vfs.snapshot(vf),
                "wanted": {"settings": asdict(conf.settings), "mac": conf.mac, "mtu": conf.mtu},
                "deviceInfo": conf.device_info_file,
            },
        )
        self._journal.claim(claim)
        return claim

    def _attach(self, request: Request, conf: SriovConf, vf: Vf, ns: netns.NetNs, host: Rtnl) -> Result:
        ipam_type = (request.config.get("ipam") or {}).get("type")
        # Addresses first: they cost nothing to give back. dhcp alone needs the interface to be there.
        addressing = {} if ipam_type == "dhcp" else self._ipam.add(request)
        request.check_deadline()
        rest = vfs.apply(host, vf, conf.settings)
        interface: dict[str, Any] = {
            "name": request.ifname,
            "sandbox": request.netns,
            "pciID": conf.device,
        }
        if vf.link is None:
            mac = conf.mac or vf.settings.mac
            if mac and mac != vfs.NO_MAC:
                interface["mac"] = mac
            self._describe(conf, vf)
            return _result(interface, addressing)
        request.check_deadline()
        vfs.move_in(host, vf, ns, ifname=request.ifname, mac=conf.mac, mtu=conf.mtu)
        host.set_vf(vf.pf_index, vf.index, rest)
        with Rtnl(netns_fd=ns.fd) as inside:
            link = inside.link(request.ifname)
            assert link is not None
            interface |= {"mac": link.mac, "mtu": link.mtu}
            if ipam_type == "dhcp":
                addressing = self._ipam.add(request)
            configure(inside, ns, link.index, request.ifname, addressing)
        self._describe(conf, vf)
        return _result(interface, addressing)

    def _describe(self, conf: SriovConf, vf: Vf) -> None:
        """Write the device-info file that the runtime asked for."""
        if conf.device_info_file:
            info = deviceinfo.pci_info(conf.device, pf_pci_address=vf.pf.address)
            try:
                deviceinfo.write(Path(conf.device_info_file), info)
            except OSError as error:
                raise CniError(
                    Code.IO_FAILURE, f"device-info file {conf.device_info_file}: {error.strerror}"
                ) from error

    # Undoing

    def _undo(self, request: Request, claim: DeviceClaim, cause: BaseException) -> None:
        """Take back a failed ADD; what cannot be taken back now stays in the journal for DEL or GC."""
        try:
            self._restore(claim, timeout=vfs.RETURN_TIMEOUT)
            self._ipam.delete(request.derive(command="DEL"))
            self._journal.release(claim)
        except (CniError, NetlinkError, OSError) as error:
            log.error("undoing a failed ADD (%s): %s; DEL or GC will finish it", cause, error)  # noqa: TRY400

    def _give_back(self, claim: DeviceClaim, *, deadline: float) -> None:
        """Restore a VF and give it up, unless it has meanwhile become another's."""
        with device_lock(self._locks, claim.device, deadline=deadline):
            if self._journal.device_of(claim.container, claim.ifname) is None:
                return
            left = deadline - time.monotonic() if deadline < math.inf else vfs.RETURN_TIMEOUT
            self._restore(claim, timeout=max(0.0, min(left, vfs.RETURN_TIMEOUT)))
            self._journal.release(claim)

    def _restore(self, claim: DeviceClaim, *, timeout: float) -> None:
        where = (claim.netns, claim.netns_dev, claim.netns_ino)
        try:
            vfs.restore(PciDevice(claim.device, self._sysfs), claim.record["before"], where, timeout=timeout)
        except NetlinkError as error:
            raise CniError(Code.DEVICE, f"device {claim.device}: restoring it: {error.strerror}") from error
        if claim.record["deviceInfo"]:
            Path(claim.record["deviceInfo"]).unlink(missing_ok=True)


def _check_mode(conf: SriovConf, vf: Vf) -> None:
    if vf.link is None and conf.mtu is not None:
        raise CniError(
            Code.INVALID_CONFIG,
            f'key "mtu": {vf.where} has no netdev; expected the application to set its MTU itself',
        )


def configure(inside: Rtnl, ns: netns.NetNs, index: int, ifname: str, addressing: Result) -> None:
    """Give an interface of the pod the addresses and routes of an IPAM result. Raises CniError(ADDRESS)."""
    ips = addressing.get("ips") or []
    if any(":" in ip["address"] for ip in ips):
        netns.inside(ns.fd, lambda: Path(f"/proc/sys/net/ipv6/conf/{ifname}/disable_ipv6").write_text("0"))
    for ip in ips:
        try:
            inside.add_address(index, ip["address"])
        except NetlinkError as error:
            raise CniError(Code.ADDRESS, f"address {ip['address']} on {ifname}: {error.strerror}") from error
    for route in addressing.get("routes") or []:
        gateway = route.get("gw") or _gateway_for(route["dst"], ips)
        try:
            inside.add_route(
                index,
                route["dst"],
                gateway=gateway,
                mtu=route.get("mtu", 0),
                advmss=route.get("advmss", 0),
                priority=route.get("priority", 0),
                table=route.get("table", 0),
                scope=route.get("scope"),
            )
        except NetlinkError as error:
            raise CniError(
                Code.ADDRESS, f"route {route['dst']} via {gateway or 'link'} on {ifname}: {error.strerror}"
            ) from error


def _gateway_for(destination: str, ips: list[dict[str, Any]]) -> str:
    """The gateway of the route's family: a route without one takes that of the addresses (specification)."""
    six = ":" in destination
    return next((ip["gateway"] for ip in ips if ip.get("gateway") and (":" in ip["gateway"]) == six), "")


def _result(interface: dict[str, Any], addressing: Result) -> Result:
    ips = [{**ip, "interface": 0} for ip in addressing.get("ips") or []]
    result: Result = {"interfaces": [interface]}
    if ips:
        result["ips"] = ips
    if addressing.get("routes"):
        result["routes"] = addressing["routes"]
    result["dns"] = addressing.get("dns") or {}
    return result


# CHECK


def _previous_ips(request: Request) -> list[str]:
    previous = request.config.get("prevResult") or {}
    return [ip["address"] for ip in previous.get("ips") or []]


def _drift(host: Rtnl, claim: DeviceClaim, vf_device: PciDevice, ns: netns.NetNs, ips: list[str]) -> list[str]:
    """What of the VF is not what ADD made of it."""
    wanted, before = claim.record["wanted"], claim.record["before"]
    pf = vf_device.physical_function
    pf_link = host.link(pf.netdevs[0], vfs=True) if pf is not None and pf.netdevs else None
    if pf_link is None or before["index"] >= len(pf_link.vfs):
        return [f"the PF {before['pf']} has no such VF any more"]
    wrong = vfs.drift(pf_link.vfs[before["index"]], VfSettings(**wanted["settings"]))
    if before["link"] is None:
        return wrong
    with Rtnl(netns_fd=ns.fd) as inside:
        link = inside.link(claim.ifname)
        if link is None or link.parent != claim.device:
            return [*wrong, f"the namespace has no interface {claim.ifname} of this device"]
        if wanted["mac"] and link.mac != wanted["mac"]:
            wrong.append(f"mac of {claim.ifname} is {link.mac}, expected {wanted['mac']}")
        if wanted["mtu"] and link.mtu != wanted["mtu"]:
            wrong.append(f"mtu of {claim.ifname} is {link.mtu}, expected {wanted['mtu']}")
        if not link.up:
            wrong.append(f"{claim.ifname} is down")
        there = {address.cidr for address in inside.addresses(link.index)}
        wrong += [f"address {ip} is missing on {claim.ifname}" for ip in ips if ip not in there]
    return wrong

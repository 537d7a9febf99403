"""The configuration of the SR-IOV CNI: its keys, and their checks before any change."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from wirespeed import structs
from wirespeed.cni.address import UnicastMac, read_mac
from wirespeed.cni.request import Request
from wirespeed.devices import functions
from wirespeed.devices.functions import DeviceId
from wirespeed.errors import Error, Kind, Thing, about_keys, within
from wirespeed.kernel.netlink.vf import ETH_P_8021AD, ETH_P_8021Q, LINK_STATES, VLAN_PROTOCOLS, VfSettings
from wirespeed.keys import unknown_key
from wirespeed.kube import deviceinfo
from wirespeed.plugins.sriov import rss
from wirespeed.plugins.sriov.rss import Rss
from wirespeed.structs import Words, only, whole
from wirespeed.switches.switch import BridgeName, Trunk

log = logging.getLogger(__name__)

NETDEVICE = "netdevice"  # value of "driver": the kernel's default driver
VF, SCALABLE, PORT = "VF", "scalable function", "port"  # what a key applies to; PORT: the representor's port

_Switch = Literal["on", "off", ""]  # "" is the same as no key, as in sriov-cni
_Vlan = Annotated[int, Meta(ge=0, le=4094)]
_VlanQos = Annotated[int, Meta(ge=0, le=7)]
_VlanProto = Annotated[
    str, Meta(pattern=whole("802\\.1([qQ]|[aA][dD])")), Words('"802.1Q" or "802.1ad"', "`802.1Q`, `802.1ad`")
]
_Rate = Annotated[int, Meta(ge=0, le=2**32 - 2), Words(f"an integer from 0 to {2**32 - 2}", "Mbit/s")]
_Mtu = Annotated[int, Meta(ge=68, le=65535)]
_TxQueueLen = Annotated[int, Meta(ge=1, le=100_000)]
_Queues = Annotated[int, Meta(ge=1, le=1024)]
_Driver = Annotated[
    str,
    Meta(pattern=whole("([A-Za-z0-9][A-Za-z0-9_-]{0,63})?")),
    Words(f'the name of a driver like "vfio-pci", or "{NETDEVICE}"', f"`vfio-pci`, another driver, `{NETDEVICE}`"),
]
_of_a_vf = only(VF)  # not for scalable functions: no settings on the PF, no other driver, no reset
_of_a_vf_or_port = only(VF, PORT)


@structs.prepared
class Keys(msgspec.Struct, kw_only=True, frozen=True):
    """The keys of the configuration; null is the same as no key."""

    device: DeviceId | None = msgspec.field(name="deviceID", default=None)
    """required: the VF or [scalable function](sriov.md#scalable-functions). The meta-plugin sets this key for
    networks with `k8s.v1.cni.cncf.io/resourceName`"""
    vlan: Annotated[_Vlan | None, _of_a_vf_or_port] = None
    """the VF's VLAN. 0 explicitly sets none; without this key, the VF's VLAN is left unchanged"""
    vlan_qos: Annotated[_VlanQos | None, _of_a_vf] = msgspec.field(name="vlanQoS", default=None)
    """the VLAN's priority; requires `vlan`"""
    vlan_proto: Annotated[_VlanProto | None, _of_a_vf] = msgspec.field(name="vlanProto", default=None)
    """the VLAN's protocol; requires `vlan`"""
    mac: UnicastMac | None = None
    """the VF's MAC address, set on both the PF's and the VF's side. Only [one pod](sriov.md#one-mac-for-two-vfs)
    may have it on a PF and VLAN"""
    spoofchk: Annotated[_Switch | None, _of_a_vf] = None
    """drop frames that the VF sends from a source address that is not its own"""
    trust: Annotated[_Switch | None, _of_a_vf] = None
    """allow the VF to change its addresses and to enter promiscuous mode"""
    link_state: Annotated[Literal["auto", "enable", "disable", ""] | None, _of_a_vf] = None
    """the VF's link state, as in `ip link set ... vf ... state`"""
    min_tx_rate: Annotated[_Rate | None, _of_a_vf] = None
    """the guaranteed transmit rate, 0 for none"""
    max_tx_rate: Annotated[_Rate | None, _of_a_vf_or_port] = None
    """the limit of the transmit rate, 0 for none"""
    mtu: _Mtu | None = None
    """the MTU of the VF's interface"""
    tx_queue_len: _TxQueueLen | None = msgspec.field(name="txQueueLen", default=None)
    """the transmit queue length of the VF's interface in packets, as in `ip link set ... txqueuelen`:
    [what it limits](sriov.md#transmit-queue-length)"""
    promisc: _Switch | None = None
    """promiscuous mode of the VF's interface; `on` needs `"trust": "on"`"""
    all_multicast: _Switch | None = None
    """the all-multicast mode of the VF's interface; `on` needs `"trust": "on"`"""
    queues: _Queues | None = None
    """how many channels the VF's interface uses, if its driver lets them be set"""
    rss: Rss | None = None
    """how the packets that the VF's interface receives are distributed over its queues, if its driver lets that be
    set"""
    rdma_isolation: bool | None = msgspec.field(name="rdmaIsolation", default=None)
    """move the VF's RDMA devices into the pod with its interface. On the node, each RDMA device must belong to one
    namespace only (`rdma system set netns exclusive`)"""
    driver: Annotated[_Driver | None, _of_a_vf] = None
    """the VF's driver while the pod has it; `netdevice` is the kernel's network driver. Without this key, the
    driver is left unchanged"""
    reset: Annotated[_Switch | None, _of_a_vf] = None
    """whether DEL does a function-level reset of a VF on a user-space driver. Default: it does unless the driver is
    vfio, which resets the VF itself"""
    bridge: BridgeName | None = None
    """the VF's representor becomes a port of this bridge, and `vlan` and `max_tx_rate` apply to that port:
    [switchdev](sriov.md#switchdev)"""
    trunk: Trunk | None = None
    """requires `bridge`: the VLANs that the port carries tagged, in addition to `vlan` untagged"""
    ipam: dict[str, Any] | None = None
    """addresses: see below"""
    runtime_config: dict[str, Any] | None = msgspec.field(name="runtimeConfig", default=None)
    """`mac`, `infinibandGUID`, `ips`, `deviceID`, `CNIDeviceInfoFile`"""


KEYS = structs.keys_of(Keys)
# Accepted without effect: keys of the CNI specification, of the meta-plugin, and sriov-cni's logging keys.
OTHER_KEYS = (
    "cniVersion",
    "name",
    "type",
    "capabilities",
    "args",
    "dns",
    "prevResult",
    "pciBusID",
    "logLevel",
    "logFile",
    "cni.dev/valid-attachments",
    "cni.dev/attachments",
)
# Allowed CNI_ARGS: ours, host-local's and the runtime's.
_ARGS = ("IgnoreUnknown", "MAC", "GUID", "IP", "GATEWAY")
_CANONICAL = {key.lower(): key for key in (*KEYS, *OTHER_KEYS)}
_GUID = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){7}")


@dataclass(frozen=True, kw_only=True)
class BridgePort:
    """A representor's port of an Open vSwitch bridge: `vlan` untagged, `trunk` tagged (neither: all VLANs).

    `rate` limits what the pod sends, in Mbit/s; 0 is no limit.
    """

    bridge: str
    vlan: int | None = None
    trunk: tuple[int, ...] = ()
    rate: int = 0


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """The requested settings on the PF, and properties of the netdev (None: not requested), as in the journal."""

    settings: VfSettings
    mac: str | None = None
    mtu: int | None = None
    txqlen: int | None = None
    promisc: bool | None = None
    allmulti: bool | None = None
    queues: int | None = None
    rss: Rss | None = None

    @property
    def address(self) -> str:
        """The requested GUID or MAC, "" for none."""
        return self.settings.port_guid or self.mac or ""


@structs.prepared
class SriovConf(Wanted, frozen=True, kw_only=True):
    """The configuration of an attachment: what it requests, and how ADD and DEL do it.

    `port` is the representor's port; it then has the VLAN and the rates instead of `settings`. `driver` is "" to
    keep the VF's driver. `reset` is whether DEL resets a VF in user space; None: only if its driver is not vfio.
    """

    device: str
    port: BridgePort | None
    rdma_isolation: bool
    driver: str
    reset: bool | None
    device_info_file: str


def parse(request: Request, devinfo: Path) -> SriovConf:
    """Parse and check the request's configuration; `devinfo` is the folder of device-info files.

    Raises Error that names network and key: INVALID_CONFIG, or INVALID_REQUEST for CNI_ARGS.
    """
    with within(Thing("network", request.name)):
        _check_args(request)
        return _parse(request, _normalize_keys(request.config), devinfo)


def names_bridge(config: Mapping[str, Any]) -> bool:
    """Whether a configuration, which need not be valid, has the key "bridge"."""
    return any(key.lower() == "bridge" and value for key, value in config.items())


def _normalize_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration with keys spelled as in KEYS. As in sriov-cni, keys are case-insensitive.

    For type "sriov", the last of several spellings counts; for our own type, repeated and unknown keys are errors.
    """
    own = config.get("type") != "sriov"
    found: dict[str, Any] = {}
    for key, value in config.items():
        if key.lower() == "vlantrunk":  # a key of other plugins
            what = "the kernel cannot give several VLANs to a VF"
            hint = 'use "vlan" for one VLAN, "trust": "on" for VLANs set up in the pod, or "bridge" and "trunk"'
            raise Error(Kind.INVALID_CONFIG, what, key="vlanTrunk", hint=hint)
        known = _CANONICAL.get(key.lower())
        if known is None:
            if own:
                raise unknown_key(key, _CANONICAL.values())
            ignored = unknown_key(key, _CANONICAL.values(), what="it has no effect")
            log.warning("%s", ignored.within("network configuration of type sriov"))
        elif known in found and own:
            raise Error(Kind.INVALID_CONFIG, f'it is given twice, also as "{key}"', key=known)
        else:
            found[known] = value
    return found


def _check_args(request: Request) -> None:
    """Refuse unknown CNI_ARGS unless IgnoreUnknown is set."""
    if request.args.get("IgnoreUnknown", "").lower() in {"1", "t", "true"}:
        return
    unknown = [key for key in request.args if key not in _ARGS and not key.startswith("K8S_POD_")]
    if unknown:
        expected = f"one of {', '.join(_ARGS)}, or IgnoreUnknown=1 as well"
        raise Error(Kind.INVALID_REQUEST, f"unknown {', '.join(unknown)}", where="CNI_ARGS", expected=expected)


def _parse(request: Request, conf: Mapping[str, Any], devinfo: Path) -> SriovConf:
    given = conf.get("runtimeConfig")
    runtime: Mapping[str, Any] = given if isinstance(given, dict) else {}
    device = runtime.get("deviceID") or conf.get("deviceID") or conf.get("pciBusID")
    if device is None:
        expected = "the PCI address of a VF"
        hint = "a network gets it from its annotation k8s.v1.cni.cncf.io/resourceName"
        raise Error(Kind.INVALID_CONFIG, key="deviceID", missing=True, expected=expected, hint=hint)
    mac = runtime.get("mac") or request.args.get("MAC") or conf.get("mac")
    guid = runtime.get("infinibandGUID") or request.args.get("GUID") or _guid_of_arguments(conf)
    name = functions.canonical(device)
    scalable = functions.SCALABLE.fullmatch(name) is not None
    if scalable:
        conf = _without_vf_only_keys(conf, guid)
    keys = structs.read({**conf, "deviceID": device, "mac": mac}, Keys)
    if not name:
        raise structs.wrong("deviceID", DeviceId, device)
    port = _port(keys)
    return SriovConf(
        device=name,
        settings=VfSettings() if scalable else _settings(keys, _guid(guid), with_port=port is not None),
        port=port,
        mac=read_mac(keys.mac) or None,
        mtu=keys.mtu,
        txqlen=keys.tx_queue_len,
        promisc=_switch_needing_trust("promisc", keys.promisc, trusted=scalable or keys.trust == "on"),
        allmulti=_switch_needing_trust("all_multicast", keys.all_multicast, trusted=scalable or keys.trust == "on"),
        queues=keys.queues,
        rss=rss.check(keys.rss),
        rdma_isolation=_rdma_isolation(keys),
        driver=keys.driver or "",
        reset=_switch(keys.reset),
        device_info_file=deviceinfo.requested_file(runtime, devinfo),
    )


def _settings(keys: Keys, guid: str | None, *, with_port: bool) -> VfSettings:
    """Return the VF's settings on the PF. With a port, VLAN and rates are set on that port instead."""
    return VfSettings(
        mac=read_mac(keys.mac) or None,
        **({} if with_port else {**_vlan(keys), **_rates(keys)}),
        spoofchk=_switch(keys.spoofchk),
        trust=_switch(keys.trust),
        link_state=LINK_STATES[keys.link_state] if keys.link_state else None,
        node_guid=guid,
        port_guid=guid,
    )


def _port(keys: Keys) -> BridgePort | None:
    """Return the configuration of the representor's port, None without "bridge"."""
    trunk = keys.trunk or []
    if not keys.bridge:
        if trunk:
            raise Error(Kind.INVALID_CONFIG, 'it needs the key "bridge"', key="trunk", about=about_keys("bridge"))
        return None
    vlan, rates = _vlan(keys), _rates(keys)
    if vlan.get("vlan_qos") or vlan.get("vlan_proto", ETH_P_8021Q) != ETH_P_8021Q or rates["min_tx_rate"]:
        what = 'a port of Open vSwitch has no "vlanQoS", "vlanProto" or "min_tx_rate"'
        others = about_keys("vlanQoS", "vlanProto", "min_tx_rate")
        raise Error(Kind.INVALID_CONFIG, what, key="bridge", hint="remove these keys", about=others)
    if (tag := vlan.get("vlan")) in trunk:
        what = f'VLAN {tag} is the untagged one (key "vlan")'
        raise Error(Kind.INVALID_CONFIG, what, key="trunk", about=about_keys("vlan"))
    return BridgePort(
        bridge=keys.bridge, vlan=tag or None, trunk=tuple(sorted(set(trunk))), rate=rates["max_tx_rate"] or 0
    )


def _without_vf_only_keys(conf: Mapping[str, Any], guid: object) -> Mapping[str, Any]:
    """Return the configuration without keys that have no effect for a scalable function, or for its port.

    Raises Error if one of them has a value; "" is the same as no key.
    """
    kinds = {SCALABLE, PORT} if conf.get("bridge") else {SCALABLE}
    useless = [key for key, of in structs.restricted_keys(Keys).items() if not of & kinds]
    given = {**conf, "infinibandGUID": guid}
    for key in (*useless, "infinibandGUID"):
        if given.get(key) not in (None, ""):
            what = (
                "it has no effect on a scalable function, which has only its own driver and no settings on its PF"
            )
            raise Error(Kind.INVALID_CONFIG, what, key=key, hint="use devlink for settings of its port")
    return {key: value for key, value in conf.items() if key not in useless}


def _switch(value: str | None) -> bool | None:
    return value == "on" if value else None


def _switch_needing_trust(key: str, value: str | None, *, trusted: bool) -> bool | None:
    """Read a switch that needs trust: on an untrusted VF it would have no effect."""
    if value == "on" and not trusted:
        raise Error(Kind.INVALID_CONFIG, '"on" needs "trust": "on"', key=key, about=about_keys("trust"))
    return _switch(value)


def _rdma_isolation(keys: Keys) -> bool:
    if keys.rdma_isolation and keys.driver:
        what = 'it cannot be combined with "driver": only the VF\'s own driver creates its RDMA devices'
        raise Error(Kind.INVALID_CONFIG, what, key="rdmaIsolation", about=about_keys("driver"))
    return bool(keys.rdma_isolation)


def _guid_of_arguments(conf: Mapping[str, Any]) -> object:
    """Return the GUID in args.cni; ib-kubernetes sets it through cni-args of the pod's annotation."""
    args = conf.get("args")
    cni = args.get("cni") if isinstance(args, dict) else None
    return cni.get("guid") if isinstance(cni, dict) else None


def _guid(value: object) -> str | None:
    if value is None or value == "":
        return None
    text = value.lower().replace("-", ":") if isinstance(value, str) else ""
    if not _GUID.fullmatch(text) or set(text) in ({"0", ":"}, {"f", ":"}):
        raise structs.wrong("infinibandGUID", "an 8-byte GUID like 02:00:00:00:00:00:00:01", value)
    return text


def _vlan(keys: Keys) -> dict[str, int]:
    vlan, qos, proto = keys.vlan, keys.vlan_qos, keys.vlan_proto
    number = VLAN_PROTOCOLS[proto.lower()] if proto else ETH_P_8021Q
    if vlan is None:
        for key, value in (("vlanQoS", qos), ("vlanProto", proto)):
            if value is not None:
                raise Error(Kind.INVALID_CONFIG, 'it needs the key "vlan"', key=key, about=about_keys("vlan"))
        return {}
    for key, value in (("vlanQoS", qos), ("vlanProto", "802.1ad" if number == ETH_P_8021AD else None)):
        if vlan == 0 and value:
            what = f'{value} needs a "vlan" that is not 0'
            raise Error(Kind.INVALID_CONFIG, what, key=key, about=about_keys("vlan"))
    return {"vlan": vlan, "vlan_qos": qos or 0, "vlan_proto": number}


def _rates(keys: Keys) -> dict[str, int | None]:
    low, high = keys.min_tx_rate, keys.max_tx_rate
    if low and high and low > high:
        expected = f'at most "max_tx_rate" ({high} Mbit/s)'
        others = about_keys("max_tx_rate")
        raise Error(Kind.INVALID_CONFIG, key="min_tx_rate", expected=expected, got=low, about=others)
    return {"min_tx_rate": low, "max_tx_rate": high}

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
from wirespeed.cni.address import UnicastMac, unicast_mac
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.keys import nearest, unknown_key
from wirespeed.cni.request import Request
from wirespeed.devices import functions
from wirespeed.devices.functions import DeviceId
from wirespeed.kernel.netlink.vf import ETH_P_8021AD, ETH_P_8021Q, LINK_STATES, VLAN_PROTOCOLS, VfSettings
from wirespeed.kube import deviceinfo
from wirespeed.plugins.sriov import rss
from wirespeed.plugins.sriov.rss import Rss
from wirespeed.structs import Words, only, whole
from wirespeed.switches.switch import BridgeName, Trunk

log = logging.getLogger(__name__)

NETDEVICE = "netdevice"  # value of "driver": the kernel's default driver
VF, SCALABLE, PORT = "VF", "scalable function", "port"  # what a key may apply to; PORT is that of a representor

_Switch = Literal["on", "off", ""]  # "" is the same as no key, as in sriov-cni
_Vlan = Annotated[int, Meta(ge=0, le=4094)]
_VlanQos = Annotated[int, Meta(ge=0, le=7)]
_VlanProto = Annotated[
    str, Meta(pattern=whole("802\\.1([qQ]|[aA][dD])")), Words('"802.1Q" or "802.1ad"', "`802.1Q`, `802.1ad`")
]
_Rate = Annotated[int, Meta(ge=0, le=2**32 - 2), Words(f"an integer from 0 to {2**32 - 2}", "Mbit/s")]
_Mtu = Annotated[int, Meta(ge=68, le=65535)]
_Queues = Annotated[int, Meta(ge=1, le=1024)]
_Driver = Annotated[
    str,
    Meta(pattern=whole("([A-Za-z0-9][A-Za-z0-9_-]{0,63})?")),
    Words(f'the name of a driver like "vfio-pci", or "{NETDEVICE}"', f"`vfio-pci`, another driver, `{NETDEVICE}`"),
]
_of_a_vf = only(VF)  # a scalable function has no settings on its PF, and no other driver or reset in sysfs
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
# Keys of other plugins that cannot be implemented: the kernel has no netlink attribute for them.
_IMPOSSIBLE = {
    "vlantrunk": 'key "vlanTrunk": the kernel has no way to give a VF several VLANs; expected "vlan" for one, '
    'or none and "trust": "on", with the VLANs as interfaces in the pod, or "bridge" and "trunk"',
}
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


@dataclass(frozen=True, kw_only=True)
class SriovConf:
    """The configuration of an attachment: `settings` are set on the PF, `mac` to `rss` on the netdev.

    `port` is the representor's port; it then has the VLAN and the rates instead of `settings`. `driver` is "" to
    keep the VF's driver. `reset` is whether DEL resets a VF in user space; None: only if its driver is not vfio.
    """

    device: str
    settings: VfSettings
    port: BridgePort | None
    mac: str | None
    mtu: int | None
    promisc: bool | None
    allmulti: bool | None
    queues: int | None
    rss: Rss | None
    rdma_isolation: bool
    driver: str
    reset: bool | None
    device_info_file: str


def parse(request: Request, devinfo: Path) -> SriovConf:
    """Parse and check the request's configuration; `devinfo` is the folder of device-info files.

    Raises CniError that names network and key: INVALID_CONFIG, or INVALID_ENVIRONMENT for CNI_ARGS.
    """
    try:
        _check_args(request)
        return _parse(request, _canonical(request.config), devinfo)
    except CniError as error:
        raise error.prefixed(f"network {request.name}") from None


def names_bridge(config: Mapping[str, Any]) -> bool:
    """Whether a configuration, which need not be valid, has the key "bridge"."""
    return any(key.lower() == "bridge" and value for key, value in config.items())


def _canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration with keys spelled as in KEYS. As in sriov-cni, any case matches.

    For type "sriov", the last of several spellings counts; for our own type, repeated and unknown keys are errors.
    """
    own = config.get("type") != "sriov"
    found: dict[str, Any] = {}
    for key, value in config.items():
        if key.lower() in _IMPOSSIBLE:
            raise CniError(Code.INVALID_CONFIG, _IMPOSSIBLE[key.lower()])
        known = _CANONICAL.get(key.lower())
        if known is None:
            _unknown(key, own=own)
        elif known in found and own:
            raise CniError(Code.INVALID_CONFIG, f'key "{known}" is given twice, as "{key}" too')
        else:
            found[known] = value
    return found


def _unknown(key: str, *, own: bool) -> None:
    if own:
        raise CniError(Code.INVALID_CONFIG, unknown_key(key, _CANONICAL.values()))
    hint = nearest(key, _CANONICAL)
    log.warning('network configuration of type sriov: unknown key "%s" is ignored%s', key, hint)


def _check_args(request: Request) -> None:
    """Refuse unknown CNI_ARGS unless IgnoreUnknown is set."""
    if request.args.get("IgnoreUnknown", "").lower() in {"1", "t", "true"}:
        return
    unknown = [key for key in request.args if key not in _ARGS and not key.startswith("K8S_POD_")]
    if unknown:
        expected = f"expected one of {', '.join(_ARGS)}, or IgnoreUnknown=1 as well"
        raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_ARGS: unknown {', '.join(unknown)}; {expected}")


def _parse(request: Request, conf: Mapping[str, Any], devinfo: Path) -> SriovConf:
    given = conf.get("runtimeConfig")
    runtime: Mapping[str, Any] = given if isinstance(given, dict) else {}
    device = runtime.get("deviceID") or conf.get("deviceID") or conf.get("pciBusID")
    if device is None:
        raise CniError(
            Code.INVALID_CONFIG,
            'key "deviceID" is missing: expected the PCI address of a VF '
            "(a network gets it from its annotation k8s.v1.cni.cncf.io/resourceName)",
        )
    mac = runtime.get("mac") or request.args.get("MAC") or conf.get("mac")
    guid = runtime.get("infinibandGUID") or request.args.get("GUID") or _guid_of_arguments(conf)
    name = functions.canonical(device)
    scalable = functions.SCALABLE.fullmatch(name) is not None
    if scalable:
        conf = _without_what_is_a_vfs(conf, guid)
    keys = structs.read({**conf, "deviceID": device, "mac": mac}, Keys)
    if not name:
        raise structs.wrong("deviceID", DeviceId, device)
    port = _port(keys)
    return SriovConf(
        device=name,
        settings=VfSettings() if scalable else _settings(keys, _guid(guid), with_port=port is not None),
        port=port,
        mac=_mac(keys),
        mtu=keys.mtu,
        promisc=_trusted_switch("promisc", keys.promisc, trusted=scalable or keys.trust == "on"),
        allmulti=_trusted_switch("all_multicast", keys.all_multicast, trusted=scalable or keys.trust == "on"),
        queues=keys.queues,
        rss=rss.check(keys.rss),
        rdma_isolation=_rdma_isolation(keys),
        driver=keys.driver or "",
        reset=_switch(keys.reset),
        device_info_file=deviceinfo.requested(runtime, devinfo),
    )


def _settings(keys: Keys, guid: str | None, *, with_port: bool) -> VfSettings:
    """Return the VF's settings for the PF; with a port, VLAN and rates are set on the switch (switchdev mode)."""
    return VfSettings(
        mac=_mac(keys),
        **({} if with_port else _vlan(keys)),
        **({} if with_port else _rates(keys)),
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
            raise CniError(Code.INVALID_CONFIG, 'key "trunk" needs the key "bridge"')
        return None
    vlan, rates = _vlan(keys), _rates(keys)
    if vlan.get("vlan_qos") or vlan.get("vlan_proto", ETH_P_8021Q) != ETH_P_8021Q or rates["min_tx_rate"]:
        raise CniError(
            Code.INVALID_CONFIG,
            'key "bridge": a port of Open vSwitch has no "vlanQoS", "vlanProto" or "min_tx_rate"; expected none',
        )
    if (tag := vlan.get("vlan")) in trunk:
        raise CniError(Code.INVALID_CONFIG, f'key "trunk": {tag} is the VLAN that is untagged (key "vlan")')
    return BridgePort(
        bridge=keys.bridge, vlan=tag or None, trunk=tuple(sorted(set(trunk))), rate=rates["max_tx_rate"] or 0
    )


def _without_what_is_a_vfs(conf: Mapping[str, Any], guid: object) -> Mapping[str, Any]:
    """Return the configuration without keys that have no effect for a scalable function, or for its port.

    Raises CniError if one of them has a value; "" is the same as no key.
    """
    kinds = {SCALABLE, PORT} if conf.get("bridge") else {SCALABLE}
    useless = [key for key, of in structs.limits(Keys).items() if not of & kinds]
    given = {**conf, "infinibandGUID": guid}
    for key in (*useless, "infinibandGUID"):
        if given.get(key) not in (None, ""):
            raise CniError(
                Code.INVALID_CONFIG,
                f'key "{key}": a scalable function has none, and no driver but its own; '
                "what concerns its port is set with devlink",
            )
    return {key: value for key, value in conf.items() if key not in useless}


def _switch(value: str | None) -> bool | None:
    return value == "on" if value else None


def _trusted_switch(key: str, value: str | None, *, trusted: bool) -> bool | None:
    """Read a switch that needs trust: on an untrusted VF it would be on without any effect."""
    if value == "on" and not trusted:
        raise CniError(Code.INVALID_CONFIG, f'key "{key}": "on" needs "trust": "on"')
    return _switch(value)


def _rdma_isolation(keys: Keys) -> bool:
    if keys.rdma_isolation and keys.driver:
        raise CniError(
            Code.INVALID_CONFIG, 'key "rdmaIsolation": expected no "driver": a VF has RDMA devices by its own'
        )
    return bool(keys.rdma_isolation)


def _mac(keys: Keys) -> str | None:
    if not keys.mac:
        return None
    text = unicast_mac(keys.mac)
    if not text:
        raise structs.wrong("mac", UnicastMac, keys.mac)
    return text


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
                raise CniError(Code.INVALID_CONFIG, f'key "{key}" needs the key "vlan"')
        return {}
    if vlan == 0 and qos:
        raise CniError(Code.INVALID_CONFIG, f'key "vlanQoS": {qos} needs a "vlan" that is not 0')
    if vlan == 0 and number == ETH_P_8021AD:
        raise CniError(Code.INVALID_CONFIG, 'key "vlanProto": 802.1ad needs a "vlan" that is not 0')
    return {"vlan": vlan, "vlan_qos": qos or 0, "vlan_proto": number}


def _rates(keys: Keys) -> dict[str, int | None]:
    low, high = keys.min_tx_rate, keys.max_tx_rate
    if low and high and low > high:
        raise CniError(
            Code.INVALID_CONFIG, f'key "min_tx_rate": {low} Mbit/s is more than "max_tx_rate", {high} Mbit/s'
        )
    return {"min_tx_rate": low, "max_tx_rate": high}

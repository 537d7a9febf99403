"""The configuration of the SR-IOV CNI: its keys, and their checks before any change."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wirespeed.cni.address import unicast_mac
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.keys import nearest, nearest_value
from wirespeed.cni.request import Request
from wirespeed.host import functions
from wirespeed.host.netlink.vf import ETH_P_8021AD, ETH_P_8021Q, LINK_STATES, VLAN_PROTOCOLS, VfSettings
from wirespeed.host.switches import BRIDGE, TRUNK, is_trunk
from wirespeed.kube import deviceinfo
from wirespeed.plugins.sriov import rss
from wirespeed.plugins.sriov.rss import Rss

log = logging.getLogger(__name__)

KEYS = (
    "deviceID",  # required: the VF's PCI address, "0000:03:02.0", or a scalable function, "mlx5_core.sf.4"
    "vlan",  # 0-4094; 0 removes the VLAN; absent leaves the VF's VLAN as it is
    "vlanQoS",  # priority 0-7, with a vlan
    "vlanProto",  # "802.1Q" (default) or "802.1ad", with a vlan
    "mac",  # unicast MAC address of the VF: admin MAC on the PF, and MAC of the netdev
    "spoofchk",  # "on" or "off": drop frames that the VF sends with another source address
    "trust",  # "on" or "off": let the VF change its addresses and go promiscuous
    "link_state",  # "auto", "enable" or "disable"
    "min_tx_rate",  # guaranteed rate in Mbit/s, 0 for none
    "max_tx_rate",  # limit in Mbit/s, 0 for none
    "mtu",  # of the VF's netdev, in bytes; not for a VF in user space, where the application sets it
    "promisc",  # "on" or "off" for the VF's netdev; "on" needs trust
    "all_multicast",  # "on" or "off" for the VF's netdev; "on" needs trust
    "queues",  # number of channels (queues) of the VF's netdev
    "rss",  # receive-side scaling of the VF's netdev: queues, weights, hash, key
    "rdmaIsolation",  # true: move the VF's RDMA devices into the pod with its netdev
    "driver",  # driver of the VF in the pod: "vfio-pci", another one, or "netdevice" for the kernel's default
    "reset",  # "on" or "off": DEL resets (FLR) a VF in user space; absent: only if its driver is not vfio
    "bridge",  # Open vSwitch bridge for the VF's representor; the PF must be in switchdev mode
    "trunk",  # with "bridge": list of the port's tagged VLANs; "vlan" is then the untagged one
    "ipam",
    "runtimeConfig",  # mac, infinibandGUID, ips, deviceID, CNIDeviceInfoFile
)
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
# Keys for VFs only: a scalable function has no settings on its PF, and no other driver or reset in sysfs.
_OF_A_VF = (
    *("vlan", "vlanQoS", "vlanProto", "spoofchk", "trust", "link_state", "min_tx_rate", "max_tx_rate"),
    *("driver", "reset", "infinibandGUID"),
)
_OF_A_PORT = ("vlan", "max_tx_rate")  # those of _OF_A_VF that a representor's port supports too
_CANONICAL = {key.lower(): key for key in (*KEYS, *OTHER_KEYS)}
_GUID = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){7}")
_DRIVER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
NETDEVICE = "netdevice"  # value of "driver": the kernel's default driver


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
    hint = nearest(key, _CANONICAL)
    if own:
        raise CniError(Code.INVALID_CONFIG, f'unknown key "{key}"{hint}')
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
    runtime = _object(conf, "runtimeConfig")
    _object(conf, "ipam")
    device = runtime.get("deviceID") or conf.get("deviceID") or conf.get("pciBusID")
    if device is None:
        raise CniError(
            Code.INVALID_CONFIG,
            'key "deviceID" is missing: expected the PCI address of a VF '
            "(a network gets it from its annotation k8s.v1.cni.cncf.io/resourceName)",
        )
    name = functions.canonical(device)
    if not name:
        raise _wrong("deviceID", functions.EXPECTED, device)
    mac = _mac(runtime.get("mac") or request.args.get("MAC") or conf.get("mac"))
    guid = _guid(runtime.get("infinibandGUID") or request.args.get("GUID") or _guid_of_arguments(conf))
    scalable = functions.SCALABLE.fullmatch(name) is not None
    port = _port(conf)
    if scalable:
        _refuse_what_is_a_vfs({**conf, "infinibandGUID": guid}, but=_OF_A_PORT if port else ())
    return SriovConf(
        device=name,
        settings=VfSettings() if scalable else _settings(conf, mac, guid, with_port=port is not None),
        port=port,
        mac=mac,
        mtu=_integer(conf, "mtu", 68, 65535),
        promisc=_trusted_switch(conf, "promisc", trusted=scalable),
        allmulti=_trusted_switch(conf, "all_multicast", trusted=scalable),
        queues=_integer(conf, "queues", 1, 1024),
        rss=rss.parse(conf.get("rss")),
        rdma_isolation=_rdma_isolation(conf),
        driver=_driver(conf.get("driver")),
        reset=_switch(conf, "reset"),
        device_info_file=deviceinfo.requested(runtime, devinfo),
    )


def _settings(conf: Mapping[str, Any], mac: str | None, guid: str | None, *, with_port: bool) -> VfSettings:
    """Return the VF's settings for the PF; with a port, VLAN and rates are set on the switch (switchdev mode)."""
    return VfSettings(
        mac=mac,
        **({} if with_port else _vlan(conf)),
        **({} if with_port else _rates(conf)),
        spoofchk=_switch(conf, "spoofchk"),
        trust=_switch(conf, "trust"),
        link_state=_link_state(conf.get("link_state")),
        node_guid=guid,
        port_guid=guid,
    )


def _port(conf: Mapping[str, Any]) -> BridgePort | None:
    """Return the configuration of the representor's port, None without "bridge"."""
    bridge, trunk = conf.get("bridge"), [] if conf.get("trunk") is None else conf["trunk"]
    if not is_trunk(trunk):
        raise _wrong("trunk", TRUNK, trunk)
    if bridge is None or bridge == "":
        if trunk:
            raise CniError(Code.INVALID_CONFIG, 'key "trunk" needs the key "bridge"')
        return None
    if not isinstance(bridge, str) or not BRIDGE.fullmatch(bridge):
        raise _wrong("bridge", "the name of an Open vSwitch bridge like br-int", bridge)
    vlan, rates = _vlan(conf), _rates(conf)
    if vlan.get("vlan_qos") or vlan.get("vlan_proto", ETH_P_8021Q) != ETH_P_8021Q or rates["min_tx_rate"]:
        raise CniError(
            Code.INVALID_CONFIG,
            'key "bridge": a port of Open vSwitch has no "vlanQoS", "vlanProto" or "min_tx_rate"; expected none',
        )
    if (tag := vlan.get("vlan")) in trunk:
        raise CniError(Code.INVALID_CONFIG, f'key "trunk": {tag} is the VLAN that is untagged (key "vlan")')
    return BridgePort(
        bridge=bridge, vlan=tag or None, trunk=tuple(sorted(set(trunk))), rate=rates["max_tx_rate"] or 0
    )


def _refuse_what_is_a_vfs(conf: Mapping[str, Any], *, but: Collection[str]) -> None:
    for key in _OF_A_VF:
        if key not in but and conf.get(key) not in (None, ""):
            raise CniError(
                Code.INVALID_CONFIG,
                f'key "{key}": a scalable function has none, and no driver but its own; '
                "what concerns its port is set with devlink",
            )


def _wrong(key: str, expected: str, got: object) -> CniError:
    return CniError(
        Code.INVALID_CONFIG, f'key "{key}": expected {expected}, got {got!r}{nearest_value(got, expected)}'
    )


def _object(conf: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = conf.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(key, "an object", value)
    return value


def _integer(conf: Mapping[str, Any], key: str, low: int, high: int) -> int | None:
    value = conf.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _wrong(key, f"an integer from {low} to {high}", value)
    return value


def _switch(conf: Mapping[str, Any], key: str) -> bool | None:
    value = conf.get(key)
    if value is None or value == "":
        return None
    if value not in ("on", "off"):
        raise _wrong(key, '"on" or "off"', value)
    return bool(value == "on")


def _trusted_switch(conf: Mapping[str, Any], key: str, *, trusted: bool) -> bool | None:
    """Parse a switch that needs trust: on an untrusted VF it would be on without any effect."""
    value = _switch(conf, key)
    if value and not trusted and not _switch(conf, "trust"):
        raise CniError(Code.INVALID_CONFIG, f'key "{key}": "on" needs "trust": "on"')
    return value


def _rdma_isolation(conf: Mapping[str, Any]) -> bool:
    value = conf.get("rdmaIsolation")
    if value is not None and not isinstance(value, bool):
        raise _wrong("rdmaIsolation", "true or false", value)
    if value and conf.get("driver"):
        raise CniError(
            Code.INVALID_CONFIG, 'key "rdmaIsolation": expected no "driver": a VF has RDMA devices by its own'
        )
    return bool(value)


def _driver(value: object) -> str:
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or not _DRIVER.fullmatch(value):
        raise _wrong("driver", f'the name of a driver like "vfio-pci", or "{NETDEVICE}"', value)
    return value


def _link_state(value: object) -> int | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or value not in LINK_STATES:
        raise _wrong("link_state", '"auto", "enable" or "disable"', value)
    return LINK_STATES[value]


def _mac(value: object) -> str | None:
    if value is None or value == "":
        return None
    text = unicast_mac(value)
    if not text:
        raise _wrong("mac", "a unicast MAC address like 02:00:00:00:00:01", value)
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
        raise _wrong("infinibandGUID", "an 8-byte GUID like 02:00:00:00:00:00:00:01", value)
    return text


def _vlan(conf: Mapping[str, Any]) -> dict[str, int]:
    vlan = _integer(conf, "vlan", 0, 4094)
    qos = _integer(conf, "vlanQoS", 0, 7)
    proto = conf.get("vlanProto")
    if proto is not None and (not isinstance(proto, str) or proto.lower() not in VLAN_PROTOCOLS):
        raise _wrong("vlanProto", '"802.1Q" or "802.1ad"', proto)
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


def _rates(conf: Mapping[str, Any]) -> dict[str, int | None]:
    low = _integer(conf, "min_tx_rate", 0, 2**32 - 2)
    high = _integer(conf, "max_tx_rate", 0, 2**32 - 2)
    if low and high and low > high:
        raise CniError(
            Code.INVALID_CONFIG, f'key "min_tx_rate": {low} Mbit/s is more than "max_tx_rate", {high} Mbit/s'
        )
    return {"min_tx_rate": low, "max_tx_rate": high}

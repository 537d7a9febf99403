"""The configuration of the vhost-user CNI: its keys, and their checks before any change."""

from __future__ import annotations

import grp
import logging
import pwd
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from wirespeed import structs
from wirespeed.cni.address import UnicastMac, unicast_mac
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.keys import known_in_any_case, nearest, unknown_key
from wirespeed.cni.request import Request
from wirespeed.kube import deviceinfo
from wirespeed.structs import Words, only, whole
from wirespeed.switches.switch import BRIDGE, BridgeName, Trunk

log = logging.getLogger(__name__)

PEER = "userspace"  # type of a userspace-CNI configuration: unknown keys are logged as warnings, not refused
OVS, VPP, NONE = "ovs-dpdk", "vpp", "none"
VHOSTUSER, MEMIF = "vhostuser", "memif"
_KINDS = {OVS: (VHOSTUSER,), VPP: (MEMIF, VHOSTUSER), NONE: (MEMIF,)}
_OPPOSITE = {"client": "server", "server": "client", "master": "slave", "slave": "master"}

_DEVICE = re.compile(r"[A-Za-z0-9_-]{1,63}")
# A file's name. No comma: it separates arguments of DPDK's --vdev.
_File = Annotated[
    str,
    Meta(pattern=whole("([A-Za-z0-9_][A-Za-z0-9_.-]{0,63})?")),
    Words("a file name of at most 64 letters, digits, _ . -", "file name"),
]
_Folder = Annotated[
    str,
    Meta(pattern=whole("(/[A-Za-z0-9_.+@~/-]*)?")),
    Words("an absolute path of letters, digits, _ . + @ ~ - and no ..", "absolute path"),
]
_Label = Annotated[
    str,
    Meta(pattern=whole("[A-Za-z0-9_.,:+-]{0,255}")),
    Words("an SELinux label of letters, digits, _ . , : + -", "label"),
]
# It becomes part of a command-line argument of the application.
_Secret = Annotated[
    str,
    Meta(pattern=whole(r"[!#-&(-+\--\[\]-~]{0,24}")),
    Words(
        "at most 24 printable ASCII characters without spaces, commas, quotes, backslashes",
        "up to 24 characters",
        secret=True,
    ),
]
_RingSize = Annotated[int, Meta(ge=2, le=1 << 14), Words("a power of 2 from 2 to 16384", "power of 2 up to 16384")]
_Account = Annotated[int | str, Words("a name or a number", "name or number")]
_Mode = Annotated[str, Meta(pattern=whole("0?[0-7]{3}")), Words('octal digits like "0660"', "`0660`")]
_Rate = Annotated[int, Meta(ge=0, le=2**53), Words(f"an integer from 0 to {2**53}", "bit/s")]
_Burst = Annotated[int, Meta(ge=0, le=2**53), Words(f"an integer from 0 to {2**53}", "bit")]
_Vlan = Annotated[int, Meta(ge=0, le=4094), Words("an integer from 0 to 4094", "1 to 4094")]
_of_ovs, _of_memif, _of_vhostuser, _of_a_switch = only(OVS), only(MEMIF), only(VHOSTUSER), only(OVS, VPP)


class MemifKeys(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The keys of `memif`."""

    role: Annotated[Literal["master", "slave", ""] | None, _of_memif] = None
    """the master listens, the slave connects. Required for `host` with vpp. With `none`, set it in `container`; by
    default the first pod is the master"""
    mode: Literal["ethernet", "ip", "inject-punt", ""] | None = None
    """default `ethernet`"""
    socketfile: _File | None = None
    """the name of the socket in its directory"""
    ring_size: Annotated[_RingSize | None, _of_memif] = None
    """entries of a ring, default 1024"""
    buffer_size: Annotated[int, Meta(ge=64, le=65535)] | None = None
    """bytes of a buffer, default 2048"""
    secret: Annotated[_Secret | None, _of_memif] = None
    """both sides must know it"""


class VhostKeys(msgspec.Struct, kw_only=True, frozen=True):
    """The keys of `vhost`."""

    mode: Annotated[Literal["client", "server", ""] | None, _of_vhostuser] = None
    """the client connects, and reconnects after a restart; the server listens. Default for `host`: `client`, for
    type `userspace` `server`"""
    group: _Account | None = None
    """the same as `group` of `socket`"""
    socketfile: _File | None = None
    """the name of the socket in its directory"""


class BridgeKeys(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The keys of `bridge`."""

    name: Annotated[int | str | None, Words("a name or a number", "name (Open vSwitch), number (VPP)")] = (
        msgspec.field(name="bridgeName", default=None)
    )
    """the bridge of Open vSwitch, default `br0`, or the bridge domain of VPP"""
    number: Annotated[int | str | None, Words("a number", "number")] = msgspec.field(name="bridgeId", default=None)
    """the bridge domain of VPP, if `bridgeName` is not given"""
    create: bool | None = None
    """create the bridge if it does not exist; default: for type `userspace` only"""
    vlan: Annotated[_Vlan | None, _of_ovs] = msgspec.field(name="vlanId", default=None)
    """the VLAN of the port, untagged; Open vSwitch. 0 is the same as no key"""
    trunk: Annotated[Trunk | None, _of_ovs] = None
    """VLANs that the port carries tagged; Open vSwitch"""


class SideKeys(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The keys of `host` and `container`."""

    engine: Literal["ovs-dpdk", "vpp", "none"] | None = None
    """the switch; required for `host`. `none` is memif from pod to pod"""
    iftype: Annotated[
        Literal["vhostuser", "memif"] | None,
        Words('"vhostuser" or "memif"', "`vhostuser` (ovs-dpdk, vpp), `memif` (vpp, none)"),
    ] = None
    """the kind of interface; required for `host`"""
    net_type: Annotated[
        Literal["bridge", "interface", ""] | None,
        _of_a_switch,
        Words('"bridge" or "interface"', "`bridge`, `interface` (vpp: routed)"),
    ] = None
    """required with vpp"""
    memif: MemifKeys | None = None
    """the socket and the rings of a memif interface: see below"""
    vhost: VhostKeys | None = None
    """the socket of a vhost-user interface: see below"""
    bridge: Annotated[BridgeKeys | None, _of_a_switch] = None
    """the switch's bridge: see below"""
    mtu: Annotated[int, Meta(ge=68, le=65535)] | None = None
    """the MTU of the interface"""
    queues: Annotated[int, Meta(ge=1, le=255)] | None = None
    """queue pairs, default 1"""


class SocketKeys(msgspec.Struct, kw_only=True, frozen=True):
    """The keys of `socket`."""

    user: _Account | None = None
    """the owner of the directory and of the socket"""
    group: _Account | None = None
    """their group"""
    mode: _Mode | None = None
    """the permissions of the socket. The directory also gets an x for each r"""
    label: _Label | None = msgspec.field(name="selinuxLabel", default=None)


class BandwidthKeys(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The keys of `bandwidth`, from the pod's point of view, as in the reference plugin "bandwidth"."""

    ingress_rate: _Rate | None = None
    """what the pod receives"""
    ingress_burst: _Burst | None = None
    egress_rate: _Rate | None = None
    """what the pod sends"""
    egress_burst: _Burst | None = None


class MirrorKeys(msgspec.Struct, kw_only=True, frozen=True):
    """The keys of `mirror`."""

    to: Annotated[str | None, Words("the name of a port", "name of a port")] = None
    """that port gets a copy of this port's traffic"""
    source: Annotated[
        Literal["all", ""] | list[str] | None, Words('"all" or a list of ports', "`all`, or a list of ports")
    ] = msgspec.field(name="from", default=None)
    """this port gets a copy of those ports' traffic"""
    direction: Literal["in", "out", "both", ""] | None = None
    """`in` copies what goes from the port into the switch, `out` the opposite direction; default `both`, which is
    the only value with `from` as `all`"""


@structs.prepared
class Keys(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The keys of the configuration; null is the same as no key."""

    host: SideKeys | None = None
    """required: the switch's side"""
    container: dict[str, Any] | None = None
    """the application's side, if it is not the counterpart of the host's"""
    shared_dir: _Folder | None = None
    """each pod's sockets are in a directory of their own below this one; with engine `none` in this one itself,
    which both pods mount"""
    socket: SocketKeys | None = None
    """owner, mode and SELinux label of the directory and the socket"""
    mac: UnicastMac | None = None
    """the MAC address that the application is to use"""
    bandwidth: Annotated[BandwidthKeys | None, _of_ovs] = None
    """rate limits, as seen by the pod; Open vSwitch"""
    mirror: Annotated[MirrorKeys | None, _of_ovs] = None
    """a copy of traffic; Open vSwitch"""
    annotate: bool | None = None
    """whether the pod gets the annotations `userspace/*`; default: for type `userspace` only"""
    ipam: dict[str, Any] | None = None
    """addresses, which are only reported to the application: there is no interface to configure"""
    device: Annotated[
        Any, Words("any value", "id of a device of a [vhost-user pool](health-and-reload.md#vhost-user-pools)")
    ] = msgspec.field(name="deviceID", default=None)
    """the sockets are in this device's directory. The meta-plugin sets this key"""
    runtime_config: dict[str, Any] | None = None
    """`mac`, `ips`, `bandwidth`, `deviceID`, `CNIDeviceInfoFile`"""


KEYS = structs.keys_of(Keys)
PARTS: dict[str, type[msgspec.Struct]] = {"memif": MemifKeys, "vhost": VhostKeys, "bridge": BridgeKeys}
# Accepted without effect: keys of the CNI specification, of the meta-plugin and of userspace-CNI.
OTHER_KEYS = (
    "cniVersion",
    "name",
    "type",
    "capabilities",
    "args",
    "dns",
    "prevResult",
    "pciBusID",
    "kubeconfig",  # the agent's configuration determines where pods are read
    "logLevel",
    "logFile",
    "cni.dev/valid-attachments",
    "cni.dev/attachments",
)


@dataclass(frozen=True, kw_only=True)
class Bandwidth:
    """Limits from the pod's point of view: `ingress` is what it receives. In bit/s and bit, 0 for none."""

    ingress_rate: int = 0
    ingress_burst: int = 0
    egress_rate: int = 0
    egress_burst: int = 0


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """Traffic to copy: of this port `to` another port, or from `sources` (ALL: all ports) to this port."""

    to: str = ""
    sources: tuple[str, ...] = ()
    into: bool = True  # copy what a port sends into the switch
    out: bool = True  # copy what the switch sends to a port


ALL = ("*",)


@dataclass(frozen=True, kw_only=True)
class Access:
    """Owner, mode and SELinux label of folder and socket; None or "" if not configured."""

    user: int | None = None
    group: int | None = None
    mode: int | None = None
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class VhostConf:
    """The configuration of an attachment.

    `role` is the switch's role ("client" or "server", "master" or "slave"), `app_role` the application's. Without a
    switch `role` is ""; `app_role` is then "" if the order of the pods decides.
    """

    engine: str
    kind: str
    routed: bool = False
    bridge: str = ""
    create: bool = False
    role: str
    app_role: str
    mode: str = ""  # memif mode; "" is ethernet
    socket_file: str = ""
    ring_size: int = 1024
    buffer_size: int = 2048
    secret: str = ""
    vlan: int | None = None
    trunk: tuple[int, ...] = ()
    mtu: int | None = None
    queues: int = 1
    mac: str = ""
    bandwidth: Bandwidth = Bandwidth()
    mirror: Mirror | None = None
    access: Access = Access()
    shared_dir: str = ""
    device: str = ""  # device of a vhost-user pool, whose folder is used
    annotate: bool = False
    container: Mapping[str, Any]
    device_info_file: str = ""
    peer: bool = False


def parse(request: Request, devinfo: Path) -> VhostConf:
    """Parse and check the request's configuration; `devinfo` is the folder of device-info files.

    Raises CniError that names network and key: INVALID_CONFIG, or UNSUPPORTED_FIELD for a key without effect.
    """
    try:
        return _Reader(request, devinfo).read()
    except CniError as error:
        raise error.prefixed(f"network {request.name}") from None


class _Reader:
    """Parser of one configuration; `where` in its methods is the path of an object, e.g. "host.memif."."""

    def __init__(self, request: Request, devinfo: Path) -> None:
        self._request, self._devinfo = request, devinfo
        self._peer = request.config.get("type") == PEER

    def read(self) -> VhostConf:
        conf = self._canonical("", request_keys(self._request.config), (*KEYS, *OTHER_KEYS))
        host = self._side(conf, "host")
        container = self._side(conf, "container")
        runtime = {**_object(conf, "runtimeConfig")}
        engine = _one_of("host.", host, "engine", tuple(_KINDS), required=True)
        kind = _one_of("host.", host, "iftype", _KINDS[engine], required=True, why=f" with engine {engine}")
        self._drop_what_has_no_effect(conf, runtime, host, frozenset({engine, kind}))
        routed = _routed(host, engine)
        if self._peer:
            self._drop_what_is_not_read(host, engine, kind, routed=routed)
        role, app_role = _roles(host, container, engine, kind, peer=self._peer)
        keys = self._keys(conf, runtime, host)
        side = keys.host or SideKeys()
        memif, vhost = side.memif or MemifKeys(), side.vhost or VhostKeys()
        made = VhostConf(
            engine=engine,
            kind=kind,
            routed=routed,
            role=role,
            app_role=app_role,
            mode=memif.mode or "",
            socket_file=(memif if kind == MEMIF else vhost).socketfile or "",
            ring_size=_power_of_two(memif.ring_size) or 1024,
            buffer_size=memif.buffer_size or 2048,
            secret=memif.secret or "",
            mtu=side.mtu,
            queues=side.queues or 1,
            mac=_mac(keys.mac),
            bandwidth=self._bandwidth(keys.bandwidth, runtime),
            mirror=_mirror(keys.mirror),
            access=_access(keys.socket or SocketKeys(), vhost.group),
            shared_dir=_folder(keys.shared_dir),
            annotate=self._peer if keys.annotate is None else keys.annotate,
            container={**container},
            device_info_file=deviceinfo.requested(runtime, self._devinfo),
            device=_device(runtime.get("deviceID") or keys.device),
            peer=self._peer,
        )
        return self._on_bridge(made, side.bridge or BridgeKeys())

    def _keys(self, conf: Mapping[str, Any], runtime: Mapping[str, Any], host: Mapping[str, Any]) -> Keys:
        """Read the configuration, with the values that the runtime sets instead of its own."""
        mac = runtime.get("mac") or self._request.args.get("MAC") or conf.get("mac")
        given = {**conf, "host": host, "mac": mac}
        if runtime.get("bandwidth"):
            given["bandwidth"] = None
        for key, kind in (("socket", SocketKeys), ("bandwidth", BandwidthKeys), ("mirror", MirrorKeys)):
            if isinstance(given.get(key), dict):
                given[key] = self._canonical(f"{key}.", given[key], structs.keys_of(kind))
        if given.get("mirror") == {}:
            given["mirror"] = None
        found = structs.read(given, Keys)
        if found.ipam and found.ipam.get("type") == "dhcp":
            raise structs.wrong("ipam.type", "an IPAM that needs no interface in the pod", "dhcp")
        return found

    def _canonical(self, where: str, raw: Mapping[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
        """Return the object with keys spelled as in `known`; as in userspace-CNI, any case matches."""
        names = {key.lower(): key for key in known}
        return known_in_any_case(raw, known, lambda key: self._unknown(where, key, names))

    def _unknown(self, where: str, key: str, names: Mapping[str, str]) -> None:
        if not self._peer:
            raise CniError(Code.INVALID_CONFIG, unknown_key(key, names.values(), within=where))
        hint = nearest(key, names, within=where)
        log.warning('network %s: unknown key "%s%s" is ignored%s', self._request.name, where, key, hint)

    def _side(self, conf: Mapping[str, Any], side: str) -> dict[str, Any]:
        """Return `host` or `container`; its parts are always objects."""
        if side == "host" and conf.get("host") is None:
            raise CniError(Code.INVALID_CONFIG, 'key "host" is missing: expected an object with "engine"')
        found = self._canonical(f"{side}.", _object(conf, side), structs.keys_of(SideKeys))
        for part, kind in PARTS.items():
            keys = structs.keys_of(kind)
            found[part] = self._canonical(f"{side}.{part}.", _object(found, part, f"{side}."), keys)
        return found

    def _drop_what_has_no_effect(
        self, conf: dict[str, Any], runtime: dict[str, Any], host: dict[str, Any], chosen: frozenset[str]
    ) -> None:
        """Refuse keys that the engine or the kind of interface does not have.

        For type "userspace", log a warning and remove them instead, so that their values are not checked.
        """
        places: list[tuple[str, dict[str, Any], type[msgspec.Struct]]] = [
            *((f"host.{part}.", host[part], kind) for part, kind in PARTS.items()),
            ("", conf, Keys),
            ("host.", host, SideKeys),
        ]
        found = [
            (where, inner, key)
            for where, inner, kind in places
            for key, of in structs.limits(kind).items()
            if not of & chosen
        ]
        if OVS not in chosen:
            found.append(("runtimeConfig.", runtime, "bandwidth"))
        why = f"engine {host['engine']} and iftype {host['iftype']}"
        for where, inner, key in found:
            if self._peer:
                self._drop(where, inner, key, why)
            elif inner.get(key):
                raise CniError(Code.UNSUPPORTED_FIELD, _no_effect(where + key, why))

    def _drop_what_is_not_read(self, host: Mapping[str, Any], engine: str, kind: str, *, routed: bool) -> None:
        """For type "userspace", remove the other keys without effect too; our own type checks their values."""
        why = f"engine {engine} and iftype {kind}"
        if kind == MEMIF:
            self._drop("host.vhost.", host["vhost"], "socketfile", why)
        else:
            for key in structs.keys_of(MemifKeys):
                self._drop("host.memif.", host["memif"], key, why)
        for key in structs.keys_of(BridgeKeys) if routed else ("bridgeId",) if engine == OVS else ():
            self._drop("host.bridge.", host["bridge"], key, "netType interface" if routed else why)

    def _drop(self, where: str, inner: dict[str, Any], key: str, why: str) -> None:
        if inner.pop(key, None):
            log.warning("network %s: %s", self._request.name, _no_effect(where + key, why))

    def _on_bridge(self, made: VhostConf, bridge: BridgeKeys) -> VhostConf:
        if made.engine == NONE or made.routed:
            return made
        create = self._peer if bridge.create is None else bridge.create
        if made.engine == VPP:
            return replace(made, bridge=_domain(bridge), create=create)
        if bridge.name and (not isinstance(bridge.name, str) or not BRIDGE.fullmatch(bridge.name)):
            raise structs.wrong("host.bridge.bridgeName", BridgeName, bridge.name)
        return replace(
            made,
            bridge=str(bridge.name or "br0"),
            create=create,
            vlan=bridge.vlan or None,
            trunk=tuple(sorted(set(bridge.trunk or []))),
        )

    def _bandwidth(self, configured: BandwidthKeys | None, runtime: Mapping[str, Any]) -> Bandwidth:
        where, asked = "", configured or BandwidthKeys()
        if runtime.get("bandwidth"):
            where = "runtimeConfig."
            raw = _object(runtime, "bandwidth", where)
            raw = self._canonical(f"{where}bandwidth.", raw, structs.keys_of(BandwidthKeys))
            asked = structs.read(raw, BandwidthKeys, where=f"{where}bandwidth")
        rates = (
            ("ingress", asked.ingress_rate, asked.ingress_burst),
            ("egress", asked.egress_rate, asked.egress_burst),
        )
        for direction, rate, burst in rates:
            if burst and not rate:
                raise CniError(
                    Code.INVALID_CONFIG, f'key "{where}bandwidth.{direction}Burst" needs "{direction}Rate"'
                )
        return Bandwidth(
            ingress_rate=asked.ingress_rate or 0,
            ingress_burst=asked.ingress_burst or 0,
            egress_rate=asked.egress_rate or 0,
            egress_burst=asked.egress_burst or 0,
        )


def _no_effect(path: str, why: str) -> str:
    return f'key "{path}" has no effect with {why}'


def _mirror(keys: MirrorKeys | None) -> Mirror | None:
    if keys is None:
        return None
    if bool(keys.to) == bool(keys.source):
        raise CniError(Code.INVALID_CONFIG, 'key "mirror": expected one of the keys "to" and "from"')
    direction = keys.direction or "both"
    if keys.source == "all" and direction != "both":
        expected = '"both" with "from" as "all": Open vSwitch copies both then'
        raise structs.wrong("mirror.direction", expected, direction)
    sources = ALL if keys.source == "all" else tuple(keys.source or ())
    return Mirror(to=keys.to or "", sources=sources, into=direction != "out", out=direction != "in")


def access(raw: Mapping[str, Any]) -> Access:
    """Parse an object of SocketKeys. Raises CniError(INVALID_CONFIG) that names the key."""
    return _access(structs.read(raw, SocketKeys, where="socket"), None)


def _access(keys: SocketKeys, group: int | str | None) -> Access:
    """Return the owner, mode and label; `group` is that of `host.vhost`, for a socket without one."""
    group_key = "socket.group" if keys.group is not None or not group else "host.vhost.group"
    return Access(
        user=_account("socket.user", keys.user, lambda name: pwd.getpwnam(name).pw_uid),
        group=_account(group_key, keys.group if keys.group is not None else group, _gid),
        mode=None if keys.mode is None else int(keys.mode, 8),
        label=keys.label or "",
    )


def _gid(name: str) -> int:
    return grp.getgrnam(name).gr_gid


def request_keys(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the configuration without keys that are null; null means "not given"."""
    return {key: value for key, value in config.items() if value is not None}


def _roles(
    host: Mapping[str, Any], container: Mapping[str, Any], engine: str, kind: str, *, peer: bool
) -> tuple[str, str]:
    """Return the roles of the switch and of the application.

    The default role of the application is the opposite of the switch's role.
    """
    part, key, choices = (
        ("memif", "role", ("master", "slave")) if kind == MEMIF else ("vhost", "mode", ("client", "server"))
    )
    role = _one_of(f"host.{part}.", host[part], key, choices, required=kind == MEMIF and engine == VPP)
    app_role = _one_of(f"container.{part}.", container[part], key, choices)
    if engine == NONE:
        if role:
            raise CniError(
                Code.INVALID_CONFIG, 'key "host.memif.role": there is no switch; expected "container.memif.role"'
            )
        return "", app_role
    if kind == VHOSTUSER and not role:
        role = "server" if peer else "client"  # in userspace-CNI everything except "client" means server
    app_role = app_role or _OPPOSITE[role]
    if app_role == role:
        what = f'key "container.{part}.{key}": the switch is the {role} already'
        if not peer:
            raise CniError(Code.INVALID_CONFIG, f'{what}; expected "{_OPPOSITE[role]}"')
        log.warning("%s: nothing will connect them", what)
    return role, app_role


def _routed(host: Mapping[str, Any], engine: str) -> bool:
    choices = ("bridge", "interface") if engine == VPP else ("bridge",)
    why = f" with engine {engine}"
    return _one_of("host.", host, "netType", choices, required=engine == VPP, why=why) == "interface"


def _domain(bridge: BridgeKeys) -> str:
    """Return the number of VPP's bridge domain, which has 24 bits."""
    value = bridge.name or bridge.number
    text = "" if value is None else str(value)
    if not re.fullmatch(r"[0-9]{1,8}", text) or not 0 < int(text) < 1 << 24:
        expected = "the number of a bridge domain, 1 to 16777215"
        raise structs.wrong("host.bridge.bridgeName", expected, value)
    return str(int(text))


def _object(conf: Mapping[str, Any], key: str, where: str = "") -> Mapping[str, Any]:
    value = conf.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise structs.wrong(where + key, dict, value)
    return value


def _one_of(
    where: str,
    conf: Mapping[str, Any],
    key: str,
    choices: Sequence[str],
    *,
    required: bool = False,
    why: str = "",
) -> str:
    """Return the value, "" if it is not given; an empty string means "not given", as in userspace-CNI."""
    value = conf.get(key)
    if value is None or value == "":
        if not required:
            return ""
        listed = " or ".join(f'"{choice}"' for choice in choices)
        raise CniError(Code.INVALID_CONFIG, f'key "{where}{key}" is missing: expected {listed}{why}')
    if not isinstance(value, str) or value not in choices:
        expected = " or ".join(f'"{choice}"' for choice in choices) + why
        raise structs.wrong(where + key, expected, value)
    return value


def _power_of_two(size: int | None) -> int | None:
    if size is not None and size & (size - 1):
        raise structs.wrong("host.memif.ringSize", _RingSize, size)
    return size


def _mac(value: str | None) -> str:
    if not value:
        return ""
    text = unicast_mac(value)
    if not text:
        raise structs.wrong("mac", UnicastMac, value)
    return text


def _folder(value: str | None) -> str:
    if not value:
        return ""
    if ".." in value.split("/"):
        raise structs.wrong("sharedDir", _Folder, value)
    return value.rstrip("/") or "/"


def _account(key: str, value: int | str | None, look_up: Callable[[str], int]) -> int | None:
    """Return the uid or gid of a number or name."""
    if value is None or value == "":
        return None
    if isinstance(value, str) and not value.isdecimal():
        try:
            return look_up(value)
        except (KeyError, ValueError):  # ValueError: a NUL, or a lone surrogate
            expected = "a number, or a name that this node knows"
            raise structs.wrong(key, expected, value) from None
    if isinstance(value, int) and not 0 <= value < 2**32 - 1:
        raise structs.wrong(key, _Account, value)
    return int(value)


def _device(value: object) -> str:
    """Return the id of a device of a vhost-user pool; "" for any other id, such as a PCI address.

    userspace-CNI ignores PCI addresses too.
    """
    return value if isinstance(value, str) and _DEVICE.fullmatch(value) else ""

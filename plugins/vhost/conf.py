"""The configuration of the vhost-user CNI: its keys, and their checks before any change."""

from __future__ import annotations

import grp
import logging
import pwd
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from wirespeed import structs
from wirespeed.cni.address import UnicastMac, read_mac
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind, Thing, about_keys, within
from wirespeed.keys import drop_unknown, unknown_key
from wirespeed.kube import deviceinfo
from wirespeed.structs import Words, only, whole
from wirespeed.switches.switch import BRIDGE, BridgeName, Trunk

log = logging.getLogger(__name__)

USERSPACE_CNI = "userspace"  # type of a configuration of userspace-CNI; its unknown keys are logged, not refused
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
    """their SELinux label"""


class BandwidthKeys(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The keys of `bandwidth`, from the pod's point of view, as in the reference plugin "bandwidth"."""

    ingress_rate: _Rate | None = None
    """what the pod receives"""
    ingress_burst: _Burst | None = None
    """how much it may receive at once above that rate; default: 0.1 s of the rate, at least 64 KiB"""
    egress_rate: _Rate | None = None
    """what the pod sends"""
    egress_burst: _Burst | None = None
    """how much it may send at once above that rate; the same default"""


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
    bandwidth: BandwidthKeys
    mirror: MirrorKeys | None = None
    access: Access = Access()
    shared_dir: str = ""
    device: str = ""  # device of a vhost-user pool, whose folder is used
    annotate: bool = False
    container: Mapping[str, Any]
    device_info_file: str = ""
    userspace_cni: bool = False


def parse(request: Request, devinfo: Path) -> VhostConf:
    """Parse and check the request's configuration; `devinfo` is the folder of device-info files.

    Raises Error that names network and key: INVALID_CONFIG, or UNSUPPORTED for a key without effect.
    """
    with within(Thing("network", request.name)):
        return _Reader(request, devinfo).read()


class _Reader:
    """Parser of one configuration. `where` in its methods is the path of an object, such as "host.memif."."""

    def __init__(self, request: Request, devinfo: Path) -> None:
        self._request, self._devinfo = request, devinfo
        self._is_userspace_cni = request.config.get("type") == USERSPACE_CNI

    def read(self) -> VhostConf:
        given = {key: value for key, value in self._request.config.items() if value is not None}
        conf = self._normalize_keys((), given, (*KEYS, *OTHER_KEYS))
        host = self._side(conf, "host")
        container = self._side(conf, "container")
        runtime = {**structs.object_in(conf, "runtimeConfig")}
        engine = _one_of("host.", host, "engine", tuple(_KINDS), required=True)
        kind = _one_of("host.", host, "iftype", _KINDS[engine], required=True, why=f" with engine {engine}")
        self._drop_ineffective_keys(conf, runtime, host, engine, kind)
        why, choices = f" with engine {engine}", ("bridge", "interface") if engine == VPP else ("bridge",)
        net_type = _one_of("host.", host, "netType", choices, required=engine == VPP, why=why)
        routed = net_type == "interface"
        role, app_role = _roles(host, container, engine, kind, userspace_cni=self._is_userspace_cni)
        keys = self._keys(conf, runtime, host)
        side = keys.host or SideKeys()
        memif, vhost, bridge = side.memif or MemifKeys(), side.vhost or VhostKeys(), side.bridge or BridgeKeys()
        ring_size = memif.ring_size or 1024
        if ring_size & (ring_size - 1):
            raise structs.wrong("host.memif.ringSize", _RingSize, ring_size)
        return VhostConf(
            engine=engine,
            kind=kind,
            routed=routed,
            role=role,
            app_role=app_role,
            mode=memif.mode or "",
            socket_file=(memif if kind == MEMIF else vhost).socketfile or "",
            ring_size=ring_size,
            buffer_size=memif.buffer_size or 2048,
            secret=memif.secret or "",
            mtu=side.mtu,
            queues=side.queues or 1,
            mac=read_mac(keys.mac),
            bandwidth=self._bandwidth(keys.bandwidth, runtime),
            mirror=_mirror(keys.mirror),
            access=_access(keys.socket or SocketKeys(), vhost.group),
            shared_dir=_folder(keys.shared_dir),
            annotate=self._is_userspace_cni if keys.annotate is None else keys.annotate,
            container={**container},
            device_info_file=deviceinfo.requested_file(runtime, self._devinfo),
            device=_device(runtime.get("deviceID") or keys.device),
            userspace_cni=self._is_userspace_cni,
            bridge=_bridge(bridge, engine, routed=routed),
            create=self._is_userspace_cni if bridge.create is None else bridge.create,
            vlan=bridge.vlan or None,
            trunk=tuple(sorted(set(bridge.trunk or []))),
        )

    def _keys(self, conf: Mapping[str, Any], runtime: Mapping[str, Any], host: Mapping[str, Any]) -> Keys:
        """Read the configuration; values from the runtime replace its own."""
        mac = runtime.get("mac") or self._request.args.get("MAC") or conf.get("mac")
        given = {**conf, "host": host, "mac": mac}
        if runtime.get("bandwidth"):
            given["bandwidth"] = None
        for key, kind in (("socket", SocketKeys), ("bandwidth", BandwidthKeys), ("mirror", MirrorKeys)):
            if isinstance(given.get(key), dict):
                given[key] = self._normalize_keys((key,), given[key], structs.keys_of(kind))
        if given.get("mirror") == {}:
            given["mirror"] = None
        found = structs.read(given, Keys)
        if found.ipam and found.ipam.get("type") == "dhcp":
            raise structs.wrong("ipam.type", "an IPAM that needs no interface in the pod", "dhcp")
        return found

    def _normalize_keys(
        self, path: tuple[str, ...], raw: Mapping[str, Any], known: tuple[str, ...]
    ) -> dict[str, Any]:
        """Return the object with keys spelled as in `known`. As in userspace-CNI, keys are case-insensitive."""

        def on_unknown(key: str) -> None:
            if not self._is_userspace_cni:
                raise unknown_key(key, known, within=path)
            self._warn(unknown_key(key, known, within=path, what="it has no effect"))

        return drop_unknown(raw, known, on_unknown)

    def _warn(self, error: Error) -> None:
        log.warning("%s", error.within(Thing("network", self._request.name)))

    def _side(self, conf: Mapping[str, Any], side: str) -> dict[str, Any]:
        """Return `host` or `container`, with an object for each of its parts."""
        if side == "host" and conf.get("host") is None:
            raise Error(Kind.INVALID_CONFIG, key="host", missing=True, expected='an object with "engine"')
        found = self._normalize_keys((side,), structs.object_in(conf, side), structs.keys_of(SideKeys))
        for part, kind in PARTS.items():
            keys = structs.keys_of(kind)
            found[part] = self._normalize_keys((side, part), structs.object_in(found, part, f"{side}."), keys)
        return found

    def _drop_ineffective_keys(
        self, conf: dict[str, Any], runtime: dict[str, Any], host: dict[str, Any], engine: str, kind: str
    ) -> None:
        """Refuse keys that have no effect for the engine or the kind of interface.

        For type "userspace", log a warning and remove them instead; their values are then not checked.
        """
        places: list[tuple[str, dict[str, Any], type[msgspec.Struct]]] = [
            *((f"host.{part}.", host[part], keys) for part, keys in PARTS.items()),
            ("", conf, Keys),
            ("host.", host, SideKeys),
        ]
        why = f"engine {engine} and iftype {kind}"
        found = [
            (where, inner, key, why)
            for where, inner, keys in places
            for key, of in structs.restricted_keys(keys).items()
            if not of & {engine, kind}
        ]
        if engine != OVS:
            found.append(("runtimeConfig.", runtime, "bandwidth", why))
        if self._is_userspace_cni:  # for our own type, the values of these keys are checked
            part, unused = ("vhost", ("socketfile",)) if kind == MEMIF else ("memif", structs.keys_of(MemifKeys))
            found += [(f"host.{part}.", host[part], key, why) for key in unused]
            if engine == OVS:
                found.append(("host.bridge.", host["bridge"], "bridgeId", why))
            elif engine == VPP and host.get("netType") == "interface":
                unused = structs.keys_of(BridgeKeys)
                found += [("host.bridge.", host["bridge"], key, "netType interface") for key in unused]
        for where, inner, key, reason in found:
            if inner.pop(key, None) if self._is_userspace_cni else inner.get(key):
                error = Error(Kind.UNSUPPORTED, f"it has no effect with {reason}", key=where + key)
                if not self._is_userspace_cni:
                    raise error
                self._warn(error)

    def _bandwidth(self, configured: BandwidthKeys | None, runtime: Mapping[str, Any]) -> BandwidthKeys:
        where, asked = "", configured or BandwidthKeys()
        if runtime.get("bandwidth"):
            where = "runtimeConfig."
            raw = structs.object_in(runtime, "bandwidth", where)
            raw = self._normalize_keys(("runtimeConfig", "bandwidth"), raw, structs.keys_of(BandwidthKeys))
            asked = structs.read(raw, BandwidthKeys, where=f"{where}bandwidth")
        rates = (
            ("ingress", asked.ingress_rate, asked.ingress_burst),
            ("egress", asked.egress_rate, asked.egress_burst),
        )
        for direction, rate, burst in rates:
            if burst and not rate:
                key = f"{where}bandwidth.{direction}Burst"
                needed = f"{direction}Rate"
                raise Error(Kind.INVALID_CONFIG, f'it needs "{needed}"', key=key, about=about_keys(needed))
        return asked


def _mirror(keys: MirrorKeys | None) -> MirrorKeys | None:
    if keys is not None and bool(keys.to) == bool(keys.source):
        raise Error(Kind.INVALID_CONFIG, key="mirror", expected='either the key "to" or the key "from"')
    if keys is not None and keys.source == "all" and keys.direction in {"in", "out"}:
        expected = '"both" with "from" as "all": Open vSwitch copies both then'
        raise structs.wrong("mirror.direction", expected, keys.direction)
    return keys


def access(raw: Mapping[str, Any]) -> Access:
    """Parse an object of SocketKeys. Raises Error(INVALID_CONFIG) that names the key."""
    return _access(structs.read(raw, SocketKeys, where="socket"), None)


def _access(keys: SocketKeys, group: int | str | None) -> Access:
    """Return owner, mode and label; `group` is that of `host.vhost`, used if `socket` has no group."""
    group_key = "socket.group" if keys.group is not None or not group else "host.vhost.group"
    return Access(
        user=_account("socket.user", keys.user, lambda name: pwd.getpwnam(name).pw_uid),
        group=_account(
            group_key, group if keys.group is None else keys.group, lambda name: grp.getgrnam(name).gr_gid
        ),
        mode=None if keys.mode is None else int(keys.mode, 8),
        label=keys.label or "",
    )


def _roles(
    host: Mapping[str, Any], container: Mapping[str, Any], engine: str, kind: str, *, userspace_cni: bool
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
            hint = 'use "container.memif.role"'
            raise Error(Kind.INVALID_CONFIG, "engine none has no switch", key="host.memif.role", hint=hint)
        return "", app_role
    if kind == VHOSTUSER and not role:
        role = "server" if userspace_cni else "client"  # in userspace-CNI, every value except "client" means server
    app_role = app_role or _OPPOSITE[role]
    if app_role == role:
        path = f"container.{part}.{key}"
        if not userspace_cni:
            what, expected = f"the switch is already the {role}", f'"{_OPPOSITE[role]}"'
            raise Error(Kind.INVALID_CONFIG, what, key=path, expected=expected)
        what = f"the switch is already the {role}: nothing will connect them"
        log.warning("%s", Error(Kind.INVALID_CONFIG, what, key=path))
    return role, app_role


def _bridge(keys: BridgeKeys, engine: str, *, routed: bool) -> str:
    """Return the name of the bridge of Open vSwitch, or the number of VPP's bridge domain, which has 24 bits."""
    if engine == NONE or routed:
        return ""
    if engine == OVS:
        if keys.name and (not isinstance(keys.name, str) or not BRIDGE.fullmatch(keys.name)):
            raise structs.wrong("host.bridge.bridgeName", BridgeName, keys.name)
        return str(keys.name or "br0")
    value = keys.name or keys.number
    text = str(value)
    if not re.fullmatch(r"[0-9]{1,8}", text) or not 0 < int(text) < 1 << 24:
        expected = "the number of a bridge domain, 1 to 16777215"
        raise structs.wrong("host.bridge.bridgeName", expected, value)
    return str(int(text))


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
    expected = " or ".join(f'"{choice}"' for choice in choices) + why
    if value is None or value == "":
        if not required:
            return ""
        raise Error(Kind.INVALID_CONFIG, key=where + key, missing=True, expected=expected)
    if not isinstance(value, str) or value not in choices:
        raise structs.wrong(where + key, expected, value)
    return value


def _folder(value: str | None) -> str:
    if value and ".." in value.split("/"):
        raise structs.wrong("sharedDir", _Folder, value)
    return (value.rstrip("/") or "/") if value else ""


def _account(key: str, value: int | str | None, look_up: Callable[[str], int]) -> int | None:
    """Return the uid or gid of a number or name."""
    if value is None or value == "":
        return None
    if isinstance(value, str) and not value.isdecimal():
        try:
            return look_up(value)
        except (KeyError, ValueError):  # ValueError: a NUL, or a lone surrogate
            expected = "a number, or a name that this node knows"
            account = Thing("account", value)
            raise Error(Kind.INVALID_CONFIG, key=key, expected=expected, got=value, about=[account]) from None
    if isinstance(value, int) and not 0 <= value < 2**32 - 1:
        raise structs.wrong(key, _Account, value)
    return int(value)


def _device(value: object) -> str:
    """Return the id of a device of a vhost-user pool; "" for any other id, such as a PCI address.

    userspace-CNI ignores PCI addresses too.
    """
    return value if isinstance(value, str) and _DEVICE.fullmatch(value) else ""

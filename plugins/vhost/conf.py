"""The configuration of the vhost-user CNI: its keys, and their checks before any change."""

from __future__ import annotations

import grp
import logging
import pwd
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wirespeed.cni.address import unicast_mac
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.keys import known_in_any_case, nearest, nearest_value
from wirespeed.cni.request import Request
from wirespeed.host.switches import BRIDGE, TRUNK, is_trunk
from wirespeed.kube import deviceinfo

log = logging.getLogger(__name__)

PEER = "userspace"  # type of a userspace-CNI configuration: unknown keys are logged as warnings, not refused

KEYS = (
    "host",  # required, HOST_KEYS: the switch's side
    "container",  # HOST_KEYS: the application's side, if it is not the exact counterpart of "host"
    "sharedDir",  # folder on the node: with engine "none" the shared folder, else it has a subfolder per container
    "socket",  # SOCKET_KEYS: owner, mode and label of the folder and the socket
    "mac",  # unicast MAC address that the application should use
    "bandwidth",  # BANDWIDTH_KEYS, from the pod's point of view, as in the reference plugin "bandwidth"
    "mirror",  # MIRROR_KEYS
    "annotate",  # whether to set the annotations userspace/* of the pod; default: only for type "userspace"
    "ipam",  # addresses are passed to the application: there is no netdev
    "deviceID",  # a device of a vhost-user pool of the device plugin; its folder has the sockets
    "runtimeConfig",  # mac, ips, bandwidth, deviceID, CNIDeviceInfoFile
)
HOST_KEYS = (
    "engine",  # required: "ovs-dpdk", "vpp", or "none" for memif from pod to pod
    "iftype",  # required: "vhostuser" (ovs-dpdk, vpp) or "memif" (vpp, none)
    "netType",  # "bridge", or "interface" for a routed interface (vpp only); required with vpp
    "memif",  # MEMIF_KEYS
    "vhost",  # VHOST_KEYS
    "bridge",  # BRIDGE_KEYS
    "mtu",  # bytes
    "queues",  # queue pairs of the interface, default 1
)
MEMIF_KEYS = (
    "role",  # "master" listens, "slave" connects; required in "host" with vpp, only in "container" with "none"
    "mode",  # "ethernet" (default), "ip" or "inject-punt"
    "socketfile",  # name of the socket's file in its folder
    "ringSize",  # entries of a ring, a power of 2, default 1024
    "bufferSize",  # bytes of a buffer, default 2048
    "secret",  # both sides must know it, at most 24 characters
)
VHOST_KEYS = (
    "mode",  # "client" connects, and reconnects after a restart; "server" listens
    "group",  # group of folder and socket, like socket.group
    "socketfile",  # name of the socket's file in its folder
)
BRIDGE_KEYS = (
    "bridgeName",  # Open vSwitch: name of the bridge, default "br0"; VPP: number of the bridge domain
    "bridgeId",  # VPP: number of the bridge domain, if there is no bridgeName
    "create",  # create a missing bridge; default: only for type "userspace"
    "vlanId",  # untagged VLAN of the port, 1-4094; Open vSwitch only
    "trunk",  # list of tagged VLANs of the port; Open vSwitch only
)
SOCKET_KEYS = (
    "user",  # name or number
    "group",  # name or number
    "mode",  # mode of the socket, "0660"; the folder also gets an x for each r
    "selinuxLabel",  # "system_u:object_r:container_file_t:s0"
)
BANDWIDTH_KEYS = ("ingressRate", "ingressBurst", "egressRate", "egressBurst")  # bit/s and bit
MIRROR_KEYS = (
    "to",  # copy this port's traffic to the port of this name in the bridge
    "from",  # copy traffic to this port: "all", or a list of ports of the bridge
    "direction",  # "in" (from the port into the switch), "out" or "both" (default)
)
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

OVS, VPP, NONE = "ovs-dpdk", "vpp", "none"
VHOSTUSER, MEMIF = "vhostuser", "memif"
_KINDS = {OVS: (VHOSTUSER,), VPP: (MEMIF, VHOSTUSER), NONE: (MEMIF,)}
_OPPOSITE = {"client": "server", "server": "client", "master": "slave", "slave": "master"}

_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")  # no comma: it separates arguments of DPDK's --vdev
_DEVICE = re.compile(r"[A-Za-z0-9_-]{1,63}")
_FOLDER = re.compile(r"/[A-Za-z0-9_.+@~/-]*")
_LABEL = re.compile(r"[A-Za-z0-9_.,:+-]{1,255}")


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
        runtime = _object("", conf, "runtimeConfig")
        engine = _one_of("host.", host, "engine", tuple(_KINDS), required=True)
        kind = _one_of("host.", host, "iftype", _KINDS[engine], required=True, why=f" with engine {engine}")
        self._check_applies(conf, runtime, host, engine, kind)
        self._check_ipam(conf)
        role, app_role = _roles(host, container, engine, kind, peer=self._peer)
        made = VhostConf(
            engine=engine,
            kind=kind,
            routed=_routed(host, engine),
            role=role,
            app_role=app_role,
            mode=_one_of("host.memif.", host["memif"], "mode", _MODES),
            socket_file=_name(f"host.{_PART[kind]}.", host[_PART[kind]], "socketfile", _FILE),
            ring_size=_power_of_two(host["memif"]) or 1024,
            buffer_size=_integer("host.memif.", host["memif"], "bufferSize", 64, 65535) or 2048,
            secret=_text("host.memif.", host["memif"], "secret", 24),
            mtu=_integer("host.", host, "mtu", 68, 65535),
            queues=_integer("host.", host, "queues", 1, 255) or 1,
            mac=_mac(runtime.get("mac") or self._request.args.get("MAC") or conf.get("mac")),
            bandwidth=self._bandwidth(conf, runtime),
            mirror=self._mirror(conf),
            access=self._access(conf, host),
            shared_dir=_folder(conf.get("sharedDir")),
            annotate=_flag("", conf, "annotate", default=self._peer),
            container={**container},
            device_info_file=deviceinfo.requested(runtime, self._devinfo),
            device=_device(runtime.get("deviceID") or conf.get("deviceID")),
            peer=self._peer,
        )
        return self._on_bridge(made, host["bridge"])

    def _canonical(self, where: str, raw: Mapping[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
        """Return the object with keys spelled as in `known`; as in userspace-CNI, any case matches."""
        names = {key.lower(): key for key in known}
        return known_in_any_case(raw, known, lambda key: self._unknown(where, key, names))

    def _unknown(self, where: str, key: str, names: Mapping[str, str]) -> None:
        hint = nearest(key, names, within=where)
        if not self._peer:
            raise CniError(Code.INVALID_CONFIG, f'unknown key "{where}{key}"{hint}')
        log.warning("network %s: unknown key %s%s is ignored%s", self._request.name, where, key, hint)

    def _side(self, conf: Mapping[str, Any], side: str) -> dict[str, Any]:
        """Return `host` or `container`; its parts are always objects."""
        if side == "host" and conf.get("host") is None:
            raise CniError(Code.INVALID_CONFIG, 'key "host" is missing: expected an object with "engine"')
        found = self._canonical(f"{side}.", _object("", conf, side), HOST_KEYS)
        for part, keys in (("memif", MEMIF_KEYS), ("vhost", VHOST_KEYS), ("bridge", BRIDGE_KEYS)):
            found[part] = self._canonical(f"{side}.{part}.", _object(f"{side}.", found, part), keys)
        return found

    def _check_applies(
        self, conf: Mapping[str, Any], runtime: Mapping[str, Any], host: Mapping[str, Any], engine: str, kind: str
    ) -> None:
        """Refuse keys that the engine does not implement; for type "userspace" only log a warning."""
        bridge = host["bridge"]
        only_ovs = {
            "host.bridge.vlanId": bridge.get("vlanId"),
            "host.bridge.trunk": bridge.get("trunk"),
            "bandwidth": conf.get("bandwidth"),
            "runtimeConfig.bandwidth": runtime.get("bandwidth"),
            "mirror": conf.get("mirror"),
        }
        asked = [key for key, value in only_ovs.items() if value] if engine != OVS else []
        if kind == MEMIF and host["vhost"].get("mode"):
            asked.append("host.vhost.mode")
        if kind == VHOSTUSER:
            asked += [f"host.memif.{key}" for key in ("role", "secret", "ringSize") if host["memif"].get(key)]
        if engine == NONE:
            asked += [f"host.{key}" for key in ("netType", "bridge") if host.get(key)]
        for key in asked:
            what = f'key "{key}" has no effect with engine {engine} and iftype {kind}'
            if not self._peer:
                raise CniError(Code.UNSUPPORTED_FIELD, what)
            log.warning("network %s: %s", self._request.name, what)

    def _check_ipam(self, conf: Mapping[str, Any]) -> None:
        if _object("", conf, "ipam").get("type") == "dhcp":
            raise _wrong("ipam.type", "an IPAM that needs no interface in the pod", "dhcp")

    def _on_bridge(self, made: VhostConf, bridge: Mapping[str, Any]) -> VhostConf:
        where = "host.bridge."
        if made.engine == NONE or made.routed:
            return made
        create = _flag(where, bridge, "create", default=self._peer)
        if made.engine == VPP:
            return replace(made, bridge=_domain(bridge), create=create)
        trunk = bridge.get("trunk") or []
        if not is_trunk(trunk):
            raise _wrong(f"{where}trunk", TRUNK, trunk)
        return replace(
            made,
            bridge=_name(where, bridge, "bridgeName", BRIDGE) or "br0",
            create=create,
            vlan=_integer(where, bridge, "vlanId", 0, 4094) or None,
            trunk=tuple(sorted(set(trunk))),
        )

    def _bandwidth(self, conf: Mapping[str, Any], runtime: Mapping[str, Any]) -> Bandwidth:
        where, source = ("runtimeConfig.", runtime) if runtime.get("bandwidth") else ("", conf)
        raw = self._canonical(f"{where}bandwidth.", _object(where, source, "bandwidth"), BANDWIDTH_KEYS)
        read = [_integer(f"{where}bandwidth.", raw, key, 0, 2**53) or 0 for key in BANDWIDTH_KEYS]
        for direction, rate, burst in (("ingress", read[0], read[1]), ("egress", read[2], read[3])):
            if burst and not rate:
                raise CniError(
                    Code.INVALID_CONFIG, f'key "{where}bandwidth.{direction}Burst" needs "{direction}Rate"'
                )
        return Bandwidth(ingress_rate=read[0], ingress_burst=read[1], egress_rate=read[2], egress_burst=read[3])

    def _mirror(self, conf: Mapping[str, Any]) -> Mirror | None:
        if not conf.get("mirror"):
            return None
        raw = self._canonical("mirror.", _object("", conf, "mirror"), MIRROR_KEYS)
        to, source = raw.get("to") or "", raw.get("from")
        if bool(to) == bool(source):
            raise CniError(Code.INVALID_CONFIG, 'key "mirror": expected one of the keys "to" and "from"')
        listed = list(ALL) if source == "all" else source or []
        if not isinstance(to, str) or not isinstance(listed, list) or not all(isinstance(p, str) for p in listed):
            raise _wrong("mirror", '"to" as the name of a port, or "from" as "all" or a list of ports', raw)
        direction = _one_of("mirror.", raw, "direction", ("in", "out", "both")) or "both"
        if source == "all" and direction != "both":
            raise _wrong(
                "mirror.direction", '"both" with "from" as "all": Open vSwitch copies both then', direction
            )
        return Mirror(to=to, sources=tuple(listed), into=direction != "out", out=direction != "in")

    def _access(self, conf: Mapping[str, Any], host: Mapping[str, Any]) -> Access:
        raw = self._canonical("socket.", _object("", conf, "socket"), SOCKET_KEYS)
        if raw.get("group") is None and host["vhost"].get("group"):
            return access({**raw, "group": host["vhost"]["group"]}, group_key="host.vhost.group")
        return access(raw)


def access(raw: Mapping[str, Any], *, group_key: str = "socket.group") -> Access:
    """Parse an object of SOCKET_KEYS. Raises CniError(INVALID_CONFIG) that names the key."""
    mode = raw.get("mode")
    if mode is not None and (not isinstance(mode, str) or not re.fullmatch(r"0?[0-7]{3}", mode)):
        raise _wrong("socket.mode", 'octal digits like "0660"', mode)
    return Access(
        user=_account("socket.user", raw.get("user"), lambda name: pwd.getpwnam(name).pw_uid),
        group=_account(group_key, raw.get("group"), lambda name: grp.getgrnam(name).gr_gid),
        mode=None if mode is None else int(mode, 8),
        label=_name("socket.", raw, "selinuxLabel", _LABEL),
    )


_MODES = ("ethernet", "ip", "inject-punt")
_PART = {VHOSTUSER: "vhost", MEMIF: "memif"}  # key of the interface's settings in "host" and "container"


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


def _domain(bridge: Mapping[str, Any]) -> str:
    """Return the number of VPP's bridge domain, which has 24 bits."""
    value = bridge.get("bridgeName") or bridge.get("bridgeId")
    text = str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    if not re.fullmatch(r"[0-9]{1,8}", text) or not 0 < int(text) < 1 << 24:
        raise _wrong("host.bridge.bridgeName", "the number of a bridge domain, 1 to 16777215", value)
    return str(int(text))


def _wrong(key: str, expected: str, got: object) -> CniError:
    shown = repr(got)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return CniError(
        Code.INVALID_CONFIG, f'key "{key}": expected {expected}, got {shown}{nearest_value(got, expected)}'
    )


def _object(where: str, conf: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = conf.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(where + key, "an object", value)
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
        raise _wrong(where + key, " or ".join(f'"{choice}"' for choice in choices) + why, value)
    return value


def _integer(where: str, conf: Mapping[str, Any], key: str, low: int, high: int) -> int | None:
    value = conf.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _wrong(where + key, f"an integer from {low} to {high}", value)
    return value


def _power_of_two(memif: Mapping[str, Any]) -> int | None:
    size = _integer("host.memif.", memif, "ringSize", 2, 1 << 14)
    if size is not None and size & (size - 1):
        raise _wrong("host.memif.ringSize", "a power of 2", size)
    return size


def _flag(where: str, conf: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = conf.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise _wrong(where + key, "true or false", value)
    return value


def _name(where: str, conf: Mapping[str, Any], key: str, pattern: re.Pattern[str]) -> str:
    value = conf.get(key)
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise _wrong(where + key, f"a name that matches {pattern.pattern}", value)
    return value


def _text(where: str, conf: Mapping[str, Any], key: str, longest: int) -> str:
    value = conf.get(key)
    if value is None:
        return ""
    # It becomes part of a command-line argument of the application.
    if not isinstance(value, str) or len(value) > longest or not re.fullmatch(r"[\x21-\x7e]*", value):
        raise _wrong(where + key, f"at most {longest} printable ASCII characters without spaces", value)
    if set(value) & set(",\"'\\"):
        raise _wrong(where + key, "no comma, quote or backslash", value)
    return value


def _mac(value: object) -> str:
    if value is None or value == "":
        return ""
    text = unicast_mac(value)
    if not text:
        raise _wrong("mac", "a unicast MAC address like 02:00:00:00:00:01", value)
    return text


def _folder(value: object) -> str:
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or not _FOLDER.fullmatch(value) or ".." in value.split("/"):
        raise _wrong("sharedDir", "an absolute path of letters, digits, _ . + @ ~ - and no ..", value)
    return value.rstrip("/") or "/"


def _account(key: str, value: object, look_up: Any) -> int | None:
    """Return the uid or gid of a number or name."""
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32 - 1:
        return value
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    if isinstance(value, str):
        try:
            number: int = look_up(value)
        except KeyError:
            raise _wrong(key, "a number, or a name that this node knows", value) from None
        return number
    raise _wrong(key, "a name or a number", value)


def _device(value: object) -> str:
    """Return the id of a device of a vhost-user pool; "" for any other id, such as a PCI address.

    userspace-CNI ignores PCI addresses too.
    """
    return value if isinstance(value, str) and _DEVICE.fullmatch(value) else ""

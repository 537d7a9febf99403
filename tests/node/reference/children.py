"""Random configurations of macvlan, ipvlan and vlan, above an interface of the node (m0) or of the pod (p0)."""

from __future__ import annotations

import random
from typing import Any

from tests.node.reference.making import Maker, ipam, maybe, network
from tests.node.reference.sides import Config, Trial
from wirespeed.ipam import Ipam
from wirespeed.plugins.reference.ipvlan import Ipvlan
from wirespeed.plugins.reference.macvlan import Macvlan
from wirespeed.plugins.reference.vlan import Vlan

Commands = tuple[tuple[str, ...], ...]

_MAC = "02:11:00:00:00:0{}"
MASTERS: Commands = (
    ("-n", "NODE", "link", "add", "m0", "address", _MAC.format(1), "type", "veth", "peer", "name", "m1"),
    ("-n", "NODE", "link", "set", "m1", "up"),
    ("-n", "NODE", "link", "set", "m0", "up"),
    ("-n", "POD", "link", "add", "p0", "address", _MAC.format(2), "type", "veth", "peer", "name", "p1"),
    ("-n", "POD", "link", "set", "p1", "up"),
    ("-n", "POD", "link", "set", "p0", "mtu", "1450", "up"),
)
_DEFAULT_ROUTES: tuple[Commands, ...] = (
    (
        ("-n", "NODE", "addr", "add", "10.8.0.1/24", "dev", "m0"),
        ("-n", "NODE", "route", "add", "default", "via", "10.8.0.2"),
    ),
    (
        ("-n", "NODE", "addr", "add", "fd00:8::1/64", "dev", "m0", "nodad"),
        ("-n", "NODE", "-6", "route", "add", "default", "via", "fd00:8::2"),
    ),
    (
        ("-n", "POD", "addr", "add", "10.8.0.1/24", "dev", "p0"),
        ("-n", "POD", "route", "add", "default", "via", "10.8.0.2", "metric", "7"),
    ),
)
_DNS = {"nameservers": ["10.1.2.3"], "search": ["example.org"]}


def _shared(chance: random.Random) -> tuple[Config, Commands]:
    """The keys that all have, and what there is before: mostly valid together."""
    inside = chance.random() < 0.25
    keys: Config = {"linkInContainer": True} if inside else {}
    prepare = MASTERS
    way = chance.random()
    if way < 0.7:
        keys["master"] = "p0" if inside else "m0"
    elif way < 0.95:
        prepare += chance.choice(_DEFAULT_ROUTES)
    else:
        keys["master"] = "none0"
    keys |= maybe(chance, mtu=[0, 1300, 1400, 9000], dns=[_DNS])
    return keys, prepare + _taken(chance)


def _taken(chance: random.Random) -> Commands:
    """The pod's interface has the name of one on the node, or its name is taken in the pod."""
    where = chance.choices(["NODE", "POD", None], [3, 1, 6])[0]
    return (("-n", where, "link", "add", "net1", "type", "bridge"),) if where else ()


def _wrong(chance: random.Random, **values: list[Any]) -> Config:
    """Seldom, one key with a wrong value."""
    if chance.random() > 0.12:
        return {}
    values["dns"] = [{"nameservers": "10.1.2.3"}]
    key = chance.choice(sorted(values))
    return {key: chance.choice(values[key])}


def macvlan(chance: random.Random) -> Trial:
    keys, prepare = _shared(chance)
    keys |= maybe(
        chance,
        mode=["", "bridge", "private", "vepa", "passthru"],
        bcqueuelen=[500, 2000],
        mac=[_MAC.format(3), "02-11-00-00-00-04"],
        runtimeConfig=[{"mac": _MAC.format(6)}],
        args=[{"cni": {"mac": _MAC.format(7)}}],
    )
    keys |= _wrong(
        chance,
        mode=["Bridge", "l2", 3],
        mtu=[-1, "1400", 2000],
        bcqueuelen=[-1],
        mac=["02:11", "01:00:00:00:00:01"],
    )
    args = {"IgnoreUnknown": "1", "MAC": _MAC.format(5)} if chance.random() < 0.3 else {}
    return Trial("macvlan", network("macvlan", **keys, **ipam(chance)), args, prepare)


def ipvlan(chance: random.Random) -> Trial:
    keys, prepare = _shared(chance)
    keys |= maybe(chance, mode=["", "l2", "l3", "l3s"])
    keys |= _wrong(chance, mode=["L2", "bridge", 3], mtu=["1400"], linkInContainer=["yes"])
    if chance.random() < 0.4:
        keys["prevResult"] = _previous(chance, "p0" if keys.get("linkInContainer") is True else "m0")
    return Trial("ipvlan", network("ipvlan", **keys, **ipam(chance)), {}, prepare)


def _previous(chance: random.Random, master: str) -> Config:
    """The result of the plugin before it in the chain; seldom one that names no master."""
    names = chance.choices([[master], [master, "other0"], []], [8, 1, 1])[0]
    ips: list[Config] = chance.choice(
        [
            [],
            [{"address": "10.9.1.2/24", "gateway": "10.9.1.1"}],
            [{"address": "10.9.1.2/24"}, {"address": "fd00:91::2/64", "gateway": "fd00:91::1"}],
        ]
    )
    routes = [{"dst": "10.78.0.0/16"}] if ips and chance.random() < 0.5 else []
    return {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": name} for name in names],
        "ips": [{**ip, "interface": 0} if names else ip for ip in ips],
        "routes": routes,
        "dns": chance.choice([{}, {"nameservers": ["10.3.3.3"]}]),
    }


def vlan(chance: random.Random) -> Trial:
    keys, prepare = _shared(chance)
    keys |= {"vlanId": chance.choice([0, 1, 7, 4094])} if chance.random() < 0.9 else {}
    keys |= _wrong(chance, vlanId=[-1, 4095, "7"], mtu=[-1, "1400", 2000])
    if chance.random() < 0.1:
        parent = "p0" if keys.get("linkInContainer") else "m0"
        where = "POD" if parent == "p0" else "NODE"
        prepare += (("-n", where, "link", "add", "v7", "link", parent, "type", "vlan", "id", "7"),)
    return Trial("vlan", network("vlan", **keys, **ipam(chance, always=chance.random() < 0.9)), {}, prepare)


MAKERS: dict[str, Maker] = {
    "macvlan": (macvlan, lambda side: Macvlan(Ipam(side.leases))),
    "ipvlan": (ipvlan, lambda side: Ipvlan(Ipam(side.leases))),
    "vlan": (vlan, lambda side: Vlan(Ipam(side.leases))),
}

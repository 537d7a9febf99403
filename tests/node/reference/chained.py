"""Random configurations of plugins that follow another one in the chain, and the interface that it has made."""

from __future__ import annotations

import random
from typing import Any

from tests.node.reference.making import Maker
from tests.node.reference.sides import Config, Trial
from wirespeed.plugins.reference.sbr import Sbr
from wirespeed.plugins.reference.vrf import Vrf

Command = tuple[str, ...]

_INTERFACES = [{"name": "node1"}, {"name": "net1", "sandbox": "@POD@"}, {"name": "net2", "sandbox": "@POD@"}]
_ADDRESSES = {
    "10.9.0.2/24": "10.9.0.1",
    "10.9.0.3/24": "10.9.0.1",
    "10.10.0.2/16": "10.10.255.254",
    "192.0.2.7/32": "",
    "fd00:9::2/64": "fd00:9::1",
    "fd00:9::3/64": "fd00:9::1",
    "fd00:a::2/48": "fd00:a::1",
}
# What the earlier plugin, or another one, has added, each if its gateway or source is there.
_ROUTES = {
    "10.9.0.2/24": (
        "default via 10.9.0.1",
        "default via 10.9.0.1 metric 700 proto static",
        "10.77.0.0/16 via 10.9.0.1 mtu lock 1400 advmss 1300 initcwnd 20",
        "10.77.0.0/16 via 10.9.0.1 metric 50",
        "10.78.0.0/16 scope link",
        "10.79.0.0/16 src 10.9.0.2",
        "10.79.1.0/24 via 10.9.0.1 tos 0x10",
        "10.80.0.0/16 via 10.9.0.1 table 100",
        "10.81.0.0/16 via 10.9.0.1 table 1000",
        "10.82.0.0/16 nexthop via 10.9.0.1 dev net1 nexthop via 10.9.0.9 dev net1",
        "10.83.0.0/16 via inet6 fe80::1",
        "10.84.0.0/16 via 10.9.0.1 realm 5",
    ),
    "10.10.0.2/16": ("10.90.0.0/16 via 10.10.0.1", "10.91.0.0/16"),
    "fd00:9::2/64": (
        "default via fd00:9::1",
        "fd77::/64 via fd00:9::1 metric 20 mtu 1400",
        "fd78::/64",
        "fd79::/64 via fd00:9::1 src fd00:9::2",
        "fd80::/64 via fd00:9::1 table 100",
        "fd81::/64 nexthop via fd00:9::1 dev net1 nexthop via fd00:9::9 dev net1",
    ),
}


def chained(kind: str, previous: Config | None, **keys: Any) -> Config:
    given = {} if previous is None else {"prevResult": {"cniVersion": "1.0.0", **previous}}
    return {"cniVersion": "1.0.0", "name": "net", "type": kind, **keys, **given}


def interface(name: str, port: str, *, link_local: bool) -> list[Command]:
    """Commands that add an interface of the pod, whose other end is on the node."""
    made: list[Command] = [
        ("-n", "NODE", "link", "add", port, "type", "veth", "peer", "name", name, "netns", "POD")
    ]
    if not link_local:
        made.append(("-n", "POD", "link", "set", name, "addrgenmode", "none"))
    return [*made, ("-n", "POD", "link", "set", name, "up"), ("-n", "NODE", "link", "set", port, "up")]


def addresses(chance: random.Random, chosen: list[str]) -> list[Command]:
    """Commands that add addresses to net1 and some routes over it."""
    made: list[Command] = [
        ("-n", "POD", "address", "add", each, "dev", "net1", *(["nodad"] if ":" in each else [])) for each in chosen
    ]
    for each in chosen:
        for route in _ROUTES.get(each, ()):
            if chance.random() < 0.3:
                family = "-6" if ":" in each else "-4"
                dev = [] if "nexthop" in route else ["dev", "net1"]
                made.append(("-n", "POD", family, "route", "append", *route.split(), *dev))
    return made


def result(chance: random.Random, chosen: list[str]) -> Config:
    """The result of the earlier plugin."""
    ips: list[Config] = []
    for each in chosen:
        ips.append({"address": each, "interface": 1})
        if chance.random() < 0.1:
            del ips[-1]["interface"]
        elif chance.random() < 0.1:
            ips[-1]["interface"] = chance.choice([0, 2])
        if _ADDRESSES[each] and chance.random() < 0.7:
            ips[-1]["gateway"] = _ADDRESSES[each]
    return {"interfaces": _INTERFACES, "ips": ips, "dns": chance.choice([{}, {"nameservers": ["10.9.0.53"]}])}


def sbr(chance: random.Random) -> Trial:
    chosen = chance.sample(sorted(_ADDRESSES), chance.choice([1, 1, 2, 3]))
    prepare = interface("net1", "node1", link_local=chance.random() < 0.5)
    prepare += interface("net2", "node2", link_local=False)
    prepare += addresses(chance, chosen)
    rules = ("from 10.200.0.1 table 100", "from 10.9.0.2 table 100", "to 10.9.0.2 table 102", "table 101 iif lo")
    for rule in rules:
        if chance.random() < 0.2:
            prepare.append(("-n", "POD", "rule", "add", *rule.split()))
    if chance.random() < 0.2:
        prepare.append(("-n", "POD", "-6", "rule", "add", "from", "fd00:9::2", "fwmark", "7", "table", "102"))
    previous: Config | None = result(chance, chosen)
    keys: Config = {}
    if chance.random() < 0.3:
        keys["table"] = chance.choice([None, 0, 100, 254, 255, 256, 5000, 2**32 - 1])
    if chance.random() < 0.2:
        previous, keys = chance.choice(_sbr_refused(chosen))
    newer = "1.1.1 ignores the key table" if "table" in keys else ""
    return Trial("sbr", chained("sbr", previous, **keys), prepare=tuple(prepare), finish=_LINK_DELETED, newer=newer)


_LINK_DELETED = (("-n", "NODE", "link", "del", "node1"),)


_NO_TABLES: tuple[Any, ...] = ("5", 1.5, True, [100], {}, 2**63)


def _sbr_refused(chosen: list[str]) -> list[tuple[Config | None, Config]]:
    """Results and keys that the plugin refuses."""

    def gives(*ips: tuple[str, str]) -> Config:
        listed = [{"address": address, "gateway": gateway, "interface": 1} for address, gateway in ips]
        return {"interfaces": _INTERFACES, "ips": listed}

    good = gives(("10.9.0.2/24", ""))
    return [
        (None, {}),
        ({}, {}),
        ({"interfaces": _INTERFACES}, {}),
        (gives((chosen[0], "2001:db8::1" if ":" not in chosen[0] else "10.9.0.1")), {}),
        (gives((chosen[0], "2001:db8::1" if ":" in chosen[0] else "198.51.100.1")), {}),
        (gives((chosen[0], ""), (chosen[-1], "2001:db8::1" if ":" in chosen[-1] else "198.51.100.1")), {}),
        *((good, {"table": each}) for each in _NO_TABLES),
    ]


def vrf(chance: random.Random) -> Trial:
    chosen = chance.sample(sorted(_ADDRESSES), chance.choice([1, 2, 3]))
    present = chance.random() < 0.9
    prepare = interface("net1" if present else "net9", "node1", link_local=chance.random() < 0.5)
    prepare += interface("net2", "node2", link_local=False)
    if present and chance.random() < 0.5:
        keep = "net.ipv6.conf.net1.keep_addr_on_down=1"
        prepare.append(("netns", "exec", "POD", "sysctl", "-qw", keep))
    prepare += addresses(chance, chosen if present else [])
    others = (
        "link add red type vrf table 1",
        "link add blue type vrf table 2",
        "link add red type dummy",
        "link add green type vrf table 5000",
        "link property add dev net2 altname red",
    )
    for other in chance.sample(others, chance.choice([0, 0, 1, 2])):
        if not ("red" in other and any("red" in each for each in prepare)):
            prepare.append(("-n", "POD", *other.split()))
    masters = [each[4] for each in prepare if each[2:4] == ("link", "add") and "vrf" in each]
    for name, likelihood in (("net2", 0.4), ("net1", 0.1)):
        if masters and present and chance.random() < likelihood:
            prepare.append(("-n", "POD", "link", "set", name, "master", chance.choice(masters)))
    keys: Config = {"vrfname": chance.choice(["red", "blue"])}
    if chance.random() < 0.4:
        keys["table"] = chance.choice([None, 0, 1, 2, 254, 256, 5000, 2**32 - 1])
    previous: Config | None = result(chance, chosen)
    if chance.random() < 0.2:
        previous, keys = chance.choice(_VRF_REFUSED)
    newer = "1.1.1 loses the routes by gateways, and creates the VRF with a queue of 0 packets"
    return Trial("vrf", chained("vrf", previous, **keys), prepare=tuple(prepare), finish=_LINK_DELETED, newer=newer)


_VRF_REFUSED: list[tuple[Config | None, Config]] = [
    (None, {"vrfname": "red"}),
    *(
        ({"interfaces": _INTERFACES}, {"vrfname": name})
        for name in ("", None, 5, "a-name-of-16-byt", "a/b", "..", "a b", "lo")
    ),
    *(({"interfaces": _INTERFACES}, {"vrfname": "red", "table": table}) for table in ("1", -1, 2**32, 1.5, True)),
]


MAKERS: dict[str, Maker] = {"sbr": (sbr, lambda _: Sbr()), "vrf": (vrf, lambda _: Vrf())}

"""Random configurations of ptp and tuning."""

from __future__ import annotations

import random

from tests.node.reference.making import Maker, ipam, maybe, network
from tests.node.reference.sides import Config, Trial
from wirespeed.ipam import Ipam
from wirespeed.plugins.reference.ptp import Ptp
from wirespeed.plugins.reference.tuning import Tuning


def static(chance: random.Random) -> Config:
    """static with addresses of one network or of two, with and without what a plugin may need."""
    four: list[Config] = [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}]
    six: Config = {"address": "fd00:9::5/64", "gateway": "fd00:9::1"}
    addresses = chance.choice(
        [
            four,
            [{"address": "10.9.0.6/31", "gateway": "10.9.0.7"}, six],
            [six],
            [*four, {"address": "10.8.0.5/16", "gateway": "10.8.255.254"}],
            [*four, {"address": "10.9.0.6/24", "gateway": "10.9.0.2"}],  # of the same network
            [*four, {"address": "fd00:9::5/128", "gateway": "fd00:9::5"}],  # is its own gateway
            [{"address": "10.9.0.5/32", "gateway": "10.9.0.5"}],
            [{"address": "10.9.0.5/24"}],
            [],
        ]
    )
    dns = maybe(chance, dns=[{"nameservers": ["10.9.0.1"], "domain": "pods.example"}])
    return {"ipam": {"type": "static", "addresses": addresses, **dns}}


def ptp(chance: random.Random) -> Trial:
    keys = maybe(
        chance,
        mtu=[0, 1280, 1400, 9000],
        MTU=[1400],
        dns=[{"nameservers": ["10.9.9.9"], "search": ["a.example"], "options": ["ndots:1"]}],
    )
    if chance.random() < 0.1:
        keys |= chance.choice([{"mtu": "1400"}, {"mtu": 70000}, {"mtu": 1.5}, {"ipam": {}}, {"ipam": "static"}])
    if "ipam" not in keys:
        keys |= ipam(chance, always=True) if chance.random() < 0.5 else static(chance)
    elsewhere = (("-n", "NODE", "route", "add", "10.9.0.5/32", "dev", "lo"),)
    no_ipv6 = (("netns", "exec", "POD", "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"),)
    taken = (("-n", "POD", "link", "add", "net1", "type", "bridge"),)
    prepare = chance.choice([(), (), (), elsewhere, no_ipv6, taken])
    return Trial("ptp", network("ptp", **keys), prepare=prepare)


def tuning(chance: random.Random) -> Trial:
    settings = {
        "mac": ["02:11:00:00:00:07", ""],
        "mtu": [1400, 0],
        "promisc": [True, False],
        "allmulti": [True, False],
        "txQLen": [500, 0],
        "sysctl": [
            {"net.ipv4.conf.IFNAME.rp_filter": "2", "net/ipv4/neigh/IFNAME/gc_stale_time": "77"},
            {"net.core.somaxconn": "500", "net.ipv4.ip_local_port_range": "1024 2000"},
            {},
        ],
    }
    keys = maybe(chance, **settings)
    args = {"IgnoreUnknown": "1", "MAC": "02:11:00:00:00:08"} if chance.random() < 0.2 else {}
    if chance.random() < 0.2:
        keys["runtimeConfig"] = {"mac": "02:11:00:00:00:09"}
    if chance.random() < 0.3:  # the executable crashes if only args.cni has sysctls
        own = {key: values for key, values in settings.items() if key != "sysctl" or "sysctl" in keys}
        keys["args"] = {"cni": maybe(chance, **own)}
    prepare: tuple[tuple[str, ...], ...] = chance.choice([_POD_BRIDGE, _POD_VETH, _POD_VETH])
    if chance.random() < 0.3:
        prepare += (("-n", "POD", "link", "set", "net1", "promisc", "on", "allmulticast", "on", "up"),)
    if chance.random() < 0.25:  # with one sysctl at most: the executable leaves those that it has written
        keys = {key: value for key, value in keys.items() if key not in {"sysctl", "args"}}
        keys |= chance.choice(_REFUSED_BY_TUNING)
        prepare = () if keys.pop("absent", False) else prepare
    keys = {"prevResult": _POD_RESULT, "dataDir": "@LEASES@/tuning", **keys}
    return Trial("tuning", network("tuning", **keys), args, prepare)


_POD_RESULT: Config = {
    "interfaces": [
        {"name": "veth00000001", "mac": "02:11:00:00:00:02"},
        {"name": "net1", "mac": "02:11:00:00:00:01", "sandbox": "@POD@"},
    ],
    "ips": [{"interface": 1, "address": "10.9.0.5/24", "gateway": "10.9.0.1"}],
    "routes": [{"dst": "0.0.0.0/0"}],
    "dns": {"nameservers": ["10.9.0.1"]},
}
_POD_BRIDGE = (("-n", "POD", "link", "add", "net1", "address", "02:11:00:00:00:01", "type", "bridge"),)
_POD_VETH = (
    ("-n", "NODE", "link", "add", "veth00000001", "type", "veth", "peer", "name", "net1", "netns", "POD"),
    ("-n", "POD", "link", "set", "net1", "address", "02:11:00:00:00:01"),
)
_REFUSED_BY_TUNING: list[Config] = [
    {"sysctl": {"kernel.panic": "1"}},
    {"sysctl": {"net": "1"}},
    {"sysctl": {"net.ipv4.conf.absent.rp_filter": "1"}},
    {"sysctl": {"net.ipv4.conf.IFNAME.rp_filter": "yes"}},
    {"sysctl": {"net.ipv4.conf.IFNAME.rp_filter": 1}},
    {"args": {"cni": {"mac": "02:11"}}},
    {"args": {"cni": {"mac": "01:11:00:00:00:01"}}},
    {"mtu": -1},
    {"mtu": 100000, "args": {"cni": {"mac": "02:11:00:00:00:07"}}},
    {"mtu": "1500"},
    {"promisc": "on"},
    {"allmulti": 1},
    {"txQLen": "10"},
    {"prevResult": None},
    {"prevResult": {"ips": [{"address": "10.9.0.5"}]}},
    {"absent": True, "txQLen": 10},
]


MAKERS: dict[str, Maker] = {
    "ptp": (ptp, lambda side: Ptp(Ipam(side.leases))),
    "tuning": (tuning, lambda _: Tuning()),
}

"""Random configurations of host-device, for an interface of the node (d0)."""

from __future__ import annotations

import random

from tests.node.reference.making import Maker, ipam, network
from tests.node.reference.sides import Config, Trial
from wirespeed.ipam import Ipam
from wirespeed.plugins.reference.host_device import HostDevice

_MAC = "02:11:00:00:00:08"


def host_device(chance: random.Random) -> Trial:
    mac = chance.choice([_MAC, _MAC.replace(":", "-"), "0211.0000.0008"])
    choices: list[Config] = [
        {"device": "d0"},
        {"hwaddr": mac},
        {"device": "d0", "hwaddr": "02:11:00:00:00:77"},
        {"device": "none0"},
        {"hwaddr": "02:11:00:00:00:77"},
        {"hwaddr": "02:11"},
        {"kernelpath": "/sys/devices/none"},
        {"kernelpath": "devices/none"},
        {"pciBusID": "0000:ff:1f.7"},
        {"device": "d0", "runtimeConfig": {"deviceID": "none.0"}},
        {"device": "d0", "DPDKMode": True},
        {},
    ]
    key = chance.choices(choices, [8, 4, *[1] * 10])[0]
    prepare: tuple[tuple[str, ...], ...] = (
        ("-n", "NODE", "link", "add", "d0", "address", _MAC, "type", "veth", "peer", "name", "d1"),
        ("-n", "NODE", "link", "set", "d1", "up"),
        ("-n", "NODE", "link", "set", "d0", "mtu", str(chance.choice([1300, 1500]))),
    )
    if chance.random() < 0.7:
        prepare += (("-n", "NODE", "link", "set", "d0", "up"),)
    # Interfaces whose names are in the way: those of the pod's names on the node, and the reverse.
    for where, name in (("POD", "d0"), ("NODE", "net1"), ("POD", "net1")):
        if chance.random() < 0.15:
            prepare += (("-n", where, "link", "add", name, "type", "bridge"),)
    dns: Config = {"dns": {"nameservers": ["10.1.2.3"]}} if chance.random() < 0.4 else {}
    return Trial("host-device", network("host-device", **key, **dns, **ipam(chance)), {}, prepare)


MAKERS: dict[str, Maker] = {"host-device": (host_device, lambda side: HostDevice(Ipam(side.leases)))}

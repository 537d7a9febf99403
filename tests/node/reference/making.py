"""Parts of random configurations of the reference plugins."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tests.node.reference.sides import Config, Side, Trial
from wirespeed.cni.plugin import Plugin

Maker = tuple[Callable[[random.Random], Trial], Callable[[Side], Plugin]]


def ipam(chance: random.Random, *, always: bool = False) -> Config:
    """host-local or static with some addresses and routes, or none."""
    if not always and chance.random() < 0.25:
        return {}
    families = chance.choice([("10.9.0.0/24",), ("10.9.0.0/24", "fd00:9::/64"), ("fd00:9::/64",)])
    routes = [{"dst": chance.choice(["0.0.0.0/0", "10.77.0.0/16"])}] if "10.9.0.0/24" in families else []
    routes += [{"dst": "fd77::/64"}] if "fd00:9::/64" in families and chance.random() < 0.5 else []
    ranges = [[{"subnet": subnet}] for subnet in families]
    return {"ipam": {"type": "host-local", "dataDir": "@LEASES@", "ranges": ranges, "routes": routes}}


def maybe(chance: random.Random, **keys: Any) -> Config:
    """Some of the keys, each with one of its values."""
    return {key: chance.choice(values) for key, values in keys.items() if chance.random() < 0.3}


def network(kind: str, **keys: Any) -> Config:
    return {"cniVersion": "1.0.0", "name": "net", "type": kind, **keys}

"""The reference plugins in this process do what the executables do, on random configurations."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.node.reference import chained
from tests.node.reference.sides import Config, Side, Trial, compare, is_old, kernel_has
from wirespeed.cni.plugin import Plugin
from wirespeed.ipam import Ipam
from wirespeed.plugins.reference.bridge import Bridge
from wirespeed.plugins.reference.loopback import Loopback
from wirespeed.plugins.reference.sbr import Sbr
from wirespeed.plugins.reference.vrf import Vrf

# Executables of containernetworking/plugins to compare with.
BINARIES = Path(os.environ.get("REFERENCE_PLUGINS", "/usr/lib/cni"))
TRIALS = int(os.environ.get("REFERENCE_TRIALS", "6"))  # of each plugin


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


def bridge(chance: random.Random) -> Trial:
    keys = maybe(
        chance,
        bridge=["cni0", "br7"],
        isGateway=[True],
        isDefaultGateway=[True],
        forceAddress=[True],
        mtu=[1400, 9000],
        hairpinMode=[True],
        promiscMode=[True],
        vlan=[0, 7, 4094],
    )
    args = {"IgnoreUnknown": "1", "MAC": "02:11:00:00:00:05"} if chance.random() < 0.3 else {}
    return Trial("bridge", network("bridge", **keys, **ipam(chance)), args)


def loopback(chance: random.Random) -> Trial:
    return Trial("loopback", network("loopback"))


MAKERS: dict[str, tuple[Callable[[random.Random], Trial], Callable[[Side], Plugin]]] = {
    "bridge": (bridge, lambda side: Bridge(Ipam(side.leases))),
    "loopback": (loopback, lambda _: Loopback()),
    "sbr": (chained.sbr, lambda _: Sbr()),
    "vrf": (chained.vrf, lambda _: Vrf()),
}


_OPTIONAL = frozenset({"vrf"})  # kinds of interfaces that a kernel may be built without


def trials() -> list[Any]:
    return [
        pytest.param(kind, seed, id=f"{kind}-{seed}")
        for kind in MAKERS
        for seed in range(TRIALS if kind != "loopback" else 1)
    ]


@pytest.mark.parametrize(("kind", "seed"), trials())
def test_same_result_and_state_as_the_executable(kind: str, seed: int, tmp_path: Path) -> None:
    make, plugin = MAKERS[kind]
    if kind in _OPTIONAL and not kernel_has(kind):
        pytest.skip(f"this kernel has no {kind}: run it in the lab")
    trial = make(random.Random(f"{kind} {seed}"))
    if trial.newer and is_old(kind, BINARIES):
        pytest.skip(trial.newer)
    compare(trial, plugin, tmp_path, BINARIES)

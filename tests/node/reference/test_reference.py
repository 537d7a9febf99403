"""The reference plugins in this process do what the executables do, on random configurations."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.node.reference import chained, children, devices, ptp_tuning
from tests.node.reference.making import Maker, ipam, maybe, network
from tests.node.reference.sides import Trial, compare, is_old, kernel_has
from wirespeed.ipam import Ipam
from wirespeed.plugins.reference.bridge import Bridge
from wirespeed.plugins.reference.loopback import Loopback

# Executables of containernetworking/plugins to compare with.
BINARIES = Path(os.environ.get("REFERENCE_PLUGINS", "/usr/lib/cni"))
TRIALS = int(os.environ.get("REFERENCE_TRIALS", "6"))  # of each plugin


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


MAKERS: dict[str, Maker] = {
    "bridge": (bridge, lambda side: Bridge(Ipam(side.leases))),
    "loopback": (loopback, lambda _: Loopback()),
    **children.MAKERS,
    **devices.MAKERS,
    **chained.MAKERS,
    **ptp_tuning.MAKERS,
}


INTERFACES = {*children.MAKERS, "vrf"}  # kinds of interfaces that a kernel may be built without


def trials() -> list[Any]:
    return [
        pytest.param(kind, seed, id=f"{kind}-{seed}")
        for kind in MAKERS
        for seed in range(TRIALS if kind != "loopback" else 1)
    ]


@pytest.mark.parametrize(("kind", "seed"), trials())
def test_same_result_and_state_as_the_executable(kind: str, seed: int, tmp_path: Path) -> None:
    if kind in INTERFACES and not kernel_has(kind):
        pytest.skip(f"this kernel has no {kind}: the lab's has")
    make, plugin = MAKERS[kind]
    trial = make(random.Random(f"{kind} {seed}"))
    if trial.newer and is_old(BINARIES):
        pytest.skip(trial.newer)
    compare(trial, plugin, tmp_path, BINARIES)

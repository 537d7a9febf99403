"""Benchmark of VFs in the lab VM: attaching a VF to a pod and detaching it, compared with the kernel's minimum.

Every system has its own VFs of the same PF, so that it is not affected by what others leave behind.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench.figures import Figures, interleaved, machine
from bench.floor import Floor
from bench.starts import start_callers, starts
from bench.systems import Caller, CallFailedError, Peer, Suite, suite
from wirespeed.devices.pci import PciDevice

PFS = {"kernel": "ens1", "vfio": "ens2"}
VFS = 7
FLOOR, OURS, RESET = "netlink floor", "wirespeed", "wirespeed, reset on"
SETTINGS = {"mac": "02:00:00:00:00:f1", "vlan": 100, "spoofchk": "on", "trust": "on"}
PEER_TEXT = """\
Its configuration says "@KERNEL@" or "@VFIO@" for the address of the VF that it is measured with
"""
Turn = Callable[[], dict[str, float]]


def measure(arguments: argparse.Namespace) -> Figures:
    figures = Figures("In the lab VM")
    with (
        tempfile.TemporaryDirectory(prefix="wirespeed-bench-") as name,
        suite(Path(name), {"manifests": name}) as ours,
    ):
        free = {kind: _make_vfs(kind) for kind in PFS}
        shim = ours.caller("wirespeed-sriov", {"cniVersion": "1.0.0"})
        floor = {"shim alone, VERSION": (shim, "VERSION")}
        starts(figures, floor | start_callers(ours, arguments.peer), arguments.rounds)
        turns: dict[tuple[str, str], Turn] = {}
        for kind in PFS:
            turns[kind, FLOOR] = Floor(free[kind].pop(0)).add_and_delete
            turns[kind, OURS] = _ours(ours, kind, free[kind].pop(0)).add_and_delete
        turns["vfio", RESET] = _ours(ours, "vfio", free["vfio"].pop(0), reset="on").add_and_delete
        for peer in arguments.peer:
            kind = "vfio" if "@VFIO@" in json.dumps(peer.config) else "kernel"
            turns[kind, peer.name] = partial(_peers, figures, peer, kind, free[kind].pop(0))
        _measure(figures, turns, arguments.rounds)
        figures.notes["agent's resident memory"] = ours.memory()
    figures.notes["machine"] = f"QEMU igb, {machine()}"
    return figures


def _measure(figures: Figures, turns: dict[tuple[str, str], Turn], rounds: int) -> None:
    def turn(kind: str, system: str, number: int) -> None:
        for verb, took in turns[kind, system]().items():
            if number:
                figures.add(f"{verb} of a {kind} VF", system, took)

    # The netlink floor comes first in the results, no matter who is measured first.
    for kind in PFS:
        for verb in ("ADD", "DEL"):
            figures.series.setdefault(f"{verb} of a {kind} VF", {})[FLOOR] = []
    interleaved(rounds, [partial(turn, *who) for who in turns])


def _make_vfs(kind: str) -> list[str]:
    """Create the VFs of the PF for this kind and bind their driver; return their addresses."""
    device = Path(f"/sys/class/net/{PFS[kind]}/device")
    (device / "sriov_numvfs").write_text(str(VFS))
    addresses = [address for _, address in PciDevice(device.resolve().name).virtual_functions()]
    for address in addresses if kind == "vfio" else ():
        path = Path("/sys/bus/pci/devices") / address
        (path / "driver/unbind").write_text(address)
        (path / "driver_override").write_text("vfio-pci")
        Path("/sys/bus/pci/drivers_probe").write_text(address)
    return addresses


def _ours(ours: Suite, kind: str, device: str, **more: str) -> Caller:
    config: dict[str, Any] = {"cniVersion": "1.0.0", "name": f"bench-{kind}", "type": "wirespeed-sriov"}
    config |= SETTINGS | {"deviceID": device, "ipam": {"type": "host-local", "subnet": "10.8.0.0/16"}}
    return ours.caller("wirespeed-sriov", config | more, ifname="net1")


def _peers(figures: Figures, peer: Peer, kind: str, device: str) -> dict[str, float]:
    """Measure a peer's ADD and DEL. A failure is only noted, so that the others are still measured."""
    try:
        return peer.caller({kind.upper(): device}, ifname="net1").add_and_delete()
    except CallFailedError as error:
        figures.notes[f"{peer.name} failed"] = str(error)
        return {}

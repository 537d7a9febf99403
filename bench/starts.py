"""The cost of starting a plugin's process and, for wirespeed, of an answer of the agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from bench.figures import Figures, interleaved
from bench.systems import Caller, Peer, Suite

Starts = dict[str, tuple[Caller, str]]  # by label: whom to call, with which verb


def start_callers(ours: Suite, peers: Sequence[Peer]) -> Starts:
    """Return wirespeed's cheapest call that reaches the agent, and the peers' call that does nothing."""
    status = {"cniVersion": "1.1.0", "name": "net", "type": "wirespeed-sriov"}
    found: Starts = {"shim and agent, STATUS": (ours.caller("wirespeed-sriov", status), "STATUS")}
    for peer in peers:
        found[f"{peer.name}, VERSION"] = Caller(binary=peer.binary, config={"cniVersion": "1.0.0"}), "VERSION"
    return found


def starts(figures: Figures, callers: Mapping[str, tuple[Caller, str]], rounds: int) -> None:
    """Measure the calls; ratios are relative to the first."""
    what = "start of a process"
    figures.series[what] = {system: [] for system in callers}

    def turn(system: str, number: int) -> None:
        caller, verb = callers[system]
        took, _ = caller.timed(verb)
        if number:
            figures.add(what, system, took)

    interleaved(rounds, [partial(turn, system) for system in callers])

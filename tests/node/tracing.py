"""The trace of an agent's calls, as its history has it."""

from __future__ import annotations

from collections.abc import Sequence

from tests.node.pods import World
from wirespeed.state.calls import Call, Calls
from wirespeed.trace import ROOT, Step

Tree = list["str | tuple[str, Tree]"]  # names of steps; with those of the steps inside


def last_call(world: World, verb: str, *, failed: bool = False) -> Call:
    """The newest call of that kind; a call is in the history soon after its answer."""
    world.agent.wait_log(" ERROR failed " if failed else " INFO served ", f"verb={verb}")
    calls = Calls(world.agent.state.with_name("calls.jsonl")).read()
    return [call for call in calls if call.verb == verb][-1]


def tree(steps: Sequence[Step], parent: int = ROOT) -> Tree:
    """The names of the steps, nested as they are part of each other."""
    found: Tree = []
    for index, each in enumerate(steps):
        if each.parent == parent:
            inside = tree(steps, index)
            found.append((each.name, inside) if inside else each.name)
    return found


def adds_up(call: Call) -> bool:
    """Assert that steps follow each other within what they are part of, so that times add up to no more than it."""
    for parent in (ROOT, *range(len(call.steps))):
        at, end = 0.0, call.seconds
        if parent != ROOT:
            at = call.steps[parent].began
            end = at + call.steps[parent].seconds
        inside = [each for each in call.steps if each.parent == parent]
        rest = end - at - sum(each.seconds for each in inside)
        assert rest >= -1e-6
        for each in inside:
            assert each.seconds >= 0
            assert at <= each.began + 1e-6
            at = each.began + each.seconds
        assert at <= end + 1e-6
    return True

"""Giving devices back: what is undone, what stays claimed, and what is finished later."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from wirespeed.errors import Error, Kind, collect_errors, run_all
from wirespeed.extras import MissingExtraError
from wirespeed.kernel import netns
from wirespeed.kernel.netns import Identity
from wirespeed.state.claims import Claims, Record, only_port_left, read
from wirespeed.state.journal import ClaimStep, DeviceClaim, DeviceTakenError, Journal
from wirespeed.switches.switch import SwitchDownError

DOWN = SwitchDownError("Open vSwitch does not answer")


def claim(
    device: str, container: str = "c1", *, plugin: str = "one", step: ClaimStep = ClaimStep.ATTACHED
) -> DeviceClaim:
    return DeviceClaim(
        device=device,
        plugin=plugin,
        container=container,
        ifname="net1",
        netns="/run/netns/a",
        identity=Identity(1, 2, 3),
        step=step,
        record={"network": "fast"},
    )


class World:
    """Claims of a plugin that cannot undo the devices in `faults`. `done` are those that it was asked to undo."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal(folder / "state.db")
        self.faults: dict[str, Exception] = {}
        self.done: list[str] = []
        self.locked = False
        self.claims = Claims(self.journal, "one", lock=self.lock, undo=self.undo)
        self.deadline = time.monotonic() + 10

    def lock(self, _claim: DeviceClaim, _deadline: float) -> AbstractContextManager[None]:
        @contextmanager
        def held() -> Iterator[None]:
            self.locked = True
            yield
            self.locked = False

        return held()

    def undo(self, claim: DeviceClaim, *, deadline: float, port: bool) -> None:
        assert self.locked
        self.done.append(claim.device)
        if fault := self.faults.get(claim.device):
            raise fault

    def undo_and_release(self, claim: DeviceClaim) -> None:
        self.claims.undo_and_release(claim, deadline=self.deadline)

    def finish(self) -> None:
        self.claims.finish_removals(deadline=self.deadline)

    def steps(self) -> dict[str, ClaimStep]:
        return {each.device: each.step for each in self.journal.claims()}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_what_is_undone_is_released(world: World) -> None:
    world.journal.claim(claim("a"))
    world.undo_and_release(claim("a"))
    assert (world.done, world.steps()) == (["a"], {})


def test_claim_that_another_call_has_released_meanwhile_is_not_undone_again(world: World) -> None:
    world.undo_and_release(claim("a"))
    world.journal.claim(claim("b"))
    world.undo_and_release(claim("a"))  # the attachment has another device now
    assert (world.done, world.steps()) == ([], {"b": ClaimStep.ATTACHED})


@pytest.mark.parametrize("fault", [DOWN, MissingExtraError(Kind.UNAVAILABLE, "needs a package")])
def test_port_of_a_switch_that_is_down_is_left_and_removed_later(world: World, fault: Error) -> None:
    world.journal.claim(claim("a"))
    world.faults = {"a": fault}
    world.undo_and_release(claim("a"))
    assert world.steps() == {"a": ClaimStep.REMOVING}
    world.faults = {}
    world.finish()
    assert world.steps() == {}


def test_any_other_error_leaves_the_claim_as_it_is(world: World) -> None:
    world.journal.claim(claim("a"))
    world.faults = {"a": Error(Kind.DEVICE, "not restored")}
    with pytest.raises(Error, match="not restored"):
        world.undo_and_release(claim("a"))
    assert world.steps() == {"a": ClaimStep.ATTACHED}


def test_removals_stop_at_the_first_that_fails_and_leave_those_of_other_plugins(world: World) -> None:
    for device, container in (("a", "c1"), ("b", "c2"), ("c", "c3")):
        world.journal.claim(claim(device, container, step=ClaimStep.REMOVING))
    world.journal.claim(claim("0", "c4", plugin="two", step=ClaimStep.REMOVING))
    world.faults = {"b": DOWN}
    world.finish()
    assert world.done == ["a", "b"]
    assert set(world.steps()) == {"0", "b", "c"}


def test_only_the_wanted_removals_are_finished(world: World) -> None:
    for device, container in (("a", "c1"), ("b", "c2")):
        world.journal.claim(claim(device, container, step=ClaimStep.REMOVING))
    world.claims.finish_removals(deadline=world.deadline, wanted=lambda each: each.device == "b")
    assert set(world.steps()) == {"a"}


def test_owner_that_is_alive_is_an_error_and_a_dead_one_is_returned(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.journal.claim(claim("a"))
    for alive in (True, False):
        monkeypatch.setattr(netns, "alive", lambda *_, alive=alive: alive)
        if alive:
            with pytest.raises(DeviceTakenError):
                world.claims.releasable_claim("a", "c9", "net1")
        else:
            assert world.claims.releasable_claim("a", "c9", "net1") == claim("a")
    assert world.claims.releasable_claim("b", "c9", "net1") is None


def test_claims_of_a_network_are_those_of_the_plugin_that_are_not_valid(world: World) -> None:
    there = [claim("a", "c1"), claim("b", "c2"), replace(claim("c", "c3"), record={"network": "slow"})]
    for each in [*there, claim("d", "c4", plugin="two")]:
        world.journal.claim(each)
    assert world.claims.claims_of_network("fast", keep={("c2", "net1")}) == [there[0]]


class Example(Record, frozen=True, kw_only=True):
    """A record of version 2, whose field `more` version 1 did not have."""

    VERSION: ClassVar[int] = 2

    device: str
    more: int = 7
    version: int = VERSION


def test_record_comes_back_from_the_journal(world: World) -> None:
    record = Example(network="fast", device="a", more=8)
    world.journal.claim(replace(claim("a"), record=record.to_json()))
    (found,) = world.journal.claims()
    assert read(found, Example) == record


def test_record_of_an_older_release_is_read(world: World) -> None:
    found = read(replace(claim("a"), record={"network": "fast", "device": "a", "left": "out"}), Example)
    assert (found.device, found.more) == ("a", 7)


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"device": 5}, r"device a: its record in the journal: Expected `str`, got `int` - at `\$\.device`"),
        (
            {"device": "a", "version": 3},
            r"its record in the journal: expected version 2 or older \(is this an older release\?\), got 3",
        ),
    ],
)
def test_unreadable_record_is_an_error_that_names_device_and_field(record: dict[str, object], told: str) -> None:
    with pytest.raises(Error, match=told) as refused:
        read(replace(claim("a"), record=record), Example)
    assert refused.value.kind == Kind.INVALID_DATA


def test_every_step_runs_and_the_error_has_all_messages() -> None:
    ran = []

    def fails(error: Exception) -> None:
        ran.append(str(error))
        raise error

    faults = [Error(Kind.DEVICE, "first"), OSError(errno.EIO, "broken"), DOWN]
    with pytest.raises(Error) as failed:
        run_all([lambda fault=fault: fails(fault) for fault in faults])  # type: ignore[misc]
    assert len(ran) == 3
    assert failed.value.kind == Kind.DEVICE
    assert failed.value.msg == "first; also broken; Open vSwitch does not answer"
    assert not only_port_left(failed.value)


def test_of_switches_that_are_down_only_ports_are_left() -> None:
    def down() -> None:
        raise DOWN

    with pytest.raises(Error) as failed:
        run_all([down, down])
    assert failed.value.kind == Kind.TRY_AGAIN
    assert only_port_left(failed.value)
    assert collect_errors([down, lambda: None]) == [DOWN]

"""The order of calls: calls of a container one after another, GC alone, and a limit on concurrent calls."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wirespeed.agent.lanes import Lanes, Turn


def turn(container: str = "", lane: str = "sriov", *, alone: bool = False, brief: bool = False) -> Turn:
    return Turn(lane=lane, container=container, alone=alone, brief=brief)


def test_second_turn_of_a_container_begins_when_the_first_ends() -> None:
    lanes: Lanes[Turn] = Lanes(9)
    first, second, third = turn("a"), turn("a"), turn("a")
    assert lanes.arrive(first) == [first]
    assert lanes.arrive(second) == []
    assert lanes.arrive(third) == []
    assert lanes.finish(first) == [second]
    assert lanes.finish(second) == [third]


def test_other_containers_and_other_lanes_do_not_wait() -> None:
    lanes: Lanes[Turn] = Lanes(9)
    for begun in (turn("a"), turn("b"), turn("a", "meta"), turn(), turn()):
        assert lanes.arrive(begun) == [begun]


def test_brief_turns_do_not_wait_for_room_that_others_take() -> None:
    lanes: Lanes[Turn] = Lanes(1)
    add, other_add, del_, other_del = turn("a"), turn("b"), turn("c", brief=True), turn("d", brief=True)
    assert lanes.arrive(add) == [add]
    assert lanes.arrive(other_add) == []
    assert lanes.arrive(del_) == [del_]
    assert lanes.arrive(other_del) == []
    assert lanes.finish(del_) == [other_del]
    assert lanes.finish(add) == [other_add]


def test_brief_turn_waits_for_another_of_its_container() -> None:
    lanes: Lanes[Turn] = Lanes(9)
    add, del_ = turn("a"), turn("a", brief=True)
    lanes.arrive(add)
    assert lanes.arrive(del_) == []
    assert lanes.finish(add) == [del_]


def test_gc_waits_for_containers_and_holds_those_that_come_later() -> None:
    lanes: Lanes[Turn] = Lanes(9)
    before, gc, after, status = turn("a"), turn(alone=True), turn("b"), turn()
    lanes.arrive(before)
    assert lanes.arrive(gc) == []
    assert lanes.arrive(after) == []
    assert lanes.arrive(status) == [status]
    assert lanes.finish(before) == [gc]
    assert lanes.finish(gc) == [after]


def test_gc_waits_for_gc() -> None:
    lanes: Lanes[Turn] = Lanes(9)
    first, second = turn(alone=True), turn(alone=True)
    assert lanes.arrive(first) == [first]
    assert lanes.arrive(second) == []
    assert lanes.finish(first) == [second]


def test_gc_does_not_wait_for_status() -> None:
    lanes: Lanes[Turn] = Lanes(9)
    gc = turn(alone=True)
    lanes.arrive(turn())
    assert lanes.arrive(gc) == [gc]


def test_withdrawn_gc_lets_the_next_ones_begin() -> None:
    lanes: Lanes[Turn] = Lanes(9)
    before, gc, after = turn("a"), turn(alone=True), turn("b")
    lanes.arrive(before)
    lanes.arrive(gc)
    lanes.arrive(after)
    assert lanes.withdraw(gc) == [after]
    assert list(lanes.waiting) == []


def test_withdrawn_turn_never_begins() -> None:
    lanes: Lanes[Turn] = Lanes(9)
    first, second, third = turn("a"), turn("a"), turn("a")
    for each in (first, second, third):
        lanes.arrive(each)
    assert lanes.withdraw(second) == []
    assert lanes.finish(first) == [third]


def test_width_is_each_lanes_own() -> None:
    lanes: Lanes[Turn] = Lanes(1)
    first, second, other = turn("a"), turn("b"), turn("b", "meta")
    assert lanes.arrive(first) == [first]
    assert lanes.arrive(second) == []
    assert lanes.arrive(other) == [other]
    assert lanes.finish(first) == [second]


@given(
    st.lists(st.tuples(st.sampled_from(["", "a", "b", "c", "GC"]), st.sampled_from(["meta", "sriov"]))),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
def test_every_turn_begins_once_in_order_and_beside_none_that_it_must_not(
    arrivals: list[tuple[str, str]], width: int, random: object
) -> None:
    lanes: Lanes[Turn] = Lanes(width)
    turns = [
        turn("" if container == "GC" else container, lane, alone=container == "GC") for container, lane in arrivals
    ]
    begun: list[Turn] = []
    for each in turns:
        begun += lanes.arrive(each)
        if random.random() < 0.4 and any(lanes.running):  # type: ignore[attr-defined]
            begun += lanes.finish(random.choice(list(lanes.running)))  # type: ignore[attr-defined]
        check(lanes, width)
    while any(lanes.running):
        begun += lanes.finish(random.choice(list(lanes.running)))  # type: ignore[attr-defined]
        check(lanes, width)
    assert sorted(map(id, begun)) == sorted(map(id, turns))
    for lane in ("meta", "sriov"):
        for container in "abc":
            wanted = [each for each in turns if (each.lane, each.container) == (lane, container)]
            assert [each for each in begun if (each.lane, each.container) == (lane, container)] == wanted


def check(lanes: Lanes[Turn], width: int) -> None:
    for lane in ("meta", "sriov"):
        running = [each for each in lanes.running if each.lane == lane]
        containers = [each.container for each in running if each.container]
        alone = [each for each in running if each.alone]
        assert len(running) <= width
        assert len(containers) == len(set(containers))
        assert not alone or (len(alone) == 1 and not containers)

"""The order of calls: calls of a container one after another, GC alone, and a limit on concurrent calls."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wirespeed.agent.lanes import Lanes, Turn


def turn(container: str = "", lane: str = "sriov", *, exclusive: bool = False, short: bool = False) -> Turn:
    return Turn(lane=lane, container=container, exclusive=exclusive, short=short)


def test_second_turn_of_a_container_begins_when_the_first_ends() -> None:
    lanes: Lanes[Turn] = Lanes(9)
    first, second, third = turn("a"), turn("a"), turn("a")
    assert lanes.enqueue(first) == [first]
    assert lanes.enqueue(second) == []
    assert lanes.enqueue(third) == []
    assert lanes.finish(first) == [second]
    assert lanes.finish(second) == [third]


def test_other_containers_and_other_lanes_do_not_wait() -> None:
    lanes: Lanes[Turn] = Lanes(9)
    for begun in (turn("a"), turn("b"), turn("a", "meta"), turn(), turn()):
        assert lanes.enqueue(begun) == [begun]


def test_brief_turns_do_not_wait_for_room_that_others_take() -> None:
    lanes: Lanes[Turn] = Lanes(1)
    add, other_add, del_, other_del = turn("a"), turn("b"), turn("c", short=True), turn("d", short=True)
    assert lanes.enqueue(add) == [add]
    assert lanes.enqueue(other_add) == []
    assert lanes.enqueue(del_) == [del_]
    assert lanes.enqueue(other_del) == []
    assert lanes.finish(del_) == [other_del]
    assert lanes.finish(add) == [other_add]


def test_brief_turn_waits_for_another_of_its_container() -> None:
    lanes: Lanes[Turn] = Lanes(9)
    add, del_ = turn("a"), turn("a", short=True)
    lanes.enqueue(add)
    assert lanes.enqueue(del_) == []
    assert lanes.finish(add) == [del_]


def test_gc_waits_for_containers_and_holds_those_that_come_later() -> None:
    lanes: Lanes[Turn] = Lanes(9)
    before, gc, after, status = turn("a"), turn(exclusive=True), turn("b"), turn()
    lanes.enqueue(before)
    assert lanes.enqueue(gc) == []
    assert lanes.enqueue(after) == []
    assert lanes.enqueue(status) == [status]
    assert lanes.finish(before) == [gc]
    assert lanes.finish(gc) == [after]


def test_gc_waits_for_gc() -> None:
    lanes: Lanes[Turn] = Lanes(9)
    first, second = turn(exclusive=True), turn(exclusive=True)
    assert lanes.enqueue(first) == [first]
    assert lanes.enqueue(second) == []
    assert lanes.finish(first) == [second]


def test_gc_does_not_wait_for_status() -> None:
    lanes: Lanes[Turn] = Lanes(9)
    gc = turn(exclusive=True)
    lanes.enqueue(turn())
    assert lanes.enqueue(gc) == [gc]


def test_withdrawn_gc_lets_the_next_ones_begin() -> None:
    lanes: Lanes[Turn] = Lanes(9)
    before, gc, after = turn("a"), turn(exclusive=True), turn("b")
    lanes.enqueue(before)
    lanes.enqueue(gc)
    lanes.enqueue(after)
    assert lanes.cancel(gc) == [after]
    assert list(lanes.waiting) == []


def test_withdrawn_turn_never_begins() -> None:
    lanes: Lanes[Turn] = Lanes(9)
    first, second, third = turn("a"), turn("a"), turn("a")
    for each in (first, second, third):
        lanes.enqueue(each)
    assert lanes.cancel(second) == []
    assert lanes.finish(first) == [third]


def test_width_is_each_lanes_own() -> None:
    lanes: Lanes[Turn] = Lanes(1)
    first, second, other = turn("a"), turn("b"), turn("b", "meta")
    assert lanes.enqueue(first) == [first]
    assert lanes.enqueue(second) == []
    assert lanes.enqueue(other) == [other]
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
        turn("" if container == "GC" else container, lane, exclusive=container == "GC")
        for container, lane in arrivals
    ]
    begun: list[Turn] = []
    for each in turns:
        begun += lanes.enqueue(each)
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
        exclusive = [each for each in running if each.exclusive]
        assert len(running) <= width
        assert len(containers) == len(set(containers))
        assert not exclusive or (len(exclusive) == 1 and not containers)

"""Tables of text, and names that are shown on a terminal."""

from __future__ import annotations

import time

import pytest

from wirespeed.kube.reviews import Right
from wirespeed.text import aligned, clock, printable, table
from wirespeed.trace import Step, depth


def test_columns_of_a_table_are_aligned_and_lines_end_with_text() -> None:
    rows = [("NAME", "COUNT", "STATE"), ("a", "100", ""), ("longer", "5", "up")]
    assert list(table(rows, right={1})) == [
        "NAME    COUNT  STATE",
        "a         100",
        "longer      5  up",
    ]


def test_a_row_may_have_fewer_cells_than_others() -> None:
    assert list(aligned([("a", "b"), ("long",), ("x", "yy", "z")])) == ["a     b ", "long", "x     yy  z"]


def test_a_table_without_rows_has_no_lines() -> None:
    assert list(table([])) == []


def test_what_could_change_the_terminal_is_replaced() -> None:
    assert printable("a\x1b[2Jb\n") == "a?[2Jb?"
    assert printable("é", ascii_only=True) == "?"


def test_times_are_in_utc_and_say_so_wherever_the_node_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata-5:30")
    time.tzset()
    try:
        assert clock(1_796_159_791.9) == "2026-12-01T21:16:31Z"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_depth_of_a_step_is_the_number_of_steps_around_it() -> None:
    steps = [Step("attach", 0.0), Step("plugin", 0.1, parent=0), Step("bind", 0.2, parent=1), Step("undo", 0.3)]
    assert [depth(steps, each) for each in steps] == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("right", "text"),
    [
        (Right("list", "pods"), "list pods"),
        (Right("patch", "pods", subresource="status"), "patch pods/status"),
        (Right("get", "nodes", name="n1"), "get nodes n1"),
        (Right("get", "pods", namespace="default", name="web"), "get pods default/web"),
        (Right("watch", "networks", "k8s.cni.cncf.io"), "watch networks.k8s.cni.cncf.io"),
    ],
)
def test_a_right_is_shown_as_verb_resource_and_object(right: Right, text: str) -> None:
    assert str(right) == text

"""Errors as data, and the message that is composed of them."""

from __future__ import annotations

from typing import Any

import pytest

from wirespeed import errors
from wirespeed.cni.errors import Code, NotUndoneError, PluginError, code_of
from wirespeed.errors import CombinedError, Error, Kind, Thing, flatten, format_path, parse_path

CONFIG = Kind.INVALID_CONFIG


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"what": "gone"}, "gone"),
        ({"what": "gone", "where": "device 0000:03:00.1"}, "device 0000:03:00.1: gone"),
        ({"key": "vlan", "expected": "0 to 4094", "got": 5000}, 'key "vlan": expected 0 to 4094, got 5000'),
        ({"key": "vlan", "expected": "none", "got": None}, 'key "vlan": expected none, got None'),
        ({"key": "name", "missing": True}, 'key "name" is missing'),
        ({"key": "name", "missing": True, "expected": "text"}, 'key "name" is missing: expected text'),
        ({"key": "vlam", "unknown": True, "hint": "why?"}, 'unknown key "vlam"; why?'),
        ({"key": "ipam.ranges[0]", "what": "is full"}, 'key "ipam.ranges[0]": is full'),
        ({"what": "taken", "expected": "a free one", "hint": "detach it"}, "taken; expected a free one; detach it"),
        ({"where": ("a.conf", Thing("network", "default/left")), "what": "no"}, "a.conf: network default/left: no"),
        ({"what": "two\nlines"}, "two\\nlines"),
        ({"key": "x", "expected": "less", "got": "y" * 100}, f'key "x": expected less, got \'{"y" * 76}...'),
    ],
)
def test_message_is_composed_in_one_order(data: dict[str, Any], message: str) -> None:
    error = Error(CONFIG, **data)
    assert (error.msg, str(error)) == (message, message)


def test_error_of_an_inner_value_becomes_one_of_the_outer_value() -> None:
    inner = Error(CONFIG, key="ranges[0].subnet", missing=True)
    with (
        pytest.raises(Error) as outer,
        errors.within("node.yaml"),
        errors.under("networks", 1),
        errors.under("ipam"),
    ):
        raise inner
    assert outer.value.msg == 'node.yaml: key "networks[1].ipam.ranges[0].subnet" is missing'
    assert outer.value.path == ("networks", 1, "ipam", "ranges", 0, "subnet")
    assert inner.msg == 'key "ranges[0].subnet" is missing'


def test_an_error_that_moves_keeps_its_class_and_what_belongs_to_it() -> None:
    moved = PluginError(999, "no", "details").within("plugin tap").with_hint("try again")
    assert (moved.msg, moved.details, code_of(moved)) == ("plugin tap: no; try again", "details", 999)
    assert isinstance(moved, PluginError)


def test_things_are_told_from_the_outermost_to_the_innermost() -> None:
    error = Error(Kind.DEVICE, about=[Thing("resource", "a/b"), Thing("network", "default/x")])
    assert error.within(Thing("network", "default/y")).things("network") == ["default/y", "default/x"]
    assert error.things("resource") == ["a/b"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("a", "b", 0, "c"), "a.b[0].c"),
        ((0, "mac"), "[0].mac"),
        (("labels", "a.b/c"), 'labels["a.b/c"]'),
        (("limits", "intel.com/vf"), 'limits["intel.com/vf"]'),
        ((), ""),
    ],
)
def test_a_path_is_written_and_read(path: tuple[str | int, ...], text: str) -> None:
    assert format_path(path) == text
    assert parse_path(text) == path


def test_several_errors_are_one_of_the_first_kind_that_can_be_taken_apart() -> None:
    both = CombinedError([Error(CONFIG, key="a", missing=True), Error(Kind.IO, "full", where="/b")]).within("conf")
    assert (both.kind, both.msg) == (CONFIG, 'conf: key "a" is missing; also /b: full')
    assert [each.msg for each in flatten(both.under("c"))] == [
        'conf: key "c.a" is missing',
        'conf: /b: key "c": full',
    ]


def test_every_call_is_made_and_the_errors_are_raised_as_one() -> None:
    made: list[str] = []

    def fail(name: str, error: Exception) -> None:
        made.append(name)
        raise error

    with pytest.raises(Error) as failed:
        errors.run_all(
            [
                lambda: fail("a", Error(Kind.DEVICE, "gone")),
                lambda: made.append("b"),
                lambda: fail("c", OSError(2, "No such file", "/x")),
            ]
        )
    assert made == ["a", "b", "c"]
    assert (failed.value.kind, failed.value.msg) == (Kind.DEVICE, "gone; also /x: No such file")


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_a_code_of_its_own(kind: Kind) -> None:
    assert code_of(Error(kind)) in set(Code)
    assert len({code_of(Error(each)) for each in Kind}) == len(Kind)


def test_code_of_an_executed_plugin_goes_to_the_runtime_and_its_kind_to_us() -> None:
    assert (PluginError(11, "").kind, code_of(PluginError(11, ""))) == (Kind.TRY_AGAIN, 11)
    assert (PluginError(51, "").kind, code_of(PluginError(51, ""))) == (Kind.UNAVAILABLE, 51)
    assert (PluginError(999, "").kind, code_of(PluginError(999, ""))) == (Kind.PLUGIN, 999)
    assert code_of(PluginError(999, "").of_kind(Kind.UNAVAILABLE)) == 50
    assert code_of(NotUndoneError(PluginError(999, "no"), Error(Kind.IO, "full"))) == 999

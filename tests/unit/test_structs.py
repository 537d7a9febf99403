"""Error messages for values that do not match their Struct."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest

from wirespeed.structs import fault, placed


class Inner(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    first_name: str
    size: Annotated[int, msgspec.Meta(ge=1)] = 1


class Outer(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    inner: Inner | None = None
    listed: list[Inner] = []
    by_name: dict[str, Inner] = {}
    count: int = 0
    driver: Literal["", "netdevice", "vfio-pci"] = ""


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"count": "many"}, "key \"count\": expected an integer, got 'many'"),
        ({"inner": {"firstName": "a", "size": 0}}, 'key "inner.size": expected an integer of at least 1, got 0'),
        ({"cuont": 1}, 'unknown key "cuont"; nearest known key: "count"'),
        ({"inner": {"fristName": "a"}}, 'unknown key "inner.fristName"; nearest known key: "inner.firstName"'),
        (
            {"listed": [{"firstName": "a"}, {"sise": 1}]},
            'unknown key "listed[1].sise"; nearest known key: "listed[1].size"',
        ),
        ({"byName": {"x": {"sise": 1}}}, 'unknown key "byName["x"].sise"; nearest known key: "byName["x"].size"'),
        ({"zzzzzzzz": 1}, 'unknown key "zzzzzzzz"'),
        ({"inner": {}}, 'key "inner.firstName" is missing'),
        (
            {"byName": {7: {"firstName": "a"}}},
            "key \"byName\": expected a string as each key, got {7: {'firstName': 'a'}}",
        ),
        (
            {"driver": "vfio_pci"},
            'key "driver": expected "netdevice" or "vfio-pci", got \'vfio_pci\', the nearest is "vfio-pci"',
        ),
        ([], "expected an object, got []"),
    ],
)
def test_a_fault_names_the_key_and_what_was_expected(value: Any, said: str) -> None:
    with pytest.raises(msgspec.ValidationError) as error:
        msgspec.convert(value, Outer)
    assert fault(error.value, Outer, value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"listed": [{"fristName": "a"}]}, 'x.listed[0]: unknown key "fristName"; nearest known key: "firstName"'),
        ({"zzzzzzzz": 1}, 'x: unknown key "zzzzzzzz"'),
        ({"driver": "none"}, 'x.driver: expected "netdevice" or "vfio-pci", got \'none\''),
        ({"inner": {"firstName": 7}}, "x.inner.firstName: expected a string, got 7"),
    ],
)
def test_a_place_comes_first_and_what_is_not_known_with_the_nearest(value: Any, said: str) -> None:
    with pytest.raises(msgspec.ValidationError) as error:
        msgspec.convert(value, Outer)
    assert placed(error.value, "x", Outer, value) == said

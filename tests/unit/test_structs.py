"""Error messages for values that do not match their Struct."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest

from wirespeed import declared, structs
from wirespeed.errors import Error, PathStep
from wirespeed.structs import Cell, Words, error_of, only, whole


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
        ({"cuont": 1}, 'unknown key "cuont"; did you mean "count"?'),
        ({"inner": {"fristName": "a"}}, 'unknown key "inner.fristName"; did you mean "firstName"?'),
        (
            {"listed": [{"firstName": "a"}, {"sise": 1}]},
            'unknown key "listed[1].sise"; did you mean "size"?',
        ),
        ({"byName": {"x": {"sise": 1}}}, 'unknown key "byName.x.sise"; did you mean "size"?'),
        ({"zzzzzzzz": 1}, 'unknown key "zzzzzzzz"'),
        ({"zz` - at `$.x": 1}, 'unknown key "zz` - at `$.x"'),
        ({"inner": {}}, 'key "inner.firstName" is missing'),
        (
            {"byName": {7: {"firstName": "a"}}},
            "key \"byName\": expected a string as each key, got {7: {'firstName': 'a'}}",
        ),
        (
            {"driver": "vfio_pci"},
            'key "driver": expected "netdevice" or "vfio-pci", got \'vfio_pci\'; did you mean "vfio-pci"?',
        ),
        ([], "expected an object, got []"),
        ({"count": "\ud800"}, "key \"count\": expected an integer, got '\\ud800'"),
        (
            {"driver": "\ud800"},
            'key "driver": expected "netdevice" or "vfio-pci", got \'\\ud800\'',
        ),
        (
            {"listed": [{"firstName": "\ud800"}, {"firstName": "a", "size": "\ud800"}]},
            "key \"listed[1].size\": expected an integer of at least 1, got '\\ud800'",
        ),
        (
            {"byName": {"x": {"firstName": "a"}, "y": {"firstName": "a", "size": "\ud800"}}},
            "key \"byName.y.size\": expected an integer of at least 1, got '\\ud800'",
        ),
        ({"inner": "\ud800"}, "key \"inner\": expected an object, got '\\ud800'"),
        ({"inner": {"\ud800": 1}}, 'unknown key "inner.\\ud800"'),
    ],
)
def test_a_fault_names_the_key_and_what_was_expected(value: Any, said: str) -> None:
    with pytest.raises(msgspec.ValidationError) as error:
        structs.convert(value, Outer)
    assert error_of(error.value, Outer, value).msg == said


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"listed": [{"fristName": "a"}]}, ("listed", 0, "fristName")),
        ({"inner": {}}, ("inner", "firstName")),
        ({"driver": "none"}, ("driver",)),
        ({"byName": {"a.b": {"firstName": 7}}}, ("byName", "a.b", "firstName")),
        ([], ()),
    ],
)
def test_an_error_has_the_path_of_its_key(value: Any, path: tuple[PathStep, ...]) -> None:
    with pytest.raises(Error) as refused:
        structs.read(value, Outer)
    assert refused.value.path == path


# Declarations of keys


class Keys(msgspec.Struct, kw_only=True, rename="camel"):
    vlan_id: Annotated[Annotated[int, msgspec.Meta(ge=0, le=4094)] | None, only("vf", "port")] = None
    """the VLAN;
    see [VLANs](vlan.md)"""
    driver: Annotated[Annotated[str, msgspec.Meta(pattern=whole("[a-z]+"))], Words("a driver's name")] = "igb"
    vlans: Annotated[list[Annotated[int, msgspec.Meta(ge=1)]], Words("a list of VLANs")] = []
    rate: Annotated[float, msgspec.Meta(gt=0, le=10)] = 1.5
    switch: Annotated[Literal["on", "off", ""] | None, only("vf")] = None
    names: Annotated[list[str], Cell('`["a"]`')] = []
    modes: list[Literal["on", "off", "auto"]] | None = None
    inner: Inner | None = None
    """an object"""


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"vlanId": 5000}, 'key "x.vlanId": expected an integer from 0 to 4094, got 5000'),
        ({"driver": "igb\n"}, "key \"x.driver\": expected a driver's name, got 'igb\\n'"),
        ({"vlans": [1, 0]}, 'key "x.vlans": expected a list of VLANs, got [1, 0]'),
        ({"rate": 0}, 'key "x.rate": expected a number greater than 0 and of at most 10, got 0'),
        ({"switch": "onn"}, 'key "x.switch": expected "on" or "off", got \'onn\'; did you mean "on"?'),
        ({"switch": "x" * 100}, f'key "x.switch": expected "on" or "off", got \'{"x" * 76}...'),
        ({"names": 1}, 'key "x.names": expected a list, got 1'),
        ({"modes": 1}, 'key "x.modes": expected a list, each "on", "off" or "auto", got 1'),
    ],
)
def test_a_wrong_value_is_refused_with_key_what_was_expected_and_what_was_found(value: Any, said: str) -> None:
    with pytest.raises(Error) as refused:
        structs.read(value, Keys, where="x")
    assert refused.value.msg == said


def test_a_key_may_apply_only_to_some_devices() -> None:
    assert structs.restricted_keys(Keys) == {"vlanId": {"vf", "port"}, "switch": {"vf"}}


def test_documentation_of_a_key_is_the_text_below_it() -> None:
    texts = declared.texts(Keys)
    assert texts["vlanId"] == "the VLAN; see [VLANs](vlan.md)"
    assert (texts["driver"], texts["inner"]) == ("", "an object")


def test_a_table_shows_what_a_key_takes_and_its_default() -> None:
    assert {key: declared.cell(hint) for key, hint in structs.types_of(Keys).items()} == {
        "vlanId": "0 to 4094",
        "driver": "driver's name",
        "vlans": "list of VLANs",
        "rate": "number greater than 0 and of at most 10",
        "switch": "`on`, `off`",
        "names": '`["a"]`',
        "modes": "list of `on`, `off`, `auto`",
        "inner": "object",
    }
    assert [declared.default(Keys, key) for key in ("driver", "vlans", "rate")] == ["`igb`", "", "`1.5`"]


def test_a_schema_has_the_documentation_and_no_regular_expressions_of_python() -> None:
    properties = declared.schema(Keys)["Keys"]["properties"]
    assert properties["vlanId"]["description"] == "the VLAN; see VLANs"
    assert properties["driver"]["pattern"] == "^(?:[a-z]+)$"


class Listed(msgspec.Struct):
    inner: Keys | None = None
    lists: list[list[Inner]] = []


def test_keys_are_spelled_as_declared_down_to_the_objects_in_lists() -> None:
    told: list[tuple[structs.KeyPath, tuple[str, ...]]] = []
    raw = {
        "INNER": {"VlanID": 5, "x": 1, "driver": None, "Inner": {"FIRSTNAME": "a"}},
        "Lists": [[{"firstname": "b", "SIZE": 2, "y": None, "z": 0}, 7], {"SIZE": 3}],
        "inner": None,
    }
    assert structs.normalize_keys(raw, Listed, lambda path, known: told.append((path, known))) == {
        "inner": {"vlanId": 5, "inner": {"firstName": "a"}},
        "lists": [[{"firstName": "b", "size": 2}, 7], {"SIZE": 3}],
    }
    assert told == [(("inner", "x"), structs.keys_of(Keys)), (("lists", 0, 0, "z"), ("firstName", "size"))]

"""Error messages for values that do not match their Struct."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest

from wirespeed import declared, structs
from wirespeed.cni.errors import CniError
from wirespeed.structs import Cell, Words, fault, only, placed, whole


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
        ({"zz` - at `$.x": 1}, 'unknown key "zz` - at `$.x"'),
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
            'key "byName["y"].size": expected an integer of at least 1, got \'\\ud800\'',
        ),
        ({"inner": "\ud800"}, "key \"inner\": expected an object, got '\\ud800'"),
        ({"inner": {"\ud800": 1}}, 'unknown key "inner.\\ud800"'),
    ],
)
def test_a_fault_names_the_key_and_what_was_expected(value: Any, said: str) -> None:
    with pytest.raises(msgspec.ValidationError) as error:
        structs.convert(value, Outer)
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
        ({"switch": "onn"}, 'key "x.switch": expected "on" or "off", got \'onn\', the nearest is "on"'),
        ({"switch": "x" * 100}, f'key "x.switch": expected "on" or "off", got \'{"x" * 76}...'),
        ({"names": 1}, 'key "x.names": expected a list, got 1'),
        ({"modes": 1}, 'key "x.modes": expected a list, each "on", "off" or "auto", got 1'),
    ],
)
def test_a_wrong_value_is_refused_with_key_what_was_expected_and_what_was_found(value: Any, said: str) -> None:
    with pytest.raises(CniError) as refused:
        structs.read(value, Keys, where="x")
    assert refused.value.msg == said


def test_a_key_may_apply_only_to_some_devices() -> None:
    assert structs.limits(Keys) == {"vlanId": {"vf", "port"}, "switch": {"vf"}}


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

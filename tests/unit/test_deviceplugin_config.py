"""The device plugin's configuration file: its keys, and all of its errors, reported at once."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirespeed import structs
from wirespeed.deviceplugin import config
from wirespeed.deviceplugin.config import PoolConfig
from wirespeed.deviceplugin.selectors import Selectors
from wirespeed.errors import Error, Kind, flatten

PREFIX = "intel.com"
EVERY = range(-1, 1 << 16)


def parse(*pools: Any) -> list[PoolConfig]:
    return config.parse(json.dumps({"resourceList": pools}).encode(), PREFIX)


def selectors(raw: Any) -> tuple[Selectors, ...]:
    return parse({"resourceName": "a", "selectors": raw})[0].selectors


def problems(*pools: Any) -> list[str]:
    with pytest.raises(Error) as caught:
        parse(*pools)
    assert caught.value.kind == Kind.INVALID_CONFIG
    return [each.msg for each in flatten(caught.value)]


def test_pool_of_a_name_alone_takes_everything_under_the_default_prefix() -> None:
    assert parse({"resourceName": "net"}) == [PoolConfig(resource="intel.com/net")]


def test_every_key_of_a_pool() -> None:
    [pool] = parse(
        {
            "resourceName": "dpdk_a-1",
            "resourcePrefix": "acme.io",
            "deviceType": "netDevice",
            "excludeTopology": True,
            "selectors": {
                "vendors": ["8086", "15b3"],
                "devices": ["154c"],
                "drivers": ["vfio-pci"],
                "pciAddresses": ["0000:03:02.0"],
                "pfNames": ["ens1f0#0-1"],
                "rootDevices": ["0000:03:00.0"],
                "linkTypes": ["ether"],
            },
            "additionalInfo": {"*": {"token": "t"}, "0000:03:02.0": {"x": "y"}},
        }
    )
    assert pool == PoolConfig(
        resource="acme.io/dpdk_a-1",
        selectors=(
            Selectors(
                vendors=frozenset({"8086", "15b3"}),
                devices=frozenset({"154c"}),
                drivers=frozenset({"vfio-pci"}),
                pci_addresses=frozenset({"0000:03:02.0"}),
                pf_names={"ens1f0": (range(2),)},
                root_devices={"0000:03:00.0": (EVERY,)},
                link_types=frozenset({"ether"}),
            ),
        ),
        exclude_topology=True,
        additional_info={"*": {"token": "t"}, "0000:03:02.0": {"x": "y"}},
    )


def test_selectors_may_be_one_object_or_a_list_of_them() -> None:
    one, two = {"vendors": ["8086"]}, {"drivers": ["vfio-pci"]}
    first, second = Selectors(vendors=frozenset({"8086"})), Selectors(drivers=frozenset({"vfio-pci"}))
    assert selectors(one) == (first,)
    assert selectors([one]) == (first,)
    assert selectors([one, two]) == (first, second)


@pytest.mark.parametrize("raw", [None, {}, [{}]])
def test_selectors_that_say_nothing_take_everything(raw: Any) -> None:
    assert selectors(raw) in [(), (Selectors(),)]


def test_what_the_peers_operator_writes_is_taken_as_it_stands(caplog: pytest.LogCaptureFixture) -> None:
    [pool] = config.parse(
        b'{"resourceList":[{"resourceName":"nic1","selectors":{"vendors":["8086"],"pfNames":["ens0#0-9"],'
        b'"IsRdma":false,"NeedVhostNet":false,"SelectorObj":null},"SelectorObj":null}]}',
        PREFIX,
    )
    assert pool.selectors == (Selectors(vendors=frozenset({"8086"}), pf_names={"ens0": (range(10),)}),)
    assert not caplog.records


def test_keys_count_in_any_case() -> None:
    wanted = {"VENDORS": ["8086"], "vendors": None, "PfNames": ["ens0"]}
    [pool] = parse({"RESOURCENAME": "a", "Selectors": wanted})
    assert pool.selectors == (Selectors(vendors=frozenset({"8086"}), pf_names={"ens0": (EVERY,)}),)


def test_every_other_key_of_a_selector() -> None:
    [one, two] = selectors(
        [
            {
                "acpiIndexes": ["101", "007"],
                "ddpProfiles": ["GTPv1-C/U IPv4/IPv6 payload"],
                "pKeys": ["0x8001", "7FFF"],
                "isRdma": True,
                "needVhostNet": True,
            },
            {"vdpaType": "vhost"},
        ]
    )
    assert one == Selectors(
        acpi_indexes=frozenset({"101", "7"}),
        ddp_profiles=frozenset({"GTPv1-C/U IPv4/IPv6 payload"}),
        pkeys=frozenset({"0x8001", "0x7fff"}),
        is_rdma=True,
        need_vhost_net=True,
    )
    assert two == Selectors(vdpa_type="vhost")


def test_accelerators_and_scalable_functions_are_pools_of_their_kind() -> None:
    accelerator, function = parse(
        {"resourceName": "fec", "deviceType": "accelerator", "selectors": {"devices": ["0d5d"]}},
        {"resourceName": "sf", "deviceType": "auxNetDevice", "selectors": [{"auxTypes": ["sf", "sf"]}]},
    )
    assert (accelerator.kind, accelerator.selectors[0].devices) == ("accelerator", frozenset({"0d5d"}))
    assert (function.kind, function.selectors) == ("auxNetDevice", (Selectors(),))


@pytest.mark.parametrize(
    ("raw", "place"),
    [
        ({"auxTypes": []}, "selectors.auxTypes"),
        ([{"auxTypes": ["sf"]}, {"auxTypes": []}], "selectors[1].auxTypes"),
        ({"auxTypes": ["sf", "eth", "rdma"]}, "selectors.auxTypes"),
        ({"vendors": ["15b3"]}, "selectors.auxTypes"),
        (None, "selectors"),
    ],
)
def test_scalable_functions_need_their_type_in_each_selector(raw: Any, place: str) -> None:
    found = problems({"resourceName": "a", "deviceType": "auxNetDevice", "selectors": raw})
    assert all(problem.startswith(f'key "resourceList[0].{place}') for problem in found)
    assert all('"sf"' in problem for problem in found)


def test_selector_without_effect_for_the_type_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        [pool] = parse(
            {"resourceName": "a", "deviceType": "accelerator", "selectors": {"pfNames": ["ens0"], "isRdma": False}}
        )
    assert pool.selectors == (Selectors(),)
    [text] = [record.getMessage() for record in caplog.records]
    assert 'key "resourceList[0].selectors.pfNames": it has no effect with deviceType accelerator' in text


def test_wrong_value_of_a_selector_without_effect_is_a_mistake_once() -> None:
    [problem] = problems({"resourceName": "a", "selectors": {"auxTypes": {}}})
    assert problem.startswith('key "resourceList[0].selectors.auxTypes": expected a list')


@pytest.mark.parametrize(("raw", "cdi"), [({}, None), ({"cdi": True}, True), ({"cdi": False}, False)])
def test_pool_may_say_whether_it_is_given_by_cdi(raw: dict[str, bool], cdi: bool | None) -> None:
    assert parse({"resourceName": "a", **raw})[0].cdi is cdi


def test_hex_digits_are_taken_in_either_case_with_or_without_0x() -> None:
    assert selectors({"vendors": ["15B3", "0x8086"]})[0].vendors == {"15b3", "8086"}


def test_unknown_key_is_a_warning_that_names_the_nearest(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        parse({"resourceName": "a", "selectors": {"vendor": ["8086"]}, "comment": "x"})
    texts = [record.getMessage() for record in caplog.records]
    assert 'unknown key "resourceList[0].comment": it has no effect' in texts[0]
    assert 'unknown key "resourceList[0].selectors.vendor": it has no effect; did you mean "vendors"?' in texts[1]


@pytest.mark.parametrize("name", ["sriov-net_0", "a", "A1", "a" * 63])
def test_resource_name_that_is_fine(name: str) -> None:
    assert parse({"resourceName": name})[0].resource == f"intel.com/{name}"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"deviceType": "\ud800"}, 'key "resourceList[0].deviceType": expected "netDevice", "accelerator", '),
        ({"health": ["gone", "\ud800"]}, 'key "resourceList[0].health[1]": expected "gone", "driver", '),
        ({"cdi": "\ud800"}, 'key "resourceList[0].cdi": expected true or false, '),
        ({"selectors": {"isRdma": "\ud800"}}, 'key "resourceList[0].selectors.isRdma": expected true or false, '),
        ({"socket": {"user": "\ud800"}}, 'key "resourceList[0].socket.user": expected a number, or a name '),
    ],
)
def test_text_that_is_not_unicode_is_refused(keys: dict[str, Any], expected: str) -> None:
    [problem] = problems({"resourceName": "net", **keys})
    assert problem.startswith(expected)
    assert re.search(r"got .\\ud800.$", problem)


@pytest.mark.parametrize(
    "name", ["junk.net.0", "invalid.name", "", "-x", "x-", "_", "a" * 64, "a b", "a/b", None, 7]
)
def test_resource_name_that_is_refused(name: Any) -> None:
    [problem] = problems({"resourceName": name})
    assert problem.startswith('key "resourceList[0]')


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ([], 'key "resourceList[0].selectors": expected an object or a list of at least one, got []'),
        ([None], 'key "resourceList[0].selectors[0]": expected an object, got None'),
        ("all", "key \"resourceList[0].selectors\": expected an object or a list of at least one, got 'all'"),
        (
            {"vendors": "8086"},
            "key \"resourceList[0].selectors.vendors\": expected a list, each four hex digits, got '8086'",
        ),
        (
            {"vendors": ["80866"]},
            "key \"resourceList[0].selectors.vendors[0]\": expected four hex digits, got '80866'",
        ),
        ({"devices": [154]}, 'key "resourceList[0].selectors.devices[0]": expected four hex digits, got 154'),
        ({"drivers": [""]}, "key \"resourceList[0].selectors.drivers[0]\": expected a driver's name, got ''"),
        (
            {"linkTypes": 7},
            'key "resourceList[0].selectors.linkTypes": expected a list, each "ether" or "infiniband", got 7',
        ),
        (
            {"linkTypes": ["eth"]},
            'key "resourceList[0].selectors.linkTypes[0]": expected "ether" or "infiniband", got \'eth\'; '
            'did you mean "ether"?',
        ),
        (
            {"pciAddresses": ["03:02.0"]},
            'key "resourceList[0].selectors.pciAddresses[0]": expected a PCI address like 0000:03:02.0, '
            "got '03:02.0'",
        ),
        ({"isRdma": "yes"}, "key \"resourceList[0].selectors.isRdma\": expected true or false, got 'yes'"),
        (
            {"vdpaType": "both"},
            'key "resourceList[0].selectors.vdpaType": expected "virtio" or "vhost", got \'both\'',
        ),
        (
            [{"isRdma": True}, {"isRdma": True, "vdpaType": "vhost"}],
            'key "resourceList[0].selectors[1].vdpaType": it must not be combined with "isRdma"',
        ),
        (
            {"acpiIndexes": ["x"]},
            "key \"resourceList[0].selectors.acpiIndexes[0]\": expected a number in quotes, got 'x'",
        ),
        (
            {"pKeys": ["all"]},
            "key \"resourceList[0].selectors.pKeys[0]\": expected 0x and four hex digits, got 'all'",
        ),
    ],
)
def test_selectors_that_are_refused(raw: Any, expected: str) -> None:
    assert problems({"resourceName": "a", "selectors": raw}) == [expected]


@pytest.mark.parametrize(
    "entry", ["eth0#5-3", "eth0#1-2-3", "eth0#a", "eth0##1", "eth0# 1", "eth0#", "#1", "", "a b"]
)
def test_malformed_pf_name_is_refused_with_the_entry(entry: str) -> None:
    [problem] = problems({"resourceName": "a", "selectors": {"pfNames": [entry]}})
    assert problem.startswith('key "resourceList[0].selectors.pfNames[0]": expected ')
    assert repr(entry) in problem


def test_root_device_has_to_be_an_address() -> None:
    [problem] = problems({"resourceName": "a", "selectors": {"rootDevices": ["ens1f0#1"]}})
    assert "expected a PCI address like 0000:86:00.0" in problem


@pytest.mark.parametrize("kind", ["accelerators", "gpu", 7])
def test_unknown_device_type_is_refused(kind: Any) -> None:
    [problem] = problems({"resourceName": "a", "deviceType": kind})
    assert problem.startswith('key "resourceList[0].deviceType": ')


@pytest.mark.parametrize(
    "info",
    [
        [],
        {"ens1": {"a": "b"}},
        {"*": "b"},
        {"*": {"a": 1}},
        {"0000:03:02.0": None},
        {"*": {"half of a character": "\ud83d"}},
        {"*": {"\ud83d": "x"}},
    ],
)
def test_additional_info_that_is_refused(info: Any) -> None:
    [problem] = problems({"resourceName": "a", "additionalInfo": info})
    assert problem.startswith('key "resourceList[0].additionalInfo')


def test_address_of_additional_info_is_taken_in_either_case() -> None:
    [pool] = parse({"resourceName": "a", "additionalInfo": {"0000:AF:02.0": {"a": "b"}}})
    assert pool.additional_info == {"0000:af:02.0": {"a": "b"}}


def test_same_resource_twice_is_refused_but_not_under_another_prefix() -> None:
    assert problems({"resourceName": "a"}, {"resourceName": "a"}, {"resourceName": "b"}) == [
        'key "resourceList[1].resourceName": another pool has resource intel.com/a too'
    ]
    assert len(parse({"resourceName": "a"}, {"resourceName": "a", "resourcePrefix": "acme.io"})) == 2


def test_all_mistakes_are_told_at_once() -> None:
    found = problems(
        {"resourceName": "a.b", "excludeTopology": "yes", "selectors": {"vendors": ["x"], "pfNames": ["e#"]}},
        {"resourceName": "ok", "resourcePrefix": "UPPER", "deviceType": "gpu"},
        {"resourceName": "ok2", "selectors": [{"isRdma": 1}, {"linkTypes": "ether"}], "additionalInfo": 1},
        7,
    )
    places = [re.match(r'key "([^"]*)', problem)[1] for problem in found]  # type: ignore[index]
    assert places == [
        "resourceList[0].resourceName",
        "resourceList[0].selectors.vendors[0]",
        "resourceList[0].selectors.pfNames[0]",
        "resourceList[0].excludeTopology",
        "resourceList[1]",
        "resourceList[1].deviceType",
        "resourceList[2].selectors[0].isRdma",
        "resourceList[2].selectors[1].linkTypes",
        "resourceList[2].additionalInfo",
        "resourceList[3]",
    ]


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100000])
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(Error, match="not JSON"):
        config.parse(text, PREFIX)


@pytest.mark.parametrize("text", [b'{"resourceList":[]}', b'{"resourceList":null}'])
def test_a_node_may_have_no_pools(text: bytes) -> None:
    """The SR-IOV operator writes null for a node to which no policy applies."""
    assert config.parse(text, PREFIX) == []


@pytest.mark.parametrize("text", [b"[]", b"{}", b'{"resourcelists":[]}', b'{"resourceList":{}}', b"null"])
def test_configuration_without_a_list_of_pools_is_refused(text: bytes) -> None:
    with pytest.raises(Error, match="expected"):
        config.parse(text, PREFIX)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Error) as caught:
        config.load(tmp_path / "none.json", PREFIX)
    assert caught.value.kind == Kind.IO
    assert caught.value.msg == f"device plugin configuration {tmp_path}/none.json: No such file or directory"


def test_mistake_is_told_with_the_files_name(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"resourceList":[{"resourceName":"a.b"}]}')
    with pytest.raises(Error, match=rf"^device plugin configuration {re.escape(str(file))}: key .resourceList"):
        config.load(file, PREFIX)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
POOL_KEYS = structs.keys_of(config.PoolKeys)
KEYS = (*POOL_KEYS, *structs.keys_of(config.SelectorKeys), "isRdma")
NEARLY = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(POOL_KEYS, JSON)
    | {"selectors": JSON | st.dictionaries(st.sampled_from(KEYS), JSON | st.lists(st.text()), max_size=4)},
)


def raw_pools(raw: dict[str, Any]) -> list[Any]:
    return next(value for key, value in raw.items() if key.lower() == "resourcelist") or []


@given(JSON | st.builds(lambda pools: {"resourceList": pools}, st.lists(NEARLY, max_size=3)))
def test_any_json_is_either_pools_or_refused(raw: Any) -> None:
    try:
        pools = config.parse(json.dumps(raw).encode(), PREFIX)
    except Error as error:
        assert error.kind == Kind.INVALID_CONFIG
        assert error.msg.isprintable()
    else:
        assert len(pools) == len({pool.resource for pool in pools}) == len(raw_pools(raw))


@given(st.binary())
def test_any_bytes_are_either_pools_or_refused(text: bytes) -> None:
    try:
        config.parse(text, PREFIX)
    except Error as error:
        assert error.kind == Kind.INVALID_CONFIG

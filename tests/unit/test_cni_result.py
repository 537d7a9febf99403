"""Conversion of results between versions of the specification."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirespeed.cni import result as results
from wirespeed.cni import versions
from wirespeed.cni.address import parse_prefix
from wirespeed.errors import Error, Kind

OLD = ("0.1.0", "0.2.0")
FULL: dict[str, Any] = {
    "interfaces": [
        {"name": "br0", "mac": "02:00:00:00:00:01", "mtu": 1500},
        {
            "name": "net1",
            "mac": "02:00:00:00:00:02",
            "mtu": 9000,
            "sandbox": "/var/run/netns/pod",
            "socketPath": "/run/vhost/1",
            "pciID": "0000:03:02.0",
        },
    ],
    "ips": [
        {"address": "10.1.2.3/24", "gateway": "10.1.2.1", "interface": 1},
        {"address": "fd00::3/64", "interface": 0},
    ],
    "routes": [
        {
            "dst": "0.0.0.0/0",
            "gw": "10.1.2.1",
            "mtu": 1400,
            "advmss": 1360,
            "priority": 5,
            "table": 0,
            "scope": 253,
        },
        {"dst": "fd00:1::/64"},
    ],
    "dns": {"nameservers": ["10.0.0.53"], "domain": "local", "search": ["a", "b"], "options": ["ndots:5"]},
}


def test_1_1_0_says_everything() -> None:
    assert results.write(FULL, "1.1.0") == {"cniVersion": "1.1.0", **FULL}


def test_1_0_0_leaves_out_what_1_1_0_brought() -> None:
    assert results.write(FULL, "1.0.0") == {
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": "br0", "mac": "02:00:00:00:00:01"},
            {"name": "net1", "mac": "02:00:00:00:00:02", "sandbox": "/var/run/netns/pod"},
        ],
        "ips": FULL["ips"],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.2.1"}, {"dst": "fd00:1::/64"}],
        "dns": FULL["dns"],
    }


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0"])
def test_versions_before_1_0_0_say_the_version_of_each_address(version: str) -> None:
    written = results.write(FULL, version)
    assert written["cniVersion"] == version
    assert written["ips"] == [
        {"version": "4", "address": "10.1.2.3/24", "gateway": "10.1.2.1", "interface": 1},
        {"version": "6", "address": "fd00::3/64", "interface": 0},
    ]


@pytest.mark.parametrize("version", versions.SUPPORTED)
def test_empty_result_is_written_with_its_version_and_dns(version: str) -> None:
    assert results.write(results.empty(), version) == {"cniVersion": version, "dns": {}}


@pytest.mark.parametrize("version", OLD)
def test_versions_before_0_3_0_say_the_first_address_of_each_family_with_its_routes(version: str) -> None:
    more = [{"address": "10.1.2.4/24", "interface": 1}]
    assert results.write({**FULL, "ips": FULL["ips"] + more}, version) == {
        "cniVersion": version,
        "ip4": {
            "ip": "10.1.2.3/24",
            "gateway": "10.1.2.1",
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.2.1"}],
        },
        "ip6": {"ip": "fd00::3/64", "routes": [{"dst": "fd00:1::/64"}]},
        "dns": FULL["dns"],
    }


def test_routes_of_a_family_without_an_address_cannot_be_said_before_0_3_0() -> None:
    written = results.write({**FULL, "ips": FULL["ips"][:1]}, "0.2.0")
    assert set(written) == {"cniVersion", "ip4", "dns"}


def test_writing_another_version_is_refused() -> None:
    with pytest.raises(Error) as refused:
        results.write(FULL, "0.5.0")
    assert refused.value.kind == Kind.INCOMPATIBLE_VERSION


@pytest.mark.parametrize("declared", [{"cniVersion": "0.2.0"}, {"cniVersion": "0.1.0"}, {}])
def test_shape_of_0_2_0_is_read(declared: dict[str, str]) -> None:
    raw = declared | {
        "ip4": {"ip": "10.1.2.3/24", "gateway": "10.1.2.1", "routes": [{"dst": "0.0.0.0/0"}]},
        "ip6": {"ip": "fd00::3/64", "routes": [{"dst": "::/0", "gw": "fd00::1"}]},
        "dns": {"nameservers": ["10.0.0.53"]},
    }
    assert results.read(raw) == {
        "interfaces": [],
        "ips": [{"address": "10.1.2.3/24", "gateway": "10.1.2.1"}, {"address": "fd00::3/64"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0", "gw": "fd00::1"}],
        "dns": {"nameservers": ["10.0.0.53"]},
    }


def test_what_go_writes_for_nothing_is_nothing() -> None:
    raw: dict[str, Any] = {
        "cniVersion": "1.0.0",
        "interfaces": None,
        "ips": None,
        "routes": [],
        "dns": {"domain": ""},
    }
    assert results.read(raw) == results.empty()
    bare = {"interfaces": [{"name": "eth0", "mac": "", "sandbox": None, "mtu": None}], "dns": None}
    assert results.read(bare)["interfaces"] == [{"name": "eth0"}]


def test_version_of_the_network_holds_where_the_plugin_gave_none() -> None:
    assert results.read({"ip4": {"ip": "10.1.2.3/24"}}, "1.0.0") == results.empty()
    assert results.read({"ips": [{"address": "10.1.2.3/24"}]}, "1.0.0")["ips"] == [{"address": "10.1.2.3/24"}]


def test_addresses_are_written_as_the_peers_write_them() -> None:
    raw = {
        "ips": [{"address": "FD00:0::0005/64", "gateway": "FE80::1"}, {"address": "::ffff:10.1.2.3/120"}],
        "routes": [{"dst": "2001:DB8::/32", "gw": "FE80::1"}, {"dst": "10.9.0.1/16", "gw": "::ffff:10.1.2.1"}],
    }
    assert results.read(raw) == results.empty() | {
        "ips": [{"address": "fd00::5/64", "gateway": "fe80::1"}, {"address": "10.1.2.3/24"}],
        "routes": [{"dst": "2001:db8::/32", "gw": "fe80::1"}, {"dst": "10.9.0.1/16", "gw": "10.1.2.1"}],
    }


def test_negative_numbers_of_a_route_say_nothing() -> None:
    negative = dict.fromkeys(("mtu", "advmss", "priority", "table"), -1)
    assert results.read_routes([{"dst": "::/0"} | negative]) == [{"dst": "::/0"} | dict.fromkeys(negative, 0)]


def test_plugin_that_was_called_in_an_old_version_and_does_not_care_is_understood() -> None:
    new = {"interfaces": [{"name": "eth0"}], "ips": [{"address": "10.1.2.3/24"}]}
    assert results.read(new, "0.1.0")["ips"] == [{"address": "10.1.2.3/24"}]
    assert results.read({"ip4": {"ip": "10.1.2.3/24"}}, "0.1.0")["ips"] == [{"address": "10.1.2.3/24"}]
    assert results.read(new | {"cniVersion": "0.2.0"}, "0.1.0") == results.empty()  # its own cniVersion decides


def test_unknown_keys_are_left_out() -> None:
    raw = {"vendor": 1, "interfaces": [{"name": "eth0", "vendor": 1}]}
    assert results.read(raw) == results.empty() | {"interfaces": [{"name": "eth0"}]}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "expected an object, got []"),
        (None, "expected an object, got None"),
        (
            {"cniVersion": "3.0.0"},
            "key \"cniVersion\": expected one of 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0, got '3.0.0'",
        ),
        ({"interfaces": {}}, 'key "interfaces": expected a list, got {}'),
        ({"interfaces": ["eth0"]}, "key \"interfaces[0]\": expected an object, got 'eth0'"),
        ({"interfaces": [{}]}, 'key "interfaces[0].name": expected a string, got None'),
        ({"interfaces": [{"name": "a", "mac": 1}]}, 'key "interfaces[0].mac": expected a string, got 1'),
        (
            {"interfaces": [{"name": "a", "mtu": "9"}]},
            "key \"interfaces[0].mtu\": expected an integer, got '9'",
        ),
        (
            {"interfaces": [{"name": "a", "mtu": True}]},
            'key "interfaces[0].mtu": expected an integer, got True',
        ),
        (
            {"ips": [{"address": "10.0.0.1"}]},
            "key \"ips[0].address\": expected an address with prefix length, got '10.0.0.1'",
        ),
        ({"ips": [{}]}, 'key "ips[0].address": expected an address with prefix length, got None'),
        (
            {"ips": [{"address": "10.0.0.1/8", "gateway": "gw"}]},
            "key \"ips[0].gateway\": expected an IP address, got 'gw'",
        ),
        (
            {"ips": [{"address": "10.0.0.1/8", "interface": 0}]},
            'key "ips[0].interface": expected an index into 0 interfaces, got 0',
        ),
        (
            {"interfaces": [{"name": "a"}], "ips": [{"address": "10.0.0.1/8", "interface": -1}]},
            'key "ips[0].interface": expected an index into 1 interfaces, got -1',
        ),
        ({"routes": [{}]}, 'key "routes[0].dst": expected an address with prefix length, got None'),
        (
            {"routes": [{"dst": "0.0.0.0/0", "priority": 1.5}]},
            'key "routes[0].priority": expected an integer, got 1.5',
        ),
        (
            {"routes": [{"dst": "0.0.0.0/0", "table": 2**32}]},
            'key "routes[0].table": expected an integer of 32 bits, got 4294967296',
        ),
        (
            {"routes": [{"dst": "0.0.0.0/0", "scope": -1}]},
            'key "routes[0].scope": expected an integer from 0 to 255, got -1',
        ),
        ({"dns": []}, 'key "dns": expected an object, got []'),
        ({"dns": {"search": [1]}}, 'key "dns.search": expected a list of strings, got [1]'),
        ({"ip4": {}}, 'key "ip4.ip": expected an address with prefix length, got None'),
        (
            {"ip4": {"ip": "10.0.0.1/8", "routes": [{"dst": 1}]}},
            'key "ip4.routes[0].dst": expected an address with prefix length, got 1',
        ),
    ],
)
def test_wrong_field_is_named(raw: object, message: str) -> None:
    with pytest.raises(Error) as refused:
        results.read(raw)
    assert (refused.value.kind, refused.value.msg) == (Kind.INVALID_DATA, f"result: {message}")


words = st.text(min_size=1, max_size=8)
numbers = st.integers(0, 2**32 - 1)
# these may be IPv4 addresses
six = st.ip_addresses(v=6).map(str).filter(lambda text: not text.startswith("::ffff:"))
ip_texts = st.one_of(st.ip_addresses(v=4).map(str), six)
prefixes = st.one_of(
    st.builds("{}/{}".format, st.ip_addresses(v=4), st.integers(0, 32)),
    st.builds("{}/{}".format, six, st.integers(0, 128)),
)


def objects(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional)


@st.composite
def full_results(draw: st.DrawFn) -> dict[str, Any]:
    text = dict.fromkeys(("mac", "sandbox", "socketPath", "pciID"), words)
    interfaces = draw(st.lists(objects({"name": words}, {**text, "mtu": numbers}), max_size=3))
    index = {"interface": st.integers(0, len(interfaces) - 1)} if interfaces else {}
    more = dict.fromkeys(("mtu", "advmss", "priority", "table"), numbers) | {"scope": st.integers(0, 255)}
    lists = dict.fromkeys(("nameservers", "search", "options"), st.lists(words, min_size=1, max_size=2))
    return {
        "interfaces": interfaces,
        "ips": draw(st.lists(objects({"address": prefixes}, {"gateway": ip_texts, **index}), max_size=3)),
        "routes": draw(st.lists(objects({"dst": prefixes}, {"gw": ip_texts, **more}), max_size=3)),
        "dns": draw(objects({}, {**lists, "domain": words})),
    }


@given(full_results())
def test_latest_version_loses_nothing(result: dict[str, Any]) -> None:
    assert results.read(results.write(result, "1.1.0")) == result


@given(full_results(), st.sampled_from([each for each in versions.SUPPORTED if each not in OLD]))
def test_what_a_version_can_say_comes_back_from_it(result: dict[str, Any], version: str) -> None:
    once = results.read(results.write(result, version))
    assert results.read(results.write(once, version)) == once
    assert once["ips"] == result["ips"]
    assert once["dns"] == result["dns"]
    assert [interface["name"] for interface in once["interfaces"]] == [i["name"] for i in result["interfaces"]]
    assert [(route["dst"], route.get("gw")) for route in once["routes"]] == [
        (route["dst"], route.get("gw")) for route in result["routes"]
    ]


def bits(prefix: str) -> int:
    """The number of bits in the prefix's address; an IPv4 prefix may be written as IPv6."""
    found = parse_prefix(prefix)
    assert found is not None
    return found.ip.bits


@given(full_results(), st.sampled_from(OLD))
def test_what_an_old_version_can_say_comes_back_from_it(result: dict[str, Any], version: str) -> None:
    once = results.read(results.write(result, version))
    assert results.read(results.write(once, version)) == once
    assert once["dns"] == result["dns"]
    assert once["interfaces"] == []
    for ip in once["ips"]:
        first = next(each for each in result["ips"] if bits(each["address"]) == bits(ip["address"]))
        assert (ip["address"], ip.get("gateway")) == (first["address"], first.get("gateway"))
    families = {bits(ip["address"]) for ip in result["ips"]}
    assert {bits(ip["address"]) for ip in once["ips"]} == families
    said = [(route["dst"], route.get("gw")) for route in once["routes"]]
    expected = [(route["dst"], route.get("gw")) for route in result["routes"] if bits(route["dst"]) in families]
    assert sorted(said, key=str) == sorted(expected, key=str)


keys = st.sampled_from(["cniVersion", "interfaces", "ips", "routes", "dns", "ip4", "name", "address", "dst", "ip"])
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | prefixes | st.just("0.2.0"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(anything)
def test_only_cni_errors_come_out_of_reading(raw: object) -> None:
    try:
        found = results.read(raw)
    except Error as error:
        assert error.kind == Kind.INVALID_DATA
    else:
        assert set(found) == {"interfaces", "ips", "routes", "dns"}

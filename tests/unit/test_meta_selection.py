"""A pod's annotation: the meaning of each form; any other content is rejected."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from wirespeed.errors import Error, Kind
from wirespeed.plugins.meta import selection
from wirespeed.plugins.meta.selection import Selection, parse, parse_default


def one(**keys: Any) -> Selection:
    (found,) = parse(json.dumps([{"name": "n", **keys}]), namespace="pod-ns")
    return found


# The short form


@pytest.mark.parametrize(
    ("text", "namespace", "name", "interface"),
    [
        ("net1", "pod-ns", "net1", ""),
        ("default/net1", "default", "net1", ""),
        ("net1@my_interface", "pod-ns", "net1", "my_interface"),
        ("default/net1@my_interface", "default", "net1", "my_interface"),
        ("  default / net1 @ if0  ", "default", "net1", "if0"),
        ("net.with.dots", "pod-ns", "net.with.dots", ""),
        ("a@fifteen-letters", "pod-ns", "a", "fifteen-letters"),
        ("/net1@", "pod-ns", "net1", ""),  # empty parts are ignored
    ],
)
def test_short_form(text: str, namespace: str, name: str, interface: str) -> None:
    assert parse(text, namespace="pod-ns") == [Selection(namespace=namespace, name=name, interface=interface)]


def test_order_is_kept_and_a_network_may_be_there_twice() -> None:
    assert [found.label for found in parse("b,x/a , b", namespace="p")] == ["p/b", "x/a", "p/b"]


@pytest.mark.parametrize("text", ["", "   ", "[]", "\n"])
def test_nothing_is_asked_for(text: str) -> None:
    assert parse(text, namespace="p") == []


# JSON


def test_json_form_without_requests_is_what_the_short_form_is() -> None:
    text = '[{"name":"net1"},{"name":"net2","namespace":"x","interface":"if0"}]'
    assert parse(text, namespace="p") == parse("net1,x/net2@if0", namespace="p")


def test_every_key_reaches_its_field() -> None:
    found = one(
        interface="if0",
        ips=["10.0.0.2/24", "2001:DB8::2"],
        mac="C2-11-22-33-44-66",
        portMappings=[{"hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": "127.0.0.1"}],
        bandwidth={"ingressRate": 2048, "ingressBurst": 1600, "egressRate": None},
        deviceID="0000:AF:06.1",
        **{
            "infiniband-guid": "02:00:00:00:00:00:00:0A",
            "cni-args": {"a": {"b": 1}},
            "default-route": ["10.0.0.1", "fd00::1"],
            "ipam-claim-reference": "vm1.data",
        },
    )
    assert found == Selection(
        namespace="pod-ns",
        name="n",
        interface="if0",
        ips=("10.0.0.2/24", "2001:db8::2"),
        mac="c2:11:22:33:44:66",
        infiniband_guid="02:00:00:00:00:00:00:0a",
        port_mappings=({"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"},),
        bandwidth={"ingressRate": 2048, "ingressBurst": 1600},
        device_id="0000:af:06.1",
        cni_args={"a": {"b": 1}},
        default_route=("10.0.0.1", "fd00::1"),
    )


def test_runtime_config_has_what_was_asked_for_by_capability() -> None:
    assert one(mac="02:00:00:00:00:01", ips=[]).runtime_config() == {"mac": "02:00:00:00:00:01"}
    assert one().runtime_config() == {}


def test_protocol_of_a_port_is_tcp_unless_it_says_otherwise() -> None:
    mapping = {"hostPort": 53, "containerPort": 53}
    both = one(portMappings=[mapping, {**mapping, "protocol": "udp"}])
    assert [each["protocol"] for each in both.port_mappings] == ["tcp", "udp"]


@pytest.mark.parametrize("mac", ["02:00:5E:00:53:01", "02-00-5e-00-53-01", "0200.5E00.5301"])
def test_mac_is_taken_in_every_form_of_the_peers(mac: str) -> None:
    assert one(mac=mac).mac == "02:00:5e:00:53:01"


@pytest.mark.parametrize(
    "key", ["interface", "mac", "infiniband-guid", "deviceID", "namespace", "ipam-claim-reference"]
)
@pytest.mark.parametrize("value", ["", None])
def test_empty_value_is_not_given(key: str, value: str | None) -> None:
    assert one(**{key: value}) == one()


def test_old_name_of_the_interface_key_is_known() -> None:
    assert one(interfaceRequest="if0").interface == "if0"


def test_interface_counts_before_its_old_name() -> None:
    both = one(interfaceRequest="if1", interface="if0")
    assert both.interface == "if0"
    assert ignored(both) == ['key "interfaceRequest": it has no effect beside "interface"']
    assert ignored(one(interfaceRequest="if0", interface="if0")) == []


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"Mac": "02:00:00:00:00:01"}, {"mac": "02:00:00:00:00:01"}),
        ({"NAMESPACE": "x", "IPs": ["10.0.0.1"]}, {"namespace": "x", "ips": ("10.0.0.1",)}),
        ({"mac": "02:00:00:00:00:01", "MAC": "02:00:00:00:00:02"}, {"mac": "02:00:00:00:00:02"}),
        ({"MAC": "02:00:00:00:00:02", "mac": "02:00:00:00:00:01"}, {"mac": "02:00:00:00:00:01"}),
        ({"mac": "02:00:00:00:00:01", "MAC": None}, {"mac": "02:00:00:00:00:01"}),
        ({"Default-Route": []}, {"default_route": ()}),
        ({"CNI-args": {"A": 1, "a": 2}}, {"cni_args": {"A": 1, "a": 2}}),
        ({"Bandwidth": {"INGRESSRATE": 5}}, {"bandwidth": {"ingressRate": 5}}),
        (
            {"portmappings": [{"HostPort": 1, "containerport": 2, "hostIp": "10.0.0.1"}]},
            {"port_mappings": ({"protocol": "tcp", "hostPort": 1, "containerPort": 2, "hostIP": "10.0.0.1"},)},
        ),
        ({"Infiniband-GUID": "02:00:00:00:00:00:00:01"}, {"infiniband_guid": "02:00:00:00:00:00:00:01"}),
    ],
)
def test_keys_are_read_in_any_case(keys: dict[str, Any], expected: dict[str, Any]) -> None:
    assert one(**keys) == replace(one(), **expected)


def test_name_too_is_read_in_any_case() -> None:
    assert parse('[{"Name": "n"}]', namespace="pod-ns") == [one()]
    assert parse_default('[{"NAME": "n", "zz": 1}]', namespace="x") is not None


def ignored(found: Selection) -> list[str]:
    """The parts of the element without effect, without their location."""
    where = "annotation k8s.v1.cni.cncf.io/networks: element 1 (pod-ns/n): "
    assert all(line.msg.startswith(where) for line in found.ignored)
    return [line.msg.removeprefix(where) for line in found.ignored]


KNOWN = ", ".join(selection.KEYS)


@pytest.mark.parametrize(
    ("keys", "lines"),
    [
        (
            {"gateway": ["10.1.1.1"]},
            ['unknown key "gateway": it has no effect; did you mean "default-route"?'],
        ),
        ({"interfce": {}}, ['unknown key "interfce": it has no effect; did you mean "interface"?']),
        ({"zz": 1}, [f'unknown key "zz": it has no effect; known are {KNOWN}']),
        (
            {"bandwidth": {"ingresRate": "x", "egressRate": 1}},
            ['unknown key "bandwidth.ingresRate": it has no effect; did you mean "ingressRate"?'],
        ),
        (
            {"portMappings": [{"hostPort": n, "containerPort": n, "gateway": n} for n in (1, 2)]},
            [
                f'unknown key "portMappings[{n}].gateway": it has no effect; known are hostPort, containerPort, '
                "protocol, hostIP"
                for n in (0, 1)
            ],
        ),
        ({"Gateway": None}, []),
    ],
)
def test_key_that_is_not_known_has_no_effect_and_is_told_with_the_nearest(
    keys: dict[str, Any], lines: list[str]
) -> None:
    found = one(**keys)
    assert ignored(found) == lines
    known = {key: value for key, value in keys.items() if key in selection.KEYS}
    if "bandwidth" in known:
        known["bandwidth"] = {"egressRate": 1}
    if "portMappings" in known:
        known["portMappings"] = [{"hostPort": n, "containerPort": n} for n in (1, 2)]
    assert replace(found, ignored=()) == one(**known)


@pytest.mark.parametrize(
    ("key", "value"),
    [("Mac", 5), ("IPS", "10.0.0.1"), ("Bandwidth", {"INGRESSRATE": "5"}), ("portmappings", {}), ("Name", 7)],
)
def test_values_of_a_wrong_type_are_refused_under_whatever_case_of_the_key(key: str, value: Any) -> None:
    with pytest.raises(Error) as refused:
        one(**{key: value})
    assert refused.value.kind == Kind.INVALID_CONFIG


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        ("mac", "0200.5E10.0001", "mac"),
        ("mac", "02-00-5e-10-00-01", "mac"),
        ("infiniband-guid", "0200.0000.0000.00FF", "infiniband_guid"),
    ],
)
def test_octets_are_read_in_every_spelling_of_theirs(key: str, value: str, field: str) -> None:
    spelled = {"mac": "02:00:5e:10:00:01", "infiniband_guid": "02:00:00:00:00:00:00:ff"}
    assert getattr(one(**{key: value}), field) == spelled[field]


def test_what_is_ignored_says_which_key_of_which_element() -> None:
    text = '[{"name": "a"}, {"name": "b", "portMappings": [{"hostPort": 1, "containerPort": 2, "x": 3}]}]'
    assert [each.path for found in parse(text, namespace="p") for each in found.ignored] == [
        (1, "portMappings", 0, "x")
    ]


def test_empty_default_route_is_not_none() -> None:
    assert one(**{"default-route": []}).default_route == ()
    assert one().default_route is None


@pytest.mark.parametrize(
    ("text", "path", "told"),
    [
        ('[{"name": "a"}, {"name": "b", "ips": ["x"]}]', "ips[0]", 'element 2 (p/b): key "ips[0]": '),
        ('[{"name": "a", "Bandwidth": {"egressRate": -1}}]', "bandwidth.egressRate", "element 1 (p/a): key "),
        ('[{"namespace": "x"}]', "name", 'element 1: key "name" is missing'),
        ('[{"name": "a"}, 7]', "", "element 2: expected an object, got 7"),
        ("a,b@c/d", "interface", 'element 2: key "interface": '),
    ],
)
def test_a_refusal_says_which_key_of_which_element(text: str, path: str, told: str) -> None:
    with pytest.raises(Error) as refused:
        parse(text, namespace="p")
    where = "annotation k8s.v1.cni.cncf.io/networks"
    assert refused.value.msg.startswith(f"{where}: {told}")
    assert refused.value.path[0] == int(told.split()[1].strip(":")) - 1
    assert f'"{path}"' in refused.value.msg or not path


# The default-network annotation


def test_other_master_is_one_network_of_the_administrators_namespace() -> None:
    found = parse_default("main", namespace="kube-system")
    assert found == Selection(namespace="kube-system", name="main")
    assert parse_default(" ", namespace="kube-system") is None
    with pytest.raises(
        Error, match=r"^annotation v1\.multus-cni\.io/default-network: element 1: key \"name\": "
    ) as bad:
        parse_default("Main", namespace="kube-system")
    assert bad.value.kind == Kind.INVALID_CONFIG


def test_other_master_is_taken_in_json_too_with_all_that_is_asked_of_it() -> None:
    # Written by KubeVirt's IPAM extension for a VM with a MAC, addresses and an IPAM claim.
    element = {
        "name": "default",
        "namespace": "ovn-kubernetes",
        "ips": ["192.168.1.10/16", "fd20:1234::200/64"],
        "mac": "02:03:04:05:06:07",
        "ipam-claim-reference": "vm1.podnet",
    }
    assert parse_default(json.dumps([element]), namespace="kube-system") == Selection(
        namespace="ovn-kubernetes",
        name="default",
        ips=("192.168.1.10/16", "fd20:1234::200/64"),
        mac="02:03:04:05:06:07",
    )
    assert parse_default("[]", namespace="kube-system") is None
    with pytest.raises(Error, match=r"the JSON form: expected a list of objects, got \{'name'"):
        # Multus and others do not accept a single object either
        parse_default(json.dumps(element), namespace="kube-system")


# What KubeVirt writes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (  # a VM's network with a MAC from kubemacpool, and an interface named by a hash
            '[{"name":"data","namespace":"vms","mac":"02:9d:4c:00:00:01","interface":"pod37a8eec1ce1"}]',
            Selection(namespace="vms", name="data", mac="02:9d:4c:00:00:01", interface="pod37a8eec1ce1"),
        ),
        (  # an older client library writes null
            '[{"name":"data","namespace":"vms","interface":"net1","cni-args":null,"default-route":null}]',
            Selection(namespace="vms", name="data", interface="net1"),
        ),
        (  # the network of a network binding plugin
            '[{"name":"passt","namespace":"vms","cni-args":{"logicNetworkName":"default"}}]',
            Selection(namespace="vms", name="passt", cni_args={"logicNetworkName": "default"}),
        ),
        (
            '[{"name":"l2","namespace":"vms","ipam-claim-reference":"vm1.data","interface":"pod37a8eec1ce1"}]',
            Selection(namespace="vms", name="l2", interface="pod37a8eec1ce1"),
        ),
    ],
)
def test_annotation_of_a_virtual_machine_is_read(text: str, expected: Selection) -> None:
    assert parse(text, namespace="vms") == [expected]


# Arbitrary annotations


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
values = json_values | st.sampled_from(
    ["10.0.0.1", "10.0.0.1/24", "::1", "02:00:00:00:00:01", "0000:03:02.0", "a", ["10.0.0.1"], [{"hostPort": 1}]]
)
elements = st.dictionaries(
    st.sampled_from([*selection.KEYS, "Name", "MAC", "portmappings", "\x00"]),
    values,
    max_size=5,
)


def check(text: str) -> None:
    try:
        for found in parse(text, namespace="p"):
            assert found.name
            assert found.namespace
            assert "/" not in found.interface
            assert ".." not in found.label
            json.dumps(found.runtime_config())
            assert all(line.msg.isprintable() for line in found.ignored)
    except Error as error:
        assert error.kind == Kind.INVALID_CONFIG
        assert error.msg.startswith("annotation k8s.v1.cni.cncf.io/networks: ")
        assert error.msg.isprintable()


@given(st.lists(elements | json_values, max_size=3) | json_values)
def test_any_json_is_read_or_refused(value: object) -> None:
    check(json.dumps(value))


@given(st.text(max_size=40) | st.text(alphabet='ab/@, .[{"}]:-_%\n\x00', max_size=30))
@example("[" * 2000)
@example('[{"name":' * 1500)
@example('[{"name":"n","bandwidth":{"ingressRate":' + "9" * 5000 + "}}]")
@example('[{"name":"\ud800"}]')
def test_any_text_is_read_or_refused(text: str) -> None:
    check(text)


@given(json_values)
def test_annotation_that_is_no_text_is_refused(value: object) -> None:
    if not isinstance(value, str):
        with pytest.raises(Error, match="expected a string"):
            parse(value, namespace="p")

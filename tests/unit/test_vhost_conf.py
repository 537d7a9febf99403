"""The vhost-user configuration: accepted and rejected values, and error messages."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirespeed.cni.errors import Code, code_of
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.plugins.vhost import conf as configuration
from wirespeed.plugins.vhost.conf import Access, BandwidthKeys, MirrorKeys, VhostConf
from wirespeed.plugins.vhost.engine import port_name, short_id

OVS = {"engine": "ovs-dpdk", "iftype": "vhostuser"}
INFO_FILE = 'key "runtimeConfig.CNIDeviceInfoFile": expected '
MEMIF = {"engine": "vpp", "iftype": "memif", "netType": "bridge", "memif": {"role": "master"}}


def request(host: Any = OVS, **keys: Any) -> Request:
    config = {"cniVersion": "1.0.0", "name": "net", "type": "wirespeed-vhost", "host": host} | keys
    return Request(command="ADD", container_id="c", netns="/n", ifname="net1", config=config)


def parse(asked: Request) -> VhostConf:
    return configuration.parse(asked, Path("/devinfo"))


def refusal(host: Any = OVS, code: Code = Code.INVALID_CONFIG, **keys: Any) -> str:
    with pytest.raises(Error) as caught:
        parse(request(host, **keys))
    assert code_of(caught.value) == code
    assert caught.value.msg.startswith("network net: ")
    return caught.value.msg.removeprefix("network net: ")


@pytest.mark.parametrize("secret", ["pass word", 4711, ["pass word"], {"pass word": 4711}, "pass word" * 10])
def test_wrong_secret_is_not_shown(secret: Any) -> None:
    said = refusal({**MEMIF, "memif": {"role": "master", "secret": secret}})
    assert said.startswith('key "host.memif.secret": expected at most 24 printable')
    assert not re.search("pass|word|4711", said)


def test_engine_and_type_alone_are_a_client_port_of_br0() -> None:
    conf = parse(request())
    assert (conf.engine, conf.kind, conf.role, conf.app_role) == ("ovs-dpdk", "vhostuser", "client", "server")
    assert (conf.bridge, conf.create, conf.vlan, conf.trunk) == ("br0", False, None, ())
    assert (conf.annotate, conf.userspace_cni, conf.queues, conf.mtu) == (False, False, 1, None)


def test_every_key_reaches_its_setting() -> None:
    conf = parse(
        request(
            {
                **OVS,
                "netType": "bridge",
                "vhost": {"mode": "server", "socketfile": "s.sock", "group": 7},
                "bridge": {"bridgeName": "br-x", "create": True, "vlanId": 3, "trunk": [9, 5, 5]},
                "mtu": 9000,
                "queues": 4,
            },
            mac="02-00-00-00-00-0A",
            sharedDir="/run/pods/",
            bandwidth={"ingressRate": 1000, "ingressBurst": 10, "egressRate": 2000, "egressBurst": 20},
            mirror={"from": ["a", "b"], "direction": "out"},
            socket={"user": "0", "mode": "0660", "selinuxLabel": "system_u:object_r:container_file_t:s0:c1,c2"},
            annotate=True,
            runtimeConfig={"CNIDeviceInfoFile": "/devinfo/cni/info"},
        )
    )
    assert (conf.role, conf.app_role, conf.socket_file) == ("server", "client", "s.sock")
    assert (conf.bridge, conf.create, conf.vlan, conf.trunk) == ("br-x", True, 3, (5, 9))
    assert (conf.mtu, conf.queues, conf.mac, conf.shared_dir) == (9000, 4, "02:00:00:00:00:0a", "/run/pods")
    assert conf.bandwidth == BandwidthKeys(ingress_rate=1000, ingress_burst=10, egress_rate=2000, egress_burst=20)
    assert conf.mirror == MirrorKeys(source=["a", "b"], direction="out")
    assert conf.access == Access(user=0, group=7, mode=0o660, label="system_u:object_r:container_file_t:s0:c1,c2")
    assert (conf.annotate, conf.device_info_file) == (True, "/devinfo/cni/info")


def test_memif_has_keys_of_its_own() -> None:
    memif = {"role": "slave", "mode": "ip", "ringSize": 256, "bufferSize": 4096, "secret": "x", "socketfile": "m"}
    conf = parse(request({**MEMIF, "memif": memif, "bridge": {"bridgeName": "12345"}, "queues": 2}))
    assert (conf.role, conf.app_role, conf.mode, conf.bridge) == ("slave", "master", "ip", "12345")
    assert (conf.ring_size, conf.buffer_size, conf.secret, conf.socket_file) == (256, 4096, "x", "m")


def test_keys_are_read_in_any_case_as_the_peer_does() -> None:
    bridge = {"VLANID": 7, "vlanId": None}
    conf = parse(request({"Engine": "ovs-dpdk", "IFTYPE": "vhostuser", "Bridge": bridge}))
    assert conf.vlan == 7


@pytest.mark.parametrize(
    ("host", "text"),
    [
        (None, 'key "host" is missing'),
        ([], 'key "host": expected an object, got []'),
        ({"iftype": "vhostuser"}, 'key "host.engine" is missing: expected "ovs-dpdk" or "vpp" or "none"'),
        ({"engine": "ovs", "iftype": "vhostuser"}, 'key "host.engine": expected "ovs-dpdk" or "vpp" or "none"'),
        ({"engine": "ovs-dpdk"}, 'key "host.iftype" is missing: expected "vhostuser" with engine ovs-dpdk'),
        ({"engine": "ovs-dpdk", "iftype": "memif"}, 'key "host.iftype": expected "vhostuser" with engine ovs-dpdk'),
        ({**OVS, "netType": "interface"}, 'key "host.netType": expected "bridge" with engine ovs-dpdk'),
        (
            {**MEMIF, "netType": ""},
            'key "host.netType" is missing: expected "bridge" or "interface" with engine vpp',
        ),
        ({**MEMIF, "netType": "x"}, 'key "host.netType": expected "bridge" or "interface"'),
        ({**MEMIF, "memif": {}}, 'key "host.memif.role" is missing: expected "master" or "slave"'),
        ({**MEMIF, "iftype": ""}, 'key "host.iftype" is missing'),
        (MEMIF, 'key "host.bridge.bridgeName": expected the number of a bridge domain, 1 to 16777215, got None'),
        ({**MEMIF, "bridge": {"bridgeName": "br0"}}, 'key "host.bridge.bridgeName": expected the number'),
        ({**MEMIF, "bridge": {"bridgeId": 1 << 24}}, 'key "host.bridge.bridgeName": expected the number'),
        (
            {**OVS, "bridge": {"bridgeName": "a/b"}},
            'key "host.bridge.bridgeName": expected the name of',
        ),
        (
            {**OVS, "bridge": {"bridgeName": "0123456789abcdef"}},
            'key "host.bridge.bridgeName": expected the name of',
        ),
        ({**OVS, "bridge": {"vlanId": 4095}}, 'key "host.bridge.vlanId": expected an integer from 0 to 4094'),
        ({**OVS, "bridge": {"trunk": [0]}}, 'key "host.bridge.trunk": expected a list of VLANs from 1 to 4094'),
        ({**OVS, "bridge": {"create": "yes"}}, 'key "host.bridge.create": expected true or false'),
        ({**OVS, "vhost": {"mode": "Server"}}, 'key "host.vhost.mode": expected "client" or "server"'),
        ({**OVS, "vhost": {"socketfile": "../x"}}, 'key "host.vhost.socketfile": expected a file name'),
        ({**OVS, "vhost": {"socketfile": "a,b"}}, 'key "host.vhost.socketfile": expected a file name'),
        ({**OVS, "vhost": {"group": "no-such-group"}}, 'key "host.vhost.group": expected a number, or a name'),
        ({**OVS, "mtu": 67}, 'key "host.mtu": expected an integer from 68 to 65535, got 67'),
        ({**OVS, "mtu": True}, 'key "host.mtu": expected an integer'),
        ({**OVS, "queues": 0}, 'key "host.queues": expected an integer from 1 to 255'),
        (
            {**MEMIF, "memif": {"role": "master", "ringSize": 100}},
            'key "host.memif.ringSize": expected a power of 2',
        ),
        (
            {**MEMIF, "memif": {"role": "master", "secret": "a,b"}},
            'key "host.memif.secret": expected at most 24 printable',
        ),
        (
            {**MEMIF, "memif": {"role": "master", "secret": "x" * 25}},
            'key "host.memif.secret": expected at most 24',
        ),
    ],
)
def test_a_wrong_host_part_is_named(host: Any, text: str) -> None:
    assert refusal(host).startswith(text)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"sharedDir": "run"}, 'key "sharedDir": expected an absolute path'),
        ({"sharedDir": "/run/../etc"}, 'key "sharedDir": expected an absolute path'),
        ({"sharedDir": "/run/a,b"}, 'key "sharedDir": expected an absolute path'),
        ({"mac": "01:00:00:00:00:01"}, 'key "mac": expected a unicast MAC address'),
        ({"socket": {"mode": "660x"}}, 'key "socket.mode": expected octal digits'),
        ({"socket": {"user": -1}}, 'key "socket.user": expected a name or a number'),
        ({"socket": {"selinuxLabel": "a b"}}, 'key "socket.selinuxLabel": expected an SELinux label'),
        ({"bandwidth": {"ingressBurst": 1}}, 'key "bandwidth.ingressBurst": it needs "ingressRate"'),
        ({"bandwidth": {"egressRate": -1}}, 'key "bandwidth.egressRate": expected an integer'),
        ({"mirror": {}, "bandwidth": []}, 'key "bandwidth": expected an object'),
        ({"mirror": []}, 'key "mirror": expected an object, got []'),
        ({"mirror": {"to": "a", "from": "all"}}, 'key "mirror": expected either the key "to" or the key "from"'),
        ({"mirror": {"from": "a"}}, 'key "mirror.from": expected "all" or a list of ports'),
        ({"mirror": {"from": "all", "direction": "in"}}, 'key "mirror.direction": expected "both" with "from"'),
        ({"mirror": {"to": "a", "direction": "x"}}, 'key "mirror.direction": expected "in", "out" or "both"'),
        ({"ipam": {"type": "dhcp"}}, 'key "ipam.type": expected an IPAM that needs no interface'),
        (
            {"container": {"vhost": {"mode": "client"}}},
            'key "container.vhost.mode": the switch is already the client',
        ),
        ({"annotate": "yes"}, 'key "annotate": expected true or false'),
        ({"runtimeConfig": {"CNIDeviceInfoFile": 1}}, INFO_FILE + "an absolute path, got 1"),
        ({"runtimeConfig": {"CNIDeviceInfoFile": "/etc/passwd"}}, INFO_FILE + "a file in /devinfo, got"),
        ({"runtimeConfig": {"CNIDeviceInfoFile": "/devinfo/../etc/passwd"}}, INFO_FILE + "an absolute path, got"),
    ],
)
def test_a_wrong_key_is_named(keys: dict[str, Any], text: str) -> None:
    assert refusal(**keys).startswith(text)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"hosts": {}}, 'unknown key "hosts"; did you mean "host"?'),
        ({"host": {**OVS, "ifType2": 1}}, 'unknown key "host.ifType2"; did you mean "iftype"?'),
        ({"host": {**OVS, "bridge": {"vlan": 1}}}, 'unknown key "host.bridge.vlan"; did you mean "vlanId"?'),
        ({"socket": {"owner": 1}}, 'unknown key "socket.owner"'),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(keys: dict[str, Any], text: str) -> None:
    assert refusal(keys.pop("host", OVS), **keys).startswith(text)


def test_unknown_keys_of_the_peers_configurations_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    parse(request({**OVS, "bridge": {"vlan": 1}}, type="userspace", logLevel="debug", kubeconfig="/k"))
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        'network net: unknown key "host.bridge.vlan": it has no effect; did you mean "vlanId"?'
    ]


def test_what_an_engine_does_not_do_is_refused() -> None:
    bridge = {"bridgeName": "4", "vlanId": 3}
    text = refusal({**MEMIF, "bridge": bridge}, Code.UNSUPPORTED_FIELD)
    assert text == 'key "host.bridge.vlanId": it has no effect with engine vpp and iftype memif'
    assert "bandwidth" in refusal({**MEMIF}, Code.UNSUPPORTED_FIELD, bandwidth={"egressRate": 1})
    asked = {"bandwidth": {"egressRate": 1}}
    assert "runtimeConfig.bandwidth" in refusal({**MEMIF}, Code.UNSUPPORTED_FIELD, runtimeConfig=asked)
    assert "host.memif.role" in refusal({**OVS, "memif": {"role": "master"}}, Code.UNSUPPORTED_FIELD)
    direct = {"engine": "none", "iftype": "memif"}
    assert "host.bridge" in refusal({**direct, "bridge": {"bridgeName": "br0"}}, Code.UNSUPPORTED_FIELD)


# userspace-CNI's rules for its own type


def peer(host: dict[str, Any], container: dict[str, Any] | None = None) -> VhostConf:
    return parse(request(host, type="userspace", **({"container": container} if container else {})))


@pytest.mark.parametrize(
    ("mode", "role", "app_role"),
    [("client", "client", "server"), ("server", "server", "client"), ("", "server", "client")],
)
def test_the_peers_application_is_the_counterpart_of_its_host(mode: str, role: str, app_role: str) -> None:
    conf = peer({**OVS, "vhost": {"mode": mode}})
    assert (conf.role, conf.app_role, conf.create, conf.annotate) == (role, app_role, True, True)


def test_the_peers_container_keeps_a_mode_that_it_is_given(caplog: pytest.LogCaptureFixture) -> None:
    conf = peer({**OVS, "vhost": {"mode": "server"}}, {"vhost": {"mode": "server"}})
    assert (conf.role, conf.app_role) == ("server", "server")
    assert "nothing will connect them" in caplog.text


SOCKET = "/var/run/a.sock"  # no file name


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ({**MEMIF, "bridge": {"bridgeId": 4}, "vhost": {"socketfile": SOCKET}}, "host.vhost.socketfile"),
        ({**MEMIF, "bridge": {"bridgeId": 4, "vlanId": "7"}}, "host.bridge.vlanId"),
        ({**OVS, "memif": {"socketfile": SOCKET}}, "host.memif.socketfile"),
        ({**OVS, "memif": {"bufferSize": "2k"}}, "host.memif.bufferSize"),
        ({**OVS, "bridge": {"bridgeId": 4.5}}, "host.bridge.bridgeId"),
        ({**MEMIF, "netType": "interface", "bridge": {"create": "yes"}}, "host.bridge.create"),
        ({**MEMIF, "netType": "interface", "bridge": {"bridgeName": 4.5}}, "host.bridge.bridgeName"),
        ({"engine": "none", "iftype": "memif", "bridge": {"create": "yes"}}, "host.bridge"),
    ],
)
def test_the_peers_values_without_effect_are_warned_of_and_not_checked(
    host: dict[str, Any], key: str, caplog: pytest.LogCaptureFixture
) -> None:
    conf = peer(host)
    assert (conf.socket_file, conf.buffer_size, conf.vlan) == ("", 2048, None)
    (warning,) = [record.message for record in caplog.records]
    assert warning.startswith(f'network net: key "{key}": it has no effect with ')


def test_the_peers_empty_values_without_effect_are_not_checked(caplog: pytest.LogCaptureFixture) -> None:
    peer({**MEMIF, "bridge": {"bridgeId": 4, "vlanId": "", "trunk": ""}, "vhost": {"mode": [], "socketfile": 0}})
    parse(request({**MEMIF, "bridge": {"bridgeId": 4}}, type="userspace", bandwidth="", mirror=0))
    assert caplog.records == []


def test_the_peers_limits_of_the_runtime_without_effect_are_not_checked(caplog: pytest.LogCaptureFixture) -> None:
    runtime = {"bandwidth": {"ingressRate": "1G"}}
    conf = parse(request({**MEMIF, "bridge": {"bridgeId": 4}}, type="userspace", runtimeConfig=runtime))
    assert conf.bandwidth == BandwidthKeys()
    assert 'key "runtimeConfig.bandwidth": it has no effect with engine vpp and iftype memif' in caplog.text


@pytest.mark.parametrize("kind", ["userspace", "wirespeed-vhost"])
def test_limits_that_the_runtime_replaces_are_not_checked(kind: str) -> None:
    configured, runtime = {"ingressRate": "1G", "rate": 1}, {"bandwidth": {"egressRate": 1000}}
    conf = parse(request(type=kind, bandwidth=configured, runtimeConfig=runtime))
    assert conf.bandwidth == BandwidthKeys(egress_rate=1000)


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ({**MEMIF, "vhost": {"socketfile": SOCKET}}, 'key "host.vhost.socketfile": expected a file name'),
        ({**OVS, "memif": {"socketfile": SOCKET}}, 'key "host.memif.socketfile": expected a file name'),
        ({**OVS, "bridge": {"bridgeId": 4.5}}, 'key "host.bridge.bridgeId": expected a number'),
        ({**MEMIF, "netType": "interface", "bridge": {"create": "yes"}}, 'key "host.bridge.create": expected true'),
    ],
)
def test_our_own_values_are_checked_without_effect_too(host: dict[str, Any], text: str) -> None:
    assert refusal(host).startswith(text)


@pytest.mark.parametrize(("role", "app_role"), [("master", "slave"), ("slave", "master")])
def test_the_peers_memif_roles(role: str, app_role: str) -> None:
    conf = peer({**MEMIF, "memif": {"role": role}, "bridge": {"bridgeId": 4}})
    assert (conf.role, conf.app_role, conf.bridge) == (role, app_role, "4")


def test_without_a_switch_the_application_has_the_role_that_it_is_given_or_that_is_left() -> None:
    direct = {"engine": "none", "iftype": "memif"}
    assert (parse(request(direct)).role, parse(request(direct)).app_role) == ("", "")
    given_role = parse(request(direct, container={"memif": {"role": "slave"}}))
    assert (given_role.role, given_role.app_role) == ("", "slave")
    assert "engine none has no switch" in refusal({**direct, "memif": {"role": "master"}})


def test_a_mirror_of_everything() -> None:
    assert parse(request(mirror={"from": "all"})).mirror == MirrorKeys(source="all")


def test_the_runtimes_mac_wins_over_the_arguments_and_these_over_the_configuration() -> None:
    asked = request(mac="02:00:00:00:00:03").derive(args={"MAC": "02:00:00:00:00:02"})
    assert parse(asked).mac == "02:00:00:00:00:02"
    runtime = {**asked.config, "runtimeConfig": {"mac": "02:00:00:00:00:01"}}
    assert parse(asked.derive(config=runtime)).mac == "02:00:00:00:00:01"


def test_arguments_for_other_plugins_are_passed_over() -> None:
    theirs = {"K8S_POD_NAME": "p", "FOO": "bar"}
    for args in (theirs, theirs | {"IgnoreUnknown": "0"}, theirs | {"IgnoreUnknown": "1"}):
        assert parse(request().derive(args=args)) == parse(request())


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
_HOST = st.dictionaries(
    st.sampled_from(["engine", "iftype", "netType", "memif", "vhost", "bridge", "mtu", "queues"]),
    _JSON | st.sampled_from(["ovs-dpdk", "vpp", "none", "vhostuser", "memif", "bridge", "interface"]),
)


@given(
    host=_HOST | _JSON,
    keys=st.dictionaries(
        st.sampled_from(["container", "socket", "mirror", "bandwidth", "sharedDir", "mac"]), _JSON
    ),
    kind=st.sampled_from(["wirespeed-vhost", "userspace"]),
)
def test_whatever_a_configuration_holds_it_is_read_or_refused(host: Any, keys: dict[str, Any], kind: str) -> None:
    try:
        parse(request(host, type=kind, **keys))
    except Error as error:
        assert error.kind in {Kind.INVALID_CONFIG, Kind.UNSUPPORTED}


# Names


@pytest.mark.parametrize(
    ("container", "short"),
    [
        ("037ecb6703b0dc7b5da5029bc4c15c4ad51f0b872a5710032598ccf50dd258bf", "037ecb6703b0"),
        ("c1", "c1"),
        ("abc", "abc"),
    ],
)
def test_a_containers_short_id(container: str, short: str) -> None:
    assert short_id(container) == short
    assert port_name(container, "net1") == f"{short}-net1"


@given(
    pairs=st.lists(
        st.tuples(
            st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]{0,20}", fullmatch=True),
            st.from_regex(r"[^/:%\s]{1,15}", fullmatch=True),
        ),
        min_size=2,
        max_size=2,
        unique=True,
    )
)
def test_two_attachments_never_share_a_name(pairs: list[tuple[str, str]]) -> None:
    first, second = (port_name(*pair) for pair in pairs)
    assert first != second
    assert all(
        len(name) <= 28 and name.isascii() and "/" not in name and "," not in name for name in (first, second)
    )

"""Rejected environments, configurations and IPAM configurations: code and message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wirespeed.cni import chain
from wirespeed.cni.dispatch import answer
from wirespeed.cni.errors import Code, code_of
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.errors import Error
from wirespeed.ipam import Ipam

ENVIRON = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/var/run/netns/pod",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
}
CONFIG: dict[str, Any] = {"cniVersion": "1.1.0", "name": "net", "type": "probe"}
VERSION = 'key "cniVersion"'
VERSIONS = "0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"
NAME = "letters, digits, _ . - after a letter or digit"

NO_ENVIRONMENT = int(Code.INVALID_ENVIRONMENT)
NO_JSON = int(Code.DECODING_FAILURE)
NO_CONFIG = int(Code.INVALID_CONFIG)
NO_VERSION = int(Code.INCOMPATIBLE_VERSION)


class Untouchable:
    """A plugin that no rejected call may reach."""

    def add(self, request: Request) -> Result:
        raise AssertionError(request)

    def delete(self, request: Request) -> None:
        raise AssertionError(request)

    check = gc = status = delete


def refusal(environ: dict[str, str], stdin: bytes) -> tuple[int, str]:
    exit_code, stdout = answer(Untouchable, environ, stdin)
    assert exit_code == 1
    error = json.loads(stdout)
    assert "\n" not in error["msg"]
    return error["code"], error["msg"]


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"CNI_COMMAND": None}, 4, "CNI_COMMAND: expected one of ADD, DEL, CHECK, GC, STATUS, VERSION, got ''"),
        ({"CNI_COMMAND": "add"}, 4, "CNI_COMMAND: expected one of ADD, DEL, CHECK, GC, STATUS, VERSION, got 'add'"),
        ({"CNI_CONTAINERID": None}, 4, "ADD: missing environment variables: CNI_CONTAINERID"),
        ({"CNI_NETNS": None}, 4, "ADD: missing environment variables: CNI_NETNS"),
        ({"CNI_NETNS": "", "CNI_COMMAND": "CHECK"}, 4, "CHECK: missing environment variables: CNI_NETNS"),
        ({"CNI_IFNAME": ""}, 4, "ADD: missing environment variables: CNI_IFNAME"),
        ({"CNI_PATH": None, "CNI_IFNAME": None}, 4, "ADD: missing environment variables: CNI_IFNAME, CNI_PATH"),
        (
            {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "", "CNI_NETNS": ""},
            4,
            "DEL: missing environment variables: CNI_CONTAINERID",
        ),
        ({"CNI_COMMAND": "GC", "CNI_PATH": ""}, 4, "GC: missing environment variables: CNI_PATH"),
        ({"CNI_COMMAND": "STATUS", "CNI_PATH": ""}, 4, "STATUS: missing environment variables: CNI_PATH"),
        ({"CNI_CONTAINERID": "-c"}, 4, f"CNI_CONTAINERID: expected {NAME}, got '-c'"),
        ({"CNI_CONTAINERID": "../c"}, 4, f"CNI_CONTAINERID: expected {NAME}, got '../c'"),
        ({"CNI_CONTAINERID": "c1\n"}, 4, f"CNI_CONTAINERID: expected {NAME}, got 'c1\\n'"),
        ({"CNI_CONTAINERID": "ć1"}, 4, f"CNI_CONTAINERID: expected {NAME}, got 'ć1'"),
        ({"CNI_IFNAME": "sixteen-letters-"}, 4, "CNI_IFNAME: expected at most 15 bytes, got 'sixteen-letters-'"),
        ({"CNI_IFNAME": "éééééééé"}, 4, "CNI_IFNAME: expected at most 15 bytes, got 'éééééééé'"),
        ({"CNI_IFNAME": ".."}, 4, "CNI_IFNAME: expected a name, got '..'"),
        ({"CNI_IFNAME": "."}, 4, "CNI_IFNAME: expected a name, got '.'"),
        ({"CNI_IFNAME": "a/b"}, 4, "CNI_IFNAME: expected no / : % or whitespace, got 'a/b'"),
        ({"CNI_IFNAME": "eth0:1"}, 4, "CNI_IFNAME: expected no / : % or whitespace, got 'eth0:1'"),
        ({"CNI_IFNAME": "eth 0"}, 4, "CNI_IFNAME: expected no / : % or whitespace, got 'eth 0'"),
        ({"CNI_IFNAME": "eth%d"}, 4, "CNI_IFNAME: expected no / : % or whitespace, got 'eth%d'"),
        ({"CNI_IFNAME": "e\udc80"}, 4, "CNI_IFNAME: expected no / : % or whitespace, got 'e\\udc80'"),
        ({"CNI_NETNS": "netns/pod"}, 4, "CNI_NETNS: expected an absolute path, got 'netns/pod'"),
        ({"CNI_NETNS": "/run\n"}, 4, "CNI_NETNS: expected printable text, got '/run\\n'"),
        ({"CNI_NETNS": "/run/\udcff"}, 4, "CNI_NETNS: expected printable text, got '/run/\\udcff'"),
        ({"CNI_PATH": "/opt/cni/bin:bin"}, 4, "CNI_PATH: expected absolute paths separated by :, got 'bin'"),
        ({"CNI_ARGS": "A=1;B"}, 4, "CNI_ARGS: expected KEY=VALUE pairs separated by ;, got 'B'"),
        ({"CNI_ARGS": "=1"}, 4, "CNI_ARGS: expected KEY=VALUE pairs separated by ;, got '=1'"),
        ({"CNI_ARGS": "A=1;;B=2"}, 4, "CNI_ARGS: expected KEY=VALUE pairs separated by ;, got ''"),
        ({"CNI_ARGS": ";"}, 4, "CNI_ARGS: expected KEY=VALUE pairs separated by ;, got ''"),
        ({"CNI_ARGS": "A=1;A=2"}, 4, "CNI_ARGS: 'A' is given twice"),
        (
            {"CNI_NETNS": "/proc/self/ns/net"},
            4,
            "CNI_NETNS: expected the container's network namespace, not the node's own, got '/proc/self/ns/net'",
        ),
    ],
)
def test_environment_is_refused(change: dict[str, str | None], code: int, message: str) -> None:
    environ = {key: value for key, value in (ENVIRON | change).items() if value is not None}
    assert refusal(environ, json.dumps(CONFIG).encode()) == (code, message)


@pytest.mark.parametrize(
    ("stdin", "code", "message"),
    [
        (b"[]", NO_JSON, "standard input: expected a JSON object, got []"),
        (b"null", NO_JSON, "standard input: expected a JSON object, got None"),
        (b'"x"', NO_JSON, "standard input: expected a JSON object, got 'x'"),
        (b" " * (1 << 20) + b"{}", NO_JSON, "standard input: expected at most 1048576 bytes, got 1048578"),
    ],
)
def test_standard_input_is_refused(stdin: bytes, code: int, message: str) -> None:
    assert refusal(ENVIRON, stdin) == (code, message)


@pytest.mark.parametrize("stdin", [b"", b"{", b'{"a":}', b'{"a":NaN}', b"\xff", b'{"a":' * 100_000])
def test_what_is_no_json_is_refused_with_the_place_of_the_fault(stdin: bytes) -> None:
    code, message = refusal(ENVIRON, stdin)
    assert code == NO_JSON
    assert message.startswith("standard input: not JSON: ")


@pytest.mark.parametrize(
    ("command", "change", "code", "message"),
    [
        ("ADD", {"name": None}, NO_CONFIG, 'key "name" is missing: expected the name of the network'),
        ("ADD", {"name": ""}, NO_CONFIG, 'key "name" is missing: expected the name of the network'),
        ("ADD", {"name": "../etc"}, NO_CONFIG, f"key \"name\": expected {NAME}, got '../etc'"),
        ("ADD", {"name": "net\n"}, NO_CONFIG, f"key \"name\": expected {NAME}, got 'net\\n'"),
        ("DEL", {"name": 7}, NO_CONFIG, f'key "name": expected {NAME}, got 7'),
        (
            "ADD",
            {"cniVersion": "0.5.0"},
            NO_VERSION,
            f"key \"cniVersion\": expected one of {VERSIONS}, got '0.5.0'",
        ),
        (
            "DEL",
            {"cniVersion": "2.0.0"},
            NO_VERSION,
            f"key \"cniVersion\": expected one of {VERSIONS}, got '2.0.0'",
        ),
        ("ADD", {"cniVersion": 1.0}, NO_VERSION, f'key "cniVersion": expected one of {VERSIONS}, got 1.0'),
        (
            "CHECK",
            {"cniVersion": "0.3.1"},
            NO_VERSION,
            "key \"cniVersion\": expected 0.4.0 or newer for CHECK, got '0.3.1'",
        ),
        (
            "CHECK",
            {"cniVersion": None},
            NO_VERSION,
            "key \"cniVersion\": expected 0.4.0 or newer for CHECK, got '0.1.0'",
        ),
        (
            "STATUS",
            {"cniVersion": "1.0.0"},
            NO_VERSION,
            "key \"cniVersion\": expected 1.1.0 or newer for STATUS, got '1.0.0'",
        ),
        (
            "GC",
            {"cniVersion": "1.0.0"},
            NO_VERSION,
            "key \"cniVersion\": expected 1.1.0 or newer for GC, got '1.0.0'",
        ),
        (
            "GC",
            {},
            NO_CONFIG,
            'key "cni.dev/valid-attachments" is missing: expected the list of attachments to keep',
        ),
        (
            "GC",
            {"cni.dev/valid-attachments": {}},
            NO_CONFIG,
            'key "cni.dev/valid-attachments": expected a list, got {}',
        ),
        (
            "GC",
            {"cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}, {"containerID": "a"}]},
            NO_CONFIG,
            'key "cni.dev/valid-attachments[1]": expected an object with containerID and ifname, '
            "got {'containerID': 'a'}",
        ),
    ],
)
def test_configuration_is_refused(command: str, change: dict[str, Any], code: int, message: str) -> None:
    config = {key: value for key, value in (CONFIG | change).items() if value is not None}
    assert refusal(ENVIRON | {"CNI_COMMAND": command}, json.dumps(config).encode()) == (code, message)


def network_without(*keys: str, **changes: object) -> dict[str, Any]:
    raw = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}], **changes}
    return {key: value for key, value in raw.items() if key not in keys}


@pytest.mark.parametrize(
    ("raw", "code", "message"),
    [
        ([], NO_CONFIG, "network without a name: expected an object, got []"),
        (
            network_without("name"),
            NO_CONFIG,
            'network without a name: key "name" is missing: expected the name of the network',
        ),
        (network_without(name="a/b"), NO_CONFIG, f"network a/b: key \"name\": expected {NAME}, got 'a/b'"),
        (
            network_without(cniVersion="0.5.0"),
            NO_VERSION,
            f"network net: key \"cniVersion\": expected one of {VERSIONS}, got '0.5.0'",
        ),
        (
            network_without(cniVersions="1.0.0"),
            NO_CONFIG,
            "network net: key \"cniVersions\": expected a list of versions, got '1.0.0'",
        ),
        (
            network_without(cniVersion="9.0.0", cniVersions=["9.1.0"]),
            NO_VERSION,
            f"network net: key \"cniVersions\": expected one of {VERSIONS}, got ['9.1.0', '9.0.0']",
        ),
        (network_without("plugins"), NO_CONFIG, 'network net: expected the key "type" or the key "plugins"'),
        (
            network_without(plugins=[]),
            NO_CONFIG,
            'network net: key "plugins": expected a list of plugin configurations, got []',
        ),
        (
            network_without(plugins={"type": "bridge"}),
            NO_CONFIG,
            "network net: key \"plugins\": expected a list of plugin configurations, got {'type': 'bridge'}",
        ),
        (
            network_without(plugins=["bridge"]),
            NO_CONFIG,
            "network net: key \"plugins[0]\": expected an object, got 'bridge'",
        ),
        (
            network_without(plugins=[{"type": "bridge"}, {}]),
            NO_CONFIG,
            'network net: key "plugins[1].type" is missing: expected the name of a plugin',
        ),
        (
            network_without(plugins=[{"type": "../../bin/sh"}]),
            NO_CONFIG,
            "network net: key \"plugins[0].type\": expected the name of a plugin, no path, got '../../bin/sh'",
        ),
        (
            {"cniVersion": "1.0.0", "name": "net", "type": ".."},
            NO_CONFIG,
            "network net: key \"type\": expected the name of a plugin, no path, got '..'",
        ),
        (
            network_without(plugins=[{"type": "bridge", "capabilities": ["mac"]}]),
            NO_CONFIG,
            "network net: key \"plugins[0].capabilities\": expected an object of true and false, got ['mac']",
        ),
        (
            network_without(plugins=[{"type": "bridge", "capabilities": {"mac": 1}}]),
            NO_CONFIG,
            "network net: key \"plugins[0].capabilities\": expected an object of true and false, got {'mac': 1}",
        ),
        (
            network_without(disableCheck="yes"),
            NO_CONFIG,
            "network net: key \"disableCheck\": expected true or false, got 'yes'",
        ),
        (network_without(disableGC=1), NO_CONFIG, 'network net: key "disableGC": expected true or false, got 1'),
    ],
)
def test_network_is_refused(raw: object, code: int, message: str) -> None:
    with pytest.raises(Error) as refused:
        chain.load_network(raw)
    assert (code_of(refused.value), refused.value.msg) == (code, message)


SUBNET = {"subnet": "10.1.2.0/24"}


@pytest.mark.parametrize(
    ("ipam", "message"),
    [
        ({}, 'key "ipam": expected the key "subnet" or "ranges"'),
        (
            {"subnet": "10.1.2.0"},
            "key \"ipam.subnet\": expected a network with prefix length, got '10.1.2.0'",
        ),
        (
            {"subnet": "10.1.2.0/255.255.255.0"},
            "key \"ipam.subnet\": expected a network with prefix length, got '10.1.2.0/255.255.255.0'",
        ),
        (
            {"subnet": "10.1.2.7/24"},
            "key \"ipam.subnet\": expected the network's own address, 10.1.2.0/24, got '10.1.2.7/24'",
        ),
        (
            {"subnet": "10.1.2.0/31"},
            "key \"ipam.subnet\": expected a network of at most /30, to have addresses to give, got '10.1.2.0/31'",
        ),
        (
            {"subnet": "fd00::/127"},
            "key \"ipam.subnet\": expected a network of at most /126, to have addresses to give, got 'fd00::/127'",
        ),
        (
            SUBNET | {"rangeStart": "10.1.3.4"},
            "key \"ipam.rangeStart\": expected an address of 10.1.2.0/24, got '10.1.3.4'",
        ),
        (
            SUBNET | {"rangeStart": "10.1.2"},
            "key \"ipam.rangeStart\": expected an IP address, got '10.1.2'",
        ),
        (
            SUBNET | {"rangeEnd": "fd00::1"},
            "key \"ipam.rangeEnd\": expected an address of 10.1.2.0/24, got 'fd00::1'",
        ),
        (
            SUBNET | {"rangeStart": "10.1.2.50", "rangeEnd": "10.1.2.40"},
            "key \"ipam.rangeEnd\": expected an address from 10.1.2.50 to 10.1.2.254, got '10.1.2.40'",
        ),
        (
            SUBNET | {"gateway": "10.1.3"},
            "key \"ipam.gateway\": expected an IP address, got '10.1.3'",
        ),
        (
            {"ranges": [SUBNET]},
            "key \"ipam.ranges[0]\": expected a list of at least 1 element, got {'subnet': '10.1.2.0/24'}",
        ),
        ({"ranges": [[]]}, 'key "ipam.ranges[0]": expected a list of at least 1 element, got []'),
        (
            {"ranges": SUBNET},
            "key \"ipam.ranges\": expected a list, got {'subnet': '10.1.2.0/24'}",
        ),
        ({"ranges": [["10.1.2.0/24"]]}, "key \"ipam.ranges[0][0]\": expected an object, got '10.1.2.0/24'"),
        (
            {"ranges": [[{"subnet": None}]]},
            'key "ipam.ranges[0][0].subnet" is missing: expected a network with prefix length',
        ),
        (
            {"ranges": [[SUBNET, {"subnet": "fd00::/64"}]]},
            'key "ipam.ranges[0]": expected ranges of one family, IPv4 or IPv6, '
            "got '10.1.2.1-10.1.2.254, fd00::1-fd00::ffff:ffff:ffff:ffff'",
        ),
        (
            {"ranges": [[SUBNET], [{"subnet": "10.1.2.128/25"}]]},
            'key "ipam": range 10.1.2.1-10.1.2.254 overlaps with 10.1.2.129-10.1.2.254',
        ),
        (
            {"ranges": [[SUBNET, SUBNET]]},
            'key "ipam": range 10.1.2.1-10.1.2.254 overlaps with 10.1.2.1-10.1.2.254',
        ),
        (SUBNET | {"routes": {}}, 'key "ipam.routes": expected a list, got {}'),
        (
            SUBNET | {"routes": [{"dst": "0.0.0.0"}]},
            "key \"ipam.routes[0].dst\": expected an address with prefix length, got '0.0.0.0'",
        ),
        (
            SUBNET | {"routes": [{"dst": "0.0.0.0/0", "gw": "10.1.2.1/24"}]},
            "key \"ipam.routes[0].gw\": expected an IP address, got '10.1.2.1/24'",
        ),
        (SUBNET | {"dataDir": "leases"}, "key \"ipam.dataDir\": expected an absolute path, got 'leases'"),
        (
            SUBNET | {"resolvConf": "/nonexistent/resolv.conf"},
            'key "ipam.resolvConf": /nonexistent/resolv.conf: No such file or directory',
        ),
    ],
)
def test_host_local_configuration_is_refused(ipam: dict[str, Any], message: str, tmp_path: Path) -> None:
    request = Request(
        command="ADD", container_id="c1", ifname="eth0", config=CONFIG | {"ipam": {"type": "host-local", **ipam}}
    )
    with pytest.raises(Error) as refused:
        Ipam(tmp_path).add(request)
    assert (code_of(refused.value), refused.value.msg) == (NO_CONFIG, f"ipam host-local: {message}")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "args", "code", "message"),
    [
        (
            {"runtimeConfig": {"ips": "10.1.2.9"}},
            {},
            NO_CONFIG,
            "key \"runtimeConfig.ips\": expected a list of IP addresses, got '10.1.2.9'",
        ),
        (
            {"runtimeConfig": {"ips": ["10.1.2.300"]}},
            {},
            NO_CONFIG,
            "key \"runtimeConfig.ips[0]\": expected an IP address, got '10.1.2.300'",
        ),
        ({"runtimeConfig": []}, {}, NO_CONFIG, 'key "runtimeConfig": expected an object, got []'),
        ({"args": {"cni": 1}}, {}, NO_CONFIG, 'key "args.cni": expected an object, got 1'),
        (
            {"args": {"cni": {"ips": [7]}}},
            {},
            NO_CONFIG,
            'key "args.cni.ips[0]": expected an IP address, got 7',
        ),
        ({}, {"IP": "ten"}, NO_ENVIRONMENT, "CNI_ARGS IP: expected an IP address, got 'ten'"),
        (
            {},
            {"IP": "10.9.9.9"},
            NO_ENVIRONMENT,
            "CNI_ARGS IP: expected an address of 10.1.2.1-10.1.2.254, got '10.9.9.9'",
        ),
        (
            {"runtimeConfig": {"ips": ["10.1.2.1/24"]}},
            {},
            NO_CONFIG,
            "key \"runtimeConfig.ips[0]\": expected another address than the gateway's, got '10.1.2.1/24'",
        ),
        (
            {"runtimeConfig": {"ips": ["10.1.2.255"]}},
            {},
            NO_CONFIG,
            "key \"runtimeConfig.ips[0]\": expected an address of 10.1.2.1-10.1.2.254, got '10.1.2.255'",
        ),
        (
            {"runtimeConfig": {"ips": ["10.1.2.5", "10.1.2.6"]}},
            {},
            NO_CONFIG,
            "key \"runtimeConfig.ips[1]\": expected one address of 10.1.2.1-10.1.2.254, got '10.1.2.6'; "
            "'10.1.2.5' is requested too",
        ),
    ],
)
def test_requested_address_is_refused(
    change: dict[str, Any], args: dict[str, str], code: int, message: str, tmp_path: Path
) -> None:
    config = CONFIG | {"ipam": {"type": "host-local", **SUBNET}} | change
    request = Request(command="ADD", container_id="c1", ifname="eth0", args=args, config=config)
    with pytest.raises(Error) as refused:
        Ipam(tmp_path).add(request)
    assert (code_of(refused.value), refused.value.msg) == (code, f"ipam host-local: {message}")


@pytest.mark.parametrize(
    ("change", "args", "code", "message"),
    [
        ({"addresses": {}}, {}, NO_CONFIG, 'ipam static: key "ipam.addresses": expected a list, got {}'),
        (
            {"addresses": [{"address": "10.1.2"}]},
            {},
            NO_CONFIG,
            "ipam static: key \"ipam.addresses[0].address\": expected an address with prefix length, got '10.1.2'",
        ),
        (
            {"addresses": [{"address": "10.1.2.3/24", "gateway": "gw"}]},
            {},
            NO_CONFIG,
            "ipam static: key \"ipam.addresses[0].gateway\": expected an IP address, got 'gw'",
        ),
        (
            {"dns": {"nameservers": "10.0.0.53"}},
            {},
            NO_CONFIG,
            "ipam static: key \"ipam.dns.nameservers\": expected a list of strings, got '10.0.0.53'",
        ),
        (
            {},
            {"IP": "10.1.2.3"},
            NO_ENVIRONMENT,
            "ipam static: CNI_ARGS IP: expected an address with prefix length, got '10.1.2.3'",
        ),
        (
            {},
            {"GATEWAY": "nowhere"},
            NO_ENVIRONMENT,
            "ipam static: CNI_ARGS GATEWAY: expected an IP address, got 'nowhere'",
        ),
        ({"type": 4}, {}, NO_CONFIG, 'key "ipam.type": expected the name of a plugin, got 4'),
        (
            {"type": "../static"},
            {},
            NO_CONFIG,
            "ipam ../static: key \"type\": expected the name of a plugin, no path, got '../static'",
        ),
        (
            {"type": "dhcp"},
            {},
            NO_CONFIG,
            'ipam dhcp: no executable "dhcp" to be found: CNI_PATH is empty',
        ),
    ],
)
def test_static_and_other_types_are_refused(
    change: dict[str, Any], args: dict[str, str], code: int, message: str, tmp_path: Path
) -> None:
    config = CONFIG | {"ipam": {"type": "static"} | change}
    request = Request(command="ADD", container_id="c1", ifname="eth0", args=args, config=config)
    with pytest.raises(Error) as refused:
        Ipam(tmp_path).add(request)
    assert (code_of(refused.value), refused.value.msg) == (code, message)


def test_ipam_that_is_no_object_is_refused(tmp_path: Path) -> None:
    request = Request(command="ADD", container_id="c1", ifname="eth0", config=CONFIG | {"ipam": "host-local"})
    with pytest.raises(Error) as refused:
        Ipam(tmp_path).add(request)
    assert (code_of(refused.value), refused.value.msg) == (
        NO_CONFIG,
        "key \"ipam\": expected an object, got 'host-local'",
    )

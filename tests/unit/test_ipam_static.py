"""The static IPAM plugin in process, and executed IPAM plugins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wirespeed.cni.errors import code_of
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.ipam import Ipam

ADDRESSES = [{"address": "10.1.0.2/24", "gateway": "10.1.0.1"}, {"address": "fd00::2/64"}]


def request(ipam: dict[str, Any] | None, env: dict[str, str] | None = None, **more: Any) -> Request:
    config = {"cniVersion": "1.1.0", "name": "net", "type": "probe", "ipam": ipam, **more}
    return Request(command="ADD", container_id="c1", netns="/n", ifname="net1", args=env or {}, config=config)


@pytest.fixture
def ipam(tmp_path: Path) -> Ipam:
    return Ipam(tmp_path / "leases")


@pytest.mark.parametrize("absent", [None, {}, {"type": ""}])
def test_no_ipam_is_no_address(ipam: Ipam, absent: dict[str, Any] | None) -> None:
    call = request(absent)
    assert ipam.add(call) == {"ips": [], "routes": [], "dns": {}}
    ipam.check(call)
    ipam.delete(call)
    ipam.status(call)
    ipam.gc(call)


def test_configured_addresses_routes_and_dns_are_given(ipam: Ipam) -> None:
    routes = [{"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400}]
    dns = {"nameservers": ["10.0.0.53"], "search": ["local"]}
    call = request({"type": "static", "addresses": ADDRESSES, "routes": routes, "dns": dns})
    assert ipam.add(call) == {"ips": ADDRESSES, "routes": routes, "dns": dns}


def test_addresses_of_the_arguments_come_after_the_configured_ones(ipam: Ipam) -> None:
    args = {"IP": "10.9.0.2/24, fd01::2/64", "GATEWAY": "10.9.0.1,fd01::1,10.1.0.254"}
    call = request({"type": "static", "addresses": ADDRESSES}, args)
    assert ipam.add(call)["ips"] == [
        *ADDRESSES,  # these have gateways of their own
        {"address": "10.9.0.2/24", "gateway": "10.9.0.1"},
        {"address": "fd01::2/64", "gateway": "fd01::1"},
    ]


def test_addresses_of_the_runtime_replace_all_others(ipam: Ipam) -> None:
    conf = {"type": "static", "addresses": ADDRESSES}
    cni_args = {"cni": {"ips": ["10.2.0.2/24"]}}
    args = {"IP": "10.9.0.2/24"}
    assert ipam.add(request(conf, args, args=cni_args))["ips"] == [{"address": "10.2.0.2/24"}]
    runtime = {"ips": ["10.3.0.2/24"]}
    call = request(conf, args, args=cni_args, runtimeConfig=runtime)
    assert ipam.add(call)["ips"] == [{"address": "10.3.0.2/24"}]


def test_keys_are_read_in_any_case_as_the_reference_plugin_reads_them(ipam: Ipam) -> None:
    address = {"Address": "10.1.0.2/24", "GATEWAY": "10.1.0.1", "gateway": None}
    call = request({"type": "static", "Addresses": [address], "addresses": None})
    assert ipam.add(call)["ips"] == [{"address": "10.1.0.2/24", "gateway": "10.1.0.1"}]


def test_unknown_key_is_warned_of_with_the_nearest_known_one(ipam: Ipam, caplog: pytest.LogCaptureFixture) -> None:
    ipam.add(request({"type": "static", "adresses": []}))
    assert (
        'network net: unknown key "ipam.adresses": it has no effect; did you mean "addresses"?' in caplog.messages
    )


def test_static_keeps_nothing(ipam: Ipam, tmp_path: Path) -> None:
    call = request({"type": "static", "addresses": ADDRESSES})
    ipam.add(call)
    for verb in (ipam.check, ipam.status, ipam.gc, ipam.delete):
        verb(call)
    assert not (tmp_path / "leases").exists()


# Executed types


@pytest.fixture
def executed(tmp_path: Path) -> Path:
    """A directory with an IPAM plugin as a shell script that records verb and standard input."""
    answered = '{"cniVersion":"1.0.0","ips":[{"address":"10.4.0.2/24"}],"dns":{"domain":"d"},"interfaces":[]}'
    body = f"#!/bin/sh\ncat > {tmp_path}/$CNI_COMMAND\n[ $CNI_COMMAND = ADD ] && echo '{answered}'\nexit 0\n"
    (tmp_path / "own-ipam").write_text(body)
    (tmp_path / "own-ipam").chmod(0o755)
    return tmp_path


def test_other_type_is_executed_with_the_configuration_of_the_caller(ipam: Ipam, executed: Path) -> None:
    call = request({"type": "own-ipam", "pool": "x"}, bridge="br0").derive(path=(str(executed),))
    assert ipam.add(call) == {"ips": [{"address": "10.4.0.2/24"}], "routes": [], "dns": {"domain": "d"}}
    ipam.check(call)
    ipam.delete(call)
    ipam.gc(call)
    ipam.status(call)
    for verb in ("ADD", "CHECK", "DEL", "GC", "STATUS"):
        assert json.loads((executed / verb).read_text()) == call.config


def test_failure_of_an_executed_type_keeps_its_code(ipam: Ipam, tmp_path: Path) -> None:
    (tmp_path / "own-ipam").write_text('#!/bin/sh\necho \'{"code":11,"msg":"later"}\'; exit 1\n')
    (tmp_path / "own-ipam").chmod(0o755)
    with pytest.raises(Error) as failed:
        ipam.add(request({"type": "own-ipam"}).derive(path=(str(tmp_path),)))
    assert (code_of(failed.value), failed.value.msg) == (11, "ipam own-ipam: later")


def answering(folder: Path, kind: str, answer: str, status: int = 1) -> Request:
    """A CHECK with an IPAM plugin that answers like this."""
    (folder / kind).write_text(f"#!/bin/sh\necho '{answer}'\nexit {status}\n")
    (folder / kind).chmod(0o755)
    return request({"type": kind}).derive(command="CHECK", path=(str(folder),))


@pytest.mark.parametrize(
    ("kind", "answer", "logged"),
    [
        ("whereabouts", '{"code":999,"msg":"CNI CHECK method is not implemented"}', "is not implemented"),
        ("of-libcni-0", '{"code":100,"msg":"CHECK is not supported"}', "CHECK is not supported"),
        ("of-libcni-0", '{"code":4,"msg":"unknown CNI_COMMAND: CHECK"}', "unknown CNI_COMMAND: CHECK"),
        ("dhcp", '{"code":1,"msg":"plugin version does not allow CHECK"}', "does not allow CHECK"),
        ("in-shell", "what is CHECK?", "exit status 1: what is CHECK?"),
    ],
)
def test_an_executed_type_without_check_is_logged(
    ipam: Ipam, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, answer: str, logged: str
) -> None:
    ipam.check(answering(tmp_path, kind, answer))
    (message,) = caplog.messages
    assert message.startswith(f"network net: ipam {kind} has not checked its addresses: ")
    assert message.endswith(logged)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("own-ipam", 3),  # unknown container
        ("own-ipam", 11),  # try again later
        ("own-ipam", 104),  # a code of the plugin's own
        ("dhcp", 999),  # it has CHECK, but no specific code for a lost lease
    ],
)
def test_an_executed_type_that_has_lost_the_address_fails_the_check(
    ipam: Ipam, tmp_path: Path, kind: str, code: int
) -> None:
    with pytest.raises(Error) as failed:
        ipam.check(answering(tmp_path, kind, f'{{"code":{code},"msg":"no such lease"}}'))
    assert (code_of(failed.value), failed.value.msg) == (code, f"ipam {kind}: no such lease")


def test_check_of_a_type_that_is_nowhere_fails(ipam: Ipam) -> None:
    with pytest.raises(Error, match='ipam own-ipam: no executable "own-ipam" in /nonexistent'):
        ipam.check(request({"type": "own-ipam"}).derive(path=("/nonexistent",)))


@pytest.mark.parametrize(
    "ipam_of_the_network", ["host-local", {"type": 5}, {"type": "a/b"}, {"type": "host-local", "dataDir": "here"}]
)
def test_a_configuration_that_no_add_takes_keeps_nobody_from_del(ipam: Ipam, ipam_of_the_network: Any) -> None:
    call = request(ipam_of_the_network)
    with pytest.raises(Error) as refused:
        ipam.add(call)
    assert refused.value.kind == Kind.INVALID_CONFIG
    ipam.delete(call)


def test_del_of_what_was_never_attached_needs_no_plugin(ipam: Ipam) -> None:
    call = request({"type": "own-ipam"}).derive(path=("/nonexistent",))
    ipam.delete(call, attached=False)
    with pytest.raises(Error, match='no executable "own-ipam" in /nonexistent'):
        ipam.delete(call)  # an error, because its addresses would be lost


def test_status_of_a_type_that_is_nowhere_is_unavailable(ipam: Ipam) -> None:
    with pytest.raises(Error) as refused:
        ipam.status(request({"type": "own-ipam"}).derive(path=("/nonexistent",)))
    assert refused.value.kind == Kind.UNAVAILABLE

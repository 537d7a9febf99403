"""The reference plugins in this process, without a kernel: what they refuse or leave to executables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.ipam import Ipam
from wirespeed.kernel.netlink.codec import pack_message
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.plugins.reference import ptp, tuning
from wirespeed.plugins.reference.ptp import Ptp
from wirespeed.plugins.reference.tuning import Tuning

RP_FILTER = "net.ipv4.conf.IFNAME.rp_filter"


def request(command: str = "ADD", **config: Any) -> Request:
    """A request for a pod that does not exist: what is refused otherwise is refused before that is noticed."""
    config = {"cniVersion": "1.0.0", "name": "net", "prevResult": {"interfaces": []}, **config}
    return Request(command=command, container_id="c1", netns="/run/netns/none", ifname="net1", config=config)


def refusal(config: dict[str, Any], plugin: Tuning | Ptp | None = None) -> Error:
    with pytest.raises(Error) as caught:
        (plugin or Tuning()).add(request(**config))
    return caught.value


@pytest.fixture
def allow_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "allowlist.conf"
    monkeypatch.setattr(tuning, "ALLOW_LIST", path)
    return path


@pytest.mark.usefixtures("allow_list")
def test_without_an_allow_list_every_sysctl_of_the_network_may_be_set() -> None:
    assert refusal({"sysctl": {RP_FILTER: "1"}}).kind == Kind.NOT_ATTACHED


@pytest.mark.parametrize(
    ("lines", "allowed"),
    [
        (r"^net\.ipv4\.conf\.IFNAME\.[a-z_]*$", True),
        ("net.core\n\n  rp_filter  \n", True),
        (r"^net\.ipv4\.conf\.net1\.", False),  # the name is compared as it is written in the configuration
        ("^rp_filter", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("place", ["configuration", "args"])
def test_the_allow_list_decides_by_expressions_that_match_anywhere(
    allow_list: Path, lines: str, allowed: bool, place: str
) -> None:
    allow_list.write_text(lines)
    config: dict[str, Any] = {"sysctl": {RP_FILTER: "1"}}
    found = refusal(config if place == "configuration" else {"args": {"cni": config}})
    assert found.kind == (Kind.NOT_ATTACHED if allowed else Kind.POLICY)
    assert allowed or found.path == ("sysctl", RP_FILTER)


def test_an_invalid_expression_in_the_allow_list_allows_nothing(allow_list: Path) -> None:
    allow_list.write_text("net.*\n(")
    assert refusal({"sysctl": {RP_FILTER: "1"}}).kind == Kind.INVALID_DATA


@pytest.mark.parametrize(
    ("line", "left"),
    [
        (r"^net\.ipv4\.conf\.[a-z0-9_]+\.rp_filter$", False),
        (r"^net\.(core|ipv4)\.(.*)?$", False),
        (r"^net\.core\..*?max", False),
        (r"^net\.core\.[[:alpha:]]+$", True),
        (r"(?i)^NET\.CORE", True),
        (r"(?P<family>ipv4)", True),
        (r"\Qnet.core\E", True),
        (r"\pL+", True),
        (r"a{,2}", True),
        (r"a*+", True),
    ],
)
def test_an_allow_list_that_python_may_read_differently_is_left_to_the_executable(
    allow_list: Path, line: str, left: bool
) -> None:
    allow_list.write_text(f"net.core\n{line}\n")
    assert tuning.executed({"sysctl": {RP_FILTER: "1"}}) is left
    assert tuning.executed({"Args": {"cni": {"sysctl": {RP_FILTER: "1"}}}}) is left
    assert not tuning.executed({"mtu": 1400})


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"sysctl": {"kernel.panic": "1"}}, ("sysctl", "kernel.panic")),
        ({"sysctl": {"net": "1"}}, ("sysctl", "net")),
        ({"sysctl": {"net.ipv4\0.ip_forward": "1"}}, ("sysctl", "net.ipv4\0.ip_forward")),
        ({"sysctl": {RP_FILTER: 1}}, ("sysctl", RP_FILTER)),
        ({"SysCtl": [RP_FILTER]}, ("sysctl",)),
        ({"mac": "01:00:00:00:00:01"}, ("mac",)),
        ({"args": {"CNI": {"Mac": "02:00"}}}, ("args", "cni", "mac")),
        ({"runtimeConfig": {"mac": "02:00"}}, ("runtimeConfig", "mac")),
        ({"args": {"cni": {"mtu": -1}}}, ("args", "cni", "mtu")),
        ({"txQLen": -1}, ("txQLen",)),
        ({"prevResult": None}, ("prevResult",)),
    ],
)
def test_tuning_names_the_key_that_it_refuses(config: dict[str, Any], key: tuple[str, ...]) -> None:
    found = refusal(config)
    assert (found.kind, found.path) == (Kind.INVALID_CONFIG, key)


def test_a_backup_folder_is_absolute(tmp_path: Path) -> None:
    with pytest.raises(Error) as caught:
        Tuning(tmp_path).delete(request("DEL", datadir="backups"))
    assert caught.value.path == ("dataDir",)


@pytest.mark.parametrize("data", [b'{\n "mtu": 1500\n}', b'{\n "mtu"', b""])
def test_a_backup_goes_with_the_pod(tmp_path: Path, data: bytes) -> None:
    backup = tmp_path / "c1_net1.json"
    backup.write_bytes(data)
    Tuning(tmp_path).delete(request("DEL"))
    assert not backup.exists()
    Tuning(tmp_path).delete(request("DEL"))


def test_ptp_is_executed_to_masquerade() -> None:
    assert ptp.executed({"IPMasq": True})
    assert not ptp.executed({"ipMasq": False, "ipMasqBackend": "nftables"})


def test_ptp_needs_addresses(tmp_path: Path) -> None:
    assert refusal({"mtu": 1400}, Ptp(Ipam(tmp_path))).path == ("ipam", "type")


def test_a_deleted_route_may_have_any_scope_and_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, bytes]] = []
    monkeypatch.setattr(Rtnl, "do", lambda _, kind, payload: sent.append((kind, payload)))
    with Rtnl() as rtnl:
        rtnl.delete_route(7, "10.1.2.3/24")
    ((kind, payload),) = sent
    seen = rtmsg(data=pack_message(kind, 0, 1, payload))
    seen.decode()
    assert kind == 25  # RTM_DELROUTE
    assert (seen["dst_len"], seen["scope"], seen["proto"], seen["type"]) == (24, 255, 0, 1)
    assert (seen.get_attr("RTA_DST"), seen.get_attr("RTA_OIF")) == ("10.1.2.0", 7)
    assert (seen["table"], seen.get_attr("RTA_TABLE")) == (254, 254)

"""tuning in this process: a failed ADD leaves nothing, and a DEL restores what it can."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.pods import PLUGINS
from tests.node.reference.sides import Side, ip, side
from wirespeed.errors import Error, Kind
from wirespeed.plugins.reference.tuning import Tuning

PREVIOUS = {"interfaces": [{"name": "net1", "mac": "02:11:00:00:00:01", "sandbox": "@POD@"}]}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Side]:
    with side(tmp_path, PLUGINS) as made:
        ip("-n", made.pod, "link", "add", "net1", "address", "02:11:00:00:00:01", "type", "bridge")
        yield made


def call(node: Side, command: str, **config: Any) -> Any:
    config = {"cniVersion": "1.0.0", "name": "net", "prevResult": PREVIOUS, **config}
    request = node.request(command, config, {})
    plugin = Tuning(node.leases / "tuning")
    return node.on_node(
        lambda: getattr(plugin, {"ADD": "add", "DEL": "delete", "CHECK": "check"}[command])(request)
    )


@pytest.mark.parametrize(
    "wrong",
    [{"mtu": 100000}, {"sysctl": {"net.core.somaxconn": "500", "net.ipv4.conf.IFNAME.rp_filter": "yes"}}],
)
def test_a_failed_add_leaves_nothing(node: Side, wrong: dict[str, Any]) -> None:
    before = node.state()
    config = {
        "sysctl": {"net.core.somaxconn": "500", "net.ipv4.conf.IFNAME.rp_filter": "2"},
        "mac": "02:11:00:00:00:07",
        "allmulti": True,
    }
    with pytest.raises(Error) as caught:
        call(node, "ADD", **{**config, **wrong})
    assert caught.value.kind == Kind.INTERFACE
    assert node.state() == before


def test_a_mac_in_any_notation_is_in_the_result_as_the_kernel_writes_it(node: Side) -> None:
    result = call(node, "ADD", mac="0211.0000.000A")
    assert [each["mac"] for each in result["interfaces"]] == ["02:11:00:00:00:0a"]
    call(node, "CHECK", mac="0211.0000.000A")


def test_check_names_what_has_changed(node: Side) -> None:
    config = {
        "mtu": 1400,
        "sysctl": {"net.ipv4.conf.IFNAME.rp_filter": "2", "net.ipv4.ip_local_port_range": "1024 2000"},
    }
    call(node, "ADD", **config)
    call(node, "CHECK", **config)
    ip("-n", node.pod, "link", "set", "net1", "mtu", "1300")
    ip("netns", "exec", node.pod, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/net1/rp_filter")
    with pytest.raises(Error) as caught:
        call(node, "CHECK", **config)
    assert caught.value.kind == Kind.DRIFT
    assert "rp_filter is 1, not 2, mtu of net1 is 1300, not 1400" in caught.value.msg


def test_del_restores_the_rest_if_the_kernel_refuses_one_setting(node: Side) -> None:
    call(node, "ADD", mtu=1400, txQLen=500)
    backup = node.leases / "tuning" / "c1_net1.json"
    backup.write_text('{"mtu": 100000, "txQLen": 700}')
    call(node, "DEL")
    assert "qlen 700" in ip("-n", node.pod, "link", "show", "net1")
    assert backup.exists()  # a repeated DEL tries again


def test_del_without_the_interface_removes_the_backup(node: Side) -> None:
    call(node, "ADD", mtu=1400)
    ip("-n", node.pod, "link", "del", "net1")
    call(node, "DEL")
    assert not node.state()["backups"]

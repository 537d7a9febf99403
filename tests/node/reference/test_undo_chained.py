"""An ADD that fails in its middle gives back what it has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.node.reference.chained import chained, interface
from tests.node.reference.sides import Side, Trial, assert_equal, kernel_has, side
from tests.node.reference.test_reference import BINARIES
from wirespeed.cni.plugin import Plugin
from wirespeed.errors import Error, Kind
from wirespeed.kernel.netlink.route import RT_TABLE_LOCAL, unpack_route
from wirespeed.plugins.reference import sbr, vrf
from wirespeed.plugins.reference.sbr import Sbr
from wirespeed.plugins.reference.vrf import Vrf

_SETUP = (
    "address add 10.9.0.2/24 dev net1",
    "address add fd00:9::2/64 dev net1 nodad",
    "address add fd00:a::2/64 dev net1 nodad",
    "route add default via 10.9.0.1 metric 7 proto static",
    "route add 10.77.0.0/16 via 10.9.0.1 src 10.9.0.2",
    "-6 route add default via fd00:9::1",
    "-6 route add fd78::/64 dev net1",
)
_IPS = [{"address": "10.9.0.2/24", "gateway": "10.9.0.1"}, {"address": "fd00:9::2/64", "gateway": "fd00:9::1"}]


def _add_fails(plugin: Plugin, where: Side, config: dict[str, Any]) -> None:
    prepare = interface("net1", "node1", link_local=True)
    prepare += [("-n", "POD", *command.split()) for command in _SETUP]
    trial = Trial(config["type"], config, prepare=tuple(prepare))
    trial.begin(where)
    assert_equal(lambda: (state := where.state(), state), "before the ADD", "once", "again")
    before = where.state()
    with pytest.raises(Error, match="the test"):
        where.on_node(lambda: plugin.add(where.request("ADD", config, {})))
    assert_equal(lambda: (before, where.state()), "after the ADD", "before", "after")


def test_failed_add_of_sbr_leaves_rules_and_routes_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = sbr._delete

    def fail_at_the_last(pod: Any, kind: int, payload: bytes) -> None:
        if unpack_route(payload)[0].version == 6 and not failures:
            failures.append(payload)
            raise Error(Kind.ADDRESS, "the test")
        delete(pod, kind, payload)

    failures: list[bytes] = []
    monkeypatch.setattr(sbr, "_delete", fail_at_the_last)
    with side(tmp_path, BINARIES) as where:
        _add_fails(Sbr(), where, chained("sbr", {"ips": _IPS}))
    assert failures


def test_failed_add_of_vrf_gives_back_addresses_and_routes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not kernel_has("vrf"):
        pytest.skip("this kernel has no vrf: run it in the lab")
    wait = vrf._wait_until_local

    def fail_in_the_vrf(ns: Any, link: Any, added: Any, table: int) -> None:
        if table != RT_TABLE_LOCAL:
            raise Error(Kind.ADDRESS, "the test")
        wait(ns, link, added, table)

    monkeypatch.setattr(vrf, "_wait_until_local", fail_in_the_vrf)
    with side(tmp_path, BINARIES) as where:
        _add_fails(Vrf(), where, chained("vrf", {"ips": _IPS}, vrfname="red"))

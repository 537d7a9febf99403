"""What a refusal of the kernel leaves, in this process: a failed ADD undoes all it did, a DEL can be repeated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.node.reference import children, devices
from tests.node.reference.making import network
from tests.node.reference.sides import Config, InProcess, Side, Trial, assert_same, ip, side
from wirespeed.errors import Error, Kind

# The kernel refuses the route: its gateway is in no network of the pod.
REFUSED = {
    "ipam": {
        "type": "host-local",
        "dataDir": "@LEASES@",
        "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00:9::/64"}]],
        "routes": [{"dst": "10.77.0.0/16"}, {"dst": "10.78.0.0/16", "gw": "192.0.2.1"}],
    }
}
NO_ADDRESS_LEFT = {
    "ipam": {"type": "host-local", "dataDir": "@LEASES@", "ranges": [[{"subnet": "10.9.0.0/32"}]]},
}
MAKERS = {**children.MAKERS, **devices.MAKERS}


def add(name: str, *, to: str) -> tuple[str, ...]:
    return ("-n", to, "link", "add", name, "type", "bridge")


ALIAS = ("-n", "NODE", "link", "set", "m0", "alias", "uplink")


@contextmanager
def two_nodes(trial: Trial, folder: Path) -> Iterator[tuple[Side, Side]]:
    """Two nodes with pods as before the trial, one to be left as it is. No executables are called."""
    binaries = Path("/usr/lib/cni")
    with side(folder, binaries) as idle, side(folder, binaries) as tried:
        for each in (idle, tried):
            each.old = False
            trial.begin(each)
        yield idle, tried


@pytest.mark.parametrize(
    ("kind", "keys", "taken"),
    [
        ("macvlan", {"master": "m0", **REFUSED}, ()),
        ("macvlan", {"master": "m0", **NO_ADDRESS_LEFT}, ()),
        ("macvlan", {"master": "m0", **REFUSED}, (add("net1", to="NODE"),)),
        ("macvlan", {"master": "p0", "linkInContainer": True, **REFUSED}, ()),
        ("macvlan", {"master": "m0"}, (add("net1", to="POD"),)),
        ("host-device", {"device": "m0", **REFUSED}, (ALIAS,)),
        ("host-device", {"device": "m0", **NO_ADDRESS_LEFT}, ()),
        ("host-device", {"device": "m0"}, (add("net1", to="POD"), ALIAS)),
        ("host-device", {"device": "m0"}, (add("net1", to="POD"), add("m0", to="POD"))),
        ("host-device", {"device": "m0", **REFUSED}, (add("net1", to="NODE"), add("m0", to="POD"))),
    ],
)
def test_an_add_that_fails_undoes_everything(
    kind: str, keys: Config, taken: tuple[tuple[str, ...], ...], tmp_path: Path
) -> None:
    trial = Trial(kind, network(kind, **keys), prepare=children.MASTERS + taken)
    with two_nodes(trial, tmp_path) as (idle, tried):
        assert_same((idle, tried), "before ADD")
        with pytest.raises(Error):
            InProcess(MAKERS[kind][1](tried), tried).call(tried.request("ADD", trial.config, {}))
        assert_same((idle, tried), "after ADD")


@pytest.mark.parametrize("also_in_pod", [False, True])
def test_a_device_whose_name_is_taken_on_the_node_stays_until_it_is_free(also_in_pod: bool, tmp_path: Path) -> None:
    trial = Trial("host-device", network("host-device", device="m0"), prepare=children.MASTERS)
    with two_nodes(trial, tmp_path) as (idle, tried):
        plugin = InProcess(MAKERS["host-device"][1](tried), tried)
        result = plugin.call(tried.request("ADD", trial.config, {}))
        for name in (tried.node, tried.pod) if also_in_pod else (tried.node,):
            ip(*add("m0", to=name))
        with pytest.raises(Error) as refused:
            plugin.call(tried.request("DEL", trial.config, {}))
        assert refused.value.kind == Kind.INTERFACE
        plugin.call(tried.request("CHECK", {**trial.config, "prevResult": result}, {}))
        ip("-n", tried.node, "link", "delete", "m0")
        plugin.call(tried.request("DEL", trial.config, {}))
        if also_in_pod:
            ip("-n", tried.pod, "link", "delete", "m0")
        ip("-n", tried.node, "link", "set", "m0", "up")
        assert_same((idle, tried), "after DEL")

"""RSS settings of a pod's interface with the driver igb. A PF of the lab acts as the VF.

No VF of the lab has an indirection table that can be set. In the test's sysfs, the second PF is a VF of a fake PF;
the interface, its driver and all operations on it are real.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakesysfs import FakeSysfs
from tests.lab.conftest import (
    Runtime,
    conf,
    differences,
    in_namespace,
    make_runtime,
    pf_disturbed,
    serving,
    sh,
    state_of_everything,
)
from tests.lab.test_crash import count_instants, delete_ends_clean, forked_agent
from wirespeed.cni.errors import Code
from wirespeed.kernel import ethtool, netns
from wirespeed.kernel.ethtool import Queues, RssConfig

pytestmark = pytest.mark.usefixtures("unchanged", "ready_to_fork")

NAME = "ens2"
DEVICE = Path(f"/sys/class/net/{NAME}/device").resolve().name
Namespaces = Callable[[], str]


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    """A runtime whose agents see one VF, which is the second PF."""
    folder = tmp_path_factory.mktemp("rss")
    sysfs = FakeSysfs(folder / "sys")
    pf = sysfs.path(sysfs.device("0000:aa:00.0", driver="igb"))
    vf = sysfs.path(sysfs.device(DEVICE, driver="igb"))
    (vf / "net").symlink_to(f"/sys/bus/pci/devices/{DEVICE}/net")
    (vf / "physfn").symlink_to(pf)
    (pf / "virtfn0").symlink_to(vf)
    return make_runtime(folder, sysfs=str(sysfs.root))


@pytest.fixture
def agent(apart: Runtime) -> Iterator[Runtime]:
    with serving(apart), pf_disturbed(NAME):
        yield apart


def in_pod(path: str) -> RssConfig:
    with netns.opened(path) as ns:
        found = netns.inside(ns.fd, lambda: ethtool.read_rss("net1"))
    assert found is not None
    return found


def made_by_ethtool(*arguments: str) -> RssConfig:
    """The settings that `ethtool -X` makes of its arguments. The earlier ones are restored."""
    before = ethtool.read_rss(NAME)
    assert before is not None
    sh("ethtool", "-X", NAME, *arguments)
    made = ethtool.read_rss(NAME)
    ethtool.set_rss(NAME, table=before.table)
    assert made is not None
    assert made != before
    return made


@pytest.mark.parametrize("netns_first", [False, True], ids=["netns there", "netns gone"])
@pytest.mark.parametrize(
    ("asked", "arguments"),
    [
        ({"queues": 2}, ["equal", "2"]),
        ({"weights": [5, 2]}, ["weight", "5", "2"]),
        ({"weights": [0, 1], "hash": "toeplitz"}, ["weight", "0", "1"]),
    ],
    ids=str,
)
def test_what_the_pod_receives_is_spread_as_ethtool_spreads_it(
    agent: Runtime, namespaces: Namespaces, asked: dict[str, Any], arguments: list[str], netns_first: bool
) -> None:
    path, expected = namespaces(), made_by_ethtool(*arguments)
    config = conf(DEVICE, rss=asked)
    added = agent.add("spread", config, path)
    assert added.code == 0, added.body
    assert in_pod(path) == expected
    config["prevResult"] = added.body
    assert agent.call("CHECK", "spread", config, netns=path).body == {}
    in_namespace(path, "ethtool", "-X", "net1", "equal", "1")
    drifted = agent.call("CHECK", "spread", config, netns=path).body["msg"]
    assert f"rss.{next(iter(asked))} of net1: {sum(expected.table)} of 128 places of the table differ" in drifted
    if netns_first:
        sh("ip", "netns", "del", Path(path).name)
    assert agent.delete("spread", config, path).code == 0


def test_fewer_queues_than_an_administrator_spreads_to_and_both_back(
    agent: Runtime, namespaces: Namespaces
) -> None:
    before = ethtool.read_rss(NAME)
    assert before is not None
    sh("ethtool", "-X", NAME, "weight", "1", "6")
    set_by_hand = ethtool.read_rss(NAME)
    try:
        path = namespaces()
        added = agent.add("fewer", conf(DEVICE, queues=1, rss={"queues": 1}), path)
        assert added.code == 0, added.body
        assert set(in_pod(path).table) == {0}
        assert agent.delete("fewer", conf(DEVICE), path).code == 0
        assert ethtool.queues(NAME) == Queues(2, 2)
        assert ethtool.read_rss(NAME) == set_by_hand
    finally:
        ethtool.set_rss(NAME, table=before.table)


def test_the_table_of_nobody_in_particular_follows_the_queues_again(agent: Runtime, namespaces: Namespaces) -> None:
    before = ethtool.read_rss(NAME)
    assert before is not None
    sh("ethtool", "-X", NAME, "default")
    try:
        path = namespaces()
        assert agent.add("default", conf(DEVICE, rss={"weights": [0, 1]}), path).code == 0
        assert agent.delete("default", conf(DEVICE), path).code == 0
        ethtool.set_queues(NAME, 1)  # refused while a user-defined table is set
        ethtool.set_queues(NAME, 2)
    finally:
        ethtool.set_rss(NAME, table=before.table)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"queues": 3}, 'key "rss.queues": expected at most 2 queues, as many as it has'),
        ({"weights": [1, 1, 1]}, 'key "rss.weights": expected at most 2 queues, as many as it has'),
        (
            {"weights": [100, 100]},
            'key "rss.weights": expected a sum of at most 128, the size of its indirection table',
        ),
        ({"weights": [0, 1], "hash": "xor"}, 'key "rss.hash": Operation not supported'),
        ({"key": "00:11"}, 'key "rss.key": expected 0 bytes, the length of its driver\'s key'),
    ],
    ids=str,
)
def test_what_the_driver_does_not_do_is_named_and_all_is_put_back(
    agent: Runtime, namespaces: Namespaces, asked: dict[str, Any], told: str
) -> None:
    everything = state_of_everything()
    refused = agent.add("refused", conf(DEVICE, rss=asked), namespaces())
    assert (refused.code, refused.body["code"]) == (1, Code.DEVICE)
    assert told in refused.body["msg"]
    assert differences(everything, state_of_everything()) == []


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_killed_while_it_spreads_otherwise_then_del(apart: Runtime, namespaces: Namespaces, verb: str) -> None:
    asked = conf(DEVICE, queues=1, rss={"queues": 1})
    before = state_of_everything()
    with pf_disturbed(NAME):
        number, instants = 0, 1
        while number < instants:
            number += 1
            path = namespaces()
            with forked_agent(apart, verb=verb, die_at=number) as told:
                runtime_says = apart.add("crash", asked, path)
                if verb == "DEL":
                    assert runtime_says.code == 0, runtime_says.body
                    runtime_says = apart.delete("crash", asked, path)
                instants = number + 1 if runtime_says.code else count_instants(told)
            delete_ends_clean(apart, asked, path, before, f"instant {number}")
    assert instants >= (12 if verb == "ADD" else 10)

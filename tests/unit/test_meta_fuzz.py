"""Arbitrary pods, networks and configurations give either a valid plan or a CNI error."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, cast

import msgspec
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from wirespeed.cni.chain import Chain
from wirespeed.cni.request import Request, ifname_fault
from wirespeed.errors import Error
from wirespeed.kernel.netns import Identity
from wirespeed.kube.cluster import Cluster, NotFoundError
from wirespeed.node import Node, NodeConfig
from wirespeed.plugins.meta import checks, config
from wirespeed.plugins.meta.delegate import Delegate, planned_rows, recorded_delegate
from wirespeed.plugins.meta.resolve import Pod, Resolver
from wirespeed.plugins.meta.selection import DEFAULT_NETWORK, NETWORKS

DEVINFO = Path("/devinfo")
DEVICES = {"intel.com/vfs": ["0000:03:02.0", "0000:03:02.1"]}

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=6), inner, max_size=2),
    max_leaves=5,
)


def seldom(draw: st.DrawFn) -> bool:
    return draw(st.integers(0, 29)) == 17  # not an end of the range: hypothesis draws those more often


@st.composite
def nearly(draw: st.DrawFn, value: Any) -> Any:
    """The value with few or no changes: parts replaced, left out or added."""
    if seldom(draw):
        return draw(anything)
    if isinstance(value, dict):
        made = {key: draw(nearly(each)) for key, each in value.items() if not seldom(draw)}
        if seldom(draw):
            made[draw(st.sampled_from([*value, "plugins", "type", "ipam", "x"]))] = draw(anything)
        return made
    if isinstance(value, list):
        return [draw(nearly(each)) for each in value]
    return value


PLUGIN = {
    "type": "main",
    "capabilities": {"ips": True, "mac": True, "portMappings": True, "bandwidth": True, "infinibandGUID": False},
    "ipam": {"type": "static"},
    "args": {"cni": {"a": 1}},
}
CONFS = st.sampled_from(
    [
        {"cniVersion": "1.0.0", "name": "n", **PLUGIN},
        {"cniVersion": "0.4.0", "name": "n", "plugins": [PLUGIN, {"type": "main"}], "disableCheck": True},
        {"cniVersions": ["0.4.0", "1.1.0"], "plugins": [{"type": "sriov", "vlan": 5}]},
    ]
)
DEFINITION = {
    "metadata": {
        "name": "n",
        "namespace": "ns",
        "annotations": {"k8s.v1.cni.cncf.io/resourceName": "intel.com/vfs"},
    }
}
ELEMENTS = st.lists(
    st.sampled_from(
        [
            {"name": "a"},
            {"name": "b", "namespace": "ns", "interface": "fast"},
            {"name": "a", "ips": ["10.0.0.2/24", "fd00::2"], "mac": "02:00:00:00:00:01"},
            {"name": "a", "default-route": ["10.0.0.1"], "cni-args": {"x": [1]}},
            {"name": "b", "portMappings": [{"hostPort": 80, "containerPort": 81}], "bandwidth": {"egressRate": 5}},
            {"name": "b", "deviceID": "0000:03:02.1", "infiniband-guid": "02:00:00:00:00:00:00:01"},
        ]
    ),
    min_size=1,
    max_size=3,
)
CONFIG = {
    "cniVersion": "1.0.0",
    "name": "cluster",
    "type": "wirespeed",
    "delegates": [{"cniVersion": "1.0.0", "name": "pods", "type": "main"}],
    "namespaceIsolation": True,
    "globalNamespaces": "default, shared",
    "firstInterface": 1,
    "lenientCapabilities": ["ips", "mac", "infinibandGUID"],
    "runtimeConfig": {"portMappings": [1]},
    "confDir": "/nowhere",
}
SHORT = st.lists(
    st.sampled_from(["a", "ns/b", "a@x", "b", "a@y", "b@net3", "other/a", "b@", "a@lo", "absent"]),
    min_size=1,
    max_size=3,
).map(",".join)


class Definitions:
    """A cluster with only these NetworkAttachmentDefinitions, whatever they contain."""

    def __init__(self, found: dict[str, Any]) -> None:
        self._found = found

    def network(self, namespace: str, name: str) -> dict[str, Any]:
        if name not in self._found:
            raise NotFoundError(f"{namespace}/{name}")
        return cast(dict[str, Any], self._found[name])


@st.composite
def definitions(draw: st.DrawFn) -> dict[str, Any]:
    """As in the API: metadata exists, spec.config is arbitrary text."""
    made = {}
    for name in ("a", "b"):
        conf = draw(CONFS.flatmap(nearly))
        text = draw(st.sampled_from([json.dumps(conf)] * 12 + [json.dumps(conf)[:-3], "", "[]", "null"]))
        definition = copy.deepcopy(DEFINITION) if draw(st.booleans()) else {"metadata": {"annotations": None}}
        made[name] = {
            **definition,
            "spec": draw(st.sampled_from([{"config": text}] * 20 + [{"config": 5}, {}, None])),
        }
    return made


def same(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return strategy


JSON = ELEMENTS.flatmap(nearly).map(json.dumps)
texts = st.sampled_from([JSON, JSON, JSON, SHORT, SHORT, st.text(max_size=8)]).flatmap(same)
CONFIGS = st.sampled_from([st.just(CONFIG), st.just(CONFIG), nearly(CONFIG)]).flatmap(same)
NODE = Node(NodeConfig(state="/nowhere/state.db"), once=True)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(definitions(), texts, st.sampled_from([st.just(""), st.just(""), st.just(""), texts]).flatmap(same), CONFIGS)
def test_whatever_a_pod_a_network_and_a_configuration_say_is_a_plan_or_a_refusal(
    found: dict[str, Any], networks: str, default: str, given_config: Any
) -> None:
    assume(isinstance(given_config, dict))
    before = copy.deepcopy((found, given_config))
    try:
        plan = resolved(found, networks, default, given_config)
    except Error as error:
        assert error.msg.isprintable()
        return
    finally:
        assert (found, given_config) == before
    check_plan(plan)


def resolved(found: dict[str, Any], networks: str, default: str, given_config: dict[str, Any]) -> list[Delegate]:
    """The plan of an ADD, after all checks that precede the first change."""
    chain = Chain(NODE.plugins)
    resolver = Resolver(
        chain=chain,
        cluster=lambda: cast(Cluster, Definitions(found)),
        devices_of=lambda _: copy.deepcopy(DEVICES),
        is_served=lambda *_: True,
        ignored=lambda *_: None,
        devinfo=DEVINFO,
    )
    pod = Pod(
        namespace="ns",
        name="p",
        found={"metadata": {"annotations": {NETWORKS: networks, DEFAULT_NETWORK: default}}},
    )
    request = Request(command="ADD", container_id="c1", netns="/n", ifname="eth0", args={"K8S_POD_NAME": "p"})
    plan = resolver.delegates(request, config.load(given_config), pod)
    try:
        checks.check(plan, chain)
    except Error as error:
        if "no executable" not in error.msg:  # expected, because there is none; everything else was checked
            raise
    return plan


def check_plan(plan: list[Delegate]) -> None:
    assert [each.master for each in plan] == [True] + [False] * (len(plan) - 1)
    assert plan[0].ifname == "eth0"
    names = [each.ifname for each in plan]
    assert len(names) == len(set(names))
    assert not any(map(ifname_fault, names))
    devices = [each.device for each in plan if each.device]
    assert len(devices) == len(set(devices))
    for each in plan:
        assert not each.device_info_file or Path(each.device_info_file).parent.parent == DEVINFO
    rows = planned_rows(plan, container="c1", netns="/n", identity=Identity(1, 2, 3))
    kept = [msgspec.convert(json.loads(json.dumps(row.record["delegate"])), Delegate) for row in rows]
    assert kept == plan == [recorded_delegate(row) for row in rows]

"""From a call to its plan: the networks in order, their interfaces, and the input of each plugin."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirespeed.cni.chain import Chain, load_network
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.kernel.netns import Identity
from wirespeed.kube.manifests import ManifestCluster
from wirespeed.node import Node, NodeConfig
from wirespeed.plugins.meta import config, gateway, resolve
from wirespeed.plugins.meta.checks import needs_ip_argument
from wirespeed.plugins.meta.config import load
from wirespeed.plugins.meta.delegate import Delegate, planned_rows, recorded_delegate, recorded_identity
from wirespeed.plugins.meta.resolve import Pod, Resolver

Config = dict[str, Any]
ARGS = {"K8S_POD_NAMESPACE": "ns", "K8S_POD_NAME": "p", "IgnoreUnknown": "true", "IP": "10.1.0.9", "MY": "a=b"}


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    """Chains with the real in-process plugins."""
    return Chain(
        Node(
            NodeConfig(state=str(tmp_path / "state.db"), attachments=str(tmp_path / "attachments")), once=True
        ).plugins
    )


@pytest.fixture
def plan(tmp_path: Path, chain: Chain) -> Callable[..., list[Delegate]]:
    """The delegates of a pod ns/p with an annotation, in a cluster with `networks` (name -> configuration).

    `served` are resources that are served by a device plugin or a driver. Parts of the annotation without effect
    are appended to `told`.
    """

    def make(
        annotation: Any = "",
        networks: Mapping[str, Config] | None = None,
        *,
        resources: Mapping[str, str] | None = None,
        devices: Mapping[str, list[str]] | None = None,
        served: Collection[str] = (),
        told: list[str] | None = None,
        config: Config | None = None,
        args: Mapping[str, str] = ARGS,
    ) -> list[Delegate]:
        folder = tmp_path / "manifests"
        folder.mkdir(exist_ok=True)
        for name, raw in (networks or {}).items():
            resource = (resources or {}).get(name, "")
            value = {
                "apiVersion": "k8s.cni.cncf.io/v1",
                "kind": "NetworkAttachmentDefinition",
                "metadata": {
                    "name": name,
                    "namespace": "ns",
                    "annotations": {"k8s.v1.cni.cncf.io/resourceName": resource} if resource else {},
                },
                "spec": {"config": json.dumps({"cniVersion": "1.0.0", **raw})},
            }
            (folder / f"{name}.json").write_text(json.dumps(value))
        resolver = Resolver(
            chain=chain,
            cluster=lambda: ManifestCluster(folder),
            devices_of=lambda _: dict(devices or {}),
            is_served=lambda _, resource: resource in served,
            ignored=lambda pod, faults: (
                None if told is None else told.append(f"{pod.label}: {'; '.join(map(str, faults))}")
            ),
            devinfo=Path("/devinfo"),
        )
        text = annotation if isinstance(annotation, str) else json.dumps(annotation)
        found = {"metadata": {"annotations": {"k8s.v1.cni.cncf.io/networks": text}}}
        given_config = {
            "cniVersion": "0.4.0",
            "name": "cluster",
            "type": "wirespeed",
            "delegates": [{"name": "pods", "type": "main"}],
            "runtimeConfig": {"portMappings": [1]},
            **(config or {}),
        }
        request = Request(
            command="ADD",
            container_id="c1",
            netns="/n",
            ifname="eth0",
            args=args,
            path=("/opt/cni/bin", "/usr/bin"),
        )
        pod = Pod(namespace="ns", name="p", found=found) if args else None
        return resolver.delegates(request, load(given_config), pod)

    return make


BRIDGE = {"type": "bridge"}


def test_plan_is_the_master_and_then_what_is_asked_for_in_order(plan: Callable[..., list[Delegate]]) -> None:
    found = plan("b,a@fast,b", {"a": BRIDGE, "b": BRIDGE})
    assert [(each.label, each.ifname, each.master) for each in found] == [
        ("pods", "eth0", True),
        ("ns/b", "net1", False),
        ("ns/a", "fast", False),
        ("ns/b", "net3", False),
    ]
    assert {each.configuration for each in found} == {"cluster"}
    assert {each.request_ifname for each in found} == {"eth0"}


@pytest.mark.parametrize(("first", "names"), [(0, ["net0", "fast", "net2"]), (5, ["net5", "fast", "net7"])])
def test_interfaces_are_numbered_from_where_the_configuration_says(
    plan: Callable[..., list[Delegate]], first: int, names: list[str]
) -> None:
    found = plan("a,a@fast,a", {"a": BRIDGE}, config={"firstInterface": first})
    assert [each.ifname for each in found] == ["eth0", *names]


def test_network_without_a_version_is_one_of_0_1_0_whatever_the_configurations_is(
    plan: Callable[..., list[Delegate]],
) -> None:
    found = plan("a,b", {"a": BRIDGE, "b": {**BRIDGE, "cniVersion": None}})
    assert [each.network().version for each in found] == ["0.1.0", "1.0.0", "0.1.0"]


def test_plugins_are_sought_in_bin_dir_and_then_where_the_runtime_says(plan: Callable[..., list[Delegate]]) -> None:
    assert plan()[0].path == ("/opt/cni/bin", "/usr/bin")
    assert plan(config={"binDir": "/own"})[0].path == ("/own", "/opt/cni/bin", "/usr/bin")


def test_cni_args_are_passed_once_and_the_runtimes_address_to_the_master_alone(
    plan: Callable[..., list[Delegate]],
) -> None:
    master, other = plan("a", {"a": BRIDGE})
    assert master.args == {**ARGS, "IgnoreUnknown": "1"}
    assert other.args == {key: value for key, value in master.args.items() if key != "IP"}


def test_runtime_config_is_the_masters_and_what_the_pod_asks_for_its_networks(
    plan: Callable[..., list[Delegate]],
) -> None:
    master, asked, plain = plan(
        [{"name": "a", "mac": "02:00:00:00:00:01"}, {"name": "b"}], {"a": BRIDGE, "b": BRIDGE}
    )
    assert (master.runtime_config, master.asked) == ({"portMappings": [1]}, ())
    assert (asked.runtime_config, asked.asked) == ({"mac": "02:00:00:00:00:01"}, ("mac",))
    assert (plain.runtime_config, plain.asked) == ({}, ())


def test_device_is_in_every_plugin_of_the_network_and_in_no_other(plan: Callable[..., list[Delegate]]) -> None:
    two = {"plugins": [{"type": "sriov", "deviceID": "configured"}, {"type": "tuning"}]}
    found = plan(
        "vf,a", {"vf": two, "a": BRIDGE}, resources={"vf": "intel.com/vfs"}, devices={"intel.com/vfs": ["d"]}
    )
    _, vf, other = found
    assert [(p["deviceID"], p["pciBusID"]) for p in vf.network().plugins] == [("d", "d")] * 2
    assert (vf.device, vf.resource) == ("d", "intel.com/vfs")
    assert vf.device_info_file == "/devinfo/cni/ns-vf-c1_net1"
    assert vf.runtime_config == {"deviceID": "d", "CNIDeviceInfoFile": vf.device_info_file}
    assert vf.raw == {"cniVersion": "1.0.0", "name": "vf", **two}  # unchanged
    assert "deviceID" not in other.network().plugins[0]
    assert other.device_info_file == ""


def test_sriov_of_this_process_gets_device_info_and_mac_without_declaring_capabilities(
    plan: Callable[..., list[Delegate]], chain: Chain
) -> None:
    found = plan(
        [{"name": "vf", "mac": "02:00:00:00:00:01"}],
        {"vf": {"type": "sriov"}},
        resources={"vf": "intel.com/vfs"},
        devices={"intel.com/vfs": ["d"]},
    )[1]
    (plugin,) = found.network().plugins
    assert chain.capabilities(plugin) == {"mac", "deviceID", "CNIDeviceInfoFile"}
    assert chain.capabilities({**plugin, "ipam": {"type": "static"}}) >= {"ips"}


def test_plugin_that_makes_device_info_itself_is_told_where_without_a_device(
    plan: Callable[..., list[Delegate]],
) -> None:
    declared = {"type": "other", "capabilities": {"CNIDeviceInfoFile": True}}
    _, fast, third, plain = plan(
        "fast,third,plain", {"fast": {"type": "userspace"}, "third": declared, "plain": BRIDGE}
    )
    for each in (fast, third):
        assert each.device_info_file == f"/devinfo/cni/ns-{each.raw['name']}-c1_{each.ifname}"
        assert each.runtime_config == {"CNIDeviceInfoFile": each.device_info_file}
    assert (plain.device_info_file, plain.runtime_config) == ("", {})


def test_device_that_is_asked_for_by_id_is_not_given_to_an_earlier_network(
    plan: Callable[..., list[Delegate]],
) -> None:
    ids = {"intel.com/vfs": ["0000:03:02.0", "0000:03:02.1"]}
    found = plan(
        [{"name": "vf"}, {"name": "a", "deviceID": "0000:03:02.0"}],
        {"vf": BRIDGE, "a": BRIDGE},
        resources={"vf": "intel.com/vfs"},
        devices=ids,
    )
    assert [(each.device, each.resource) for each in found] == [
        ("", ""),
        ("0000:03:02.1", "intel.com/vfs"),
        ("0000:03:02.0", "intel.com/vfs"),
    ]


VFS = {"type": "ovs"}  # the plugin works with or without a device


@pytest.mark.parametrize("resource", ["sriov_nic_1", "intel.com/vfs", "a/b/c", "ANY name:1"])
def test_resource_may_have_any_name(plan: Callable[..., list[Delegate]], resource: str) -> None:
    found = plan("vf", {"vf": {"type": "sriov"}}, resources={"vf": resource}, devices={resource: ["d"]})[1]
    assert (found.resource, found.device) == (resource, "d")
    with pytest.raises(Error, match=f"no device of resource {resource} is left for pod ns/p") as none:
        plan("vf", {"vf": {"type": "sriov"}}, resources={"vf": resource}, devices={f"{resource}x": ["d"]})
    assert none.value.kind == Kind.DEVICE


@pytest.mark.parametrize("network", [BRIDGE, VFS, {"plugins": [VFS, {"type": "tuning"}]}])
def test_network_is_attached_without_a_device_of_a_resource_that_is_only_counted(
    plan: Callable[..., list[Delegate]], network: Config
) -> None:
    resources = {"br": "bridge.network.kubevirt.io/br0"}
    others = {"intel.com/vfs": ["d"]}
    for each in plan("br,br", {"br": network}, resources=resources, devices=others, served=list(others))[1:]:
        assert (each.resource, each.device, each.device_info_file, each.runtime_config) == ("", "", "", {})
        assert all("deviceID" not in plugin for plugin in each.network().plugins)


def test_network_that_has_no_use_for_a_device_gets_one_that_is_there_and_needs_none(
    plan: Callable[..., list[Delegate]],
) -> None:
    more: Config = {"resources": {"br": "intel.com/vfs"}, "served": ["intel.com/vfs"]}
    found = plan("br,br", {"br": BRIDGE}, devices={"intel.com/vfs": ["d"]}, **more)
    assert [each.device for each in found] == ["", "d", ""]


@pytest.mark.parametrize(
    ("network", "served"),
    [
        ({"type": "sriov"}, False),
        ({"type": "wirespeed-sriov", "deviceID": "0000:03:02.0"}, False),
        ({"plugins": [{"type": "ib-sriov"}, {"type": "tuning"}]}, False),
        ({"type": "host-device"}, False),
        (VFS, True),
    ],
)
def test_network_that_needs_a_device_or_could_have_one_is_refused_without(
    plan: Callable[..., list[Delegate]], network: Config, served: bool
) -> None:
    more: Config = {"resources": {"vf": "intel.com/vfs"}, "served": ["intel.com/vfs"] if served else []}
    with pytest.raises(Error, match=r"network ns/vf: no device of resource .*: it was given none;"):
        plan("vf", {"vf": network}, **more)
    with pytest.raises(Error, match=r"network ns/vf: no device of resource .*: all 1 are attached already;"):
        plan("vf,vf", {"vf": network}, devices={"intel.com/vfs": ["d"]}, **more)


def test_device_that_was_there_makes_a_resource_that_nobody_serves_any_more_no_counted_one(
    plan: Callable[..., list[Delegate]],
) -> None:
    with pytest.raises(Error, match="all 1 are attached already"):
        plan("vf,vf", {"vf": VFS}, resources={"vf": "intel.com/vfs"}, devices={"intel.com/vfs": ["d"]})


def test_what_of_the_annotation_has_no_effect_is_told_of(plan: Callable[..., list[Delegate]]) -> None:
    told: list[str] = []
    asked = [{"name": "a", "gateway": ["10.0.0.1"], "x": 1}, {"name": "a", "Interface": "b"}]
    plan(asked, {"a": BRIDGE}, told=told)
    (line,) = told
    where = "annotation k8s.v1.cni.cncf.io/networks: element 1 (ns/a): unknown key"
    assert line.startswith(f'ns/p: {where} "gateway": ')
    assert f'; {where} "x": ' in line


def test_cni_args_of_the_pod_are_merged_over_those_of_each_plugin(plan: Callable[..., list[Delegate]]) -> None:
    plugins = [
        {"type": "a", "args": {"cni": {"args0": "val0", "args1": "val1"}, "x": 1}},
        {"type": "b", "args": {"cni": None}},
        {"type": "c"},
    ]
    found = plan([{"name": "n", "cni-args": {"args1": "val1a"}}], {"n": {"plugins": plugins}})[1]
    assert [plugin["args"] for plugin in found.network().plugins] == [
        {"cni": {"args0": "val0", "args1": "val1a"}, "x": 1},
        {"cni": {"args1": "val1a"}},
        {"cni": {"args1": "val1a"}},
    ]


def test_what_a_configuration_has_beside_survives(plan: Callable[..., list[Delegate]]) -> None:
    raw = {
        "plugins": [{"type": "calico", "kubernetes": {"kubeconfig": "/k"}, "mtu": 0, "nodename": None}],
        "x": [1],
    }
    found = plan([{"name": "n", "cni-args": {"a": 1}}], {"n": raw})[1]
    (row,) = planned_rows([found], container="c1", netns="/n", identity=Identity(1, 2, 3))
    kept = recorded_delegate(replace(row, record=json.loads(json.dumps(row.record))))
    assert kept == found
    assert kept.network().plugins == [{**raw["plugins"][0], "args": {"cni": {"a": 1}}}]  # type: ignore[index]
    assert kept.raw["x"] == [1]


# Addresses in CNI_ARGS


@pytest.mark.parametrize(
    ("network", "needed"),
    [
        ({"type": "bridge", "ipam": {"type": "static"}}, True),
        ({"plugins": [{"type": "tuning"}, {"type": "macvlan", "ipam": {"type": "host-local"}}]}, True),
        ({"type": "bridge", "ipam": {"type": "static"}, "capabilities": {"ips": True}}, False),
        ({"type": "bridge", "ipam": {"type": "whereabouts"}}, False),
        ({"type": "bridge", "ipam": []}, False),
        ({"type": "bridge"}, False),
        ({"type": "sriov", "ipam": {"type": "static"}}, False),  # it reads runtimeConfig anyway
    ],
)
def test_addresses_go_by_cni_args_only_to_an_ipam_that_reads_them_and_has_no_capability(
    plan: Callable[..., list[Delegate]], chain: Chain, network: Config, needed: bool
) -> None:
    loaded = load_network({"cniVersion": "1.0.0", "name": "n", **network})
    assert needs_ip_argument(chain, loaded) == needed
    found = plan([{"name": "n", "ips": ["10.0.0.2/24", "fd00::2/64"]}], {"n": network})[1]
    assert found.args.get("IP") == ("10.0.0.2/24,fd00::2/64" if needed else None)
    assert "IP" not in plan("n", {"n": network})[1].args


# Requests without the capability


MAC = "02:00:00:00:00:01"


def test_address_and_mac_go_by_cni_args_where_the_configuration_is_lenient(
    plan: Callable[..., list[Delegate]],
) -> None:
    asked = [{"name": "n", "ips": ["10.0.0.2/24"], "mac": MAC, "bandwidth": {"ingressRate": 1}}]
    lenient = {"lenientCapabilities": ["ips", "mac"]}
    found = plan(asked, {"n": BRIDGE}, config=lenient)[1]
    assert (found.args["IP"], found.args["MAC"]) == ("10.0.0.2/24", MAC)
    assert (found.asked, found.lenient) == (("bandwidth",), ("ips", "mac"))  # the bandwidth is rejected
    capable = {**BRIDGE, "capabilities": {"ips": True, "mac": True, "bandwidth": True}}
    found = plan(asked, {"n": capable}, config=lenient)[1]
    assert not {"IP", "MAC"} & found.args.keys()
    assert (found.asked, found.lenient) == (("ips", "mac", "bandwidth"), ())


def test_request_that_has_no_effect_is_warned_of_where_the_configuration_is_lenient(
    plan: Callable[..., list[Delegate]], caplog: pytest.LogCaptureFixture
) -> None:
    config.forget_warned()
    asked = [{"name": "n", "portMappings": [{"hostPort": 80, "containerPort": 80}]}]
    found = plan(asked, {"n": BRIDGE}, config={"lenientCapabilities": ["portMappings"]})[1]
    assert (found.asked, found.lenient) == ((), ("portMappings",))
    assert 'network ns/n: pods ask for "portMappings", and no plugin of it has that capability: ' in caplog.text


# KubeVirt and OVN-Kubernetes

OVN = {
    "cniVersion": "1.0.0",
    "name": "tenant-blue",
    "type": "ovn-k8s-cni-overlay",
    "topology": "layer2",
    "role": "secondary",
    "subnets": "10.100.0.0/16",
    "excludeSubnets": "10.100.0.0/30",
    "allowPersistentIPs": True,
    "mtu": 1400,
    "netAttachDefName": "ns/l2",
}


def test_network_of_ovn_kubernetes_reaches_its_plugin_as_it_stands_and_the_claim_by_the_pods_annotation(
    plan: Callable[..., list[Delegate]],
) -> None:
    element = {"name": "l2", "namespace": "ns", "interface": "pod37a8eec1ce1", "mac": MAC}
    claim = {**element, "ips": ["10.100.0.5/16"], "ipam-claim-reference": "vm1.blue", "cni-args": None}
    found = plan([claim], {"l2": OVN}, config={"type": "multus"})[1]
    assert found.network().plugins == [OVN]
    assert found.ifname == "pod37a8eec1ce1"
    # With these the plugin finds the pod, whose annotation has the rest.
    assert {key: found.args[key] for key in ("K8S_POD_NAMESPACE", "K8S_POD_NAME", "MAC", "IP")} == {
        "K8S_POD_NAMESPACE": "ns",
        "K8S_POD_NAME": "p",
        "MAC": MAC,
        "IP": "10.100.0.5/16",
    }


def test_arguments_of_a_binding_plugin_are_put_into_its_configuration_however_nested(
    plan: Callable[..., list[Delegate]],
) -> None:
    args = {"logicNetworkName": "default", "more": {"list": [1, {"deep": True}], "none": None}}
    binding = {"cniVersion": "1.0.0", "plugins": [{"type": "kubevirt-passt-binding"}]}
    found = plan([{"name": "b", "cni-args": args}], {"b": binding})[1]
    assert found.network().plugins == [{"type": "kubevirt-passt-binding", "args": {"cni": args}}]


# Calls


def test_runtime_without_pods_is_not_asked_which(plan: Callable[..., list[Delegate]]) -> None:
    assert resolve.named_pod({}) is None
    assert resolve.named_pod({"K8S_POD_NAME": "", "K8S_POD_NAMESPACE": ""}) is None
    assert [each.label for each in plan("never read", args={})] == ["pods"]


def test_pod_keeps_the_uid_that_the_runtime_knows_it_by(tmp_path: Path) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "ns", "uid": "mirror"}}
    pod["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "hash"}  # type: ignore[index]
    (tmp_path / "p.json").write_text(json.dumps(pod))
    cluster = ManifestCluster(tmp_path)
    named = Pod(namespace="ns", name="p")
    assert resolve.read_pod(named, cluster).uid == "mirror"
    assert resolve.read_pod(Pod(namespace="ns", name="p", uid="hash"), cluster).uid == "hash"
    with pytest.raises(Error) as other:
        resolve.read_pod(Pod(namespace="ns", name="p", uid="other"), cluster)
    assert other.value.kind == Kind.TRY_AGAIN


def test_request_of_a_delegate_is_the_runtimes_with_its_own_interface_arguments_and_folders(
    plan: Callable[..., list[Delegate]],
) -> None:
    delegate = plan("a", {"a": BRIDGE})[1]
    call = Request(command="DEL", container_id="c1", netns="/late", ifname="eth0", args={}, path=("/moved",))
    made = delegate.request(call, netns="/n")
    assert (made.command, made.container_id, made.netns, made.ifname) == ("DEL", "c1", "/n", "net1")
    assert made.args == delegate.args
    assert made.path == ("/opt/cni/bin", "/usr/bin", "/moved")


# Plans and the journal


names = st.text(alphabet="abc", min_size=1, max_size=3)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
delegates = st.builds(
    Delegate,
    configuration=names,
    request_ifname=names,
    label=names,
    raw=st.dictionaries(names, json_values, max_size=3),
    version=st.sampled_from(["", "1.0.0"]),
    ifname=names,
    args=st.dictionaries(names, names, max_size=2),
    path=st.lists(names, max_size=2).map(tuple),
    cni_args=st.dictionaries(names, json_values, max_size=2),
    default_route=st.none() | st.just(()) | st.just(("10.0.0.1",)),
)


@given(st.lists(delegates, max_size=3), st.builds(Identity, *[st.integers(0, 2**63 - 1)] * 3))
def test_plan_is_read_back_from_the_journal_as_it_was_written(found: list[Delegate], identity: Identity) -> None:
    rows = planned_rows(found, container="c1", netns="/n", identity=identity)
    assert [row.position for row in rows] == list(range(len(found)))
    for row, delegate in zip(rows, found, strict=True):
        json.dumps(row.record)
        assert recorded_delegate(row) == delegate
        assert recorded_identity(row) == identity


def test_record_of_an_earlier_version_is_read_with_the_defaults_of_what_came_since() -> None:
    least = {
        "configuration": "c",
        "requestIfname": "eth0",
        "label": "l",
        "raw": {},
        "version": "",
        "ifname": "net1",
    }
    (row,) = planned_rows(
        [Delegate(configuration="c", request_ifname="eth0", label="l", raw={}, version="", ifname="net1")],
        container="c1",
        netns="/n",
        identity=Identity(1, 2, 3),
    )
    assert recorded_delegate(replace(row, record={"delegate": least})) == recorded_delegate(row)


# Default routes in results


def test_results_tell_the_default_routes_that_there_are() -> None:
    def result(*routes: Config) -> Config:
        return {"interfaces": [], "ips": [], "routes": list(routes), "dns": {}}

    v4, v6, other = {"dst": "0.0.0.0/0"}, {"dst": "::/0", "gw": "fd00::1"}, {"dst": "10.9.0.0/16"}
    tabled = {"dst": "0.0.0.0/0", "gw": "10.0.0.1", "table": 100}
    results = {"eth0": result(v4, other, v6, tabled), "net1": result(v4), "net2": result(other)}
    wanted = {gateway._FAMILIES[0]: "10.2.0.1"}
    assert gateway._changed_results("net1", wanted, list(wanted), results) == {
        "eth0": result(other, v6, tabled),
        "net1": result({"dst": "0.0.0.0/0", "gw": "10.2.0.1"}),
    }
    assert gateway._changed_results("net1", {}, [gateway._FAMILIES[0]], results) == {
        "eth0": result(other, v6, tabled)
    }

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from wirespeed.errors import Error, Kind
from wirespeed.kube.proto import deviceplugin_pb2 as dp
from wirespeed.play import admission, manifests, session
from wirespeed.play.admission import Allocated
from wirespeed.play.manifests import Manifests
from wirespeed.play.process import Mount

POOLS = '{"resourceList": [{"resourceName": "left"}, {"resourceName": "right", "resourcePrefix": "example.com"}]}'


def load(
    tmp_path: Path, *limits: dict[str, Any], config: str = "", networks: Sequence[dict[str, Any]] = ()
) -> Manifests:
    """Pods with these limits (and 1 GiB of memory), networks, and the device plugin's configuration."""
    resources = [{"limits": {"memory": "1Gi", **each}} for each in limits]
    documents: list[Any] = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"p{number}"},
            "spec": {"containers": [{"name": "main", "command": ["true"], "resources": each}]},
        }
        for number, each in enumerate(resources)
    ]
    documents += networks
    if config:
        data = {"config.json": config}
        documents.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
    file = tmp_path / "m.yaml"
    file.write_text(yaml.safe_dump_all(documents))
    return manifests.load([file])


def write_pages(sysfs: Path, folder: str, free: int) -> None:
    path = sysfs / "kernel/mm/hugepages" / folder
    path.mkdir(parents=True)
    (path / "free_hugepages").write_text(f"{free}\n")


def test_hugepages_that_all_pods_ask_for_together_have_to_be_free(tmp_path: Path) -> None:
    write_pages(tmp_path, "hugepages-2048kB", 64)
    pods = load(tmp_path, {"hugepages-2Mi": "64Mi"}, {"hugepages-2Mi": "64Mi"}).pods
    admission.check_hugepages(pods, tmp_path)
    with pytest.raises(Error) as refused:
        admission.check_hugepages([*pods, *pods], tmp_path)
    assert refused.value.kind == Kind.UNAVAILABLE
    assert "hugepages-2Mi: 256 MiB requested, 128 MiB free; this node needs more in" in refused.value.msg
    assert refused.value.msg.endswith("hugepages-2048kB/nr_hugepages")


def test_hugepages_of_a_size_that_the_node_has_not(tmp_path: Path) -> None:
    with pytest.raises(Error, match="hugepages-1Gi: this node has no pages of that size"):
        admission.check_hugepages(load(tmp_path, {"hugepages-1Gi": "1Gi"}).pods, tmp_path)


def test_resources_of_all_pods_are_added_up(tmp_path: Path) -> None:
    pods = load(tmp_path, {"intel.com/a": 1, "cpu": 2}, {"intel.com/a": 2, "intel.com/b": 1}).pods
    assert admission.requested_resources(pods) == {"intel.com/a": 3, "intel.com/b": 1}


def test_a_container_is_given_what_its_resources_bring_together() -> None:
    given = Allocated()
    shared = dp.DeviceSpec(container_path="/dev/vfio/vfio", host_path="/dev/vfio/vfio", permissions="rw")
    for number in "12":
        own = dp.DeviceSpec(container_path=f"/dev/vfio/{number}", host_path=f"/dev/vfio/noiommu-{number}")
        mount = dp.Mount(container_path=f"/m{number}", host_path=f"/host/{number}", read_only=number == "2")
        response = {"envs": {f"PCIDEVICE_{number}": number}, "devices": [shared, own], "mounts": [mount]}
        given.add(dp.ContainerAllocateResponse(**response))
    assert given.environment == {"PCIDEVICE_1": "1", "PCIDEVICE_2": "2"}
    assert given.devices == {
        "/dev/vfio/vfio": "/dev/vfio/vfio",
        "/dev/vfio/1": "/dev/vfio/noiommu-1",
        "/dev/vfio/2": "/dev/vfio/noiommu-2",
    }
    assert given.mounts == [Mount("/host/1", "/m1"), Mount("/host/2", "/m2", ("ro",))]


def test_a_container_is_given_the_names_of_its_cdi_devices() -> None:
    given = Allocated()
    for name in ("intel.com/net=1", "intel.com/other=2"):
        given.add(dp.ContainerAllocateResponse(cdi_devices=[dp.CDIDevice(name=name)]))
    assert given.cdi == ["intel.com/net=1", "intel.com/other=2"]


def test_the_device_plugins_configuration_offers_what_pods_ask_for(tmp_path: Path) -> None:
    asked = ({"intel.com/left": 1}, {"example.com/right": 1})
    assert session.device_plugin(load(tmp_path, *asked, config=POOLS)) == POOLS
    assert session.device_plugin(load(tmp_path, {})) == ""


def network(name: str, resource: str, config: str) -> dict[str, Any]:
    annotations = {"k8s.v1.cni.cncf.io/resourceName": resource} if resource else None
    return {
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"config": config},
    }


BRIDGE = "bridge.network.kubevirt.io/br0"


@pytest.mark.parametrize("config", ['{"type": "bridge"}', '{"plugins": [{"type": "ovs"}]}', ""])
def test_a_resource_that_no_pool_offers_is_counted_where_its_network_can_do_without(
    tmp_path: Path, config: str
) -> None:
    networks = [network("a", BRIDGE, config), network("b", "", '{"type": "sriov"}')]
    loaded = load(tmp_path, {BRIDGE: 1, "intel.com/left": 1}, config=POOLS, networks=networks)
    assert session.unserved_resources(loaded) == [BRIDGE]
    assert session.device_plugin(loaded) == POOLS


@pytest.mark.parametrize("other", [[], [network("b", BRIDGE, '{"type": "sriov"}')]])
def test_a_resource_without_a_network_or_of_one_that_needs_a_device_is_not_counted(
    tmp_path: Path, other: list[dict[str, Any]]
) -> None:
    networks = [network("a", BRIDGE if other else "", '{"type": "bridge"}'), *other]
    loaded = load(tmp_path, {BRIDGE: 1}, networks=networks)
    assert session.unserved_resources(loaded) == []
    with pytest.raises(Error, match=f"pods request {BRIDGE}, "):
        session.device_plugin(loaded)


def test_a_resource_that_a_pool_offers_is_not_counted(tmp_path: Path) -> None:
    networks = [network("a", "intel.com/left", '{"type": "bridge"}')]
    assert session.unserved_resources(load(tmp_path, {"intel.com/left": 1}, config=POOLS, networks=networks)) == []


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (
            "",
            "pods request intel.com/other, which no pool offers; the pools are none; add a pool to the "
            "resourceList of --pools, or of a ConfigMap's config.json",
        ),
        (
            POOLS,
            "pods request intel.com/other, which no pool offers; the pools are intel.com/left, example.com/right;",
        ),
        ('{"resourceList": [{"resourceName": 3}]}', r'config.json: key "resourceList\[0\]'),
    ],
)
def test_what_no_pool_offers_is_refused(tmp_path: Path, config: str, told: str) -> None:
    with pytest.raises(Error, match=told):
        session.device_plugin(load(tmp_path, {"intel.com/other": 1}, config=config))

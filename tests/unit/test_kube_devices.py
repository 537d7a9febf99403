"""The devices of a pod from all sources: which source is queried, and how the answers are merged."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_kube_checkpoint import entry
from tests.unit.test_kube_dra import Cluster, claim, device, pod, published, result
from wirespeed.cni.errors import code_of
from wirespeed.errors import Error, Kind
from wirespeed.kube import checkpoint
from wirespeed.kube.cluster import MIRROR, NotFoundError
from wirespeed.kube.devices import PodDevices
from wirespeed.plugins.meta.devices import Devices

VF = "intel.com/vf"


def kubelet(folder: Path, *entries: dict[str, Any], serves: tuple[str, ...] = ()) -> Path:
    """A kubelet's directory with a checkpoint, but without a socket."""
    plugins = folder / "kubelet/device-plugins"
    plugins.mkdir(parents=True)
    data = {"PodDeviceEntries": list(entries), "RegisteredDevices": {resource: [] for resource in serves}}
    (plugins / checkpoint.NAME).write_text(json.dumps({"Data": data}))
    return folder / "kubelet"


def unused() -> Any:
    raise AssertionError("it was asked for")


def sources(folder: Path, *objects: dict[str, Any]) -> PodDevices:
    (folder / "manifests").mkdir()
    cluster = Cluster(folder / "manifests", *objects)
    return PodDevices(folder / "kubelet", pod_resources=unused, cluster=lambda: cluster)


def test_without_the_kubelets_socket_its_checkpoint_counts(tmp_path: Path) -> None:
    kubelet(tmp_path, entry("u1", "c", VF, node0=["0000:01:00.4"]))
    assert sources(tmp_path).of(pod()) == {VF: ["0000:01:00.4"]}


def test_a_static_pod_is_known_by_the_hash_of_its_file(tmp_path: Path) -> None:
    kubelet(tmp_path, entry("hash", "c", VF, node0=["0000:01:00.4"]))
    static = pod()
    static["metadata"]["annotations"] = {MIRROR: "hash"}
    found = sources(tmp_path)
    assert found.of(static) == found.of(static, "u1") == found.of(pod(), "hash") == {VF: ["0000:01:00.4"]}


def test_a_pod_without_claims_needs_no_cluster(tmp_path: Path) -> None:
    folder = kubelet(tmp_path, entry("u1", "c", VF, node0=["0000:01:00.4"]))
    assert PodDevices(folder, pod_resources=unused, cluster=unused).of(pod()) == {VF: ["0000:01:00.4"]}


def test_devices_of_the_kubelet_and_of_claims_add_up(tmp_path: Path) -> None:
    kubelet(tmp_path, entry("u1", "c", VF, node0=["0000:01:00.4"]), entry("u1", "c", "a.b/c", node0=["x"]))
    slices = published(device("vf0", "0000:02:00.4"), device("vf1", "0000:02:00.5", "intel.com/other"))
    found = sources(tmp_path, claim("web-nic", result("vf0"), result("vf1")), slices)
    assert found.of(pod("web-nic")) == {
        VF: ["0000:01:00.4", "0000:02:00.4"],
        "a.b/c": ["x"],
        "intel.com/other": ["0000:02:00.5"],
    }


def test_a_gpus_claim_leaves_what_the_kubelet_gave(tmp_path: Path) -> None:
    kubelet(tmp_path, entry("u1", "c", VF, node0=["0000:01:00.4"]))
    gpu = published(device("gpu0", None, None), name="gpus", driver="gpu.example.com")
    found = sources(tmp_path, claim("gpu", result("gpu0", driver="gpu.example.com")), gpu)
    assert found.of(pod("gpu")) == {VF: ["0000:01:00.4"]}


def test_a_claim_that_cannot_be_read_is_no_pod_without_devices(tmp_path: Path) -> None:
    kubelet(tmp_path, entry("u1", "c", VF, node0=["0000:01:00.4"]))
    with pytest.raises(Error) as error:
        sources(tmp_path).of(pod("web-nic"))
    assert code_of(error.value) == code_of(NotFoundError(""))
    assert error.value.msg.startswith("devices of pod default/web: ResourceClaim default/web-nic: ")


BRIDGE = "bridge.network.kubevirt.io/br0"


def test_resource_is_served_by_a_device_plugin_or_a_driver_of_the_pods_claims(tmp_path: Path) -> None:
    kubelet(tmp_path, serves=(VF,))  # registered, with no healthy device
    slices = published(device("vf0", "0000:02:00.4", "sriov_nic_1"), device("vf1", "0000:02:00.5", "sriov_nic_2"))
    found = sources(tmp_path, claim("web-nic", result("vf0")), slices)
    assert found.serves(pod(), VF)
    assert not found.serves(pod(), BRIDGE)
    assert not found.serves(pod(), "sriov_nic_2")
    assert found.serves(pod("web-nic"), "sriov_nic_2")  # served by the driver, although the pod got another device
    assert not found.serves(pod("web-nic"), BRIDGE)


def test_pods_devices_are_named_as_their_driver_names_them(tmp_path: Path) -> None:
    kubelet(tmp_path)
    slices = published(device("vf0", "0000:02:00.4", "sriov_nic_1"))
    found = sources(tmp_path, claim("web-nic", result("vf0")), slices)
    assert found.of(pod("web-nic")) == {"sriov_nic_1": ["0000:02:00.4"]}


def test_a_kubelet_that_cannot_tell_may_serve_any_resource(tmp_path: Path) -> None:
    assert PodDevices(tmp_path, pod_resources=unused, cluster=unused).serves(pod(), BRIDGE)


def test_a_kubelet_with_neither_socket_nor_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Error) as error:
        PodDevices(tmp_path, pod_resources=unused, cluster=unused).of(pod())
    assert error.value.kind == Kind.IO
    assert error.value.msg.startswith(
        f"devices of pod default/web: neither {tmp_path}/pod-resources/kubelet.sock nor"
    )


def test_a_kubelet_that_is_there_and_does_not_answer_is_not_passed_over(tmp_path: Path) -> None:
    from wirespeed.kube.podresources import PodResources

    folder = kubelet(tmp_path, entry("u1", "c", VF, node0=["0000:01:00.4"]))
    path = folder / "pod-resources/kubelet.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    found = PodDevices(folder, pod_resources=lambda: PodResources(path), cluster=unused)
    with pytest.raises(Error) as error:
        found.of(pod())
    assert error.value.kind == Kind.TRY_AGAIN
    assert str(path) in error.value.msg


@pytest.mark.parametrize("key", ["namespace", "name"])
def test_a_pod_needs_namespace_and_name(tmp_path: Path, key: str) -> None:
    nameless = pod()
    nameless["metadata"][key] = ""
    with pytest.raises(Error, match="expected a namespace and a name"):
        sources(tmp_path).of(nameless)


def test_networks_of_one_resource_get_different_devices_until_none_is_left(tmp_path: Path) -> None:
    kubelet(tmp_path, entry("u1", "c", VF, node0=["0000:01:00.4"]))
    slices = published(device("vf0", "0000:02:00.4"))
    found = sources(tmp_path, claim("web-nic", result("vf0")), slices)
    devices = Devices(lambda: found.of(pod("web-nic"), "u1"), "default/web")
    assert [devices.take(VF), devices.take(VF)] == ["0000:01:00.4", "0000:02:00.4"]
    with pytest.raises(Error, match="all 2 are attached already") as error:
        devices.take(VF)
    assert error.value.kind == Kind.DEVICE

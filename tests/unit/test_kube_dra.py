"""Devices of DRA claims: a pod's devices, their resource names, and what is rejected or ignored."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from wirespeed.errors import Error, Kind
from wirespeed.kube import dra
from wirespeed.kube.cluster import NotFoundError, UnavailableError
from wirespeed.kube.manifests import ManifestCluster

DRIVER = "sriovnetwork.k8snetworkplumbingwg.io"
GPU = "gpu.example.com"
VF = "intel.com/vf"


class Cluster(ManifestCluster):
    """A manifest cluster that counts requests; `behind` are slices that its cache does not have."""

    def __init__(self, folder: Path, *objects: dict[str, Any], behind: tuple[dict[str, Any], ...] = ()) -> None:
        super().__init__(folder)
        self.asked: Counter[str] = Counter()
        self.behind = {value["metadata"]["name"] for value in behind}
        for value in (*objects, *behind):
            name = f"{value['kind']}-{value['metadata'].get('namespace', '')}-{value['metadata']['name']}.json"
            (folder / name).write_text(json.dumps(value))

    def claim(self, namespace: str, name: str) -> dict[str, Any]:
        self.asked[f"claim {namespace}/{name}"] += 1
        return super().claim(namespace, name)

    def slices(self, driver: str, *, fresh: bool = False) -> list[dict[str, Any]]:
        self.asked[f"slices {driver}{' fresh' if fresh else ''}"] += 1
        found = super().slices(driver)
        return found if fresh else [value for value in found if value["metadata"]["name"] not in self.behind]


def claim(name: str, *results: dict[str, Any], namespace: str = "default") -> dict[str, Any]:
    return {
        "kind": "ResourceClaim",
        "apiVersion": "resource.k8s.io/v1",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {},
        "status": {"allocation": {"devices": {"results": list(results)}}},
    }


def result(device: str, *, request: str = "nic", driver: str = DRIVER, pool: str = "node1", **more: Any) -> Any:
    return {"request": request, "driver": driver, "pool": pool, "device": device, **more}


def device(name: str, identity: str | None, resource: str | None = VF) -> dict[str, Any]:
    texts = {dra.DEVICE_ID: identity, dra.RESOURCE_NAME: resource, "gpu.example.com/model": "a"}
    return {"name": name, "attributes": {key: {"string": text} for key, text in texts.items() if text is not None}}


def published(
    *devices: dict[str, Any],
    name: str = "node1-nics",
    driver: str = DRIVER,
    pool: str = "node1",
    generation: int = 1,
    **where: Any,
) -> dict[str, Any]:
    return {
        "kind": "ResourceSlice",
        "apiVersion": "resource.k8s.io/v1",
        "metadata": {"name": name},
        "spec": {
            "driver": driver,
            "pool": {"name": pool, "generation": generation, "resourceSliceCount": 1},
            "devices": list(devices),
            **(where or {"nodeName": "node1"}),
        },
    }


def pod(
    *claims: str, direct: tuple[str, ...] = (), extended: dict[str, Any] | None = None, namespace: str = "default"
) -> dict[str, Any]:
    made = [{"name": f"t{number}", "resourceClaimTemplateName": "t"} for number, _ in enumerate(claims)]
    named = [{"name": f"d{number}", "resourceClaimName": name} for number, name in enumerate(direct)]
    statuses = [{"name": f"t{number}", "resourceClaimName": name} for number, name in enumerate(claims)]
    status: dict[str, Any] = {"resourceClaimStatuses": statuses} if statuses else {}
    if extended:
        status["extendedResourceClaimStatus"] = extended
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"namespace": namespace, "name": "web", "uid": "u1"},
        "spec": {"nodeName": "node1", "containers": [{"name": "c"}], "resourceClaims": made + named},
        "status": status,
    }


VF0, VF1 = device("vf0", "0000:01:00.1"), device("vf1", "0000:01:00.2")


def test_a_claims_device_is_found_under_the_resource_that_its_slice_names(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, claim("web-nic", result("vf0")), published(VF0, VF1))
    assert dra.devices(cluster, pod("web-nic")) == {VF: ["0000:01:00.1"]}


def test_devices_of_one_resource_come_sorted_and_others_under_their_own(tmp_path: Path) -> None:
    other = device("a", "0000:09:00.0", "intel.com/other")
    cluster = Cluster(
        tmp_path, claim("web-nic", result("vf1"), result("a"), result("vf0")), published(VF1, other, VF0)
    )
    assert dra.devices(cluster, pod("web-nic")) == {
        VF: ["0000:01:00.1", "0000:01:00.2"],
        "intel.com/other": ["0000:09:00.0"],
    }


def test_a_claim_that_the_pod_names_itself_counts_like_one_that_was_made_for_it(tmp_path: Path) -> None:
    cluster = Cluster(
        tmp_path, claim("shared", result("vf0")), claim("web-nic", result("vf1")), published(VF0, VF1)
    )
    assert dra.devices(cluster, pod("web-nic", direct=("shared",))) == {VF: ["0000:01:00.1", "0000:01:00.2"]}


def test_a_template_that_led_to_no_claim_is_no_claim(tmp_path: Path) -> None:
    asking = pod("web-nic")
    asking["status"]["resourceClaimStatuses"].append({"name": "t1", "resourceClaimName": None})
    cluster = Cluster(tmp_path, claim("web-nic", result("vf0")), published(VF0))
    assert dra.devices(cluster, asking) == {VF: ["0000:01:00.1"]}


def test_a_claim_of_the_same_name_in_another_namespace_is_another_claim(tmp_path: Path) -> None:
    cluster = Cluster(
        tmp_path,
        claim("web-nic", result("vf0")),
        claim("web-nic", result("vf1"), namespace="blue"),
        published(VF0, VF1),
    )
    assert dra.devices(cluster, pod("web-nic")) == {VF: ["0000:01:00.1"]}
    assert dra.devices(cluster, pod("web-nic", namespace="blue")) == {VF: ["0000:01:00.2"]}


def test_slices_of_another_node_do_not_count(tmp_path: Path) -> None:
    elsewhere = published(VF0, name="node2-nics", nodeName="node2")
    cluster = Cluster(tmp_path, claim("web-nic", result("vf0")), elsewhere)
    assert dra.devices(cluster, pod("web-nic")) == {}


@pytest.mark.parametrize("where", [{"allNodes": True}, {"nodeSelector": {"nodeSelectorTerms": []}}])
def test_slices_of_no_node_in_particular_count(tmp_path: Path, where: dict[str, Any]) -> None:
    cluster = Cluster(tmp_path, claim("web-nic", result("vf0", pool="rack")), published(VF0, pool="rack", **where))
    assert dra.devices(cluster, pod("web-nic")) == {VF: ["0000:01:00.1"]}


def test_all_slices_of_a_pool_are_searched_and_each_driver_is_asked_once(tmp_path: Path) -> None:
    cluster = Cluster(
        tmp_path,
        claim("one", result("vf0")),
        claim("two", result("vf1")),
        published(VF0),
        published(VF1, name="node1-more-nics"),
    )
    assert dra.devices(cluster, pod("one", "two")) == {VF: ["0000:01:00.1", "0000:01:00.2"]}
    assert cluster.asked == {"claim default/one": 1, "claim default/two": 1, f"slices {DRIVER}": 1}


def test_only_the_newest_generation_of_a_pool_counts(tmp_path: Path) -> None:
    old = published(device("vf0", "0000:01:00.1"), VF1, name="old", generation=1)
    new = published(device("vf0", "0000:02:00.1"), name="new", generation=2)
    cluster = Cluster(tmp_path, claim("web-nic", result("vf0"), result("vf1")), old, new)
    assert dra.devices(cluster, pod("web-nic")) == {VF: ["0000:02:00.1"]}


def test_another_pool_of_the_driver_has_its_own_generation(tmp_path: Path) -> None:
    other = published(VF1, name="other", pool="rack", generation=7)
    cluster = Cluster(tmp_path, claim("web-nic", result("vf0")), published(VF0), other)
    assert dra.devices(cluster, pod("web-nic")) == {VF: ["0000:01:00.1"]}


def test_a_device_that_the_cache_does_not_know_yet_is_asked_for(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, claim("web-nic", result("vf0"), result("gone")), behind=(published(VF0),))
    assert dra.devices(cluster, pod("web-nic")) == {VF: ["0000:01:00.1"]}
    assert cluster.asked[f"slices {DRIVER} fresh"] == 1


@pytest.mark.parametrize(
    ("devices", "reason"),
    [
        ([], "no ResourceSlice of the pool's newest generation has it"),
        ([device("vf9", "0000:01:00.1")], "no ResourceSlice of the pool's newest generation has it"),
        ([device("vf0", None)], f"attribute {dra.DEVICE_ID}: expected a device, got None"),
        ([device("vf0", "0000:01:00.1", None)], f"attribute {dra.RESOURCE_NAME}: expected a resource, got None"),
    ],
    ids=["no slice", "other device", "no deviceID", "no resourceName"],
)
def test_what_is_no_network_device_is_passed_over(
    tmp_path: Path, devices: list[dict[str, Any]], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="wirespeed.kube.dra")
    slices = [published(*devices)] if devices else []
    cluster = Cluster(tmp_path, claim("web-nic", result("vf0")), *slices)
    assert dra.devices(cluster, pod("web-nic")) == {}
    what = f"device vf0 of pool node1 of driver {DRIVER}"
    assert caplog.messages == [f"ResourceClaim default/web-nic: not a network device: {what}: {reason}"]


def test_a_gpu_beside_a_network_device_changes_nothing(tmp_path: Path) -> None:
    gpu = published(device("gpu0", None, None), name="gpus", driver=GPU)
    cluster = Cluster(tmp_path, claim("both", result("gpu0", driver=GPU), result("vf0")), published(VF0), gpu)
    assert dra.devices(cluster, pod("both")) == {VF: ["0000:01:00.1"]}


def test_an_attribute_that_is_no_text_is_none(tmp_path: Path) -> None:
    odd = {"name": "vf0", "attributes": {dra.DEVICE_ID: {"int": 7}, dra.RESOURCE_NAME: {"string": VF}}}
    cluster = Cluster(tmp_path, claim("web-nic", result("vf0")), published(odd))
    assert dra.devices(cluster, pod("web-nic")) == {}


def test_a_device_that_the_claim_only_looks_at_is_not_the_pods(tmp_path: Path) -> None:
    looking = result("vf0", adminAccess=True)
    cluster = Cluster(tmp_path, claim("web-nic", looking, result("vf1", adminAccess=False)), published(VF0, VF1))
    assert dra.devices(cluster, pod("web-nic")) == {VF: ["0000:01:00.2"]}


def test_a_missing_claim_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="ResourceClaim default/web-nic"):
        dra.devices(Cluster(tmp_path), pod("web-nic"))


@pytest.mark.parametrize("status", [{}, {"allocation": None}, {"allocation": {"devices": {}}}, None])
def test_a_claim_without_devices_is_an_error(tmp_path: Path, status: Any) -> None:
    with pytest.raises(Error) as error:
        dra.devices(Cluster(tmp_path, claim("web-nic") | {"status": status}), pod("web-nic"))
    assert error.value.kind == Kind.DEVICE
    key = 'key "status.allocation.devices.results"'
    assert error.value.msg == f"ResourceClaim default/web-nic: {key} is missing: expected the allocated devices"


def test_a_claim_of_another_shape_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    odd = claim("web-nic", result("vf0") | {"pool": 7})
    with pytest.raises(Error, match=r"ResourceClaim default/web-nic: .*results\[0\]\.pool") as error:
        dra.devices(Cluster(tmp_path, odd), pod("web-nic"))
    assert error.value.kind == Kind.INVALID_CONFIG


def extended(*mappings: tuple[str, str]) -> dict[str, Any]:
    return {
        "resourceClaimName": "web-extended",
        "requestMappings": [
            {"containerName": "c", "resourceName": resource, "requestName": request}
            for resource, request in mappings
        ],
    }


PORT1, PORT2 = "example.com/port1", "example.com/port2"


def test_extended_resources_are_found_under_their_own_names(tmp_path: Path) -> None:
    cluster = Cluster(
        tmp_path,
        claim("web-extended", result("a", request="r0"), result("b", request="r0"), result("c", request="r1")),
        published(
            device("a", "0000:01:00.1", PORT1),
            device("b", "0000:01:00.0", PORT1),
            device("c", "0000:02:00.0", PORT2),
        ),
    )
    asking = pod(extended=extended((PORT1, "r0"), (PORT2, "r1")))
    assert dra.devices(cluster, asking) == {PORT1: ["0000:01:00.0", "0000:01:00.1"], PORT2: ["0000:02:00.0"]}


def test_claims_and_extended_resources_add_up(tmp_path: Path) -> None:
    cluster = Cluster(
        tmp_path,
        claim("web-nic", result("vf0")),
        claim("web-extended", result("a", request="r0"), result("c", request="r1")),
        published(VF0, device("a", "0000:01:00.5", PORT1), device("c", "0000:02:00.0", PORT2)),
    )
    asking = pod("web-nic", extended=extended((PORT1, "r0"), (PORT2, "r1")))
    assert dra.devices(cluster, asking) == {
        VF: ["0000:01:00.1"],
        PORT1: ["0000:01:00.5"],
        PORT2: ["0000:02:00.0"],
    }


@pytest.mark.parametrize(
    ("results", "devices", "message"),
    [
        ([], [], f"no device of {PORT1} is allocated for it"),
        ([result("a", request="r0")], [], "no ResourceSlice of the pool's newest generation has it"),
        (
            [result("a", request="r0")],
            [device("a", "0000:01:00.1", PORT2)],
            f"attribute {dra.RESOURCE_NAME}: expected {PORT1}, got {PORT2!r}",
        ),
        (
            [result("a", request="r0")],
            [device("a", "0000:01:00.1", None)],
            f"attribute {dra.RESOURCE_NAME}: expected {PORT1}, got None",
        ),
        (
            [result("a", request="r0")],
            [device("a", None, PORT1)],
            f"attribute {dra.DEVICE_ID}: expected a device, got None",
        ),
    ],
    ids=["no request", "no slice", "other resource", "no resource", "no deviceID"],
)
def test_an_extended_resource_must_have_the_device_that_it_stands_for(
    tmp_path: Path, results: list[dict[str, Any]], devices: list[dict[str, Any]], message: str
) -> None:
    cluster = Cluster(tmp_path, claim("web-extended", *results), published(*devices))
    with pytest.raises(Error) as error:
        dra.devices(cluster, pod(extended=extended((PORT1, "r0"))))
    assert error.value.kind == Kind.DEVICE
    assert error.value.msg.startswith("ResourceClaim default/web-extended: request r0: ")
    assert error.value.msg.endswith(message)


def test_nothing_more_is_asked_once_the_pods_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(tmp_path, claim("one", result("vf0")), claim("two", result("vf1")), published(VF0, VF1))
    seconds = iter([0.0, 1.0, 2.0, 21.0])
    monkeypatch.setattr("time.monotonic", lambda: next(seconds))
    with pytest.raises(UnavailableError, match=r"ResourceClaim default/two: .*longer than 20 s"):
        dra.devices(cluster, pod("one", "two"))
    assert cluster.asked == {"claim default/one": 1, f"slices {DRIVER}": 1}


@pytest.mark.parametrize(
    ("asking", "expected"),
    [
        (pod(), False),
        (pod("web-nic"), True),
        (pod(direct=("shared",)), True),
        (pod(extended=extended((PORT1, "r0"))), True),
        ({"metadata": {"namespace": "default", "name": "web"}}, False),
    ],
)
def test_a_pod_has_claims_in_any_of_the_three_ways(asking: dict[str, Any], *, expected: bool) -> None:
    assert dra.has_claims(asking) is expected

"""A pod's devices, from a kubelet over gRPC and from claims in an API server: which requests are made."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.apiserver import SLICES, ApiServer
from tests.node.conftest import PATIENCE
from tests.unit.test_kube_dra import DRIVER, claim, device, pod, published, result
from wirespeed.cni.errors import code_of
from wirespeed.errors import Error, Kind
from wirespeed.kube import rpc, slices
from wirespeed.kube.apiserver import ApiCluster
from wirespeed.kube.cluster import NotFoundError
from wirespeed.kube.devices import PodDevices
from wirespeed.kube.podresources import PodResources
from wirespeed.kube.proto import deviceplugin_pb2 as dp
from wirespeed.node import Node, NodeConfig
from wirespeed.play.kubelet import Kubelet

VF = "intel.com/vf"
CLAIM = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/web-nic"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(tmp_path) as server:
        yield server


@pytest.fixture
def cluster(api: ApiServer) -> Iterator[Callable[..., ApiCluster]]:
    """Make clusters for node1; each is closed after the test and must leave no watch open."""
    made: list[ApiCluster] = []

    def make(**how: Any) -> ApiCluster:
        made.append(ApiCluster(str(api.kubeconfig()), how.pop("node", "node1"), **how))
        if how.get("watch", True):
            assert made[-1].wait_synced(PATIENCE)
            api.wait(lambda: len(api.watches) == 2)
            api.forget()
        return made[-1]

    yield make
    for each in made:
        each.close()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("watch ")]


class _Plugin:
    """A device plugin with these devices."""

    def __init__(self, *devices: str) -> None:
        self._devices = devices
        self._end = threading.Event()

    def GetDevicePluginOptions(self, request: Any, context: Any) -> Any:
        return dp.DevicePluginOptions()

    def ListAndWatch(self, request: Any, context: Any) -> Iterator[Any]:
        yield dp.ListAndWatchResponse(devices=[dp.Device(ID=each, health="Healthy") for each in self._devices])
        context.add_callback(self._end.set)
        self._end.wait()

    def Allocate(self, request: Any, context: Any) -> Any:
        return dp.AllocateResponse(
            container_responses=[dp.ContainerAllocateResponse() for _ in request.container_requests]
        )

    GetPreferredAllocation = PreStartContainer = GetDevicePluginOptions  # not called


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[Callable[..., Kubelet]]:
    """Start a kubelet whose plugin has devices of the resource intel.com/vf."""
    stops: list[Callable[[], object]] = []

    def make(*devices: str) -> Kubelet:
        made = Kubelet(tmp_path / "kubelet")
        made.start()
        stops.append(made.stop)
        path = tmp_path / "kubelet/device-plugins/vf.sock"
        workers = futures.ThreadPoolExecutor(4)
        service = dp.DESCRIPTOR.services_by_name["DevicePlugin"]
        server = grpc.server(workers, handlers=[rpc.handler(service, _Plugin(*devices))])
        server.add_insecure_port(f"unix:{path}")
        server.start()
        stops.extend([workers.shutdown, lambda: server.stop(None).wait()])
        made.connect(VF, path)
        made.wait_for(VF, len(devices), PATIENCE)
        return made

    yield make
    for stop in reversed(stops):
        stop()


def asked(api: ApiServer) -> list[str]:
    """The requests since the last call, with their field selectors."""
    with api.changed:
        found = [f"{each.verb} {each.path} {each.query.get('fieldSelector', '')}".strip() for each in api.requests]
        api.requests.clear()
    return sorted(found)


def test_a_running_kubelets_devices_are_the_pods_until_it_is_gone(
    tmp_path: Path, kubelet: Callable[..., Kubelet]
) -> None:
    running = kubelet("0000:01:00.5", "0000:01:00.4", "0000:01:00.6")
    running.allocate("default", "web", "a", VF, 1)
    running.allocate("default", "web", "b", VF, 1)
    node = Node(NodeConfig(kubelet=str(tmp_path / "kubelet")))
    assert node.devices.of(pod()) == {VF: ["0000:01:00.4", "0000:01:00.5"]}
    running.free("default", "web")
    assert node.devices.of(pod()) == {}
    node.close()


def test_the_kubelets_and_a_claims_devices_add_up(
    tmp_path: Path, api: ApiServer, cluster: Callable[..., ApiCluster], kubelet: Callable[..., Kubelet]
) -> None:
    kubelet("0000:01:00.4").allocate("default", "web", "a", VF, 1)
    api.put(claim("web-nic", result("vf0")))
    api.put(published(device("vf0", "0000:02:00.4")))
    made = cluster()
    resources = PodResources(tmp_path / "kubelet/pod-resources/kubelet.sock")
    found = PodDevices(tmp_path / "kubelet", pod_resources=lambda: resources, cluster=lambda: made)
    assert found.of(pod("web-nic")) == {VF: ["0000:01:00.4", "0000:02:00.4"]}
    resources.close()


def dra_only(tmp_path: Path, made: ApiCluster) -> PodDevices:
    """PodDevices of a kubelet that has allocated nothing."""
    plugins = tmp_path / "kubelet/device-plugins"
    plugins.mkdir(parents=True, exist_ok=True)
    (plugins / "kubelet_internal_checkpoint").write_text('{"Data": {"PodDeviceEntries": null}}')

    def no_kubelet() -> PodResources:
        raise AssertionError("there is no socket")

    return PodDevices(tmp_path / "kubelet", pod_resources=no_kubelet, cluster=lambda: made)


def test_slices_are_listed_for_the_first_pod_with_a_claim_and_known_for_the_next(
    tmp_path: Path, api: ApiServer, cluster: Callable[..., ApiCluster]
) -> None:
    api.put(claim("web-nic", result("vf0"), result("anywhere", pool="rack")))
    api.put(published(device("vf0", "0000:02:00.4")))
    api.put(published(device("anywhere", "0000:09:00.0"), name="rack", pool="rack", allNodes=True))
    api.put(published(device("vf0", "0000:07:00.7"), name="node2-nics", pool="node2", nodeName="node2"))
    made = cluster()
    found = dra_only(tmp_path, made)
    assert found.of(pod()) == {}
    assert asked(api) == []  # without a claim, no watch is opened
    assert found.of(pod("web-nic")) == {VF: ["0000:02:00.4", "0000:09:00.0"]}
    api.wait(lambda: api.watches.count(SLICES) == 2)
    lists = [
        f"{verb} {SLICES} {where}"
        for verb in ("LIST", "WATCH")
        for where in ("spec.nodeName=", "spec.nodeName=node1")
    ]
    assert asked(api) == [f"GET {CLAIM}", *lists]
    assert found.of(pod("web-nic")) == {VF: ["0000:02:00.4", "0000:09:00.0"]}
    assert asked(api) == [f"GET {CLAIM}"]  # never cached, because a claim of that name can be a new one


def test_a_device_that_is_published_later_is_there_for_the_next_pod(
    tmp_path: Path, api: ApiServer, cluster: Callable[..., ApiCluster]
) -> None:
    api.put(claim("web-nic", result("vf1")))
    api.put(published(device("vf0", "0000:02:00.4")))
    made = cluster()
    found = dra_only(tmp_path, made)
    assert found.of(pod("web-nic")) == {}
    api.put(published(device("vf0", "0000:02:00.4"), device("vf1", "0000:02:00.5"), generation=2))
    assert found.of(pod("web-nic")) == {VF: ["0000:02:00.5"]}  # requested, if the watch has not delivered it yet


def test_while_the_watches_cannot_begin_each_pod_asks(
    tmp_path: Path, api: ApiServer, cluster: Callable[..., ApiCluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "_SYNC_TIMEOUT", 0.01)
    api.put(claim("web-nic", result("vf0")))
    api.put(published(device("vf0", "0000:02:00.4")))
    found = dra_only(tmp_path, cluster())
    api.fault("LIST", SLICES, status=503, message="no leader")
    with pytest.raises(Error, match=f"ResourceSlices of driver {DRIVER}: .*no leader") as error:
        found.of(pod("web-nic"))
    assert error.value.kind == Kind.TRY_AGAIN
    assert f"LIST {SLICES} spec.nodeName=node1,spec.driver={DRIVER}" in asked(api)
    api.heal()
    assert found.of(pod("web-nic")) == {VF: ["0000:02:00.4"]}


def test_one_call_without_an_agent_watches_nothing(
    tmp_path: Path, api: ApiServer, cluster: Callable[..., ApiCluster]
) -> None:
    api.put(claim("web-nic", result("vf0"), result("vf1")))
    api.put(published(device("vf0", "0000:02:00.4"), device("vf1", "0000:02:00.5")))
    made = cluster(watch=False)
    assert dra_only(tmp_path, made).of(pod("web-nic")) == {VF: ["0000:02:00.4", "0000:02:00.5"]}
    selectors = [f"spec.nodeName={where},spec.driver={DRIVER}" for where in ("", "node1")]
    assert asked(api) == [f"GET {CLAIM}", *(f"LIST {SLICES} {each}" for each in selectors)]


def test_without_a_nodes_name_the_pods_own_counts(
    tmp_path: Path, api: ApiServer, cluster: Callable[..., ApiCluster]
) -> None:
    api.put(claim("web-nic", result("vf0")))
    api.put(published(device("vf0", "0000:07:00.7"), name="node2-nics", generation=9, nodeName="node2"))
    api.put(published(device("vf0", "0000:02:00.4")))
    assert dra_only(tmp_path, cluster(node="")).of(pod("web-nic")) == {VF: ["0000:02:00.4"]}


def test_what_the_cluster_does_not_say_is_an_error_with_its_reason(
    tmp_path: Path, api: ApiServer, cluster: Callable[..., ApiCluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "_SYNC_TIMEOUT", 0.01)
    made = cluster()
    found = dra_only(tmp_path, made)
    with pytest.raises(Error, match="ResourceClaim default/web-nic: the API server has no such object") as error:
        found.of(pod("web-nic"))
    assert code_of(error.value) == code_of(NotFoundError(""))
    api.put(claim("web-nic", result("vf0")))
    api.fault("LIST", SLICES, status=403, message="no permission")
    with pytest.raises(Error, match=f"ResourceSlices of driver {DRIVER}: .*no permission") as error:
        found.of(pod("web-nic"))
    assert error.value.kind == Kind.POLICY
    api.fault("GET", "resourceclaims", status=503)
    with pytest.raises(Error, match="ResourceClaim default/web-nic") as error:
        found.of(pod("web-nic"))
    assert error.value.kind == Kind.TRY_AGAIN

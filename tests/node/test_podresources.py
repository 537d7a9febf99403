"""The devices of a pod, requested from a kubelet."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.node.calling import until
from tests.node.conftest import PATIENCE
from tests.node.test_play_kubelet import Plugin, registered
from wirespeed.errors import Error, Kind
from wirespeed.kube import rpc
from wirespeed.kube.podresources import PodResources
from wirespeed.kube.proto import podresources_pb2 as pb
from wirespeed.play.kubelet import Kubelet


@pytest.fixture(params=["Get", "List"])
def kubelet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kubelet]:
    """A kubelet that supports Get, and one that only supports List."""
    kubelet = Kubelet(tmp_path, answers_get=request.param == "Get")
    kubelet.start()
    yield kubelet
    kubelet.stop()


@pytest.fixture
def client(kubelet: Kubelet) -> Iterator[PodResources]:
    with contextlib.closing(PodResources(kubelet.folder / "pod-resources/kubelet.sock")) as client:
        yield client


def test_devices_of_all_containers_by_resource(kubelet: Kubelet, client: PodResources) -> None:
    with (
        registered(kubelet, Plugin(kubelet.folder, "acme.io/a", "a1", "a2", "a3")),
        registered(kubelet, Plugin(kubelet.folder, "acme.io/b", "b1")),
    ):
        kubelet.allocate("default", "pod", "app", "acme.io/a", 1)
        kubelet.allocate("default", "pod", "other", "acme.io/a", 1)
        kubelet.allocate("default", "pod", "app", "acme.io/b", 1)
        kubelet.allocate("default", "another", "app", "acme.io/a", 1)
        assert client.devices("default", "pod") == {"acme.io/a": ["a1", "a2"], "acme.io/b": ["b1"]}
        assert client.devices("default", "another") == {"acme.io/a": ["a3"]}


def test_pod_that_the_kubelet_does_not_know_has_none(kubelet: Kubelet, client: PodResources) -> None:
    with registered(kubelet, Plugin(kubelet.folder, "acme.io/a", "a1")):
        kubelet.allocate("default", "pod", "app", "acme.io/a", 1)
        assert client.devices("other", "pod") == {}
        assert client.devices("default", "po") == {}
        kubelet.free("default", "pod")
        assert client.devices("default", "pod") == {}


def test_resources_are_those_with_healthy_devices_whoever_has_them(kubelet: Kubelet, client: PodResources) -> None:
    assert client.allocatable() == set()
    with registered(kubelet, Plugin(kubelet.folder, "acme.io/a", "a1")):
        kubelet.allocate("default", "pod", "app", "acme.io/a", 1)
        assert client.allocatable() == {"acme.io/a"}
    kubelet.stop()
    with pytest.raises(Error, match="resources of device plugins: the kubelet does not answer") as caught:
        client.allocatable()
    assert caught.value.kind == Kind.TRY_AGAIN


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (grpc.StatusCode.UNIMPLEMENTED, "unknown method GetAllocatableResources for service v1.PodResourcesLister"),
        (grpc.StatusCode.UNKNOWN, "PodResources API GetAllocatableResources disabled"),
    ],
)
def test_kubelet_that_does_not_tell_of_resources_is_not_one_without(
    tmp_path: Path, code: grpc.StatusCode, text: str
) -> None:
    class Old:
        """The service of an older kubelet, or of one whose feature gate is disabled."""

        def GetAllocatableResources(self, request: Any, context: Any) -> Any:
            context.abort(code, text)

        List = Get = GetAllocatableResources

    service = pb.DESCRIPTOR.services_by_name["PodResourcesLister"]
    with ThreadPoolExecutor() as workers:
        server = grpc.server(workers, handlers=[rpc.handler(service, Old())])
        server.add_insecure_port(f"unix:{tmp_path}/kubelet.sock")
        server.start()
        with contextlib.closing(PodResources(tmp_path / "kubelet.sock")) as client:
            assert client.allocatable() is None
        server.stop(None).wait()


def test_kubelet_that_was_restarted_answers_the_same_client(kubelet: Kubelet, client: PodResources) -> None:
    with registered(kubelet, Plugin(kubelet.folder, "acme.io/a", "a1")):
        kubelet.allocate("default", "pod", "app", "acme.io/a", 1)
        for _ in range(5):
            assert client.devices("default", "pod") == {"acme.io/a": ["a1"]}
            kubelet.stop()
            kubelet.start()
        assert client.devices("default", "pod") == {"acme.io/a": ["a1"]}


def test_kubelet_that_is_not_there_is_named_and_found_when_it_comes(kubelet: Kubelet, client: PodResources) -> None:
    kubelet.stop()
    for ask in (lambda: client.devices("default", "pod"), client.check):
        with pytest.raises(Error, match=f"the kubelet does not answer on {client.socket}: UNAVAILABLE") as caught:
            ask()
        assert caught.value.kind == Kind.TRY_AGAIN
    kubelet.start()
    client.check()
    assert client.devices("default", "pod") == {}


def test_client_that_asks_in_vain_and_again_holds_no_more_and_more(kubelet: Kubelet, client: PodResources) -> None:
    def held() -> int:
        return threading.active_count() + len(os.listdir("/proc/self/fd"))

    def ask_in_vain() -> None:
        with pytest.raises(Error):
            client.devices("default", "pod")

    client.check()
    kubelet.stop()
    ask_in_vain()
    before = held()
    for _ in range(20):
        ask_in_vain()
    until(lambda: held() <= before, f"{before} threads and descriptors")


def test_many_threads_ask_one_client_while_the_kubelet_restarts(kubelet: Kubelet, client: PodResources) -> None:
    with registered(kubelet, Plugin(kubelet.folder, "acme.io/a", "a1")):
        kubelet.allocate("default", "pod", "app", "acme.io/a", 1)
    done = threading.Event()
    wrong: list[object] = []

    def ask() -> None:
        while not done.is_set():
            try:
                answer = client.devices("default", "pod")
            except Error as error:
                if error.kind != Kind.TRY_AGAIN:
                    wrong.append(error)
                continue
            if answer != {"acme.io/a": ["a1"]}:
                wrong.append(answer)

    askers = [threading.Thread(target=ask) for _ in range(8)]
    for asker in askers:
        asker.start()
    for _ in range(5):
        kubelet.stop()
        kubelet.start()
    done.set()
    for asker in askers:
        asker.join(PATIENCE)
    assert wrong == []
    assert client.devices("default", "pod") == {"acme.io/a": ["a1"]}

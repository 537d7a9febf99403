"""A node for tests of the device plugin: a fake sysfs, a kubelet, and plugins that use them."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.fakesysfs import FakeSysfs
from tests.node.conftest import PATIENCE
from wirespeed.deviceplugin.plugin import Plugin
from wirespeed.kube import rpc
from wirespeed.kube.proto import deviceplugin_pb2 as dp
from wirespeed.node import NodeConfig
from wirespeed.play.kubelet import Kubelet

PF, OTHER_PF = "0000:18:00.0", "0000:3b:00.0"
BY_PF = (
    {"resourceName": "one", "selectors": {"pfNames": ["ens1f0"]}},
    {"resourceName": "two", "selectors": {"pfNames": ["ens2f0"]}},
)
BY_DRIVER = (
    {"resourceName": "net", "selectors": {"drivers": ["iavf"]}},
    {"resourceName": "dpdk", "selectors": {"drivers": ["vfio-pci"]}},
)


class Recorder(Kubelet):
    """A kubelet that counts registrations by resource, and detects concurrent ones of the same resource."""

    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__(folder, **more)
        self.registered: Counter[str] = Counter()
        self.racing: list[str] = []
        self._under_way: Counter[str] = Counter()

    def connect(self, resource: str, socket: Path, *, options: Any = None) -> None:
        self.registered[resource] += 1
        self._under_way[resource] += 1
        if self._under_way[resource] > 1:
            self.racing.append(resource)
        super().connect(resource, socket, options=options)
        self._under_way[resource] -= 1

    def ids(self, resource: str) -> list[str]:
        """The healthy devices of the resource."""
        return [device.ID for device in self.resources().get(resource, []) if device.health == "Healthy"]

    def wait_ids(self, resource: str, ids: list[str]) -> None:
        self.wait_until(lambda: self.ids(resource) == ids, PATIENCE, f"{ids} of {resource}")


@contextlib.contextmanager
def pool_of_vfs(folder: Path) -> Iterator[tuple[Kubelet, FakeSysfs, dict[str, str]]]:
    """A kubelet, a PF with four VFs that the pool intel.com/vfs selects, and the agent's keys for both."""
    sysfs = FakeSysfs(folder / "sys")
    sysfs.pf(PF, name="ens1f0", vfs=4)
    pools = folder / "pools.json"
    pools.write_text(json.dumps({"resourceList": [{"resourceName": "vfs", "selectors": {"pfNames": ["ens1f0"]}}]}))
    kubelet = Kubelet(folder / "kubelet")
    kubelet.start()
    try:
        yield (
            kubelet,
            sysfs,
            {"kubelet": str(folder / "kubelet"), "sysfs": str(sysfs.root), "devicePlugin": str(pools)},
        )
    finally:
        kubelet.stop()


@dataclass
class Place:
    """A node's directories, a kubelet, and the device plugins that run on the node."""

    folder: Path
    sysfs: FakeSysfs
    kubelet: Recorder
    errors: list[BaseException] = field(default_factory=list)

    @property
    def sockets(self) -> Path:
        return self.folder / "kubelet/device-plugins"

    @property
    def devinfo(self) -> Path:
        return self.folder / "devinfo/dp"

    def config(self, *pools: dict[str, Any], **more: Any) -> NodeConfig:
        file = self.folder / "pools.json"
        file.write_text(json.dumps({"resourceList": pools}))
        places: dict[str, Any] = {
            "sysfs": str(self.sysfs.root),
            "kubelet": str(self.folder / "kubelet"),
            "devinfo": str(self.folder / "devinfo"),
        }
        return NodeConfig(**{"device_plugin": str(file), **places, **more})

    @contextlib.contextmanager
    def running(self, *pools: dict[str, Any], **more: Any) -> Iterator[Plugin]:
        """Run a plugin with these pools during the body. If it raises, the test fails."""
        with self.running_as(self.config(*pools, **more)) as plugin:
            yield plugin

    @contextlib.contextmanager
    def running_as(self, config: NodeConfig) -> Iterator[Plugin]:
        """Like `running`, with this node configuration."""
        plugin, stop = Plugin(config), threading.Event()

        def run() -> None:
            try:
                plugin.run(stop)
            except BaseException as error:  # reported at the end
                self.errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield plugin
        finally:
            stop.set()
            thread.join(PATIENCE)
            assert not thread.is_alive()
            assert not self.errors


@contextlib.contextmanager
def standing(folder: Path) -> Iterator[Place]:
    """A node with a PF of four VFs and one of two, and a running kubelet."""
    sysfs = FakeSysfs(folder / "sys")
    sysfs.pf(PF, "ens1f0", vfs=4, numa=0)
    sysfs.pf(OTHER_PF, "ens2f0", vfs=2, numa=1)
    place = Place(folder, sysfs, Recorder(folder / "kubelet"))
    place.kubelet.start()
    yield place
    place.kubelet.stop()
    assert place.kubelet.racing == []


VFS = [f"0000:19:00.{number}" for number in range(4)]
OTHER_VFS = [f"0000:3c:00.{number}" for number in range(2)]


def watching(place: Place) -> Recorder:
    """Replace the place's kubelet by one that watches plugins_registry for plugins. Return it."""
    place.kubelet.stop()
    place.kubelet = Recorder(place.folder / "kubelet", plugin_watch=True)
    place.kubelet.start()
    return place.kubelet


def listed(place: Place) -> dict[str, list[str]]:
    return {resource: place.kubelet.ids(resource) for resource in place.kubelet.resources()}


BOTH = {"intel.com/one": VFS, "intel.com/two": OTHER_VFS}


def wait_listed(place: Place, expected: dict[str, list[str]]) -> None:
    place.kubelet.wait_until(lambda: listed(place) == expected, PATIENCE, f"resources {expected}")


def call(socket: Path, method: str, request: Any) -> Any:
    """Make one call of a pool's gRPC service."""
    with rpc.channel(str(socket), options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        client = rpc.Client(channel, dp.DESCRIPTOR.services_by_name["DevicePlugin"])
        return getattr(client, method)(request, timeout=PATIENCE, wait_for_ready=True)


def allocate(place: Place, *ids: str, resource: str = "one") -> Any:
    request = dp.AllocateRequest(container_requests=[dp.ContainerAllocateRequest(devices_ids=ids)])
    return call(place.sockets / f"intel.com_{resource}.sock", "Allocate", request)


def texts(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]

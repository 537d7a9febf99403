"""The device plugin with a kubelet's device manager: registration, restarts, allocation, changing devices."""

from __future__ import annotations

import logging
import os
import socket
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.node.calling import is_soon, until
from tests.node.conftest import PATIENCE
from tests.node.deviceplugins import (
    BOTH,
    BY_DRIVER,
    BY_PF,
    OTHER_PF,
    OTHER_VFS,
    PF,
    VFS,
    Place,
    allocate,
    call,
    standing,
    texts,
    wait_listed,
    watching,
)
from wirespeed.deviceplugin.health import Fault
from wirespeed.deviceplugin.kubelet import Kubelet
from wirespeed.deviceplugin.plugin import Plugin
from wirespeed.deviceplugin.pools import Devices
from wirespeed.deviceplugin.service import STREAMS, PoolService
from wirespeed.devices.inventory import Reader
from wirespeed.errors import Error, Kind
from wirespeed.kube import rpc
from wirespeed.kube.proto import deviceplugin_pb2 as dp


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with standing(tmp_path) as place:
        yield place


# Registration


def test_pools_are_registered_on_the_kubelets_socket(place: Place) -> None:
    with place.running(*BY_PF):
        wait_listed(place, BOTH)
        names = {path.name for path in place.sockets.iterdir()}
        assert names == {"kubelet.sock", "intel.com_one.sock", "intel.com_two.sock"}
    assert place.kubelet.registered == {"intel.com/one": 1, "intel.com/two": 1}
    assert [path.name for path in place.sockets.iterdir()] == ["kubelet.sock"]


def test_kubelet_that_watches_finds_the_pools_itself(place: Place) -> None:
    kubelet = watching(place)
    with place.running(*BY_PF):
        wait_listed(place, BOTH)
        registry = place.folder / "kubelet/plugins_registry"
        assert {path.name for path in registry.iterdir()} == {"intel.com_one.sock", "intel.com_two.sock"}
        assert [path.name for path in place.sockets.iterdir()] == ["kubelet.sock"]
    assert kubelet.registered == {"intel.com/one": 1, "intel.com/two": 1}
    assert list(registry.iterdir()) == []


def test_kubelet_that_comes_later_is_waited_for(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.kubelet.stop()
    for path in sorted((place.folder / "kubelet").rglob("*"), reverse=True):
        path.rmdir()
    caplog.set_level(logging.INFO)
    with place.running(*BY_PF):
        until(lambda: "the device plugin is ready" in texts(caplog), "ready")
        place.kubelet.start()
        wait_listed(place, BOTH)
    waited = [text for text in texts(caplog) if text.startswith("waiting for the kubelet")]
    assert waited == [f"waiting for the kubelet's socket {place.sockets}/kubelet.sock"]


def test_socket_that_a_dead_kubelet_left_is_waited_out(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    with place.running(*BY_PF):
        wait_listed(place, BOTH)
        place.kubelet.stop()
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(place.sockets / "kubelet.sock"))
        place.kubelet.start()
        wait_listed(place, BOTH)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_kubelet_that_refuses_a_registration_is_told_in_the_log_and_asked_again(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wirespeed.deviceplugin.registrar._PAUSE", 0.01)
    accept = place.kubelet.connect
    refusals = iter([Error(Kind.INVALID_CONFIG, "not today")])

    def connect(*arguments: Any, **more: Any) -> None:
        for refusal in refusals:
            raise refusal
        accept(*arguments, **more)

    monkeypatch.setattr(place.kubelet, "connect", connect)
    with place.running(BY_PF[0]):
        place.kubelet.wait_ids("intel.com/one", VFS)
    assert "resource intel.com/one: the kubelet refuses: not today" in texts(caplog)


def test_pool_without_a_device_is_offered_all_the_same(place: Place) -> None:
    with place.running({"resourceName": "none", "selectors": {"vendors": ["15b3"]}}):
        place.kubelet.wait_until(lambda: "intel.com/none" in place.kubelet.resources(), PATIENCE, "the resource")
        assert place.kubelet.ids("intel.com/none") == []


def test_resource_prefix_is_the_nodes_unless_the_pool_has_its_own(place: Place) -> None:
    with place.running(BY_PF[0], {**BY_PF[1], "resourcePrefix": "acme.io"}, resource_prefix="example.org"):
        wait_listed(place, {"example.org/one": VFS, "acme.io/two": OTHER_VFS})


# Rejected configurations


def test_configuration_that_is_wrong_ends_the_plugin_before_it_has_done_anything(place: Place) -> None:
    with pytest.raises(Error, match=r'pools\.json: key "resourceList\[0\]\.resourceName"') as caught:
        Plugin(place.config({"resourceName": "a.b"}))
    assert caught.value.kind == Kind.INVALID_CONFIG


def test_socket_whose_path_would_be_too_long_is_refused(place: Place) -> None:
    place.folder.joinpath("k" * 60).mkdir()
    config = place.config({"resourceName": "n" * 63})
    with pytest.raises(Error, match=r"resource intel\.com/n+: its socket .* expected at most 107") as caught:
        Plugin(config).run(threading.Event())
    assert caught.value.kind == Kind.INVALID_CONFIG
    assert [path.name for path in place.sockets.iterdir()] == ["kubelet.sock"]


def test_socket_that_cannot_be_made_is_refused(place: Place) -> None:
    (place.sockets / "intel.com_two.sock").mkdir()
    with pytest.raises(Error, match=r"socket .*intel\.com_two\.sock: it cannot be created") as caught:
        Plugin(place.config(*BY_PF)).run(threading.Event())
    assert caught.value.kind == Kind.IO
    assert {path.name for path in place.sockets.iterdir()} == {"kubelet.sock", "intel.com_two.sock"}


def test_failure_while_it_follows_the_devices_ends_the_plugin(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with place.running(*BY_PF) as plugin:
        wait_listed(place, BOTH)

        def fail(*_: object) -> None:
            raise OSError("no more routes")

        monkeypatch.setattr("wirespeed.deviceplugin.follow.default_route_interfaces", fail)
        plugin.request_read()
        until(lambda: bool(place.errors), "the end")
        assert [str(error) for error in place.errors] == ["no more routes"]
        assert [path.name for path in place.sockets.iterdir()] == ["kubelet.sock"]
        place.errors.clear()


# Restarts of the kubelet


@pytest.mark.parametrize("mode", ["registered", "watched"])
def test_restarted_kubelet_has_the_pools_within_a_second(place: Place, mode: str) -> None:
    kubelet = watching(place) if mode == "watched" else place.kubelet
    with place.running(*BY_PF):
        wait_listed(place, BOTH)
        starts = 1

        def restarts() -> float:
            nonlocal starts
            starts += 1
            kubelet.stop()
            began = time.monotonic()
            kubelet.start()
            wait_listed(place, BOTH)
            return time.monotonic() - began

        assert is_soon(restarts, 1)
    assert kubelet.registered == {"intel.com/one": starts, "intel.com/two": starts}


@pytest.mark.parametrize("mode", ["registered", "watched"])
def test_ten_restarts_one_after_the_other_lose_nothing_and_leave_nothing(place: Place, mode: str) -> None:
    kubelet = watching(place) if mode == "watched" else place.kubelet
    eight = [{"resourceName": f"p{number}", "selectors": {"pfNames": [f"ens1f0#{number}"]}} for number in range(8)]
    vfs = place.sysfs.set_vfs(PF, 8)
    expected = {f"intel.com/p{number}": [vf] for number, vf in enumerate(vfs)}
    with place.running(*eight):
        for _ in range(10):  # without waiting, so that the plugin may or may not have registered in between
            kubelet.stop()
            kubelet.start()
        wait_listed(place, expected)
        kubelet.stop()
        before, registered = Held.now(), Counter(kubelet.registered)
        for _ in range(10):
            kubelet.start()
            wait_listed(place, expected)
            kubelet.stop()
        before.no_more()
        assert kubelet.registered - registered == dict.fromkeys(expected, 10)


@dataclass(frozen=True)
class Held:
    """The number of this process's threads and file descriptors, without threads that wait for calls of pools."""

    threads: int
    descriptors: int

    @classmethod
    def now(cls) -> Held:
        names = [thread.name for thread in threading.enumerate()]
        idle = sum(name.startswith("deviceplugin call") for name in names)
        return cls(len(names) - idle, len(os.listdir("/proc/self/fd")))

    def no_more(self) -> None:
        """Wait until there are no more than before. gRPC closes a connection's resources in threads of its own."""
        until(lambda: Held.now().threads <= self.threads, f"only {self.threads} threads, as before")
        until(lambda: Held.now().descriptors <= self.descriptors, f"only {self.descriptors} descriptors, as before")


def test_socket_that_somebody_removes_is_made_and_registered_anew(place: Place) -> None:
    with place.running(*BY_PF):
        wait_listed(place, BOTH)
        (place.sockets / "intel.com_one.sock").unlink()
        place.kubelet.wait_until(lambda: place.kubelet.registered["intel.com/one"] == 2, PATIENCE, "registration")
        wait_listed(place, BOTH)
    assert place.kubelet.registered == {"intel.com/one": 2, "intel.com/two": 1}


def test_folder_that_somebody_removes_is_made_anew(place: Place) -> None:
    with place.running(*BY_PF):
        wait_listed(place, BOTH)
        place.kubelet.stop()
        gone = place.folder / "gone"
        place.sockets.rename(gone)
        until(place.sockets.exists, "made anew")
        place.kubelet.start()
        wait_listed(place, BOTH)


def test_folder_that_is_removed_before_its_sockets_are_looked_at_is_made_anew(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, update = place.folder / "gone", Kubelet._update

    def removed(self: Kubelet) -> None:
        if not gone.exists():
            place.sockets.rename(gone)
        update(self)

    with place.running(*BY_PF):
        wait_listed(place, BOTH)
        place.kubelet.stop()
        monkeypatch.setattr(Kubelet, "_update", removed)
        (place.sockets / "something").touch()
        until(gone.exists, "removed")
        until(place.sockets.exists, "made anew")
        place.kubelet.start()
        wait_listed(place, BOTH)


def test_process_that_takes_a_pools_socket_is_left_alone(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    path = place.sockets / "intel.com_one.sock"
    with place.running(*BY_PF), socket.socket(socket.AF_UNIX) as other:
        wait_listed(place, BOTH)
        other.bind(str(place.folder / "other"))
        other.listen()
        (place.folder / "other").rename(path)
        message = f"resource intel.com/one: another process serves it now on {path}"
        until(lambda: message in texts(caplog), "told")
        (place.sockets / "something").touch()
        (place.sockets / "intel.com_two.sock").unlink()
        place.kubelet.wait_until(lambda: place.kubelet.registered["intel.com/two"] == 2, PATIENCE, "registration")
        assert texts(caplog).count(message) == 1
        assert place.kubelet.registered["intel.com/one"] == 1
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))
            other.accept()[0].close()
        path.unlink()  # the other process has exited
        place.kubelet.wait_until(lambda: place.kubelet.registered["intel.com/one"] == 2, PATIENCE, "registration")
        wait_listed(place, BOTH)


# Allocation


def test_allocated_kernel_vf_is_told_in_variables_and_a_file(place: Place) -> None:
    with place.running(*BY_PF):
        place.kubelet.wait_ids("intel.com/one", VFS)
        answer = place.kubelet.allocate("default", "pod", "app", "intel.com/one", 1)
        assert dict(answer.envs) == {
            "PCIDEVICE_INTEL_COM_ONE": VFS[0],
            "PCIDEVICE_INTEL_COM_ONE_INFO": f'{{"{VFS[0]}":{{"generic":{{"deviceID":"{VFS[0]}"}}}}}}',
        }
        assert not answer.devices
    [file] = place.devinfo.iterdir()
    assert file.name == f"intel.com-one-{VFS[0]}-device.json"
    assert file.read_text() == (
        f'{{"type":"pci","version":"1.1.0","pci":{{"pci-address":"{VFS[0]}","pf-pci-address":"{PF}"}}}}'
    )
    assert stat.S_IMODE(file.stat().st_mode) == 0o444
    assert stat.S_IMODE(place.devinfo.stat().st_mode) == 0o755


def test_allocated_vfio_vf_brings_its_devices(place: Place) -> None:
    place.sysfs.bind(VFS[1], "vfio-pci")
    group = Reader(str(place.sysfs.root)).read().devices[VFS[1]].iommu_group
    with place.running(*BY_DRIVER):
        place.kubelet.wait_ids("intel.com/dpdk", [VFS[1]])
        answer = place.kubelet.allocate("default", "pod", "app", "intel.com/dpdk", 1)
    assert [(node.container_path, node.host_path, node.permissions) for node in answer.devices] == [
        ("/dev/vfio/vfio", "/dev/vfio/vfio", "rw"),
        (f"/dev/vfio/{group}", f"/dev/vfio/{group}", "rw"),
    ]


def test_no_device_is_given_twice_and_a_freed_one_again(place: Place) -> None:
    with place.running(*BY_PF):
        place.kubelet.wait_ids("intel.com/one", VFS)
        given = [
            place.kubelet.allocate("default", f"pod{number}", "app", "intel.com/one", 2).envs[
                "PCIDEVICE_INTEL_COM_ONE"
            ]
            for number in range(2)
        ]
        assert ",".join(given).split(",") == VFS
        with pytest.raises(Error, match="1 requested, 0 free"):
            place.kubelet.allocate("default", "pod2", "app", "intel.com/one", 1)
        place.kubelet.free("default", "pod0")
        again = place.kubelet.allocate("default", "pod2", "app", "intel.com/one", 2)
        assert again.envs["PCIDEVICE_INTEL_COM_ONE"] == given[0]


def test_devices_of_one_numa_node_are_preferred(place: Place) -> None:
    place.sysfs.bind(VFS[0], "vfio-pci")
    place.sysfs.bind(VFS[1], "vfio-pci")
    place.sysfs.bind(VFS[2], "vfio-pci")
    with place.running(*BY_DRIVER):
        place.kubelet.wait_ids("intel.com/net", [VFS[3], *OTHER_VFS])
        assert [
            [node.ID for node in device.topology.nodes] for device in place.kubelet.resources()["intel.com/net"]
        ] == [[0], [1], [1]]
        answer = place.kubelet.allocate("default", "pod", "app", "intel.com/net", 2)
    assert answer.envs["PCIDEVICE_INTEL_COM_NET"].split(",") == OTHER_VFS


def test_kubelet_is_not_told_numa_nodes_that_the_pool_excludes(place: Place) -> None:
    with place.running({**BY_PF[1], "excludeTopology": True}):
        place.kubelet.wait_ids("intel.com/two", OTHER_VFS)
        assert not any(device.HasField("topology") for device in place.kubelet.resources()["intel.com/two"])


def test_requests_for_nothing_are_answered(place: Place) -> None:
    with place.running(*BY_PF):
        wait_listed(place, BOTH)
        path = place.sockets / "intel.com_one.sock"
        assert call(path, "Allocate", dp.AllocateRequest()) == dp.AllocateResponse()
        assert call(path, "PreStartContainer", dp.PreStartContainerRequest()) == dp.PreStartContainerResponse()
        options = call(path, "GetDevicePluginOptions", dp.Empty())
        assert options == dp.DevicePluginOptions(get_preferred_allocation_available=True)
        preferred = dp.PreferredAllocationRequest(container_requests=[dp.ContainerPreferredAllocationRequest()])
        [answer] = call(path, "GetPreferredAllocation", preferred).container_responses
        assert list(answer.deviceIDs) == []


def test_choice_that_cannot_be_is_refused(place: Place) -> None:
    asked = dp.ContainerPreferredAllocationRequest(available_deviceIDs=VFS[:2], allocation_size=3)
    request = dp.PreferredAllocationRequest(container_requests=[asked])
    with place.running(*BY_PF):
        wait_listed(place, BOTH)
        path = place.sockets / "intel.com_one.sock"
        code, text = refusal(lambda: call(path, "GetPreferredAllocation", request))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert text == "3 devices requested: 0 must be among them and 2 others are available"


def refusal(asked: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        asked()
    return caught.value.code(), caught.value.details()


def test_unknown_device_is_refused_and_nothing_is_given(place: Place) -> None:
    with place.running(*BY_PF):
        wait_listed(place, BOTH)
        for strange in ("0000:99:00.0", OTHER_VFS[0], "../../etc", ""):
            assert refusal(lambda key=strange: allocate(place, VFS[0], key)) == (  # type: ignore[misc]
                grpc.StatusCode.NOT_FOUND,
                f"resource intel.com/one: device {strange}: not known in this pool",
            )
    assert not place.devinfo.exists()


def test_device_that_changed_since_it_was_offered_is_refused_with_the_reason(place: Place) -> None:
    with place.running(*BY_DRIVER):
        place.kubelet.wait_ids("intel.com/net", [*VFS, *OTHER_VFS])
        where = f"resource intel.com/net: device {VFS[0]}: "
        changes: list[tuple[Callable[[], None], str]] = [
            (lambda: place.sysfs.bind(VFS[0], ""), "not in this pool any more: no driver is bound"),
            (lambda: place.sysfs.bind(VFS[0], "ice"), "not in this pool any more: drivers: ice is not iavf"),
            (lambda: place.sysfs.remove(VFS[0]), "it is gone"),
        ]
        for change, reason in changes:
            change()
            found = refusal(lambda: allocate(place, VFS[0], resource="net"))
            assert found == (grpc.StatusCode.FAILED_PRECONDITION, where + reason)


def test_more_lists_than_a_kubelet_asks_for_are_refused_and_take_no_thread(place: Place) -> None:
    with place.running(*BY_PF), rpc.channel(str(place.sockets / "intel.com_one.sock")) as channel:
        wait_listed(place, BOTH)
        client = rpc.Client(channel, dp.DESCRIPTOR.services_by_name["DevicePlugin"])
        lists = [client.ListAndWatch(dp.Empty()) for _ in range(STREAMS - 1)]  # the kubelet has one open already
        for each in lists:
            assert len(next(each).devices) == 4
        code, text = refusal(lambda: next(client.ListAndWatch(dp.Empty())))
        assert (code, text) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"resource intel.com/one: {STREAMS} ListAndWatch calls are open",
        )
        lists.pop().cancel()
        until(lambda: bool(_first_of_list(client)), "a place for another list")


def _first_of_list(client: rpc.Client) -> Any:
    try:
        return next(client.ListAndWatch(dp.Empty()))
    except grpc.RpcError:
        return None


# Changing devices


def test_vfs_that_are_made_and_removed_are_seen(place: Place) -> None:
    with place.running(*BY_PF) as plugin:
        wait_listed(place, BOTH)
        place.sysfs.set_vfs(PF, 0)
        plugin.request_read()
        wait_listed(place, {"intel.com/one": [], "intel.com/two": OTHER_VFS})
        more = place.sysfs.set_vfs(PF, 6)
        plugin.request_read()
        wait_listed(place, {"intel.com/one": more, "intel.com/two": OTHER_VFS})


@pytest.mark.parametrize("pools", [BY_DRIVER, BY_DRIVER[::-1]])
def test_vf_on_another_driver_changes_its_pool_and_is_never_in_two(
    place: Place, monkeypatch: pytest.MonkeyPatch, pools: tuple[dict[str, Any], ...]
) -> None:
    members: dict[str, set[str]] = {}
    update = PoolService.update

    def seen(self: PoolService, devices: Devices, faults: Mapping[str, Fault]) -> None:
        update(self, devices, faults)
        members[self.pool.resource] = set(devices)
        assert sum(map(len, members.values())) == len(set().union(*members.values()))

    monkeypatch.setattr(PoolService, "update", seen)
    kernel = [*VFS, *OTHER_VFS]
    with place.running(*pools) as plugin:
        wait_listed(place, {"intel.com/net": kernel, "intel.com/dpdk": []})
        for driver in ("vfio-pci", "iavf"):
            place.sysfs.bind(VFS[2], driver)
            plugin.request_read()
            moved = [VFS[2]] if driver == "vfio-pci" else []
            rest = [key for key in kernel if key not in moved]
            wait_listed(place, {"intel.com/net": rest, "intel.com/dpdk": moved})


def test_many_changes_are_one_look_and_the_last_counts(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with place.running(*BY_DRIVER) as plugin:
        place.kubelet.wait_ids("intel.com/dpdk", [])
        place.kubelet.wait_ids("intel.com/net", [*VFS, *OTHER_VFS])
        before, began = texts(caplog).count("devices are read"), time.monotonic()
        for number in range(100):
            place.sysfs.bind(VFS[0], ("iavf", "vfio-pci")[number % 2])
            plugin.request_read()
        place.kubelet.wait_ids("intel.com/dpdk", [VFS[0]])
        looks, most = texts(caplog).count("devices are read") - before, (time.monotonic() - began) / 0.1 + 2
    assert looks <= min(most, 50)


def test_vf_whose_interface_is_in_a_pod_stays_in_its_pool(place: Place) -> None:
    with place.running({"resourceName": "a", "selectors": {"linkTypes": ["ether"]}}) as plugin:
        place.kubelet.wait_ids("intel.com/a", [*VFS, *OTHER_VFS])
        place.sysfs.drop_interface("ens1f0v0")
        place.sysfs.bind(VFS[3], "")  # a visible change, to know that the devices were read
        plugin.request_read()
        place.kubelet.wait_ids("intel.com/a", [*VFS[:3], *OTHER_VFS])


def test_why_devices_are_left_out_is_logged_at_the_start_and_when_it_changes(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    def left_out() -> list[tuple[str, str]]:
        return [
            (record.getMessage(), record.fields["devices"])  # type: ignore[attr-defined]
            for record in caplog.records
            if record.getMessage().startswith("left out")
        ]

    caplog.set_level(logging.INFO)
    place.sysfs.bind(VFS[0], "")
    place.sysfs.bind(VFS[1], "")
    with place.running(*BY_PF) as plugin:
        wait_listed(place, {**BOTH, "intel.com/one": VFS[2:]})
        assert left_out() == [
            ("left out: a PF with 2 VFs", OTHER_PF),
            ("left out: a PF with 4 VFs", PF),
            ("left out: no driver is bound", f"{VFS[0]},{VFS[1]}"),
        ]
        caplog.clear()
        place.sysfs.bind(VFS[0], "iavf")
        place.sysfs.bind(VFS[2], "")
        plugin.request_read()
        place.kubelet.wait_ids("intel.com/one", [VFS[0], VFS[3]])
        assert left_out() == [("left out: no driver is bound", VFS[2])]


# Device-info files


def test_files_of_running_pods_outlive_the_plugin_and_those_of_gone_devices_do_not(place: Place) -> None:
    with place.running(*BY_PF):
        wait_listed(place, BOTH)
        for resource in BOTH:
            place.kubelet.allocate("default", "pod", "app", resource, 2)
    kept = [f"intel.com-one-{VFS[0]}-device.json", f"intel.com-one-{VFS[1]}-device.json"]
    others = [
        "acme.io-one-0000:3c:00.0-device.json",
        "intel.com-two-b-0000:3c:00.0-device.json",
        "intel.com-two-note-device.json",
    ]
    for name in others:
        (place.devinfo / name).write_text("{}")
    place.sysfs.set_vfs(OTHER_PF, 0)
    with place.running(*BY_PF):
        place.kubelet.wait_ids("intel.com/two", [])
        assert {path.name for path in place.devinfo.iterdir()} == {*kept, *others}


def test_files_are_kept_where_no_device_can_be_seen(place: Place) -> None:
    with place.running(*BY_PF):
        wait_listed(place, BOTH)
        place.kubelet.allocate("default", "pod", "app", "intel.com/one", 1)
    place.sysfs.root = place.folder / "no-sysfs"
    with place.running(*BY_PF):
        place.kubelet.wait_ids("intel.com/one", [])
        assert len(list(place.devinfo.iterdir())) == 1


# End


def test_eight_pools_are_down_in_less_than_a_second_and_leave_nothing(place: Place) -> None:
    eight = [{"resourceName": f"p{number}", "selectors": {"pfNames": [f"ens1f0#{number}"]}} for number in range(8)]
    vfs = place.sysfs.set_vfs(PF, 8)

    def once() -> float:
        place.kubelet.start()
        with place.running(*eight):
            wait_listed(place, {f"intel.com/p{number}": [vf] for number, vf in enumerate(vfs)})
            began = time.monotonic()
        took = time.monotonic() - began
        assert [path.name for path in place.sockets.iterdir()] == ["kubelet.sock"]
        place.kubelet.stop()
        return took

    place.kubelet.stop()
    once()  # gRPC has now created what it keeps for the life of the process
    before = Held.now()
    assert is_soon(once, 1)
    before.no_more()


def test_call_that_runs_is_finished_at_the_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, ending = threading.Event(), threading.Event()
    read_one, end = Reader.read_one, PoolService.end

    def read_at_the_end(self: Reader, address: str) -> Any:
        entered.set()
        assert ending.wait(PATIENCE)
        return read_one(self, address)

    def told_end(self: PoolService) -> None:
        end(self)
        ending.set()

    monkeypatch.setattr(Reader, "read_one", read_at_the_end)
    monkeypatch.setattr(PoolService, "end", told_end)
    answers: list[Any] = []
    caller = threading.Thread(target=lambda: answers.append(allocate(place, VFS[0])))
    with place.running(*BY_PF):
        wait_listed(place, BOTH)
        caller.start()
        assert entered.wait(PATIENCE)
    caller.join(PATIENCE)
    assert answers[0].container_responses[0].envs["PCIDEVICE_INTEL_COM_ONE"] == VFS[0]

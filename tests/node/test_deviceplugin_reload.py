"""Pool configurations that change at runtime."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.calling import until
from tests.node.conftest import PATIENCE
from tests.node.deviceplugins import BOTH, BY_DRIVER, BY_PF, OTHER_VFS, VFS, Place, standing, texts, wait_listed


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with standing(tmp_path) as place:
        yield place


def text(*pools: dict[str, Any]) -> str:
    return json.dumps({"resourceList": pools})


def replace(file: Path, content: str) -> None:
    """Replace the file atomically, as editors and configuration management do."""
    new = file.with_name("new")
    new.write_text(content)
    new.rename(file)


def sockets(place: Place) -> set[str]:
    return {path.name for path in place.sockets.iterdir()} - {"kubelet.sock"}


def wait_sockets(place: Place, *names: str) -> None:
    until(lambda: sockets(place) == set(names), f"sockets {names}")


NEW = {"resourceName": "new", "selectors": {"pfNames": ["ens1f0#2-3"]}}
FEWER = {"resourceName": "one", "selectors": {"pfNames": ["ens1f0#0-1"]}}


def test_new_pools_are_served_gone_ones_ended_and_changed_ones_changed(place: Place) -> None:
    with place.running(*BY_PF):
        wait_listed(place, BOTH)
        replace(place.folder / "pools.json", text(FEWER, NEW))
        wait_listed(place, {"intel.com/one": VFS[:2], "intel.com/new": VFS[2:], "intel.com/two": []})
        wait_sockets(place, "intel.com_one.sock", "intel.com_new.sock")
        assert place.kubelet.registered == {"intel.com/one": 1, "intel.com/two": 1, "intel.com/new": 1}
        (place.folder / "pools.json").write_text(text(*BY_PF))  # written in place
        wait_listed(place, {**BOTH, "intel.com/new": []})
        wait_sockets(place, "intel.com_one.sock", "intel.com_two.sock")
        assert place.kubelet.registered == {"intel.com/one": 1, "intel.com/two": 2, "intel.com/new": 1}


def test_what_pods_were_given_stays_theirs(place: Place) -> None:
    with place.running(*BY_PF):
        wait_listed(place, BOTH)
        for resource in BOTH:
            place.kubelet.allocate("default", resource.replace("/", "-"), "app", resource, 1)
        files = {path.name for path in place.devinfo.iterdir()}
        replace(place.folder / "pools.json", text(BY_PF[0], NEW))
        wait_listed(place, {"intel.com/one": VFS, "intel.com/two": [], "intel.com/new": []})
        assert len(files) == 2
        assert {path.name for path in place.devinfo.iterdir()} == files
        assert [given.devices for given in place.kubelet.allocations()] == [(VFS[0],), (OTHER_VFS[0],)]
        answer = place.kubelet.allocate("default", "pod", "app", "intel.com/one", 1)
        assert answer.envs["PCIDEVICE_INTEL_COM_ONE"] == VFS[1]


def test_configmap_whose_link_is_swapped_is_read(place: Place) -> None:
    config = place.config(*BY_PF)
    folder = place.folder / "configmap"
    for name, content in {"..1": text(*BY_PF), "..2": text(FEWER, NEW)}.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(content)
    (folder / "..data").symlink_to("..1")
    (folder / "config.json").symlink_to("..data/config.json")
    Path(config.device_plugin).unlink()
    Path(config.device_plugin).symlink_to(folder / "config.json")
    with place.running_as(config):
        wait_listed(place, BOTH)
        (folder / "..data_tmp").symlink_to("..2")
        os.rename(folder / "..data_tmp", folder / "..data")
        wait_listed(place, {"intel.com/one": VFS[:2], "intel.com/new": VFS[2:], "intel.com/two": []})


def test_wrong_file_is_refused_with_all_that_is_wrong_and_the_old_one_stays(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    file = place.folder / "pools.json"
    with place.running(*BY_PF):
        wait_listed(place, BOTH)
        refused = f"the new configuration is refused, the pools are unchanged: device plugin configuration {file}"
        replace(file, text({"resourceName": "a.b", "health": "no"}))
        message = (
            f"{refused}: key \"resourceList[0].resourceName\": expected letters, digits, - and _, got 'a.b'; "
            'key "resourceList[0].health": expected a list, each "gone", "driver", "pcie", "devlink", "vfio" '
            "or \"link\", got 'no'"
        )
        until(lambda: message in texts(caplog), message)
        file.unlink()
        until(lambda: f"{refused}: No such file or directory" in texts(caplog), "the file missed")
        replace(file, text({"resourceName": "n" * 63, "resourcePrefix": "p" * 60}))
        until(lambda: "expected at most 107" in texts(caplog)[-1], "the name refused")
        assert place.kubelet.registered == {"intel.com/one": 1, "intel.com/two": 1}
        assert place.kubelet.ids("intel.com/one") == VFS
        replace(file, text(FEWER))
        wait_listed(place, {"intel.com/one": VFS[:2], "intel.com/two": []})


def test_file_is_read_again_when_asked_though_it_is_the_same(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with place.running(*BY_DRIVER) as plugin:
        place.kubelet.wait_ids("intel.com/net", [*VFS, *OTHER_VFS])
        plugin.request_reload()
        until(lambda: "the configuration is reloaded" in texts(caplog), "another reading")
        assert place.kubelet.registered == {"intel.com/net": 1, "intel.com/dpdk": 1}


def test_kubelet_is_told_numa_nodes_as_the_pool_has_it_by_now(place: Place) -> None:
    def has_topology() -> bool:
        devices = place.kubelet.resources()["intel.com/two"]
        return bool(devices) and all(device.HasField("topology") for device in devices)

    with place.running(BY_PF[1]):
        place.kubelet.wait_ids("intel.com/two", OTHER_VFS)
        assert has_topology()
        replace(place.folder / "pools.json", text({**BY_PF[1], "excludeTopology": True}))
        place.kubelet.wait_until(lambda: not has_topology(), PATIENCE, "devices without topology")


def test_folder_has_a_file_for_each_node(place: Place) -> None:
    folder = place.folder / "pcidp"
    folder.mkdir()
    (folder / "other-node").write_text(text(BY_PF[1]))
    config = place.config(BY_PF[0], node_name="this-node", device_plugin=str(folder))
    with place.running_as(config):
        until(lambda: place.kubelet.resources() == {}, "nothing")
        (place.folder / "pools.json").rename(folder / "this-node")
        wait_listed(place, {"intel.com/one": VFS})
        (folder / "this-node").unlink()
        wait_listed(place, {"intel.com/one": []})
        wait_sockets(place)

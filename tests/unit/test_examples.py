"""The examples document what a cluster needs to run them, and the quickstart shows one of them."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from image.recipe import IMAGES, version
from wirespeed.cli.checks import files
from wirespeed.play import limits, manifests, session
from wirespeed.play.manifests import extended_resources
from wirespeed.play.objects import Container, Pod
from wirespeed.play.security import capabilities
from wirespeed.provision import policy

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
FOLDERS = ("chain", "chain-kernel", "vfw", "vhost", "vlan")
MBUF = 2304  # bytes that testpmd takes at least for each mbuf
MBUFS = 155_456  # number of mbufs in testpmd's pool by default


def load(folder: str) -> manifests.Manifests:
    return manifests.load([EXAMPLES / folder], pools=EXAMPLES / "node/values.yaml")


def drivers(loaded: manifests.Manifests) -> dict[str, list[str]]:
    """The drivers of each resource's VFs; an empty list for resources without VFs."""
    pools = json.loads(session.device_plugin(loaded))["resourceList"]
    return {f"intel.com/{each['resourceName']}": each.get("selectors", {}).get("drivers", []) for each in pools}


def text_of(pod: Pod) -> str:
    return " ".join(part for each in pod.spec.containers for part in [*each.command, *each.args])


def may(container: Container) -> set[str]:
    """The capabilities that a container adds to the runtime's default ones."""
    context = container.security_context
    return set(capabilities(context, frozenset())) if context else set()


def test_these_are_all_examples() -> None:
    assert {path.parent.name for path in EXAMPLES.glob("*/pod-*.yaml")} == set(FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_pods_run_the_image_that_is_built_here_under_the_name_that_it_is_imported_by(folder: str) -> None:
    assert "wirespeed-testpmd" in IMAGES
    for container in (each for pod in load(folder).pods for each in pod.spec.containers):
        assert container.image == f"localhost/wirespeed-testpmd:{version()}"
        assert container.image_pull_policy == "IfNotPresent"


@pytest.mark.parametrize("folder", FOLDERS)
def test_all_pods_of_an_example_come_to_one_node(folder: str) -> None:
    for pod in load(folder).pods:
        assert pod.metadata.labels == {"example": folder}
        term = {"labelSelector": {"matchLabels": {"example": folder}}, "topologyKey": "kubernetes.io/hostname"}
        assert pod.spec.affinity == {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_container_with_a_vfio_device_may_lock_memory_and_has_hugepages(folder: str) -> None:
    loaded = load(folder)
    on_vfio = {resource for resource, names in drivers(loaded).items() if "vfio-pci" in names}
    for container in (each for pod in loaded.pods for each in pod.spec.containers):
        if on_vfio & extended_resources(container).keys():
            assert "IPC_LOCK" in may(container)
            assert limits.of(container).hugepages


def test_a_container_that_sets_up_a_kernels_interface_may_do_so() -> None:
    pods = [pod for folder in FOLDERS for pod in load(folder).pods if "net_af_packet" in text_of(pod)]
    assert [pod.label for pod in pods] == ["default/firewall"]
    assert {"NET_ADMIN", "NET_RAW"} <= may(pods[0].spec.containers[0])


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_packets_of_testpmd_have_room_in_the_hugepages(folder: str) -> None:
    for pod in load(folder).pods:
        if "dpdk-testpmd" not in (text := text_of(pod)):
            continue
        asked = re.search(r"--total-num-mbufs=(\d+)", text)
        memory = re.search(r"--socket-mem=(\d+)", text)
        room = limits.of_pod(pod).hugepages["2Mi"]
        assert int(asked[1] if asked else MBUFS) * MBUF < room, pod.label
        assert not memory or int(memory[1]) << 20 <= room
        assert re.search(r"dpdk-testpmd .*\s--\s", text, re.DOTALL), pod.label  # " -- " ends the EAL's options


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_node_has_as_many_vfs_on_the_right_driver_as_the_pods_ask_for(folder: str) -> None:
    made: dict[str, tuple[int, str]] = {}
    for each in policy.load([EXAMPLES / "node/vfs.yaml"], on_skip=lambda _: None):
        [name] = each.spec.nic_selector.pf_names
        first, last = map(int, name.partition("#")[2].split("-"))
        made[f"intel.com/{each.spec.resource_name}"] = (last - first + 1, each.spec.device_type)
    loaded = load(folder)
    asked: Counter[str] = Counter()
    for container in (each for pod in loaded.pods for each in pod.spec.containers):
        asked.update(extended_resources(container))
    asked.pop("intel.com/vhost", None)  # not a VF
    for resource, count in asked.items():
        number, device_type = made[resource]
        assert number >= count
        assert drivers(loaded)[resource] == ["igbvf" if device_type == "netdevice" else device_type]


def shown() -> list[str]:
    """The manifests that the quickstart shows."""
    return re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/quickstart.md").read_text(), re.DOTALL)


def test_quickstart_shows_the_example_as_it_stands() -> None:
    [example] = [text for text in shown() if "data-left" in text]
    network, pod = example.split("---\n")
    assert network in (EXAMPLES / "vfw/networks.yaml").read_text()
    assert pod == (EXAMPLES / "vfw/pod-2-vfw.yaml").read_text()
    known: dict[str, Any] = yaml.safe_load(network)
    assert known["metadata"]["name"] == "data-left"


def test_manifest_of_the_quickstart_can_be_checked_and_played(tmp_path: Path) -> None:
    [first] = [text for text in shown() if "data-left" not in text]
    (tmp_path / "first.yaml").write_text(first)
    assert files.check([tmp_path], search=()).findings == []
    loaded = manifests.load([tmp_path])
    assert [pod.metadata.annotations for pod in loaded.pods] == [{"k8s.v1.cni.cncf.io/networks": "lan"}]

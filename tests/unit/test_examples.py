"""The examples say what a cluster needs to run them, and README shows one of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from play import limits, manifests
from play.manifests import Pod, extended
from play.security import capabilities

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
FOLDERS = ("chain", "chain-kernel", "vfw", "vhost", "vlan")
MBUF = 2304  # bytes at least that testpmd takes for each packet of its pool
MBUFS = 155_456  # packets that testpmd makes a pool for, if nothing else is asked


def load(folder: str) -> manifests.Manifests:
    return manifests.load(
        [EXAMPLES / folder, *([EXAMPLES / "chain/testpmd.yaml"] if folder == "chain-kernel" else [])]
    )


def resources_on_vfio(loaded: manifests.Manifests) -> set[str]:
    pools = json.loads(loaded.device_plugin() or '{"resourceList": []}')["resourceList"]
    return {f"intel.com/{each['resourceName']}" for each in pools if "vfio-pci" in each["selectors"]["drivers"]}


def text_of(pod: Pod) -> str:
    return " ".join(part for each in pod.spec.containers for part in [*each.command, *each.args])


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_container_with_a_vfio_device_may_lock_memory_and_has_hugepages(folder: str) -> None:
    loaded = load(folder)
    for container in (each for pod in loaded.pods for each in pod.spec.containers):
        if resources_on_vfio(loaded) & extended(container).keys():
            assert container.security_context
            assert "IPC_LOCK" in capabilities(container.security_context, frozenset())
            assert limits.of(container).hugepages


def test_a_container_that_sets_up_a_kernels_interface_may_do_so() -> None:
    pods = [pod for folder in FOLDERS for pod in load(folder).pods if "net_af_packet" in text_of(pod)]
    assert [pod.label for pod in pods] == ["default/firewall"]
    context = pods[0].spec.containers[0].security_context
    assert context
    assert "NET_ADMIN" in capabilities(context, frozenset())


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
        assert re.search(r"dpdk-testpmd .*\s--\s", text, re.DOTALL), pod.label  # what is the EAL's ends there


def test_readme_shows_the_example_as_it_stands() -> None:
    [shown] = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    files = [*yaml.safe_load_all((EXAMPLES / "vfw/networks.yaml").read_text())]
    files += yaml.safe_load_all((EXAMPLES / "vfw/pod-2-vfw.yaml").read_text())
    known: dict[tuple[str, str], Any] = {(each["kind"], each["metadata"]["name"]): each for each in files}
    documents = list(yaml.safe_load_all(shown))
    assert [each["kind"] for each in documents] == ["NetworkAttachmentDefinition", "Pod"]
    assert [known[each["kind"], each["metadata"]["name"]] for each in documents] == documents

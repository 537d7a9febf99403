"""The agent's metrics over HTTP: calls, attachments, pools, VFs and the devices of pods."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fakesysfs import FakeSysfs
from tests.node.calling import PROBE_CONFIG, Call, Events, Gate
from tests.node.conftest import Agent, Netns
from tests.node.deviceplugins import pool_of_vfs
from wirespeed.cni.errors import Code

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def served(agent: Agent) -> str:
    """The address of the agent's metrics, from its log. Call it once per agent."""
    return agent.wait_log("metrics are served").rpartition("address=")[2].strip()


def look(address: str) -> Samples:
    """All samples, by name and labels."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }


def sample(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


@pytest.fixture
def measured(agent_process: Callable[..., Agent]) -> Callable[..., Agent]:
    """Start an agent that serves its metrics on a free port."""

    def start(**config: object) -> Agent:
        return agent_process(metrics="127.0.0.1:0", **config)

    return start


def test_calls_are_counted_by_plugin_verb_and_code(measured: Callable[..., Agent], shim: Path) -> None:
    agent = measured()
    assert Call(shim, agent.environ("STATUS"), PROBE_CONFIG).answer().status == 0
    for _ in range(2):
        assert Call(shim, agent.environ("STATUS"), PROBE_CONFIG, name="nobody").answer().status == 1
    refused = Call(shim, agent.environ("DANCE"), PROBE_CONFIG).answer()
    address = served(agent)
    agent.wait_log("failed", "verb=DANCE")  # counted by now; the caller gets its answer earlier
    samples = look(address)
    assert sample(samples, "wirespeed_cni_requests_total", plugin="probe", verb="STATUS", code="0") == 1
    unknown = {"plugin": "unknown", "verb": "STATUS", "code": str(int(Code.INVALID_CONFIG))}
    assert sample(samples, "wirespeed_cni_requests_total", **unknown) == 2
    odd = {"plugin": "probe", "verb": "unknown", "code": str(refused.body["code"])}
    assert sample(samples, "wirespeed_cni_requests_total", **odd) == 1
    assert sample(samples, "wirespeed_cni_request_duration_seconds_count", plugin="probe", verb="STATUS") == 1
    assert sample(samples, "wirespeed_attachments", plugin="sriov", step="added") == 0
    assert sample(samples, "process_open_fds") > 3
    assert not [name for name, _ in samples if name.endswith("_created")]


def test_running_and_waiting_calls_are_shown_by_plugin(
    measured: Callable[..., Agent], shim: Path, tmp_path: Path
) -> None:
    agent, gate = measured(), Gate(tmp_path / "gate")
    address = served(agent)
    with Events(tmp_path) as events:
        held = {**PROBE_CONFIG, "events": str(events.path), "gate": str(gate.path)}
        running = Call(shim, agent.environ("DEL", "c1"), held)
        assert events.next() == "begin DEL c1"
        waiting = Call(shim, agent.environ("DEL", "c1"), PROBE_CONFIG)
        agent.wait_log("queued", "container=c1")
        samples = look(address)
        gate.open()
        assert (running.answer().status, waiting.answer().status) == (0, 0)
    assert sample(samples, "wirespeed_cni_requests_running", plugin="probe") == 1
    assert sample(samples, "wirespeed_cni_requests_waiting", plugin="probe") == 1


def test_a_failed_add_is_counted_by_what_its_undo_left(
    measured: Callable[..., Agent], shim: Path, netns: Callable[[], Netns]
) -> None:
    agent = measured()
    delegate = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "probe", "fail": 100}]}
    config = {"cniVersion": "1.0.0", "name": "cluster", "type": "wirespeed", "delegates": [delegate]}
    environ = agent.environ("ADD", CNI_NETNS=netns().path, CNI_IFNAME="eth0")
    assert Call(shim, environ, config, name="wirespeed").answer().status == 1
    samples = look(served(agent))
    assert sample(samples, "wirespeed_failed_adds_undone_total", plugin="meta", outcome="incomplete") == 1
    assert sample(samples, "wirespeed_attachments", plugin="probe", step="deleting") == 1
    pending = sample(
        samples, "wirespeed_oldest_pending_attachment_timestamp_seconds", plugin="probe", step="deleting"
    )
    assert sample(samples, "process_start_time_seconds") < pending <= time.time()


def test_pools_and_the_devices_of_pods(measured: Callable[..., Agent], tmp_path: Path) -> None:
    with pool_of_vfs(tmp_path) as (kubelet, _, keys):
        agent = measured(**keys)
        kubelet.wait_for("intel.com/vfs", 4, 20)
        kubelet.allocate("default", "vfw", "testpmd", "intel.com/vfs", 1)
        samples = look(served(agent))
    assert sample(samples, "wirespeed_pool_devices", resource="intel.com/vfs") == 4
    assert sample(samples, "wirespeed_pool_allocations_total", resource="intel.com/vfs") == 1
    assert sample(samples, "wirespeed_pool_devices_allocated", resource="intel.com/vfs") == 1
    assert sample(samples, "wirespeed_pool_devices_free", resource="intel.com/vfs") == 3
    assert sample(samples, "wirespeed_pool_devices_unhealthy", resource="intel.com/vfs") == 0
    given = {"pciAddr": "0000:19:00.0", "dev_type": "intel.com/vfs", "pod": "vfw", "namespace": "default"}
    assert sample(samples, "sriov_kubepoddevice", container="testpmd", **given) == 1
    vf = {"pf": "ens1f0", "vf": "3", "pci_address": "0000:19:00.3", "numa_node": "0", "namespace": "", "pod": ""}
    assert [name for name, labels in samples if name == "wirespeed_vf_info" and set(vf.items()) <= set(labels)]


def test_counters_of_sysfs_are_told_under_both_names(measured: Callable[..., Agent], tmp_path: Path) -> None:
    sysfs = FakeSysfs(tmp_path / "sys")
    sysfs.pf("0000:18:00.0", name="ens1f0", vfs=2)
    for vf, text in (("0", "5"), ("1", "NaN")):
        folder = sysfs.root / f"bus/pci/devices/0000:18:00.0/sriov/{vf}/stats"
        folder.mkdir(parents=True)
        (folder / "rx_bytes").write_text(f"{text}\n")
    samples = look(served(measured(sysfs=str(sysfs.root))))
    first = {"pf": "ens1f0", "vf": "0", "numa_node": "0"}
    assert sample(samples, "sriov_vf_rx_bytes", **first, pciAddr="0000:19:00.0") == 5
    ours = {**first, "pci_address": "0000:19:00.0", "namespace": "", "pod": ""}
    assert sample(samples, "wirespeed_vf_rx_bytes_total", **ours) == 5
    assert len([name for name, _ in samples if name == "sriov_vf_rx_bytes"]) == 1


def test_a_source_that_cannot_be_read_leaves_the_others(measured: Callable[..., Agent], tmp_path: Path) -> None:
    (tmp_path / "kubelet/pod-resources").mkdir(parents=True)
    (tmp_path / "kubelet/pod-resources/kubelet.sock").touch()  # nobody is listening
    agent = measured(kubelet=str(tmp_path / "kubelet"))
    assert sample(look(served(agent)), "wirespeed_attachments", plugin="sriov", step="added") == 0
    agent.wait_log("metrics:", "the kubelet does not answer")


@pytest.mark.parametrize("address", ["9808", "localhost:", "127.0.0.1:99999", "127.0.0.1:http"])
def test_an_address_that_is_none_ends_the_agent(agent_process: Callable[..., Agent], address: str) -> None:
    agent = agent_process(metrics=address, ready=False)
    assert agent.process.wait(20) == 1
    agent.wait_log("metrics", "expected address:port")

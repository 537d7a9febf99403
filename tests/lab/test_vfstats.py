"""VF counters with the igb driver, which has none: they come from the VFs' interfaces in the pods."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.lab.conftest import LabVfs, Runtime, conf, host_local, in_namespace
from wirespeed.agent import sources
from wirespeed.observe.attached import Attached, PodInterface
from wirespeed.state.journal import Journal

Namespaces = Callable[[], str]


def counted(runtime: Runtime, address: str) -> dict[str, float]:
    """The VF's counters by name, from samples with the pod's labels."""
    journal = Journal(runtime.folder / "state.db")
    claims = {claim.device: claim for claim in journal.claims()}
    journal.close()
    pods = {
        (claim.container, claim.ifname): PodInterface(namespace="default", pod="counted")
        for claim in claims.values()
    }
    return {
        family.name: value
        for family in sources.vfs(Path("/sys"), Attached(claims, by_interface=pods))
        for labels, value in family.samples
        if labels[2] == address and labels[-2:] == ("default", "counted") and family.kind == "counter"
    }


def test_packets_between_two_pods_are_counted(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    pods = [(f"pod{n}", namespaces(), conf(vfs.kernel[n], ipam=host_local(9))) for n in (0, 1)]
    ips = []
    for container, netns, asked in pods:
        added = agent.add(container, asked, netns)
        assert added.code == 0, added.body
        ips.append(added.body["ips"][0]["address"].split("/")[0])
    before = counted(agent, vfs.kernel[1])
    in_namespace(pods[0][1], "ping", "-c", "5", "-i", "0.2", "-s", "1000", "-w", "20", ips[1])
    after = counted(agent, vfs.kernel[1])
    for container, netns, asked in pods:
        assert agent.delete(container, asked, netns).code == 0
    assert counted(agent, vfs.kernel[1]) == {}
    assert after["wirespeed_vf_rx_packets"] - before["wirespeed_vf_rx_packets"] >= 5
    assert after["wirespeed_vf_tx_packets"] - before["wirespeed_vf_tx_packets"] >= 5
    assert after["wirespeed_vf_rx_bytes"] - before["wirespeed_vf_rx_bytes"] >= 5000

"""The vFW of the README, as its manifests stand, on a real scheduler, kubelet and runtime."""

from __future__ import annotations

import re
from pathlib import Path

from tests.cluster.kube import Kube, network_status

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PACKETS = 102_400


def test_vfw_forwards_every_packet(kube: Kube) -> None:
    vfw = EXAMPLES / "vfw"
    kube.apply(
        *(
            path
            for path in sorted(vfw.glob("*.yaml"))
            if path.name not in {"device-plugin.yaml", "pod-3-source.yaml"}
        )
    )
    pods = kube.pods_ready("sink", "vfw")
    kube.apply(vfw / "pod-3-source.yaml")
    kube.pod_ended("source")
    sent = kube.run("logs", "source")
    assert f"TX-packets: {PACKETS}" in sent, sent
    counted = kube.run("exec", "sink", "--", "python3", "-c", _COUNT)
    assert int(counted) == PACKETS, counted
    by_name = {pod["metadata"]["name"]: pod for pod in pods}
    assert [status["interface"] for status in network_status(by_name["vfw"])] == ["eth0", "net1", "net2"]
    devices = [status["device-info"]["pci"]["pci-address"] for status in network_status(by_name["vfw"])[1:]]
    environment = kube.execute("vfw", "env")
    for side, device in zip(("LEFT", "RIGHT"), devices, strict=True):
        assert re.search(rf"^PCIDEVICE_INTEL_COM_{side}_DPDK={re.escape(device)}$", environment, re.M), environment


# Packets that the sink's port has received, by testpmd's telemetry.
_COUNT = """
import json, socket
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as telemetry:
    telemetry.connect("/var/run/dpdk/rte/dpdk_telemetry.v2")
    telemetry.recv(4096)
    telemetry.send(b"/ethdev/stats,0")
    print(json.loads(telemetry.recv(65536))["/ethdev/stats"]["ipackets"])
"""


def test_kernel_vfs_on_vlans_are_apart(kube: Kube) -> None:
    vlan = EXAMPLES / "vlan"
    kube.apply(
        *(
            path
            for path in sorted(vlan.glob("*.yaml"))
            if path.name != "device-plugin.yaml" and "check.yaml" not in path.name
        )
    )
    kube.pods_ready("blue", "green")
    kube.apply(*sorted(vlan.glob("*-check.yaml")))
    for name in ("blue-check", "green-check"):
        kube.pod_ended(name)

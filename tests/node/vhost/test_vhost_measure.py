"""`wirespeed measure` through a testpmd pod whose vhost-user ports are in Open vSwitch with DPDK."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
import yaml

from tests.node.conftest import ROOT, Netns
from tests.node.plays import Manifest, Stage, standing
from tests.node.vhost.conftest import Switch
from wirespeed.measure.forwarder import Forwarded
from wirespeed.measure.report import Report
from wirespeed.measure.trial import Losses, Trial

SIZE = 128  # bytes
SHORT = ("--size", str(SIZE), "--trial", "0.5", "--pause", "0", "--max-rate", "400")
THROUGH = ("--through", "lab/left", "--through", "lab/right", "--test", "loss")
LEFT, RIGHT = 10, 20  # VLANs


@dataclass
class Bench:
    """A node with a switch; net1 of two namespaces is in VLAN `LEFT` and VLAN `RIGHT` of its bridge."""

    stage: Stage
    switch: Switch
    rundir: Path
    left: Netns
    right: Netns

    def write(self, *manifests: Manifest) -> list[str]:
        """Write the networks; return the options of measure for them."""
        files = self.stage.folder / "networks.yaml"
        files.write_text(yaml.safe_dump_all(manifests))
        pools = self.stage.folder / "pools.json"
        pools.write_text(
            json.dumps({"resourceList": [{"resourceName": "vhost", "deviceType": "vhostUser", "count": 4}]})
        )
        play = ["--play", str(files), "--pools", str(pools), "--cni-conf", str(self.stage.conf)]
        return [*play, "--cni-path", "/usr/lib/cni", "--shim", str(self.stage.shim)]

    def measure(self, *options: str) -> subprocess.CompletedProcess[str]:
        ends = ("--from", f"{self.left.name}:net1", "--to", f"{self.right.name}:net1")
        command = [sys.executable, "-m", "wirespeed", "measure", *ends, *SHORT, *options]
        prefix = self.switch.as_the_nodes(self.rundir, self.stage.node)
        return subprocess.run([*prefix, *command], cwd=ROOT, capture_output=True, text=True, check=False)


def network(name: str, vlan: int, *, resource: str = "intel.com/vhost") -> Manifest:
    """A network in a VLAN; without a resource, the pod's own volume is the place of the socket."""
    config = {
        "cniVersion": "1.1.0",
        "type": "wirespeed-vhost",
        "host": {"engine": "ovs-dpdk", "iftype": "vhostuser", "bridge": {"bridgeName": "br0", "vlanId": vlan}},
    }
    return {
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {
            "name": name,
            "namespace": "lab",
            "annotations": {"k8s.v1.cni.cncf.io/resourceName": resource} if resource else {},
        },
        "spec": {"config": json.dumps(config)},
    }


@pytest.fixture
def bench(switch: Switch, rundir: Path, netns: Callable[[], Netns], shim: Path, tmp_path: Path) -> Iterator[Bench]:
    ends = netns(), netns()
    with standing(netns(), tmp_path, shim) as stage:
        for number, (each, vlan) in enumerate(zip(ends, (LEFT, RIGHT), strict=True)):
            peer = ("peer", "net1", "netns", each.path)
            run_in_switch(switch, "ip", "link", "add", f"end{number}", "type", "veth", *peer)
            run_in_switch(switch, "ip", "link", "set", f"end{number}", "up")
            each.run("ip", "link", "set", "net1", "addrgenmode", "none", "up")  # no frames but ours
            switch.vsctl("add-port", "br0", f"end{number}", f"tag={vlan}")
        yield Bench(stage, switch, rundir, *ends)
        for number in range(2):
            switch.vsctl("del-port", "br0", f"end{number}")
            run_in_switch(switch, "ip", "link", "del", f"end{number}")


def run_in_switch(switch: Switch, *command: str) -> None:
    subprocess.run(["ip", "netns", "exec", switch.netns, *command], check=True)


def losses(done: subprocess.CompletedProcess[str]) -> tuple[Trial, ...]:
    """The trials of the frame loss test."""
    assert done.returncode == 0, done.stdout + done.stderr
    (size,) = msgspec.json.decode(done.stdout, type=Report).sizes
    return size.loss


def test_every_frame_of_a_low_rate_goes_through_testpmd_and_is_counted_there(bench: Bench) -> None:
    options = bench.write(network("left", LEFT), network("right", RIGHT))
    done = bench.measure(*options, *THROUGH, "--json")
    for trial in losses(done):
        assert trial.lost == 0
        assert trial.forwarded == Forwarded(received=trial.sent, missed=0, sent=trial.sent, dropped=0)
    forwarder = msgspec.json.decode(done.stdout, type=Report).forwarder
    assert forwarder
    assert re.fullmatch(
        r"testpmd, mac forwarding, from net1, port 0 \(virtio_user0, net_virtio_user, \S+\) to "
        r"net2, port 1 \(virtio_user1, net_virtio_user, \S+\)",
        str(forwarder),
    )
    assert bench.switch.ports() == ["end0", "end1"]


def test_what_a_limit_behind_testpmd_drops_is_lost_after_it(bench: Bench) -> None:
    limits = ("rate", f"{20 * SIZE * 8}bit", "burst", "2000", "limit", "2000")  # of 400 frames/s, 20 pass
    run_in_switch(bench.switch, "tc", "qdisc", "add", "dev", "end1", "root", "tbf", *limits)
    options = bench.write(network("left", LEFT), network("right", RIGHT))
    done = bench.measure(*options, *THROUGH, "--json")
    first = losses(done)[0]
    assert first.received < first.sent / 2
    assert first.losses == Losses(before=0, missed=0, dropped=0, after=first.lost)
    assert re.search(r"0 before the forwarder, 0 RX-missed and 0 TX-dropped in it, \d+ after it", done.stderr)


def test_the_same_path_is_measured_without_testpmd_first(bench: Bench) -> None:
    for number in range(2):
        bench.switch.vsctl("set", "port", f"end{number}", f"tag={LEFT}")
    options = bench.write(network("left", LEFT), network("right", LEFT, resource=""))
    done = bench.measure(*options, *THROUGH, "--direct", "--plot", "-")
    assert done.returncode == 0, done.stderr
    texts = [each.text for each in ElementTree.fromstring(done.stdout).iter()]
    assert "net1 to net1 through testpmd, mac forwarding" in texts
    assert "128 bytes, direct" in texts
    assert re.search(r"without it: 128 bytes, loss: 400 frames/s: no loss", done.stderr)


def test_a_network_of_kernel_interfaces_is_refused_before_a_pod_is_made(bench: Bench) -> None:
    wrong = network("right", RIGHT)
    wrong["spec"]["config"] = json.dumps({"cniVersion": "1.0.0", "type": "bridge", "bridge": "br9"})
    done = bench.measure(*bench.write(network("left", LEFT), wrong), *THROUGH)
    assert done.returncode == 1
    assert done.stderr == (
        "Error: network lab/right: its plugins make interfaces of the kernel, which testpmd does not use; "
        "expected a network of VFs on vfio-pci, vhost-user or memif ports, got 'the plugins bridge'\n"
    )

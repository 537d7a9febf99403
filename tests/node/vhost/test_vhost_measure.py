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
from wirespeed.measure.report import Report

SHORT = ("--size", "128", "--trial", "0.5", "--pause", "0", "--max-rate", "400")
FRAMES = 200
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


def network(name: str, vlan: int, **annotations: str) -> Manifest:
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
            "annotations": {"k8s.v1.cni.cncf.io/resourceName": "intel.com/vhost", **annotations},
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


def test_every_frame_of_a_low_rate_goes_through_testpmd_and_is_counted_there(bench: Bench) -> None:
    options = bench.write(network("left", LEFT), network("right", RIGHT))
    through = ("--through", "lab/left", "--through", "lab/right", "--test", "throughput", "--test", "latency")
    done = bench.measure(*options, *through, "--json")
    assert done.returncode == 0, done.stderr
    report = msgspec.json.decode(done.stdout, type=Report)
    print(done.stderr, done.stdout)

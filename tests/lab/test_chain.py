"""The service chains of the examples: VF to VF, through vhost-user ports and Open vSwitch with DPDK."""

from __future__ import annotations

import re
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import examples
from tests.examples import Seen
from tests.lab.conftest import PFS, LabVfs, sh

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SOCKETS = Path("/run/wirespeed/vhost")  # the directory of the pods' sockets in the examples
PACKETS = 3200  # number of packets that examples/chain/pod-3-source.yaml sends
PINGS = 200  # number of pings that examples/chain-kernel/pod-3-source.yaml sends
PATIENCE = 60.0  # seconds

pytestmark = pytest.mark.usefixtures("unchanged", "no_bridge", "quiet_pfs", "switch")


@pytest.fixture(scope="module")
def switch() -> Iterator[None]:
    """An Open vSwitch with DPDK, set up as the examples expect it."""
    process = subprocess.Popen(
        [EXAMPLES / "switch", "sh", "-c", "echo up; read end"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
        assert ready, "the switch does not start"
        assert process.stdout.readline() == b"up\n", process.communicate()[1].decode()
        yield
    finally:
        process.communicate(b"end\n", timeout=PATIENCE)
    assert process.returncode == 0
    assert list(Path("/run/openvswitch").iterdir()) == []


@pytest.fixture
def quiet_pfs() -> Iterator[None]:
    """Keep the node from sending router solicitations over the PFs, which VFs would receive and count."""
    files = [Path(f"/proc/sys/net/ipv6/conf/{pf}/disable_ipv6") for pf in PFS]
    for file in files:
        file.write_text("1")
    yield
    for file in files:
        file.write_text("0")


def bridges() -> dict[str, list[str]]:
    """The switch's bridges, each with its ports."""
    return {name: sh("ovs-vsctl", "list-ports", name).split() for name in sh("ovs-vsctl", "list-br").split()}


def play(out: Path, example: str, packets: int) -> tuple[str, dict[str, Seen]]:
    """Play an example. Return the output and the state of its pods.

    While the pods run, each port of the switch must pass this number of packets. Afterwards nothing of the pods may
    be left in the switch or on the node.
    """
    before = bridges()
    then = f"examples/chain/ports {packets} && {sys.executable} -m tests.inside {out}/seen"
    command = [sys.executable, "-m", "wirespeed", "play", "--in-order", "--out", str(out), "--timeout", "240"]
    command += ["--cni-conf", str(EXAMPLES / "00-wirespeed.conf"), "--pools", str(EXAMPLES / "node/values.yaml")]
    command += ["--then", then, f"examples/{example}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert bridges() == before
    assert [path for path in SOCKETS.rglob("*") if not path.is_dir()] == []
    pods = examples.played(out)
    assert examples.broken(example, pods) == []
    return done.stdout, pods


def switched(said: str, pod: str) -> tuple[int, int]:
    """The numbers of packets from and to a pod's port, as counted by the switch; none may be dropped."""
    found = re.search(rf"port of {pod}: (\d+) packets from it, 0 dropped, (\d+) to it, 0 dropped", said)
    assert found is not None, said
    return int(found[1]), int(found[2])


def test_every_packet_crosses_from_vf_to_vf_and_through_the_switch_and_comes_back(
    vfs: LabVfs, tmp_path: Path
) -> None:
    said, pods = play(tmp_path, "chain", PACKETS)
    assert [switched(said, pod) for pod in ("firewall", "sink")] == [(PACKETS, PACKETS)] * 2
    assert sorted(pods[pod].devices["net1"] for pod in ("source", "firewall")) == vfs.vfio[:2]
    assert bridges() == {}


@pytest.fixture
def bridge(switch: None) -> Iterator[None]:
    """The bridge that the administrator creates for examples/chain-kernel."""
    sh(
        "ovs-vsctl",
        "--timeout=20",
        "add-br",
        "br-inside",
        "--",
        "set",
        "Bridge",
        "br-inside",
        "datapath_type=netdev",
    )
    yield
    sh("ovs-vsctl", "--timeout=20", "del-br", "br-inside")


@pytest.mark.usefixtures("bridge")
def test_every_ping_crosses_a_kernel_vf_and_the_switch_and_is_answered(vfs: LabVfs, tmp_path: Path) -> None:
    said, pods = play(tmp_path, "chain-kernel", PINGS)
    # At least, because ARP and other packets of the kernel are counted too.
    assert min(count for pod in ("firewall", "sink") for count in switched(said, pod)) >= PINGS
    assert sorted(pods[pod].devices["net1"] for pod in ("source", "firewall")) == vfs.kernel[:2]
    assert bridges() == {"br-inside": []}

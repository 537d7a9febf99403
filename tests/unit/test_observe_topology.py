"""The topology of a node with a made-up sysfs and a real journal: as a struct, as text and as a drawing."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from tests.fakesysfs import FakeSysfs
from wirespeed.devices.snapshot import Snapshot
from wirespeed.errors import Error, Kind
from wirespeed.kernel.netlink.vf import VfSettings
from wirespeed.kernel.netns import Identity
from wirespeed.node import Node, NodeConfig, VhostConfig, open_journal
from wirespeed.observe import attached, drawing, tree
from wirespeed.observe.attached import PodInterface
from wirespeed.observe.layout import Function, Interface, Pf, Topology
from wirespeed.observe.switches import Switch, SwitchPort
from wirespeed.observe.topology import topology
from wirespeed.plugins.meta.delegate import Delegate, planned_rows
from wirespeed.plugins.sriov.conf import Wanted
from wirespeed.plugins.sriov.record import SriovRecord
from wirespeed.plugins.vhost.record import VhostRecord
from wirespeed.provision.listing import Settings
from wirespeed.state.journal import ClaimStep, DeviceClaim

GONE = Identity(1, 2, 3)  # no namespace has it
LEFT, RIGHT = "0000:18:00.0", "0000:3b:00.0"


def delegate(ifname: str, pod: str, *, device: str = "", resource: str = "") -> Delegate:
    return Delegate(
        configuration="meta",
        request_ifname="eth0",
        label=f"default/{ifname}",
        raw={},
        version="1.1.0",
        ifname=ifname,
        args={"K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": pod},
        device=device,
        resource=resource,
    )


def claim(device: str, container: str, ifname: str, plugin: str, record: dict[str, Any]) -> DeviceClaim:
    return DeviceClaim(
        device=device,
        plugin=plugin,
        container=container,
        ifname=ifname,
        netns="/run/netns/gone",
        identity=GONE,
        step=ClaimStep.ATTACHED,
        record=record,
    )


def sriov_record(pf: str, index: int, **more: Any) -> dict[str, Any]:
    before = Snapshot(pf=pf, index=index, driver="iavf", settings=VfSettings())
    return SriovRecord(before=before, wanted=Wanted(settings=VfSettings()), **more).to_json()


@pytest.fixture
def make_node(tmp_path: Path) -> Callable[..., Node]:
    """Make a node with two PFs on two NUMA nodes, the first of which has three VFs."""
    sysfs = FakeSysfs(tmp_path / "sys")
    sysfs.pf(LEFT, "ens1f0", vfs=3, numa=0)
    sysfs.pf(RIGHT, "ens2f0", vfs=1, numa=1, vf_driver="vfio-pci")
    sysfs.set_interface("ens1f0", "carrier", "1")
    sysfs.set_interface("ens1f0", "speed", "25000")
    sysfs.rdma(sysfs.path("0000:19:00.1"), "mlx5_3", number=3)
    sysfs.function(LEFT, "mlx5_core.sf.4", 88)

    def make(**config: Any) -> Node:
        return Node(
            NodeConfig(
                node_name="worker",
                state=str(tmp_path / "run/state.db"),
                attachments=str(tmp_path / "attachments"),
                sysfs=str(sysfs.root),
                kubelet=str(tmp_path / "kubelet"),
                vhost=VhostConfig(ovsdb=config.pop("ovsdb", f"unix:{tmp_path}/db.sock")),
                **config,
            )
        )

    return make


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    return make_node()


def functions(found: Topology) -> dict[str, Function]:
    return {each.address: each for pf in found.pfs for each in pf.functions}


def test_a_node_without_a_journal_shows_its_devices_and_no_pods_and_gets_no_journal(node: Node) -> None:
    found = topology(node)
    assert [(pf.name, pf.numa_node, pf.total_vfs, pf.speed, pf.carrier) for pf in found.pfs] == [
        ("ens1f0", 0, 256, 25000, True),
        ("ens2f0", 1, 256, 0, False),
    ]
    seen = functions(found)
    assert [*seen] == ["0000:19:00.0", "0000:19:00.1", "0000:19:00.2", "mlx5_core.sf.4", "0000:3c:00.0"]
    assert {each.pod for each in seen.values()} == {None}
    assert (seen["0000:19:00.1"].rdma, seen["0000:19:00.1"].iommu_group) == (("mlx5_3",), "6401")
    assert (seen["mlx5_core.sf.4"].kind, seen["mlx5_core.sf.4"].index) == ("SF", 88)
    assert (seen["0000:3c:00.0"].driver, seen["0000:3c:00.0"].numa_node) == ("vfio-pci", 1)
    assert (found.switches, found.faults) == ((), ())
    assert not Path(node.config.state).exists()


def test_devices_of_pods_are_those_of_the_journal(node: Node) -> None:
    mine = [
        delegate("net1", "web", device="0000:19:00.0", resource="intel.com/left"),
        delegate("net2", "web", device="0000:19:00.2"),  # of an executed plugin, which makes no claim
    ]
    node.journal.plan(planned_rows(mine, "a" * 64, "/run/netns/gone", GONE))
    node.journal.claim(claim("0000:19:00.0", "a" * 64, "net1", "sriov", sriov_record(LEFT, 0)))
    other = sriov_record(LEFT, 1, network="data", pod="kube-system/other", rdma={"mlx5_9": 9})
    node.journal.claim(claim("0000:3c:00.0", "b" * 64, "net1", "sriov", other))
    node.journal.claim(claim("mlx5_core.sf.4", "c" * 64, "net1", "sriov", sriov_record(LEFT, 88)))
    seen = functions(topology(node))
    pods = {address: each.pod and (each.pod.owner, each.pod.ifname) for address, each in seen.items()}
    assert pods == {
        "0000:19:00.0": ("default/web", "net1"),
        "0000:19:00.1": None,
        "0000:19:00.2": ("default/web", "net2"),
        "mlx5_core.sf.4": ("container cccccccccccc", "net1"),
        "0000:3c:00.0": ("kube-system/other", "net1"),
    }
    assert (seen["0000:19:00.0"].pool, seen["0000:3c:00.0"].rdma) == ("intel.com/left", ("mlx5_9",))


def test_devices_of_an_attachment_of_an_earlier_boot_are_nobodys(node: Node) -> None:
    (row,) = planned_rows([delegate("net1", "web", device="0000:19:00.0")], "a" * 64, "/run/netns/gone", GONE)
    row.record["boot"] = "another"
    node.journal.plan([row])
    assert functions(topology(node))["0000:19:00.0"].pod is None


def test_pools_are_those_of_the_device_plugin(make_node: Callable[..., Node], tmp_path: Path) -> None:
    pools = tmp_path / "pools.json"
    pools.write_text('{"resourceList": [{"resourceName": "left", "selectors": {"pfNames": ["ens1f0#1-2"]}}]}')
    found = topology(make_node(device_plugin=str(pools)))
    assert {each.address: each.pool for each in functions(found).values() if each.pool} == {
        "0000:19:00.1": "intel.com/left",
        "0000:19:00.2": "intel.com/left",
    }


def test_what_cannot_be_read_is_a_fault_and_the_rest_is_shown(
    make_node: Callable[..., Node], tmp_path: Path
) -> None:
    node = make_node(device_plugin=str(tmp_path / "no-pools.json"), ovsdb="tcp:127.0.0.1:1")
    record = VhostRecord(engine="ovs-dpdk", bridge="br0", port="aaaa-net1", role="server")
    node.journal.claim(claim("ovs-dpdk:aaaa-net1", "a" * 64, "net1", "vhost", record.to_json()))
    found = topology(node)
    assert len(found.pfs) == 2
    assert found.faults == (
        f"device plugin configuration {tmp_path}/no-pools.json: No such file or directory",
        "Open vSwitch database tcp:127.0.0.1:1: Connection refused",
    )
    assert [(switch.bridge, [(port.name, port.state) for port in switch.ports]) for switch in found.switches] == [
        ("br0", [("aaaa-net1", "")])
    ]
    assert "\n".join(tree.lines(found)).endswith(f"not shown:\n  {found.faults[0]}\n  {found.faults[1]}")


def test_ports_without_open_vswitch_are_those_of_the_journal(node: Node) -> None:
    socket = "/run/chains/link.sock"
    for container, role in (("a" * 64, "master"), ("b" * 64, "slave")):
        record = VhostRecord(engine="none", port="link", socket=socket, role=role, network="link")
        node.journal.claim(claim(f"memif:x:{role}", container, "net1", "vhost", record.to_json()))
    record = VhostRecord(engine="vpp", bridge="7", port="cccc-net1", role="slave", socket="/run/vpp/c.sock")
    node.journal.claim(claim("vpp:cccc-net1", "c" * 64, "net1", "vhost", record.to_json()))
    shown = [
        (switch.kind, switch.bridge, [(port.kind, port.role, port.pod and port.pod.owner) for port in switch.ports])
        for switch in topology(node).switches
    ]
    assert shown == [
        ("vpp", "7", [("memif", "slave", "container cccccccccccc")]),
        (
            "none",
            socket,
            [
                ("memif", "master", "container aaaaaaaaaaaa"),
                ("memif", "slave", "container bbbbbbbbbbbb"),
            ],
        ),
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_another_user_than_root_is_told_so_in_one_error(mode: int, request: pytest.FixtureRequest) -> None:
    folder = Path(tempfile.mkdtemp())  # outside of tmp_path, which is root's alone
    request.addfinalizer(lambda: shutil.rmtree(folder))
    config = NodeConfig(state=str(folder / "state.db"), attachments=str(folder / "attachments"))
    open_journal(config).close()
    folder.chmod(mode)
    pid = os.fork()
    if not pid:  # the child has no way back: its exit status tells
        os.setresuid(65534, 65534, 65534)
        try:
            attached.read(Node(config))
        except Error as error:
            expected = f"journal {config.state}: Permission denied; run the command as root"
            os._exit(0 if (error.kind, error.msg) == (Kind.IO, expected) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# Text and drawing

WEB = PodInterface(namespace="default", pod="web", container="a" * 64, ifname="net1", network="default/left")
ODD = PodInterface(namespace="default", pod="<&>\"'", container="b" * 64, ifname="net1\x1b[2J")


def pf(number: int, *, vfs: int, pods: Sequence[PodInterface | None] = (None,)) -> Pf:
    return Pf(
        address=f"0000:{number:02x}:00.0",
        name=f"ens{number}",
        driver="ice",
        numa_node=number % 2,
        up=True,
        carrier=True,
        speed=25000,
        mtu=9000,
        total_vfs=64,
        functions=tuple(
            Function(
                kind="VF",
                address=f"0000:{number:02x}:{8 + n // 8:02x}.{n % 8}",
                index=n,
                driver="iavf" if n % 2 else "vfio-pci",
                iommu_group=str(n),
                interface=Interface(
                    name=f"ens{number}v{n}", mac="02:00:00:00:00:01", mtu=1500, up=True, carrier=False
                )
                if n % 2
                else None,
                settings=Settings(vlan=n, vlan_protocol="802.1ad", spoofchk=True, trust=True, max_rate=100),
                pod=pods[n % len(pods)],
            )
            for n in range(vfs)
        ),
    )


OVS = Switch(
    kind="ovs-dpdk",
    bridge="br0",
    datapath="netdev",
    others=("dpdk0",),
    ports=(
        SwitchPort(name="aaaa-net2", kind="vhostuser", role="server", socket="/s", state="up", vlan=7, pod=WEB),
    ),
)
FULL = Topology(
    node="worker",
    pfs=(pf(1, vfs=2), pf(2, vfs=9, pods=(WEB, ODD, None)), pf(3, vfs=0), pf(4, vfs=1)),
    switches=(OVS,),
    faults=("VPP: <down>",),
)


def test_text_is_a_tree_with_the_pods_at_the_end_of_the_lines() -> None:
    small = Topology(node="worker", pfs=(pf(2, vfs=2, pods=(WEB, None)),), switches=(OVS,))
    assert "\n".join(tree.lines(small)) == (
        "NUMA node 0\n"
        "└─ PF ens2  0000:02:00.0  ice  up 25 Gbit/s\n"
        "   │  2 of 64 VFs, MTU 9000\n"
        "   ├─ VF 0  0000:02:08.0  vfio-pci  -                   → default/web net1\n"
        "   │     at most 100 Mbit/s, trusted, spoof check on, IOMMU group 0,\n"
        "   │     network default/left\n"
        "   └─ VF 1  0000:02:08.1  iavf      ens2v1  no carrier\n"
        "         MAC 02:00:00:00:00:01, VLAN 1 QinQ (802.1ad), at most 100 Mbit/s,\n"
        "         trusted, spoof check on, IOMMU group 1\n"
        "\n"
        "Open vSwitch\n"
        "└─ bridge br0  datapath netdev\n"
        "   │  other ports: dpdk0\n"
        "   └─ aaaa-net2  vhost-user server  up  → default/web net1\n"
        "         VLAN 7, network default/left, socket /s"
    )


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, tree.lines(FULL, width=width))) <= width


def test_text_for_a_terminal_without_unicode_is_ascii_and_has_no_control_characters() -> None:
    text = "\n".join(tree.lines(FULL, utf8=False))
    assert text.isascii()
    assert "\x1b" not in text
    assert "`- PF ens4" in text


class Box(NamedTuple):
    x: float
    y: float
    width: float
    height: float

    def overlaps(self, other: Box) -> bool:
        beside = self.x + self.width <= other.x or other.x + other.width <= self.x
        return not (beside or self.y + self.height <= other.y or other.y + other.height <= self.y)

    def contains(self, x: float, y: float) -> bool:
        return self.x <= x <= self.x + self.width and self.y <= y <= self.y + self.height


SVG = "{http://www.w3.org/2000/svg}"


def boxes(root: ET.Element) -> list[Box]:
    return [
        Box(*(float(each.attrib[key]) for key in ("x", "y", "width", "height"))) for each in root.iter(f"{SVG}rect")
    ]


def texts(root: ET.Element) -> list[str]:
    return [each.text or "" for each in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("vfs", [0, 1, 9, 128])
def test_drawing_has_every_device_and_pod_and_no_boxes_overlap(vfs: int) -> None:
    pods = [PodInterface(namespace="ns", pod=f"pod-{n}", ifname="net1") for n in range(vfs)]
    shown = msgspec.structs.replace(FULL, pfs=(*FULL.pfs, pf(8, vfs=vfs, pods=pods or (None,))))
    root = ET.fromstring(drawing.svg(shown))
    text = texts(root)
    named = [
        *(each for of in shown.pfs for each in (of.address, *(vf.address for vf in of.functions))),
        "aaaa-net2",
        "dpdk0",
        "NUMA node 0",
        "NUMA node 1",
        "not shown: VPP: <down>",
    ]
    assert [name for name in named if not any(name in line for line in text)] == []
    owners = sorted({"default/web", ODD.owner, *(pod.owner for pod in pods)})
    assert sorted(line for line in text if line in owners) == owners  # each once
    drawn = boxes(root)
    assert len(drawn) == len(shown.pfs) + 12 + vfs + 2 + len(owners)
    assert [pair for pair in combinations(drawn, 2) if pair[0].overlaps(pair[1])] == []
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    assert all(box.x + box.width <= width and box.y + box.height <= height for box in drawn)


def test_text_of_the_drawing_is_inside_of_its_boxes() -> None:
    root = ET.fromstring(drawing.svg(FULL))
    for each in root.iter(f"{SVG}text"):
        x, y, text = float(each.attrib["x"]), float(each.attrib["y"]), each.text or ""
        if not re.match("NUMA|Open vSwitch|not shown", text):
            around = [box for box in boxes(root) if box.contains(x, y)]
            assert len(around) == 1, text
            assert x + 7.3 * len(text) <= around[0].x + around[0].width, text


def test_drawing_depends_on_nothing_and_has_no_script() -> None:
    document = drawing.svg(FULL)
    tags = {each.tag.removeprefix(SVG) for each in ET.fromstring(document).iter()}
    assert tags == {"svg", "title", "style", "rect", "text", "path"}
    assert "prefers-color-scheme: dark" in document
    assert re.findall(r"https?://[^\"]+", document) == ["http://www.w3.org/2000/svg"]


def test_drawing_of_an_empty_node_is_a_drawing() -> None:
    assert boxes(ET.fromstring(drawing.svg(Topology(node="worker")))) == []


def test_json_has_the_whole_struct() -> None:
    assert msgspec.json.decode(msgspec.json.encode(FULL), type=Topology) == FULL

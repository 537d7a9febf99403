"""`wirespeed topology` and `wirespeed top` with igb's PFs and VFs, and pods that the meta-plugin attached.

With WIRESPEED_TRANSCRIPT, the tree and the drawing are written to that directory; docs/observe.md shows them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from tests.lab.conftest import LabVfs, Runtime, conf, host_local, in_namespace, link_in, make_runtime, serving
from wirespeed.devices.pci import PciDevice
from wirespeed.node import Node, load_config
from wirespeed.observe.layout import Function, Topology
from wirespeed.observe.rates import Interval
from wirespeed.observe.topology import topology

Namespaces = Callable[[], str]
META = {
    "cniVersion": "1.1.0",
    "name": "cluster",
    "type": "wirespeed",
    "delegates": [
        {
            "cniVersion": "1.0.0",
            "name": "mgmt",
            "type": "bridge",
            "bridge": "topo0",
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.9.0/24"}]]},
        }
    ],
}
POOLS = {"resourceList": [{"resourceName": "left", "selectors": {"pfNames": ["ens1#0-1"], "drivers": ["igbvf"]}}]}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    """A runtime with an agent of its own, whose node has a pool."""
    folder = tmp_path_factory.mktemp("topology")
    (folder / "pools.json").write_text(json.dumps(POOLS))
    runtime = make_runtime(folder, nodeName="lab", devicePlugin=str(folder / "pools.json"))
    with serving(runtime):
        yield runtime
    subprocess.run(["ip", "link", "delete", "topo0"], check=True)


def define(runtime: Runtime, pod: str, **networks: dict[str, Any]) -> None:
    """Write the manifests of a pod and of its networks."""
    documents = [
        {
            "apiVersion": "k8s.cni.cncf.io/v1",
            "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": name},
            "spec": {"config": json.dumps(config | {"name": name})},
        }
        for name, config in networks.items()
    ]
    annotations = {"k8s.v1.cni.cncf.io/networks": ",".join(networks)}
    documents.append(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod, "namespace": "default", "uid": pod, "annotations": annotations},
        }
    )
    (runtime.folder / "manifests" / f"{pod}.yaml").write_text(yaml.safe_dump_all(documents))


@contextmanager
def attached(runtime: Runtime, pod: str, netns: str, **networks: dict[str, Any]) -> Iterator[None]:
    define(runtime, pod, **networks)
    args = f"K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_UID={pod};IgnoreUnknown=1"
    call = {"netns": netns, "ifname": "eth0", "binary": "wirespeed", "args": args}
    added = runtime.add(pod, META, **call)
    assert added.code == 0, added.body
    try:
        yield
    finally:
        assert runtime.delete(pod, META, **call).code == 0


def wirespeed(runtime: Runtime, *arguments: str) -> str:
    command = [sys.executable, "-m", "wirespeed", *arguments, "--config", str(runtime.config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def functions(shown: Topology) -> dict[str, Function]:
    assert shown.faults == ()
    return {each.address: each for pf in shown.pfs for each in pf.functions}


def read(runtime: Runtime) -> dict[str, Function]:
    """The functions as the command reads them, without the time that its start takes on an emulated processor."""
    with closing(Node(load_config(runtime.config), once=True)) as node:
        return functions(topology(node))


@pytest.mark.usefixtures("unchanged")
def test_pods_their_vfs_and_settings_are_shown_while_they_are_attached(
    node: Runtime, vfs: LabVfs, namespaces: Namespaces
) -> None:
    kernel, dpdk = vfs.kernel[0], vfs.vfio[0]
    left = conf(kernel, vlan=100, vlanQoS=3, spoofchk="off", trust="on", ipam=host_local(40))
    right = conf(dpdk, vlan=7, mac="02:00:00:00:00:77")
    free = read(node)
    assert {each.pod for each in free.values()} == {None}
    netns = namespaces()
    with attached(node, "web", netns, left=left, right=right):
        shown = functions(msgspec.json.decode(wirespeed(node, "topology", "--json"), type=Topology))
        link = link_in(netns, "net1")
        assert link is not None
        of_kernel, of_dpdk = shown[kernel], shown[dpdk]
        assert of_kernel.interface is not None
        assert (of_kernel.interface.name, of_kernel.interface.mac, of_kernel.interface.in_pod) == (
            "net1",
            link["address"],
            True,
        )
        assert of_kernel.pool == "intel.com/left"
        settings = of_kernel.settings
        assert (settings.vlan, settings.vlan_priority, settings.vlan_protocol) == (100, 3, "802.1q")
        assert (settings.spoofchk, settings.trust) == (False, True)
        assert (of_dpdk.driver, of_dpdk.interface, of_dpdk.settings.mac) == ("vfio-pci", None, "02:00:00:00:00:77")
        assert of_dpdk.iommu_group == PciDevice(dpdk).iommu_group
        for each, ifname, network in ((of_kernel, "net1", "default/left"), (of_dpdk, "net2", "default/right")):
            assert each.pod is not None
            assert (each.pod.owner, each.pod.ifname, each.pod.network) == ("default/web", ifname, network)
        assert {address for address, each in shown.items() if each.pod} == {kernel, dpdk}
        text = wirespeed(node, "topology")
        assert max(map(len, text.splitlines())) <= 80
        assert f"{kernel}  igbvf     net1" in text
        assert text.count("default/web net") == 2
        drawing = wirespeed(node, "topology", "--svg", "-")
        assert {*shown} <= {word for each in ET.fromstring(drawing).itertext() for word in each.split()}
        if folder := os.environ.get("WIRESPEED_TRANSCRIPT"):
            Path(folder, "topology.txt").write_text(text)
            Path(folder, "topology.svg").write_text(drawing)
    assert read(node) == free


@pytest.mark.usefixtures("unchanged")
def test_rates_are_those_of_the_pods_traffic(node: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    here, there = namespaces(), namespaces()
    sender, receiver = (
        conf(vfs.kernel[n], ipam={"type": "static", "addresses": [{"address": f"10.8.41.{n + 1}/24"}]})
        for n in (0, 1)
    )
    with attached(node, "sender", here, sending=sender), attached(node, "receiver", there, receiving=receiver):
        target = "10.8.41.2"
        in_namespace(here, "ping", "-c", "1", "-w", "30", target)
        flood = subprocess.Popen(
            ["ip", "netns", "exec", Path(here).name, "ping", "-q", "-i", "0.01", "-s", "1000", target],
            stdout=subprocess.DEVNULL,
        )
        try:
            shown = msgspec.json.decode(
                wirespeed(node, "top", "--once", "--json", "--interval", "3s"), type=Interval
            )
        finally:
            flood.terminate()
            flood.wait(30)
        rates = {port.pod.owner: port.rates for port in shown.ports if port.pod}
        assert sorted(rates) == ["default/receiver", "default/sender"]
        for each in rates.values():
            assert (each.rx_packets or 0) > 5
            assert (each.tx_packets or 0) > 5
            assert (each.rx_bits or 0) > 8000 * (each.rx_packets or 0)
    gone = msgspec.json.decode(wirespeed(node, "top", "--once", "--json", "--interval", "100ms"), type=Interval)
    assert gone.ports == ()  # igb counts nothing for VFs on the host

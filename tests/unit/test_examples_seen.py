"""The examples' promises: values that a node may choose, and the report about a promise that is not kept."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import examples
from tests.examples import Seen
from wirespeed.play import manifests

EXAMPLES = Path(__file__).parents[2] / "examples"

Object = dict[str, Any]

STATISTICS = "\n  ######################## NIC statistics for port {port} ########################\n"
COUNTED = "  RX-packets: {rx}          RX-missed: 0          RX-bytes:  1\n  TX-packets: {tx}\n"


def said(*ports: tuple[int, int, int]) -> str:
    return "".join((STATISTICS + COUNTED).format(port=port, rx=rx, tx=tx) for port, rx, tx in ports)


def pod(name: str, networks: str, status: list[Object], *, exit_code: int | None = None) -> Object:
    """A pod as in `kubectl get pods -o json`: ready, or ended."""
    state: Object = {"running": {}} if exit_code is None else {"terminated": {"exitCode": exit_code}}
    container = {"name": "testpmd", "ready": exit_code is None, "restartCount": 0, "state": state}
    annotations = {examples.NETWORKS: networks, examples.STATUS: json.dumps(status)}
    metadata = {"name": name, "annotations": annotations}
    return {"metadata": metadata, "status": {"containerStatuses": [container]}}


def eth0(ip: str, *, network: str = "mgmt") -> Object:
    return {"name": network, "interface": "eth0", "ips": [ip], "mac": "0a:00:00:00:00:01", "default": True}


def vf(interface: str, network: str, address: str, mac: str) -> Object:
    return {
        "name": f"default/{network}",
        "interface": interface,
        "mac": mac,
        "device-info": {"type": "pci", "version": "1.1.0", "pci": {"pci-address": address}},
    }


def variables(side: str, address: str) -> str:
    return f"PCIDEVICE_INTEL_COM_{side}_DPDK={address}\nPCIDEVICE_INTEL_COM_{side}_DPDK_INFO={{}}\n"


def nodes(*names: str) -> str:
    return "".join(f"/dev/vfio/{name}\n" for name in names)


def vfw(left: str, right: str, eth: str, network: str) -> tuple[Object, dict[str, str], dict[str, str]]:
    """The example's pods with VFs at these PCI functions: pod list, output, and what INSIDE prints."""
    sink = f"0000:{right}.0"
    both = (f"0000:{left}.0", f"0000:{right}.2")
    source = f"0000:{left}.2"
    macs = ("02:00:00:00:01:02", "02:00:00:00:02:02")
    asked = json.dumps([{"name": "data-left", "mac": macs[0]}, {"name": "data-right", "mac": macs[1]}])
    pods = [
        pod(
            "sink",
            '[{"name": "data-right", "mac": "02:00:00:00:02:01"}]',
            [eth0(f"{eth}.2", network=network), vf("net1", "data-right", sink, "02:00:00:00:02:01")],
        ),
        pod(
            "vfw",
            asked,
            [
                eth0(f"{eth}.3", network=network),
                vf("net1", "data-left", both[0], macs[0]),
                vf("net2", "data-right", both[1], macs[1]),
            ],
        ),
        pod(
            "source",
            '[{"name": "data-left", "mac": "02:00:00:00:01:01"}]',
            [eth0(f"{eth}.4", network=network), vf("net1", "data-left", source, "02:00:00:00:01:01")],
            exit_code=0,
        ),
    ]
    told = {
        "sink": said((0, 102_400, 0)),
        "vfw": said((0, 102_400, 0), (1, 0, 102_400)),
        "source": said((0, 0, 102_400)),
    }
    inside = {
        "sink": variables("RIGHT", sink) + nodes("vfio", right[:2]),
        "vfw": variables("LEFT", both[0]) + variables("RIGHT", both[1]) + nodes("vfio", left[:2], right[:2]),
    }
    return {"items": pods}, told, inside


def seen(parts: tuple[Object, dict[str, str], dict[str, str]]) -> dict[str, Seen]:
    pods, told, inside = parts
    return examples.seen(pods, said=told, inside=inside)


HERE = ("01:10", "02:10", "10.244.7", "mgmt")
THERE = ("41:02", "42:12", "10.42.0", "cbr0")


def test_what_a_node_chooses_is_no_part_of_the_promise() -> None:
    here, there = seen(vfw(*HERE)), seen(vfw(*THERE))
    assert here != there
    assert examples.broken("vfw", here) == examples.broken("vfw", there) == []


def change(where: str) -> tuple[Object, dict[str, str], dict[str, str]]:
    """The example with a single error."""
    pods, told, inside = copy.deepcopy(vfw(*THERE))
    sink, firewall, source = pods["items"]

    def status(pod: Object, **keys: Any) -> None:
        entries = json.loads(pod["metadata"]["annotations"][examples.STATUS])
        entries[1] |= keys
        pod["metadata"]["annotations"][examples.STATUS] = json.dumps(entries)

    container = {each["metadata"]["name"]: each["status"]["containerStatuses"][0] for each in pods["items"]}
    changes: dict[str, Callable[[], object]] = {
        "not ready": lambda: container["sink"].update(ready=False),
        "restarted": lambda: container["vfw"].update(restartCount=2),
        "failed": lambda: container["source"].update(state={"terminated": {"exitCode": 1}}),
        "mac": lambda: status(sink, mac="02:00:00:00:02:09"),
        "interface": lambda: status(sink, interface="data0"),
        "network": lambda: status(firewall, name="default/other-left"),
        "kind": lambda: status(source, **{"device-info": {"type": "vdpa", "vdpa": {}}}),
        "missing": lambda: pods["items"].remove(source),
        "variable": lambda: inside.update(sink=inside["sink"].replace("RIGHT", "LEFT")),
        "another device": lambda: inside.update(sink=inside["sink"].replace("42:12.0", "42:12.4")),
        "one more device": lambda: inside.update(sink=inside["sink"].replace("42:12.0", "42:12.0,0000:42:12.4")),
        "node": lambda: inside.update(sink=inside["sink"].replace("/dev/vfio/vfio\n", "")),
        "lost packets": lambda: told.update(sink=said((0, 102_399, 0))),
        "no statistics": lambda: told.update(vfw="testpmd was killed"),
        "unseen": lambda: inside.pop("vfw"),
    }
    changes[where]()
    return pods, told, inside


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("not ready", "sink: state: expected ready, got not ready"),
        ("restarted", "vfw: restarts: expected 0, got 2"),
        ("failed", "source: state: expected exit code 0, got exit code 1"),
        ("mac", "sink: net1: expected Interface"),
        ("interface", "sink: interfaces: expected ['eth0', 'net1'], got ['eth0', 'data0']"),
        ("network", "vfw: net1: expected Interface(network='data-left'"),
        ("kind", "source: net1: expected Interface"),
        ("missing", "pods: expected ['sink', 'source', 'vfw'], got ['sink', 'vfw']"),
        ("variable", "sink: variables: expected {'PCIDEVICE_INTEL_COM_RIGHT_DPDK': 1, 'PCIDEVICE_INTEL"),
        ("another device", "sink: PCI addresses in its environment: expected ['0000:42:12.0'], got ['0000:42:"),
        ("one more device", "sink: variables: expected {'PCIDEVICE_INTEL_COM_RIGHT_DPDK': 1, "),
        ("node", "sink: device nodes: expected ['/dev/vfio/N', '/dev/vfio/vfio'], got ['/dev/vfio/N']"),
        ("lost packets", "sink: RX-packets of port 0: expected 102400, got 102399"),
        ("no statistics", "vfw: RX-packets of port 0: expected 102400, got -1"),
        ("unseen", "vfw: expected to be seen inside"),
    ],
)
def test_broken_promise_is_told(where: str, told: str) -> None:
    found = examples.broken("vfw", seen(change(where)))
    assert any(line.startswith(told) for line in found), found


def test_addresses_that_were_asked_for_are_promised() -> None:
    def blue(*ips: str) -> list[str]:
        entry = vf("net1", "blue", "0000:01:10.0", "0a:00:00:00:00:07") | {"ips": list(ips)}
        asked = '[{"name": "blue", "ips": ["10.56.0.1/24"]}]'
        pods = {"items": [pod("blue", asked, [entry])]}
        found = examples.broken("vlan", examples.seen(pods, said={}, inside={}))
        return [line for line in found if line.startswith("blue: net1:")]

    assert blue("10.56.0.1") == blue("fe80::7", "10.56.0.1") == []
    [line] = blue("10.56.0.7")
    assert line.startswith("blue: net1: expected Interface(network='blue', kind='pci', mac='', ips=['10.56.0.1")


def test_the_highest_count_of_a_port_counts() -> None:
    text = said((0, 1, 2), (1, 3, 4)) + said((0, 5, 6)) + said((0, 0, 6))
    assert [examples.counted(text, port, way) for port in (0, 1, 2) for way in ("RX", "TX")] == [5, 6, 3, 4, -1, -1]


def vhost(*, folder: str, packets: int = 3200) -> list[str]:
    """Differences reported for the sink of example vhost, whose environment has this socket directory."""
    info = {"type": "vhost-user", "version": "1.1.0", "vhost-user": {"path": "/run/vhost-user/vhost-7/port"}}
    entries = [eth0("10.244.7.2"), {"name": "default/fast", "interface": "net1", "device-info": info}]
    inside = {"sink": f"VHOSTUSER_INTEL_COM_VHOST={folder}\n"}
    pods = {"items": [pod("sink", "fast", entries)]}
    found = examples.broken("vhost", examples.seen(pods, said={"sink": said((0, packets, 0))}, inside=inside))
    return [line for line in found if line.startswith("sink: ")]


def test_folder_of_a_socket_is_the_one_of_network_status() -> None:
    assert vhost(folder="/run/vhost-user/vhost-7") == []
    [line] = vhost(folder="/run/vhost-user/vhost-8")
    assert line.startswith("sink: folders of sockets in its environment: expected ['/run/vhost-user/vhost-7']")
    [line] = vhost(folder="/run/vhost-user/vhost-7", packets=3201)
    assert line == "sink: RX-packets of port 0: expected 3200, got 3201"


def chain_kernel(packets: int) -> list[str]:
    """Differences reported for the packet count of the sink of example chain-kernel."""
    pods = {"items": [pod("sink", "inside-bridge", [])]}
    found = examples.broken("chain-kernel", examples.seen(pods, said={"sink": said((0, packets, 200))}, inside={}))
    return [line for line in found if line.startswith("sink: ") and "packets" in line]


def test_a_count_may_be_higher_where_a_kernel_sends_packets_of_its_own() -> None:
    assert chain_kernel(packets=211) == chain_kernel(packets=200) == []
    assert chain_kernel(packets=199) == ["sink: RX-packets of port 0: expected 200, got 199"]


def test_every_example_has_promises() -> None:
    assert {path.parent.name for path in EXAMPLES.glob("*/pod-*.yaml")} == set(examples.PROMISES)


@pytest.mark.parametrize("folder", examples.PROMISES)
def test_each_example_promises_something_of_each_of_its_pods(folder: str) -> None:
    loaded = manifests.load([EXAMPLES / folder], pools=EXAMPLES / "node/values.yaml")
    promises = examples.PROMISES[folder]
    assert {each.name for each in loaded.pods} == set(promises)
    for each in loaded.pods:
        promise = promises[each.name]
        assert (promise.state == "exit code 0") == each.ends_by_itself
        asked = examples.asked((each.metadata.annotations or {})[examples.NETWORKS])
        assert [each.network for each in promise.interfaces.values()] == list(asked)
        assert list(promise.interfaces) == [f"net{number + 1}" for number in range(len(asked))]

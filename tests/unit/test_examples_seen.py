"""The library that compares examples under play and on a cluster: what it takes as equal, and what it tells."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from play import manifests
from tests import examples
from tests.examples import Seen

EXAMPLES = Path(__file__).parents[2] / "examples"

Object = dict[str, Any]

STATISTICS = "\n  ######################## NIC statistics for port {port} ########################\n"
COUNTED = "  RX-packets: {rx}          RX-missed: 0          RX-bytes:  1\n  TX-packets: {tx}\n"


def said(*ports: tuple[int, int, int]) -> str:
    return "".join((STATISTICS + COUNTED).format(port=port, rx=rx, tx=tx) for port, rx, tx in ports)


def pod(name: str, networks: str, status: list[Object], *, exit_code: int | None = None) -> Object:
    """As `kubectl get pods -o json` has it: ready, or ended."""
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


def vfw(left: str, right: str, eth: str, network: str) -> tuple[Object, dict[str, str], dict[str, str]]:
    """The example's pods, on VFs of these PCI functions: List, output, what is inside."""
    sink = f"0000:{right}.0"
    both = (f"0000:{left}.0", f"0000:{right}.2")
    source = f"0000:{left}.2"
    asked = json.dumps([{"name": "data-left", "mac": "02:00:00:00:01:02"}, {"name": "data-right"}])
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
                vf("net1", "data-left", both[0], "02:00:00:00:01:02"),
                vf("net2", "data-right", both[1], f"fe:00:00:00:00:{right[:2]}"),  # that nobody asked for
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
        "sink": f"PCIDEVICE_INTEL_COM_RIGHT_DPDK={sink}\n/dev/vfio/vfio\n/dev/vfio/{right[:2]}\n",
        "vfw": f"PCIDEVICE_INTEL_COM_LEFT_DPDK={both[0]}\nPCIDEVICE_INTEL_COM_LEFT_DPDK_INFO={{}}\n"
        f"PCIDEVICE_INTEL_COM_RIGHT_DPDK={both[1]}\n/dev/vfio/vfio\n/dev/vfio/{left[:2]}\n/dev/vfio/{right[:2]}\n",
    }
    return {"items": pods}, told, inside


def seen(parts: tuple[Object, dict[str, str], dict[str, str]]) -> dict[str, Seen]:
    pods, told, inside = parts
    return examples.seen(pods, said=told, inside=inside)


HERE = ("01:10", "02:10", "10.244.7", "mgmt")
THERE = ("41:02", "42:12", "10.42.0", "cbr0")


def test_what_a_node_chooses_is_no_difference() -> None:
    here, there = seen(vfw(*HERE)), seen(vfw(*THERE))
    assert here != there
    assert examples.differences(here, there) == []
    assert examples.broken("vfw", here) == examples.broken("vfw", there) == []


def change(where: str) -> tuple[Object, dict[str, str], dict[str, str]]:
    """The example with one thing that is not as it should be."""
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
    ("where", "differs", "breaks"),
    [
        ("not ready", "sink: state: expected ready, got not ready", "sink: state: expected ready, got not ready"),
        ("restarted", "vfw: restarts: expected 0, got 2", "vfw: restarts: expected 0, got 2"),
        (
            "failed",
            "source: state: expected exit code 0, got exit code 1",
            "source: state: expected exit code 0, got",
        ),
        ("mac", "sink: net1: expected Interface", None),
        (
            "interface",
            "sink: interfaces: expected ['eth0', 'net1'], got ['eth0', 'data0']",
            "sink: interfaces beside",
        ),
        ("network", "vfw: net1: expected Interface(network='data-left'", None),
        (
            "kind",
            "source: net1: expected Interface",
            "source: interfaces beside eth0: expected {'net1': 'pci'}, got",
        ),
        ("missing", "pods: expected ['sink', 'source', 'vfw'], got ['sink', 'vfw']", "pods: expected ['sink', 'so"),
        (
            "variable",
            "sink: variables: expected {'PCIDEVICE_INTEL_COM_RIGHT_DPDK': 1}, got {'PCIDEVICE_INTEL",
            None,
        ),
        (
            "another device",
            None,
            "sink: PCI addresses in its environment: expected ['0000:42:12.0'], got ['0000:42:",
        ),
        (
            "one more device",
            "sink: variables: expected {'PCIDEVICE_INTEL_COM_RIGHT_DPDK': 1}, got",
            "sink: PCI addr",
        ),
        ("node", "sink: device nodes: expected ['/dev/vfio/N', '/dev/vfio/vfio'], got ['/dev/vfio/N']", None),
        ("lost packets", None, "sink: RX-packets of port 0: expected 102400, got 102399"),
        ("no statistics", None, "vfw: RX-packets of port 0: expected 102400, got -1"),
        ("unseen", "vfw: seen inside under play only", None),
    ],
)
def test_what_is_otherwise_is_told(where: str, differs: str | None, breaks: str | None) -> None:
    there = seen(change(where))
    for found, expected in (
        (examples.differences(seen(vfw(*HERE)), there), differs),
        (examples.broken("vfw", there), breaks),
    ):
        assert [line for line in found if expected and line.startswith(expected)] == found[:1]
        assert bool(found) == bool(expected), found


def test_a_promised_mac_is_the_pods_under_play_too() -> None:
    """A MAC that was asked for and is not there differs from one that is."""
    here = seen(vfw(*HERE))
    assert here["sink"].interfaces["net1"].mac == "02:00:00:00:02:01"
    assert here["vfw"].interfaces["net2"].mac == ""


def test_addresses_that_were_asked_for_are_compared() -> None:
    def blue(*ips: str) -> dict[str, Seen]:
        entry = vf("net1", "blue", "0000:01:10.0", "0a:00:00:00:00:07") | {"ips": list(ips)}
        asked = '[{"name": "blue", "ips": ["10.56.0.1/24"]}]'
        return examples.seen({"items": [pod("blue", asked, [entry])]}, said={}, inside={})

    assert examples.differences(blue("10.56.0.1"), blue("fe80::7", "10.56.0.1")) == []
    [line] = examples.differences(blue("10.56.0.1"), blue("10.56.0.7"))
    assert line.startswith("blue: net1: expected Interface(network='blue', kind='pci', mac='', ips=['10.56.0.1")


def test_a_count_that_is_a_lower_bound_may_be_higher() -> None:
    def sink(count: int) -> list[str]:
        status = [eth0("10.0.0.2"), {"name": "default/inside-bridge", "interface": "net1"}]
        status[1]["device-info"] = {"type": "vhost-user", "vhost-user": {"mode": "server"}}
        pods = {"items": [pod("sink", "inside-bridge", status)]}
        found = examples.seen(pods, said={"sink": said((0, count, count))}, inside={})
        return [line for line in examples.broken("chain-kernel", found) if line.startswith("sink:")]

    assert sink(200) == sink(217) == []
    assert sink(199)[0] == "sink: RX-packets of port 0: expected at least 200, got 199"


def test_the_last_statistics_of_a_port_count() -> None:
    text = said((0, 1, 2), (1, 3, 4)) + said((0, 5, 6))
    assert [examples.counted(text, port, way) for port in (0, 1, 2) for way in ("RX", "TX")] == [5, 6, 3, 4, -1, -1]


@pytest.mark.parametrize("folder", examples.PROMISES)
def test_each_example_promises_something_of_each_of_its_pods(folder: str) -> None:
    loaded = manifests.load([EXAMPLES / folder], pools=EXAMPLES / "node/values.yaml")
    promises = examples.PROMISES[folder]
    assert {each.name for each in loaded.pods} == set(promises)
    for each in loaded.pods:
        promise = promises[each.name]
        assert (promise.state == "exit code 0") == each.ends_by_itself
        asked = examples.asked((each.metadata.annotations or {})[examples.NETWORKS])
        assert list(promise.networks) == [f"net{number + 1}" for number in range(len(asked))]
        assert promise.counts or promise.said or folder == "vlan"


def test_every_example_has_promises() -> None:
    assert {path.parent.name for path in EXAMPLES.glob("*/pod-*.yaml")} == set(examples.PROMISES)

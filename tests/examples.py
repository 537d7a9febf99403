"""The examples, seen twice: as `wirespeed play` runs them and as a cluster does; what each promises, what differs.

Nothing is run here. A pod is given as the API has it (`kubectl get pods -o json`, the file PODS of `play --then`,
pods.json of `play --out`), with the output of its container, and with what a command in it has said:

    kubectl exec POD -- sh -c "$INSIDE"

What a node chooses is not compared: which VF, the number of its group, an address or a MAC that nobody asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]

STATUS = "k8s.v1.cni.cncf.io/network-status"
NETWORKS = "k8s.v1.cni.cncf.io/networks"
INSIDE = "env | grep -E '^(PCIDEVICE|VHOSTUSER)_'; find /dev/vfio -type c; true"

_GROUP = re.compile(r"/dev/vfio/\d+")


@dataclass(frozen=True, kw_only=True)
class Inside:
    """What a container has of its devices: variables, and nodes by their paths, a group as /dev/vfio/N."""

    variables: Mapping[str, str]
    nodes: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Interface:
    """An interface of network-status. Of its addresses and MAC those that the pod has asked for."""

    network: str  # without its namespace; "" for the cluster's, which each cluster calls as it likes
    kind: str  # of its device-info
    mac: str
    ips: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A pod of an example, as it was seen when all of its pods were ready or had ended."""

    state: str  # "ready", "not ready", or "exit code <number>"
    restarts: int
    interfaces: Mapping[str, Interface]
    devices: Mapping[str, str] = field(default_factory=dict)  # PCI address by interface
    inside: Inside | None = None  # None of a pod that has ended
    said: str = ""  # its container's output, to the end


# What was seen


def seen(pods: Object, *, said: Mapping[str, str], inside: Mapping[str, str]) -> dict[str, Seen]:
    """The pods of a List by their names; `said` is their output, `inside` what INSIDE told in those that run."""
    return {
        pod["metadata"]["name"]: _pod(
            pod, said.get(pod["metadata"]["name"], ""), inside.get(pod["metadata"]["name"])
        )
        for pod in pods["items"]
    }


def _pod(pod: Object, said: str, inside: str | None) -> Seen:
    [container] = pod["status"]["containerStatuses"]
    ended = container["state"].get("terminated")
    ready = "ready" if container["ready"] else "not ready"
    annotations = pod["metadata"].get("annotations") or {}
    status = json.loads(annotations.get(STATUS) or "[]")
    wanted = asked(annotations.get(NETWORKS) or "")
    return Seen(
        state=f"exit code {ended['exitCode']}" if ended else ready,
        restarts=container["restartCount"],
        interfaces={entry.get("interface", ""): _interface(entry, wanted) for entry in status},
        devices={
            entry["interface"]: info["pci"]["pci-address"]
            for entry in status
            if (info := entry.get("device-info", {})).get("type") == "pci"
        },
        inside=None if inside is None else _inside(inside),
        said=said,
    )


def _interface(entry: Object, networks: Mapping[str, Object]) -> Interface:
    name = "" if entry.get("default") else entry.get("name", "").rpartition("/")[2]
    wanted = networks.get(name, {})
    addresses = {address.partition("/")[0] for address in wanted.get("ips", ())}
    return Interface(
        network=name,
        kind=entry.get("device-info", {}).get("type", ""),
        mac=entry.get("mac", "") if wanted.get("mac") else "",
        ips=sorted(addresses & set(entry.get("ips", ()))),
    )


def asked(text: str) -> dict[str, Object]:
    """The elements of a pod's annotation by the networks' names; no example asks for one twice."""
    if not text.strip().startswith("["):
        return {name.strip(): {} for name in text.split(",") if name.strip()}
    return {element["name"]: element for element in json.loads(text)}


def _inside(text: str) -> Inside:
    variables, nodes = {}, []
    for line in text.splitlines():
        name, given, value = line.partition("=")
        if given:
            variables[name] = value
        elif line.startswith("/dev/"):
            nodes.append(_GROUP.sub("/dev/vfio/N", line))
    return Inside(variables=variables, nodes=sorted(nodes))


# What they promise


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What a pod of an example comes to: its state, its networks with what it asks of them, and its output."""

    state: str = "ready"
    networks: Mapping[str, str]  # the kind of device by interface, "" for none; eth0 left out
    counts: Mapping[int, tuple[int | None, int | None]] = field(default_factory=dict)  # RX, TX by testpmd's port
    least: bool = False  # whether a count may be higher
    said: str = ""  # a pattern in its output; each image has its own ping


_ENDS_WELL = "exit code 0"
_ALL_ANSWERED = r"3 (packets )?received, 0% packet loss"
PROMISES: Mapping[str, Mapping[str, Promise]] = {
    "vfw": {
        "sink": Promise(networks={"net1": "pci"}, counts={0: (102_400, None)}),
        "vfw": Promise(networks={"net1": "pci", "net2": "pci"}, counts={0: (102_400, None), 1: (None, 102_400)}),
        "source": Promise(state=_ENDS_WELL, networks={"net1": "pci"}, counts={0: (None, 102_400)}),
    },
    "vlan": {
        "blue": Promise(networks={"net1": "pci"}),
        "green": Promise(networks={"net1": "pci"}),
        "blue-check": Promise(state=_ENDS_WELL, networks={"net1": "pci"}, said=_ALL_ANSWERED),
        "green-check": Promise(state=_ENDS_WELL, networks={"net1": "pci"}, said=_ALL_ANSWERED),
    },
    "chain": {
        "sink": Promise(networks={"net1": "vhost-user"}, counts={0: (3200, 3200)}),
        "firewall": Promise(
            networks={"net1": "pci", "net2": "vhost-user"}, counts={0: (3200, 3200), 1: (3200, 3200)}
        ),
        "source": Promise(state=_ENDS_WELL, networks={"net1": "pci"}, counts={0: (3200, 3200)}),
    },
    "chain-kernel": {
        "sink": Promise(networks={"net1": "vhost-user"}, counts={0: (200, 200)}, least=True),
        "firewall": Promise(
            networks={"net1": "pci", "net2": "vhost-user"}, counts={0: (200, 200), 1: (200, 200)}, least=True
        ),
        "source": Promise(
            state=_ENDS_WELL, networks={"net1": "pci"}, said="200 packets transmitted, 200 received, 0% packet loss"
        ),
    },
    "vhost": {
        "sink": Promise(networks={"net1": "vhost-user"}, counts={0: (3200, None)}),
        "source": Promise(state=_ENDS_WELL, networks={"net1": "vhost-user"}, counts={0: (None, 3200)}),
        "link-sink": Promise(networks={"net1": "memif"}, counts={0: (3200, None)}),
        "link-source": Promise(state=_ENDS_WELL, networks={"net1": "memif"}, counts={0: (None, 3200)}),
    },
}


def broken(example: str, pods: Mapping[str, Seen]) -> list[str]:
    """What an example promises and its pods are not, a line each."""
    return [*_broken(PROMISES[example], pods)]


def _broken(promises: Mapping[str, Promise], pods: Mapping[str, Seen]) -> Iterator[str]:
    yield from _unlike("pods", sorted(pods), sorted(promises))
    for name, promise in promises.items():
        if name not in pods:
            continue
        pod = pods[name]
        yield from _unlike(f"{name}: state", pod.state, promise.state)
        yield from _unlike(f"{name}: restarts", pod.restarts, 0)
        kinds = {interface: told.kind for interface, told in pod.interfaces.items() if interface != "eth0"}
        yield from _unlike(f"{name}: interfaces beside eth0", kinds, promise.networks)
        if "eth0" not in pod.interfaces:
            yield f"{name}: expected eth0"
        yield from (f"{name}: {problem}" for problem in _inconsistent(pod))
        for port, counts in promise.counts.items():
            for way, wanted in zip(("RX", "TX"), counts, strict=True):
                found = counted(pod.said, port, way)
                if wanted is not None and not (found == wanted or (promise.least and found >= wanted)):
                    least = "at least " if promise.least else ""
                    yield f"{name}: {way}-packets of port {port}: expected {least}{wanted}, got {found}"
        if not re.search(promise.said, pod.said):
            yield f"{name}: expected {promise.said!r} in its output, which ends with {pod.said[-200:]!r}"


def _inconsistent(pod: Seen) -> Iterator[str]:
    """Where what the container has is not what network-status tells."""
    if pod.inside is None:
        return
    listed = [
        address
        for name, value in pod.inside.variables.items()
        if name.startswith("PCIDEVICE_") and not name.endswith("_INFO")
        for address in value.split(",")
    ]
    yield from _unlike("PCI addresses in its environment", sorted(listed), sorted(pod.devices.values()))


def counted(said: str, port: int, way: str) -> int:
    """What testpmd has counted at a port, by the last statistics of it in its output; -1 where there are none."""
    statistics = said.rpartition(f"statistics for port {port} ")[2]
    found = re.search(rf"{way}-packets: +(\d+)", statistics)
    return int(found[1]) if found and f"statistics for port {port} " in said else -1


# What differs


def differences(played: Mapping[str, Seen], clustered: Mapping[str, Seen]) -> list[str]:
    """What of the pods is otherwise on the cluster than it is under play, a line each."""
    return [*_differences(played, clustered)]


def _differences(played: Mapping[str, Seen], clustered: Mapping[str, Seen]) -> Iterator[str]:
    yield from _unlike("pods", sorted(clustered), sorted(played))
    for name in sorted({*played} & {*clustered}):
        here, there = played[name], clustered[name]
        yield from _unlike(f"{name}: state", there.state, here.state)
        yield from _unlike(f"{name}: restarts", there.restarts, here.restarts)
        yield from _unlike(f"{name}: interfaces", list(there.interfaces), list(here.interfaces))
        for interface in [each for each in here.interfaces if each in there.interfaces]:
            yield from _unlike(f"{name}: {interface}", there.interfaces[interface], here.interfaces[interface])
        if (here.inside is None) != (there.inside is None):
            yield f"{name}: seen inside {'on the cluster' if here.inside is None else 'under play'} only"
        elif here.inside and there.inside:
            yield from _unlike(f"{name}: variables", _shape(there.inside), _shape(here.inside))
            yield from _unlike(f"{name}: device nodes", there.inside.nodes, here.inside.nodes)


def _shape(inside: Inside) -> dict[str, int]:
    """How many devices each variable lists; the `_INFO` of a resource is JSON."""
    return {
        name: 1 if name.endswith("_INFO") else len(value.split(","))
        for name, value in sorted(inside.variables.items())
    }


def _unlike(what: str, found: object, expected: object) -> Iterator[str]:
    if found != expected:
        yield f"{what}: expected {expected}, got {found}"

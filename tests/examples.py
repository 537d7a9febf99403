"""What the pods of the examples come to: the same under `wirespeed play` and on a cluster, which both are held to.

Nothing is run here. A pod is given as the API has it (`kubectl get pods -o json`, pods.json of `play --out`), with
the output of its container, and with what a command in it has said:

    kubectl exec POD -- sh -c "$INSIDE"

What a node chooses is no part of it: which VF, the number of its group, an address or a MAC that nobody asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
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
    folders: Sequence[str] = ()  # those in the container that have sockets of vhost-user ports
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


def played(folder: Path) -> dict[str, Seen]:
    """The pods of a play with `--out FOLDER --then "python3 -m tests.inside FOLDER/seen"`."""
    # Of a container: logs/NAMESPACE_POD_CONTAINER.log
    said = {path.stem.split("_")[1]: path.read_text() for path in (folder / "logs").glob("*.log")}
    # One that ends by itself is ready while it runs: how it ended is known when the play has.
    pods, inside = (json.loads((folder / f"seen/{name}.json").read_text()) for name in ("pods", "inside"))
    ended = {pod["metadata"]["name"]: pod for pod in json.loads((folder / "pods.json").read_text())["items"]}
    for number, pod in enumerate(pods["items"]):
        if pod["spec"].get("restartPolicy") == "Never":
            name = pod["metadata"]["name"]
            pods["items"][number] = ended[name]
            inside.pop(name, None)
    return seen(pods, said=said, inside=inside)


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
        folders=[
            str(PurePosixPath(info["vhost-user"]["path"]).parent)
            for entry in status
            if (info := entry.get("device-info", {})).get("type") == "vhost-user"
        ],
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
    """What a pod of an example comes to: its state, interfaces, devices, device nodes of vfio, and its output."""

    state: str = "ready"
    interfaces: Mapping[str, Interface]  # eth0 left out
    resources: Sequence[str] = ()  # one PCI device of each
    sockets: Sequence[str] = ()  # vhost-user pools, a folder for a socket of each
    groups: int = 0  # of vfio, a node in /dev/vfio each
    counts: Mapping[int, tuple[int | None, int | None]] = field(default_factory=dict)  # RX, TX by testpmd's port
    least: bool = False  # whether a count may be higher: a kernel sends packets of its own
    said: str = ""  # a pattern in its output; each image has its own ping


def _vf(network: str, *, mac: str = "", ip: str = "") -> Interface:
    return Interface(network=network, kind="pci", mac=mac, ips=[ip] if ip else [])


def _port(network: str, *, mac: str = "", kind: str = "vhost-user") -> Interface:
    return Interface(network=network, kind=kind, mac=mac, ips=[])


def _vlan(network: str, ip: str, *, checks: bool = False) -> Promise:
    return Promise(
        state="exit code 0" if checks else "ready",
        interfaces={"net1": _vf(network, ip=ip)},
        resources=["intel.com/left_kernel"],
        said=r"3 (packets )?received, 0% packet loss" if checks else "",
    )


_LEFT, _RIGHT, _KERNEL = "intel.com/left_dpdk", "intel.com/right_dpdk", "intel.com/left_kernel"
_SOCKETS = "intel.com/vhost"
_ANSWERED = r"200 packets transmitted, 200 (packets )?received, 0% packet loss"
PROMISES: Mapping[str, Mapping[str, Promise]] = {
    "vfw": {
        "sink": Promise(
            interfaces={"net1": _vf("data-right", mac="02:00:00:00:02:01")},
            resources=[_RIGHT],
            groups=1,
            counts={0: (102_400, None)},
        ),
        "vfw": Promise(
            interfaces={
                "net1": _vf("data-left", mac="02:00:00:00:01:02"),
                "net2": _vf("data-right", mac="02:00:00:00:02:02"),
            },
            resources=[_LEFT, _RIGHT],
            groups=2,
            counts={0: (102_400, None), 1: (None, 102_400)},
        ),
        "source": Promise(
            state="exit code 0",
            interfaces={"net1": _vf("data-left", mac="02:00:00:00:01:01")},
            resources=[_LEFT],
            groups=1,
            counts={0: (None, 102_400)},
        ),
    },
    "vlan": {
        "blue": _vlan("blue", "10.56.0.1"),
        "green": _vlan("green", "10.56.0.3"),
        "blue-check": _vlan("blue", "10.56.0.2", checks=True),
        "green-check": _vlan("green", "10.56.0.4", checks=True),
    },
    "vhost": {
        "sink": Promise(
            interfaces={"net1": _port("fast")},
            sockets=[_SOCKETS],
            counts={0: (3200, None)},
        ),
        "source": Promise(
            state="exit code 0",
            interfaces={"net1": _port("fast")},
            sockets=[_SOCKETS],
            counts={0: (None, 3200)},
        ),
        "link-sink": Promise(interfaces={"net1": _port("link", kind="memif")}, counts={0: (3200, None)}),
        "link-source": Promise(
            state="exit code 0", interfaces={"net1": _port("link", kind="memif")}, counts={0: (None, 3200)}
        ),
    },
    "chain": {
        "sink": Promise(
            interfaces={"net1": _port("inside", mac="02:00:00:00:03:01")},
            sockets=[_SOCKETS],
            counts={0: (3200, 3200)},
        ),
        "firewall": Promise(
            interfaces={
                "net1": _vf("outside", mac="02:00:00:00:01:02"),
                "net2": _port("inside", mac="02:00:00:00:03:02"),
            },
            resources=[_LEFT],
            sockets=[_SOCKETS],
            groups=1,
            counts={0: (3200, 3200), 1: (3200, 3200)},
        ),
        "source": Promise(
            state="exit code 0",
            interfaces={"net1": _vf("outside", mac="02:00:00:00:01:01")},
            resources=[_LEFT],
            groups=1,
            counts={0: (3200, 3200)},
        ),
    },
    "chain-kernel": {
        "sink": Promise(
            interfaces={"net1": _port("inside-bridge", mac="02:00:00:00:01:02")},
            sockets=[_SOCKETS],
            counts={0: (200, 200)},
            least=True,
        ),
        "firewall": Promise(
            interfaces={
                "net1": _vf("outside-kernel", mac="02:00:00:00:01:02"),
                "net2": _port("inside-bridge", mac="02:00:00:00:03:02"),
            },
            resources=[_KERNEL],
            sockets=[_SOCKETS],
            counts={0: (200, 200), 1: (200, 200)},
            least=True,
        ),
        "source": Promise(
            state="exit code 0",
            interfaces={"net1": _vf("outside-addressed", mac="02:00:00:00:01:01", ip="10.57.0.1")},
            resources=[_KERNEL],
            said=_ANSWERED,
        ),
    },
}


def broken(example: str, pods: Mapping[str, Seen]) -> list[str]:
    """What an example promises and its pods are not, a line each."""
    return [*_broken(PROMISES[example], pods)]


def _broken(promises: Mapping[str, Promise], pods: Mapping[str, Seen]) -> Iterator[str]:
    yield from _unlike("pods", sorted(pods), sorted(promises))
    for name, promise in promises.items():
        if name in pods:
            yield from (f"{name}: {problem}" for problem in _broken_by(pods[name], promise))


def _broken_by(pod: Seen, promise: Promise) -> Iterator[str]:
    yield from _unlike("state", pod.state, promise.state)
    yield from _unlike("restarts", pod.restarts, 0)
    yield from _unlike("interfaces", list(pod.interfaces), ["eth0", *promise.interfaces])
    for interface in [each for each in promise.interfaces if each in pod.interfaces]:
        yield from _unlike(interface, pod.interfaces[interface], promise.interfaces[interface])
    if pod.state == "ready" and pod.inside is None:
        yield "expected to be seen inside"
    if pod.inside is not None:
        variables = {_variable(resource, info): 1 for resource in promise.resources for info in ("", "_INFO")}
        variables |= {f"VHOSTUSER_{_spelled(pool)}": 1 for pool in promise.sockets}
        yield from _unlike("variables", _shape(pod.inside), variables)
        nodes = [*["/dev/vfio/N"] * promise.groups, *(["/dev/vfio/vfio"] if promise.groups else [])]
        yield from _unlike("device nodes", pod.inside.nodes, nodes)
        yield from _inconsistent(pod.inside, pod)
    for port, counts in promise.counts.items():
        for way, wanted in zip(("RX", "TX"), counts, strict=True):
            found = counted(pod.said, port, way)
            if wanted is not None and not (promise.least and found >= wanted):
                yield from _unlike(f"{way}-packets of port {port}", found, wanted)
    if not re.search(promise.said, pod.said):
        yield f"expected {promise.said!r} in its output, which ends with {pod.said[-200:]!r}"


def _variable(resource: str, suffix: str) -> str:
    """The device plugin's variable of a resource."""
    return f"PCIDEVICE_{_spelled(resource)}{suffix}"


def _spelled(resource: str) -> str:
    """A resource as it is in the name of a variable."""
    return resource.translate(str.maketrans("./", "__")).upper()


def _shape(inside: Inside) -> dict[str, int]:
    """How many devices each variable lists; the `_INFO` of a resource is JSON."""
    return {
        name: 1 if name.endswith("_INFO") else len(value.split(","))
        for name, value in sorted(inside.variables.items())
    }


def _inconsistent(inside: Inside, pod: Seen) -> Iterator[str]:
    """Where what the container has is not what network-status tells."""
    devices = _listed(inside, "PCIDEVICE_")
    yield from _unlike("PCI addresses in its environment", devices, sorted(pod.devices.values()))
    yield from _unlike("folders of sockets in its environment", _listed(inside, "VHOSTUSER_"), sorted(pod.folders))


def _listed(inside: Inside, prefix: str) -> list[str]:
    """All that variables of this prefix list."""
    return sorted(
        one
        for name, value in inside.variables.items()
        if name.startswith(prefix) and not name.endswith("_INFO")
        for one in value.split(",")
    )


def counted(said: str, port: int, way: str) -> int:
    """The most that testpmd has told of a port in its statistics; -1 where there are none.

    The most, for the counts of a memif port are gone with the other end.
    """
    parts = re.split(r"statistics for port (\d+) ", said)
    told = [text for number, text in zip(parts[1::2], parts[2::2], strict=True) if int(number) == port]
    counts = (re.search(rf"{way}-packets: +(\d+)", text) for text in told)
    return max((int(count[1]) for count in counts if count), default=-1)


def _unlike(what: str, found: object, expected: object) -> Iterator[str]:
    if found != expected:
        yield f"{what}: expected {expected}, got {found}"

"""What the pods of the examples must end up with, both under `wirespeed play` and on a cluster.

Nothing is run here. The input is a pod as the API returns it (`kubectl get pods -o json`, or pods.json of `play
--out`), its container's output, and the output of this command in it:

    kubectl exec POD -- sh -c "$INSIDE"

What the node chooses is not compared: which VF, the number of its IOMMU group, addresses and MACs that were not
requested.
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
    """What a container sees of its devices: variables, and device nodes by path; a VFIO group is /dev/vfio/N."""

    variables: Mapping[str, str]
    nodes: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Interface:
    """An interface from network-status, with only the addresses and the MAC that the pod requested."""

    network: str  # without the namespace; "" for the cluster's network, whose name differs
    kind: str  # the `type` of its device-info
    mac: str
    ips: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A pod of an example, observed when all of its pods were ready or had ended."""

    state: str  # "ready", "not ready", or "exit code <number>"
    restarts: int
    interfaces: Mapping[str, Interface]
    devices: Mapping[str, str] = field(default_factory=dict)  # PCI address by interface
    folders: Sequence[str] = ()  # directories of vhost-user sockets in the container
    inside: Inside | None = None  # None if the pod has ended
    said: str = ""  # the container's complete output


# Observations


def seen(pods: Object, *, said: Mapping[str, str], inside: Mapping[str, str]) -> dict[str, Seen]:
    """The pods of a List, by name. `said` is their output; `inside` the output of INSIDE in running pods."""
    return {
        pod["metadata"]["name"]: _pod(
            pod, said.get(pod["metadata"]["name"], ""), inside.get(pod["metadata"]["name"])
        )
        for pod in pods["items"]
    }


def played(folder: Path) -> dict[str, Seen]:
    """The pods of a play with `--out FOLDER --then "python3 -m tests.inside FOLDER/seen"`."""
    # Log files are named logs/NAMESPACE_POD_CONTAINER.log.
    said = {path.stem.split("_")[1]: path.read_text() for path in (folder / "logs").glob("*.log")}
    # A pod that terminates is "ready" while it runs. Its exit code is only known after the play has ended.
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
    """The elements of a pod's networks annotation, by network name. No example requests a network twice."""
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


# Expectations


@dataclass(frozen=True, kw_only=True)
class Promise:
    """The expected state of an example's pod: interfaces, devices, VFIO device nodes and output."""

    state: str = "ready"
    interfaces: Mapping[str, Interface]  # without eth0
    resources: Sequence[str] = ()  # one PCI device of each
    sockets: Sequence[str] = ()  # vhost-user pools, one socket directory of each
    groups: int = 0  # number of VFIO groups, each a node in /dev/vfio
    # (RX, TX) packets by testpmd port
    counts: Mapping[int, tuple[int | None, int | None]] = field(default_factory=dict)
    least: bool = False  # whether counts may be higher: the kernel sends packets of its own
    said: str = ""  # a regular expression for its output, as ping differs between images


def _vf(network: str, *, mac: str = "", ip: str = "") -> Interface:
    return Interface(network=network, kind="pci", mac=mac, ips=[ip] if ip else [])


def _port(network: str, *, mac: str = "", kind: str = "vhost-user") -> Interface:
    return Interface(network=network, kind=kind, mac=mac, ips=[])


def _vlan(network: str, ip: str, *, checks: bool = False) -> Promise:
    return Promise(
        state="exit code 0" if checks else "ready",
        interfaces={"net1": _vf(network, ip=ip)},
        resources=["intel.com/left_kernel"],
        said=r"1 (packets )?received, 0% packet loss" if checks else "",
    )


_LEFT, _RIGHT, _KERNEL = "intel.com/left_dpdk", "intel.com/right_dpdk", "intel.com/left_kernel"
_SOCKETS = "intel.com/vhost"
_ANSWERED = r"(?m)^200 of 200 pings answered$"
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
    """Return one line for each difference between an example's pods and its promise."""
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
    """The device plugin's environment variable of a resource."""
    return f"PCIDEVICE_{_spelled(resource)}{suffix}"


def _spelled(resource: str) -> str:
    """A resource name, as spelled in the name of an environment variable."""
    return resource.translate(str.maketrans("./", "__")).upper()


def _shape(inside: Inside) -> dict[str, int]:
    """How many devices each variable lists. The `_INFO` variable of a resource is JSON and counts as one."""
    return {
        name: 1 if name.endswith("_INFO") else len(value.split(","))
        for name, value in sorted(inside.variables.items())
    }


def _inconsistent(inside: Inside, pod: Seen) -> Iterator[str]:
    """Report differences between what the container sees and network-status."""
    devices = _listed(inside, "PCIDEVICE_")
    yield from _unlike("PCI addresses in its environment", devices, sorted(pod.devices.values()))
    yield from _unlike("folders of sockets in its environment", _listed(inside, "VHOSTUSER_"), sorted(pod.folders))


def _listed(inside: Inside, prefix: str) -> list[str]:
    """All devices listed in the variables with this prefix."""
    return sorted(
        one
        for name, value in inside.variables.items()
        if name.startswith(prefix) and not name.endswith("_INFO")
        for one in value.split(",")
    )


def counted(said: str, port: int, way: str) -> int:
    """The highest packet count in testpmd's statistics for a port; -1 if there are none.

    The highest, because the counters of a memif port are reset when the other end disconnects.
    """
    parts = re.split(r"statistics for port (\d+) ", said)
    told = [text for number, text in zip(parts[1::2], parts[2::2], strict=True) if int(number) == port]
    counts = (re.search(rf"{way}-packets: +(\d+)", text) for text in told)
    return max((int(count[1]) for count in counts if count), default=-1)


def _unlike(what: str, found: object, expected: object) -> Iterator[str]:
    if found != expected:
        yield f"{what}: expected {expected}, got {found}"

"""The cluster's network, in this process's own namespace: a bridge for management, and two bridges as wires.

10.30.0.1          this machine: the API server, also at 10.201.0.1 (its service's address; there is no kube-proxy)
10.30.0.11, .12    the nodes
10.244.1.0/24, …   their pods
left, right        wires between the nodes' PFs ens1 and ens2
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cluster.run import run
from lab.errors import LabError

HERE = "10.30.0.1"
SERVICE = "10.201.0.1"
SERVICES = "10.201.0.0/24"
MANAGEMENT = "mgmt"
WIRES = ("left", "right")
_INSIDE = "WIRESPEED_CLUSTER_NAMESPACE"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A node's place on the network; its number counts from 1."""

    number: int

    @property
    def address(self) -> str:
        """The node's address on the management network."""
        return f"10.30.0.{10 + self.number}"

    @property
    def mac(self) -> str:
        """The MAC of the node's interface on the management network."""
        return f"52:54:00:30:00:{self.number:02x}"

    @property
    def pods(self) -> str:
        """The subnet of the node's pods."""
        return f"10.244.{self.number}.0/24"

    def end(self, network: str) -> str:
        """Return this machine's interface to the node on `network`."""
        return f"n{self.number}-{network}"

    def devices(self) -> tuple[str, ...]:
        """Return QEMU's arguments for the management interface, and to connect the PFs' hubs to the wires."""
        management = self.end(MANAGEMENT)
        return (
            *("-netdev", f"tap,id=mgmt,ifname={management},script=no,downscript=no"),
            *("-device", f"virtio-net-pci,netdev=mgmt,mac={self.mac},romfile="),
            *(
                part
                for hub, wire in enumerate(WIRES, 1)
                for part in (
                    *("-netdev", f"tap,id=wire{hub},ifname={self.end(wire)},script=no,downscript=no"),
                    *("-netdev", f"hubport,id=uplink{hub},hubid={hub},netdev=wire{hub}"),
                )
            ),
        )


def own_namespace(arguments: list[str]) -> None:
    """Restart this command line in its own network namespace; return if it already runs there."""
    # exec keeps the PID, so the variable identifies this process and not its children.
    if os.environ.get(_INSIDE) == str(os.getpid()):
        return
    if os.geteuid() != 0:
        raise LabError("a cluster needs root: network namespace, bridges")
    if not Path("/dev/net/tun").exists():
        raise LabError("a cluster needs /dev/net/tun (modprobe tun; in a container: pass the device on)")
    os.environ[_INSIDE] = str(os.getpid())
    os.execvp("unshare", ["unshare", "--net", "--", sys.executable, "-m", "cluster", *arguments])


def make(places: Iterable[Place]) -> None:
    """Create bridges, addresses and routes to the nodes in this process's namespace."""
    _ip("link set lo up")
    for bridge in (MANAGEMENT, *WIRES):
        # Like a wire, the bridge must forward all multicast frames.
        _ip(f"link add {bridge} type bridge mcast_snooping 0")
        _ip(f"link set {bridge} up")
    _ip(f"address add {HERE}/24 dev {MANAGEMENT}")
    _ip(f"address add {SERVICE}/32 dev {MANAGEMENT}")
    for place in places:
        _ip(f"route add {place.pods} via {place.address}")


def lead_to_vm(place: Place) -> None:
    """Create the tap interfaces of a VM, before it starts."""
    for network in (MANAGEMENT, *WIRES):
        _ip(f"tuntap add {place.end(network)} mode tap")
        _ip(f"link set {place.end(network)} master {network} up")


def lead_to_process(place: Place, process: int) -> None:
    """Create the interfaces of a node that is a process in its own network namespace."""
    for network, name in ((MANAGEMENT, "mgmt0"), *zip(WIRES, ("ens1", "ens2"), strict=True)):
        address = f"address {place.mac}" if network == MANAGEMENT else ""
        _ip(f"link add {place.end(network)} type veth peer name {name} {address} netns {process}")
        _ip(f"link set {place.end(network)} master {network} up")


def _ip(command: str) -> None:
    run("ip", *command.split())

"""The cluster's network, in this process's own namespace: a bridge for management, and two bridges as wires.

10.30.0.1          this machine: the API server, also at 10.201.0.1 (its service's address; there is no kube-proxy)
10.30.0.11, .12    the nodes
10.244.1.0/24, …   their pods
left, right        wires between the nodes' PFs ens1 and ens2
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from image.run import run
from lab.errors import LabError
from lab.process import enter_namespaces

HERE = "10.30.0.1"
SERVICE = "10.201.0.1"
SERVICES = "10.201.0.0/24"
MANAGEMENT = "mgmt"
WIRES = ("left", "right")


class Plan(NamedTuple):
    """The properties of one node; its number counts from 1."""

    number: int
    kubelet: str

    @property
    def name(self) -> str:
        return f"node{self.number}"

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


def own_namespace() -> None:
    """Restart this command line in its own network namespace; return if it already runs there."""
    if os.geteuid() != 0:
        raise LabError("a cluster needs root: network namespace, bridges")
    if not Path("/dev/net/tun").exists():
        raise LabError("a cluster needs /dev/net/tun (modprobe tun; in a container: pass the device on)")
    enter_namespaces("cluster", "--net")


def make(plans: Iterable[Plan]) -> None:
    """Create bridges, addresses and routes to the nodes in this process's namespace."""
    _ip("link set lo up")
    for bridge in (MANAGEMENT, *WIRES):
        # Like a wire, the bridge must forward all multicast frames.
        _ip(f"link add {bridge} type bridge mcast_snooping 0")
        _ip(f"link set {bridge} up")
    _ip(f"address add {HERE}/24 dev {MANAGEMENT}")
    _ip(f"address add {SERVICE}/32 dev {MANAGEMENT}")
    for plan in plans:
        _ip(f"route add {plan.pods} via {plan.address}")


def lead_to_vm(plan: Plan) -> None:
    """Create the tap interfaces of a VM, before it starts."""
    for network in (MANAGEMENT, *WIRES):
        _ip(f"tuntap add {plan.end(network)} mode tap")
        _ip(f"link set {plan.end(network)} master {network} up")


def lead_to_process(plan: Plan, process: int) -> None:
    """Create the interfaces of a node that is a process in its own network namespace."""
    for network, name in ((MANAGEMENT, "mgmt0"), *zip(WIRES, ("ens1", "ens2"), strict=True)):
        address = f"address {plan.mac}" if network == MANAGEMENT else ""
        _ip(f"link add {plan.end(network)} type veth peer name {name} {address} netns {process}")
        _ip(f"link set {plan.end(network)} master {network} up")


def _ip(command: str) -> None:
    run(["ip", *command.split()])

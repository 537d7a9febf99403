"""Moves the RDMA devices of a network function into a network namespace and back."""

from __future__ import annotations

from wirespeed.devices.vf import Vf
from wirespeed.errors import Error, Kind
from wirespeed.kernel import netns
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.rdma import Rdma


def devices(vf: Vf) -> dict[str, int]:
    """Return the index of each of the VF's RDMA devices on the host, by name.

    Raises Error(DEVICE) if there is none, or if RDMA devices are shared by all network namespaces.
    """
    if not (names := vf.device.entries("infiniband")):
        raise _refusal(vf, "it has no RDMA device on the host")
    with Rdma() as host:
        if not host.exclusive():
            what = "all network namespaces share the RDMA devices of this node"
            raise _refusal(vf, what, hint='give each its own with "rdma system set netns exclusive"')
        return {name: number for name, number in host.devices().items() if name in names}


def move(vf: Vf, devices: dict[str, int], ns: netns.NetNs) -> None:
    """Move RDMA devices from the host into the pod. Raises Error(DEVICE)."""
    if not devices:
        return
    with Rdma() as host:
        for name, number in devices.items():
            try:
                host.move(number, ns.fd)
            except NetlinkError as error:
                raise _refusal(vf, f"moving {name} to {ns.path}: {error.strerror}") from error


def _refusal(vf: Vf, what: str, *, hint: str = "") -> Error:
    return Error(Kind.DEVICE, what, where=vf.where, key="rdmaIsolation", hint=hint)


def missing(devices: dict[str, int], ns: netns.NetNs) -> list[str]:
    """Return which of the RDMA devices that were moved into the pod are missing, as messages."""
    if not devices:
        return []
    with Rdma(netns_fd=ns.fd) as inside:
        there = set(inside.devices().values())
    return [f"RDMA device {name} is not in {ns.path}" for name, number in devices.items() if number not in there]


def move_to_host(devices: dict[str, int], where: tuple[str, netns.Identity]) -> None:
    """Move RDMA devices from the pod back to the host; if the namespace is gone, the kernel has done it."""
    if not devices:
        return
    with netns.reopened(*where) as ns, netns.opened("/proc/self/ns/net") as home:
        if ns is None:
            return
        with Rdma(netns_fd=ns.fd) as inside:
            if inside.exclusive():  # in shared mode they are in every namespace
                for number in set(devices.values()) & set(inside.devices().values()):
                    inside.move(number, home.fd)

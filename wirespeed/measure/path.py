"""The path that is measured: from one interface to another, each in a network namespace of this machine."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import msgspec

from wirespeed.errors import Error, Kind, Thing, os_errors
from wirespeed.kernel import ethtool, netns
from wirespeed.kernel.netlink.codec import mac_bytes
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.measure import frames
from wirespeed.measure.receiver import Begin, Receiver, started
from wirespeed.measure.sender import Sender
from wirespeed.measure.trial import FCS, Load, Trial, line_rate

T = TypeVar("T")

_LOOPBACK = "lo"


class Endpoint(NamedTuple):
    """An interface, and the path of its network namespace ("": that of this process)."""

    netns: str
    interface: str

    @property
    def thing(self) -> Thing:
        return Thing("interface", self.interface, self.netns)


class Interface(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a report tells of an end of the path. `speed` is in Mbit/s, None if the driver does not report it."""

    name: str
    netns: str
    driver: str
    mac: str
    mtu: int
    speed: int | None


class MeasuredPath:
    """Runs trials from one interface to another; see `opened`."""

    def __init__(
        self, source: Endpoint, destination: Endpoint, ends: tuple[Interface, Interface], receiver: Receiver
    ) -> None:
        self._source, self._destination, self._receiver = source, destination, receiver
        self.source, self.destination = ends

    def run(self, load: Load, *, latency: bool = False) -> Trial:
        """Run one trial. Raises Error(IO)."""
        trial = secrets.randbits(31) | 1  # 0 is the trial of learning frames
        sender = _inside(self._source, lambda: self._sender(self._source.interface))
        with sender:
            self._receiver.begin(
                Begin(
                    netns=self._destination.netns,
                    interface=self._destination.interface,
                    own=mac_bytes(self.destination.mac).hex(),
                    sender=mac_bytes(self.source.mac).hex(),
                    trial=trial,
                    frames=load.frames,
                    latency=latency,
                )
            )
            sent = sender.send(load, trial)
            counted = self._receiver.end(sent.frames)
        return Trial(
            load=load,
            sent=sent.frames,
            elapsed=sent.elapsed,
            received=counted.received,
            duplicates=counted.duplicates,
            reordered=counted.reordered,
            unread=counted.unread,
            burst=sent.burst,
            starved=sent.starved,
            latency=counted.latency,
        )

    def _sender(self, interface: str) -> Sender:
        return Sender(interface, mac_bytes(self.source.mac), mac_bytes(self.destination.mac))

    def line_rate(self, size: int) -> float | None:
        """Return the frames/s that the slower of the two interfaces carries; None if none reports its speed."""
        speeds = [each.speed for each in (self.source, self.destination) if each.speed]
        return line_rate(min(speeds), size) if speeds else None

    def largest(self) -> int:
        """Return the size (with FCS) of the largest frame that both interfaces carry."""
        return min(self.source.mtu, self.destination.mtu) + frames.HEADER + FCS


@contextmanager
def opened(source: Endpoint, destination: Endpoint) -> Iterator[MeasuredPath]:
    """Check both ends, and start the receiver. Raises Error."""
    if source == destination and source.interface != _LOOPBACK:
        raise Error(Kind.INVALID_REQUEST, "both ends of the path are the same interface", where=source.thing)
    ends = _describe(source), _describe(destination)
    with started(destination.thing) as receiver:
        yield MeasuredPath(source, destination, ends, receiver)


@contextmanager
def loopback() -> Iterator[MeasuredPath]:
    """The path over the loopback interface of this namespace, which has no device: the generator alone."""
    with opened(Endpoint("", _LOOPBACK), Endpoint("", _LOOPBACK)) as path:
        yield path


def _describe(end: Endpoint) -> Interface:
    """Raises Error: INTERFACE if it is missing or has no carrier, NOT_ATTACHED if its namespace is missing."""

    def look() -> Interface:
        with Rtnl() as rtnl:
            link = rtnl.link(end.interface)
        if link is None:
            hint = "a device on vfio-pci, and a vhost-user or memif port, have no interface of the kernel"
            raise Error(Kind.INTERFACE, "no such interface", where=end.thing, hint=hint)
        if link.infiniband:
            raise Error(Kind.UNSUPPORTED, "it is no Ethernet interface", where=end.thing)
        if not link.running:
            what = "it has no carrier" if link.up else "it is down"
            raise Error(Kind.INTERFACE, what, where=end.thing)
        return Interface(
            name=end.interface,
            netns=end.netns,
            driver=ethtool.driver(link.name),
            mac=link.mac,
            mtu=link.mtu,
            speed=ethtool.speed(link.name),
        )

    return _inside(end, look)


def _inside(end: Endpoint, function: Callable[[], T]) -> T:
    """Call a function in the namespace of an end. Raises what it raises; an OSError as Error(IO)."""
    with os_errors(str(end.thing)):
        if not end.netns:
            return function()
        with netns.opened(end.netns) as ns:
            return netns.inside(ns.fd, function)

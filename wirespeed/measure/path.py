"""The path that is measured: from one interface to another, each in a network namespace of this machine.

Without a forwarder, frames are addressed to the receiving interface. With one, they are addressed to its entry, and
it sends them on to the receiving interface.
"""

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
from wirespeed.measure.forwarder import Forwarded, Forwarder
from wirespeed.measure.receiver import Begin, Receiver, introduce, started
from wirespeed.measure.sender import Sender
from wirespeed.measure.trial import FCS, Load, Trial, line_rate

T = TypeVar("T")

_LOOPBACK = "lo"
_CHECK = Load(size=frames.MINIMUM, rate=100, seconds=1)  # shows whether anything arrives

Counts = Callable[[], Forwarded]  # what a forwarder has counted until now


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
        self,
        source: Endpoint,
        destination: Endpoint,
        ends: tuple[Interface, Interface],
        receiver: Receiver,
        *,
        forwarder: Forwarder | None = None,
        counts: Counts | None = None,
    ) -> None:
        self._source, self._destination, self._receiver = source, destination, receiver
        self.source, self.destination = ends
        self.forwarder, self._counts = forwarder, counts
        self._there = forwarder.entry.mac if forwarder else self.destination.mac
        self._back = forwarder.exit.mac if forwarder else self.source.mac

    def run(self, load: Load, *, latency: bool = False) -> Trial:
        """Run one trial. Raises Error(IO), or what the forwarder's counts raise."""
        before = self._counts() if self._counts else None
        trial = secrets.randbits(31) | 1  # 0 is the trial of learning frames
        sender = _inside(self._source, lambda: self._sender(self._source.interface))
        with sender:
            self._receiver.begin(
                Begin(
                    netns=self._destination.netns,
                    interface=self._destination.interface,
                    own=mac_bytes(self.destination.mac).hex(),
                    towards=mac_bytes(self._back).hex(),
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
            forwarded=self._counts().since(before) if self._counts and before else None,
        )

    def introduce(self) -> None:
        """Let switches learn where both ends are, before a forwarder forwards.

        It would otherwise forward, in a circle, frames that a switch sends to all ports. Raises Error(IO).
        """
        for end, own, other in (
            (self._source, self.source, self.destination),
            (self._destination, self.destination, self.source),
        ):
            own_mac, other_mac = mac_bytes(own.mac), mac_bytes(other.mac)
            _inside(end, lambda: introduce(end.interface, own_mac, other_mac))  # noqa: B023 — called at once

    def check_arrival(self) -> None:
        """Run a short trial; raise Error(UNAVAILABLE) if none of its frames arrives, or what `run` raises."""
        trial = self.run(_CHECK)
        if trial.received:
            return
        what = f"none of {trial.sent} frames arrived"
        hint = "without a forwarder, the switches between both interfaces must connect them"
        if counted := trial.forwarded:
            hint = f"testpmd received {counted.received} of them and sent {counted.sent}"
        elif self.forwarder:
            hint = (
                f"the frames are for {self._there}, and the forwarder must send them on to {self.destination.mac} "
                f"(testpmd: --forward-mode=mac --eth-peer=PORT,{self.destination.mac}), as frames of layer 2"
            )
        raise Error(Kind.UNAVAILABLE, what, where=self._destination.thing, hint=hint)

    def _sender(self, interface: str) -> Sender:
        return Sender(interface, mac_bytes(self.source.mac), mac_bytes(self._there))

    def line_rate(self, size: int) -> float | None:
        """Return the frames/s that the slower of the two interfaces carries; None if none reports its speed."""
        speeds = [each.speed for each in (self.source, self.destination) if each.speed]
        return line_rate(min(speeds), size) if speeds else None

    def largest(self) -> int:
        """Return the size (with FCS) of the largest frame that both interfaces carry."""
        return min(self.source.mtu, self.destination.mtu) + frames.HEADER + FCS


@contextmanager
def opened(
    source: Endpoint, destination: Endpoint, *, forwarder: Forwarder | None = None, counts: Counts | None = None
) -> Iterator[MeasuredPath]:
    """Check both ends, and start the receiver. Raises Error.

    `counts` returns what the forwarder counts, if that can be had.
    """
    if source == destination and source.interface != _LOOPBACK:
        raise Error(Kind.INVALID_REQUEST, "both ends of the path are the same interface", where=source.thing)
    ends = _describe(source), _describe(destination)
    with started(destination.thing) as receiver:
        yield MeasuredPath(source, destination, ends, receiver, forwarder=forwarder, counts=counts)


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
            hint = "DPDK ports (a VF on vfio-pci, vhost-user, memif) have none: they are measured with --through"
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

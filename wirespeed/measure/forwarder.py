"""A forwarder in the middle of the measured path, such as testpmd in a pod: the device under test of RFC 2544."""

from __future__ import annotations

import msgspec


class Port(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A port of a forwarder.

    `name` says where it is: an interface of a pod, with the network if measure made the pod. `device` and `driver`
    are those of DPDK, "" if they are not known.
    """

    name: str
    mac: str
    device: str = ""
    driver: str = ""

    def __str__(self) -> str:
        details = (self.device, self.driver, self.mac)
        return " ".join(filter(None, (self.name, f"({', '.join(filter(None, details))})")))


class Forwarder(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What forwards the frames, from `entry` to `exit`; `program` is "" if that is not known."""

    program: str = ""
    entry: Port
    exit: Port

    def __str__(self) -> str:
        """Return a line for people: the program and its ports."""
        return f"{self.program or 'a forwarder'}, from {self.entry} to {self.exit}"


class Forwarded(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a forwarder counts on the way of the frames, in all or during a trial.

    It received `received` frames at its entry, and sent `sent` at its exit. It had no room for `missed` frames at
    its entry (RX-missed), and dropped `dropped` because its exit accepted no more (TX-dropped). Other frames that
    it forwards in the same direction count too.
    """

    received: int
    missed: int
    sent: int
    dropped: int

    def since(self, earlier: Forwarded) -> Forwarded:
        return Forwarded(
            received=self.received - earlier.received,
            missed=self.missed - earlier.missed,
            sent=self.sent - earlier.sent,
            dropped=self.dropped - earlier.dropped,
        )

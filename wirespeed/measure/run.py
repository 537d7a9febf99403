"""A measurement from its ends to its report: without the forwarder, if that is asked for, and then with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from wirespeed.errors import Error, Kind, Thing
from wirespeed.measure import path, pods, procedure, testpmd
from wirespeed.measure.forwarder import Forwarder, Port
from wirespeed.measure.path import Endpoint, MeasuredPath
from wirespeed.measure.procedure import Note
from wirespeed.measure.report import Report, Settings, SizeReport


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to measure: the path between two ends, in which a running forwarder may be.

    `through` are the ports of the forwarder as the user gave them, () for none. If it is the testpmd of a pod that
    was made for the measurement, `testpmd` is the folder of its FIFOs. `direct`: measure without the forwarder too.
    """

    source: Endpoint
    destination: Endpoint
    through: tuple[str, ...] = ()
    testpmd: Path | None = None
    direct: bool = False
    config: Path | None = None


def measure(wanted: Wanted, settings: Settings, *, note: Note) -> Report:
    """Measure; `note` gets a line after each trial. Raises Error."""
    direct: tuple[SizeReport, ...] = ()
    with path.loopback() as alone:
        if wanted.direct:
            with path.opened(wanted.source, wanted.destination) as bare:
                bare.check_arrival()
                told = procedure.measure(bare, alone, settings, note=lambda line: note(f"without it: {line}"))
                direct = told.sizes
        with _opened(wanted, note) as measured:
            found = procedure.measure(measured, alone, settings, note=note)
    return msgspec.structs.replace(found, direct=direct)


@contextmanager
def _opened(wanted: Wanted, note: Note) -> Iterator[MeasuredPath]:
    """Open the path with its forwarder. Raises Error."""
    if not wanted.through:
        with path.opened(wanted.source, wanted.destination) as plain:
            yield plain
    elif wanted.testpmd:
        with _through_testpmd(wanted, wanted.testpmd) as measured:
            note(f"through {measured.forwarder}")
            measured.check_arrival()
            yield measured
    else:
        entry, exit_ = (pods.port(each, wanted.config) for each in wanted.through)
        forwarder = Forwarder(entry=entry, exit=exit_)
        with path.opened(wanted.source, wanted.destination, forwarder=forwarder) as measured:
            measured.check_arrival()
            yield measured


@contextmanager
def _through_testpmd(wanted: Wanted, folder: Path) -> Iterator[MeasuredPath]:
    """Open the path, and let testpmd forward. Raises Error."""
    places = [each.rpartition(":") for each in wanted.through]
    entry, exit_ = (pods.attached(place, interface, wanted.config) for place, _, interface in places)
    with testpmd.connected(folder, Thing("pod", entry.pod)) as program:
        ports = program.ports()
        names = [interface for _, _, interface in places]
        left, right = (_port(ports, each, name) for each, name in zip((entry, exit_), names, strict=True))
        forwarder = Forwarder(
            program=testpmd.PROGRAM,
            entry=_described(left, names[0]),
            exit=_described(right, names[1]),
        )
        with path.opened(
            wanted.source,
            wanted.destination,
            forwarder=forwarder,
            counts=lambda: program.counts(left.number, right.number),
        ) as measured:
            measured.introduce()
            program.forward(
                left.number, right.number, sender=measured.source.mac, receiver=measured.destination.mac
            )
            yield measured


def _port(ports: list[testpmd.Port], attached: pods.Attached, interface: str) -> testpmd.Port:
    """Return testpmd's port for an interface of its pod. Raises Error(UNSUPPORTED)."""
    if found := testpmd.find(ports, device=attached.device, mac=attached.mac):
        return found
    raise Error(
        Kind.UNSUPPORTED,
        "testpmd has no port for it",
        where=Thing("pod", attached.pod, interface),
        expected="an interface for DPDK: a VF on vfio-pci, a vhost-user or a memif port",
        got=f"the ports {', '.join(f'{each.device} {each.mac}' for each in ports) or 'none'}",
    )


def _described(port: testpmd.Port, name: str) -> Port:
    return Port(name=f"{name}, port {port.number}", mac=port.mac, device=port.device, driver=port.driver)

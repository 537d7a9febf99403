"""Live rates of VFs, scalable functions and vhost-user ports: the difference of two readings of their counters."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from wirespeed import structs
from wirespeed.devices.functions import SCALABLE
from wirespeed.errors import collect_errors
from wirespeed.node import Node
from wirespeed.observe import attached, counters, switches
from wirespeed.observe.attached import Attached, PodInterface
from wirespeed.observe.counters import Counters
from wirespeed.observe.switches import Switch
from wirespeed.plugins.sriov.record import PLUGIN
from wirespeed.plugins.vhost.conf import OVS

_WRAP = 1 << 64  # the kernel's and the switch's counters have 64 bits
# Fields of Rates: the counter, and its factor.
_RATES = {
    "rx_packets": ("rx_packets", 1),
    "rx_bits": ("rx_bytes", 8),
    "rx_drops": ("rx_dropped", 1),
    "rx_errors": ("rx_errors", 1),
    "tx_packets": ("tx_packets", 1),
    "tx_bits": ("tx_bytes", 8),
    "tx_drops": ("tx_dropped", 1),
    "tx_errors": ("tx_errors", 1),
}


class Rates(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Rates per second as the pod sees them: it receives rx and sends tx. None: not known, or not counted."""

    rx_packets: float | None = None
    rx_bits: float | None = None
    rx_drops: float | None = None
    rx_errors: float | None = None
    tx_packets: float | None = None
    tx_bits: float | None = None
    tx_drops: float | None = None
    tx_errors: float | None = None


class Measured(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A VF ("ens2#0"), a scalable function or a vhost-user port, `kind` "VF", "SF" or "vhost-user", and its rates.

    `address` is the device's, or the bridge of a port.
    """

    kind: str
    name: str
    address: str
    pod: PodInterface | None = None
    rates: Rates = Rates()


@structs.prepared
class Interval(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The rates between two samples. `time` is the end, in seconds since 1970, and `seconds` how long it was.

    `faults` are the messages about what could not be read.
    """

    time: float
    seconds: float
    ports: tuple[Measured, ...] = ()
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What counts the packets of one port, and the counters at the time `at` (time.monotonic())."""

    port: Measured
    at: float
    counters: Counters


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The readings of all ports of the node, by kind and name. `at` is time.monotonic(), `time` time.time()."""

    at: float
    time: float
    readings: Mapping[tuple[str, str], Reading] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


def sample(node: Node) -> Sample:
    """Read the counters of all ports that have any, or a pod.

    What is down is a fault of the result. Raises Error(IO) if the journal cannot be read, OSError.
    """
    pods = attached.read(node)
    bridges, errors = switches.read(node, pods, OVS)
    counted: dict[str, Counters] = {}
    if bridges and not errors:
        errors += collect_errors(
            [lambda: counted.update(counters.of_switch_ports(Path(node.config.vhost.ovs_rundir)))]
        )
    found = [*_vhost_ports(bridges, counted, at=time.monotonic()), *_functions(node, pods)]
    return Sample(
        at=time.monotonic(),
        time=time.time(),
        readings={(each.port.kind, each.port.name): each for each in found},
        faults=tuple(error.msg for error in errors),
    )


def between(before: Sample, now: Sample) -> Interval:
    """Return the rates of all ports of the sample `now`; those that it has for the first time have no rates yet."""
    ports = [
        msgspec.structs.replace(each.port, rates=rates(before.readings.get(key), each))
        for key, each in now.readings.items()
    ]
    return Interval(time=now.time, seconds=now.at - before.at, ports=tuple(ports), faults=now.faults)


def rates(before: Reading | None, now: Reading) -> Rates:
    """Return the rates between two readings of a port.

    None of them is known if there is no earlier reading, or another pod had the port then. A counter that became
    smaller was reset (the device was bound to a driver again, for example), so its rate is not known, unless it
    exceeded 64 bits.
    """
    if before is None or before.port.pod != now.port.pod or now.at <= before.at:
        return Rates()
    seconds = now.at - before.at
    found: dict[str, float] = {}
    for name, (counter, factor) in _RATES.items():
        if counter in before.counters and counter in now.counters:
            difference = _difference(before.counters[counter], now.counters[counter])
            if difference is not None:
                found[name] = difference * factor / seconds
    return Rates(**found)


def _difference(before: int, now: int) -> int | None:
    if now >= before:
        return now - before
    wrapped = now + _WRAP - before
    return wrapped if wrapped < _WRAP // 4 else None


def _functions(node: Node, pods: Attached) -> Iterator[Reading]:
    for pf, number, device, counted, at in counters.of_vfs(Path(node.config.sysfs), pods.claims):
        pod = pods.having(device.address)
        if counted or pod:
            name = f"{pf.own_netdev or pf.address}#{number}"
            yield Reading(
                port=Measured(kind="VF", name=name, address=device.address, pod=pod), at=at, counters=counted
            )
    for device_name, claim in pods.claims.items():
        if claim.plugin == PLUGIN and SCALABLE.fullmatch(device_name):
            port = Measured(kind="SF", name=device_name, address=device_name, pod=pods.of(claim))
            yield Reading(port=port, counters=counters.in_pod(claim), at=time.monotonic())


def _vhost_ports(bridges: Iterable[Switch], counted: Mapping[str, Counters], *, at: float) -> Iterator[Reading]:
    for bridge in bridges:
        for each in bridge.ports:
            port = Measured(kind="vhost-user", name=each.name, address=bridge.bridge, pod=each.pod)
            yield Reading(port=port, at=at, counters=counted.get(each.name, {}))

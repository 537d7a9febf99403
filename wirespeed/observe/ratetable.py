"""The rates of an interval as a table of text: sorted, aligned, and with numbers that one can read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from wirespeed.observe.rates import Interval, Measured
from wirespeed.text import printable

# The columns with rates: heading, and field of Rates; all are per second.
_RATES = {
    "RX-PPS": "rx_packets",
    "RX-BPS": "rx_bits",
    "RX-DRP": "rx_drops",
    "RX-ERR": "rx_errors",
    "TX-PPS": "tx_packets",
    "TX-BPS": "tx_bits",
    "TX-DRP": "tx_drops",
    "TX-ERR": "tx_errors",
}
_HEADINGS = {"port": "PORT", **{field.replace("_", "-"): title for title, field in _RATES.items()}, "pod": "POD"}
SORT_KEYS = tuple(_HEADINGS)  # in the order of the columns
_NUMBERS = 7  # characters of a column with rates, with the space before it


EMPTY = "no VF that has counters or a pod, and no vhost-user port of Open vSwitch"


def ordered(ports: Sequence[Measured], key: str, *, reverse: bool = False) -> list[Measured]:
    """Return the ports by a column (one of SORT_KEYS): the highest rate first, names from a to z.

    `reverse` reverses this order. Ports whose rate is unknown are last.
    """
    by_name = sorted(ports, key=lambda port: _natural(port.name), reverse=reverse)
    if key == "port":
        return by_name
    if key == "pod":
        with_pod = [port for port in by_name if port.pod]
        with_pod.sort(key=_owner, reverse=reverse)
        return [*with_pod, *(port for port in by_name if not port.pod)]
    field = key.replace("-", "_")
    known = [port for port in by_name if getattr(port.rates, field) is not None]
    known.sort(key=lambda port: float(getattr(port.rates, field)), reverse=not reverse)
    return [*known, *(port for port in by_name if getattr(port.rates, field) is None)]


def header(key: str, ports: Sequence[Measured]) -> str:
    """Return the line of headings; the column by which the table is sorted has a mark."""
    port, *rates, pod = (f"*{title}" if name == key else title for name, title in _HEADINGS.items())
    return _line(port, rates, pod, ports)


def rows(ports: Sequence[Measured]) -> list[str]:
    """Return a line for each port."""
    return [
        _line(port.name, [number(getattr(port.rates, field)) for field in _RATES.values()], _owner(port), ports)
        for port in ports
    ]


def _line(port: str, rates: Iterable[str], pod: str, ports: Sequence[Measured]) -> str:
    width = max([len("*PORT"), *(len(each.name) for each in ports)])
    return printable(f"{port.ljust(width)}{''.join(each.rjust(_NUMBERS) for each in rates)}  {pod}")


def table(interval: Interval, key: str) -> list[str]:
    """Return the whole table, and below it what could not be read."""
    ports = ordered(interval.ports, key)
    shown = [header(key, ports), *rows(ports)] if ports else [EMPTY]
    return [*shown, *(f"not shown: {printable(fault)}" for fault in interval.faults)]


def number(value: float | None) -> str:
    """Return a rate with three significant digits and a unit prefix: "1.24M"; "-" if it is unknown."""
    if value is None:
        return "-"
    for prefix in ("", "k", "M", "G", "T"):
        if value < 999.5 or prefix == "T":
            break
        value /= 1000
    if not prefix:
        return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{decimals}f}{prefix}"


def _owner(port: Measured) -> str:
    return f"{port.pod.owner} {port.pod.ifname}" if port.pod else "-"


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Return a sort key by which "ens2#10" follows "ens2#9"."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(part[0] in "0123456789", int(part) if part[0] in "0123456789" else 0, part) for part in parts]

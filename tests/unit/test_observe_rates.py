"""Rates from two samples: resets, wraps, ports that appear or vanish; the table and the screen."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirespeed.cli import livetop, top
from wirespeed.cli.livetop import HELP, View, frame
from wirespeed.cli.terminal import DOWN, END, HOME, PAGE_DOWN, UP, split_keys
from wirespeed.observe import ratetable
from wirespeed.observe.attached import PodInterface
from wirespeed.observe.rates import Interval, Measured, Rates, Reading, Sample, between, rates
from wirespeed.switches.appctl import parse_counters

WEB = PodInterface(namespace="default", pod="web", ifname="net1")
OTHER = PodInterface(namespace="default", pod="other", ifname="net1")
PORT = Measured(kind="VF", name="ens1#0", address="0000:19:00.0", pod=WEB)
TIMES = st.floats(0, 1e9)
SPANS = st.floats(0.01, 1e4)
COUNTERS = st.integers(0, 2**64 - 1)


def reading(at: float, port: Measured = PORT, **counters: int) -> Reading:
    return Reading(port=port, at=at, counters=counters)


@given(TIMES, SPANS, COUNTERS, st.integers(0, 2**40))
def test_rate_is_the_difference_by_the_time_also_where_64_bits_wrap(
    at: float, seconds: float, first: int, difference: int
) -> None:
    before = reading(at, rx_packets=first, tx_bytes=first)
    now = reading(at + seconds, rx_packets=(first + difference) % 2**64, tx_bytes=(first + difference) % 2**64)
    found = rates(before, now)
    assert found.rx_packets == pytest.approx(difference / (now.at - before.at))
    assert found.tx_bits == pytest.approx(8 * difference / (now.at - before.at))
    assert (found.tx_packets, found.rx_drops) == (None, None)


@given(SPANS, st.integers(1, 2**62), st.data())
def test_rate_of_a_counter_that_was_reset_is_not_known(seconds: float, first: int, data: st.DataObject) -> None:
    smaller = data.draw(st.integers(0, first - 1))
    found = rates(reading(0, rx_packets=first, rx_bytes=5), reading(seconds, rx_packets=smaller, rx_bytes=5))
    assert (found.rx_packets, found.rx_bits) == (None, 0)


@given(COUNTERS, COUNTERS, st.floats(-1e9, 1e9), st.sampled_from([WEB, OTHER, None]))
def test_rates_are_never_negative(first: int, then: int, seconds: float, pod: PodInterface | None) -> None:
    port = msgspec.structs.replace(PORT, pod=pod)
    found = rates(reading(0, rx_packets=first), reading(seconds, port, rx_packets=then))
    assert found.rx_packets is None or found.rx_packets >= 0


def test_rates_of_another_pods_time_are_not_this_pods() -> None:
    now = reading(1, msgspec.structs.replace(PORT, pod=OTHER), rx_packets=100)
    assert rates(reading(0, rx_packets=0), now) == Rates()


NAMES = st.sets(st.sampled_from([f"ens1#{n}" for n in range(6)]))


def sample(at: float, names: set[str], packets: int, **more: Any) -> Sample:
    ports = [msgspec.structs.replace(PORT, name=name) for name in names]
    readings = {(port.kind, port.name): reading(at, port, rx_packets=packets) for port in ports}
    return Sample(at=at, time=1000 + at, readings=readings, **more)


@given(NAMES, NAMES)
def test_ports_are_those_of_the_later_sample_and_new_ones_have_no_rates(first: set[str], then: set[str]) -> None:
    found = between(sample(1, first, 10), sample(3, then, 30, faults=("down",)))
    assert {port.name: port.rates.rx_packets for port in found.ports} == {
        name: 10.0 if name in first else None for name in then
    }
    assert (found.seconds, found.time, found.faults) == (2, 1003, ("down",))


# The switch's own counters

SHOWN = """\
netdev@ovs-netdev:
  lookups: hit:0 missed:0 lost:0
  flows: 0
  port 0: ovs-netdev (tap)
    RX packets:0 errors:0 dropped:0 overruns:0 frame:0
    TX packets:0 errors:0 dropped:0 aborted:0 carrier:0
    collisions:0
    RX bytes:0  TX bytes:0
  port 1: aaaa-net1 (dpdkvhostuserclient: configured_rx_queues=1)
    RX packets:1234 errors:0 dropped:7 overruns:? frame:?
    TX packets:56 errors:? dropped:8 aborted:? carrier:?
    collisions:?
    RX bytes:102400 (100.0 KiB)  TX bytes:64
"""


def test_counters_of_the_switch_are_read_and_those_that_a_port_lacks_are_left_out() -> None:
    assert parse_counters(SHOWN)["aaaa-net1"] == {
        "rx_packets": 1234,
        "rx_errors": 0,
        "rx_dropped": 7,
        "tx_packets": 56,
        "tx_dropped": 8,
        "rx_bytes": 102400,
        "tx_bytes": 64,
    }


# The table


@given(st.floats(0, 1e14))
def test_numbers_fit_into_their_column_and_are_exact_to_half_a_percent(value: float) -> None:
    text = ratetable.number(value)
    assert len(text) <= 6
    scale = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}.get(text[-1], 1)
    assert float(text.rstrip("kMGT")) * scale == pytest.approx(value, rel=0.0051, abs=0.051)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0"), (0.5, "0.5"), (999, "999"), (999.7, "1.00k"), (12345, "12.3k"), (9.876e9, "9.88G")],
)
def test_numbers_are_written_with_a_unit_prefix(value: float | None, text: str) -> None:
    assert ratetable.number(value) == text


def port(name: str, pod: PodInterface | None = None, **known: float) -> Measured:
    return Measured(kind="VF", name=name, address="", pod=pod, rates=Rates(**known))


PORTS = [
    port("ens1#10", WEB, rx_packets=5.0),
    port("ens1#9", OTHER, rx_packets=50.0),
    port("ens1#11"),
]


def order(key: str, *, reverse: bool = False) -> list[str]:
    return [each.name.removeprefix("ens1#") for each in ratetable.ordered(PORTS, key, reverse=reverse)]


def test_ports_are_sorted_by_number_pod_or_rate_and_unknown_rates_are_last() -> None:
    assert order("port") == ["9", "10", "11"]
    assert order("port", reverse=True) == ["11", "10", "9"]
    assert order("pod") == ["9", "10", "11"]
    assert order("pod", reverse=True) == ["10", "9", "11"]
    assert order("rx-packets") == ["9", "10", "11"]
    assert order("rx-packets", reverse=True) == ["10", "9", "11"]


def test_table_is_aligned_and_marks_the_column_that_it_is_sorted_by() -> None:
    shown = ratetable.table(
        Interval(time=0, seconds=1, ports=tuple(PORTS[:2]), faults=("OVS: down",)), "rx-packets"
    )
    assert shown == [
        "PORT   *RX-PPS RX-BPS RX-DRP RX-ERR TX-PPS TX-BPS TX-DRP TX-ERR  POD",
        "ens1#9      50      -      -      -      -      -      -      -  default/other net1",
        "ens1#10      5      -      -      -      -      -      -      -  default/web net1",
        "not shown: OVS: down",
    ]


def test_every_column_is_a_choice_of_the_option() -> None:
    assert ratetable.SORT_KEYS == top.SORT_KEYS
    for key in ratetable.SORT_KEYS:
        assert ratetable.header(key, PORTS).count("*") == 1
        assert len(ratetable.ordered(PORTS, key)) == len(PORTS)


# The screen


def pressed(view: View, *keys: str) -> View:
    for key in keys:
        view = view.after(key, page=4, total=10)
    return view


def test_keys_change_the_view() -> None:
    view = View(sort="port")
    assert pressed(view, "s", ">").sort == "rx-bits"
    assert pressed(view, "<").sort == "pod"
    assert pressed(view, "r").reverse
    assert not pressed(view, "r", "r").reverse
    assert pressed(view, " ").paused
    assert pressed(view, "q").ended
    assert pressed(view, "x") == view
    assert [pressed(view, *keys).first for keys in ((UP,), (DOWN, DOWN), (END,), (PAGE_DOWN, UP), (END, HOME))] == [
        0,
        2,
        6,
        3,
        0,
    ]


@given(
    st.integers(1, 60), st.integers(0, 80), st.lists(st.sampled_from([UP, DOWN, PAGE_DOWN, END, HOME]), max_size=6)
)
def test_screen_is_never_higher_than_the_terminal_and_shows_all_that_fit(
    rows: int, count: int, keys: list[str]
) -> None:
    shown = Interval(time=0, seconds=1, ports=tuple(port(f"ens1#{n}") for n in range(count)))
    view = View(sort="port")
    for key in keys:
        view = view.after(key, page=max(1, rows - livetop._AROUND), total=count)
    lines = frame(view, shown, node="worker", rows=rows)
    assert len(lines) <= max(rows, 4)
    assert lines[-1] == HELP
    names = [line.split()[0] for line in lines[2:-1] if line.startswith("ens1#")]
    assert len(names) == min(count, max(1, rows - 3))
    first = int(names[0].removeprefix("ens1#")) if names else 0
    assert names == [f"ens1#{first + n}" for n in range(len(names))]


def test_screen_says_that_it_is_paused_and_which_rows_it_shows() -> None:
    shown = Interval(time=1, seconds=1, ports=tuple(port(f"ens1#{n}") for n in range(9)))
    status = frame(View(sort="port", paused=True, first=2), shown, node="worker", rows=7)[0]
    assert status == "node worker  1970-01-01T00:00:01Z  9 ports, per second over 1.0 s, 3 to 6  PAUSED"


@given(st.text(alphabet="\x1b[OABHFq56~x", max_size=12), st.integers(0, 12))
def test_keys_are_the_same_however_the_terminal_splits_them(text: str, at: int) -> None:
    whole, rest = split_keys(text)
    first, pending = split_keys(text[:at])
    then, left = split_keys(pending + text[at:])
    assert ([*first, *then], left) == (whole, rest)


def test_arrows_are_recognized_in_both_modes_of_terminals() -> None:
    assert split_keys("\x1b[A\x1bOBq\x1b[5") == ([UP, DOWN, "q"], "\x1b[5")

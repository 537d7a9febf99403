"""Calculations of the benchmarks: percentiles, ratios, rounds, and the values of --peer."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import deviceplugin, vhost
from bench.figures import Figures, interleaved, percentile
from bench.systems import read_peer


@pytest.mark.parametrize(("share", "expected"), [(50, 5), (90, 9), (99, 10), (100, 10), (1, 1)])
def test_percentiles_are_times_that_were_measured(share: float, expected: float) -> None:
    assert percentile([10, 9, 8, 7, 6, 5, 4, 3, 2, 1], share) == expected


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.1, 100))
def test_a_percentile_has_its_share_at_or_below_it(times: list[float], share: float) -> None:
    found = percentile(times, share)
    assert found in times
    assert sum(time <= found for time in times) >= len(times) * share / 100 - 1e-6


def figures() -> Figures:
    made = Figures("Here", notes={"machine": "this one"})
    for milliseconds in (2.0, 2.0, 9.0):
        made.add("ADD", "floor", milliseconds)
        made.add("ADD", "ours", milliseconds * 1.5)
    return made


def test_ratios_are_to_the_first_system() -> None:
    assert figures().ratio("ADD", "ours") == 1.5
    assert [row[-1] for row in figures().rows()] == ["1", "1.50"]


def test_markdown_has_each_row_and_the_notes() -> None:
    text = figures().markdown().splitlines()
    assert "| ADD | ours | 3 | 3.00 ms | 13.50 ms | 13.50 ms | 1.50 |" in text
    assert text[-1] == "- machine: this one"


def test_what_is_written_holds_every_time(tmp_path: Path) -> None:
    figures().write(tmp_path / "out", "bench-host")
    written = json.loads((tmp_path / "out/bench-host.json").read_text())
    assert written["series"]["ADD"]["floor"] == [2.0, 2.0, 9.0]
    assert (tmp_path / "out/bench-host.md").read_text() == figures().markdown()


def test_turns_are_interleaved_and_the_first_round_is_one_more() -> None:
    seen: list[tuple[str, int]] = []
    interleaved(2, [partial(lambda who, number: seen.append((who, number)), who) for who in "ab"])
    assert seen == [("b", 0), ("a", 0), ("a", 1), ("b", 1), ("b", 2), ("a", 2)]


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    made = tmp_path / "plugin"
    made.write_text("#!/bin/sh\n")
    made.chmod(0o755)
    (tmp_path / "conf").write_text('{"name": "net"}')
    return made


def test_a_peer_is_an_executable_with_its_configuration(plugin: Path) -> None:
    peer = read_peer(f"other={plugin}:{plugin.parent}/conf")
    assert (peer.name, peer.binary, peer.config, peer.path) == (
        "other",
        plugin,
        {"name": "net"},
        str(plugin.parent),
    )


def test_a_peers_path_may_name_several_folders(plugin: Path) -> None:
    assert read_peer(f"other={plugin}:{plugin.parent}/conf:/a:/b").path == "/a:/b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plugin", "expected NAME=BINARY:CONF"),
        ("other={folder}/plugin", "expected NAME=BINARY:CONF"),
        ("=x:y", "expected NAME=BINARY:CONF"),
        ("other={folder}/conf:{folder}/conf", "conf is no executable"),
        ("other={folder}/plugin:{folder}/none", "other: configuration .*none: .*No such file"),
        ("other={folder}/plugin:{folder}/plugin", "other: configuration .*plugin: Expecting value"),
    ],
)
def test_what_is_no_peer_is_said(plugin: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_peer(text.format(folder=plugin.parent))


def test_a_device_plugin_is_a_command(plugin: Path) -> None:
    peer = deviceplugin.read_peer(f"other={plugin} --config-file @CONFIG@ 'a b'")
    assert (peer.name, peer.command) == ("other", (str(plugin), "--config-file", "@CONFIG@", "a b"))


def test_userspace_cni_is_an_executable(plugin: Path) -> None:
    assert vhost.read_peer(f"other={plugin}") == vhost.Peer("other", plugin)


@pytest.mark.parametrize(
    ("text", "message"), [("x", "expected NAME="), ("=x", "expected NAME="), ("x=", "expected")]
)
def test_what_is_no_peer_is_said_of_others_too(text: str, message: str) -> None:
    for read in (deviceplugin.read_peer, vhost.read_peer):
        with pytest.raises(ValueError, match=message):
            read(text)
        with pytest.raises(ValueError, match="other: /nowhere is no executable"):
            read("other=/nowhere")

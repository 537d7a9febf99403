"""`wirespeed top` and `wirespeed topology` as a person runs them: on a terminal, in a pipe, ended by signals."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from tests.fakesysfs import FakeSysfs
from tests.node.conftest import PATIENCE, ROOT
from wirespeed.observe.layout import Topology
from wirespeed.observe.rates import Interval

PF = "0000:18:00.0"
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
COUNTERS = ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes", "rx_dropped", "tx_dropped")


class Vfs:
    """A PF with VFs, whose counters are in sysfs as those of mlx5_core are."""

    def __init__(self, folder: Path, count: int) -> None:
        self.sysfs = FakeSysfs(folder / "sys")
        self.sysfs.pf(PF, "ens1f0", vfs=count, driver="mlx5_core")
        for number in range(count):
            self.stats(number).mkdir(parents=True)
            self.count(number)
        self.config = folder / "agent.json"
        config = {
            "nodeName": "worker",
            "sysfs": str(self.sysfs.root),
            "state": str(folder / "run/state.db"),
            "kubelet": str(folder / "kubelet"),
            "vhost": {"ovsdb": f"unix:{folder}/db.sock"},
        }
        self.config.write_text(json.dumps(config))

    def stats(self, number: int) -> Path:
        return self.sysfs.path(PF) / "sriov" / str(number) / "stats"

    def count(self, number: int, **counters: int) -> None:
        for name in COUNTERS:
            new = self.stats(number) / f"~{name}"
            new.write_text(f"{counters.get(name, 0)}\n")
            new.rename(self.stats(number) / name)  # a reader never sees an empty file

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "wirespeed", *arguments, "--config", str(self.config)]


@pytest.fixture
def vfs(tmp_path: Path) -> Vfs:
    return Vfs(tmp_path, 12)


class Screen:
    """A program on a terminal of 24 lines; what it writes."""

    def __init__(self, command: list[str]) -> None:
        self.terminal, self._other = pty.openpty()
        self.size(24)
        self.before = termios.tcgetattr(self._other)
        self.process = subprocess.Popen(
            command, stdin=self._other, stdout=self._other, stderr=self._other, cwd=ROOT, start_new_session=True
        )
        self.written = ""

    def size(self, lines: int) -> None:
        fcntl.ioctl(self._other, termios.TIOCSWINSZ, struct.pack("HHHH", lines, 100, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())

    def wait(self, pattern: str) -> str:
        """Read until what was written since the last call matches; return what was read."""
        said, patience = "", time.monotonic() + PATIENCE
        while not re.search(pattern, said, re.DOTALL):
            ready, _, _ = select.select([self.terminal], [], [], max(0.0, patience - time.monotonic()))
            assert ready, f"no {pattern!r} in:\n{said}"
            said += os.read(self.terminal, 65536).decode()
        self.written += said
        return said

    def ended(self) -> int:
        """Wait for the end; return the exit status. The terminal must be as it was before."""
        status = self.process.wait(PATIENCE)
        while select.select([self.terminal], [], [], 0)[0]:
            self.written += os.read(self.terminal, 65536).decode()
        assert self.written.count(ENTER) == self.written.count(LEAVE)
        assert self.written.rindex(LEAVE) > self.written.rindex(ENTER)
        assert termios.tcgetattr(self._other) == self.before
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._other)
        os.close(self.terminal)


@pytest.fixture
def screen(vfs: Vfs) -> Iterator[Callable[..., Screen]]:
    """Start `wirespeed top` on a terminal."""
    made: list[Screen] = []

    def start(*arguments: str) -> Screen:
        made.append(Screen(vfs.command("top", "--interval", "200ms", *arguments)))
        return made[-1]

    yield start
    for each in made:
        each.close()


def test_keys_sort_reverse_pause_scroll_and_quit(screen: Callable[..., Screen], vfs: Vfs) -> None:
    shown = screen()
    assert shown.wait("q quit").startswith(ENTER)
    shown.wait(r"\*PORT.*ens1f0#0 .*ens1f0#11 .*q quit")
    shown.press("r")
    shown.wait(r"\*PORT.*ens1f0#11 .*ens1f0#0 .*q quit")
    shown.press("r>")
    shown.wait(r" \*RX-PPS.*q quit")
    shown.press("<<")
    shown.wait(r" \*POD.*q quit")
    shown.press("s ")
    shown.wait(r"PAUSED.*\*PORT.*q quit")
    shown.press(" ")
    shown.size(8)
    os.kill(shown.process.pid, signal.SIGWINCH)
    shown.wait(r"12 ports, per second over 0\.\d s, 1 to 5\x1b.*ens1f0#4 ")
    shown.press("\x1b[B\x1bOB")
    shown.wait(r", 3 to 7\x1b.*ens1f0#2 .*ens1f0#6 ")
    shown.press("\x1b[F")
    shown.wait(r", 8 to 12\x1b.*ens1f0#11 ")
    shown.press("\x1b[A")
    shown.wait(r", 7 to 11\x1b")
    shown.press("q")
    assert shown.ended() == 0


def test_rates_follow_the_counters(screen: Callable[..., Screen], vfs: Vfs) -> None:
    shown = screen("--sort", "rx-packets")
    shown.wait(r"ens1f0#0 +0 +0 +0 +- +0 +0")
    for number in range(1, 20):
        vfs.count(7, rx_packets=10**6 * number, rx_bytes=10**9 * number)
    shown.wait(r"RX-PPS[^\n]*\n(\x1b\[0m)?ens1f0#7 +[\d.]+[MG] +[\d.]+[GT] ")  # the first row
    vfs.count(7)  # reset
    shown.wait(r"ens1f0#7 +- +- +0")
    vfs.sysfs.set_vfs(PF, 3, driver="mlx5_core")
    shown.wait(r" 3 ports")
    shown.press("q")
    assert shown.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_with_the_terminal_restored(screen: Callable[..., Screen], number: int) -> None:
    shown = screen()
    shown.wait(r"\*PORT")
    shown.process.send_signal(number)
    assert shown.ended() == -number


def test_it_can_be_stopped_and_continued(screen: Callable[..., Screen]) -> None:
    shown = screen()
    shown.wait(r"\*PORT")
    shown.process.send_signal(signal.SIGTSTP)
    shown.wait(re.escape(LEAVE))
    _, status = os.waitpid(shown.process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert termios.tcgetattr(shown._other) == shown.before
    shown.process.send_signal(signal.SIGCONT)
    shown.wait(rf"{re.escape(ENTER)}.*\*PORT")
    shown.press("q")
    assert shown.ended() == 0


def test_an_error_restores_the_terminal_and_is_shown_on_it(screen: Callable[..., Screen], vfs: Vfs) -> None:
    shown = screen()
    shown.wait(r"\*PORT")
    state = Path(json.loads(vfs.config.read_text())["state"])
    state.parent.mkdir()
    state.write_text("no database")
    shown.wait("Error: journal .*: file is not a database")
    assert shown.ended() == 1
    assert shown.written.rindex("Error: ") > shown.written.rindex(LEAVE)


def run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=4 * PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_in_a_pipe_it_prints_one_table_and_ends(vfs: Vfs) -> None:
    lines = run(vfs.command("top", "--interval", "100ms")).splitlines()
    assert lines[0].startswith("*PORT ")
    assert [line.split()[0] for line in lines[1:]] == [f"ens1f0#{number}" for number in range(12)]


def test_json_is_one_object_a_line(vfs: Vfs) -> None:
    (line,) = run(vfs.command("top", "--json", "--once", "--interval", "100ms")).splitlines()
    shown = msgspec.json.decode(line, type=Interval)
    assert shown.seconds >= 0.1
    assert {port.rates.rx_packets for port in shown.ports} == {0.0}
    process = subprocess.Popen(
        vfs.command("top", "--json", "--interval", "100ms"), cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    times = [msgspec.json.decode(process.stdout.readline(), type=Interval).time for _ in range(3)]
    assert times == sorted(set(times))
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("wrong", ["0", "2h", "50ms", "-1s"])
def test_an_interval_that_is_none_is_refused(vfs: Vfs, wrong: str) -> None:
    done = subprocess.run(
        vfs.command("top", "--interval", wrong), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"expected a duration from 100ms to 1h, such as 500ms, 90s, 10m or 1h, got '{wrong}'" in done.stderr


def test_topology_is_printed_as_text_json_and_svg(vfs: Vfs, tmp_path: Path) -> None:
    text = run(vfs.command("topology"))
    assert text.startswith("NUMA node 0\n")
    assert "VF 11  0000:19:01.3  iavf" in text
    shown = msgspec.json.decode(run(vfs.command("topology", "--json")), type=Topology)
    assert (shown.node, len(shown.pfs[0].functions)) == ("worker", 12)
    file = tmp_path / "node.svg"
    assert run(vfs.command("topology", "--svg", str(file))) == ""
    assert file.read_text() == run(vfs.command("topology", "--svg", "-"))
    assert "0000:19:01.3" in file.read_text()


def test_topology_for_a_locale_without_unicode_is_ascii(vfs: Vfs) -> None:
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(vfs.command("topology"), cwd=ROOT, capture_output=True, check=True, env=environ)
    assert b"`- PF ens1f0" in done.stdout
    assert done.stdout.isascii()


def test_topology_that_is_watched_is_printed_again_until_ctrl_c(vfs: Vfs) -> None:
    for arguments, separator in (
        (("topology", "--watch"), "\n\nNUMA node 0\n"),
        (("topology", "--watch", "--json"), "}\n{"),
    ):
        process = subprocess.Popen(vfs.command(*arguments), cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout is not None
        said = b""
        while separator.encode() not in said:
            piece = os.read(process.stdout.fileno(), 65536)
            assert piece, said
            said += piece
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
        process.stdout.close()

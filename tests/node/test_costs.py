"""What an ADD and a DEL cost the agent, as counts, so that they cannot grow unnoticed."""

from __future__ import annotations

import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.node.calling import DONE
from tests.node.pods import Pod, World

# Of a pod with three bridge networks, whose plugins run in the agent. Most ADDs have 35 netlink messages (a port of
# a bridge that is slow to come up is looked at again) and open 50 files; DELs open 12.
LIMITS = {
    "ADD": {"netlink": 44, "transactions": 7, "opens": 54, "programs": 0},
    "DEL": {"netlink": 7, "transactions": 6, "opens": 14, "programs": 0},
}
_CALL = re.compile(r"^\d+ +(?P<name>\w+)\((?P<arguments>.*)")
_WAL_WRITE_LOCK = "l_type=F_WRLCK, l_whence=SEEK_SET, l_start=120,"  # https://sqlite.org/walformat.html#locks


@contextmanager
def counted(pid: int, file: Path, ignored: Path) -> Iterator[Counter[str]]:
    """Count in the body what the process and its children ask of the kernel; files in `ignored` do not count."""
    found: Counter[str] = Counter()
    command = ["strace", "--follow-forks", "-yy", f"--attach={pid}", f"--output={file}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        assert "attached" in tracer.stderr.readline()
        yield found
        tracer.send_signal(signal.SIGINT)
    for line in file.read_text().splitlines():
        if call := _CALL.match(line):
            found += _kinds(call["name"], call["arguments"], str(ignored))


def _kinds(name: str, arguments: str, ignored: str) -> Counter[str]:
    return Counter(
        netlink=name == "sendto" and "<NETLINK:" in arguments,
        transactions=name == "fcntl" and _WAL_WRITE_LOCK in arguments,
        opens=name == "openat" and ignored not in arguments,
        programs=name == "execve",
    )


@pytest.fixture
def pod(world: World) -> Pod:
    """A pod that is not attached yet, on a node where the bridges exist and the agent has served such pods."""
    world.agent.stop()
    world.restart(referencePlugins="inProcess")
    world.define("second", world.conflist("second", world.bridge("10.7.0.0/24")))
    for number in range(3):
        earlier = world.pod(f"earlier{number}", "bridged,second")
        world.add(earlier)
        assert world.call("DEL", earlier) == DONE
    return world.pod("p", "bridged,second")


def test_calls_cost_what_they_did(world: World, pod: Pod, tmp_path: Path) -> None:
    def measure(verb: str) -> dict[str, int]:
        with counted(world.agent.process.pid, tmp_path / verb, world.folder / "manifests") as found:
            assert world.call(verb, pod).status == 0
        return {key: found[key] for key in LIMITS[verb]}

    costs = {verb: measure(verb) for verb in ("ADD", "DEL")}
    assert costs["ADD"]["netlink"] > 20  # it does count
    above = {verb: {key: n for key, n in costs[verb].items() if n > LIMITS[verb][key]} for verb in costs}
    assert not any(above.values()), f"above the limits: {above}, of {costs}"

"""The program for an application's container: a single file, which prints arguments and checks ports."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from wirespeed import program
from wirespeed.cli.eal import eal as eal_command
from wirespeed.cli.eal import ready as ready_command

Telemetry = Callable[..., Path]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program's file, in a directory without anything else of this tree."""
    path = tmp_path_factory.mktemp("program") / "wirespeed"
    program.write(path, sys.executable)
    return path


@pytest.fixture
def telemetry(tmp_path: Path) -> Iterator[Telemetry]:
    """Start applications that answer like DPDK's telemetry. Yields the directory of their runtime directories."""
    listening: list[tuple[socket.socket, threading.Thread]] = []

    def serve(server: socket.socket, ports: dict[int, str]) -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client:
                client.send(b'{"version":"DPDK 24.11.3","pid":7,"max_output_len":16384}')
                while asked := client.recv(1024).decode():
                    command, _, parameter = asked.partition(",")
                    told = {"status": ports[int(parameter)], "speed": 1000} if parameter else list(ports)
                    client.send(json.dumps({command: told}).encode())

    def start(prefix: str, ports: dict[int, str]) -> Path:
        folder = tmp_path / "dpdk" / prefix
        folder.mkdir(parents=True)
        server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        server.bind(str(folder / "dpdk_telemetry.v2"))
        server.listen()
        thread = threading.Thread(target=serve, args=(server, ports), daemon=True)
        thread.start()
        listening.append((server, thread))
        return tmp_path

    yield start
    for server, thread in listening:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def run(file: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it as in a container, in an unrelated working directory."""
    return subprocess.run(
        [file, *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


def ready(file: Path, folder: Path) -> tuple[int, str]:
    done = run(file, "ready", RUNTIME_DIRECTORY=str(folder))
    assert done.stdout == ""
    return done.returncode, done.stderr.rstrip("\n")


def test_an_application_is_ready_when_all_its_ports_are_up(file: Path, telemetry: Telemetry) -> None:
    assert ready(file, telemetry("rte", {0: "UP", 1: "UP"})) == (0, "")


def test_a_port_that_is_down_is_named(file: Path, telemetry: Telemetry) -> None:
    telemetry("a", {0: "UP"})
    folder = telemetry("b", {0: "UP", 3: "DOWN"})
    assert ready(file, folder) == (1, "port 3 of the DPDK application is down")


def test_an_application_without_a_port_is_not_ready(file: Path, telemetry: Telemetry) -> None:
    assert ready(file, telemetry("rte", {})) == (1, "the DPDK application has no port")


def test_without_an_application_none_is_ready(file: Path, tmp_path: Path) -> None:
    where = tmp_path / "dpdk"
    assert ready(file, tmp_path) == (
        1,
        f"no DPDK application runs here: expected one that listens on {where}/*/dpdk_telemetry.v2",
    )


def test_what_a_killed_application_has_left_does_not_count(
    file: Path, telemetry: Telemetry, tmp_path: Path
) -> None:
    left = tmp_path / "dpdk/old"
    left.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as killed:
        killed.bind(str(left / "dpdk_telemetry.v2"))
    assert ready(file, tmp_path)[0] == 1
    assert ready(file, telemetry("rte", {0: "UP"})) == (0, "")


def test_the_file_says_the_same_arguments_as_the_whole_program(file: Path, tmp_path: Path) -> None:
    asked = ["eal", "--podinfo", str(tmp_path), "--memory", "64", "--file-prefix", "x"]
    alone = run(file, *asked, PCIDEVICE_INTEL_COM_LEFT_DPDK="0000:01:10.0")
    assert alone.returncode == 0, alone.stderr
    assert alone.stdout.split()[-5:] == ["-m", "64", "--file-prefix=x", "-a", "0000:01:10.0"]
    environment = {"PCIDEVICE_INTEL_COM_LEFT_DPDK": "0000:01:10.0"}
    assert CliRunner(env=environment).invoke(eal_command, asked[1:]).output == alone.stdout


def test_the_whole_program_says_the_same_of_ports(telemetry: Telemetry) -> None:
    folder = str(telemetry("rte", {0: "DOWN"}))
    told = CliRunner(env={"RUNTIME_DIRECTORY": folder}).invoke(ready_command)
    assert (told.exit_code, told.output) == (1, "port 0 of the DPDK application is down\n")


@pytest.mark.parametrize("arguments", [(), ("play",), ("ready", "now")])
def test_other_commands_are_refused(file: Path, arguments: tuple[str, ...]) -> None:
    done = run(file, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: expected eal or ready, got {' '.join(arguments) or 'nothing'}\n")


@pytest.mark.parametrize("number", ["-1", "two", "1.5"])
def test_a_wrong_number_is_refused(file: Path, number: str) -> None:
    done = run(file, "eal", f"--cores={number}")
    assert done.returncode == 2
    assert f"argument --cores: expected a number from 0, got {number!r}" in done.stderr


def test_help_tells_of_both_commands(file: Path) -> None:
    assert run(file, "--help").stdout.startswith("Usage: wirespeed COMMAND")
    assert "dpdk-testpmd $(wirespeed eal)" in run(file, "eal", "--help").stdout


def test_the_same_sources_make_the_same_file(file: Path, tmp_path: Path) -> None:
    program.write(tmp_path / "again", sys.executable)
    assert (tmp_path / "again").read_bytes() == file.read_bytes()


def test_a_probe_loads_nothing_else(file: Path, tmp_path: Path) -> None:
    """Loading modules takes CPU time from forwarding, at every probe."""
    done = subprocess.run(
        [sys.executable, "-IS", "-X", "importtime", file, "ready"],
        env={"RUNTIME_DIRECTORY": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    loaded = {
        line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")
    }
    assert {"wirespeed_eal.inpod", "wirespeed_eal.ready"} <= loaded
    assert loaded.isdisjoint({"argparse", "dataclasses", "pathlib", "wirespeed_eal.pod", "click"})

"""host-local in process: concurrent calls from many threads and processes, and a process that is killed."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from wirespeed.cni.request import Request
from wirespeed.ipam import Ipam

THREADS, EACH, PROCESSES = 6, 10, 4


def request(container: str, folder: Path, command: str = "ADD") -> Request:
    conf = {"type": "host-local", "dataDir": str(folder), "subnet": "10.3.0.0/22"}
    config: dict[str, Any] = {"cniVersion": "1.1.0", "name": "net", "type": "probe", "ipam": conf}
    return Request(command=command, container_id=container, ifname="net1", config=config)


def allocate(ipam: Ipam, folder: Path, mark: str) -> None:
    """Print the address of each container, one per line."""
    for number in range(EACH):
        container = f"{mark}-{number}"
        (ip,) = ipam.add(request(container, folder))["ips"]
        sys.stdout.write(f"{container} {ip['address']}\n")
        sys.stdout.flush()


def allocate_in_threads(folder: Path, mark: str) -> None:
    ipam = Ipam(folder)
    threads = [
        threading.Thread(target=allocate, args=(ipam, folder, f"{mark}-{number}")) for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def start(call: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a process that calls a function of this module."""
    code = f"import sys; from pathlib import Path; from tests.node.test_ipam_concurrency import *; {call}"
    root = Path(__file__).parents[2]
    return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=root, stdout=subprocess.PIPE, text=True)


def leases(folder: Path) -> dict[str, str]:
    return {path.name: path.read_bytes().decode() for path in (folder / "net").iterdir() if path.name[0].isdigit()}


def test_threads_of_many_processes_get_different_addresses(tmp_path: Path) -> None:
    call = "allocate_in_threads(Path(sys.argv[1]), sys.argv[2])"
    processes = [start(call, str(tmp_path), f"p{number}") for number in range(PROCESSES)]
    lines = [line for process in processes for line in process.communicate(timeout=60)[0].splitlines()]
    assert [process.returncode for process in processes] == [0] * PROCESSES
    given = dict(line.split() for line in lines)
    assert len(given) == len(set(given.values())) == PROCESSES * THREADS * EACH
    assert leases(tmp_path) == {
        address.removesuffix("/22"): f"{container}\r\nnet1" for container, address in given.items()
    }


def add_and_delete_forever(folder: Path) -> None:
    ipam, number = Ipam(folder), 0
    while True:
        for container in (f"k-{number}", f"k-{number + 1}"):
            ipam.add(request(container, folder))
        ipam.delete(request(f"k-{number}", folder, "DEL"))
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        number += 2


def test_killed_process_leaves_only_leases_that_a_delete_finds(tmp_path: Path) -> None:
    ipam = Ipam(tmp_path)
    for kills in range(8):
        folder = tmp_path / str(kills)
        with start("add_and_delete_forever(Path(sys.argv[1]))", str(folder)) as process:
            assert process.stdout is not None
            last = 0
            for _ in range(2 + kills):
                last = int(process.stdout.readline())
            process.kill()
            rest = process.stdout.read().split()
        last = int(rest[-1]) if rest else last
        assert leases(folder)
        for number in range(last + 4):
            ipam.delete(request(f"k-{number}", folder, "DEL"))
        assert leases(folder) == {}

"""Run `wirespeed play` with test manifests on a node of its own, and find what it leaves behind.

The node is a network namespace for the bridge and all other interfaces. Leftover processes are found by a mark in
the environment of all processes of a test's plays.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import select
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.node.conftest import PATIENCE, ROOT, Netns
from wirespeed.node import NodeConfig
from wirespeed.play import cgroups
from wirespeed.state.journal import Attachment, Journal

Manifest = dict[str, Any]


def container(name: str = "main", script: str = "", **keys: Any) -> Manifest:
    """A container that runs a shell script."""
    return {"name": name, "command": ["/bin/sh", "-c", script], **keys}


def pod(name: str, *containers: Manifest, policy: str = "Never", **spec: Any) -> Manifest:
    spec = {"restartPolicy": policy, "terminationGracePeriodSeconds": 5, "containers": list(containers), **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


# Ends on SIGTERM once it has printed "up". The shell runs a trap between commands, but also during `wait`.
WAITS = "trap 'echo ended well; exit 0' TERM; echo up; sleep 1000 & wait"


def waiting(name: str, **spec: Any) -> Manifest:
    return pod(name, container(script=WAITS), policy="Always", **spec)


@dataclass
class Stage:
    """A node and the plays on it; `folder` is for their files."""

    node: Netns
    folder: Path
    shim: Path
    mark: str = field(default_factory=lambda: f"play-{uuid.uuid4().hex}")
    within: tuple[str, ...] = ()  # prefix of the play's command line
    playing: list[Playing] = field(default_factory=list)

    @property
    def conf(self) -> Path:
        return self.folder / "cni.conf"

    def write_conf(self, **delegate: Any) -> None:
        """Write the node's CNI conf: the meta-plugin, with a bridge for eth0 or another delegate."""
        bridge = {
            "cniVersion": "1.0.0",
            "name": "pods",
            "type": "bridge",
            "bridge": "br0",
            "isGateway": True,
            "ipam": {
                "type": "host-local",
                "dataDir": str(self.folder / "leases"),
                "ranges": [[{"subnet": "10.99.0.0/24"}]],
            },
        }
        conf = {"cniVersion": "1.1.0", "name": "cluster", "type": "wirespeed", "delegates": [delegate or bridge]}
        self.conf.write_text(json.dumps(conf))

    def write_plugin(self, script: str) -> None:
        """Install a plugin for eth0 that runs the script and then succeeds."""
        result = '{"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "%s"}]}'
        plugin = self.folder / "plugins/probing"
        plugin.write_text(f"#!/bin/sh\n{script}\n[ $CNI_COMMAND != ADD ] || printf '{result}' \"$CNI_NETNS\"\n")
        plugin.chmod(0o755)
        self.write_conf(cniVersion="1.0.0", name="probing", type="probing")

    def start(self, *manifests: Manifest, options: tuple[str, ...] = ()) -> Playing:
        """Start a play of the manifests, whose containers get the mark."""
        for manifest in manifests:
            for part in ("initContainers", "containers"):
                for each in manifest.get("spec", {}).get(part, ()):
                    each.setdefault("env", []).append({"name": "MARK", "value": self.mark})
        folder = self.folder / f"play{len(self.playing)}"
        folder.mkdir()
        (folder / "manifests.yaml").write_text(yaml.safe_dump_all(manifests))
        process = subprocess.Popen(
            [
                *("nsenter", f"--net={self.node.path}", *self.within, sys.executable, "-m", "wirespeed", "play"),
                *("--cni-conf", str(self.conf), "--shim", str(self.shim), "--out", str(folder / "out")),
                *(
                    "--cni-path",
                    f"{self.folder / 'plugins'}:/usr/lib/cni",
                    *options,
                    str(folder / "manifests.yaml"),
                ),
            ],
            cwd=ROOT,
            env={**os.environ, "MARK": self.mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.playing.append(Playing(process, folder / "out/pods.json"))
        return self.playing[-1]

    def play(self, *manifests: Manifest, options: tuple[str, ...] = ()) -> Played:
        return self.start(*manifests, options=options).ended()

    def processes(self) -> dict[int, list[str]]:
        """The command lines, by PID, of all processes with the mark in their environment."""
        found = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and self.mark.encode() in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "cmdline").read_text().split("\0")
        return found

    def agent(self) -> tuple[int, str]:
        """The PID of the agent, and the session name of its play."""
        for pid, command in self.processes().items():
            if "agent" in command:
                return pid, Path(command[command.index("--config") + 1]).parent.name
        raise AssertionError("no agent runs")

    def left(self) -> list[str]:
        """What plays have left on this node: processes, directories, mounts, namespaces, attachments, leases."""
        told = [each.told for each in self.playing if each.told.exists()]
        sessions = {name for file in told for name in re.findall(r"wirespeed-play-\w+", file.read_text())}
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        found = [f"process {pid}: {' '.join(command)}" for pid, command in self.processes().items()]
        for session in sessions:
            found += [f"folder {session}"] * Path("/run", session).exists()
            found += [f"mount {line}" for line in mounts if session in line]
            found += [f"namespace {name}" for name in os.listdir("/run/netns") if name.startswith(session)]
            found += [f"attachment {each}" for each in attachments(session)]
            groups = [each.base / session for each in cgroups.find()]
            found += [f"control group {group}" for group in groups if group.exists()]
        found += [f"link {name}" for name in self.node.links() if name not in {"lo", "br0"}]
        return found + [f"lease {lease}" for lease in self.folder.glob("leases/pods/*.*.*.*")]


class Playing:
    """A running play; it is killed if it takes too long. `told` is the path of its pods.json."""

    def __init__(self, process: subprocess.Popen[str], told: Path) -> None:
        self.process, self.told = process, told
        self._said: list[str] = []
        self._errors: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()  # "" marks the end
        self._readers = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        for reader in self._readers:
            reader.start()
        self._watchdog = threading.Timer(4 * PATIENCE, process.kill)
        self._watchdog.start()

    def said(self, *parts: str) -> Playing:
        """Wait until each part has occurred in a line of its output."""
        missing = set(parts)
        while missing:
            line = self._lines.get()
            assert line, f"it ended without {missing}:\n{''.join(self._said + self._errors)}"
            missing -= {part for part in missing if part in line}
        return self

    def signal(self, number: int) -> Playing:
        self.process.send_signal(number)
        return self

    def stop_reading(self) -> None:
        """Close the read end of its output pipe."""
        assert self.process.stdout is not None
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), self.process.stdout.fileno())

    def ended(self) -> Played:
        """Wait until it ends."""
        for reader in self._readers:
            reader.join()
        status = self.process.wait()
        self._watchdog.cancel()
        told = json.loads(self.told.read_text()) if self.told.exists() else {}
        return Played(status, "".join(self._said), "".join(self._errors), told)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._said.append(line)
                self._lines.put(line)
        self._lines.put("")

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            self._errors.extend(lines)


@dataclass
class Played:
    """The result of a play; `told` is its pods.json."""

    status: int
    stdout: str
    stderr: str
    told: Manifest

    def said(self, source: str) -> list[str]:
        """The output lines of a container, given as "namespace/pod/container"."""
        return [line.partition(" | ")[2] for line in self.stdout.splitlines() if line.startswith(f"{source} | ")]

    def pod(self, name: str) -> Manifest:
        found: Manifest = next(item for item in self.told["items"] if item["metadata"]["name"] == name)
        return found

    def restarts(self, name: str) -> int:
        count: int = self.pod(name)["status"]["containerStatuses"][0]["restartCount"]
        return count


def attachments(session: str) -> list[Attachment]:
    """The attachments of a play's pods in the journal."""
    with contextlib.closing(Journal(Path(NodeConfig().state))) as journal:
        return [each for each in journal.attachments() if session in each.netns]


def give_back(stage: Stage, session: str) -> None:
    """Clean up after a play that could not, as an administrator can: DEL for each attachment in the journal."""
    for hierarchy in cgroups.find():
        for folder, _, _ in os.walk(hierarchy.base / session, topdown=False):
            os.rmdir(folder)
    for attachment in attachments(session):
        call = {
            "CNI_COMMAND": "DEL",
            "CNI_CONTAINERID": attachment.container,
            "CNI_NETNS": attachment.netns,
            "CNI_IFNAME": attachment.ifname,
            "CNI_PATH": f"{stage.folder / 'plugins'}:/usr/lib/cni",
        }
        with stage.conf.open() as conf:
            subprocess.run(
                ["nsenter", f"--net={stage.node.path}", sys.executable, "-m", "wirespeed", "cni", "wirespeed"],
                stdin=conf,
                env={**os.environ, **call},
                cwd=ROOT,
                check=True,
            )


class Fifo:
    """A fifo with which a test and its programs synchronize."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._file = os.open(path, os.O_RDWR)  # opened read-write, so that opening blocks nobody

    def heard(self) -> None:
        """Wait until something is written to it."""
        assert select.select([self._file], [], [], PATIENCE)[0], f"nothing came through {self.path}"
        os.read(self._file, 4096)

    def tell(self) -> None:
        """Let one reader that waits for a line continue."""
        os.write(self._file, b"\n")


@contextlib.contextmanager
def standing(node: Netns, folder: Path, shim: Path) -> Iterator[Stage]:
    """A node to play on. Whatever the test does, nothing may be left on it."""
    made = Stage(node, folder, shim)
    made.node.run("ip", "link", "set", "lo", "up")
    made.write_conf()
    (folder / "plugins").mkdir()
    yield made
    for playing in made.playing:
        playing.process.kill()
        playing.ended()
    try:
        assert not (left := made.left()), left
    finally:
        for pid in made.processes():
            os.kill(pid, signal.SIGKILL)

"""Plays on a node of their own, for tests: manifests, `wirespeed play` as a process, and what it leaves.

The node is a network namespace, in which the bridge and all else of a test lives. What a play leaves is looked
for by a mark that all of its processes have in their environment.
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


# Ends by SIGTERM, as soon as it has said that it is up. A trap is run between commands, but also during a `wait`.
WAITS = "trap 'echo ended well; exit 0' TERM; echo up; sleep 1000 & wait"


def waiting(name: str, **spec: Any) -> Manifest:
    return pod(name, container(script=WAITS), policy="Always", **spec)


@dataclass
class Stage:
    """A node, and the plays on it: `folder` is for what they read and write."""

    node: Netns
    folder: Path
    shim: Path
    mark: str = field(default_factory=lambda: f"play-{uuid.uuid4().hex}")
    within: tuple[str, ...] = ()  # a command that runs the play
    playing: list[Playing] = field(default_factory=list)

    @property
    def conf(self) -> Path:
        return self.folder / "cni.conf"

    def write_conf(self, **delegate: Any) -> None:
        """The CNI conf of the node: the meta-plugin, with a bridge for eth0 or another delegate."""
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
        """A plugin of the test's own for eth0: it runs the script, and then succeeds."""
        result = '{"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "%s"}]}'
        plugin = self.folder / "plugins/probing"
        plugin.write_text(f"#!/bin/sh\n{script}\n[ $CNI_COMMAND != ADD ] || printf '{result}' \"$CNI_NETNS\"\n")
        plugin.chmod(0o755)
        self.write_conf(cniVersion="1.0.0", name="probing", type="probing")

    def start(self, *manifests: Manifest, options: tuple[str, ...] = ()) -> Playing:
        """Begin a play of the manifests, its containers marked."""
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
        """The command lines of what has the mark in its environment."""
        found = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and self.mark.encode() in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "cmdline").read_text().split("\0")
        return found

    def agent(self) -> tuple[int, str]:
        """The process of the agent, and the name of its play's session."""
        for pid, command in self.processes().items():
            if "agent" in command:
                return pid, Path(command[command.index("--config") + 1]).parent.name
        raise AssertionError("no agent runs")

    def left(self) -> list[str]:
        """What is there of plays on this node: processes, folders, mounts, namespaces, owned things, leases."""
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
    """A play that runs; it is killed when it takes too long. `told` is where its pods.json will be."""

    def __init__(self, process: subprocess.Popen[str], told: Path) -> None:
        self.process, self.told = process, told
        self._said: list[str] = []
        self._errors: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()  # "" is the end
        self._readers = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        for reader in self._readers:
            reader.start()
        self._watchdog = threading.Timer(4 * PATIENCE, process.kill)
        self._watchdog.start()

    def said(self, *parts: str) -> Playing:
        """Wait until each of the parts was in a line of its output."""
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
        """Close the pipe that its output comes through."""
        assert self.process.stdout is not None
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), self.process.stdout.fileno())

    def ended(self) -> Played:
        """Wait for its end."""
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
    """How a play ended; `told` is its pods.json."""

    status: int
    stdout: str
    stderr: str
    told: Manifest

    def said(self, source: str) -> list[str]:
        """The lines of a container's output, "namespace/pod/container"."""
        return [line.partition(" | ")[2] for line in self.stdout.splitlines() if line.startswith(f"{source} | ")]

    def pod(self, name: str) -> Manifest:
        found: Manifest = next(item for item in self.told["items"] if item["metadata"]["name"] == name)
        return found

    def restarts(self, name: str) -> int:
        count: int = self.pod(name)["status"]["containerStatuses"][0]["restartCount"]
        return count


def attachments(session: str) -> list[Attachment]:
    """What the journal has of the pods of a play."""
    with contextlib.closing(Journal(Path(NodeConfig().state))) as journal:
        return [each for each in journal.attachments() if session in each.netns]


def give_back(stage: Stage, session: str) -> None:
    """What an administrator can do after a play that could not take all back: the journal knows what to undo."""
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
    """A fifo by which a test and what it runs tell each other that they have come so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._file = os.open(path, os.O_RDWR)  # so that nobody waits who opens it

    def heard(self) -> None:
        """Wait until something was written to it."""
        assert select.select([self._file], [], [], PATIENCE)[0], f"nothing came through {self.path}"
        os.read(self._file, 4096)

    def tell(self) -> None:
        """Let the one go on who reads a line from it."""
        os.write(self._file, b"\n")


@contextlib.contextmanager
def standing(node: Netns, folder: Path, shim: Path) -> Iterator[Stage]:
    """A node to play on; whatever a test does there, nothing is left of it."""
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

"""The systems to measure: wirespeed's agent and shim, and other CNI plugins, called as a runtime calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
SHIM = ROOT / "build/wirespeed-cni"
REFERENCE_PLUGINS = "/usr/lib/cni"  # Debian's containernetworking-plugins

PEER = "NAME=BINARY:CONF[:CNI_PATH]"
PEER_TEXT = """\
another CNI plugin, called in the same run as ours is: its executable, the file of its network configuration,
and the folders of the plugins that it calls (default: the folder of its executable).
"""


class Peer(NamedTuple):
    """Another system: its executable, its network configuration and CNI_PATH."""

    name: str
    binary: Path
    config: dict[str, Any]
    path: str

    def caller(self, values: Mapping[str, str], **more: Any) -> Caller:
        """Return a caller of it, with "@NAME@" in the configuration replaced by the value of that name."""
        text = json.dumps(self.config)
        for name, value in values.items():
            text = text.replace(f"@{name}@", value)
        return Caller(binary=self.binary, config=json.loads(text), path=self.path, **more)


def read_peer(text: str) -> Peer:
    """Parse NAME=BINARY:CONF[:CNI_PATH]. Raises ValueError that says what is wrong."""
    name, equals, rest = text.partition("=")
    binary, _, rest = rest.partition(":")
    conf, _, path = rest.partition(":")
    if not (name and equals and binary and conf):
        raise ValueError(f"expected {PEER}, got {text!r}")
    program = executable(name, binary)
    try:
        config = json.loads(Path(conf).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: configuration {conf}: {error}") from error
    return Peer(name=name, binary=program, config=config, path=path or str(program.parent))


def executable(name: str, path: str) -> Path:
    """Return the absolute path of a peer's executable. Raises ValueError if it is not executable."""
    found = Path(path).resolve()
    if not (found.is_file() and os.access(found, os.X_OK)):
        raise ValueError(f"{name}: {found} is no executable")
    return found


class CallFailedError(Exception):
    """A plugin failed in a call that was to be measured."""


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Calls a plugin's executable as a runtime does; the whole process is measured."""

    binary: Path
    config: Mapping[str, Any]
    path: str = REFERENCE_PLUGINS
    environ: Mapping[str, str] = field(default_factory=dict)
    ifname: str = "eth0"
    args: str = "IgnoreUnknown=1"

    def timed(self, verb: str, sandbox: Sandbox | None = None, previous: Any = None) -> tuple[float, Any]:
        """Return the milliseconds that the process took, and its result. Raises CallFailedError with its output."""
        environ = {"PATH": os.environ["PATH"], "CNI_COMMAND": verb, "CNI_PATH": self.path, **self.environ}
        if sandbox is not None:
            environ |= {"CNI_CONTAINERID": sandbox.container, "CNI_NETNS": sandbox.path}
            environ |= {"CNI_IFNAME": self.ifname, "CNI_ARGS": self.args}
        config = dict(self.config) if previous is None else {**self.config, "prevResult": previous}
        stdin = json.dumps(config).encode()
        began = time.perf_counter()
        done = subprocess.run([self.binary], input=stdin, env=environ, capture_output=True, check=False)
        took = (time.perf_counter() - began) * 1000
        if done.returncode:
            said = " ".join((done.stdout + done.stderr).decode(errors="replace").split())
            raise CallFailedError(f"{self.binary.name} {verb} ended with {done.returncode}: {said[:500]}")
        return took, json.loads(done.stdout) if done.stdout.strip() else None

    def add_and_delete(self) -> dict[str, float]:
        """Return the milliseconds of an ADD and of its DEL, in a new sandbox."""
        with sandbox() as made:
            took_add, result = self.timed("ADD", made)
            took_del, _ = self.timed("DEL", made, result)
        return {"ADD": took_add, "DEL": took_del}


class Sandbox(NamedTuple):
    """A pod's network namespace, as a runtime creates it: its path, and the container id."""

    path: str
    container: str


@contextmanager
def sandbox() -> Iterator[Sandbox]:
    container = uuid.uuid4().hex
    name = f"bench-{container[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield Sandbox(f"/run/netns/{name}", container)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


class Suite(NamedTuple):
    """A running agent; `folder` has its files."""

    folder: Path
    process: subprocess.Popen[bytes]

    def caller(self, name: str, config: Mapping[str, Any], **more: Any) -> Caller:
        """Return a caller of the shim under this plugin name."""
        link = self.folder / name
        if not link.exists():
            link.symlink_to(SHIM)
        environ = {"WIRESPEED_SOCKET": str(self.folder / "agent.sock")}
        return Caller(binary=link, config=config, environ=environ, **more)

    def memory(self) -> str:
        return f"{resident(self.process.pid) / 1024:.0f} MiB"


def resident(pid: int) -> int:
    """Return a process's resident memory in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    (found,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
    return int(found)


@contextmanager
def suite(folder: Path, cluster: Mapping[str, str], **more: Any) -> Iterator[Suite]:
    """Run an agent. `cluster` is that key of its configuration, `more` are further keys."""
    config: dict[str, Any] = {name: str(folder / name) for name in ("attachments", "leases", "devinfo", "kubelet")}
    config |= {"socket": str(folder / "agent.sock"), "state": str(folder / "state.db")}
    config |= {"cluster": dict(cluster), "runtimes": [], **more}
    file = folder / "agent.json"
    file.write_text(json.dumps(config))
    command = [sys.executable, "-m", "wirespeed", "agent", "--config", str(file), "--log-level", "error"]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        yield Suite(folder, process)  # the shim waits until the agent listens
    finally:
        process.terminate()
        process.wait()

"""Fixtures of the tests on the real kernel: the shim, agents, and network namespaces of their own."""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from tests.node.forks import Forked, Forks, forks

if TYPE_CHECKING:
    from tests.node.pods import World

Process: TypeAlias = "Forked | subprocess.Popen[str]"

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0  # seconds; a wait that takes longer fails


@pytest.fixture(scope="session", autouse=True)
def root() -> None:
    """Require root. Without it, the tests fail in CI and are skipped elsewhere."""
    if os.geteuid() == 0:
        return
    message = "needs root: network namespaces, an agent that serves root"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def shim() -> Iterator[Path]:
    """The path of the shim, built once per session.

    Called by its own name, it requests the plugin `wirespeed`. To request another one, change `args[0]` or use a
    link.
    """
    # /tmp/pytest-of-root is not accessible to other users, and some tests run the shim as another user.
    with tempfile.TemporaryDirectory(prefix="wirespeed-shim-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        binary = folder / "wirespeed"
        flags = ("-std=c11", "-O2", "-static", "-Wall", "-Wextra", "-Werror")
        subprocess.run(["cc", *flags, "-o", binary, ROOT / "shim/wirespeed-cni.c"], check=True)
        yield binary


@dataclass(frozen=True)
class Netns:
    """A network namespace: `name` for `ip netns`, `path` for CNI_NETNS."""

    name: str
    path: str

    def add(self) -> None:
        """Create it."""
        subprocess.run(["ip", "netns", "add", self.name], check=True)

    def delete(self) -> None:
        """Delete it. A namespace created again later has the same path."""
        subprocess.run(["ip", "netns", "delete", self.name], check=True)

    def run(self, *command: str) -> str:
        """Run a command inside, which must succeed. Return its standard output."""
        run = subprocess.run(
            ["ip", "netns", "exec", self.name, *command], check=True, capture_output=True, text=True
        )
        return run.stdout

    def links(self) -> dict[str, Any]:
        """Its interfaces by name, from `ip -d -j addr show`."""
        shown = subprocess.run(
            ["ip", "-n", self.name, "-d", "-j", "addr", "show"], check=True, capture_output=True
        ).stdout
        return {link["ifname"]: link for link in json.loads(shown)}


@pytest.fixture
def netns() -> Iterator[Callable[[], Netns]]:
    """Make network namespaces with unique names: `pod = netns()`. They are deleted after the test."""
    made: list[Netns] = []

    def make() -> Netns:
        name = f"ws-{uuid.uuid4().hex[:12]}"
        made.append(Netns(name, f"/run/netns/{name}"))
        made[-1].add()
        return made[-1]

    yield make
    for each in made:
        if Path(each.path).exists():
            each.delete()


@pytest.fixture
def sandbox(netns: Callable[[], Netns]) -> Callable[[], Netns]:
    """Make namespaces as the cluster network leaves them: see `give_eth0`."""
    from tests.node.sandboxes import give_eth0

    def make() -> Netns:
        made = netns()
        give_eth0(made)
        return made

    return make


@dataclass
class Agent:
    """A running `wirespeed agent` and its paths. `log` has the lines logged so far."""

    process: Process
    config: Path
    socket: Path
    state: Path
    log: list[str] = field(default_factory=list)
    _lines: queue.Queue[str | None] = field(default_factory=queue.Queue)  # None marks the end

    def __post_init__(self) -> None:
        self.reader = threading.Thread(target=self._read, daemon=True)

    def wait_log(self, *parts: str) -> str:
        """Return the next logged line that contains all parts. Lines before it are skipped."""
        while True:
            try:
                line = self._lines.get(timeout=PATIENCE)
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"no line with {parts} in:\n" + "".join(self.log))
            if all(part in line for part in parts):
                return line

    def environ(self, verb: str, container: str = "c1", **more: str) -> dict[str, str]:
        """The shim's environment for calling this agent; `more` overrides it."""
        return {
            "WIRESPEED_SOCKET": str(self.socket),
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": "/run/netns/none",
            "CNI_IFNAME": "net1",
            "CNI_PATH": "/opt/cni/bin",
            **more,
        }

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal and wait for the end. Return the exit status (negative: the signal that killed it)."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stderr:
            for line in stderr:
                self.log.append(line)
                self._lines.put(line)
        self._lines.put(None)


@pytest.fixture(scope="session")
def agent_forks() -> Iterator[Forks]:
    with forks(ROOT) as started:
        yield started


@pytest.fixture
def agent_process(tmp_path: Path, agent_forks: Forks) -> Iterator[Callable[..., Agent]]:
    """Start agents, each a process (tests/node/forks.py) with its own configuration, socket and journal.

    `agent = agent_process(workers=2)`: keyword arguments are keys of the agent's configuration file. `environ` adds
    to its environment; with `forked=False`, the agent is an interpreter of its own, which reads its settings there.
    With `ready=False`, the call does not wait until it is ready. `folder` is the directory for its files (default:
    a new one); give two agents the same one if the second takes over from the first. `node` is
    the network namespace to run in, for plugins that create interfaces on the host. The cluster is the directory of
    manifests `folder/manifests`, unless `cluster` is given. In addition to the real plugins there are `probe` and
    `inner` (tests/node/probe.py), and `broken`, which cannot be created. Agents are killed after the test.
    """
    agents: list[Agent] = []

    def start(
        *,
        environ: Mapping[str, str] | None = None,
        forked: bool = True,
        ready: bool = True,
        folder: Path | None = None,
        node: Netns | None = None,
        **config: Any,
    ) -> Agent:
        place = folder or tmp_path / f"agent{len(agents)}"
        agents_of = agent_forks if forked else None
        agent = _start_agent(agents_of, place, environ or {}, config, ready=ready, node=node)
        agents.append(agent)
        return agent

    yield start
    for agent in agents:
        if agent.process.poll() is None:
            agent.process.kill()
        agent.process.wait(PATIENCE)
        agent.reader.join(PATIENCE)


def _start_agent(
    agents: Forks | None,
    folder: Path,
    environ: Mapping[str, str],
    config: Mapping[str, Any],
    *,
    ready: bool,
    node: Netns | None,
) -> Agent:
    for made in (folder / "manifests", folder / "kubelet", folder / "site"):
        made.mkdir(parents=True, exist_ok=True)
    places = {
        "socket": str(folder / "run/agent.sock"),
        "state": str(folder / "run/state.db"),
        "attachments": str(folder / "attachments"),
        "runtimes": [],
        "cluster": {"manifests": str(folder / "manifests")},
        "kubelet": str(folder / "kubelet"),
        "devinfo": str(folder / "devinfo"),
        "leases": str(folder / "leases"),
        **config,
    }
    file = folder / "agent.yaml"
    file.write_text(json.dumps(places))
    _register_probe(folder / "site")
    notified = folder / "notify.sock"
    notified.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(notified))
        arguments = ["agent", "--config", str(file), "--log-level", "debug"]
        environ = {**os.environ, "NOTIFY_SOCKET": str(notified), **environ}
        process = _start_process(agents, arguments, environ, folder / "site", node)
        agent = Agent(process, file, Path(places["socket"]), Path(places["state"]))
        agent.reader.start()
        if ready:
            _wait_ready(agent, notify)
    return agent


def _start_process(
    agents: Forks | None, arguments: list[str], environ: dict[str, str], site: Path, node: Netns | None
) -> Process:
    if agents is not None:
        netns = None if node is None else node.path
        return agents.start(arguments, folder=ROOT, environ=environ, path=str(site), netns=netns)
    before = () if node is None else ("nsenter", f"--net={node.path}")
    return subprocess.Popen(
        [*before, sys.executable, "-m", "wirespeed", *arguments],
        cwd=ROOT,
        env={**environ, "PYTHONPATH": f"{ROOT}:{site}"},
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_ready(agent: Agent, notify: socket.socket) -> None:
    """Wait for READY=1. If the agent ends before that, the test fails with its log."""
    ended = os.pidfd_open(agent.process.pid)
    try:
        ready, _, _ = select.select([notify.fileno(), ended], [], [], PATIENCE)
    finally:
        os.close(ended)
    if notify.fileno() not in ready or not notify.recv(1024).startswith(b"READY=1"):
        agent.process.kill()
        agent.reader.join(PATIENCE)
        raise AssertionError("the agent does not get ready:\n" + "".join(agent.log))


def _register_probe(site: Path) -> None:
    """Write the metadata of an installed distribution with entry points, as pip does."""
    info = site / "probe-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: probe\nVersion: 1.0\n")
    points = {"probe": "create", "inner": "create", "broken": "create_badly"}
    lines = "".join(f"{name} = tests.node.probe:{function}\n" for name, function in points.items())
    (info / "entry_points.txt").write_text(f"[wirespeed.plugins]\n{lines}")


@pytest.fixture
def world(agent_process: Callable[..., Agent], netns: Callable[[], Netns], shim: Path, tmp_path: Path) -> World:
    """A node with an agent, a bridge as the cluster network, and the networks default/bridged and default/ptp."""
    from tests.node.pods import PLUGINS, World  # imports this module

    assert (PLUGINS / "bridge").exists(), "install containernetworking-plugins"
    node, folder = netns(), tmp_path / "world"
    agent = agent_process(folder=folder, node=node)
    made = World(agent_process, shim, folder, node, netns, agent, {})
    made.config |= {
        "cniVersion": "1.0.0",
        "name": "cluster",
        "type": "wirespeed",
        "binDir": str(made.bin),
        "delegates": [made.conflist("pods", made.bridge("10.1.0.0/24", "0.0.0.0/0"))],
    }
    made.define("bridged", made.conflist("bridged", made.bridge("10.2.0.0/24")))
    made.define("ptp", {"cniVersion": "1.0.0", "type": "ptp", "ipam": made.ipam("10.3.0.0/24")})
    return made

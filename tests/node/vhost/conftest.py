"""Open vSwitch with DPDK, and dpdk-testpmd in pods, as the tests' own processes in their own namespaces."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.node.calling import until
from tests.node.conftest import PATIENCE, ROOT, Netns
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.node import ClusterConfig, Node, NodeConfig, VhostConfig

VSWITCHD = Path("/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk")
RUNDIR = Path("/run/openvswitch")  # where agents with the default configuration expect the node's switch
SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
# hugepages of 2 MiB: for the switch (as needed for its ports' MTU) and three applications with 128 MiB
MEMORY = 768


def missing(what: str) -> None:
    """The machine lacks something: fail in CI, skip elsewhere."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def hugepages(root: None) -> Iterator[Path]:
    """A mounted hugetlbfs with enough pages for a switch and applications."""
    count = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
    if not count.exists():
        missing("needs hugepages of 2 MiB")
    before = int(count.read_text())
    folder = Path(tempfile.mkdtemp(prefix="ws-huge-", dir="/tmp"))
    subprocess.run(["mount", "-t", "hugetlbfs", "-o", "pagesize=2M", "none", folder], check=True)
    try:
        if before < MEMORY:
            count.write_text(str(MEMORY))
        if int(count.read_text()) < MEMORY:
            missing(f"needs {MEMORY} hugepages of 2 MiB, got {count.read_text().strip()}")
        yield folder
    finally:
        count.write_text(str(before))
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()


def end(pid: int, number: int = signal.SIGTERM) -> None:
    """Send the signal and wait until the process has ended."""
    descriptor = os.pidfd_open(pid)
    try:
        os.kill(pid, number)
        ready, _, _ = select.select([descriptor], [], [], PATIENCE)
        assert ready, f"process {pid} does not end"
    finally:
        os.close(descriptor)


class Switch:
    """An Open vSwitch with DPDK in `folder`; ovs-vswitchd runs in the network namespace `netns`."""

    def __init__(self, folder: Path, netns: str, hugepages: Path) -> None:
        self.folder, self.netns, self.hugepages = folder, netns, hugepages
        self.rundir = folder / "run"
        self.rundir.mkdir()
        self.remote = f"unix:{self.rundir}/db.sock"
        names = ("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR")
        self._environ = {**os.environ, **dict.fromkeys(names, str(folder)), "OVS_RUNDIR": str(self.rundir)}
        self._run("ovsdb-tool", "create", str(folder / "conf.db"), str(SCHEMA))

    def start_database(self) -> None:
        remote = f"--remote=p{self.remote}"
        self._run("ovsdb-server", str(self.folder / "conf.db"), remote, *self._daemon("ovsdb-server"))

    def configure(self, **other_config: str) -> None:
        """Set `other_config` before the first start."""
        settings = [f"other_config:{key.replace('_', '-')}={value}" for key, value in other_config.items()]
        self.vsctl("--no-wait", "init")
        self.vsctl("--no-wait", "set", "Open_vSwitch", ".", *settings)

    def start(self) -> None:
        """Start ovs-vswitchd. When this returns, it has applied the database."""
        daemon = self._daemon("ovs-vswitchd")
        self._run("ip", "netns", "exec", self.netns, str(VSWITCHD), self.remote, *daemon)

    def stop(self) -> None:
        end(self._pid("ovs-vswitchd"))

    def stop_database(self) -> None:
        end(self._pid("ovsdb-server"))

    @contextmanager
    def database_hung(self) -> Iterator[None]:
        """Stop the database's process (SIGSTOP): connections are accepted, but never answered."""
        pid = self._pid("ovsdb-server")
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def vsctl(self, *args: str) -> str:
        return self._run("ovs-vsctl", "--timeout=20", f"--db={self.remote}", *args).strip()

    def ports(self, bridge: str = "br0") -> list[str]:
        return self.vsctl("list-ports", bridge).split()

    def flows(self, bridge: str) -> list[str]:
        """The actions of the bridge's flows."""
        shown = self._run("ovs-ofctl", "dump-flows", bridge)
        return re.findall(r"actions=(\S+)", shown)

    def add_flow(self, bridge: str, flow: str) -> None:
        self._run("ovs-ofctl", "add-flow", bridge, flow)

    def get(self, table: str, record: str, column: str) -> str:
        return self.vsctl("--if-exists", "get", table, record, column).strip('"')

    def snapshot(self) -> dict[str, Any]:
        """The configuration, without what the switch reports, for comparison."""
        columns = {
            "Bridge": "name,external_ids,ports,mirrors",
            "Port": "name,external_ids,tag,trunks",
            "Interface": "name,type,options,external_ids",
            "QoS": "type,external_ids",
            "Mirror": "name,external_ids",
        }
        shown = {
            table: json.loads(self.vsctl("--format=json", f"--columns={listed}", "list", table))["data"]
            for table, listed in columns.items()
        }
        return {table: sorted(map(json.dumps, rows)) for table, rows in shown.items()}

    def as_the_nodes(self, rundir: Path, node: Netns) -> list[str]:
        """The prefix of a command that runs in the namespace `node`, and finds this switch in `rundir`."""
        mount = ["sh", "-c", f'mount --bind {self.rundir} {rundir} && exec "$@"', "sh"]
        return ["unshare", "--mount", "ip", "netns", "exec", node.name, *mount]

    def close(self) -> None:
        for name in ("ovs-vswitchd", "ovsdb-server"):
            if self._pidfile(name).exists():
                end(self._pid(name))

    def _daemon(self, name: str) -> list[str]:
        log = f"--log-file={self.folder / name}.log"
        return [f"--pidfile={self._pidfile(name)}", "--detach", "--no-chdir", log, "-vconsole:off"]

    def _pidfile(self, name: str) -> Path:
        return self.rundir / f"{name}.pid"

    def _pid(self, name: str) -> int:
        return int(self._pidfile(name).read_text())

    def _run(self, *command: str) -> str:
        done = subprocess.run(
            command, env=self._environ, check=False, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout


@contextmanager
def _namespace() -> Iterator[str]:
    name = f"ws-{uuid.uuid4().hex[:12]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.fixture(scope="session")
def running_switch(hugepages: Path) -> Iterator[Switch]:
    if not VSWITCHD.exists() or shutil.which("ovsdb-server") is None:
        missing("needs Open vSwitch with DPDK: apt-get install openvswitch-switch-dpdk")
    folder = Path(tempfile.mkdtemp(prefix="ws-ovs-", dir="/tmp"))
    folder.chmod(0o755)
    with _namespace() as netns:
        switch = Switch(folder, netns, hugepages)
        try:
            switch.start_database()
            switch.configure(
                dpdk_init="true",
                dpdk_socket_mem="256",
                dpdk_extra="--no-pci",
                dpdk_hugepage_dir=str(hugepages),
                pmd_cpu_mask="0x1",
                # A PMD thread without traffic leaves the processor to the tests: by its name in 3.1, and since 3.2.
                pmd_maxsleep="1000",
                pmd_sleep_max="1000",
            )
            switch.start()
            yield switch
        finally:
            switch.close()
            shutil.rmtree(folder)


@pytest.fixture
def rundir() -> Iterator[Path]:
    """The directory of a node's Open vSwitch, created if it does not exist."""
    there = RUNDIR.exists()
    RUNDIR.mkdir(exist_ok=True)
    yield RUNDIR
    if not there:
        RUNDIR.rmdir()


@pytest.fixture
def switch(running_switch: Switch) -> Iterator[Switch]:
    """The switch, with an empty bridge br0 of the administrator. After the test it must be in its earlier state."""
    running_switch.vsctl("add-br", "br0", "--", "set", "Bridge", "br0", "datapath_type=netdev")
    before = running_switch.snapshot()
    yield running_switch
    after = running_switch.snapshot()
    for bridge in running_switch.vsctl("list-br").split():  # remove one test's leftovers before the next
        running_switch.vsctl("--no-wait", "del-br", bridge)
    running_switch.vsctl("--all", "destroy", "QoS")
    assert after == before


@dataclass
class Host:
    """A node and its paths. Its plugin is called in the same way as by the agent."""

    node: Node
    folder: Path

    def request(self, verb: str, conf: dict[str, Any], pod: Netns | None, **more: Any) -> Request:
        fields = {"container_id": pod.name.removeprefix("ws-") + "0" * 52, "netns": pod.path} if pod else {}
        return Request(command=verb, **{"ifname": "net1", "config": conf, **fields, **more})

    def add(self, conf: dict[str, Any], pod: Netns, **more: Any) -> Result:
        return self.node.plugin(conf["type"]).add(self.request("ADD", conf, pod, **more))

    def delete(self, conf: dict[str, Any], pod: Netns, **more: Any) -> None:
        self.node.plugin(conf["type"]).delete(self.request("DEL", conf, pod, **more))

    def check(self, conf: dict[str, Any], pod: Netns, **more: Any) -> None:
        self.node.plugin(conf["type"]).check(self.request("CHECK", conf, pod, **more))

    def gc(self, conf: dict[str, Any], keep: list[tuple[Netns, str]]) -> None:
        kept = [{"containerID": self.request("GC", conf, pod).container_id, "ifname": name} for pod, name in keep]
        config = {**conf, "cni.dev/valid-attachments": kept}
        self.node.plugin(conf["type"]).gc(self.request("GC", config, None, ifname=""))

    def status(self, conf: dict[str, Any]) -> None:
        self.node.plugin(conf["type"]).status(self.request("STATUS", conf, None, ifname=""))

    def data_file(self, conf: dict[str, Any], pod: Netns, ifname: str = "net1") -> Path:
        """The file that describes an attachment's interface to the application."""
        claim = self.node.journal.device_of(self.request("ADD", conf, pod).container_id, ifname)
        assert claim is not None
        return Path(claim.record["folder"]["path"], claim.record["files"][-1])

    def leases(self) -> list[str]:
        """The leased addresses."""
        return sorted(path.name for path in (self.folder / "leases").glob("*/*.*.*.*"))

    def left(self) -> list[str]:
        """What the plugin has left on the node: claims, leases, files and directories of sockets."""
        rows = [f"claim {claim.device} {claim.step}" for claim in self.node.journal.claims()]
        files = [str(path) for path in (self.folder / "sockets").rglob("*") if path.name != "links"]
        return [*rows, *(f"lease {lease}" for lease in self.leases()), *files]


@contextmanager
def _host(**vhost: str) -> Iterator[Host]:
    """A node on which nothing may be left at the end."""
    folder = Path(tempfile.mkdtemp(prefix="ws-vhost-", dir="/tmp"))
    (folder / "manifests").mkdir()
    config = NodeConfig(
        state=str(folder / "run/state.db"),
        leases=str(folder / "leases"),
        kubelet=str(folder / "kubelet"),
        devinfo=str(folder / "devinfo"),
        cluster=ClusterConfig(manifests=str(folder / "manifests")),
        vhost=VhostConfig(sockets=str(folder / "sockets"), userspace_dir=str(folder / "usrspcni"), **vhost),
    )
    made = Host(Node(config), folder)
    yield made
    left = made.left()
    made.node.close()
    shutil.rmtree(folder)
    assert left == []


@pytest.fixture
def host(switch: Switch) -> Iterator[Host]:
    """A node with the switch. After the test nothing may be left on it."""
    with _host(ovsdb=switch.remote, ovs_rundir=str(switch.rundir)) as made:
        yield made


@pytest.fixture
def lone_host() -> Iterator[Host]:
    """A node without a switch. After the test nothing may be left on it."""
    with _host(ovsdb="unix:/nowhere/db.sock", vpp="/nowhere/api.sock") as made:
        yield made


def network(name: str = "net", **keys: Any) -> dict[str, Any]:
    """A configuration for OVS-DPDK; `keys` are added to its `host` part."""
    host = {"engine": "ovs-dpdk", "iftype": "vhostuser", "bridge": {"bridgeName": "br0"}}
    return {
        "cniVersion": "1.1.0",
        "name": name,
        "type": "wirespeed-vhost",
        "host": host | keys,
        "ipam": {"type": "host-local", "subnet": "10.9.0.0/16"},
    }


class Testpmd:
    """dpdk-testpmd in a pod, started with the arguments from `wirespeed eal` and controlled at its prompt."""

    __test__ = False  # pytest: not a test class

    def __init__(self, pod: Netns, sockets: Path, hugepages: Path, *options: str) -> None:
        self._files = (hugepages, f"{pod.name}map_*")
        args = subprocess.run(
            [
                sys.executable,
                "-m",
                "wirespeed",
                "eal",
                "--sockets",
                sockets,
                "--memory=128",
                f"--file-prefix={pod.name}",
            ],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        # Line-buffered, because testpmd writes its prompt unbuffered and would otherwise overtake its output.
        command = ["ip", "netns", "exec", pod.name, "stdbuf", "-oL", "dpdk-testpmd", *args]
        self._process = subprocess.Popen(
            [*command, f"--huge-dir={hugepages}", "--", "-i", "--total-num-mbufs=4096", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.output = ""
        try:
            self._to_prompt()
        except BaseException:
            self.kill()
            raise

    def command(self, text: str) -> str:
        """Run a command and return its output."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n".encode())
        self._process.stdin.flush()
        return self._to_prompt()

    def packets(self) -> tuple[int, int]:
        """The numbers of packets received and sent."""
        shown = self.command("show port stats 0")
        counts = [re.search(rf"{way}-packets: (\d+)", shown) for way in ("RX", "TX")]
        assert counts[0] is not None, shown
        assert counts[1] is not None, shown
        return int(counts[0][1]), int(counts[1][1])

    def wait_link(self) -> None:
        """Wait until the other side has connected."""
        until(lambda: "Link status: up" in self.command("show port info 0"), f"a link: {self.output[-2000:]}")

    def quit(self) -> None:
        if self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.write(b"quit\n")
            self._process.stdin.close()
        self._ended()

    def kill(self) -> None:
        self._process.kill()
        self._ended()

    def _ended(self) -> None:
        """Wait for the end, and delete the hugepage files that it leaves behind."""
        self._process.wait(PATIENCE)
        folder, pattern = self._files
        for file in folder.glob(pattern):
            file.unlink()

    def _to_prompt(self) -> str:
        """Read to the next prompt, and what is there after it: a change of the link is reported at any time."""
        assert self._process.stdout is not None
        said, patience = "", time.monotonic() + PATIENCE
        while "testpmd> " not in said:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, patience - time.monotonic()))
            assert ready, f"no prompt after:\n{self.output}{said}"
            piece = os.read(self._process.stdout.fileno(), 65536)
            assert piece, f"testpmd has ended:\n{self.output}{said}"
            said += piece.decode(errors="replace")
        self.output += said
        return said


@pytest.fixture
def testpmd(hugepages: Path) -> Iterator[Callable[..., Testpmd]]:
    """Start testpmd: `testpmd(pod, sockets, "--forward-mode=txonly")`. All are ended after the test."""
    if shutil.which("dpdk-testpmd") is None:
        missing("needs dpdk-testpmd: apt-get install dpdk-dev")
    made: list[Testpmd] = []

    def start(pod: Netns, sockets: Path, *options: str) -> Testpmd:
        made.append(Testpmd(pod, sockets, hugepages, *options))
        return made[-1]

    yield start
    for each in made:
        each.quit()

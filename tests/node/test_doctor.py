"""What `wirespeed doctor` asks of the kernel, a runtime, Open vSwitch and an API server; a pod's real processes."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.apiserver import ApiServer
from tests.fakesysfs import FakeSysfs
from tests.node import containerd
from tests.node.conftest import PATIENCE, ROOT, Netns
from wirespeed.doctor import CHECKS, Finding, Severity, facts_of
from wirespeed.doctor.cluster import Permissions, read_permissions
from wirespeed.doctor.files import Files
from wirespeed.doctor.podview import find
from wirespeed.doctor.switches import read_ovs
from wirespeed.errors import Error
from wirespeed.kernel import ethtool, netns
from wirespeed.kernel.netlink import dcb
from wirespeed.kube import cri
from wirespeed.kube.cluster import UnavailableError
from wirespeed.node import ClusterConfig, Node, NodeConfig
from wirespeed.plugins.meta.delegate import Delegate, planned_rows
from wirespeed.state.journal import DeviceClaim
from wirespeed.switches.switch import UnreachableError

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
PF = "0000:18:00.0"
CAPABILITY_DROPPED = ("setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    config = NodeConfig(
        state=str(tmp_path / "state.db"),
        attachments=str(tmp_path / "attachments"),
        kubelet=str(tmp_path / "kubelet"),
        cluster=ClusterConfig(manifests=str(tmp_path)),
    )
    with closing(Node(config)) as one:
        yield one


def test_files_of_the_node_are_read_in_a_container_that_sees_its_processes(tmp_path: Path) -> None:
    """The container's root is a tmpfs with the node's folders, but with an /etc of its own."""
    enter = """
        mount -t tmpfs none "$1"
        for folder in /*; do
          if [ -L "$folder" ]; then cp -P "$folder" "$1"; continue; fi
          [ -d "$folder" ] || continue
          mkdir -p "$1$folder"
          [ "$folder" = /etc ] || mount --rbind "$folder" "$1$folder"
        done
        shift; exec chroot "$@"
    """
    program = (
        "import os; from wirespeed.doctor.files import Files; files = Files.of_node(init=os.getppid()); "
        "print(files.root, files.text('/etc/passwd').split(':')[0], files.exists('/proc/self/ns/pid'))"
    )
    container = tmp_path / "container"
    container.mkdir()
    command = ("unshare", "--mount", "sh", "-euc", enter, "sh", container, container, sys.executable, "-c", program)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)})
    assert (done.stdout, done.stderr) == (f"/proc/{os.getpid()}/root root True\n", "")
    assert Files.of_node("/host/sys") == Files("/", "/host/sys", "/proc")


# The kernel


def test_interfaces_without_rings_and_flow_control_have_none(netns: Callable[[], Netns]) -> None:
    space = netns()
    space.run("ip", "link", "add", "one", "type", "veth", "peer", "name", "other")
    with opened(space) as inside:
        for name in ("lo", "one", "absent"):
            assert inside(lambda: ethtool.rings(name)) is None  # noqa: B023 — called at once
            assert inside(lambda: ethtool.pause(name)) is None  # noqa: B023
            assert inside(lambda: dcb.priorities(name)) is None  # noqa: B023


@contextmanager
def opened(space: Netns) -> Iterator[Callable[[Callable[[], object]], object]]:
    with netns.opened(space.path) as ns:
        yield lambda call: netns.inside(ns.fd, call)


def test_rings_of_this_machines_interfaces_are_not_larger_than_they_can_be() -> None:
    names = [each.name for each in Path("/sys/class/net").iterdir()]
    told = [rings for name in names if (rings := ethtool.rings(name)) is not None]
    if not told:
        pytest.skip("no interface of this machine reports rings")
    for rings in told:
        assert 0 < rings.rx <= rings.rx_maximum
        assert 0 < rings.tx <= rings.tx_maximum


# A pod


@contextmanager
def pod(node: Node, space: Netns, sysfs: FakeSysfs, *command: str) -> Iterator[Callable[[str], list[Finding]]]:
    """A process in a pod with a VF on vfio-pci; yields what answers a check. Only the card is made up."""
    [vf] = sysfs.pf(PF, "ens1f0", vfs=1, vf_driver="vfio-pci")
    run = ("ip", "netns", "exec", space.name, *command, "sh", "-c", "echo up; exec sleep infinity")
    with subprocess.Popen(run, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], PATIENCE)[0]
            assert process.stdout.readline() == b"up\n"
            with netns.opened(space.path) as ns:
                identity = ns.identity
            args = {"K8S_POD_NAMESPACE": "shop", "K8S_POD_NAME": "fw"}
            delegate = Delegate(
                configuration="cbr0", request_ifname="eth0", label="l", raw={}, version="", ifname="net1", args=args
            )
            node.journal.plan(planned_rows([delegate], "c1", space.path, identity))
            claim = DeviceClaim(
                device=vf, plugin="sriov", container="c1", ifname="net1", netns=space.path, identity=identity
            )
            node.journal.claim(claim)
            files = Files(sys=str(sysfs.root))
            facts = facts_of(node, files, find(node, "shop/fw", files))
            assert facts.pod is not None
            assert [each.pid for each in facts.pod.containers] == [process.pid]
            yield lambda check: list(CHECKS[check].findings(facts))
        finally:
            process.send_signal(signal.SIGKILL)


@pytest.fixture
def sysfs(tmp_path: Path) -> FakeSysfs:
    return FakeSysfs(tmp_path / "sys")


def test_process_that_can_lock_little_memory_is_found(
    node: Node, netns: Callable[[], Netns], sysfs: FakeSysfs
) -> None:
    with pod(node, netns(), sysfs, "prlimit", "--memlock=65536", *CAPABILITY_DROPPED) as check:
        [found] = check("pod-locked-memory")
        assert (found.severity, found.found) == (Severity.ERROR, "no IPC_LOCK, and a limit of 65536 bytes")


def test_process_without_a_limit_can_lock_memory(node: Node, netns: Callable[[], Netns], sysfs: FakeSysfs) -> None:
    if subprocess.run(["prlimit", "--memlock=unlimited", "true"], check=False).returncode:
        pytest.skip("needs CAP_SYS_RESOURCE")
    with pod(node, netns(), sysfs, "prlimit", "--memlock=unlimited", *CAPABILITY_DROPPED) as check:
        [found] = check("pod-locked-memory")
        assert (found.severity, found.found) == (Severity.OK, "unlimited")


def test_process_with_the_capability_can_lock_memory(
    node: Node, netns: Callable[[], Netns], sysfs: FakeSysfs
) -> None:
    with pod(node, netns(), sysfs, "prlimit", "--memlock=65536") as check:
        [found] = check("pod-locked-memory")
        assert (found.severity, found.found) == (Severity.OK, "it has IPC_LOCK")


def test_cpus_of_a_process_are_compared_with_the_kubelets_state(
    node: Node, netns: Callable[[], Netns], sysfs: FakeSysfs
) -> None:
    Path(node.config.kubelet).mkdir()
    state = '{"policyName":"static","entries":{"0a1b2c3d-0000-4000-8000-00000000abcd":{"fw":"0"}},"checksum":1}'
    (Path(node.config.kubelet) / "cpu_manager_state").write_text(state)
    with pod(node, netns(), sysfs, "taskset", "-c", "0") as check:
        [found] = check("pod-exclusive-cpus")  # nobody gave this pod, which has no UID, these CPUs
        assert (found.severity, found.found) == (Severity.WARNING, "it shares CPUs 0 with other pods")


# The runtime, Open vSwitch, the API server


def test_runtime_tells_its_name_and_version(netns: Callable[[], Netns], tmp_path: Path) -> None:
    for made in ("net.d", "bin"):
        (tmp_path / made).mkdir()
    with containerd.running(tmp_path, netns(), {}):
        found = cri.version(tmp_path / "containerd.sock")
    assert found.name == "containerd"
    assert found.version.lstrip("v")[:1].isdigit()


def test_runtime_that_is_not_there_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(Error, match=f"version: the runtime does not answer on {tmp_path}/none: UNAVAILABLE"):
        cri.version(tmp_path / "none", timeout=PATIENCE)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[str]:
    """The database of an Open vSwitch whose ovs-vswitchd does not run."""
    if not SCHEMA.exists():
        pytest.skip("needs Open vSwitch")
    file, socket, pidfile = tmp_path / "conf.db", tmp_path / "db.sock", tmp_path / "pid"
    subprocess.run(["ovsdb-tool", "create", file, SCHEMA], check=True)
    command = (
        "ovsdb-server",
        file,
        f"--remote=punix:{socket}",
        f"--pidfile={pidfile}",
        "--detach",
        "--no-chdir",
    )
    subprocess.run(command, check=True, env={"OVS_RUNDIR": str(tmp_path), "PATH": "/usr/sbin:/usr/bin"})
    pid = int(pidfile.read_text())
    try:
        yield f"unix:{socket}"
    finally:
        subprocess.run(["kill", str(pid)], check=True)


def test_open_vswitch_tells_its_settings_and_that_it_does_not_run(database: str) -> None:
    vsctl = ("ovs-vsctl", f"--db={database}", "--no-wait")
    with pytest.raises(Error, match="the database is empty; start ovs-vswitchd"):
        read_ovs(database)
    subprocess.run([*vsctl, "init"], check=True)
    subprocess.run(
        [*vsctl, "set", "Open_vSwitch", ".", "other_config:dpdk-init=true", "ovs_version=3.5.0"], check=True
    )
    found = read_ovs(database)
    assert (found.version, found.running, found.dpdk) == ("3.5.0", False, False)
    assert found.config == {"dpdk-init": "true"}


def test_open_vswitch_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError):
        read_ovs(f"unix:{tmp_path}/none")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(tmp_path) as server:
        yield server


def permissions(kubeconfig: Path) -> Permissions | None:
    with closing(Node(NodeConfig(cluster=ClusterConfig(kubeconfig=str(kubeconfig))))) as node:
        return read_permissions(node)


def test_all_that_the_agent_needs_is_asked_of_the_api_server(api: ApiServer) -> None:
    assert permissions(api.kubeconfig()) == Permissions((), networks=True)
    assert api.counts()["POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews"] == 9


def test_what_the_api_server_forbids_is_named(api: ApiServer) -> None:
    api.reviews.forbidden = {("patch", "pods/status"), ("watch", "network-attachment-definitions")}
    api.served = []
    found = permissions(api.kubeconfig())
    assert found == Permissions(
        ("patch pods/status", "watch network-attachment-definitions.k8s.cni.cncf.io"), networks=False
    )


def test_api_server_that_does_not_answer_is_unavailable(api: ApiServer) -> None:
    kubeconfig = api.kubeconfig()
    api.fault("POST", cut=True, times=9)
    with pytest.raises(UnavailableError, match="no answer from the API server"):
        permissions(kubeconfig)


def test_node_without_a_cluster_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with (
        closing(Node(NodeConfig())) as node,
        pytest.raises(Error, match="no kubeconfig is configured, and this process is not in a pod"),
    ):
        read_permissions(node)

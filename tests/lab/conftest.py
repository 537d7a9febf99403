"""Real VFs of the lab's two PFs, an agent that uses them, and the complete state of VFs before and after a test."""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import select
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import wirespeed
from wirespeed.devices.pci import PciDevice
from wirespeed.kernel import ethtool

PFS = ("ens1", "ens2")
VFS_PER_PF = 4
# counters, indexes and carrier state are not settings
VOLATILE = {"stats", "stats64", "ifindex", "operstate", "flags"}


@pytest.fixture(scope="session", autouse=True)
def _in_the_lab() -> None:
    if os.environ.get("WIRESPEED_LAB") != "1":
        pytest.fail("these tests need the lab's SR-IOV devices: run `make test-lab`", pytrace=False)


def sh(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def bind(address: str, driver: str) -> None:
    """Bind a device to a driver, as an administrator would."""
    path = Path("/sys/bus/pci/devices") / address
    if (path / "driver").exists():
        (path / "driver/unbind").write_text(address)
    (path / "driver_override").write_text(driver)
    Path("/sys/bus/pci/drivers_probe").write_text(address)
    (path / "driver_override").write_text("\n")
    assert PciDevice(address).driver == driver


@dataclass(frozen=True)
class LabVfs:
    """The VFs of both PFs: those with a netdev, and those bound to vfio-pci."""

    kernel: list[str] = field(default_factory=list)
    vfio: list[str] = field(default_factory=list)


def make_vfs(per_pf: int = VFS_PER_PF, *, kernel: int = 2) -> LabVfs:
    """Create VFs on each PF, four by default. All but the first `kernel` are bound to vfio-pci."""
    found = LabVfs()
    for pf in PFS:
        device = Path(f"/sys/class/net/{pf}/device")
        (device / "sriov_numvfs").write_text(str(per_pf))
        addresses = [address for _, address in PciDevice(device.resolve().name).virtual_functions()]
        for address in addresses[kernel:]:
            bind(address, "vfio-pci")
        found.kernel.extend(addresses[:kernel])
        found.vfio.extend(addresses[kernel:])
    return found


def remove_vfs() -> None:
    """Remove the VFs of both PFs."""
    for pf in PFS:
        Path(f"/sys/class/net/{pf}/device/sriov_numvfs").write_text("0")


@pytest.fixture(scope="session")
def vfs() -> LabVfs:
    """The VFs used by the tests."""
    return make_vfs()


def state_of_everything() -> dict[str, Any]:
    """Everything that `ip -d -j link`, ethtool and sysfs show of PFs and VFs, without counters."""
    shown: dict[str, Any] = {}
    for link in json.loads(sh("ip", "-d", "-j", "link", "show")):
        if link["ifname"] in PFS or link.get("parentbus") == "pci":
            link["is_up"] = "UP" in link["flags"]
            for info in link.get("vfinfo_list", []):
                info.pop("stats", None)
            link |= {"queues": ethtool.queues(link["ifname"]), "spread": ethtool.read_rss(link["ifname"])}
            shown[link["ifname"]] = {key: value for key, value in link.items() if key not in VOLATILE}
    for pf in PFS:
        for _, address in PciDevice(Path(f"/sys/class/net/{pf}/device").resolve().name).virtual_functions():
            device = PciDevice(address)
            shown[address] = {
                "driver": device.driver,
                "netdevs": device.netdevs,
                "driver_override": device.attribute("driver_override"),
            }
    return shown


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The differences, one line each: 'ens1 mtu: 1400, was 1500'."""
    told = []
    for name in sorted({*before, *after}):
        old, new = _flat(before.get(name, {})), _flat(after.get(name, {}))
        keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        told += [f"{name} {key}: {new.get(key)}, was {old.get(key)}" for key in keys]
    return told


def _flat(shown: dict[str, Any]) -> dict[str, Any]:
    """Flatten a PF's `vfinfo_list` into one key for each attribute of each VF."""
    flat = {key: value for key, value in shown.items() if key != "vfinfo_list"}
    for info in shown.get("vfinfo_list", []):
        flat |= {f"vf {info['vf']} {key}": value for key, value in info.items()}
    return flat


@pytest.fixture
def unchanged(vfs: LabVfs) -> Iterator[None]:
    """After the test, PFs and VFs must be in their earlier state."""
    before = state_of_everything()
    yield
    assert differences(before, state_of_everything()) == []


@pytest.fixture
def no_bridge() -> Iterator[None]:
    """Remove the bridge of the examples' CNI conf after the test, because the bridge plugin never removes it."""
    yield
    if Path("/sys/class/net/mgmt0").exists():
        sh("ip", "link", "delete", "mgmt0")


@pytest.fixture
def namespaces() -> Iterator[Callable[[], str]]:
    """Make network namespaces and return their paths; they are deleted after the test."""
    made: list[str] = []

    def make() -> str:
        name = f"pod-{uuid.uuid4().hex[:8]}"
        sh("ip", "netns", "add", name)
        made.append(name)
        return f"/run/netns/{name}"

    yield make
    for name in made:
        if Path(f"/run/netns/{name}").exists():
            sh("ip", "netns", "del", name)


def in_namespace(path: str, *command: str) -> str:
    return sh("ip", "netns", "exec", Path(path).name, *command)


def link_in(path: str, name: str) -> dict[str, Any] | None:
    """`ip -d -j link` for one interface in a namespace, or None."""
    links = json.loads(in_namespace(path, "ip", "-d", "-j", "link"))
    return next((link for link in links if link["ifname"] == name), None)


def without_carrier(link: dict[str, Any] | None) -> dict[str, Any]:
    """The link without what changes when its carrier comes, which may be after ADD has returned."""
    assert link is not None
    flags = sorted({*link["flags"]} - {"NO-CARRIER", "LOWER_UP"})
    return {key: value for key, value in link.items() if key != "operstate"} | {"flags": flags}


@dataclass(frozen=True)
class Answer:
    """The result of a call of the shim: exit code and JSON from standard output."""

    code: int
    body: dict[str, Any]


@dataclass(frozen=True)
class Runtime:
    """Calls the plugins as a container runtime does: by executing the shim."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "agent.json"

    def call(
        self,
        verb: str,
        container: str,
        conf: dict[str, Any],
        *,
        netns: str = "",
        ifname: str = "net1",
        binary: str = "wirespeed-sriov",
        args: str = "",
        path: str = "/usr/lib/cni",
    ) -> Answer:
        environ = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": ifname,
            "CNI_PATH": path,
            "CNI_ARGS": args,
            "WIRESPEED_SOCKET": str(self.folder / "agent.sock"),
        }
        return _answer([self.folder / binary], conf, environ)

    def alone(self, verb: str, container: str, conf: dict[str, Any], netns: str) -> Answer:
        """Make a call that a single process handles without the agent."""
        environ = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": "net1",
            "CNI_PATH": "/usr/lib/cni",
            "WIRESPEED_CONFIG": str(self.config),
        }
        return _answer([sys.executable, "-m", "wirespeed", "cni", "sriov"], conf, dict(os.environ) | environ)

    def add(self, container: str, conf: dict[str, Any], netns: str, **more: str) -> Answer:
        return self.call("ADD", container, conf, netns=netns, **more)

    def delete(self, container: str, conf: dict[str, Any], netns: str = "", **more: str) -> Answer:
        return self.call("DEL", container, conf, netns=netns, **more)


def _answer(command: list[Any], conf: dict[str, Any], environ: dict[str, str]) -> Answer:
    done = subprocess.run(
        command, input=json.dumps(conf).encode(), env=environ, capture_output=True, check=False, timeout=120
    )
    return Answer(done.returncode, json.loads(done.stdout) if done.stdout.strip() else {})


def make_runtime(folder: Path, **config: Any) -> Runtime:
    """Create links to the shim under its names, and a configuration for its agents, to which `config` is added."""
    for name in ("wirespeed", "wirespeed-sriov"):
        (folder / name).symlink_to(Path(__file__).parents[2] / "build/wirespeed-cni")
    (folder / "manifests").mkdir()
    config |= {
        "socket": str(folder / "agent.sock"),
        "state": str(folder / "state.db"),
        "attachments": str(folder / "attachments"),
        "runtimes": [],
        "leases": str(folder / "leases"),
        "devinfo": str(folder / "devinfo"),
        "kubelet": str(folder / "kubelet"),
        "cluster": {"manifests": str(folder / "manifests")},
    }
    (folder / "agent.json").write_text(json.dumps(config))
    return Runtime(folder)


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return make_runtime(tmp_path_factory.mktemp("wirespeed"))


@contextmanager
def serving(runtime: Runtime) -> Iterator[Runtime]:
    """Run an agent for the runtime's calls. The body starts when it has reported that it is ready."""
    notices = runtime.folder / "notify.sock"
    notices.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(notices))
        process = subprocess.Popen(
            [sys.executable, "-m", "wirespeed", "agent", "--config", runtime.config],
            env=dict(os.environ, NOTIFY_SOCKET=str(notices)),
        )
        ended = os.pidfd_open(process.pid)
        try:
            select.select([manager.fileno(), ended], [], [], 60)
            assert process.poll() is None, "the agent ended; what it logged is above"
            assert manager.recv(64) == b"READY=1"
            yield runtime
        finally:
            os.close(ended)
            process.terminate()
            assert process.wait(timeout=30) == 0


@pytest.fixture(scope="module")
def agent(runtime: Runtime) -> Iterator[Runtime]:
    """A running agent for the runtime's calls."""
    with serving(runtime):
        yield runtime


@pytest.fixture(scope="session")
def ready_to_fork() -> Iterator[None]:
    """Do once what every forked agent would do: import the agent's modules, collect this process's garbage."""
    for module in pkgutil.walk_packages(wirespeed.__path__, "wirespeed."):
        if module.name.split(".")[1] in {"agent", "deviceplugin", "kube", "plugins"}:
            importlib.import_module(module.name)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def conf(device: str, **keys: Any) -> dict[str, Any]:
    """A configuration of the SR-IOV plugin."""
    return {"cniVersion": "1.1.0", "name": "data", "type": "wirespeed-sriov", "deviceID": device} | keys


def host_local(third: int = 0, **keys: Any) -> dict[str, Any]:
    return {"type": "host-local", "subnet": f"10.8.{third}.0/24"} | keys


def vf_of(address: str) -> dict[str, Any]:
    """What the PF shows for a VF in `ip -d -j link`."""
    device = PciDevice(address)
    link = json.loads(sh("ip", "-d", "-j", "link", "show", pf_of(address)))[0]
    found: dict[str, Any] = link["vfinfo_list"][device.vf_index]
    return found


def pf_of(address: str) -> str:
    """The name of the PF's interface."""
    pf = PciDevice(address).physical_function
    assert pf is not None
    return pf.netdevs[0]


@dataclass(frozen=True)
class Netdevsim:
    """A netdevsim device with one port. To the kernel, it is a PF."""

    name: str

    @property
    def path(self) -> Path:
        return Path("/sys/bus/netdevsim/devices") / self.name

    @property
    def debug(self) -> Path:
        """Its debugfs directory, for actions that real hardware would cause."""
        return Path("/sys/kernel/debug/netdevsim") / self.name

    @property
    def handle(self) -> str:
        """Its name for `devlink`."""
        return f"netdevsim/{self.name}"

    @property
    def port(self) -> str:
        """The interface of its port."""
        ports = json.loads(sh("devlink", "-j", "port", "show"))["port"]
        return str(next(port["netdev"] for port in ports.values() if port["flavour"] == "physical"))

    def remove(self) -> None:
        Path("/sys/bus/netdevsim/del_device").write_text(self.name.removeprefix("netdevsim"))


@pytest.fixture
def netdevsim() -> Iterator[Netdevsim]:
    """A new device, removed after the test."""
    sh("modprobe", "netdevsim")
    if not Path("/sys/kernel/debug/netdevsim").exists():
        sh("mount", "-t", "debugfs", "debugfs", "/sys/kernel/debug")
    made = Netdevsim("netdevsim7")
    Path("/sys/bus/netdevsim/new_device").write_text("7 1")
    yield made
    if made.path.exists():
        made.remove()


@contextmanager
def pf_disturbed(pf: str) -> Iterator[None]:
    """For a body that takes the PF down. Afterwards the PF is up, and its VFs accept MACs.

    igb rejects a MAC from a VF that was not reset since then; changing the VF's MTU resets it.
    """
    device = PciDevice(Path(f"/sys/class/net/{pf}/device").resolve().name)
    try:
        yield
    finally:
        sh("ip", "link", "set", pf, "up")
        for _, address in device.virtual_functions():
            for name in PciDevice(address).netdevs:
                for mtu in ("1400", "1500"):
                    sh("ip", "link", "set", name, "mtu", mtu)


@contextmanager
def process_in(netns: str) -> Iterator[None]:
    """Run a process in the namespace."""
    process = subprocess.Popen(
        ["ip", "netns", "exec", Path(netns).name, "sh", "-c", "echo in; read x"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.communicate(b"\n")

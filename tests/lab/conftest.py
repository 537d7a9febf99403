"""Real VFs of the lab's two PFs, an agent on them, and the whole state of a VF before and after."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from wirespeed.host.pci import PciDevice

PFS = ("ens1", "ens2")
VFS_PER_PF = 4
VOLATILE = {"stats", "stats64", "ifindex", "operstate", "flags"}  # counters, numbers and carrier are no settings


@pytest.fixture(scope="session", autouse=True)
def _in_the_lab() -> None:
    if os.environ.get("WIRESPEED_LAB") != "1":
        pytest.fail("these tests need the lab's SR-IOV devices: run `make test-lab`", pytrace=False)


def sh(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def bind(address: str, driver: str) -> None:
    """Bind a device to a driver, as an administrator does."""
    path = Path("/sys/bus/pci/devices") / address
    if (path / "driver").exists():
        (path / "driver/unbind").write_text(address)
    (path / "driver_override").write_text(driver)
    Path("/sys/bus/pci/drivers_probe").write_text(address)
    (path / "driver_override").write_text("\n")
    assert PciDevice(address).driver == driver


@dataclass(frozen=True)
class LabVfs:
    """The VFs of both PFs: those with a netdev, and those on vfio-pci."""

    kernel: list[str] = field(default_factory=list)
    vfio: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def vfs() -> LabVfs:
    """Four VFs of each PF, the last two of each on vfio-pci."""
    found = LabVfs()
    for pf in PFS:
        device = Path(f"/sys/class/net/{pf}/device")
        (device / "sriov_numvfs").write_text(str(VFS_PER_PF))
        addresses = [address for _, address in PciDevice(device.resolve().name).virtual_functions()]
        for address in addresses[2:]:
            bind(address, "vfio-pci")
        found.kernel.extend(addresses[:2])
        found.vfio.extend(addresses[2:])
    return found


def state_of_everything() -> dict[str, Any]:
    """All that `ip -d -j link` and sysfs show of the PFs and VFs, counters left out."""
    shown: dict[str, Any] = {}
    for link in json.loads(sh("ip", "-d", "-j", "link", "show")):
        if link["ifname"] in PFS or link.get("parentbus") == "pci":
            link["is_up"] = "UP" in link["flags"]
            for info in link.get("vfinfo_list", []):
                info.pop("stats", None)
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
    """What is not as it was, one line each: 'ens1 mtu: 1400, was 1500'."""
    told = []
    for name in sorted({*before, *after}):
        old, new = before.get(name, {}), after.get(name, {})
        keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        told += [f"{name} {key}: {new.get(key)}, was {old.get(key)}" for key in keys]
    return told


@pytest.fixture
def unchanged(vfs: LabVfs) -> Iterator[None]:
    """Everything about the PFs and VFs is after the test as it was before."""
    before = state_of_everything()
    yield
    assert differences(before, state_of_everything()) == []


@pytest.fixture
def namespaces() -> Iterator[Callable[[], str]]:
    """Make network namespaces (paths); they are removed after the test."""
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
    """`ip -d -j link` of one interface in a namespace."""
    links = json.loads(in_namespace(path, "ip", "-d", "-j", "link"))
    return next((link for link in links if link["ifname"] == name), None)


@dataclass(frozen=True)
class Answer:
    """What a call of the shim gave: exit code and the JSON on standard output."""

    code: int
    body: dict[str, Any]


@dataclass(frozen=True)
class Runtime:
    """Calls the suite as a container runtime does: through the shim binary."""

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
    ) -> Answer:
        done = subprocess.run(
            [self.folder / binary],
            input=json.dumps(conf).encode(),
            env={
                "CNI_COMMAND": verb,
                "CNI_CONTAINERID": container,
                "CNI_NETNS": netns,
                "CNI_IFNAME": ifname,
                "CNI_PATH": "/usr/lib/cni",
                "CNI_ARGS": args,
                "WIRESPEED_SOCKET": str(self.folder / "agent.sock"),
            },
            capture_output=True,
            check=False,
            timeout=120,
        )
        return Answer(done.returncode, json.loads(done.stdout) if done.stdout.strip() else {})

    def add(self, container: str, conf: dict[str, Any], netns: str, **more: str) -> Answer:
        return self.call("ADD", container, conf, netns=netns, **more)

    def delete(self, container: str, conf: dict[str, Any], netns: str = "", **more: str) -> Answer:
        return self.call("DEL", container, conf, netns=netns, **more)


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    """The shim under its names, and a configuration for agents that serve it."""
    folder = tmp_path_factory.mktemp("wirespeed")
    for name in ("wirespeed", "wirespeed-sriov"):
        (folder / name).symlink_to(Path(__file__).parents[2] / "build/wirespeed-cni")
    config = {
        "socket": str(folder / "agent.sock"),
        "state": str(folder / "state.db"),
        "leases": str(folder / "leases"),
        "devinfo": str(folder / "devinfo"),
        "kubelet": str(folder / "kubelet"),
        "cluster": {"manifests": str(folder / "manifests")},
    }
    (folder / "manifests").mkdir()
    (folder / "agent.json").write_text(json.dumps(config))
    return Runtime(folder)


@pytest.fixture(scope="module")
def agent(runtime: Runtime) -> Iterator[Runtime]:
    """An agent that serves the runtime's calls."""
    process = subprocess.Popen([sys.executable, "-m", "cli", "agent", "--config", runtime.config])
    try:
        yield runtime  # the shim waits until the agent listens
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0


def conf(device: str, **keys: Any) -> dict[str, Any]:
    """A configuration of the SR-IOV plugin."""
    return {"cniVersion": "1.1.0", "name": "data", "type": "wirespeed-sriov", "deviceID": device} | keys


def host_local(third: int = 0) -> dict[str, Any]:
    return {"type": "host-local", "subnet": f"10.8.{third}.0/24"}

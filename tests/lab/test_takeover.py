"""VFs that sriov-cni attached: taken over from its files, checked, and restored to the state recorded there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import sriovfiles
from tests.lab.conftest import LabVfs, Runtime, in_namespace, link_in, sh, vf_of
from wirespeed.devices.pci import PciDevice

pytestmark = pytest.mark.usefixtures("unchanged")

MAC = "02:00:00:00:00:cc"
SHIM = Path(__file__).parents[2] / "build/wirespeed-cni"
ASKED: dict[str, Any] = {"vlan": 100, "vlanQoS": 3, "vlanProto": "802.1q", "spoofchk": "off", "trust": "on"}
Namespaces = Callable[[], str]


@contextmanager
def serving(runtime: Runtime) -> Iterator[None]:
    """Run an agent for the runtime's calls during the body."""
    process = subprocess.Popen([sys.executable, "-m", "wirespeed", "agent", "--config", runtime.config])
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0


def attached_by_sriov_cni(runtime: Runtime, container: str, device: str, netns: str) -> dict[str, Any]:
    """Attach the VF to a pod and write files as sriov-cni does. Return the configuration that it got."""
    pf = PciDevice(device).physical_function
    assert pf is not None
    vf, names = ("dev", pf.netdevs[0], "vf", str(PciDevice(device).vf_index)), PciDevice(device).netdevs
    shown = vf_of(device)
    original = {"SpoofChk": shown["spoofchk"], "Trust": shown["trust"], "AdminMAC": shown["address"]}
    if names:
        link = json.loads(sh("ip", "-j", "link", "show", names[0]))[0]
        original |= {"HostIFName": names[0], "EffectiveMAC": link["address"], "MTU": link["mtu"]}
    else:
        original |= {"HostIFName": "", "EffectiveMAC": "", "MTU": 0}
    for setting in (("vlan", "100", "qos", "3"), ("mac", MAC), ("spoofchk", "off"), ("trust", "on")):
        sh("ip", "link", "set", *vf, *setting)
    if names:
        sh("ip", "link", "set", names[0], "netns", Path(netns).name, "name", "net1")
        in_namespace(netns, "ip", "link", "set", "net1", "address", MAC, "up")
    value = sriovfiles.kept(device, original=original, **ASKED, MAC=MAC)
    sriovfiles.write(runtime.folder / "sriov", container, "net1", netns, value)
    return {"cniVersion": "1.0.0", "name": "fast", "type": "sriov", "deviceID": device, "mac": MAC, **ASKED}


def install(runtime: Runtime) -> None:
    places = {
        "--shim": SHIM,
        "--bin-dir": runtime.folder / "bin",
        "--config": runtime.config,
        "--cni-config-dir": runtime.folder / "net.d",
        "--sriov-dir": runtime.folder / "sriov",
    }
    options = [str(part) for option in places.items() for part in option]
    sh(sys.executable, "-m", "wirespeed", "install", "--replace", "sriov-cni", *options)


def test_vf_in_a_pod_is_checked_and_comes_back(runtime: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    netns, device = namespaces(), vfs.kernel[0]
    asked = attached_by_sriov_cni(runtime, "kernel", device, netns)
    install(runtime)
    with serving(runtime):
        assert runtime.call("CHECK", "kernel", asked, netns=netns, binary="bin/sriov").code == 0
        in_namespace(netns, "ip", "link", "set", "net1", "mtu", "1400")  # changed by the application
        assert runtime.delete("kernel", asked, netns, binary="bin/sriov").code == 0
    assert link_in(netns, "net1") is None
    assert [path for path in (runtime.folder / "sriov").rglob("*") if path.is_file()] == []


def test_change_of_the_vf_since_is_found_by_check(runtime: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    netns, device = namespaces(), vfs.kernel[1]
    asked = attached_by_sriov_cni(runtime, "drift", device, netns)
    install(runtime)
    pf = PciDevice(device).physical_function
    assert pf is not None
    sh("ip", "link", "set", "dev", pf.netdevs[0], "vf", str(PciDevice(device).vf_index), "vlan", "7")
    with serving(runtime):
        answer = runtime.call("CHECK", "drift", asked, netns=netns, binary="bin/sriov")
        assert "vlan is 7, expected 100" in answer.body["msg"]
        assert runtime.delete("drift", asked, netns, binary="bin/sriov").code == 0


def test_vf_whose_namespace_is_gone_comes_back(runtime: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    netns, device = namespaces(), vfs.kernel[2]
    asked = attached_by_sriov_cni(runtime, "gone", device, netns)
    install(runtime)
    with serving(runtime):
        sh("ip", "netns", "del", Path(netns).name)
        assert runtime.delete("gone", asked, netns, binary="bin/sriov").code == 0


def test_vf_on_vfio_comes_back(runtime: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    netns, device = namespaces(), vfs.vfio[0]
    asked = attached_by_sriov_cni(runtime, "vfio", device, netns)
    install(runtime)
    with serving(runtime):
        assert runtime.call("CHECK", "vfio", asked, netns=netns, binary="bin/sriov").code == 0
        for _ in range(2):  # with sriov-cni itself the first DEL fails
            assert runtime.delete("vfio", asked, netns, binary="bin/sriov").code == 0

"""vdpa devices of the kernel's simulator, moved into pods and allocated, as if they belonged to a real VF.

The simulator's devices have no parent device. So the agent gets a sysfs in which everything is the kernel's, except
the links that make the VF their parent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import (
    LabVfs,
    Runtime,
    conf,
    host_local,
    in_namespace,
    link_in,
    make_runtime,
    pf_of,
    serving,
    sh,
    vf_of,
)
from wirespeed.cni.errors import Code
from wirespeed.devices.pci import PciDevice
from wirespeed.kernel.netlink.wait import wait_for

pytestmark = pytest.mark.usefixtures("unchanged")

NAME = "vdpa-lab"
MAC = "02:00:00:00:00:aa"
Namespaces = Callable[[], str]


@dataclass(frozen=True)
class Vdpa:
    """A vdpa device that appears to belong to `vf`, and an agent that sees it like this."""

    vf: str
    runtime: Runtime

    def bind(self, driver: str) -> None:
        for old in ("virtio_vdpa", "vhost_vdpa"):
            if Path(f"/sys/bus/vdpa/drivers/{old}/{NAME}").exists():
                Path(f"/sys/bus/vdpa/drivers/{old}/unbind").write_text(NAME)
        Path(f"/sys/bus/vdpa/drivers/{driver}/bind").write_text(NAME)

    @property
    def virtio(self) -> Path:
        (found,) = Path(f"/sys/bus/vdpa/devices/{NAME}").glob("virtio*")
        return found

    @property
    def interface(self) -> str:
        """Its interface on the host; waits for it to appear."""

        def look(_: object) -> str | None:
            return next((path.name for path in self.virtio.glob("net/*")), None)

        found = wait_for(look, 10)
        assert found is not None
        return found

    def state(self) -> dict[str, Any]:
        """What `ip -d -j link` shows for its interface on the host."""
        (shown,) = json.loads(sh("ip", "-d", "-j", "link", "show", self.interface))
        return {key: value for key, value in shown.items() if key not in {"ifindex", "operstate"}}


@pytest.fixture(scope="module")
def serving_agent(vfs: LabVfs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vdpa]:
    for module in ("virtio_net", "virtio_vdpa", "vhost_vdpa", "vdpa_sim_net"):
        sh("modprobe", module)
    sysfs, vf = tmp_path_factory.mktemp("sysfs"), vfs.kernel[0]
    for kernels in ("bus/pci", "bus/virtio", "class"):
        (sysfs / kernels).parent.mkdir(exist_ok=True)
        (sysfs / kernels).symlink_to(f"/sys/{kernels}")
    (sysfs / "bus/vdpa/devices").mkdir(parents=True)
    (sysfs / "devices" / vf).mkdir(parents=True)
    (sysfs / "devices" / vf / NAME).symlink_to(f"/sys/bus/vdpa/devices/{NAME}")
    (sysfs / "bus/vdpa/devices" / NAME).symlink_to(f"../../../devices/{vf}/{NAME}")
    with serving(make_runtime(tmp_path_factory.mktemp("wirespeed"), sysfs=str(sysfs))) as runtime:
        yield Vdpa(vf, runtime)


@pytest.fixture
def vdpa(serving_agent: Vdpa) -> Iterator[Vdpa]:
    sh("vdpa", "dev", "add", "name", NAME, "mgmtdev", "vdpasim_net", "mac", "02:00:00:00:00:77")
    try:
        yield serving_agent
    finally:
        sh("vdpa", "dev", "del", NAME)


def test_the_interface_of_a_vdpa_device_goes_into_a_pod_and_back(vdpa: Vdpa, namespaces: Namespaces) -> None:
    vdpa.bind("virtio_vdpa")
    netns, before = namespaces(), vdpa.state()
    own = PciDevice(vdpa.vf).netdevs
    info = vdpa.runtime.folder / "devinfo/cni/virtio"
    asked = conf(
        vdpa.vf, vlan=5, mac=MAC, mtu=1400, ipam=host_local(), runtimeConfig={"CNIDeviceInfoFile": str(info)}
    )
    added = vdpa.runtime.add("virtio", asked, netns)
    assert added.code == 0, added.body
    assert added.body["interfaces"] == [
        {"name": "net1", "sandbox": netns, "mac": MAC, "mtu": 1400, "pciID": vdpa.vf}
    ]
    link = link_in(netns, "net1")
    assert link is not None
    assert (link["parentdev"], link["address"], link["mtu"]) == (vdpa.virtio.name, MAC, 1400)
    assert "UP" in link["flags"]
    assert PciDevice(vdpa.vf).netdevs == own  # the VF's own interface stays where it is
    assert vf_of(vdpa.vf)["vlan_list"][0]["vlan"] == 5
    assert json.loads(info.read_text())["vdpa"] == {
        "parent-device": NAME,
        "driver": "virtio",
        "pci-address": vdpa.vf,
        "pf-pci-address": Path(f"/sys/class/net/{pf_of(vdpa.vf)}/device").resolve().name,
    }
    assert vdpa.runtime.call("CHECK", "virtio", asked | {"prevResult": added.body}, netns=netns).code == 0
    in_namespace(netns, "ip", "link", "set", "net1", "mtu", "1300")
    drifted = vdpa.runtime.call("CHECK", "virtio", asked | {"prevResult": added.body}, netns=netns)
    assert drifted.body["code"] == Code.DRIFT
    assert "mtu of net1 is 1300, expected 1400" in drifted.body["msg"]
    for _ in range(2):
        assert vdpa.runtime.delete("virtio", asked, netns).code == 0
    assert vdpa.state() == before
    assert not info.exists()


def test_the_interface_of_a_vdpa_device_is_waited_for_when_its_pod_is_gone(
    vdpa: Vdpa, namespaces: Namespaces
) -> None:
    vdpa.bind("virtio_vdpa")
    netns, before = namespaces(), vdpa.state()
    asked = conf(vdpa.vf, vlan=5, mac=MAC)
    assert vdpa.runtime.add("gone", asked, netns).code == 0
    sh("ip", "netns", "del", Path(netns).name)
    assert vdpa.runtime.delete("gone", asked, netns).code == 0
    assert vdpa.state() == before


def test_gc_brings_the_interface_of_a_vdpa_device_back(vdpa: Vdpa, namespaces: Namespaces) -> None:
    vdpa.bind("virtio_vdpa")
    netns, before = namespaces(), vdpa.state()
    assert vdpa.runtime.add("lost", conf(vdpa.vf, mac=MAC), netns).code == 0
    assert vdpa.runtime.call("GC", "", conf(vdpa.vf) | {"cni.dev/valid-attachments": []}, ifname="").code == 0
    assert vdpa.state() == before


def test_a_vdpa_device_that_was_unbound_while_a_pod_had_it_keeps_nobody(vdpa: Vdpa, namespaces: Namespaces) -> None:
    vdpa.bind("virtio_vdpa")
    netns = namespaces()
    assert vdpa.runtime.add("unbound", conf(vdpa.vf, vlan=5), netns).code == 0
    Path("/sys/bus/vdpa/drivers/virtio_vdpa/unbind").write_text(NAME)
    drifted = vdpa.runtime.call("CHECK", "unbound", conf(vdpa.vf, vlan=5), netns=netns)
    assert f"its vdpa device {NAME} is no longer on virtio_vdpa" in drifted.body["msg"]
    assert vdpa.runtime.delete("unbound", conf(vdpa.vf), netns).code == 0


def test_a_vdpa_device_on_vhost_vdpa_is_given_by_its_node(vdpa: Vdpa, namespaces: Namespaces) -> None:
    vdpa.bind("vhost_vdpa")
    netns = namespaces()
    info = vdpa.runtime.folder / "devinfo/cni/vhost"
    asked = conf(vdpa.vf, vlan=5, ipam=host_local(), runtimeConfig={"CNIDeviceInfoFile": str(info)})
    refused = vdpa.runtime.add("vhost", asked | {"mtu": 1400}, netns)
    assert 'key "mtu"' in refused.body["msg"]
    added = vdpa.runtime.add("vhost", asked, netns)
    assert added.code == 0, added.body
    assert added.body["ips"][0]["address"].startswith("10.8.0.")
    assert link_in(netns, "net1") is None
    assert vf_of(vdpa.vf)["vlan_list"][0]["vlan"] == 5
    told = json.loads(info.read_text())["vdpa"]
    assert (told["driver"], told["parent-device"]) == ("vhost", NAME)
    assert Path(told["path"]).is_char_device()
    assert vdpa.runtime.call("CHECK", "vhost", asked, netns=netns).code == 0
    assert vdpa.runtime.delete("vhost", asked, netns).code == 0

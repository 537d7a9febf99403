"""A PF and its VFs as in `wirespeed.provision.facts`. Tests replace the fields that they need."""

from __future__ import annotations

from tests.fakesysfs import vf_address
from wirespeed.devices.pci import PciDevice
from wirespeed.devices.snapshot import Snapshot
from wirespeed.kernel.netlink.vf import VfSettings
from wirespeed.provision.facts import Pf, VfFacts

ADDRESS = "0000:18:00.0"


def vf(driver: str, index: int = 0) -> VfFacts:
    """A VF of the PF."""
    state = Snapshot(pf=ADDRESS, index=index, driver=driver, settings=VfSettings())
    return VfFacts(device=PciDevice(vf_address(ADDRESS, index)), state=state)


PF = Pf(
    address=ADDRESS,
    name="ens1f0",
    altnames=(),
    driver="ice",
    vendor="8086",
    device="1592",
    model="",
    numa_node=0,
    total_vfs=64,
    mtu=1500,
    up=True,
    link_type="ether",
    eswitch="legacy",
)

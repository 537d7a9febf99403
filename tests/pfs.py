"""A PF and one of its VFs as in `wirespeed.provision.facts`. Tests replace the fields that they need."""

from __future__ import annotations

from tests.fakesysfs import vf_address
from wirespeed.provision.facts import Pf, Vf

ADDRESS = "0000:18:00.0"
VF = Vf(
    address=vf_address(ADDRESS, 0),
    index=0,
    driver="iavf",
    netdev="ens1f0v0",
    mac="",
    mtu=1500,
    numa_node=0,
    iommu_group="0",
)
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

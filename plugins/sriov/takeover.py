"""Claims of VFs that another plugin attached (`wirespeed.takeover` reads what it keeps of them)."""

from __future__ import annotations

from wirespeed.cni.errors import CniError, Code
from wirespeed.devices import snapshot
from wirespeed.devices.pci import PciDevice
from wirespeed.devices.vf import Vf
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.vf import VfSettings
from wirespeed.kernel.netns import Identity, NetNs
from wirespeed.plugins.sriov.conf import SriovConf
from wirespeed.plugins.sriov.record import PLUGIN, SriovRecord, Wanted
from wirespeed.state.journal import ClaimStep, DeviceClaim


def current_state(device: PciDevice, ns: NetNs | None) -> Vf:
    """Read the current state of the VF; its netdev is in the pod's namespace or on the host.

    Raises NetlinkError, and CniError: DEVICE if the device is not a VF or its PF reports no VFs, TRY_AGAIN_LATER if
    the PF reports others but not this one.
    """
    pf = device.physical_function
    if pf is None:
        raise CniError(Code.DEVICE, f"device {device.address}: expected an SR-IOV virtual function, it is none")
    with Rtnl() as host:
        index, link = device.vf_index, host.link_of_device(device.address)
        seen = host.link(name, vfs=True) if (name := pf.own_netdev) else None
        if seen is None or not seen.vfs:
            raise CniError(Code.DEVICE, f"device {device.address}: PF {pf.address} tells of none of its VFs")
    if link is None and ns is not None:
        with Rtnl(netns_fd=ns.fd) as inside:
            link = inside.link_of_device(device.address)
    return Vf(device=device, pf=pf, index=index, driver=device.driver, settings=seen.vf(index), link=link)


def claim(
    container: str,
    ifname: str,
    *,
    network: str,
    before: Vf,
    wanted: SriovConf | None,
    netns: str,
    identity: Identity,
) -> DeviceClaim:
    """Return the claim of an attached VF in the network namespace `netns`; DEL will restore the state `before`.

    CHECK compares the VF with `wanted`, or nothing if it is None.
    """
    settings = VfSettings() if wanted is None else wanted.settings
    return DeviceClaim(
        device=before.device.address,
        plugin=PLUGIN,
        container=container,
        ifname=ifname,
        netns=netns,
        identity=identity,
        step=ClaimStep.ATTACHED,
        record=SriovRecord(
            network=network,
            before=snapshot.take(before),
            wanted=Wanted(settings=settings, mac=wanted.mac if wanted else None),
        ).to_json(),
    )

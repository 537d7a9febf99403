"""Claims of VFs that another plugin attached (`wirespeed.takeover` reads that plugin's files)."""

from __future__ import annotations

from dataclasses import replace

from wirespeed.devices import snapshot
from wirespeed.devices.functions import pf_of
from wirespeed.devices.pci import PciDevice
from wirespeed.devices.vf import Vf, read_without_netdev
from wirespeed.errors import Error, Kind, Thing
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.vf import VfSettings
from wirespeed.kernel.netns import Identity, NetNs
from wirespeed.plugins.sriov.conf import SriovConf, Wanted
from wirespeed.plugins.sriov.record import PLUGIN, SriovRecord
from wirespeed.state.journal import ClaimStep, DeviceClaim


def current_state(device: PciDevice, ns: NetNs | None) -> Vf:
    """Read the current state of the VF; its netdev is in the pod's namespace or on the host.

    Raises NetlinkError, and Error: DEVICE if the device is not a VF or its PF reports no VFs, TRY_AGAIN if the
    PF reports others but not this one.
    """
    pf = pf_of(device)
    with Rtnl() as host:
        vf, link = read_without_netdev(host, device, pf), host.link_of_device(device.address)
    if vf.pf_fault:
        what = f"PF {pf.address} reports none of its VFs"
        raise Error(Kind.DEVICE, what, where=Thing("device", device.address))
    if link is None and ns is not None:
        with Rtnl(netns_fd=ns.fd) as inside:
            link = inside.link_of_device(device.address)
    return replace(vf, link=link)


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
            wanted=Wanted(settings=wanted.settings, mac=wanted.mac) if wanted else Wanted(settings=VfSettings()),
        ).to_json(),
    )

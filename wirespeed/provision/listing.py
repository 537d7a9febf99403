"""PFs and VFs as `wirespeed vf list` shows them, in text and in JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from wirespeed import structs
from wirespeed.kernel.netlink.vf import LINK_STATES, VLAN_PROTOCOLS, VfSettings

if TYPE_CHECKING:
    from wirespeed.provision.facts import Pf, VfFacts

_PROTOCOLS = {number: name for name, number in VLAN_PROTOCOLS.items()}
_STATES = {number: name for name, number in LINK_STATES.items()}


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The settings of a VF in the PF's driver; None for those that it does not report.

    `vlan` is 0 without a VLAN, `vlan_protocol` "802.1q" or "802.1ad" (QinQ). Rates are in Mbit/s, 0 for no limit.
    `link_state` is "auto", "enable" or "disable". GUIDs are those of InfiniBand.
    """

    mac: str | None = None
    vlan: int | None = None
    vlan_priority: int | None = None
    vlan_protocol: str | None = None
    min_rate: int | None = None
    max_rate: int | None = None
    spoofchk: bool | None = None
    trust: bool | None = None
    link_state: str | None = None
    node_guid: str | None = None
    port_guid: str | None = None


@structs.prepared
class ListedVf(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A VF. `netdev`, `mac`, `mtu` (bytes) and `up` are its interface's on the host, "" and 0 without one.

    `driver_override` is the driver that an administrator reserved it for, `vdpa_type` "virtio", "vhost" or "none"
    (no driver) of its vdpa device. `user` is who uses it, "" for nobody. `numa_node` is -1 if there is none.
    """

    address: str
    index: int
    driver: str
    netdev: str
    mac: str
    mtu: int
    numa_node: int
    iommu_group: str
    up: bool
    driver_override: str
    in_user_space: bool
    settings: Settings
    vdpa: str
    vdpa_type: str
    user: str


@structs.prepared
class ListedPf(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A PF with its VFs. `altnames` are the alternative names of its interface, `model` is the card's name."""

    address: str
    name: str
    altnames: tuple[str, ...]
    driver: str
    vendor: str
    device: str
    model: str
    numa_node: int
    total_vfs: int
    mtu: int
    up: bool
    link_type: str
    eswitch: str
    vfs: tuple[ListedVf, ...]


def listed(pf: Pf) -> ListedPf:
    """Return what is shown of a PF and its VFs."""
    return ListedPf(**{**vars(pf), "vfs": tuple(map(_listed_vf, pf.vfs))})


def _listed_vf(vf: VfFacts) -> ListedVf:
    device, state, link = vf.device, vf.state, vf.state.link
    return ListedVf(
        address=device.address,
        index=state.index,
        driver=state.driver,
        netdev=link.name if link else "",
        mac=(link.mac or "") if link else "",
        mtu=(link.mtu or 0) if link else 0,
        numa_node=device.numa_node,
        iommu_group=device.iommu_group,
        up=link.up if link else False,
        driver_override=vf.driver_override,
        in_user_space=device.is_in_user_space,
        settings=shown_settings(state.settings),
        vdpa=vf.vdpa.name if vf.vdpa else "",
        vdpa_type=vf.vdpa_type,
        user=vf.user,
    )


def shown_settings(reported: VfSettings) -> Settings:
    """Return the settings of a VF with names for the kernel's numbers."""
    return Settings(
        mac=reported.mac,
        vlan=reported.vlan,
        vlan_priority=reported.vlan_qos,
        vlan_protocol=None if reported.vlan_proto is None else _PROTOCOLS.get(reported.vlan_proto),
        min_rate=reported.min_tx_rate,
        max_rate=reported.max_tx_rate,
        spoofchk=reported.spoofchk,
        trust=reported.trust,
        link_state=None if reported.link_state is None else _STATES.get(reported.link_state),
        node_guid=reported.node_guid,
        port_guid=reported.port_guid,
    )

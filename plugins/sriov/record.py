"""The record of an attached function in the journal: its state before ADD, and what ADD changes."""

from __future__ import annotations

import msgspec

from wirespeed import structs
from wirespeed.devices.snapshot import Snapshot
from wirespeed.plugins.sriov.conf import Wanted
from wirespeed.plugins.sriov.representor import RepresentorState
from wirespeed.state import claims
from wirespeed.state.journal import DeviceClaim

PLUGIN = "sriov"


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """The representor's port: its bridge, its VLAN (None: untagged), and the representor's state before ADD."""

    bridge: str
    vlan: int | None = None
    before: RepresentorState


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """The driver that ADD bound, and whether the function has a netdev on it."""

    driver: str
    netdev: bool


@structs.prepared
class SriovRecord(claims.Record, frozen=True, kw_only=True):
    """The record of a claim.

    `override` is the original driver_override if ADD changed the driver, None if the function keeps its driver.
    `given` is set once the driver is bound. `rdma` is the index of each RDMA device that was moved into the pod, by
    name. `reset` is as in `wirespeed.devices.restore`. `pod` is "namespace/name", "" if the call named none.
    """

    before: Snapshot
    wanted: Wanted
    device_info: str = msgspec.field(name="deviceInfo", default="")
    port: Port | None = None
    reset: bool | None = False
    rdma: dict[str, int] = msgspec.field(default_factory=dict)
    override: str | None = None
    given: Given | None = None
    pod: str = ""

    @property
    def driver(self) -> str:
        """The driver that the function has in the pod."""
        return self.before.driver if self.given is None else self.given.driver

    @property
    def has_netdev(self) -> bool:
        """Whether the pod gets a netdev."""
        return self.before.link is not None if self.given is None else self.given.netdev


def record_of(claim: DeviceClaim) -> SriovRecord:
    """Return the record of a claim. Raises Error(INVALID_DATA)."""
    return claims.read(claim, SriovRecord)


def netdev_parent(claim: DeviceClaim) -> str:
    """Return the bus address of the parent device of a claimed function's netdev."""
    link = record_of(claim).before.link
    return claim.device if link is None else link.parent

"""What the journal has of a function that a pod got: its state before ADD, and what ADD changes."""

from __future__ import annotations

import msgspec

from wirespeed import structs
from wirespeed.devices.snapshot import Snapshot
from wirespeed.kernel.netlink.vf import VfSettings
from wirespeed.plugins.sriov.representor import RepresentorState
from wirespeed.plugins.sriov.rss import Rss
from wirespeed.state import claims
from wirespeed.state.journal import DeviceClaim

PLUGIN = "sriov"


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """The port of the function's representor: its bridge, its VLAN (None: untagged), the representor before ADD."""

    bridge: str
    vlan: int | None = None
    before: RepresentorState


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration asked for: settings on the PF, and properties of the netdev (None: not asked for)."""

    settings: VfSettings
    mac: str | None = None
    mtu: int | None = None
    promisc: bool | None = None
    allmulti: bool | None = None
    queues: int | None = None
    rss: Rss | None = None

    @property
    def address(self) -> str:
        """The GUID or MAC that was asked for, "" for none."""
        return self.settings.port_guid or self.mac or ""


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
    """Return the record of a claim. Raises CniError(DECODING_FAILURE)."""
    return claims.read(claim, SriovRecord)

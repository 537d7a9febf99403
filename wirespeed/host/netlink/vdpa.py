"""vdpa netlink: creating and deleting vdpa devices (linux/vdpa.h)."""

from __future__ import annotations

from wirespeed.host.netlink.codec import text, u16
from wirespeed.host.netlink.generic import GenericSocket

_CMD_DEV_NEW, _CMD_DEV_DEL = 3, 4
_ATTR_MGMTDEV_BUS_NAME, _ATTR_MGMTDEV_DEV_NAME, _ATTR_DEV_NAME, _ATTR_DEV_NET_CFG_MAX_VQP = 1, 2, 4, 12


class Vdpa(GenericSocket):
    """A vdpa socket; raises NetlinkError as GenericSocket does."""

    def __init__(self) -> None:
        super().__init__("vdpa")

    def create(self, name: str, bus: str, management_device: str, *, queue_pairs: int = 0) -> None:
        """Create a device; `bus` is "" for a management device without one, 0 `queue_pairs` are its default."""
        packed = text(_ATTR_MGMTDEV_BUS_NAME, bus) if bus else b""
        packed += text(_ATTR_MGMTDEV_DEV_NAME, management_device) + text(_ATTR_DEV_NAME, name)
        packed += u16(_ATTR_DEV_NET_CFG_MAX_VQP, queue_pairs) if queue_pairs else b""
        self.do_command(_CMD_DEV_NEW, packed)

    def delete(self, name: str) -> None:
        """Delete a device."""
        self.do_command(_CMD_DEV_DEL, text(_ATTR_DEV_NAME, name))

"""Devices that a selector with needVhostNet took: what virtio-user ports of the kernel are made with."""

from __future__ import annotations

import logging
import os

from wirespeed.deviceplugin.providers.part import Asked, Part, same

log = logging.getLogger(__name__)

_VHOST, _TUN = "/dev/vhost-net", "/dev/net/tun"


def provide(asked: Asked) -> Part | None:
    """Nothing on a node whose kernel has no vhost-net: the devices are of use without it too."""
    if not asked.selectors.need_vhost_net:
        return None
    if not os.path.exists(f"{asked.dev}/vhost-net"):
        log.warning("resource %s: needVhostNet: there is no %s", asked.pool.resource, _VHOST)
        return None
    return Part("vhost", {"net-mount": _VHOST, "tun-mount": _TUN}, (same(_VHOST), same(_TUN)))

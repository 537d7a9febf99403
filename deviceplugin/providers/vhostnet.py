"""Provider for devices of a selector with needVhostNet: the nodes for virtio-user ports to the kernel."""

from __future__ import annotations

import logging
import os

from wirespeed.deviceplugin.providers.part import Asked, Part, same

log = logging.getLogger(__name__)

_VHOST, _TUN = "/dev/vhost-net", "/dev/net/tun"


def provide(asked: Asked) -> Part | None:
    """Return nothing if the kernel has no vhost-net: the devices can be used without it."""
    if not asked.selectors.need_vhost_net:
        return None
    if not os.path.exists(f"{asked.dev}/vhost-net"):
        log.warning("resource %s: needVhostNet: there is no %s", asked.pool.resource, _VHOST)
        return None
    return Part("vhost", {"net-mount": _VHOST, "tun-mount": _TUN}, (same(_VHOST), same(_TUN)))

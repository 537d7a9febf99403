"""ResourceSlices of DRA drivers: those of this node and those without a node, cached after the first use."""

from __future__ import annotations

import threading
import time
from typing import Any

from wirespeed.kube import dra
from wirespeed.kube.api import Api, Timeouts
from wirespeed.kube.watch import WatchCache, list_all, pick

_SLICES = "/apis/resource.k8s.io/v1/resourceslices"
_SYNC_TIMEOUT = 2.0  # seconds to wait for the first lists of the watches before listing the slices directly


class Slices:
    """The slices of any driver; safe from any thread.

    The two watches start with the first call, as most nodes have no DRA driver or no pod with a claim. Without
    `watch`, each call makes requests. Slices of other nodes are not read: a cluster has many of them.
    """

    def __init__(self, api: Api, node_name: str, *, watch: bool) -> None:
        self._api = api
        self._selectors = [f"spec.nodeName={node_name}", "spec.nodeName="] if node_name else [""]
        self._caches = [
            WatchCache(api, _SLICES, {"fieldSelector": selector} if selector else {}, trim_slice)
            for selector in (self._selectors if watch else ())
        ]
        self._lock = threading.Lock()
        self._started = False

    def of(self, driver: str, *, fresh: bool, timeouts: Timeouts) -> list[dict[str, Any]]:
        """Return the driver's slices, trimmed; with `fresh`, list them in the API server even if they are cached.

        `timeouts` applies to each page of a list. Raises RefusedError, UnreachableError.
        """
        if self._caches and not fresh and self._await_sync():
            values = [value for cache in self._caches for value in cache.values()]
            return [value for value in values if value["spec"]["driver"] == driver]
        found: list[dict[str, Any]] = []
        for selector in self._selectors:
            query = {"fieldSelector": ",".join(filter(None, (selector, f"spec.driver={driver}")))}
            found += list_all(self._api, _SLICES, query, trim_slice, timeouts=timeouts)[0]
        return found

    def join(self) -> None:
        """Wait for the end of the watches, after the API is closed."""
        with self._lock:
            started = self._started
        for cache in self._caches if started else ():
            cache.join()

    def _await_sync(self) -> bool:
        """Start the watches, if they do not run yet; return whether they have their first lists."""
        with self._lock:
            if not self._started:
                self._started = True
                for cache in self._caches:
                    cache.start()
        end = time.monotonic() + _SYNC_TIMEOUT
        return all(cache.synced.wait(max(0.0, end - time.monotonic())) for cache in self._caches)


def trim_slice(value: dict[str, Any]) -> dict[str, Any]:
    """Return what is read of a ResourceSlice; of its devices' attributes, only the two for networks."""
    metadata, spec = value["metadata"], value["spec"]
    devices = [
        {"name": device["name"], "attributes": pick(device.get("attributes"), dra.RESOURCE_NAME, dra.DEVICE_ID)}
        for device in spec.get("devices") or ()
    ]
    kept = pick(spec, "driver", "pool", "nodeName")
    return {"metadata": {"name": metadata["name"]}, "spec": {**kept, "devices": devices}}

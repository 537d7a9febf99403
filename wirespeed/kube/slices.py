"""ResourceSlices of DRA drivers: those of this node and those without a node, cached after the first use."""

from __future__ import annotations

import threading
import time
from typing import Any

from wirespeed.kube import dra
from wirespeed.kube.api import Api, Patience
from wirespeed.kube.watch import WatchCache, listed

_SLICES = "/apis/resource.k8s.io/v1/resourceslices"
_FIRST = 2.0  # seconds that a call waits for the first lists of the watches before it lists the slices itself


class Slices:
    """The slices of any driver; safe from any thread.

    The two watches start with the first call, as most nodes have no DRA driver or no pod with a claim. Without
    `watch`, each call makes requests. Slices of other nodes are not read: a cluster has many of them.
    """

    def __init__(self, api: Api, node_name: str, *, watch: bool) -> None:
        self._api = api
        selectors = [f"spec.nodeName={node_name}", "spec.nodeName="] if node_name else [""]
        self._selectors = selectors
        self._caches = [
            WatchCache(api, _SLICES, {"fieldSelector": selector} if selector else {}, trim_slice)
            for selector in (selectors if watch else ())
        ]
        self._lock = threading.Lock()
        self._started = False

    def of(self, driver: str, *, fresh: bool, patience: Patience) -> list[dict[str, Any]]:
        """Return the driver's slices, trimmed; with `fresh`, list them in the API server even if they are cached.

        `patience` applies to each page of a list.

        Raises RefusedError, UnreachableError.
        """
        if self._caches and not fresh and self._synced():
            values = [value for cache in self._caches for value in cache.values()]
            return [value for value in values if value["spec"]["driver"] == driver]
        found: list[dict[str, Any]] = []
        for selector in self._selectors:
            query = {"fieldSelector": ",".join(filter(None, (selector, f"spec.driver={driver}")))}
            found += listed(self._api, _SLICES, query, trim_slice, patience=patience)[0]
        return found

    def join(self) -> None:
        """Wait for the end of the watches, after the API is closed."""
        with self._lock:
            started = self._started
        for cache in self._caches if started else ():
            cache.join()

    def _synced(self) -> bool:
        """Start the watches, if they do not run yet; return whether they have their first lists."""
        with self._lock:
            if not self._started:
                self._started = True
                for cache in self._caches:
                    cache.start()
        end = time.monotonic() + _FIRST
        return all(cache.synced.wait(max(0.0, end - time.monotonic())) for cache in self._caches)


def trim_slice(value: dict[str, Any]) -> dict[str, Any]:
    """Return what is read of a ResourceSlice: its driver, pool and node, and its devices' names and attributes.

    Of the attributes, only the two for networks are kept.
    """
    metadata, spec = value["metadata"], value["spec"]
    kept = {key: spec[key] for key in ("driver", "pool", "nodeName") if key in spec}
    devices = [{"name": device["name"], "attributes": _networks(device)} for device in spec.get("devices") or ()]
    return {"metadata": {"name": metadata["name"]}, "spec": {**kept, "devices": devices}}


def _networks(device: dict[str, Any]) -> dict[str, Any]:
    attributes = device.get("attributes") or {}
    return {key: attributes[key] for key in (dra.RESOURCE_NAME, dra.DEVICE_ID) if key in attributes}

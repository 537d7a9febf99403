"""ResourceSlices of DRA drivers: those of this node and of no node in particular, kept once one is asked for."""

from __future__ import annotations

import threading
import time
from typing import Any

from wirespeed.kube import dra
from wirespeed.kube.api import Api, Patience
from wirespeed.kube.watch import WatchCache, listed

_SLICES = "/apis/resource.k8s.io/v1/resourceslices"
_FIRST = 2.0  # seconds that a pod waits for the first lists of the watches, before it asks itself


class Slices:
    """The slices of any driver; safe from any thread.

    Most nodes have no DRA driver, or no pod with a claim: the two watches begin with the first call. Without
    `watch`, each call asks. A slice of another node is not read: a cluster has many of them.
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
        """The driver's slices, trimmed; `fresh` asks the API server even if they are known.

        `patience` is for each part of a list that is asked for.

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
        """Wait for the end of the watches, once the API is closed."""
        with self._lock:
            started = self._started
        for cache in self._caches if started else ():
            cache.join()

    def _synced(self) -> bool:
        """Whether the watches hold what there is; they begin here."""
        with self._lock:
            if not self._started:
                self._started = True
                for cache in self._caches:
                    cache.start()
        end = time.monotonic() + _FIRST
        return all(cache.synced.wait(max(0.0, end - time.monotonic())) for cache in self._caches)


def trim_slice(value: dict[str, Any]) -> dict[str, Any]:
    """What is read of a ResourceSlice: whose it is, and of each device its name and the attributes of networks."""
    metadata, spec = value["metadata"], value["spec"]
    kept = {key: spec[key] for key in ("driver", "pool", "nodeName") if key in spec}
    devices = [{"name": device["name"], "attributes": _networks(device)} for device in spec.get("devices") or ()]
    return {"metadata": {"name": metadata["name"]}, "spec": {**kept, "devices": devices}}


def _networks(device: dict[str, Any]) -> dict[str, Any]:
    attributes = device.get("attributes") or {}
    return {key: attributes[key] for key in (dra.RESOURCE_NAME, dra.DEVICE_ID) if key in attributes}

"""Whether the primary CNI plugin is ready: it creates a file to indicate that."""

from __future__ import annotations

import os

from wirespeed.errors import Error, Kind


def check(indicator: str) -> None:
    """Raise Error(UNAVAILABLE) if the file `indicator` does not exist; "" means that none is configured.

    If STATUS returns this code, the runtime reports the node as not ready (specification 1.1.0, "STATUS").
    """
    if indicator and not os.path.exists(indicator):
        raise Error(
            Kind.UNAVAILABLE, f"the cluster's own network is not ready: it has not created the file {indicator} yet"
        )

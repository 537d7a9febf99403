"""Whether the primary CNI plugin is ready: it creates a file to indicate that."""

from __future__ import annotations

import os

from wirespeed.cni.errors import CniError, Code


def check(indicator: str) -> None:
    """Raise CniError(UNAVAILABLE) if the file `indicator` does not exist; "" means that there is none to wait for.

    With this code, STATUS keeps pods from the node (specification 1.1.0, "STATUS").
    """
    if indicator and not os.path.exists(indicator):
        raise CniError(
            Code.UNAVAILABLE, f"the cluster's own network is not ready: it has not made the file {indicator} yet"
        )

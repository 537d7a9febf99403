"""Whether the cluster's own network is ready: it says so by a file that its plugin makes."""

from __future__ import annotations

import os

from wirespeed.cni.errors import CniError, Code


def check(indicator: str) -> None:
    """Refuse while the file `indicator` is not there; "" is none to wait for.

    Raises CniError(UNAVAILABLE) at once, the code by which STATUS keeps pods from the node (specification
    1.1.0, "STATUS").
    """
    if indicator and not os.path.exists(indicator):
        raise CniError(
            Code.UNAVAILABLE, f"the cluster's own network is not ready: it has not made the file {indicator} yet"
        )

"""The extras of pyproject.toml: Python packages that not every node needs, and the error when one is missing."""

from __future__ import annotations

from importlib.util import find_spec

from wirespeed.errors import Error, Kind

# The modules of each extra's packages.
MODULES = {
    "metrics": ("prometheus_client",),
    "ovs": ("ovs",),
    "play": ("rich",),
    "provision": ("pyroute2", "pyudev", "rich"),
    "vpp": ("vpp_papi",),
}


class MissingExtraError(Error):
    """Packages of an extra are missing."""


def need(extra: str, user: str) -> None:
    """Raise MissingExtraError (kind UNAVAILABLE) if packages of the extra are missing; `user` names what needs it.

    Imports nothing. Call it before the first change, and before importing a module that imports the packages.
    """
    missing = [name for name in MODULES[extra] if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            Kind.UNAVAILABLE,
            f"{user} needs Python packages that are not installed ({', '.join(missing)})",
            expected=f"the extra {extra}: pip install 'wirespeed[{extra}]'",
        )

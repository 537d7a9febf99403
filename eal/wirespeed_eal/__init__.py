"""For a DPDK application in a pod: its interfaces, and the arguments of its EAL. Needs Python alone.

    import wirespeed_eal as eal
    eal.interfaces()  # what the pod's interfaces are: VFs, vhost-user and memif sockets
    eal.remove_stale(eal.interfaces())  # sockets that a killed application has left
    eal.arguments()   # ["-l", "2,3", "-m", "1024", ..., "-a", "0000:03:02.0"]

The folder c is the same for C, and `wirespeed eal` prints it. The package wirespeed contains these modules too, as
wirespeed.eal.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .args import EalError, arguments
    from .pod import Interface, Sources, interfaces, remove_stale
    from .resources import cpus, hugepages

__all__ = ["EalError", "Interface", "Sources", "arguments", "cpus", "hugepages", "interfaces", "remove_stale"]

_MODULES = {
    **dict.fromkeys(("EalError", "arguments"), "args"),
    **dict.fromkeys(("Interface", "Sources", "interfaces", "remove_stale"), "pod"),
    **dict.fromkeys(("cpus", "hugepages"), "resources"),
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import a name's module at its first use: a readiness probe, which needs none of them, stays fast."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module  # noqa: PLC0415

        globals()[name] = value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        return value

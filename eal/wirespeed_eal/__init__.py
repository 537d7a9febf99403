"""For a DPDK application in a pod: its interfaces, and its EAL arguments. Needs only Python's standard library.

    import wirespeed_eal as eal
    eal.interfaces()  # the pod's VFs, vhost-user and memif sockets
    eal.remove_stale(eal.interfaces())  # remove sockets left by a killed application
    eal.arguments()   # ["-l", "2,3", "-m", "1024", ..., "-a", "0000:03:02.0"]

wirespeed_eal/c is the same in C; `wirespeed eal` prints the arguments. In the package wirespeed, these modules
are wirespeed.eal.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .args import EalError, arguments
    from .pod import Interface, Sources, interfaces, remove_stale
    from .resources import cpus, hugepages
else:

    def __getattr__(name: str) -> object:
        """Import the modules when a name is first used: a readiness probe, which needs none of them, stays fast."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import args, pod, resources  # noqa: PLC0415

        return next(getattr(module, name) for module in (args, pod, resources) if hasattr(module, name))


__all__ = ["EalError", "Interface", "Sources", "arguments", "cpus", "hugepages", "interfaces", "remove_stale"]

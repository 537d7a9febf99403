"""For a DPDK application in a pod: its interfaces, and its EAL arguments. Needs only Python's standard library.

    from wirespeed import eal
    eal.interfaces()  # the pod's VFs, vhost-user and memif sockets
    eal.remove_stale(eal.interfaces())  # remove sockets left by a killed application
    eal.arguments()   # ["-l", "2,3", "-m", "1024", ..., "-a", "0000:03:02.0"]

wirespeed/eal/c is the same in C; `wirespeed eal` prints the arguments.
"""

from wirespeed.eal.args import EalError, arguments
from wirespeed.eal.pod import Interface, Sources, interfaces, remove_stale
from wirespeed.eal.resources import cpus, hugepages

__all__ = ["EalError", "Interface", "Sources", "arguments", "cpus", "hugepages", "interfaces", "remove_stale"]

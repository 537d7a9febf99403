"""For a DPDK application in a pod: its interfaces, and the arguments of its EAL. Needs Python alone.

    from wirespeed import eal
    eal.interfaces()  # what the pod's interfaces are: VFs, vhost-user and memif sockets
    eal.remove_stale(eal.interfaces())  # sockets that a killed application has left
    eal.arguments()   # ["-l", "2,3", "-m", "1024", ..., "-a", "0000:03:02.0"]

wirespeed/eal/c is the same for C, and `wirespeed eal` prints it.
"""

from wirespeed.eal.args import EalError, arguments
from wirespeed.eal.pod import Interface, Sources, interfaces, remove_stale
from wirespeed.eal.resources import cpus, hugepages

__all__ = ["EalError", "Interface", "Sources", "arguments", "cpus", "hugepages", "interfaces", "remove_stale"]

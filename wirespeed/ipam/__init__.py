"""IPAM: addresses for an attachment. host-local and static run in this process, other IPAM plugins are executed."""

from wirespeed.ipam.ipam import Ipam, check_usable

__all__ = ["Ipam", "check_usable"]

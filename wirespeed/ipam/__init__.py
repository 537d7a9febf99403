"""Addresses for an attachment: host-local and static in process, any other IPAM plugin executed."""

from wirespeed.ipam.ipam import Ipam, check_usable

__all__ = ["Ipam", "check_usable"]

"""Addresses for an attachment: host-local and static in process, any other IPAM plugin executed."""

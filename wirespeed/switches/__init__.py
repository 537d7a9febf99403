"""Clients of the virtual switches on the node."""

"""Netlink in layers: `codec`, `socket`, messages of each kind, and a class of requests for each family."""

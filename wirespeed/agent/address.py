"""The addresses at which the agent serves over TCP: "address:port" in its configuration."""

from __future__ import annotations

from typing import NamedTuple

from wirespeed.errors import Error, Kind


class Address(NamedTuple):
    """A host, an IPv6 address without its brackets, and a port; 0 is a free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, *, key: str, example: str) -> Address:
    """Return the address in the configuration's `key`. Raises Error(INVALID_CONFIG)."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not port.isascii() or int(port) > 65535:
        expected = f"address:port, like {example}"
        raise Error(Kind.INVALID_CONFIG, where="configuration", key=key, expected=expected, got=text)
    return Address(host.strip("[]"), int(port))

"""Kubernetes quantities: "128Mi", "500m", 2."""

from __future__ import annotations

import re
from decimal import Decimal

from wirespeed.errors import Error, Kind

_QUANTITY = re.compile(
    r"([+-]?(?:\d+\.?\d*|\.\d+))(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E|[eE][+-]?\d{1,2})?", re.ASCII
)
_BINARY: dict[str, int] = {f"{letter}i": 1024**power for power, letter in enumerate("KMGTPE", start=1)}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}


def parse(value: object) -> Decimal:
    """Return the value of a quantity. Raises Error(INVALID_CONFIG)."""
    text = str(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else ""
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise Error(Kind.INVALID_CONFIG, expected='a quantity like 2, "500m" or "128Mi"', got=value)
    number, suffix = Decimal(match[1]), match[2] or ""
    if suffix in _BINARY:
        return number * _BINARY[suffix]
    if suffix in _DECIMAL:
        return number.scaleb(_DECIMAL[suffix])
    return number.scaleb(int(suffix[1:])) if suffix else number


def whole_number(value: object) -> int:
    """Return the value of a quantity that must be a whole number from 0. Raises Error(INVALID_CONFIG)."""
    number = parse(value)
    if number != int(number) or number < 0:
        raise Error(Kind.INVALID_CONFIG, expected="a whole number from 0", got=value)
    return int(number)

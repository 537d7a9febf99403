"""A case: a change of the made node after which a check fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from tests.madenode import MadeNode
from wirespeed.doctor import Severity

CPU = "/sys/devices/system/cpu"


class Case(NamedTuple):
    """A change of the node after which a check fails."""

    id: str
    change: Callable[[MadeNode], object]
    severity: Severity
    found: str


def writes(path: str, text: str) -> Callable[[MadeNode], None]:
    return lambda node: node.write(path, text)


def answers(**changes: object) -> Callable[[MadeNode], None]:
    def change(node: MadeNode) -> None:
        node.answers = replace(node.answers, **changes)  # type: ignore[arg-type]

    return change


def removes(*paths: str) -> Callable[[MadeNode], None]:
    def change(node: MadeNode) -> None:
        for path in paths:
            node.remove(path)

    return change

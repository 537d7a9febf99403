"""What a check is, and what it finds; the register of all checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from wirespeed import structs
from wirespeed.errors import Error

if TYPE_CHECKING:
    from wirespeed.doctor.facts import Facts

T = TypeVar("T")


class Severity(StrEnum):
    """How bad a finding is, the worst first. UNKNOWN: it could not be determined; the finding says why."""

    ERROR = "error"
    WARNING = "warning"
    UNKNOWN = "unknown"
    INFO = "info"
    OK = "ok"


class Subject(StrEnum):
    """What a check is about; the order in which findings are shown."""

    KERNEL = "Kernel and IOMMU"
    NIC = "Network cards and PCIe"
    CPU = "CPUs"
    MEMORY = "Memory"
    KUBELET = "Kubelet"
    CNI = "CNI and the agent"
    RUNTIME = "Container runtime"
    SWITCH = "Virtual switches"
    CLUSTER = "Cluster"
    POD = "Pod"


@structs.prepared
class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one check found about one thing.

    `thing` is what the finding is about, "" for the node as a whole. `found` is what is, `expected` what should be,
    `why` the reason, `source` where that is written. `fix` is how to fix it, "" if nothing has to be.
    """

    id: str
    subject: Subject
    severity: Severity
    thing: str
    found: str
    expected: str
    why: str
    source: str
    fix: str


@dataclass(frozen=True, slots=True)
class Holds:
    """The answer of a check: it is as it should be."""

    found: str


@dataclass(frozen=True, slots=True)
class Fails:
    """The answer of a check: it is not as it should be. The fields that are empty are those of the check."""

    found: str
    expected: str = ""
    fix: str = ""
    severity: Severity | None = None


Answer = Holds | Fails | None  # None: the check does not apply to this node


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check: its name, what it expects and why, and the function that answers it for each of its things."""

    id: str
    subject: Subject
    expected: str
    otherwise: Severity
    why: str
    source: str
    fix: str
    things: Callable[[Facts], Iterable[Any]]
    answer: Callable[[Facts, Any], Answer]

    def findings(self, facts: Facts) -> Iterator[Finding]:
        """Yield a finding for each thing to which the check applies. An Error of reading makes it unknown."""
        try:
            things = list(self.things(facts))
        except Error as error:
            yield self._finding("", Severity.UNKNOWN, error.msg)
            return
        for thing in things:
            name = "" if thing is None else str(thing)
            try:
                answer = self.answer(facts, thing)
            except Error as error:
                yield self._finding(name, Severity.UNKNOWN, error.msg)
                continue
            if isinstance(answer, Holds):
                yield self._finding(name, Severity.OK, answer.found)
            elif answer is not None:
                severity = answer.severity or self.otherwise
                yield self._finding(name, severity, answer.found, answer.expected, answer.fix or self.fix)

    def _finding(self, thing: str, severity: Severity, found: str, expected: str = "", fix: str = "") -> Finding:
        return Finding(
            id=self.id,
            subject=self.subject,
            severity=severity,
            thing=thing,
            found=found,
            expected=expected or self.expected,
            why=self.why,
            source=self.source,
            fix=fix,
        )


CHECKS: dict[str, Check] = {}  # every check, by its id, in the order in which the modules declare them


def check_each(
    things: Callable[[Facts], Iterable[T]],
    id: str,  # noqa: A002 — as in Check
    subject: Subject,
    *,
    expected: str,
    why: str,
    source: str,
    fix: str = "",
    otherwise: Severity = Severity.WARNING,
) -> Callable[[Callable[[Facts, T], Answer]], Callable[[Facts, T], Answer]]:
    """Register a function that answers the check `id` for each of the things."""

    def register(answer: Callable[[Facts, T], Answer]) -> Callable[[Facts, T], Answer]:
        assert id not in CHECKS, id
        CHECKS[id] = Check(
            id=id,
            subject=subject,
            expected=expected,
            otherwise=otherwise,
            why=why,
            source=source,
            fix=fix,
            things=things,
            answer=answer,
        )
        return answer

    return register


def check(
    id: str,  # noqa: A002 — as in Check
    subject: Subject,
    *,
    expected: str,
    why: str,
    source: str,
    fix: str = "",
    otherwise: Severity = Severity.WARNING,
) -> Callable[[Callable[[Facts], Answer]], Callable[[Facts], Answer]]:
    """Register a function that answers the check `id` for the node as a whole."""

    def register(answer: Callable[[Facts], Answer]) -> Callable[[Facts], Answer]:
        declare = check_each(
            lambda _: (None,),
            id,
            subject,
            expected=expected,
            why=why,
            source=source,
            fix=fix,
            otherwise=otherwise,
        )
        declare(lambda facts, _: answer(facts))
        return answer

    return register


_SHOWN = 3


def some(names: Iterable[str]) -> str:
    """Return the first names for a text, and how many more there are."""
    first = list(names)
    rest = len(first) - _SHOWN
    return ", ".join(first[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")

"""Errors as data: kind, place, key, expected and found value, hint.

The kind is mapped to CNI error codes in wirespeed.cni.errors, to gRPC status codes in
wirespeed.deviceplugin.service, and to exit statuses in wirespeed.cli.main. No code parses messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from enum import Enum, auto
from itertools import takewhile
from typing import Any, Final, NamedTuple, TypeVar

PathStep = str | int  # a key of an object, or an index of a list from 0
E = TypeVar("E", bound="Error")


class Kind(Enum):
    """The category of an error, by which callers decide how to react."""

    INVALID_CONFIG = auto()  # a configuration, manifest or annotation
    INVALID_REQUEST = auto()  # the environment or the arguments of a call
    INVALID_DATA = auto()  # data that another program or an older release wrote
    INCOMPATIBLE_VERSION = auto()
    UNSUPPORTED = auto()  # valid, but it has no effect here
    NOT_ATTACHED = auto()  # there is no such attachment or container
    IO = auto()  # a file or socket
    TRY_AGAIN = auto()  # the same call may succeed later
    UNAVAILABLE = auto()  # the plugin cannot serve an ADD now
    DEVICE = auto()  # the device is not there, or its driver refuses
    INTERFACE = auto()  # the interface's name is taken, or the interface is not there
    ADDRESS = auto()  # no address is left, or the address is taken
    DRIFT = auto()  # CHECK found a difference from what ADD set up
    PLUGIN = auto()  # an executed plugin of another program failed
    POLICY = auto()  # namespace isolation, capabilities
    INTERNAL = auto()  # a defect of this program


class Thing(NamedTuple):
    """A named object that an error is about: `Thing("network", "default/left")`.

    `note` distinguishes it from others with the same name: `Thing("network", "default/left", "net1")`.
    """

    kind: str
    name: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f" ({self.note})" if self.note else "")


def about_keys(*names: str) -> tuple[Thing, ...]:
    """Return keys that the text of an error mentions, for the argument `about`."""
    return tuple(Thing("key", name) for name in names)


class Element(int):
    """A list index, from 0, as the first step of a path. Messages count from 1: "element 2 (default/left)"."""

    name: str

    def __new__(cls, index: int, name: str = "") -> Element:
        self = super().__new__(cls, index)
        self.name = name
        return self

    def __str__(self) -> str:
        return f"element {self + 1}" + (f" ({self.name})" if self.name else "")


class _Nothing(Enum):
    NOTHING = auto()


NOTHING: Final = _Nothing.NOTHING  # no value; null is a value


class Error(Exception):
    """A refusal or failure.

    `what` describes the problem, unless `expected` and `got` suffice. `key` is the path of the key concerned, as
    steps or in the form "a.b[0]": that key is `missing`, `unknown`, or has a wrong value. `where` are the places,
    from the outermost to the innermost: a file, a pod, a device. `about` are further objects that the text
    mentions: networks, resources, other keys. `hint` tells how to fix the problem. `details` are for the log.

    `msg` is one line with all of this except the details: `where: key "a.b": what; expected ..., got ...; hint`.
    """

    def __init__(
        self,
        kind: Kind,
        what: str = "",
        *,
        where: str | Thing | Sequence[str | Thing] = (),
        key: str | Sequence[PathStep] = (),
        missing: bool = False,
        unknown: bool = False,
        expected: str = "",
        got: object = NOTHING,
        hint: str = "",
        about: Sequence[Thing] = (),
        details: str = "",
    ) -> None:
        self.kind = kind
        self.what = what
        self.where: tuple[str | Thing, ...] = (where,) if isinstance(where, str | Thing) and where else tuple(where)
        self.path = parse_path(key) if isinstance(key, str) else tuple(key)
        self.missing, self.unknown = missing, unknown
        self.expected = expected
        self.got = got
        self.hint = hint
        self.about = tuple(about)
        self.details = details
        super().__init__(self.msg)

    @property
    def msg(self) -> str:
        """The message, in one line."""
        text = "".join(f"{place}: " for place in self.where) + self._body()
        return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)

    def _body(self) -> str:
        expected = f"expected {self.expected}" if self.expected else ""
        if expected and self.got is not NOTHING:
            expected += f", got {shown(self.got)}"
        body = "; ".join(filter(None, (self.what, expected)))
        elements = tuple(takewhile(lambda step: isinstance(step, Element), self.path))
        if key := self.path[len(elements) :]:
            head = f'{"unknown " * self.unknown}key "{format_path(key)}"{" is missing" * self.missing}'
            body = ": ".join(filter(None, (head, body)))
        return "".join(f"{each}: " for each in elements) + "; ".join(filter(None, (body, self.hint)))

    def __str__(self) -> str:
        return self.msg

    def things(self, kind: str) -> list[str]:
        """Return the names of the things of this kind in `where` and `about`, the outermost first."""
        named = [each for each in (*self.where, *self.about) if isinstance(each, Thing)]
        return [each.name for each in named if each.kind == kind]

    def within(self: E, *where: str | Thing) -> E:
        """Return the same error with these places in front of its own."""
        return self._with(where=(*where, *self.where))

    def under(self: E, *key: PathStep) -> E:
        """Return the same error with these steps in front of its key: for the enclosing object."""
        return self._with(path=(*key, *self.path))

    def at(self: E, *, where: Sequence[str | Thing] | None = None, key: Sequence[PathStep] | None = None) -> E:
        """Return the same error with other places, or about another key."""
        places, path = (self.where if where is None else where), (self.path if key is None else key)
        return self._with(where=tuple(places), path=tuple(path))

    def with_hint(self: E, hint: str) -> E:
        """Return the same error with another hint appended."""
        return self._with(hint="; ".join(filter(None, (self.hint, hint))))

    def of_kind(self: E, kind: Kind) -> E:
        """Return the same error with another kind."""
        return self._with(kind=kind)

    def _with(self: E, **changes: Any) -> E:
        other = type(self).__new__(type(self))  # __init__ of a subclass may have other parameters
        vars(other).update(vars(self), **changes)
        other.args = (other.msg,)
        return other


class CombinedError(Error):
    """Several errors at once; its kind is that of the first."""

    def __init__(self, errors: Sequence[Error], *, between: str = "; also ", hint: str = "") -> None:
        self.errors, self._between = tuple(errors), between
        super().__init__(errors[0].kind, hint=hint, details=errors[0].details)

    def _body(self) -> str:
        first, *rest = (error.under(*self.path).msg for error in self.errors)
        text = first + self._between + "; ".join(rest) if rest else first
        return "; ".join(filter(None, (text, self.hint)))


def flatten(error: Error) -> Iterator[Error]:
    """Yield the single errors that a (possibly nested) CombinedError contains, each with all its places."""
    if not isinstance(error, CombinedError):
        yield error
        return
    for inner in error.errors:
        for each in flatten(inner):
            yield each.within(*error.where).under(*error.path)


def combine(errors: Sequence[Error]) -> Error:
    """Return one error for all of them; a single error is returned unchanged."""
    return errors[0] if len(errors) == 1 else CombinedError(errors)


def collect_errors(calls: Iterable[Callable[[], object]]) -> list[Error]:
    """Make all calls, even if some fail; return the errors. An OSError becomes an error of kind IO."""
    found: list[Error] = []
    for call in calls:
        try:
            call()
        except (Error, OSError) as error:
            found.append(as_error(error))
    return found


def run_all(calls: Iterable[Callable[[], object]]) -> None:
    """Make all calls, even if some fail; then raise the errors, if any, as one error."""
    if errors := collect_errors(calls):
        raise combine(errors)


def as_error(error: Error | OSError, where: object = "", *, fallback: object = "") -> Error:
    """Return an OSError as an error of kind IO: "<where>: <reason>".

    `where` is by default the file in the OSError, or `fallback` if it has none.
    """
    if isinstance(error, Error):
        return error
    place = str(where or error.filename or fallback)
    return Error(Kind.IO, error.strerror or str(error), where=place)


class _Changing(AbstractContextManager[None]):
    """Replaces an error raised in the block. No generator, which costs more: it is on the path of every ADD."""

    def __init__(self, change: Callable[[Any], Error], kind: type[Exception] = Error) -> None:
        self._change, self._kind = change, kind

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, self._kind):
            raise self._change(error) from error


def within(*where: str | Thing) -> AbstractContextManager[None]:
    """Add places in front of those of an error that is raised in the block."""
    return _Changing(lambda error: error.within(*where))


def under(*key: PathStep) -> AbstractContextManager[None]:
    """Add steps in front of the key of an error that is raised in the block."""
    return _Changing(lambda error: error.under(*key))


def os_errors(where: object = "") -> AbstractContextManager[None]:
    """Raise an OSError of the block as `as_error` returns it."""
    return _Changing(lambda error: as_error(error, where), OSError)


def as_kind(kind: Kind) -> AbstractContextManager[None]:
    """Change the kind of an error that is raised in the block."""
    return _Changing(lambda error: error.of_kind(kind))


# Keys and values in messages

_STEP = re.compile(r'\[(?P<index>\d+)\]|\["(?P<quoted>[^"]*)"\]|\.?(?P<key>[^.\[\]]+|\[[^\]]*\])')


def parse_path(path: str) -> tuple[PathStep, ...]:
    """Return the steps of a path like 'a.b[0]' or 'a["b.c"]'."""
    return tuple(
        int(match["index"]) if match["index"] else match["key"] if match["key"] is not None else match["quoted"]
        for match in _STEP.finditer(path)
    )


def format_path(path: Iterable[PathStep]) -> str:
    """Return the steps as text: 'a.b[0]'; a key with other characters is quoted: 'a["b.c"]'."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step:d}]"
        elif text and any(c in step for c in ".[]"):
            text += f'["{step}"]'
        else:
            text += f".{step}" if text else step
    return text


def shown(value: object) -> str:
    """Return a value for a message, at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

"""The agent's call LOGLEVEL: shows and changes the levels from which it logs, until it ends.

A module logs from its own level, if it was given one, else from that of the package around it, and at last from the
level of all modules, which is that of `--log-level` at the start. A level that is set for some time hides the one
that was set without a time, which returns after it.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from typing import Annotated, Literal

import msgspec

from wirespeed import structs
from wirespeed.agent import client, frame
from wirespeed.agent.hotplug import error_answer
from wirespeed.cni.dispatch import Answer
from wirespeed.errors import Error, Kind
from wirespeed.keys import did_you_mean, similar
from wirespeed.node import NodeConfig

log = logging.getLogger(__name__)

VERB = "LOGLEVEL"
Level = Literal["debug", "info", "warning", "error"]
DEFAULT = "default"  # instead of a level: that of the start for all modules, no own level for one
ALL = ""  # instead of the name of a module

_TIMEOUT = 10.0  # seconds to connect, and for each part of the answer


@structs.prepared
class Change(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is asked for: a level of a module, for `seconds` (0: until the agent ends). Without a level, nothing."""

    level: Level | Literal["default"] | None = None
    module: str = ALL
    seconds: Annotated[float, msgspec.Meta(ge=0, le=7 * 24 * 3600)] = 0.0


class ModuleLevel(msgspec.Struct, omit_defaults=True):
    """The level that a module was given; `then` is the one that follows by itself, "" if none does."""

    module: str
    level: str
    then: str = ""


@structs.prepared
class Levels(msgspec.Struct):
    """The answer: from which level the module logged and logs now, and the levels of all that were given one."""

    old: str
    new: str
    given: list[ModuleLevel]


class LogLevels:
    """The levels of this process: serves LOGLEVEL calls, in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._initial = logging.getLogger().level
        self._lasting = {ALL: self._initial}  # by module; what is not there has no level of its own
        self._timers: dict[str, threading.Timer] = {}  # of modules whose level returns by itself

    def answer(self, call: frame.Call) -> Answer:
        """Serve one call; an error is returned as the error object of the CNI specification."""
        try:
            return Answer(0, msgspec.json.encode(self.change(msgspec.json.decode(call.stdin, type=Change))))
        except msgspec.DecodeError as error:
            return error_answer(Error(Kind.INVALID_DATA, str(error), where=(VERB, "standard input")))
        except Error as error:
            return error_answer(error)

    def change(self, change: Change) -> Levels:
        """Change the level of a module, if asked to. Raises Error(INVALID_REQUEST) for an unknown module."""
        _check_module(change.module)
        logger = logging.getLogger(change.module)
        with self._lock:
            old = logger.getEffectiveLevel()
            if change.level is not None:
                self._set(change.module, change.level, change.seconds)
            new = logger.getEffectiveLevel()
            given = [self._shown(module) for module in sorted({*self._lasting, *self._timers})]
        if change.level is not None:
            text = f"{change.seconds:g} s" if change.seconds else ""
            fields = {"module": change.module, "old": _name(old), "new": _name(new), "for": text}
            log.info("the log level is changed", extra={"fields": fields})
        return Levels(_name(old), _name(new), given)

    def _set(self, module: str, level: str, seconds: float) -> None:
        if (module, level, seconds) == (ALL, DEFAULT, 0):  # as at the agent's start: no module has its own
            for other in {*self._lasting, *self._timers} - {ALL}:
                self._set(other, DEFAULT, 0)
        if (timer := self._timers.pop(module, None)) is not None:
            timer.cancel()
        number = self._default(module) if level == DEFAULT else logging.getLevelNamesMapping()[level.upper()]
        logging.getLogger(module).setLevel(number)
        if seconds:
            timer = self._timers[module] = threading.Timer(seconds, partial(self._return, module))
            timer.daemon = True
            timer.start()
        elif number == logging.NOTSET:
            self._lasting.pop(module, None)
        else:
            self._lasting[module] = number

    def _return(self, module: str) -> None:
        """Return to the lasting level, in the thread of the module's timer."""
        with self._lock:
            if self._timers.get(module) is not threading.current_thread():
                return  # the level was changed while this thread began
            del self._timers[module]
            logging.getLogger(module).setLevel(self._lasting.get(module, logging.NOTSET))
        log.info("the log level returned", extra={"fields": {"module": module}})

    def _default(self, module: str) -> int:
        return self._initial if module == ALL else logging.NOTSET

    def _shown(self, module: str) -> ModuleLevel:
        then = _name(self._lasting.get(module, logging.NOTSET)) if module in self._timers else ""
        return ModuleLevel(module, _name(logging.getLogger(module).level), then)


def _name(level: int) -> str:
    return DEFAULT if level == logging.NOTSET else logging.getLevelName(level).lower()


def _check_module(name: str) -> None:
    """Raise Error(INVALID_REQUEST) unless it is a module of this program, or anything else that logs."""
    known = [*logging.root.manager.loggerDict]
    if name in {ALL, *known}:
        return
    found = None
    if name.startswith("wirespeed."):  # one that is not loaded yet
        with suppress(ModuleNotFoundError):
            found = find_spec(name)
    if found is None:
        expected = "a Python module that logs, such as wirespeed.kube"
        hint = did_you_mean(similar(name, known))
        raise Error(Kind.INVALID_REQUEST, "no such module", expected=expected, got=name, hint=hint)


def call_agent(config: NodeConfig, change: Change) -> Levels:
    """Make the call at the node's agent. Raises Error."""
    call = frame.Call("agent", {"CNI_COMMAND": VERB}, msgspec.json.encode(change))
    return msgspec.json.decode(client.ask(config.socket, call, timeout=_TIMEOUT), type=Levels)

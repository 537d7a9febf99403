"""Serve one plugin call: environment and standard input in, exit status and standard output out."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from wirespeed.cni import result, versions
from wirespeed.cni.errors import to_json
from wirespeed.cni.plugin import Plugin, call
from wirespeed.cni.request import Request, check_netns, parse_request
from wirespeed.errors import Error, Kind
from wirespeed.trace import step

log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """The outcome of a plugin's process: its exit status and standard output."""

    exit_code: int
    stdout: bytes


def answer(
    plugin_for: Callable[[], Plugin], environ: Mapping[str, str], stdin: bytes, *, deadline: float = math.inf
) -> Answer:
    """Serve one call; never raises.

    `plugin_for` returns the plugin; it is called only for a valid request, and not for VERSION. An error is
    returned as the specification's error object, in the caller's version; any exception but Error has code
    INTERNAL, and its traceback is logged.
    """
    try:
        with step("read the request"):
            request = parse_request(environ, stdin, deadline=deadline)
            check_netns(request, environ)
        return Answer(0, _call(plugin_for, request))
    except Error as error:
        return Answer(1, to_json(error, _error_version(stdin)))
    except Exception as error:
        command = environ.get("CNI_COMMAND", "")
        log.exception("%s of container %s failed", command, environ.get("CNI_CONTAINERID", ""))
        internal = Error(Kind.INTERNAL, f"{type(error).__name__}: {error}", where=command)
        return Answer(1, to_json(internal, _error_version(stdin)))


def _call(plugin_for: Callable[[], Plugin], request: Request) -> bytes:
    if request.command == "VERSION":
        return versions.answer(request.config)
    if request.command == "ADD":
        return msgspec.json.encode(result.write(plugin_for().add(request), request.version))
    call(plugin_for(), request)
    return b""


def _error_version(stdin: bytes) -> str:
    """Return the version for an error object, whatever is wrong with the configuration."""
    try:
        return versions.check(json.loads(stdin).get("cniVersion"))
    except (Error, AttributeError, ValueError, RecursionError):
        return versions.LATEST

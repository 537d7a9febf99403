"""Serve one plugin call: environment and standard input in, exit status and standard output out."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from wirespeed.cni import result, versions
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.plugin import Plugin
from wirespeed.cni.request import Request, check_netns, parse_request

log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """The outcome of a plugin's process: its exit status and standard output."""

    exit_code: int
    stdout: bytes


def answer(
    plugin_for: Callable[[], Plugin], environ: Mapping[str, str], stdin: bytes, *, deadline: float = math.inf
) -> Answer:
    """Serve one call; never raises.

    `plugin_for` returns the plugin; it is called only after the request has been validated, and not for VERSION.
    An error is returned as the specification's error object, in the caller's version. Any exception but CniError
    is returned in one line with code INTERNAL, and logged with its traceback.
    """
    try:
        request = parse_request(environ, stdin, deadline=deadline)
        check_netns(request, environ)
        return Answer(0, _call(plugin_for, request))
    except CniError as error:
        return Answer(1, error.to_json(_version_of(stdin)))
    except Exception as error:
        command = environ.get("CNI_COMMAND", "")
        log.exception("%s of container %s failed", command, environ.get("CNI_CONTAINERID", ""))
        internal = CniError(Code.INTERNAL, f"{command}: {type(error).__name__}: {error}")
        return Answer(1, internal.to_json(_version_of(stdin)))


def _call(plugin_for: Callable[[], Plugin], request: Request) -> bytes:
    match request.command:
        case "VERSION":
            return versions.answer(request.config)
        case "ADD":
            return msgspec.json.encode(result.write(plugin_for().add(request), request.version))
        case "DEL":
            plugin_for().delete(request)
        case "CHECK":
            plugin_for().check(request)
        case "GC":
            plugin_for().gc(request)
        case "STATUS":
            plugin_for().status(request)
    return b""


def _version_of(stdin: bytes) -> str:
    """Return the version for an error object, whatever is wrong with the configuration."""
    try:
        return versions.of_error(json.loads(stdin))
    except (ValueError, RecursionError):
        return versions.LATEST

"""A CNI request: the environment and standard input of a plugin call, validated."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from wirespeed.cni import versions
from wirespeed.errors import Error, Kind

MAX_CONFIG = 1 << 20  # bytes of standard input; a network's configuration has a few thousand

# The environment variables that each verb requires (specification 1.1.0, section 2, "CNI operations").
_REQUIRED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "GC": ("CNI_PATH",),
    "STATUS": ("CNI_PATH",),
    "VERSION": (),
}
VERBS = tuple(_REQUIRED)
_SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}  # the version that introduced the verb
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")  # of a container or a network
_NAME_FORM = "letters, digits, _ . - after a letter or digit"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call of a plugin.

    `command` is ADD, DEL, CHECK, GC, STATUS or VERSION; `container_id`, `netns` (a path) and `ifname` are "" if it
    does not have them. `args` is CNI_ARGS in order, `path` the folders of CNI_PATH, `config` the JSON object of
    standard input. At `deadline`, a time.monotonic() value, the work is cancelled and undone. `undo` is set for the
    DEL with which an ADD that failed is undone: what the journal does not have then has never been made.
    """

    command: str
    container_id: str = ""
    netns: str = ""
    ifname: str = ""
    args: Mapping[str, str] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    deadline: float = math.inf
    undo: bool = False

    @property
    def version(self) -> str:
        """The cniVersion of the configuration."""
        return str(self.config.get("cniVersion") or versions.IMPLIED)

    @property
    def name(self) -> str:
        """The network's name."""
        return str(self.config.get("name", ""))

    @property
    def environ(self) -> dict[str, str]:
        """The CNI_* variables for a plugin's process, without empty ones."""
        variables = {
            "CNI_COMMAND": self.command,
            "CNI_CONTAINERID": self.container_id,
            "CNI_NETNS": self.netns,
            "CNI_IFNAME": self.ifname,
            "CNI_ARGS": ";".join(f"{key}={value}" for key, value in self.args.items()),
            "CNI_PATH": ":".join(self.path),
        }
        return {key: value for key, value in variables.items() if value}

    def check_deadline(self) -> None:
        """Raise Error(TRY_AGAIN) when the deadline has passed."""
        if time.monotonic() > self.deadline:
            where = f"{self.command} of container {self.container_id} {self.ifname}"
            raise Error(Kind.TRY_AGAIN, "took longer than its deadline", where=where)

    @property
    def valid_attachments(self) -> set[tuple[str, str]]:
        """For GC: the (container id, ifname) pairs that still exist; everything else may be released.

        Raises Error(INVALID_CONFIG) if the configuration has no such list: a missing list is not an empty one.
        """
        # Specification 1.1.0 uses both names for the key.
        for key in ("cni.dev/valid-attachments", "cni.dev/attachments"):
            if key in self.config:
                return _attachments(key, self.config[key])
        wanted = "the list of attachments to keep"
        raise Error(Kind.INVALID_CONFIG, key=("cni.dev/valid-attachments",), missing=True, expected=wanted)

    def derive(self, **changes: Any) -> Request:
        return replace(self, **changes)


def pod_of(args: Mapping[str, str]) -> str:
    """Return the pod that CNI_ARGS name as "namespace/name", "" if they name none."""
    name = args.get("K8S_POD_NAME", "")
    return f"{args.get('K8S_POD_NAMESPACE', '')}/{name}" if name else ""


def parse_request(environ: Mapping[str, str], stdin: bytes, *, deadline: float = math.inf) -> Request:
    """Parse and validate a plugin's environment and standard input.

    Raises Error: INVALID_REQUEST, INVALID_DATA, INVALID_CONFIG or INCOMPATIBLE_VERSION, as the specification
    assigns its codes. The state of the machine is not checked.
    """
    command = environ.get("CNI_COMMAND", "")
    if command not in _REQUIRED:
        raise _invalid("CNI_COMMAND", f"one of {', '.join(_REQUIRED)}", command)
    missing = [key for key in _REQUIRED[command] if not environ.get(key)]
    if missing:
        raise Error(Kind.INVALID_REQUEST, f"missing environment variables: {', '.join(missing)}", where=command)
    request = Request(
        command=command,
        container_id=check_container_id(environ.get("CNI_CONTAINERID", "")),
        netns=_netns(command, environ.get("CNI_NETNS", "")),
        ifname=_ifname(environ.get("CNI_IFNAME", "")),
        args=parse_args(environ.get("CNI_ARGS", "")),
        path=_path(environ.get("CNI_PATH", "")),
        config=_version_config(stdin) if command == "VERSION" else parse_config(stdin),
        deadline=deadline,
    )
    if command != "VERSION":
        _check_config(request)
    return request


def parse_args(text: str) -> dict[str, str]:
    """Parse CNI_ARGS, "KEY=VALUE;KEY=VALUE", in order; a value may contain "=". Raises Error(INVALID_REQUEST)."""
    args: dict[str, str] = {}
    if not text:
        return args
    for piece in _text("CNI_ARGS", text).removesuffix(";").split(";"):
        key, equals, value = piece.partition("=")
        if not equals or not key:
            raise _invalid("CNI_ARGS", "KEY=VALUE pairs separated by ;", piece)
        if key in args:
            raise Error(Kind.INVALID_REQUEST, f"{key!r} is given twice", where="CNI_ARGS")
        args[key] = value
    return args


def parse_config(stdin: bytes) -> dict[str, Any]:
    """Parse the JSON object of standard input. Raises Error(INVALID_DATA)."""
    where = "standard input"
    if len(stdin) > MAX_CONFIG:
        raise Error(Kind.INVALID_DATA, where=where, expected=f"at most {MAX_CONFIG} bytes", got=len(stdin))
    try:
        config = msgspec.json.decode(stdin)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise Error(Kind.INVALID_DATA, f"not JSON: {error}", where=where) from error
    if not isinstance(config, dict):
        raise Error(Kind.INVALID_DATA, where=where, expected="a JSON object", got=config)
    return config


def check_container_id(text: str) -> str:
    """Return the container id if it is valid or "". Raises Error(INVALID_REQUEST)."""
    if text and not _NAME.fullmatch(text):
        raise _invalid("CNI_CONTAINERID", _NAME_FORM, text)
    return text


def check_network_name(name: object) -> str:
    """Return the network's name if it is valid; it is used in paths. Raises Error(INVALID_CONFIG)."""
    if name is None or name == "":
        raise Error(Kind.INVALID_CONFIG, key="name", missing=True, expected="the name of the network")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Error(Kind.INVALID_CONFIG, key="name", expected=_NAME_FORM, got=name)
    return name


def ifname_fault(name: str) -> str:
    """Return why the text is no valid interface name (Linux, dev_valid_name), "" if it is one."""
    if name in {"", ".", ".."}:
        return f"expected a name, got {name!r}"
    # The kernel replaces "%d" in a name by a number.
    if any(c in "/:%" or c.isspace() or not c.isprintable() for c in name):
        return f"expected no / : % or whitespace, got {name!r}"
    if len(name.encode()) > 15:
        return f"expected at most 15 bytes, got {name!r}"
    return ""


def check_netns(request: Request, environ: Mapping[str, str], *, own: str = "/proc/self/ns/net") -> None:
    """Refuse an ADD into the network namespace of this process: it would change the node instead of a pod.

    CNI_NETNS_OVERRIDE=1 (or true) in the environment allows it, as for plugins built on libcni. A path that
    does not exist is not checked here but by the plugin. Raises Error(INVALID_REQUEST).
    """
    if request.command != "ADD" or environ.get("CNI_NETNS_OVERRIDE", "").lower() in {"1", "true"}:
        return
    try:
        theirs, ours = os.stat(request.netns), os.stat(own)
    except OSError:
        return
    if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino):
        raise _invalid("CNI_NETNS", "the container's network namespace, not the node's own", request.netns)


def _check_config(request: Request) -> None:
    """Check what the specification requires of every configuration."""
    config = request.config
    check_network_name(config.get("name"))
    version = versions.check(config.get("cniVersion"))
    since = _SINCE.get(request.command)
    if since and not versions.at_least(version, since):
        expected = f"{since} or newer for {request.command}"
        raise Error(Kind.INCOMPATIBLE_VERSION, key="cniVersion", expected=expected, got=version)
    if request.command == "GC":
        _ = request.valid_attachments


def _attachments(key: str, value: object) -> set[tuple[str, str]]:
    if value is None:  # Go encodes a nil slice as null
        return set()
    if not isinstance(value, list):
        raise Error(Kind.INVALID_CONFIG, key=(key,), expected="a list", got=value)
    found = set()
    for index, entry in enumerate(value):
        pair = (entry.get("containerID"), entry.get("ifname")) if isinstance(entry, dict) else (None, None)
        if not isinstance(pair[0], str) or not isinstance(pair[1], str):
            expected = "an object with containerID and ifname"
            raise Error(Kind.INVALID_CONFIG, key=(key, index), expected=expected, got=entry)
        found.add((pair[0], pair[1]))
    return found


def _version_config(stdin: bytes) -> dict[str, Any]:
    """Parse the standard input of VERSION, {"cniVersion": ...}; {} if it is empty or invalid."""
    try:
        return parse_config(stdin)
    except Error:
        return {}


def _ifname(name: str) -> str:
    if name and (fault := ifname_fault(name)):
        raise Error(Kind.INVALID_REQUEST, fault, where="CNI_IFNAME")
    return name


def _netns(command: str, path: str) -> str:
    # A DEL releases what it can, even if the path of its namespace is wrong.
    if not _text("CNI_NETNS", path).startswith("/") and command in {"ADD", "CHECK"}:
        raise _invalid("CNI_NETNS", "an absolute path", path)
    return path


def _path(text: str) -> tuple[str, ...]:
    folders = tuple(folder for folder in _text("CNI_PATH", text).split(":") if folder)
    for folder in folders:
        if not folder.startswith("/"):  # it would be relative to the agent's working directory
            raise _invalid("CNI_PATH", "absolute paths separated by :", folder)
    return folders


def _text(variable: str, value: str) -> str:
    """Return the value if it is printable: no control characters, no invalid UTF-8."""
    if not value.isprintable():
        raise _invalid(variable, "printable text", value)
    return value


def _invalid(variable: str, expected: str, got: str) -> Error:
    return Error(Kind.INVALID_REQUEST, where=variable, expected=expected, got=got)

"""A plugin for tests of the agent: it reports each call and can be held inside it.

Keys of its configuration: `events`, the path of a datagram socket to which the begin and end of each call are sent;
`gate`, a fifo that it reads to the end before it continues; `fail`, an error code to fail with.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from wirespeed.cni.errors import PluginError
from wirespeed.cni.plugin import Plugin, Result
from wirespeed.cni.request import Request
from wirespeed.node import Node


class Probe:
    """See the module's docstring."""

    def add(self, request: Request) -> Result:
        _call(request)
        return {"interfaces": [{"name": request.ifname, "sandbox": request.netns}]}

    def delete(self, request: Request) -> None:
        _call(request)

    check = gc = status = delete


def _call(request: Request) -> None:
    config = request.config
    _tell(config.get("events"), "begin", request)
    if "gate" in config:
        Path(config["gate"]).read_bytes()
    _tell(config.get("events"), "end", request)
    if "fail" in config:
        raise PluginError(config["fail"], "the probe was told to fail")


def _tell(path: str | None, what: str, request: Request) -> None:
    if path is None:
        return
    event = {"what": what, "verb": request.command, "container": request.container_id, "pid": os.getpid()}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as teller:
        teller.sendto(json.dumps(event).encode(), path)


def create(node: Node) -> Plugin:
    return Probe()


def create_badly(node: Node) -> Plugin:
    raise RuntimeError("this plugin cannot be made")

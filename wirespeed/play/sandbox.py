"""A pod's network namespace, and its attachment by executing the CNI configuration as a runtime does."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wirespeed import errors
from wirespeed.cni.chain import Chain, Network, load_network, read_output
from wirespeed.cni.execute import run_plugin
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.node import ALIASES, PLUGINS
from wirespeed.play.programs import run
from wirespeed.steps import Undo

IFNAME = "eth0"
NETNS = "wirespeed.play/netns"  # the annotation of a played pod with the path of its network namespace
_SUFFIXES = (".conf", ".conflist", ".json")
_DEADLINE = 120.0  # seconds for an ADD or a DEL; the agent's own limit is lower


def load_conf(path: Path) -> Network:
    """Load a CNI configuration file, or the first one by name in a directory. Raises Error(INVALID_CONFIG)."""
    where = f"CNI conf {path}"
    try:
        with errors.within(where):
            files = sorted(each for each in path.iterdir() if each.suffix in _SUFFIXES) if path.is_dir() else [path]
            if not files:
                raise Error(Kind.INVALID_CONFIG, expected=f"a file *{', *'.join(_SUFFIXES)} in that directory")
            return load_network(json.loads(files[0].read_text()))
    except OSError as error:
        raise errors.as_error(error, where).of_kind(Kind.INVALID_CONFIG) from error
    except (ValueError, RecursionError) as error:
        raise Error(Kind.INVALID_CONFIG, f"not JSON: {error}", where=where) from error


@dataclass(frozen=True)
class Runtime:
    """How pods are attached: the network, the directories of executed plugins, and the other plugins."""

    network: Network
    path: tuple[str, ...]
    chain: Chain


def own_plugins(network: Network, *, shim: Path, links: Path, socket: str) -> Chain:
    """Return the chain that calls our own plugins at the agent's socket, each as a link to the shim in `links`."""
    ours = {kind: links / kind for kind in network.kinds if kind in {**PLUGINS, **ALIASES}}
    for link in ours.values():
        link.symlink_to(shim)
    return Chain({kind: _Shim(str(link), socket) for kind, link in ours.items()})


@dataclass(frozen=True)
class _Shim:
    """A plugin that the shim forwards to the agent."""

    binary: str
    socket: str

    def add(self, request: Request) -> Result:
        return read_output(self._call(request), request.version)

    def delete(self, request: Request) -> None:
        self._call(request)

    check = gc = status = delete

    def _call(self, request: Request) -> bytes:
        return run_plugin(self.binary, request, {"WIRESPEED_SOCKET": self.socket})


class Sandbox:
    """A pod's network namespace, visible to `ip netns` as `name`. `undo` removes what is created."""

    def __init__(self, runtime: Runtime, *, name: str, arguments: Mapping[str, str], undo: Undo) -> None:
        self.id = secrets.token_hex(32)
        self.name = name
        self.netns = f"/run/netns/{name}"
        self.ips: list[str] = []
        self._runtime, self._undo = runtime, undo
        # As containerd does.
        self._arguments = {"IgnoreUnknown": "1", **arguments, "K8S_POD_INFRA_CONTAINER_ID": self.id}
        self._result: Result | None = None

    def make(self) -> None:
        """Create the namespace, with its loopback up. Raises Error(IO)."""
        run("ip", "netns", "add", self.name)
        self._undo.push(f"network namespace {self.name}", lambda: run("ip", "netns", "delete", self.name))
        run("ip", "-n", self.name, "link", "set", "lo", "up")

    def attach(self) -> Result:
        """Call ADD; return the result in the format of CNI 1.1.0. Raises the plugin's Error."""
        self._undo.push("DEL", self._detach)
        self._result = self._runtime.chain.add(self._runtime.network, self._request("ADD"))
        self.ips = [ip["address"].partition("/")[0] for ip in self._result["ips"]]
        return self._result

    def _detach(self) -> None:
        self._runtime.chain.delete(self._runtime.network, self._request("DEL"), result=self._result)

    def _request(self, command: str) -> Request:
        return Request(
            command=command,
            container_id=self.id,
            netns=self.netns,
            ifname=IFNAME,
            args=self._arguments,
            path=self._runtime.path,
            deadline=time.monotonic() + _DEADLINE,
        )

"""A pod's network namespace, and its attachment by executing the CNI configuration as a runtime does."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from wirespeed.cni.chain import Chain, Network, load_network, read_output
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.node import ALIASES, PLUGINS
from wirespeed.play.programs import run
from wirespeed.steps import Undo

IFNAME = "eth0"
_SUFFIXES = (".conf", ".conflist", ".json")
_DEADLINE = 120.0  # seconds for an ADD or a DEL; the agent's own limit is lower


def load_conf(path: Path) -> Network:
    """Load the network of a CNI configuration file, or of the first such file by name in a directory.

    Raises CniError(INVALID_CONFIG).
    """
    try:
        file = _first(path) if path.is_dir() else path
        return load_network(json.loads(file.read_text()))
    except OSError as error:
        raise CniError(Code.INVALID_CONFIG, f"CNI conf {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CniError(Code.INVALID_CONFIG, f"CNI conf {path}: not JSON: {error}") from error
    except CniError as error:
        raise error.prefixed(f"CNI conf {path}") from None


def _first(folder: Path) -> Path:
    files = sorted(each for each in folder.iterdir() if each.suffix in _SUFFIXES)
    if not files:
        raise CniError(Code.INVALID_CONFIG, f"expected a file *{', *'.join(_SUFFIXES)} in that folder")
    return files[0]


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """How pods are attached: the network, the plugin directories, and the agent.

    Our own plugins are called at the agent's `socket` with the executable `shim`: each plugin's name is a link to
    it in the directory `links`.
    """

    network: Network
    path: tuple[str, ...]
    shim: Path
    links: Path
    socket: Path

    def chain(self) -> Chain:
        ours = {kind for kind in self.network.kinds if kind in {**PLUGINS, **ALIASES}}
        return Chain({kind: _Shim(self, kind) for kind in ours})


class _Shim:
    """A plugin that the shim forwards to the agent, called with the environment of a runtime."""

    def __init__(self, runtime: Runtime, kind: str) -> None:
        self._socket = runtime.socket
        self._binary = runtime.links / kind
        if not self._binary.is_symlink():
            self._binary.symlink_to(runtime.shim)

    def add(self, request: Request) -> Result:
        return read_output(self._call(request), request.version)

    def delete(self, request: Request) -> None:
        self._call(request)

    check = gc = status = delete

    def _call(self, request: Request) -> bytes:
        process = subprocess.Popen(
            [self._binary],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=request.environ | {"WIRESPEED_SOCKET": str(self._socket)},
            start_new_session=True,  # Ctrl-C in the terminal must not interrupt a call
        )
        try:
            stdin, left = msgspec.json.encode(request.config), request.deadline - time.monotonic()
            stdout, _ = process.communicate(stdin, left)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise CniError(Code.TRY_AGAIN_LATER, f"{request.command} took longer than {_DEADLINE:g} s") from None
        if process.returncode:
            raise _error(process.returncode, stdout)
        return stdout


def _error(status: int, stdout: bytes) -> CniError:
    try:
        said = msgspec.json.decode(stdout)
        return CniError(said["code"], said["msg"], said.get("details", ""))
    except (msgspec.DecodeError, KeyError, TypeError):
        text = stdout.decode(errors="replace").strip()
        return CniError(Code.PLUGIN, f"the shim ended with {status}: {text or 'it says nothing'}")


class Sandbox:
    """A pod's network namespace, visible to `ip netns` as `name`. `undo` removes what is created."""

    def __init__(self, runtime: Runtime, *, name: str, arguments: Mapping[str, str], undo: Undo) -> None:
        self.id = secrets.token_hex(32)
        self.name = name
        self.netns = f"/run/netns/{name}"
        self.ips: list[str] = []
        self._runtime, self._chain, self._undo = runtime, runtime.chain(), undo
        # As containerd does.
        self._arguments = {"IgnoreUnknown": "1", **arguments, "K8S_POD_INFRA_CONTAINER_ID": self.id}
        self._result: Result | None = None

    def make(self) -> None:
        """Create the namespace, with its loopback up. Raises CniError(IO_FAILURE)."""
        run("ip", "netns", "add", self.name)
        self._undo.push(f"network namespace {self.name}", lambda: run("ip", "netns", "delete", self.name))
        run("ip", "-n", self.name, "link", "set", "lo", "up")

    def attach(self) -> Result:
        """Call ADD; return the result in the format of CNI 1.1.0. Raises the plugin's CniError."""
        self._undo.push("DEL", self._detach)
        self._result = self._chain.add(self._runtime.network, self._request("ADD"))
        self.ips = [ip["address"].partition("/")[0] for ip in self._result["ips"]]
        return self._result

    def _detach(self) -> None:
        self._chain.delete(self._runtime.network, self._request("DEL"), result=self._result)

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


def pod_arguments(namespace: str, name: str, uid: str) -> dict[str, str]:
    """Return a pod's CNI_ARGS."""
    return {"K8S_POD_NAMESPACE": namespace, "K8S_POD_NAME": name, "K8S_POD_UID": uid}

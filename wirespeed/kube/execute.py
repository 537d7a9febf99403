"""A command in a container, through the API server and the kubelet, as `kubectl exec -i` runs it.

The channels of its connection are standard input, output and error (0, 1, 2), and the result (3): a Status object.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import msgspec
from websocket import ABNF, WebSocketTimeoutException

from wirespeed import structs
from wirespeed.kube import websockets
from wirespeed.kube.api import Api, UnreachableError

_OUTPUT, _ERROR, _RESULT = 1, 2, 3
_PING = 20.0  # seconds without a message after which the other side is asked if it is there
_EXIT_CODE = "ExitCode"  # reason of the cause that has the exit status

Tell = Callable[[str], None]


class ExecuteError(Exception):
    """The command could not be run, or its exit status is not known; the kubelet's message."""


class Container(NamedTuple):
    namespace: str
    pod: str
    name: str


class Ended(NamedTuple):
    """A command that has ended, with its exit status and its standard output."""

    status: int
    output: bytes


class _Cause(msgspec.Struct):
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct):
    causes: list[_Cause] = []


@structs.prepared
class _Status(msgspec.Struct):
    status: str
    message: str = ""
    details: _Details | None = None


def execute(api: Api, container: Container, command: Sequence[str], *, tell: Tell) -> Ended:
    """Run a command until it ends; `tell` gets each line of its standard error.

    Its standard input is open and empty, and ends if this function is left early. The caller's rights are `get`
    and, since Kubernetes 1.35, `create` on pods/exec. Raises RefusedError, UnreachableError, ExecuteError.
    """
    wanted = [("container", container.name), *((name, "true") for name in ("stdin", "stdout", "stderr"))]
    query = urlencode([*wanted, *(("command", word) for word in command)])
    path = f"/api/v1/namespaces/{quote(container.namespace, safe='')}/pods/{quote(container.pod, safe='')}/exec"
    output, errors = bytearray(), _Lines(tell)
    with websockets.opened(api, f"{path}?{query}") as websocket:
        for channel, data in _messages(websocket):
            if channel == _OUTPUT:
                output += data
            elif channel == _ERROR:
                errors.add(data)
            elif channel == _RESULT and data:
                errors.end()
                return Ended(_exit_status(data), bytes(output))
    errors.end()
    raise ExecuteError("the connection was closed before the command had ended")


def _messages(websocket: Any) -> Iterator[tuple[int, bytes]]:
    """Yield the channel and the data of each message. Raises UnreachableError if the other side is silent."""
    websocket.settimeout(_PING)
    asked = False
    with websockets.lost():
        while True:
            try:
                kind, frame = websocket.recv_data_frame(True)
            except WebSocketTimeoutException as error:
                if asked:
                    raise UnreachableError(f"the connection has been silent for {2 * _PING:.0f} s") from error
                websocket.ping()
                asked = True
                continue
            asked = False
            if kind == ABNF.OPCODE_CLOSE:
                return
            if kind == ABNF.OPCODE_BINARY and frame.data:
                yield frame.data[0], frame.data[1:]


def _exit_status(data: bytes) -> int:
    """Return the exit status in the kubelet's result. Raises ExecuteError if the command has none."""
    try:
        result = msgspec.json.decode(data, type=_Status)
        if result.status == "Success":
            return 0
        for cause in result.details.causes if result.details else ():
            if cause.reason == _EXIT_CODE:
                return int(cause.message)
    except ValueError as error:  # msgspec's is one
        raise ExecuteError(f"its result is not understood: {error}") from error
    raise ExecuteError(" ".join(result.message.split()) or "no reason is given")


class _Lines:
    """Passes on whole lines of text that arrives in pieces."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def add(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + self._decoder.decode(data)).split("\n")
        for line in lines:
            self._tell(line)

    def end(self) -> None:
        if self._rest:
            self._tell(self._rest)
            self._rest = ""

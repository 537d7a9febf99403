"""The history of calls, with their steps: what changed the node or failed, for `wirespeed why` and `status`.

It is a log beside the journal, on tmpfs: lines of JSON, appended after the caller has its answer. A full file
becomes FILE.old, and the older FILE.old is removed: at most 2 * MAX_SIZE bytes are kept. Nothing that the node has
to undo depends on it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from wirespeed import structs
from wirespeed.trace import ROOT, Step

log = logging.getLogger(__name__)

MAX_SIZE = 2 << 20  # bytes of a file; 2000 calls or so


@structs.prepared
class Call(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A finished call. Times are in seconds; `at` is since 1970."""

    trace: str
    """trace id, 32 hexadecimal digits"""
    verb: str
    plugin: str
    container: str = ""
    ifname: str = ""
    pod: str = ""
    """namespace/name; empty for a container without a pod"""
    uid: str = ""
    """the pod's"""
    at: float
    """when it arrived"""
    seconds: float
    """from its arrival to its answer"""
    code: int = 0
    """the error code of the CNI specification; 0: it succeeded"""
    error: str = ""
    details: str = ""
    """what the error object has besides its message"""
    steps: list[Step] = []

    @property
    def failed_path(self) -> list[str]:
        """The steps that the error ended, the outermost first; empty if the call failed outside of all steps."""
        found, path = ROOT, []
        for index, each in enumerate(self.steps):
            if self.code and each.error and each.parent == found:
                found = index
                path.append(each.title)
        return path


class Calls:
    """The history at `path`, for several threads and processes that read it while one writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._old = path.with_name(f"{path.name}.old")
        self._lock = threading.Lock()
        self._failed = ""  # the error that was logged last

    def append(self, call: Call) -> None:
        """Add a call; a failure is only logged, as the call itself is over."""
        line = msgspec.json.encode(call) + b"\n"
        try:
            with self._lock:
                self._append(line)
        except OSError as error:
            if str(error) != self._failed:
                log.warning("history of calls %s: %s", self.path, error.strerror)
                self._failed = str(error)

    def _append(self, line: bytes) -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size + len(line) <= MAX_SIZE:
                os.write(fd, line)
                return
        finally:
            os.close(fd)
        self.path.rename(self._old)
        self._append(line[:MAX_SIZE])

    def read(self, pod: str = "") -> Iterator[Call]:
        """Yield the calls from the oldest to the newest, or those of the pod "namespace/name".

        Lines that cannot be read, such as the last one of a killed agent, are skipped. Raises OSError.
        """
        for path in (self._old, self.path):
            try:
                lines = path.read_bytes().splitlines()
            except FileNotFoundError:
                continue
            wanted = msgspec.json.encode(pod) if pod else b""
            for line in lines:
                if wanted in line:
                    try:
                        call = msgspec.json.decode(line, type=Call)
                    except msgspec.DecodeError:
                        continue
                    if not pod or call.pod == pod:
                        yield call

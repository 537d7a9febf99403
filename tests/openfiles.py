"""A process with many open files, as an agent is that serves many pods."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def many() -> Iterator[None]:
    """Meanwhile the next file has a number beyond those that select(2) takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as undo:
        undo.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        last = -1
        while last < 1024:
            last = os.open(os.devnull, os.O_RDONLY)
            undo.callback(os.close, last)
        yield

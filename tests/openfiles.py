"""A process with many open files, like an agent that serves many pods."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def many() -> Iterator[None]:
    """In the body, new file descriptors have numbers above 1023, which select(2) cannot handle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as undo:
        undo.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        last = -1
        while last < 1024:
            last = os.open(os.devnull, os.O_RDONLY)
            undo.callback(os.close, last)
        yield

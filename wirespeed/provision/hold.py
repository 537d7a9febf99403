"""Locks unused VFs while they are changed."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from wirespeed.cni.errors import CniError, Code
from wirespeed.node import NodeConfig
from wirespeed.provision import facts
from wirespeed.provision.owners import owners
from wirespeed.state.locks import device_lock

_LOCKED = 20.0  # seconds to wait for the locks; an attachment takes less


@contextmanager
def unused(vfs: Collection[str], config: NodeConfig, *, arriving: bool = False) -> Iterator[None]:
    """Lock VFs, given by address, as an attachment does, and check that nobody uses them.

    With `arriving`, their drivers may not have created their interfaces yet. Raises OSError, or CniError: POLICY
    that names the users, TRY_AGAIN_LATER if another request holds a lock, IO_FAILURE.
    """
    if not vfs:
        yield
        return
    folder, deadline = Path(config.state).parent / "locks", time.monotonic() + _LOCKED
    with ExitStack() as locks:
        for address in sorted(vfs):
            locks.enter_context(device_lock(folder, address, deadline=deadline))
        users = facts.in_use(vfs, Path(config.sysfs), owners=owners(config), arriving=arriving)
        if users:
            told = ", ".join(f"{address}: {user}" for address, user in sorted(users.items()))
            raise CniError(Code.POLICY, f"in use by now: {told}")
        yield

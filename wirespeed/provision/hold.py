"""Locks unused VFs while they are changed."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from wirespeed.errors import Error, Kind
from wirespeed.node import NodeConfig
from wirespeed.provision import facts
from wirespeed.provision.owners import owners
from wirespeed.state.locks import device_lock

_LOCK_TIMEOUT = 20.0  # seconds; an attachment holds a lock for less


@contextmanager
def lock_unused(vfs: Collection[str], config: NodeConfig, *, netdevs_pending: bool = False) -> Iterator[None]:
    """Lock VFs (PCI addresses) against attachments, and check that nobody uses them.

    With `netdevs_pending`, their drivers may not have created their interfaces yet. Raises OSError, or Error:
    POLICY that names the users, TRY_AGAIN if another request holds a lock, IO.
    """
    if not vfs:
        yield
        return
    folder, deadline = Path(config.state).parent / "locks", time.monotonic() + _LOCK_TIMEOUT
    with ExitStack() as locks:
        for address in sorted(vfs):
            locks.enter_context(device_lock(folder, address, deadline=deadline))
        users = facts.users_of(vfs, Path(config.sysfs), owners=owners(config), netdevs_pending=netdevs_pending)
        if users:
            users_text = ", ".join(f"{address}: {user}" for address, user in sorted(users.items()))
            raise Error(Kind.POLICY, f"in use now: {users_text}")
        yield

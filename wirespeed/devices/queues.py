"""The queues of a network function's interface and its RSS configuration: setting and restoring them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wirespeed.cni.errors import CniError, Code
from wirespeed.kernel import ethtool
from wirespeed.kernel.ethtool import Spread
from wirespeed.kernel.netlink.link import Link


def set_number(link: Link, count: int) -> None:
    """Set the number of queues. Raises OSError."""
    spread = ethtool.spread(link.name)
    if spread is not None and max(spread.table, default=0) >= count:
        # The kernel refuses to remove a queue that the RSS table uses: reset the table to the default first.
        ethtool.set_spread(link.name, table=())
    ethtool.set_queues(link.name, count)


def restore_number(link: Link, wanted: int | None) -> None:
    """Restore the number of queues; the pod may have changed it too. Raises CniError(DEVICE)."""
    now = ethtool.queues(link.name)
    if wanted is not None and now is not None and now.count != wanted:
        try:
            set_number(link, wanted)
        except OSError as error:
            raise CniError(
                Code.DEVICE, f"{link.name}: not restored: queues is {now.count}, was {wanted} ({error.strerror})"
            ) from error


def spread_changes(now: Spread, wanted: Spread) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the parts to change, as (part, arguments of set_spread), one by one: drivers may support only some."""
    if now.table != wanted.table:
        yield "table", {"table": wanted.table}
    if now.hash != wanted.hash:
        yield "hash", {"hash_name": wanted.hash}
    if now.key != wanted.key:
        yield "key", {"key": wanted.key}


def restore_spread(link: Link, wanted: Spread | None) -> None:
    """Restore the RSS configuration of a snapshot; the pod may have changed it too. Raises CniError(DEVICE)."""
    if wanted is None or (now := ethtool.spread(link.name)) is None:
        return
    for key, change in spread_changes(now, wanted):
        # Set the default table by resetting it: the kernel then adapts it when the number of queues changes.
        as_default = key == "table" and _is_default(link, wanted.table)
        try:
            ethtool.set_spread(link.name, **({"table": ()} if as_default else change))
        except OSError as error:
            raise CniError(Code.DEVICE, f"{link.name}: not restored: rss: its {key} ({error.strerror})") from error


def _is_default(link: Link, table: tuple[int, ...]) -> bool:
    """Whether it is the kernel's default table (ethtool_rxfh_indir_default)."""
    count = ethtool.receive_queues(link.name)
    return count > 0 and table == tuple(place % count for place in range(len(table)))

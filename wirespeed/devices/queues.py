"""The queues of a network function's interface and its RSS configuration: setting and restoring them."""

from __future__ import annotations

from typing import Any

from wirespeed.errors import Error, Kind
from wirespeed.kernel import ethtool
from wirespeed.kernel.ethtool import RssConfig
from wirespeed.kernel.netlink.link import Link


def set_count(link: Link, count: int) -> None:
    """Set the number of queues. Raises OSError."""
    rss = ethtool.read_rss(link.name)
    if rss is not None and max(rss.table, default=0) >= count:
        # The kernel refuses to remove a queue that the RSS table uses: reset the table to the default first.
        ethtool.set_rss(link.name, table=())
    ethtool.set_queues(link.name, count)


def restore_count(link: Link, wanted: int | None) -> None:
    """Restore the number of queues; the pod may have changed it too. Raises Error(DEVICE)."""
    now = ethtool.queues(link.name)
    if wanted is not None and now is not None and now.count != wanted:
        try:
            set_count(link, wanted)
        except OSError as error:
            what = f"not restored: queues is {now.count}, was {wanted} ({error.strerror})"
            raise Error(Kind.DEVICE, what, where=link.name) from error


def rss_changes(now: RssConfig, wanted: RssConfig) -> dict[str, Any]:
    """Return the parts to change, to be set one by one: drivers may support only some."""
    return {part: value for part, value in vars(wanted).items() if value != getattr(now, part)}


def restore_rss(link: Link, wanted: RssConfig | None) -> None:
    """Restore the RSS configuration of a snapshot; the pod may have changed it too. Raises Error(DEVICE)."""
    if wanted is None or (now := ethtool.read_rss(link.name)) is None:
        return
    for part, value in rss_changes(now, wanted).items():
        # Set the default table by resetting it: the kernel then adapts it when the number of queues changes.
        change: Any = () if part == "table" and _is_default(link, wanted.table) else value
        try:
            ethtool.set_rss(link.name, **{part: change})
        except OSError as error:
            what = f"not restored: the {part} of rss ({error.strerror})"
            raise Error(Kind.DEVICE, what, where=link.name) from error


def _is_default(link: Link, table: tuple[int, ...]) -> bool:
    """Whether it is the kernel's default table (ethtool_rxfh_indir_default)."""
    count = ethtool.rx_queue_count(link.name)
    return count > 0 and table == tuple(place % count for place in range(len(table)))

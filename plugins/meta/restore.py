"""Rows that the journal has lost, by a reboot or with its file, from the records on disk; and the other way."""

from __future__ import annotations

import logging
from dataclasses import replace

import msgspec

from wirespeed.cni.errors import CniError
from wirespeed.host.boot import boot_id
from wirespeed.plugins.meta.delegate import NOWHERE, of_earlier_boot, recorded, recorded_identity
from wirespeed.state.journal import Attachment
from wirespeed.state.records import KeptJournal

log = logging.getLogger(__name__)


def restore(journal: KeptJournal, container: str | None = None) -> None:
    """Have the journal know again what the records say of one container, or of all that it knows nothing of.

    Who owns which device, and what that was before, is not restored: of a device nothing old may be put back.
    """
    rows = [row for row in map(_restored, journal.lost(container)) if row is not None]
    if rows:
        journal.restore(rows)
        for row in rows:
            if not journal.records.has(row.container):  # another process has undone it meanwhile
                journal.forget(row.container, row.ifname)


def record_all(journal: KeptJournal) -> None:
    """Record what the journal knows and the records do not: agents of before kept none."""
    for rows in journal.unrecorded():
        try:
            journal.records.add(
                [replace(row, record={**row.record, "boot": row.record.get("boot", boot_id())}) for row in rows]
            )
            if not journal.attachments(rows[0].container):  # another process has undone it meanwhile
                journal.records.remove(rows[0].container)
        except CniError as error:
            log.warning("%s; a reboot would lose what container %s holds", error.msg, rows[0].container)


def _restored(row: Attachment) -> Attachment | None:
    """The row as it is now; None where the record is not one that can be used."""
    row = replace(row, record={"boot": "", **row.record})
    try:
        recorded(row), recorded_identity(row)
    except (msgspec.ValidationError, KeyError) as error:
        log.warning("record of container %s: %s cannot be used: %r", row.container, row.ifname, error)
        return None
    if of_earlier_boot(row):
        # What was there before the reboot has numbers that the kernel has given to others since.
        return replace(row, record={**row.record, "netns": msgspec.to_builtins(NOWHERE)})
    return row

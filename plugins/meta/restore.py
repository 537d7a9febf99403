"""Restores journal rows, lost by a reboot or with the journal's file, from the records on disk, and vice versa."""

from __future__ import annotations

import logging
from dataclasses import replace

import msgspec

from wirespeed.errors import Error
from wirespeed.kernel.boot import boot_id
from wirespeed.plugins.meta.delegate import NO_NETNS, of_earlier_boot, recorded_delegate, recorded_identity
from wirespeed.state.journal import Attachment
from wirespeed.state.records import RecordedJournal

log = logging.getLogger(__name__)


def restore(journal: RecordedJournal, container: str | None = None) -> None:
    """Restore the journal rows of one container, or of all containers that have a record but no row.

    Device claims with the devices' original settings are not restored: old settings must not be applied to a device
    that may have another owner now.
    """
    rows = [row for row in map(_restorable_row, journal.rows_only_in_records(container)) if row is not None]
    if rows:
        journal.restore(rows)
        for row in rows:
            if not journal.records.has(row.container):  # undone by another process meanwhile
                journal.forget(row.container, row.ifname)


def record_all(journal: RecordedJournal) -> None:
    """Write the missing records of containers in the journal: older agents wrote none."""
    for rows in journal.rows_without_record():
        try:
            journal.records.add(
                [replace(row, record={**row.record, "boot": row.record.get("boot", boot_id())}) for row in rows]
            )
            if not journal.attachments(rows[0].container):  # undone by another process meanwhile
                journal.records.remove(rows[0].container)
        except Error as error:
            log.warning(
                "%s; after a reboot, the resources of container %s could not be released",
                error.msg,
                rows[0].container,
            )


def _restorable_row(row: Attachment) -> Attachment | None:
    """Return the row to restore; None if the record cannot be used."""
    row = replace(row, record={"boot": "", **row.record})
    try:
        recorded_delegate(row), recorded_identity(row)
    except (msgspec.ValidationError, KeyError) as error:
        log.warning("record of container %s: %s cannot be used: %r", row.container, row.ifname, error)
        return None
    if of_earlier_boot(row):
        # The kernel may have reused the namespace's numbers after the reboot.
        return replace(row, record={**row.record, "netns": msgspec.to_builtins(NO_NETNS)})
    return row

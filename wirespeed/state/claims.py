"""Claims of one plugin on devices, in the journal: finding, undoing and releasing them.

A claim is released when everything that its ADD changed is undone. If only a port of a virtual switch is left
because the switch is down, the claim stays at step REMOVING until the switch runs again: a switch that is down does
not block the deletion of a pod.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol, TypeVar

import msgspec

from wirespeed import trace
from wirespeed.errors import Error, Kind, Thing, flatten
from wirespeed.extras import MissingExtraError
from wirespeed.kernel import netns
from wirespeed.state.journal import ClaimStep, DeviceClaim, DeviceTakenError, Journal
from wirespeed.switches.switch import SwitchDownError

log = logging.getLogger(__name__)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a claim in the journal; each plugin adds its own fields.

    `version` is the version of the fields. New fields have a default, so that a plugin can read older records.
    """

    VERSION: ClassVar[int] = 1

    network: str = ""
    version: int = VERSION

    def to_json(self) -> dict[str, Any]:
        """Convert it to JSON values, which `read` takes."""
        return msgspec.json.decode(msgspec.json.encode(self))  # type: ignore[no-any-return]


R = TypeVar("R", bound=Record)


def read(claim: DeviceClaim, kind: type[R]) -> R:
    """Return the claim's record. Raises Error(INVALID_DATA) that names the device and the field."""
    where = (Thing("device", claim.device), "its record in the journal")
    try:
        record = msgspec.convert(claim.record, kind)
    except msgspec.ValidationError as error:
        raise Error(Kind.INVALID_DATA, str(error), where=where) from error
    if record.version > kind.VERSION:
        expected = f"version {kind.VERSION} or older (is this an older release?)"
        raise Error(Kind.INVALID_DATA, where=where, expected=expected, got=record.version)
    return record


class Undo(Protocol):
    """Undoes what an ADD changed, from any state; `port`: whether to remove the port from the switch.

    Every part is attempted even if an earlier one fails. Raises Error; if only the port could not be removed,
    `only_port_left` is true for this error.
    """

    def __call__(self, claim: DeviceClaim, *, deadline: float, port: bool) -> None: ...


class Claims:
    """The claims of one plugin. `lock` is held while a claim is undone, which is the step `undoing` of a call.

    Deadlines are times of time.monotonic().
    """

    def __init__(
        self,
        journal: Journal,
        plugin: str,
        *,
        lock: Callable[[DeviceClaim, float], AbstractContextManager[None]],
        undo: Undo,
        undoing: str = "restore the device",
    ) -> None:
        self._journal, self._plugin = journal, plugin
        self._lock, self._undo, self._undoing = lock, undo, undoing

    def claims_of_network(self, network: str, *, keep: Collection[tuple[str, str]]) -> list[DeviceClaim]:
        """Return the network's claims, except those of the attachments (container, interface) in `keep`."""
        return [
            claim
            for claim in self._journal.claims()
            if claim.plugin == self._plugin
            and claim.record.get("network") == network
            and (claim.container, claim.ifname) not in keep
        ]

    def releasable_claim(self, device: str, container: str, ifname: str) -> DeviceClaim | None:
        """Return the claim on the device if its pod is gone or only its port is left; None if there is no claim.

        Raises DeviceTakenError if the pod is alive; the message names `container` and `ifname`, which want the
        device.
        """
        owner = self._journal.owner(device)
        if owner is None or owner.step == ClaimStep.REMOVING or not netns.alive(owner.netns, owner.identity):
            return owner
        raise DeviceTakenError(device, container, ifname, owner)

    def undo_and_release(self, claim: DeviceClaim, *, deadline: float, step: ClaimStep | None = None) -> None:
        """Lock, undo and release a claim, unless another call has done so; with `step`, only at that step."""
        with self._lock(claim, deadline):
            now = self._journal.device_of(claim.container, claim.ifname)
            if now is not None and now.device == claim.device and step in {None, now.step}:
                self.undo_and_release_locked(now, deadline=deadline)

    def undo_and_release_locked(self, claim: DeviceClaim, *, deadline: float, port: bool = True) -> None:
        """Undo and release a claim whose lock is held. If only its port is left, it stays at step REMOVING."""
        try:
            with trace.step(self._undoing, device=claim.device):
                self._undo(claim, deadline=deadline, port=port)
                self._journal.release(claim)
        except Error as error:
            if not only_port_left(error):
                raise
            log.warning("%s: its port is removed from the switch later: %s", claim.device, error.msg)
            self._journal.advance(claim, ClaimStep.REMOVING)

    def finish_removals(self, *, deadline: float, wanted: Callable[[DeviceClaim], bool] = lambda _: True) -> None:
        """Remove the ports of `wanted` claims that were left because the switch was down; stop at a failure."""
        for claim in self._journal.claims(step=ClaimStep.REMOVING):
            if claim.plugin != self._plugin or not wanted(claim):
                continue
            try:
                # Only at REMOVING: the same attachment may have been created again meanwhile.
                self.undo_and_release(claim, deadline=deadline, step=ClaimStep.REMOVING)
            except Error as error:
                log.warning("%s: %s", claim.device, error.msg)
            owner = self._journal.owner(claim.device)
            if owner is not None and owner.step == ClaimStep.REMOVING:
                return


def only_port_left(*errors: Error) -> bool:
    """Whether all errors mean that a switch cannot be reached now."""
    return all(
        isinstance(each, (SwitchDownError, MissingExtraError)) for error in errors for each in flatten(error)
    )

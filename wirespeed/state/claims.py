"""The devices of one plugin: claimed in the journal, given to a pod, given back.

A device is given back when all that its ADD changed is undone. If the only thing left is a port of a virtual switch
that is down, the device stays claimed at the step REMOVING until the switch runs again: a switch that is down does
not block the deletion of a pod.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol, TypeVar

import msgspec

from wirespeed.cni.errors import CniError, Code, combined
from wirespeed.extras import MissingExtraError
from wirespeed.kernel import netns
from wirespeed.state.journal import ClaimStep, DeviceClaim, DeviceTakenError, Journal
from wirespeed.switches.switch import SwitchDownError

log = logging.getLogger(__name__)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What the journal has of a claim; each plugin adds its own fields.

    `version` is that of the fields. Fields that are new have a default, so that a plugin reads older records.
    """

    VERSION: ClassVar[int] = 1

    network: str = ""
    version: int = VERSION

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values for `read`."""
        return msgspec.json.decode(msgspec.json.encode(self))  # type: ignore[no-any-return]


R = TypeVar("R", bound=Record)


def read(claim: DeviceClaim, kind: type[R]) -> R:
    """Return the claim's record. Raises CniError(DECODING_FAILURE) that names the device and the field."""
    try:
        record = msgspec.convert(claim.record, kind)
    except msgspec.ValidationError as error:
        raise CniError(
            Code.DECODING_FAILURE, f"device {claim.device}: its record in the journal: {error}"
        ) from error
    if record.version > kind.VERSION:
        raise CniError(
            Code.DECODING_FAILURE,
            f"device {claim.device}: its record in the journal is of version {record.version}; expected at most "
            f"{kind.VERSION} (is this an older release?)",
        )
    return record


class Undo(Protocol):
    """Undoes what an ADD changed, from any state; `port` is whether to remove the port from the switch.

    Each part is attempted even if an earlier one failed. Raises CniError and OSError; SwitchDownError or
    MissingExtraError if nothing but the port is left.
    """

    def __call__(self, claim: DeviceClaim, *, deadline: float, port: bool) -> None: ...


class Claims:
    """The claims of one plugin. `lock` is held while a claim is given back. Deadlines are of time.monotonic()."""

    def __init__(
        self,
        journal: Journal,
        plugin: str,
        *,
        lock: Callable[[DeviceClaim, float], AbstractContextManager[None]],
        undo: Undo,
    ) -> None:
        self._journal, self._plugin = journal, plugin
        self._lock, self._undo = lock, undo

    def of_network(self, network: str, *, but: Collection[tuple[str, str]]) -> list[DeviceClaim]:
        """Return the network's claims, except those of the attachments `but`: (container, interface)."""
        return [
            claim
            for claim in self._journal.claims()
            if claim.plugin == self._plugin
            and claim.record.get("network") == network
            and (claim.container, claim.ifname) not in but
        ]

    def of_dead_owner(self, device: str, container: str, ifname: str) -> DeviceClaim | None:
        """Return the claim on the device if its owner's pod is gone or only a port is left; None without an owner.

        Raises DeviceTakenError for `container` and `ifname` if the owner is alive.
        """
        owner = self._journal.owner(device)
        if owner is None or owner.step == ClaimStep.REMOVING or not netns.alive(owner.netns, owner.identity):
            return owner
        raise DeviceTakenError(device, container, ifname, owner)

    def give_back(self, claim: DeviceClaim, *, deadline: float, step: ClaimStep | None = None) -> None:
        """Undo and release a claim, unless another call did so meanwhile; with `step`, only at that step."""
        with self._lock(claim, deadline):
            now = self._journal.device_of(claim.container, claim.ifname)
            if now is not None and now.device == claim.device and step in {None, now.step}:
                self.take_back(now, deadline=deadline)

    def take_back(self, claim: DeviceClaim, *, deadline: float, port: bool = True) -> None:
        """Undo and release a claim whose lock is held; it stays at the step REMOVING if only its port is left."""
        try:
            self._undo(claim, deadline=deadline, port=port)
        except CniError as error:
            if not only_port_left([error]):
                raise
            log.warning("%s: its port is removed from the switch later: %s", claim.device, error.msg)
            self._journal.advance(claim, ClaimStep.REMOVING)
        else:
            self._journal.release(claim)

    def finish_removals(self, *, deadline: float, wanted: Callable[[DeviceClaim], bool] = lambda _: True) -> None:
        """Remove the ports, of `wanted` claims, that were left because the switch was down; stop at a failure."""
        for claim in self._journal.claims(step=ClaimStep.REMOVING):
            if claim.plugin != self._plugin or not wanted(claim):
                continue
            try:
                # Only at REMOVING: the same attachment may have been created again meanwhile.
                self.give_back(claim, deadline=deadline, step=ClaimStep.REMOVING)
            except CniError as error:
                log.warning("%s: %s", claim.device, error.msg)
            owner = self._journal.owner(claim.device)
            if owner is not None and owner.step == ClaimStep.REMOVING:
                return


def all_of(steps: Sequence[Callable[[], None]]) -> None:
    """Run every step even if earlier ones fail. Raises CniError as `raise_all`."""
    raise_all(errors_of(steps))


def raise_all(errors: Sequence[CniError]) -> None:
    """Raise the only error, or one with the messages of all errors; nothing without errors.

    If all of them only say that a switch is down, raise the first one: nothing but a port is left then.
    """
    if errors:
        raise errors[0] if len(errors) == 1 or only_port_left(errors) else combined(errors)


def only_port_left(errors: Sequence[CniError]) -> bool:
    """Whether the errors only say that a switch cannot be reached now."""
    return all(isinstance(error, (SwitchDownError, MissingExtraError)) for error in errors)


def errors_of(steps: Sequence[Callable[[], None]]) -> list[CniError]:
    """Run every step even if earlier ones fail; return the errors, an OSError as CniError(IO_FAILURE)."""
    errors = []
    for step in steps:
        try:
            step()
        except CniError as error:
            errors.append(error)
        except OSError as error:
            log.warning("%s", error, exc_info=True)
            errors.append(CniError(Code.IO_FAILURE, str(error)))
    return errors

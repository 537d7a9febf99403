"""What virtual switches have in common: they may be down."""

from __future__ import annotations

from wirespeed.cni.errors import CniError, Code

ANSWER_AT_MOST = 20.0  # seconds that a switch has for one call, where the request's deadline is later


class SwitchDownError(CniError):
    """The switch does not answer; what was to be taken from it can be taken later."""

    def __init__(self, what: str) -> None:
        super().__init__(Code.TRY_AGAIN_LATER, what)


class UnreachedError(SwitchDownError):
    """The switch could not be reached: it knows nothing of what was to be asked."""

"""The error that the lab reports as one line of text."""


class LabError(Exception):
    """What went wrong, in one line; `detail` has more lines, such as the end of a log."""

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


def tail(text: str, lines: int) -> str:
    """Return the last lines of a log, for `LabError.detail`."""
    return "\n".join(text.rstrip().splitlines()[-lines:])

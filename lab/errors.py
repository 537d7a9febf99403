"""The one error that the lab reports as a line of text."""


class LabError(Exception):
    """What went wrong, in one line; `detail` holds more lines, such as the end of a log."""

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


def tail(text: str, lines: int) -> str:
    """The last lines of a log, for `LabError.detail`."""
    return "\n".join(text.rstrip().splitlines()[-lines:])

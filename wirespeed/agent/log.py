"""The agent's log: one line per event on standard error, `time LEVEL message key=value ...`."""

from __future__ import annotations

import json
import logging
import re
import time

from wirespeed.trace import trace_id

_BARE = re.compile(r"[A-Za-z0-9_./:@%+,\-]+")


class LineFormatter(logging.Formatter):
    """Formats a record in one line, whatever its message, its `fields` or a traceback contain."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = dict(getattr(record, "fields", {}))
        if "trace" not in fields and (trace := trace_id()):
            fields["trace"] = trace
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        pairs = "".join(f" {key}={_format_value(value)}" for key, value in fields.items() if value != "")
        message = "".join(c if c.isprintable() else repr(c)[1:-1] for c in record.getMessage())
        return f"{moment}.{int(record.msecs):03}Z {record.levelname} {message}{pairs}"


def _format_value(value: object) -> str:
    text = f"{value:.2f}" if isinstance(value, float) else str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text)


def to_stderr(level: str) -> None:
    """Log all modules' records of `level` ("debug", "info", "warning", "error") or higher to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)

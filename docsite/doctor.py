"""docs/doctor.md: the tables of the checks of `wirespeed doctor`, from the checks themselves.

python -m docsite.doctor    # write them into the page: make docs

A table stands between `<!-- checks: SUBJECT -->` and `<!-- end -->`; the rest of the page is written by hand.
"""

from __future__ import annotations

import re
from pathlib import Path

from wirespeed.doctor import CHECKS, Check, Subject

PAGE = Path(__file__).parents[1] / "docs/doctor.md"
_TABLE = re.compile(r"(?P<head><!-- checks: (?P<name>[^>]+) -->\n)(?:\|.*\n)*(?P<end>\n<!-- end -->\n)")


def page(text: str) -> str:
    """Return the text of the page with the tables as the code declares them."""
    return _TABLE.sub(lambda match: match["head"] + _table(Subject(match["name"])) + match["end"], text)


def subjects(text: str) -> list[str]:
    """Return the subjects that have a table in the page."""
    return [match["name"] for match in _TABLE.finditer(text)]


def _table(subject: Subject) -> str:
    rows = [_row(each) for each in CHECKS.values() if each.subject is subject]
    head = ["| check | what should be | otherwise | why it matters |", "|---|---|---|---|"]
    return "".join(f"{line}\n" for line in (*head, *rows))


def _row(check: Check) -> str:
    cells = (f"`{check.id}`", _cell(check.expected), check.otherwise.value, _cell(f"{check.why} [{check.source}]"))
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("_", "\\_").replace("*", "\\*")


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))

"""docs/drawings: the SVG of each drawing, from the text beside it.

python -m docsite.drawings    # draw those whose text has changed: make drawings
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs/drawings"
# The program that draws a kind of text: the text on standard input, the SVG on standard output.
PROGRAMS = {
    ".answers": (sys.executable, "-m", "docsite.dashboard"),
    ".dot": ("dot", "-Tsvg"),
    ".json": (sys.executable, "-m", "docsite.waterfall"),
    ".puml": ("plantuml", "-pipe", "-tsvg", "-nometadata", "-charset", "UTF-8"),
}


def sources() -> Iterator[Path]:
    return (path for path in sorted(FOLDER.iterdir()) if path.suffix in PROGRAMS)


def is_current(source: Path) -> bool:
    """Whether the SVG was drawn from the text as it is now."""
    drawn = source.with_suffix(".svg")
    return drawn.exists() and _mark(source) in drawn.read_text()


def _mark(source: Path) -> str:
    """The comment in an SVG that identifies its text. The SVG itself depends on the version of the program."""
    return f"<!-- sha256 of {source.name}: {hashlib.sha256(source.read_bytes()).hexdigest()} -->"


def _draw(source: Path) -> None:
    run = subprocess.run(
        PROGRAMS[source.suffix], input=source.read_text(), capture_output=True, text=True, check=False
    )
    if run.returncode:
        sys.exit(f"{source.name}: {run.stderr.strip()}")
    declaration, end, svg = run.stdout.partition("?>")
    source.with_suffix(".svg").write_text(f"{declaration}{end}\n{_mark(source)}\n{svg.strip()}\n")


if __name__ == "__main__":
    for each in sources():
        if not is_current(each):
            _draw(each)

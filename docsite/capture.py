"""A terminal's text as an SVG: `python -m docsite.capture TITLE < transcript.txt > docs/NAME.svg`."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text


def svg(lines: Iterable[str], title: str, *, width: int = 120) -> str:
    """Return the drawing of a terminal with these lines; what the user types and headings (#) are bold."""
    console = Console(record=True, width=width, file=io.StringIO(), highlight=False)
    for line in lines:
        if line.startswith(("#", "$ ", "All is as")):
            console.print(line, style="bold", markup=False)
        elif line.startswith("pod ") and ": " in line and ", ready " in line:
            console.print(line, style="dim", markup=False)
        else:
            console.print(Text.from_ansi(line), soft_wrap=len(line) <= width)
    # Without the fonts that the SVG would load from a web site.
    bare = re.sub(r"@font-face {{.*?}}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    return console.export_svg(title=title, code_format=bare)


if __name__ == "__main__":
    sys.stdout.write(svg(sys.stdin.read().splitlines(), sys.argv[1]))

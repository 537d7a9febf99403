"""The version: `__version__` in wirespeed/__init__.py, and the other places that repeat it.

python -m release.version           # show it, and fail if a place differs
python -m release.version 0.2.0     # set it everywhere: make version VERSION=0.2.0
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from deploy import manifests
from image.recipe import ROOT
from lab.errors import LabError

SOURCE = Path("wirespeed/__init__.py")
CHART = Path("deploy/chart")
# X.Y.Z only: it is also the chart's version (SemVer) and part of file names (PEP 440), which spell everything else
# differently.
_NUMBER = r"(?P<version>(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*))"
_OWN_PATTERNS = {
    SOURCE: rf'(?m)^__version__ = "{_NUMBER}"$',
    CHART / "Chart.yaml": rf'(?m)^(?:version|appVersion): "?{_NUMBER}"?$',
}
# Everywhere else: images (wirespeed:X.Y.Z), files that are named after the version (wirespeed-X.Y.Z.tar), and
# requirements (wirespeed-eal==X.Y.Z). eal/version.py is a link to SOURCE.
_PATTERN = rf"\bwirespeed(?:[-_][a-z]+)?(?:[:-]|==){_NUMBER}"
# Old versions stay in the change log; tests compare with versions of their own.
_SKIPPED_FILES = {"CHANGELOG.md"}
_SKIPPED_FOLDERS = {"build", "out", "tests", "__pycache__"}
KUSTOMIZATIONS = tuple(Path("deploy", folder, "kustomization.yaml") for folder in ("", "uninstall", "web"))


class Place(NamedTuple):
    """A version in a file: its path below the root, its line, and the version that stands there."""

    path: Path
    line: int
    version: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.version}"


def current(root: Path = ROOT) -> str:
    """The version of the source tree `root`. Raises LabError."""
    found = re.search(_OWN_PATTERNS[SOURCE], (root / SOURCE).read_text())
    if found is None:
        raise LabError(f'{SOURCE}: expected __version__ = "X.Y.Z"')
    return found["version"]


def places(root: Path = ROOT) -> list[Place]:
    """Every place that repeats the version, and the source itself."""
    return sorted(
        Place(path, text.count("\n", 0, found.start("version")) + 1, found["version"])
        for path, text in _texts(root)
        for found in re.finditer(_OWN_PATTERNS.get(path, _PATTERN), text)
    )


def differing(root: Path = ROOT) -> list[Place]:
    """The places with another version than the source's."""
    return [place for place in places(root) if place.version != current(root)]


def set_everywhere(version: str, root: Path = ROOT) -> list[Path]:
    """Write `version` to every place; the paths of the files that changed. Raises LabError."""
    if not re.fullmatch(_NUMBER, version):
        raise LabError(f'version: expected three numbers like "0.2.0", got "{version}"')
    old_digest = manifests.chart_digest(root / CHART)
    changed = []
    for path, text in list(_texts(root)):
        # What stands before the version in a match has no digits.
        pattern = _OWN_PATTERNS.get(path, _PATTERN)
        new = re.sub(pattern, lambda found: found[0].replace(found["version"], version), text)
        if new != text:
            (root / path).write_text(new)
            changed.append(path)
    return sorted({*changed, *_write_digest(root, old_digest)})


def _write_digest(root: Path, old: str) -> Iterator[Path]:
    """Replace the chart's digest in the manifests; one that was out of date stays, for `make manifests`."""
    new = manifests.chart_digest(root / CHART)
    for path in KUSTOMIZATIONS:
        text = (root / path).read_text()
        if old != new and old in text:
            (root / path).write_text(text.replace(old, new))
            yield path


def _texts(root: Path) -> Iterator[tuple[Path, str]]:
    """The text files that may repeat the version, by their paths below the root. Links are not followed."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(
            name
            for name in folders
            if name not in _SKIPPED_FOLDERS and not name.startswith(".") and not name.endswith(".egg-info")
        )
        for name in sorted(set(files) - _SKIPPED_FILES):
            path = Path(folder, name)
            if not path.is_symlink() and path.suffix != ".lock":
                with suppress(UnicodeDecodeError):
                    yield path.relative_to(root), path.read_text()


def main() -> int:
    """Show or set the version; 1 if a place differs, or if the version is invalid."""
    parser = argparse.ArgumentParser(description="Show the version, or set it in every file that repeats it.")
    parser.add_argument("version", nargs="?", metavar="X.Y.Z")
    version: str | None = parser.parse_args().version
    try:
        if version is not None:
            for path in set_everywhere(version):
                print(path)
        print(current())
    except LabError as error:
        print(f"version: {error}", file=sys.stderr)
        return 1
    if wrong := differing():
        print("version: these places differ:", *wrong, sep="\n", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

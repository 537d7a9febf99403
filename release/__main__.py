"""The command line: python3 -m release. Builds the release of the last commit into build/release."""

from __future__ import annotations

import argparse
import os
import sys

from deploy import manifests
from image.recipe import ROOT
from lab.errors import LabError
from lab.progress import Progress
from release.build import build

TARGET = ROOT / "build/release"


def main() -> int:
    """Build the release; 1 if it is refused, or a step fails."""
    description = f"Build the release of the last commit into {TARGET.relative_to(ROOT)}."
    argparse.ArgumentParser(prog="python3 -m release", description=description).parse_args()
    os.umask(0o022)  # the modes of files are in what is built
    try:
        with Progress(label="release") as progress:
            manifests.helm()
            for path in build(TARGET, progress):
                progress.say(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e3:,.0f} kB")
    except LabError as error:
        print(f"release: {error}", *filter(None, [error.detail]), sep="\n", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

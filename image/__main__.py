"""The command line: python3 -m image [NAME ...] [--arch amd64 --arch arm64] [--out FOLDER]."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from image.build import build
from image.recipe import ARCHITECTURES, IMAGES, ROOT, version
from lab.errors import LabError
from lab.progress import Progress


def main() -> int:
    """Build the requested images; return 1 if one could not be built."""
    parser = argparse.ArgumentParser(prog="python3 -m image", description="Build container images as OCI archives.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one or more of {', '.join(IMAGES)} (default: all)"
    )
    parser.add_argument("--arch", action="append", choices=ARCHITECTURES, help="may be repeated (default: both)")
    parser.add_argument("--out", type=Path, default=ROOT / "build/images", help="directory for the archives")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(IMAGES):
        parser.error(f"unknown image {', '.join(sorted(unknown))}: expected {', '.join(IMAGES)}")
    os.umask(0o022)  # the modes of files are in the image
    try:
        with Progress(label="image") as progress:
            for name in arguments.names or IMAGES:
                target = arguments.out / f"{name}-{version()}.tar"
                digest = build(IMAGES[name], arguments.arch or list(ARCHITECTURES), target, progress)
                progress.say(f"{target}: {target.stat().st_size / 1e6:.0f} MB, {digest}")
    except LabError as error:
        print(f"image: {error}", *filter(None, [error.detail]), sep="\n", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

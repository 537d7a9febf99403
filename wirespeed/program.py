"""Packs `wirespeed.eal.inpod` into one executable file, for images and for the containers of `wirespeed play`."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

_PACKAGE = "wirespeed_eal"  # the package name in the distribution wirespeed-eal, so that programs can import it
_MAIN = f"import sys\n\nfrom {_PACKAGE}.inpod import main\n\nsys.exit(main(sys.argv[1:]))\n"


def write(path: Path, interpreter: str) -> None:
    """Write the program, with `interpreter` in its first line. The build is reproducible."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for source in sorted((Path(__file__).parent / "eal").glob("*.py")):
            # The earliest time that the format can store.
            archive.writestr(zipfile.ZipInfo(f"{_PACKAGE}/{source.name}"), source.read_bytes())
        archive.writestr(zipfile.ZipInfo("__main__.py"), _MAIN)
    path.write_bytes(f"#!{interpreter} -IS\n".encode() + content.getvalue())
    path.chmod(0o755)

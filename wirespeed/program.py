"""Makes the program of `wirespeed.eal.inpod` one file, for images and for the containers of a play."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

_PACKAGE = "wirespeed_eal"  # as the distribution wirespeed-eal calls the package, for programs that import it
_MAIN = f"import sys\n\nfrom {_PACKAGE}.inpod import main\n\nsys.exit(main(sys.argv[1:]))\n"


def write(path: Path, interpreter: str) -> None:
    """Write the file, which the Python at `interpreter` runs. The same sources make the same file."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for source in sorted((Path(__file__).parent / "eal").glob("*.py")):
            # An entry's time is the first that the format can tell.
            archive.writestr(zipfile.ZipInfo(f"{_PACKAGE}/{source.name}"), source.read_bytes())
        archive.writestr(zipfile.ZipInfo("__main__.py"), _MAIN)
    path.write_bytes(f"#!{interpreter} -IS\n".encode() + content.getvalue())
    path.chmod(0o755)

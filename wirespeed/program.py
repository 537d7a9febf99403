"""Makes the program of `wirespeed.inpod` one file, for images and for the containers of a play."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

_MAIN = "import sys\n\nfrom wirespeed.inpod import main\n\nsys.exit(main(sys.argv[1:]))\n"


def write(path: Path, interpreter: str) -> None:
    """Write the file, which the Python at `interpreter` runs. The same sources make the same file."""
    package = Path(__file__).parent
    sources = [package / name for name in ("__init__.py", "inpod.py", "ready.py")]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for source in [*sources, *sorted((package / "eal").glob("*.py"))]:
            # An entry's time is the first that the format can tell.
            archive.writestr(zipfile.ZipInfo(f"{package.name}/{source.relative_to(package)}"), source.read_bytes())
        archive.writestr(zipfile.ZipInfo("__main__.py"), _MAIN)
    path.write_bytes(f"#!{interpreter} -IS\n".encode() + content.getvalue())
    path.chmod(0o755)

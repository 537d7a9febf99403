"""Compiles the Python sources of an image."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from image.run import run


def compile_sources(sources: Path, path: str, interpreter: Path) -> None:
    """Compile the Python sources reproducibly; `path` is their directory in the image.

    Otherwise each container compiles what it imports, anew after each restart.
    """
    with tempfile.TemporaryDirectory(dir=interpreter / "tmp") as folder:
        inside = Path(folder, "sources")
        place = f"/{inside.relative_to(interpreter)}"
        # Copied into the interpreter's root and back, which needs no mount.
        shutil.copytree(sources, inside, symlinks=True)
        # -B: what the compiler writes depends on whether it runs from bytecode itself, so it must not leave any.
        program = ["chroot", str(interpreter), "/usr/bin/python3", "-IB", "-m", "compileall", "-q"]
        run([*program, "--invalidation-mode", "unchecked-hash", "-s", place, "-p", path, place])
        for compiled in inside.rglob("__pycache__"):
            shutil.copytree(compiled, sources / compiled.relative_to(inside))

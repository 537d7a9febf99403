"""What an application's image has of this project: the program `wirespeed eal` and `ready`, and the EAL library."""

from __future__ import annotations

from pathlib import Path

from image.recipe import ARCHITECTURES, PREFIX, ROOT
from image.run import run
from wirespeed import program

LIBRARY = "libwirespeed_eal.so"


def install(root: Path, *, architecture: str) -> None:
    """Put them into `root`: the program where PATH finds it, the libraries where C's and Python's are looked for.

    Raises LabError.
    """
    script = root / PREFIX / "bin/wirespeed"
    script.parent.mkdir(parents=True)
    program.write(script, "/usr/bin/python3")
    # What Python imports is in the program's file.
    packages = root / "usr/lib/python3/dist-packages"
    packages.mkdir(parents=True)
    (packages / "wirespeed.pth").write_text(f"/{PREFIX}/bin/wirespeed\n")
    compiler = ARCHITECTURES[architecture].compiler
    libraries = root / "usr/lib" / compiler.removesuffix("-gcc")
    libraries.mkdir()
    flags = ("-std=c11", "-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror")
    source = ROOT / "eal/wirespeed_eal/c/wirespeed_eal.c"
    run([compiler, *flags, "-o", str(libraries / LIBRARY), str(source)])

"""Installs the programs `wirespeed eal` and `wirespeed ready` and the EAL library in an application's image."""

from __future__ import annotations

from pathlib import Path

from image.recipe import ARCHITECTURES, PREFIX, ROOT
from image.run import run
from wirespeed import program

LIBRARY = "libwirespeed_eal.so"


def install(root: Path, *, architecture: str) -> None:
    """Install the program in a new root, and the libraries where C and Python find them. Raises LabError."""
    script = root / PREFIX / "bin/wirespeed"
    script.parent.mkdir(parents=True)
    program.write(script, "/usr/bin/python3")
    # The program is a zip archive from which Python imports the package.
    packages = root / "usr/lib/python3/dist-packages"
    packages.mkdir(parents=True)
    (packages / "wirespeed.pth").write_text(f"/{PREFIX}/bin/wirespeed\n")
    compiler = ARCHITECTURES[architecture].compiler
    libraries = root / "usr/lib" / compiler.removesuffix("-gcc")
    libraries.mkdir()
    flags = ("-std=c11", "-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror")
    source = ROOT / "eal/wirespeed_eal/c/wirespeed_eal.c"
    run([compiler, *flags, "-o", str(libraries / LIBRARY), str(source)])

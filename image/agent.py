"""Installs the agent in an image: a virtual environment with its libraries, the program and the shim."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from image.python import compile_sources
from image.recipe import ARCHITECTURES, PREFIX, PYTHON, ROOT
from image.run import run
from lab.errors import LabError

# The Kubernetes client's second API, for asyncio, and its dependencies. The agent does not use them.
_ASYNC = ("kubernetes/aio", "aiohttp", "aiohttp_retry", "aiosignal", "frozenlist", "multidict", "propcache", "yarl")
# Their metadata goes too: scanners would report what is not there.
_FOR_SHELLS = ("man", "bash-completion", "zsh", "fish")  # what the wheel has for people
UNUSED = (
    *(
        f"{PREFIX}/lib/python{PYTHON}/site-packages/{name}{rest}"
        for name in _ASYNC
        for rest in ("/*", "-*.dist-info")
    ),
    *(f"{PREFIX}/share/{name}*" for name in _FOR_SHELLS),
)
LOCK = ROOT / "deploy" / "images" / "requirements.lock"
_SCRIPT = f"""#!/{PREFIX}/bin/python3
import sys

from wirespeed.cli.main import main

sys.exit(main())
"""


def install(root: Path, *, architecture: str, interpreter: Path) -> None:
    """Install the agent in a new root. `interpreter` is one with PYTHON for this machine. Raises LabError."""
    prefix = root / PREFIX
    packages = prefix / "lib" / f"python{PYTHON}" / "site-packages"
    packages.mkdir(parents=True)
    (prefix / "bin").mkdir()
    (prefix / "bin/python3").symlink_to("/usr/bin/python3")
    (prefix / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {PYTHON}\n"
    )
    _libraries(packages, architecture)
    _program(packages, prefix)
    _shim(prefix / "share/wirespeed/wirespeed-cni", architecture)
    for folder in (packages / "bin", *packages.rglob("__pycache__")):
        shutil.rmtree(folder, ignore_errors=True)
    for distribution in packages.glob("*.dist-info"):
        _forget_origin(distribution)
    compile_sources(packages, f"/{PREFIX}/lib/python{PYTHON}/site-packages", interpreter)
    check_machine(prefix, architecture)


def _libraries(packages: Path, architecture: str) -> None:
    """Install the locked packages for the architecture. Those without a wheel are built on this machine."""
    platform = ARCHITECTURES[architecture].uv
    run(
        [
            *(sys.executable, "-m", "uv", "pip", "install", "--quiet"),
            *("--target", str(packages), "--python-platform", platform, "--python-version", PYTHON),
            *("--link-mode", "copy", "--require-hashes", "--no-deps", "-r", str(LOCK)),
        ]
    )


def _program(packages: Path, prefix: Path) -> None:
    """Install this source tree. A copy is used because the build writes directories into it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "source")
        skipped = shutil.ignore_patterns(".*", "build", "out", "*.egg-info", "__pycache__", "tests", "docs")
        shutil.copytree(ROOT, copy, ignore=skipped, symlinks=True)
        python = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps"]
        run([*python, "--no-build-isolation", "--link-mode", "copy", "--target", str(packages), str(copy)])
    shutil.move(packages / "share", prefix / "share")
    script = prefix / "bin/wirespeed"
    script.write_text(_SCRIPT)
    script.chmod(0o755)


def _forget_origin(distribution: Path) -> None:
    """Remove what a distribution's metadata records about where and when it was installed."""
    for name in ("direct_url.json", "uv_cache.json"):
        (distribution / name).unlink(missing_ok=True)
    record = distribution / "RECORD"
    # Without the removed scripts: their hashes depend on the path of the Python that installed them.
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(line for line in lines if (distribution.parent / line.split(",")[0]).exists()))


def _shim(target: Path, architecture: str) -> None:
    flags = ("-std=c11", "-O2", "-static", "-Wall", "-Wextra", "-Werror")
    target.parent.mkdir(parents=True, exist_ok=True)
    run([ARCHITECTURES[architecture].compiler, *flags, "-o", str(target), str(ROOT / "shim/wirespeed-cni.c")])


def check_machine(folder: Path, architecture: str) -> None:
    """Raise LabError if a file in `folder` has machine code for another architecture."""
    expected = ARCHITECTURES[architecture].elf_machine
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        with path.open("rb") as file:
            head = file.read(20)
        if head.startswith(b"\x7fELF") and int.from_bytes(head[18:20], "little") != expected:
            raise LabError(f"{path.relative_to(folder)}: expected machine code of {architecture}")

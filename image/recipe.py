"""The content of each image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from image.run import run
from lab.errors import LabError
from wirespeed import __version__

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy" / "images"
SUITE = "trixie"
PYTHON = "3.13"  # the suite's Python, which runs the program in PREFIX
LIBRARY = f"usr/lib/python{PYTHON}"  # Python's standard library
PREFIX = "opt/wirespeed"


class Architecture(NamedTuple):
    """The names of one architecture in the tools used here."""

    oci: str  # OCI and Go
    uv: str  # uv's --python-platform
    compiler: str
    elf_machine: int  # e_machine in ELF headers
    qemu: str  # the qemu-user program for it


ARCHITECTURES = {  # by Debian's name
    "amd64": Architecture("amd64", "x86_64-manylinux_2_28", "x86_64-linux-gnu-gcc", 62, "qemu-x86_64-static"),
    "arm64": Architecture("arm64", "aarch64-manylinux_2_28", "aarch64-linux-gnu-gcc", 183, "qemu-aarch64-static"),
}

# Glob patterns of files for people, package managers and compilers, which nothing needs at run time.
UNUSED = (
    *("usr/share/doc/*", "usr/share/man/*", "usr/share/locale/*", "usr/share/info/*", "usr/share/lintian/*"),
    *("usr/share/zoneinfo/*", "usr/share/bash-completion/*", "usr/share/fish/*", "usr/share/zsh/*"),
    *("usr/include/*", "usr/lib/*.a", "usr/lib/*/pkgconfig/*"),
    *("var/cache/*", "var/log/*", "var/lib/apt/*", "var/lib/dpkg/info/*", "etc/apt/*", "etc/cron.daily/*"),
    # Files of the building machine, or empty ones.
    *("etc/hostname", "etc/resolv.conf", "etc/machine-id", "dev/*"),
)


@dataclass(frozen=True, kw_only=True)
class Image:
    """One image: its Debian packages and its parts of this project."""

    name: str
    agent: bool = False  # the agent, its libraries and the shim, in PREFIX
    application: bool = False  # the programs for applications in pods, see `image.application`
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()  # more patterns of paths that are omitted
    busybox: bool = False  # links to busybox for commands that no package has

    @property
    def packages(self) -> list[str]:
        """The package names in the image's list in deploy/images."""
        lines = (DEPLOY / f"{self.name}.packages").read_text().splitlines()
        return [line.strip() for line in lines if line.strip() and not line.startswith("#")]

    @property
    def python(self) -> bool:
        return "python3" in self.packages


IMAGES = {
    "wirespeed": Image(name="wirespeed", agent=True, entrypoint=("wirespeed",), command=("agent",)),
    "wirespeed-testpmd": Image(
        name="wirespeed-testpmd",
        application=True,
        command=("dpdk-testpmd",),
        busybox=True,
        # Parts of dpdk-dev that are for compiling, or not for containers.
        unused=(
            "usr/lib/systemd/*",
            "usr/share/dpdk/*",
            "usr/bin/dpdk-test",
            "usr/bin/dpdk-test-*",
            "etc/systemd/*",
        ),
    ),
}


def version() -> str:
    """Return the version of this source tree."""
    return __version__


def commit_time() -> int:
    """Return the time of the last commit in seconds; 2025-01-01 without a git repository or without git."""
    try:
        return int(run(["git", "log", "-1", "--format=%ct"], folder=ROOT))
    except LabError:
        return 1_735_689_600

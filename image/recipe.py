"""What is in each image."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from wirespeed import __version__

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy" / "images"
SUITE = "trixie"
PYTHON = "3.13"  # the suite's, which runs what is in PREFIX
PREFIX = "opt/wirespeed"


class Architecture(NamedTuple):
    """What the tools call one architecture."""

    oci: str  # OCI and Go
    uv: str  # uv's --python-platform
    compiler: str
    elf_machine: int  # e_machine of its ELF files
    qemu: str  # the program of qemu-user that runs it


ARCHITECTURES = {  # by Debian's name
    "amd64": Architecture("amd64", "x86_64-manylinux_2_28", "x86_64-linux-gnu-gcc", 62, "qemu-x86_64-static"),
    "arm64": Architecture("arm64", "aarch64-manylinux_2_28", "aarch64-linux-gnu-gcc", 183, "qemu-aarch64-static"),
}

# Read by people, by package managers and by compilers, not by what runs: glob patterns of paths.
UNUSED = (
    *("usr/share/doc/*", "usr/share/man/*", "usr/share/locale/*", "usr/share/info/*", "usr/share/lintian/*"),
    *("usr/share/zoneinfo/*", "usr/share/bash-completion/*", "usr/share/fish/*", "usr/share/zsh/*"),
    *("usr/include/*", "usr/lib/*.a", "usr/lib/*/pkgconfig/*", "usr/lib/python3.13/*/__pycache__/*"),
    *("var/cache/*", "var/log/*", "var/lib/apt/*", "var/lib/dpkg/info/*", "etc/apt/*", "etc/cron.daily/*"),
    # The building machine's, or none.
    *("etc/hostname", "etc/resolv.conf", "etc/machine-id", "dev/*"),
)


@dataclass(frozen=True, kw_only=True)
class Image:
    """One image: Debian packages, and what of this project."""

    name: str
    agent: bool = False  # the agent, its libraries and the shim, in PREFIX
    application: bool = False  # what applications in pods are told by: see `image.application`
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()  # more patterns of paths that are left out
    busybox: bool = False  # its commands, where no package has one of that name

    @property
    def packages(self) -> list[str]:
        """The names in the image's list in deploy/images."""
        lines = (DEPLOY / f"{self.name}.packages").read_text().splitlines()
        return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


IMAGES = {
    "wirespeed": Image(name="wirespeed", agent=True, entrypoint=("wirespeed",), command=("agent",)),
    "wirespeed-testpmd": Image(
        name="wirespeed-testpmd",
        application=True,
        command=("dpdk-testpmd",),
        busybox=True,
        # What dpdk-dev brings for those who compile, and for other machines than containers.
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
    """The version of this source tree."""
    return __version__


def commit_time() -> int:
    """The time of the last commit in seconds; outside a repository, the first second of 2025."""
    shown = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return int(shown) if shown.isdecimal() else 1_735_689_600

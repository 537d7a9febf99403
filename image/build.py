"""Builds an image for each architecture and writes them as one archive."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from image import agent, application, debian
from image.layer import Layer, write_layer
from image.oci import Variant, write_archive
from image.recipe import ARCHITECTURES, PREFIX, ROOT, SUITE, UNUSED, Image, version
from lab.progress import Progress

_PATH = f"/{PREFIX}/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def build(image: Image, architectures: Sequence[str], target: Path, progress: Progress) -> str:
    """Write the archive `target`; the digest of the image. Raises LabError.

    The same sources and the same Debian packages give the same digest: the only time in it is the last commit's.
    """
    epoch = _epoch()
    with tempfile.TemporaryDirectory(prefix="wirespeed-image-") as folder:
        work = Path(folder)
        variants = []
        interpreter = work / "interpreter"
        if image.agent:
            with progress.step("Python that compiles"):
                debian.unpack(["python3"], interpreter, suite=SUITE, architecture="amd64", epoch=epoch)
        for architecture in architectures:
            root = work / f"root-{architecture}"
            with progress.step(f"{image.name}, {architecture}: Debian packages"):
                debian.unpack(image.packages, root, suite=SUITE, architecture=architecture, epoch=epoch)
                debian.configure(root, busybox=image.busybox)
            system = write_layer(
                root, work / f"system-{architecture}", epoch=epoch, unused=(*UNUSED, *image.unused)
            )
            layers = [(system, f"Debian {SUITE}: {' '.join(image.packages)}")]
            if image.agent:
                with progress.step(f"{image.name}, {architecture}: the agent"):
                    layers.append((_agent(work, architecture, interpreter, epoch), "wirespeed and its libraries"))
            if image.application:
                layers.append((_application(work, architecture, epoch), "wirespeed eal, wirespeed ready"))
            variants.append(_variant(image, architecture, layers))
        target.parent.mkdir(parents=True, exist_ok=True)
        return write_archive(
            target,
            variants,
            reference=f"localhost/{image.name}:{version()}",
            version=version(),
            epoch=epoch,
            labels={"org.opencontainers.image.title": image.name, "org.opencontainers.image.version": version()},
        )


def _agent(work: Path, architecture: str, interpreter: Path, epoch: int) -> Layer:
    root = work / f"agent-{architecture}"
    root.mkdir()
    agent.install(root, architecture=architecture, interpreter=interpreter)
    return write_layer(root, work / f"layer-{architecture}", epoch=epoch, unused=agent.UNUSED)


def _application(work: Path, architecture: str, epoch: int) -> Layer:
    root = work / f"application-{architecture}"
    root.mkdir()
    application.install(root, architecture=architecture)
    return write_layer(root, work / f"application-layer-{architecture}", epoch=epoch)


def _variant(image: Image, architecture: str, layers: Sequence[tuple[Layer, str]]) -> Variant:
    return Variant(
        architecture=ARCHITECTURES[architecture].oci,
        layers=layers,
        environment={"PATH": _PATH, "PYTHONUNBUFFERED": "1"},
        entrypoint=image.entrypoint,
        command=image.command,
    )


def _epoch() -> int:
    """Seconds of the last commit; of the last release of the sources' year where there is no repository."""
    told = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return int(told) if told.isdecimal() else 1_735_689_600

"""Builds an image for each architecture and writes all of them to one archive."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from image import agent, application, debian, python
from image.layer import Layer, write_layer
from image.oci import Variant, write_archive
from image.recipe import ARCHITECTURES, LIBRARY, PREFIX, SUITE, UNUSED, Image, commit_time, version
from lab.progress import Progress

_PATH = f"/{PREFIX}/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def build(image: Image, architectures: Sequence[str], target: Path, progress: Progress) -> str:
    """Write the archive `target`; return the image's digest. Raises LabError.

    The digest is reproducible: it depends only on the sources and the Debian packages. All times in the image are
    those of the last commit or earlier.
    """
    epoch = commit_time()
    with tempfile.TemporaryDirectory(prefix="wirespeed-image-") as folder:
        made = _Build(image=image, work=Path(folder), epoch=epoch, progress=progress)
        if image.python:
            with progress.step("Python that compiles"):
                debian.unpack(["python3"], made.interpreter, suite=SUITE, architecture="amd64", epoch=epoch)
        with ThreadPoolExecutor() as pool:
            variants = list(pool.map(made.variant, architectures))
        target.parent.mkdir(parents=True, exist_ok=True)
        return write_archive(
            target,
            variants,
            reference=f"localhost/{image.name}:{version()}",
            version=version(),
            epoch=epoch,
            labels={"org.opencontainers.image.title": image.name, "org.opencontainers.image.version": version()},
        )


@dataclass(frozen=True, kw_only=True)
class _Build:
    """One build of an image, in the directory `work`. `epoch` is in seconds."""

    image: Image
    work: Path
    epoch: int
    progress: Progress

    @property
    def interpreter(self) -> Path:
        """A root with the image's Python for this machine's architecture."""
        return self.work / "interpreter"

    def variant(self, architecture: str) -> Variant:
        """Build the image for one architecture. Raises LabError."""
        image = self.image
        with self.progress.step(f"{image.name}, {architecture}: Debian packages"):
            layers = [(self._system(architecture), f"Debian {SUITE}: {' '.join(image.packages)}")]
        if image.agent:
            with self.progress.step(f"{image.name}, {architecture}: the agent"):
                layers.append((self._agent(architecture), "wirespeed and its libraries"))
        if image.application:
            layers.append((self._application(architecture), "wirespeed eal, wirespeed ready"))
        return Variant(
            architecture=ARCHITECTURES[architecture].oci,
            layers=layers,
            environment={"PATH": _PATH, "PYTHONUNBUFFERED": "1"},
            entrypoint=image.entrypoint,
            command=image.command,
        )

    def _system(self, architecture: str) -> Layer:
        root = self.work / f"system-{architecture}"
        debian.unpack(self.image.packages, root, suite=SUITE, architecture=architecture, epoch=self.epoch)
        debian.configure(root, busybox=self.image.busybox)
        if self.image.python:
            python.compile_sources(root / LIBRARY, f"/{LIBRARY}", self.interpreter)
        return self._layer(root, unused=(*UNUSED, *self.image.unused))

    def _agent(self, architecture: str) -> Layer:
        root = self.work / f"agent-{architecture}"
        agent.install(root, architecture=architecture, interpreter=self.interpreter)
        return self._layer(root, unused=agent.UNUSED)

    def _application(self, architecture: str) -> Layer:
        root = self.work / f"application-{architecture}"
        application.install(root, architecture=architecture)
        return self._layer(root)

    def _layer(self, root: Path, *, unused: Sequence[str] = ()) -> Layer:
        return write_layer(root, root.with_suffix(".layer"), epoch=self.epoch, unused=unused)

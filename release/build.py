"""Builds the files of a release. The same commit, with the same tools and Debian packages, gives the same bytes."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy import manifests
from image.build import build as build_image
from image.layer import write_layer
from image.recipe import ARCHITECTURES, IMAGES, ROOT, commit_time
from image.run import run
from lab.errors import LabError
from lab.progress import Progress
from release import sbom, version
from release.checks import check

SUMS = "SHA256SUMS"


def build(target: Path, progress: Progress) -> list[Path]:
    """Build the release of ROOT's last commit into the folder `target`, which is replaced; the files in it.

    If that is refused, or a step fails, `target` stays as it was. Raises LabError.
    """
    number, epoch = version.current(), commit_time()
    commit = check(ROOT, number)
    with replacing(target) as new, tempfile.TemporaryDirectory(prefix="wirespeed-release-") as folder:
        work = Path(folder)
        tree = work / "sdist" / f"wirespeed-{number}"
        with progress.step("sdist and wheel"):
            export(ROOT, tree)
            wheel = write_wheel(tree, new, epoch=epoch)
            write_sdist(tree, new / f"{tree.name}.tar.gz", wheel=wheel, epoch=epoch)
        with progress.step("chart"):
            write_chart(
                tree / version.CHART, new / f"wirespeed-chart-{number}.tgz", work=work / "chart", epoch=epoch
            )
        for name, image in IMAGES.items():
            archive = new / f"{name}-{number}.oci.tar"
            build_image(image, list(ARCHITECTURES), archive, progress)
            with progress.step(f"{name}: bill of materials"):
                bill = new / f"{name}-{number}.cdx.json"
                sbom.write(bill, archive, name=name, version=number, sha256=_sha256(archive), epoch=epoch)
        write_sums(new)
        if check(ROOT, number) != commit:  # the images are built from the working tree
            raise LabError(f"{ROOT}: expected no new commit while the release was built")
    return sorted(target.iterdir())


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, which takes its place unless the body fails."""
    new = target.with_name(f".{target.name}.{os.getpid()}")
    new.mkdir(parents=True)
    try:
        yield new
        shutil.rmtree(target, ignore_errors=True)
        new.rename(target)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def export(root: Path, target: Path, *, commit: str = "HEAD") -> None:
    """Write the files of a commit into the new folder `target`: links as links, modes without the umask."""
    target.mkdir(parents=True)
    archive = target.with_name(f".{target.name}.tar")
    run(["git", "-c", "tar.umask=0022", "archive", f"--output={archive}", commit], folder=root)
    with tarfile.open(archive) as content:
        content.extractall(target, filter="fully_trusted")
    archive.unlink()


def write_wheel(tree: Path, target: Path, *, epoch: int) -> Path:
    """Build the wheel of the source tree `tree` into the folder `target`; its path. The tree is left as it is."""
    with tempfile.TemporaryDirectory(prefix="wirespeed-wheel-") as folder:
        copy = shutil.copytree(tree, Path(folder, "source"), symlinks=True)  # a build leaves folders in its sources
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-index"]
        out = Path(folder, "wheel")
        run(
            [*pip, "--no-deps", "--no-build-isolation", "--no-cache-dir", f"--wheel-dir={out}", str(copy)],
            environment={"SOURCE_DATE_EPOCH": str(epoch)},
        )
        (wheel,) = out.iterdir()
        return Path(shutil.copy(wheel, target))


def write_sdist(tree: Path, target: Path, *, wheel: Path, epoch: int) -> None:
    """Pack the source tree `tree`, alone in its folder, as an sdist, with the metadata of its wheel as PKG-INFO.

    setuptools' own sdist would lack the tests, and hold copies of plugins/ and deviceplugin/ in place of the links.
    """
    with zipfile.ZipFile(wheel) as content:
        (metadata,) = [name for name in content.namelist() if name.endswith(".dist-info/METADATA")]
        (tree / "PKG-INFO").write_bytes(content.read(metadata))
    (tree / "PKG-INFO").chmod(0o644)
    write_layer(tree.parent, target, epoch=epoch)


def write_chart(chart: Path, target: Path, *, work: Path, epoch: int) -> None:
    """Package the chart with helm, and pack it anew: helm writes the current time. `work` is a new folder."""
    packed, unpacked = work / "packed", work / "unpacked"
    run([manifests.helm(), "package", str(chart), f"--destination={packed}"])
    (package,) = packed.iterdir()
    with tarfile.open(package) as content:
        content.extractall(unpacked, filter="data")
    write_layer(unpacked, target, epoch=epoch)
    run([manifests.helm(), "show", "chart", str(target)])  # it reads what was packed


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS, which `sha256sum --check` reads, for all files in the folder."""
    lines = [f"{_sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir()) if path.name != SUMS]
    (folder / SUMS).write_text("".join(lines))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

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
from image.archive import unpack
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
        with progress.step("wirespeed-eal: sdist, wheel and bill of materials"):
            wheel = write_eal(tree, new, work=work / "eal", epoch=epoch)
            bill = new / f"wirespeed-eal-{number}.cdx.json"
            sbom.write_library(bill, metadata(wheel).decode(), sha256=_sha256(wheel), epoch=epoch)
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
        unpack(content, target, trusted=True)
    archive.unlink()


def write_wheel(tree: Path, target: Path, *, epoch: int, project: str = ".") -> Path:
    """Build the wheel of the folder `project` of the source tree `tree` into the folder `target`; its path.

    The tree is left as it is. All of it is copied for the build: links of `project` may lead out of that folder.
    """
    with tempfile.TemporaryDirectory(prefix="wirespeed-wheel-") as folder:
        copy = shutil.copytree(tree, Path(folder, "source"), symlinks=True)  # a build leaves folders in its sources
        out = Path(folder, "wheel")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-index"]
        options = ["--no-deps", "--no-build-isolation", "--no-cache-dir", f"--wheel-dir={out}"]
        run([*pip, *options, str(copy / project)], environment={"SOURCE_DATE_EPOCH": str(epoch)})
        (wheel,) = out.iterdir()
        return Path(shutil.copy(wheel, target))


def write_sdist(tree: Path, target: Path, *, wheel: Path, epoch: int) -> None:
    """Pack the source tree `tree`, alone in its folder, as an sdist, with the metadata of its wheel as PKG-INFO.

    setuptools' own sdist would lack the tests, and hold copies of folders in place of the links to them.
    """
    (tree / "PKG-INFO").write_bytes(metadata(wheel))
    (tree / "PKG-INFO").chmod(0o644)
    write_layer(tree.parent, target, epoch=epoch)


def write_eal(tree: Path, target: Path, *, work: Path, epoch: int) -> Path:
    """Build the wheel and the sdist of wirespeed-eal into the folder `target`; the wheel's path.

    The sdist is eal/ of the source tree `tree`, with copies of the files that links in it lead to: they are outside
    of eal/. `work` is a new folder.
    """
    wheel = write_wheel(tree, target, epoch=epoch, project="eal")
    name = "-".join(wheel.name.split("-")[:2])  # sdists and wheels spell it wirespeed_eal
    write_sdist(shutil.copytree(tree / "eal", work / name), target / f"{name}.tar.gz", wheel=wheel, epoch=epoch)
    return wheel


def metadata(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as content:
        (name,) = [name for name in content.namelist() if name.endswith(".dist-info/METADATA")]
        return content.read(name)


def write_chart(chart: Path, target: Path, *, work: Path, epoch: int) -> None:
    """Package the chart with helm, and pack it anew: helm writes the current time. `work` is a new folder."""
    packed, unpacked = work / "packed", work / "unpacked"
    run([manifests.helm(), "package", str(chart), f"--destination={packed}"])
    (package,) = packed.iterdir()
    with tarfile.open(package) as content:
        unpack(content, unpacked)
    write_layer(unpacked, target, epoch=epoch)
    run([manifests.helm(), "show", "chart", str(target)])  # it reads what was packed


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS, which `sha256sum --check` reads, for all files in the folder."""
    lines = [f"{_sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir()) if path.name != SUMS]
    (folder / SUMS).write_text("".join(lines))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

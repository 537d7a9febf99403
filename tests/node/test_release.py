"""The sdist and the wheel of the last commit, as `make release` builds them."""

from __future__ import annotations

import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from image.recipe import ROOT, commit_time, version
from image.run import run
from release import build


class Built:
    """A source tree of the last commit, its wheel and its sdist."""

    def __init__(self, folder: Path) -> None:
        self.epoch = commit_time()
        self.tree = folder / "sdist" / f"wirespeed-{version()}"
        build.export(ROOT, self.tree)
        self.wheel = build.write_wheel(self.tree, folder, epoch=self.epoch)
        self.sdist = folder / f"{self.tree.name}.tar.gz"
        build.write_sdist(self.tree, self.sdist, wheel=self.wheel, epoch=self.epoch)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def unpacked(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked as pip does it."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(built.sdist) as content:
        content.extractall(folder, filter="data")
    return folder / f"wirespeed-{version()}"


def test_sdist_has_all_files_of_the_commit_and_its_metadata(built: Built, unpacked: Path) -> None:
    def names(root: Path) -> set[str]:
        return {str(Path(folder, name).relative_to(root)) for folder, _, files in os.walk(root) for name in files}

    listed = set(run(["git", "ls-files"], folder=ROOT).splitlines())
    links = {"wirespeed/plugins", "wirespeed/deviceplugin"}
    assert names(unpacked) == listed - links | {"PKG-INFO"}
    for name in links:
        assert (unpacked / name).readlink() == Path("..", Path(name).name)
    assert f"\nName: wirespeed\nVersion: {version()}\n" in (unpacked / "PKG-INFO").read_text()


def test_wheel_of_the_sdist_is_that_of_the_tree(built: Built, unpacked: Path, tmp_path: Path) -> None:
    again = build.write_wheel(unpacked, tmp_path, epoch=built.epoch)
    assert again.name == built.wheel.name
    assert again.read_bytes() == built.wheel.read_bytes()


def test_wheel_has_every_module_and_what_they_read(built: Built, unpacked: Path) -> None:
    with zipfile.ZipFile(built.wheel) as content:
        found = set(content.namelist())
    sources = {path for folder in ("plugins", "deviceplugin") for path in (unpacked / folder).rglob("*.py")}
    expected = {f"wirespeed/{path.relative_to(unpacked)}" for path in sources}
    expected |= {str(path.relative_to(unpacked)) for path in unpacked.glob("wirespeed/**/*.py")}
    expected |= {str(path.relative_to(unpacked)) for path in unpacked.glob("wirespeed/**/*.proto")}
    assert expected <= found
    assert {"wirespeed/py.typed", "wirespeed/eal/c/wirespeed_eal.h"} <= found


def test_sdist_built_again_is_the_same(built: Built, tmp_path: Path) -> None:
    again = Built(tmp_path)
    assert again.sdist.read_bytes() == built.sdist.read_bytes()
    assert again.wheel.read_bytes() == built.wheel.read_bytes()

"""The sdists and the wheels of the last commit, as `make release` builds them."""

from __future__ import annotations

import json
import os
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from image.archive import unpack
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
        self.eal_wheel = build.write_eal(self.tree, folder, work=folder / "eal", epoch=self.epoch)
        self.eal_sdist = folder / f"wirespeed_eal-{version()}.tar.gz"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def unpacked(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked as pip does it."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(built.sdist) as content:
        unpack(content, folder)
    return folder / f"wirespeed-{version()}"


def test_sdist_has_all_files_of_the_commit_its_links_and_its_metadata(built: Built, unpacked: Path) -> None:
    found = [path for path in unpacked.rglob("*") if path.is_symlink() or not path.is_dir()]
    listed = run(["git", "ls-files"], folder=ROOT).splitlines()
    assert {str(path.relative_to(unpacked)) for path in found} == {*listed, "PKG-INFO"}
    links = {str(path.relative_to(unpacked)): path.readlink() for path in found if path.is_symlink()}
    assert links == {name: (ROOT / name).readlink() for name in listed if (ROOT / name).is_symlink()}
    assert links["wirespeed/plugins"] == Path("../plugins")
    assert links["wirespeed/deviceplugin"] == Path("../deviceplugin")
    assert f"\nName: wirespeed\nVersion: {version()}\n" in (unpacked / "PKG-INFO").read_text()


def test_wheel_of_the_sdist_is_that_of_the_tree(built: Built, unpacked: Path, tmp_path: Path) -> None:
    again = build.write_wheel(unpacked, tmp_path, epoch=built.epoch)
    assert again.name == built.wheel.name
    assert again.read_bytes() == built.wheel.read_bytes()


def test_wheel_has_every_module_and_what_they_read(built: Built, unpacked: Path) -> None:
    with zipfile.ZipFile(built.wheel) as content:
        found = set(content.namelist())
    folders = os.walk(unpacked / "wirespeed", followlinks=True)
    files = [Path(folder, name).relative_to(unpacked) for folder, _, names in folders for name in names]
    assert {str(path) for path in files if path.suffix in {".py", ".proto"}} <= found
    assert {"wirespeed/py.typed", "wirespeed/plugins/meta/meta.py", "wirespeed/eal/args.py"} <= found


def test_installed_release_knows_its_commit(built: Built, tmp_path: Path) -> None:
    with zipfile.ZipFile(built.wheel) as content:
        content.extractall(tmp_path)
    shown = run([sys.executable, "-m", "wirespeed", "version", "--json"], folder=tmp_path)
    assert json.loads(shown)["commit"] == run(["git", "rev-parse", "HEAD"], folder=ROOT).strip()


def test_files_built_again_are_the_same(built: Built, tmp_path: Path) -> None:
    again = Built(tmp_path)
    assert again.sdist.read_bytes() == built.sdist.read_bytes()
    assert again.wheel.read_bytes() == built.wheel.read_bytes()
    assert again.eal_sdist.read_bytes() == built.eal_sdist.read_bytes()
    assert again.eal_wheel.read_bytes() == built.eal_wheel.read_bytes()


# wirespeed-eal


@pytest.fixture(scope="module")
def unpacked_eal(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked-eal")
    with tarfile.open(built.eal_sdist) as content:
        unpack(content, folder)
    (only,) = folder.iterdir()
    return only


def test_sdist_of_the_application_library_has_its_files_without_links(unpacked_eal: Path) -> None:
    assert unpacked_eal.name == f"wirespeed_eal-{version()}"
    found = [path for path in unpacked_eal.rglob("*") if path.is_symlink() or not path.is_dir()]
    listed = {name.removeprefix("eal/") for name in run(["git", "ls-files", "eal"], folder=ROOT).splitlines()}
    assert {str(path.relative_to(unpacked_eal)) for path in found} == {*listed, "PKG-INFO"}
    assert [path for path in found if path.is_symlink()] == []
    assert (unpacked_eal / "version.py").read_bytes() == (ROOT / "wirespeed/__init__.py").read_bytes()
    assert (unpacked_eal / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert f"\nName: wirespeed-eal\nVersion: {version()}\n" in (unpacked_eal / "PKG-INFO").read_text()


def test_wheel_of_the_application_librarys_sdist_is_that_of_the_tree(
    built: Built, unpacked_eal: Path, tmp_path: Path
) -> None:
    again = build.write_wheel(unpacked_eal, tmp_path, epoch=built.epoch)
    assert again.name == built.eal_wheel.name
    assert again.read_bytes() == built.eal_wheel.read_bytes()


def test_wheel_of_the_application_library_is_installed_without_a_network_and_its_commands_run(
    built: Built, tmp_path: Path
) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index"]
    run([*pip, f"--prefix={tmp_path}", "--ignore-installed", str(built.eal_wheel)])
    (package,) = tmp_path.glob("lib/python*/site-packages/wirespeed_eal")
    assert (package / "c/wirespeed_eal.h").is_file()
    alone = {"PYTHONPATH": str(package.parent)}
    assert "--file-prefix" in run([str(tmp_path / "bin/wirespeed-eal"), "--help"], environment=alone)
    ready = run([str(tmp_path / "bin/wirespeed-ready"), "--help"], environment=alone)
    assert ready.startswith("Usage: wirespeed-ready\n")

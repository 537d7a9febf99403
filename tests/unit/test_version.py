"""The version: one source, and one command that writes it to every other place."""

from __future__ import annotations

import re
import runpy
import shutil
import tomllib
from pathlib import Path

import pytest
import yaml

import wirespeed
from deploy.manifests import chart_digest
from image import recipe
from lab.errors import LabError
from release import version

NEW = "98.7.6"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the repository's files that have the version, or read it."""
    root = tmp_path / "copy"
    chart = {path.relative_to(recipe.ROOT) for path in (recipe.ROOT / version.CHART).rglob("*") if path.is_file()}
    library = {Path("eal/pyproject.toml"), Path("eal/version.py")}
    for path in {place.path for place in version.places()} | chart | library | set(version.KUSTOMIZATIONS):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(recipe.ROOT / path, root / path, follow_symlinks=False)
    return root


def test_every_place_has_the_version_of_the_source() -> None:
    wrong = "\n".join(map(str, version.differing()))
    assert not wrong, f"expected {version.current()}: make version VERSION={version.current()}\n{wrong}"


def test_programs_know_the_version_of_the_source() -> None:
    assert version.current() == wirespeed.__version__ == recipe.version()


def test_the_command_writes_the_version_to_every_place(copy: Path) -> None:
    before = version.places(copy)
    changed = version.set_everywhere(NEW, copy)
    after = version.places(copy)
    assert {place.version for place in after} == {NEW}
    assert [(place.path, place.line) for place in after] == [(place.path, place.line) for place in before]
    assert set(changed) == {place.path for place in after} | set(version.KUSTOMIZATIONS)
    chart = yaml.safe_load((copy / version.CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (NEW, NEW)
    assert f"image: wirespeed:{NEW}\n" in (copy / "deploy/daemonset.yaml").read_text()
    assert f"wirespeed-{NEW}.tar docker://REGISTRY/wirespeed:{NEW}\n" in (copy / "README.md").read_text()


def test_the_application_library_reads_the_version_through_a_link_to_the_source(copy: Path) -> None:
    version.set_everywhere(NEW, copy)
    assert (copy / "eal/version.py").is_symlink()
    assert runpy.run_path(str(copy / "eal/version.py"))["__version__"] == NEW
    project = tomllib.loads((copy / "eal/pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "version.__version__"}


def test_the_command_changes_nothing_but_the_version_and_the_charts_digest(copy: Path) -> None:
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    old = version.current(copy)
    version.set_everywhere(NEW, copy)
    version.set_everywhere(old, copy)
    assert {path: path.read_bytes() for path in before} == before


def test_manifests_have_the_digest_of_the_chart_with_the_new_version(copy: Path) -> None:
    version.set_everywhere(NEW, copy)
    for path in version.KUSTOMIZATIONS:
        assert f"# sha256 of the chart: {chart_digest(copy / version.CHART)}\n" in (copy / path).read_text()


def test_manifests_that_are_older_than_the_chart_stay_recognizable(copy: Path) -> None:
    values = copy / version.CHART / "values.yaml"
    values.write_text(values.read_text() + "# changed\n")
    version.set_everywhere(NEW, copy)
    for path in version.KUSTOMIZATIONS:
        assert chart_digest(copy / version.CHART) not in (copy / path).read_text()


@pytest.mark.parametrize(
    "line",
    [
        "ctr images import wirespeed-testpmd-0.0.7.tar",
        "pip install ./wirespeed_eal-0.0.7-py3-none-any.whl",
        "wirespeed-eal==0.0.7",
    ],
)
def test_a_place_that_differs_is_named_by_file_and_line(copy: Path, line: str) -> None:
    (copy / "docs").mkdir(exist_ok=True)
    (copy / "docs/new.md").write_text(f"# New\n\n```\n{line}\n```\n")
    assert [str(place) for place in version.differing(copy)] == ["docs/new.md:4: 0.0.7"]


def test_no_sentence_of_a_page_has_the_version_which_the_command_would_not_write() -> None:
    said = re.compile(r"(?i)\b(?:this is|wirespeed(?: has)?) version \d")
    pages = [*recipe.ROOT.glob("*.md"), *(recipe.ROOT / "docs").rglob("*.md")]
    assert [page.name for page in pages if page.name != "CHANGELOG.md" and said.search(page.read_text())] == []


@pytest.mark.parametrize(
    "text",
    ["cniVersion: 0.0.7", "cniVersions: [0.0.7, 1.0.0]", "wirespeed 10.0.0.7", "helm 3.14.0", "image: other:0.0.7"],
)
def test_other_version_numbers_are_left_alone(copy: Path, text: str) -> None:
    (copy / "docs/new.md").write_text(f"{text}\n")
    version.set_everywhere(NEW, copy)
    assert (copy / "docs/new.md").read_text() == f"{text}\n"


@pytest.mark.parametrize("wrong", ["", "1.2", "v1.2.3", "1.2.3rc1", "01.2.3", "1.2.3.4", "1.2.3\n"])
def test_what_is_no_version_is_refused_and_nothing_is_written(copy: Path, wrong: str) -> None:
    with pytest.raises(LabError, match="expected three numbers"):
        version.set_everywhere(wrong, copy)
    assert version.differing(copy) == []

"""What the wheels install: one top-level name each, and the application library has no dependencies."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import wirespeed

ROOT = Path(__file__).parents[2]
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheels by distribution, built from a copy: a build leaves folders beside the sources."""
    folder = tmp_path_factory.mktemp("wheels")
    skipped = shutil.ignore_patterns(".*", "build", "out", "*.egg-info", "__pycache__", "tests", "docs")
    shutil.copytree(ROOT, folder / "source", ignore=skipped, symlinks=True)
    for source in (folder / "source", folder / "source/eal"):
        subprocess.run([sys.executable, "-c", BUILD, folder], cwd=source, check=True, capture_output=True)
    return {path.name.split("-")[0]: path for path in folder.glob("*.whl")}


def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def importable(wheel: Path) -> set[str]:
    return {name.split("/")[0] for name in names(wheel) if ".dist-info/" not in name and ".data/" not in name}


def text(wheel: Path, file: str) -> str:
    (found,) = (name for name in names(wheel) if name.endswith(f".dist-info/{file}"))
    return zipfile.ZipFile(wheel).read(found).decode()


def test_each_wheel_has_one_importable_name(wheels: dict[str, Path]) -> None:
    assert {name: importable(wheel) for name, wheel in wheels.items()} == {
        "wirespeed": {"wirespeed"},
        "wirespeed_eal": {"wirespeed_eal"},
    }


def test_wheel_of_the_agent_has_every_package(wheels: dict[str, Path]) -> None:
    sources = {path.relative_to(ROOT).as_posix() for path in ROOT.joinpath("wirespeed").rglob("*.py")}
    for link, target in {"plugins": "plugins", "deviceplugin": "deviceplugin", "eal": "eal/wirespeed_eal"}.items():
        assert (ROOT / "wirespeed" / link).resolve() == ROOT / target
        sources |= {f"wirespeed/{link}/{path.relative_to(ROOT / target)}" for path in (ROOT / target).rglob("*.py")}
    assert {name for name in names(wheels["wirespeed"]) if name.endswith(".py")} == sources
    page = {path.relative_to(ROOT).as_posix() for path in ROOT.joinpath("wirespeed/agent/page").iterdir()}
    assert {name for name in names(wheels["wirespeed"]) if "/page/" in name} == page


def test_wheel_of_the_agent_has_man_pages_and_completion_where_man_and_shells_look(wheels: dict[str, Path]) -> None:
    shares = {name.partition(".data/data/share/")[2] for name in names(wheels["wirespeed"])}
    pages = {path.name for path in (ROOT / "deploy/man").iterdir()}
    assert {"wirespeed.1", "wirespeed-vf-create.1", "wirespeed-agent.yaml.5"} <= pages
    assert {f"man/man{name[-1]}/{name}" for name in pages} <= shares
    assert {
        "bash-completion/completions/wirespeed.bash",
        "zsh/site-functions/_wirespeed_completion",
        "fish/vendor_completions.d/wirespeed.fish",
    } <= shares


def test_wheel_of_the_application_library_has_both_languages_and_needs_nothing(wheels: dict[str, Path]) -> None:
    wheel = wheels["wirespeed_eal"]
    library = ROOT / "eal/wirespeed_eal"
    files = {f"wirespeed_eal/{path.relative_to(library)}" for path in library.rglob("*") if path.is_file()}
    files = {name for name in files if "__pycache__" not in name}
    assert {name for name in names(wheel) if ".dist-info/" not in name} == files
    assert {"wirespeed_eal/c/wirespeed_eal.c", "wirespeed_eal/c/wirespeed_eal.h"} <= files
    metadata = Parser().parsestr(text(wheel, "METADATA"))
    assert metadata.get_all("Requires-Dist") is None
    assert (metadata["Name"], metadata["Version"]) == ("wirespeed-eal", wirespeed.__version__)


def test_wheels_share_no_file_and_no_command(wheels: dict[str, Path]) -> None:
    agent, library = wheels["wirespeed"], wheels["wirespeed_eal"]
    assert names(agent).isdisjoint(names(library))

    def commands(wheel: Path) -> set[str]:
        lines = text(wheel, "entry_points.txt").splitlines()
        return {line.split(" = ")[0] for line in lines if " = " in line}

    assert commands(agent) == {"wirespeed", "kubectl-wirespeed", "kubectl_complete-wirespeed"}
    assert commands(library) == {"wirespeed-eal", "wirespeed-ready"}


IMPORT_ALL = """
import importlib, pkgutil, sys
sys.path.insert(0, sys.argv[1])
import wirespeed_eal
for module in pkgutil.iter_modules(wirespeed_eal.__path__):
    importlib.import_module(f"wirespeed_eal.{module.name}")
for name in wirespeed_eal.__all__:
    getattr(wirespeed_eal, name)
other = {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names - {"__main__", "wirespeed_eal"}
assert not other, other
assert wirespeed_eal.__file__.startswith(sys.argv[1]), wirespeed_eal.__file__
print(*wirespeed_eal.arguments(file_prefix="x"))
"""
SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from wirespeed_eal.inpod import {function}
sys.exit({function}())
"""


def test_application_library_runs_where_nothing_else_is_installed(wheels: dict[str, Path], tmp_path: Path) -> None:
    zipfile.ZipFile(wheels["wirespeed_eal"]).extractall(tmp_path)
    alone = [sys.executable, "-I", "-S", "-c"]
    done = subprocess.run([*alone, IMPORT_ALL, tmp_path], capture_output=True, text=True, check=True, cwd="/")
    assert "--file-prefix=x" in done.stdout.split()
    told = subprocess.run(
        [*alone, SCRIPT.format(folder=str(tmp_path), function="eal_script"), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.startswith("usage: wirespeed-eal ")
    assert "dpdk-testpmd $(wirespeed-eal) --" in told.stdout
    ready = [*alone, SCRIPT.format(folder=str(tmp_path), function="ready_script")]
    environment = {"RUNTIME_DIRECTORY": str(tmp_path)}
    probe = subprocess.run(ready, env=environment, capture_output=True, text=True, check=False)
    assert (probe.returncode, probe.stdout) == (1, "")
    assert probe.stderr.startswith("no DPDK application runs here")
    told = subprocess.run([*ready, "--help"], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout.splitlines()[0]) == (0, "Usage: wirespeed-ready")
    assert subprocess.run([*ready, "now"], capture_output=True, check=False).returncode == 2


def test_application_library_refuses_other_names() -> None:
    from wirespeed import eal

    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = eal.nothing  # type: ignore[attr-defined]

"""What an installation adds beside other libraries: a single top-level name."""

from __future__ import annotations

import tomllib
from pathlib import Path

from setuptools import find_packages  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[2]


def test_one_importable_name_with_every_package_below_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = find_packages(str(ROOT), include=project["tool"]["setuptools"]["packages"]["find"]["include"])
    assert {name.partition(".")[0] for name in found} == {"wirespeed"}
    sources = {path.parent.relative_to(ROOT) for path in ROOT.joinpath("wirespeed").rglob("*.py")}
    for linked in ("plugins", "deviceplugin"):
        assert (ROOT / "wirespeed" / linked).resolve() == ROOT / linked
        sources |= {Path("wirespeed") / path.parent.relative_to(ROOT) for path in (ROOT / linked).rglob("*.py")}
    assert {".".join(path.parts) for path in sources if path.name != "__pycache__"} == set(found)

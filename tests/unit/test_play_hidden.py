"""Paths that a container names but cannot see are reported; visible and missing ones are not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from wirespeed.errors import Error
from wirespeed.play import hidden, manifests, objects
from wirespeed.play.objects import Container


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in a directory that is hidden in containers, which get their own."""
    monkeypatch.setattr(hidden, "_OVER", (str(tmp_path),))
    made = tmp_path / "bin/program"
    made.parent.mkdir()
    made.write_text("#!/bin/sh\n")
    made.chmod(0o755)
    return made


def found(**keys: Any) -> list[str]:
    told = hidden.of(msgspec.convert({"name": "main", "command": ["sh"], **keys}, Container))
    return [each.path for each in told]


def test_programs_are_found_in_commands_arguments_probes_and_variables(program: Path) -> None:
    assert found(command=[str(program)]) == [str(program)]
    assert found(command=["sh", "-c"], args=[f"x=$(A=b {program} --all); echo $x"]) == [str(program)]
    assert found(readinessProbe={"exec": {"command": ["sh", "-c", f"{program}|cat"]}}) == [str(program)]
    assert found(env=[{"name": "PATH", "value": f"/bin:{program.parent}"}]) == [str(program.parent)]
    assert found(command=["program"], env=[{"name": "PATH", "value": f"{program.parent}"}])[0] == str(program)
    assert found(workingDir=str(program.parent)) == [str(program.parent)]


def test_links_and_interpreters_are_followed(program: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "link").symlink_to(program)
    (elsewhere / "script").write_text(f"#!{program} -x\n")
    (elsewhere / "script").chmod(0o755)
    assert found(command=[str(elsewhere / "link")]) == [str(program)]
    assert found(command=[str(elsewhere / "script")]) == [str(program)]
    text = str(hidden.of(msgspec.convert({"name": "m", "command": [f"{elsewhere}/link"]}, Container))[0])
    assert text == (
        f"{program}, to which {elsewhere}/link leads, is hidden: a container has its own {program.parents[1]}"
    )


def test_what_a_container_sees_is_not_told_of(program: Path) -> None:
    mounts = [{"name": "bin", "mountPath": f"{program.parent}/"}]
    assert found(command=[str(program)], volumeMounts=mounts) == []
    assert found(command=[f"{program}2"]) == []
    assert found(command=["sh", "-c", f"ls {program.parents[1]}"]) == []
    assert found(command=["/bin/sh", "-c", f"echo a{program}"]) == []


def test_a_program_is_refused_and_a_file_is_noted(program: Path, tmp_path: Path) -> None:
    def load(path: Path) -> list[objects.Pod]:
        spec = f"{{containers: [{{name: main, command: [sh, -c, 'cat {path}']}}]}}"
        file = tmp_path / "pod.yaml"
        file.write_text(f"apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {spec}\n")
        return manifests.load([file]).pods

    with pytest.raises(Error, match=f"Pod default/p: container main: {program} is hidden: .*; expected a path"):
        hidden.refuse(load(program))
    data = tmp_path / "data"
    data.write_text("")
    hidden.refuse(load(data))
    assert [*hidden.notes(load(data))] == [f"default/p/main: {data} is hidden: a container has its own {tmp_path}"]


def test_this_python_is_found_where_it_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hidden, "_OVER", (str(Path(sys.executable).parent),))
    assert sys.executable in found(args=["-c", f"PYTHONPATH=/x {sys.executable} -m wirespeed eal"])

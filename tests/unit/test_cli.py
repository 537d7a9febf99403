"""The `wirespeed` command: the modules it loads, and plugins that run without the agent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wirespeed.cni.errors import Code

ROOT = Path(__file__).parents[2]


def run(*arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wirespeed", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        cwd=ROOT,
        env={**{k: v for k, v in os.environ.items() if not k.startswith("CNI_")}, **environ},
    )


def test_help_lists_the_commands() -> None:
    help_ = run("--help")
    assert help_.returncode == 0
    for command in ("agent", "cni", "version"):
        assert f"\n  {command} " in help_.stdout


HELP = (
    "import sys; from wirespeed.cli.main import main; main(['--help'], standalone_mode=False); print(*sys.modules)"
)


def test_help_loads_nothing_but_click() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", HELP], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    loaded = set(shown.splitlines()[-1].split())
    assert "click" in loaded
    assert not loaded & {"msgspec", "yaml", "grpc", "rich"}
    ours = {name for name in loaded if name.startswith("wirespeed.")}
    assert {name for name in ours if not name.startswith("wirespeed.cli")} == set()


def test_version_tells_the_spoken_cni_versions() -> None:
    assert run("version").stdout.endswith("CNI 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n")


def test_plugin_answers_version_alone() -> None:
    answer = run("cni", "sriov", stdin='{"cniVersion":"1.0.0"}', CNI_COMMAND="VERSION")
    assert answer.returncode == 0
    assert json.loads(answer.stdout)["supportedVersions"][-1] == "1.1.0"


CALL = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/none",
    "CNI_IFNAME": "net1",
    "CNI_PATH": "/opt/cni/bin",
}
CONFIG = '{"cniVersion":"0.4.0","name":"net","type":"sriov"}'


@pytest.mark.parametrize("name", ["nobody", "../sriov", ""])
def test_unknown_plugin_is_refused_with_the_known_ones(name: str) -> None:
    answer = run("cni", name, stdin=CONFIG, **CALL)
    body = json.loads(answer.stdout)
    assert (answer.returncode, body["code"], body["cniVersion"]) == (1, Code.INVALID_CONFIG, "0.4.0")
    assert body["msg"].startswith(f"plugin {name!r} is not known: expected one of ")
    assert "sriov" in body["msg"]


def test_configuration_that_cannot_be_read_is_a_cni_error(tmp_path: Path) -> None:
    answer = run("cni", "sriov", stdin=CONFIG, WIRESPEED_CONFIG=str(tmp_path / "none.yaml"), **CALL)
    body = json.loads(answer.stdout)
    assert (answer.returncode, body["code"]) == (1, Code.INVALID_CONFIG)
    assert body["msg"] == f"configuration {tmp_path}/none.yaml: no such file"
    assert answer.stderr == ""


def test_person_who_calls_a_plugin_is_told_what_is_missing() -> None:
    answer = run("cni", "nobody")
    assert answer.returncode == 2
    assert "CNI_COMMAND is not set: a runtime calls this. NAME is one of " in answer.stderr


def test_result_that_nobody_can_read_is_no_success() -> None:
    with open("/dev/full", "w") as full:
        answer = subprocess.run(
            [sys.executable, "-m", "wirespeed", "cni", "sriov"],
            env={**os.environ, "CNI_COMMAND": "VERSION"},
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=ROOT,
        )
    assert answer.returncode == 1
    assert answer.stderr == "Error: standard output: No space left on device\n"

"""The `wirespeed` command: the modules it loads, and plugins that run without the agent."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from docsite import commands
from tests import pfs
from tests.fakesysfs import FakeSysfs
from wirespeed import __version__
from wirespeed.cli.vf import _carry_out, _show
from wirespeed.cni.errors import Code
from wirespeed.provision.listing import listed
from wirespeed.provision.plan import Change, Plan

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


def test_version_option_prints_what_the_command_prints() -> None:
    assert run("--version").stdout == run("version").stdout != ""


def test_version_in_json_has_the_parts() -> None:
    found = json.loads(run("version", "--json").stdout)
    assert set(found) == {"version", "commit", "python", "cni"}
    assert (found["version"], found["python"]) == (__version__, platform.python_version())
    assert found["cni"][-1] == "1.1.0"


@pytest.mark.parametrize(
    ("words", "near"), [(["chek"], "check"), (["unistall"], "uninstall"), (["vf", "lst"], "list"), (["xyz"], "")]
)
def test_unknown_command_is_a_wrong_command_line_and_answered_with_the_nearest(words: list[str], near: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert f"No such command '{words[-1]}'." in done.stderr
    assert ("Did you mean" in done.stderr) == bool(near)
    assert near in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["install", "--json"],
        ["uninstall", "--json"],
        ["deviceplugin", "--json"],
    ],
    ids=" ".join,
)
def test_json_of_a_plan_needs_a_dry_run(words: list[str]) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: --json needs --dry-run" in done.stderr


def test_dry_run_of_the_device_plugin_in_json_has_each_device(tmp_path: Path) -> None:
    sysfs = FakeSysfs(tmp_path / "sys")
    sysfs.pf("0000:18:00.0", "ens1", vfs=2, vf_driver="vfio-pci")
    (tmp_path / "agent.yaml").write_text(f"sysfs: {tmp_path}/sys\n")
    pools = {"resourceList": [{"resourceName": "dpdk", "selectors": [{"pfNames": ["ens1#1"]}]}]}
    (tmp_path / "pools.json").write_text(json.dumps(pools))
    files = ["--config", str(tmp_path / "agent.yaml"), "--pools", str(tmp_path / "pools.json")]
    done = run("deviceplugin", *files, "--dry-run", "--json")
    assert done.stderr == ""
    pf, *vfs = json.loads(done.stdout)
    assert pf["reason"] == "left out: a PF with 2 VFs"
    assert [each["function"] for each in vfs] == ["ens1#0", "ens1#1"]
    assert [each["resource"] for each in vfs] == ["", "intel.com/dpdk"]
    assert vfs[0]["reason"] == "in none: intel.com/dpdk pfNames: ens1#0 is not ens1"


def test_plan_for_vfs_in_json_has_the_steps_and_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def change() -> None:
        raise AssertionError("a dry run changed something")

    plan = Plan([Change("create 2 VFs", change), Change("bind", change)])
    _carry_out(plan, None, dry_run=True, as_json=True, yes=True, notes=["policy a: skipped"])
    assert json.loads(capsys.readouterr().out) == {
        "steps": ["create 2 VFs", "bind"],
        "notes": ["policy a: skipped"],
    }


def test_findings_in_json_are_asked_for_as_in_other_commands(tmp_path: Path) -> None:
    (tmp_path / "x.conf").write_text("{")
    found = run("check", str(tmp_path), "--json")
    assert found.returncode == 1
    assert found.stdout == run("check", str(tmp_path), "--format", "json").stdout
    assert json.loads(found.stdout)[0]["level"] == "error"


COMMANDS = [context.command_path.split()[1:] for context in commands.walk(commands.root())]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_in_a_pipe_is_plain_text(words: list[str]) -> None:
    done = run(*words, "--help", TERM="xterm-256color", COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout


def test_table_of_vfs_in_a_pipe_has_whole_lines_without_colours(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("TERM", "xterm-256color")
    user = "pod default/" + "long-name-" * 20
    _show([listed(replace(pfs.PF, vfs=(replace(pfs.vf("vfio-pci"), user=user),)))])
    head, pf, vf = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["FUNCTION", "ADDRESS", "DRIVER"]
    assert head.endswith("NUMA  IOMMU  USED BY")
    assert "1 of 64 VFs, up, legacy" in pf
    assert user in vf
    assert "\x1b" not in head


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
    assert body["msg"].startswith("unknown plugin; expected one of ")
    assert body["msg"].endswith(f", got {name!r}")
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

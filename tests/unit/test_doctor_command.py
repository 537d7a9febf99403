"""The command `wirespeed doctor`: what it prints, its JSON, and its exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import msgspec
from click.testing import CliRunner

from wirespeed.cli.doctor import doctor, lines, summary
from wirespeed.doctor import CHECKS, Finding, Severity, Subject

ROOT = Path(__file__).parents[2]


def finding(number: str, severity: Severity, subject: Subject = Subject.CPU, thing: str = "") -> Finding:
    fix = "" if severity in {Severity.OK, Severity.UNKNOWN} else "`mend it`"
    return Finding(
        id=number,
        subject=subject,
        severity=severity,
        thing=thing,
        found="is so",
        expected="to be so",
        why="it matters",
        source="a book",
        fix=fix,
    )


FINDINGS = [
    finding("a", Severity.OK),
    finding("b", Severity.WARNING, thing="ens1f0"),
    finding("b", Severity.OK, thing="ens1f1"),
    finding("c", Severity.ERROR),
    finding("d", Severity.UNKNOWN, Subject.NIC),
    finding("e", Severity.INFO),
]


def shown(findings: list[Finding]) -> str:
    return click.unstyle("".join(f"{line}\n" for line in lines(findings)))


def test_findings_are_grouped_by_subject_the_worst_first() -> None:
    assert (
        shown([each for each in FINDINGS if each.severity is not Severity.OK])
        == """\
Network cards and PCIe
  unknown d: is so
          expected: to be so
          why: it matters [a book]

CPUs
  error   c: is so
          expected: to be so
          why: it matters [a book]
          fix: `mend it`
  warning b: ens1f0: is so
          expected: to be so
          why: it matters [a book]
          fix: `mend it`
  info    e: is so
          expected: to be so
          why: it matters [a book]
          fix: `mend it`

"""
    )


def test_what_holds_takes_one_line() -> None:
    assert shown([finding("a", Severity.OK, thing="ens1f0")]) == "CPUs\n  ok      a: ens1f0: is so\n\n"


def test_summary_counts_each_check_once_by_its_worst_finding() -> None:
    assert summary(FINDINGS, 9) == "9 checks: 1 ok, 1 error, 1 warning, 1 info, 1 unknown, 4 do not apply"
    assert summary([finding("a", Severity.OK)], 1) == "1 checks: 1 ok"
    assert summary([finding("a", Severity.ERROR), finding("b", Severity.ERROR)], 2) == "2 checks: 0 ok, 2 errors"


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    manifests, config = tmp_path / "manifests", tmp_path / "agent.yaml"
    manifests.mkdir(exist_ok=True)
    keys = {
        "state": f"{tmp_path}/state.db",
        "kubelet": f"{tmp_path}/kubelet",
        "cluster": {"manifests": str(manifests)},
    }
    config.write_text(json.dumps(keys))
    command = [sys.executable, "-m", "wirespeed", "doctor", "--config", str(config), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_json_has_all_findings_of_this_machine_and_the_exit_status_tells_errors(tmp_path: Path) -> None:
    done = run(tmp_path, "--json")
    assert done.stderr == ""
    found: list[dict[str, Any]] = json.loads(done.stdout)
    findings = msgspec.convert(found, list[Finding])
    assert {each.id for each in findings} <= set(CHECKS)
    [kubelet] = [each for each in findings if each.id == "kubelet-runs"]
    assert (kubelet.severity, kubelet.found) == (Severity.ERROR, f"there is no {tmp_path}/kubelet")
    assert done.returncode == 1
    assert not (tmp_path / "state.db").exists()


def test_text_ends_with_one_line_that_sums_up_and_has_no_colour_in_a_pipe(tmp_path: Path) -> None:
    done = run(tmp_path)
    *lines, last = done.stdout.splitlines()
    node = sum(each.subject is not Subject.POD for each in CHECKS.values())
    assert last.startswith(f"{node} checks: ")
    assert f"  error   kubelet-runs: there is no {tmp_path}/kubelet" in lines
    assert not [line for line in lines if line.startswith("  ok ")]
    assert "\x1b" not in done.stdout
    assert [line for line in run(tmp_path, "--all").stdout.splitlines() if line.startswith("  ok ")]


def test_pod_that_is_not_here_is_an_error(tmp_path: Path) -> None:
    done = run(tmp_path, "--pod", "shop/web")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: pod shop/web: neither the journal of this node nor the cluster has it\n"


def test_help_tells_the_exit_status() -> None:
    assert (
        "exit status is 1 if there is a finding of severity error" in CliRunner().invoke(doctor, ["--help"]).output
    )

"""Each check of `wirespeed doctor`: it holds on a node that is as it should be, and fails on one that is not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.doctorcases import hardware, software
from tests.doctorcases.case import Case
from tests.madenode import MadeNode, SharedNode
from wirespeed.doctor import CHECKS, Severity, judge
from wirespeed.doctor.cluster import NEEDED

ROOT = Path(__file__).parents[2]
CASES = [*hardware.CASES, *software.CASES]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedNode]:
    with contextlib.closing(SharedNode(tmp_path_factory.mktemp("made"))) as nodes:
        yield nodes


@pytest.fixture
def node(shared: SharedNode) -> MadeNode:
    return shared.fresh()


def test_every_check_holds_on_a_node_that_is_as_it_should_be(node: MadeNode) -> None:
    findings = judge(node.facts())
    assert [f"{each.id}: {each.found}" for each in findings if each.severity is not Severity.OK] == []
    assert {each.id for each in findings} == set(CHECKS)


def test_every_check_has_a_case_in_which_it_fails() -> None:
    assert {case.id for case in CASES} == set(CHECKS)


@pytest.mark.parametrize("case", CASES, ids=[f"{case.id}-{number}" for number, case in enumerate(CASES)])
def test_check_fails_on_a_node_that_is_not(node: MadeNode, case: Case) -> None:
    case.change(node)
    found = [each for each in node.findings(case.id) if each.severity is not Severity.OK]
    assert [(each.severity, each.found) for each in found] == [(case.severity, case.found)]
    assert found[0].expected
    assert found[0].why
    assert found[0].source


def test_permissions_that_are_checked_are_those_of_the_agents_role() -> None:
    documents = yaml.safe_load_all((ROOT / "deploy/rbac.yaml").read_text())
    [role] = [each for each in documents if each and each["kind"] == "ClusterRole"]
    granted = {
        (group, *f"{resource}/".split("/")[:2], verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if group != "resource.k8s.io"  # asked for only if a pod uses claims
    }
    assert {(group, name, sub, verb) for group, name, sub, verbs in NEEDED for verb in verbs} == granted

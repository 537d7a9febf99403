"""The test cluster's recipe, command line, addresses and certificates, without starting a cluster."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
from pathlib import Path

import pytest

from cluster import __main__ as command
from cluster.certificates import Authority
from cluster.network import Plan
from cluster.node import Node
from cluster.recipe import CLUSTER, MODULES, NEWEST, OLDEST, recipe


def plan(number: int, kubelet: str = NEWEST) -> Plan:
    return Plan(number=number, kubelet=kubelet)


def test_the_recipe_does_not_depend_on_where_the_project_lies() -> None:
    assert str(CLUSTER) not in json.dumps(recipe().settings)


def test_the_recipe_changes_with_the_versions() -> None:
    keys = {recipe().key, recipe("1.36.3").key, recipe(kubelets=(NEWEST,)).key}
    assert len(keys) == 3


def test_only_other_versions_than_ours_are_taken_without_a_checksum() -> None:
    assert recipe().settings["UNLOCKED"] == "no"
    assert recipe("1.36.3").settings["UNLOCKED"] == "yes"


def test_every_module_of_ours_has_its_checksum() -> None:
    locked = {tuple(line.split()[:2]) for line in (CLUSTER / "modules.lock").read_text().splitlines()}
    named = {tuple(line.split()[:2]) for line in MODULES.splitlines() if line}
    assert named <= locked
    for version in (NEWEST, OLDEST):
        assert ("k8s.io/kubernetes", f"v{version}") in locked
        assert ("k8s.io/api", f"v0.{version.partition('.')[2]}") in locked


def test_checksums_are_those_of_go() -> None:
    for line in (CLUSTER / "modules.lock").read_text().splitlines():
        assert re.fullmatch(r"\S+ v\S+ h1:[A-Za-z0-9+/]{43}=", line), line


@pytest.mark.parametrize("arguments", [["run"], ["shell", "--", "true"], ["run", "--vms", "9", "--", "true"], []])
def test_bad_use_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.parse(arguments)
    assert ended.value.code == 2


def test_the_command_comes_after_two_dashes() -> None:
    asked = command.parse(["run", "--kubelets", "1.35.4", "--", "kubectl", "get", "nodes", "--no-headers"])
    assert asked.command == ["kubectl", "get", "nodes", "--no-headers"]
    assert asked.kubelets == ("1.35.4",)


def test_a_node_reaches_the_other_nodes_pods_and_the_services(tmp_path: Path) -> None:
    plans = [plan(1), plan(2)]
    environment = Node(plans[0], tmp_path / "node1").environment(plans, NEWEST)
    assert environment["ROUTES"].split() == ["10.244.2.0/24@10.30.0.12", "10.201.0.0/24@10.30.0.1"]


def test_nodes_share_no_address_and_no_interface() -> None:
    first, second = plan(1), plan(2)
    assert {first.address, first.mac, first.pods}.isdisjoint({second.address, second.mac, second.pods})
    assert set(re.findall(r"ifname=([^,]+)", " ".join(first.devices()))).isdisjoint(
        re.findall(r"ifname=([^,]+)", " ".join(second.devices()))
    )


def test_certificates_pass_python_s_strict_verification(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    certificate, _ = authority.sign("one", "/CN=one", "subjectAltName=DNS:one", "extendedKeyUsage=serverAuth")
    assert ssl.create_default_context(cafile=str(authority.certificate))
    told = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", str(authority.certificate), str(certificate)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr

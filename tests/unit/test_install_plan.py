"""Plans of installations and uninstallations: where the replaced tools' state is expected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wirespeed.agent.install import plan as plans
from wirespeed.agent.install.plan import Options, Plan
from wirespeed.errors import Error
from wirespeed.steps import carry_out
from wirespeed.takeover import multus

MULTUS = {"cniVersion": "1.0.0", "name": "multus-cni-network", "type": "multus-shim"}


class Node:
    """The directories of a node on which Multus is to be replaced."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.record = root / "records/replaced.json"
        self.conf = root / "net.d/00-multus.conf"
        for folder in (self.record.parent, self.conf.parent, root / "bin"):
            folder.mkdir()
        (root / "shim").write_bytes(b"wirespeed: a CNI plugin, called by a container runtime")
        (root / "net.d/10-cbr0.conflist").write_text(
            json.dumps({"cniVersion": "1.0.0", "name": "cbr0", "plugins": [{"type": "bridge"}]})
        )
        (root / "agent.yaml").write_text(
            json.dumps({"attachments": str(root / "records/attachments"), "state": str(root / "state.db")})
        )

    def options(self, **given: Any) -> Options:
        root = self.root
        places = {"bin_dir": root / "bin", "config": root / "agent.yaml", "cni_config_dir": self.conf.parent}
        return Options(**{"shim": root / "shim", "unit_dir": root, "sriov_dir": root / "sriov"} | places | given)

    def install(self, **given: Any) -> str:
        """Replace Multus; its state directory as the record has it."""
        carry_out(plans.installation(self.options(replace=("multus",), **given)).steps)
        return str(json.loads(self.record.read_text())["multus"]["folder"])

    def removal(self, **given: Any) -> Plan:
        return plans.removal(self.options(**given))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture
def default(node: Node, monkeypatch: pytest.MonkeyPatch) -> str:
    """Multus' default state directory."""
    monkeypatch.setattr(multus, "CNI_DIR", str(node.root / "default"))
    return multus.CNI_DIR


def test_multus_state_is_where_the_option_then_its_configuration_then_the_record_says(
    node: Node, default: str
) -> None:
    node.conf.write_text(json.dumps(MULTUS))
    assert node.install() == default
    assert node.install(multus_dir=node.root / "option") == str(node.root / "option")
    assert node.install() == str(node.root / "option")  # the record
    node.conf.write_text(json.dumps({**MULTUS, "cniDir": "/host/var/lib/multus"}))
    assert node.install() == "/var/lib/multus"
    assert node.install(multus_dir=node.root / "option") == str(node.root / "option")


@pytest.mark.parametrize("content", ["{", '{"replaced": "multus"}'])
def test_uninstall_goes_on_without_a_record_that_cannot_be_read_only_if_forced(
    node: Node, default: str, content: str
) -> None:
    node.record.write_text(content)
    with pytest.raises(Error) as refused:
        node.removal()
    text = f"; without it, the state of Multus and of sriov-cni is expected in {default} and {node.root}/sriov"
    assert refused.value.msg.startswith(f"{node.record}: ")
    assert refused.value.msg.endswith(f"{text}; use --force to go on like that")
    assert "install again" not in refused.value.msg
    plan = node.removal(force=True)
    assert any(note.startswith(f"{node.record}: ") and note.endswith(text) for note in plan.notes)
    carry_out(plan.steps)
    assert not node.record.exists()


def test_install_says_what_to_do_about_a_record_that_cannot_be_read(node: Node) -> None:
    node.record.write_text("{")
    with pytest.raises(Error, match=r"; remove it, and run wirespeed install again$"):
        node.install()

"""The man pages, as mandoc reads them: it warns of nothing, and shows what a reader looks for."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from docsite import man
from tests.node.vhost.conftest import missing

PAGES = sorted(man.FOLDERS[0].iterdir())


@pytest.fixture(autouse=True, scope="module")
def _mandoc() -> None:
    if shutil.which("mandoc") is None:
        missing("needs mandoc: apt-get install mandoc")


def test_mandoc_warns_of_nothing() -> None:
    lint = ["mandoc", "-T", "lint", "-W", "style", *map(str, PAGES)]
    done = subprocess.run(lint, capture_output=True, text=True, check=False)
    # Pages refer to each other: mandoc looks for them where man pages are installed.
    found = [line for line in done.stdout.splitlines() if "referenced manual not found" not in line]
    assert found == []


def test_page_shows_usage_options_exit_statuses_and_examples() -> None:
    shown = plain("wirespeed-vf-create.1")
    assert "wirespeed vf create [OPTIONS] PF NUMBER" in shown
    assert re.search(r"--mtu INTEGER RANGE\n\s+The VFs' MTU\.", shown)
    assert "EXIT STATUS" in shown
    assert "wirespeed vf create ens1 4 --driver vfio-pci --dry-run" in shown


def test_page_of_the_configuration_shows_nested_keys_with_their_defaults() -> None:
    shown = " ".join(plain("wirespeed-agent.yaml.5").split())
    assert "cluster.requestTimeout Seconds to wait" in shown
    assert "Default: /run/wirespeed/state.db." in shown


def plain(name: str) -> str:
    render = ["mandoc", "-T", "ascii", str(man.FOLDERS[0] / name)]
    text = subprocess.run(render, capture_output=True, text=True, check=True).stdout
    return re.sub(r".\x08", "", text)  # bold and underlined, as terminals of paper did it

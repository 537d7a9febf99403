"""The agent's metrics, all of them: they follow Prometheus' conventions, and the page has them."""

from __future__ import annotations

import re
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from tests.node.conftest import PATIENCE, ROOT, Agent, Netns
from tests.node.metered import COUNTERS, metered
from tests.node.prometheus import program

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
# The metrics of the SR-IOV metrics exporter keep its names and labels, for its dashboards. These only are excepted.
CAMEL_CASE = "label names should be written in 'snake_case' not 'camelCase'"
EXPORTERS = {
    f"{name} {CAMEL_CASE}" for name in ("sriov_kubepoddevice", *(f"sriov_vf_{counter}" for counter in COUNTERS))
}
FOUND_SOMETHING = 3  # promtool's exit status


def read(address: str, accept: str = "text/plain") -> str:
    request = urllib.request.Request(f"http://{address}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        assert answer.headers["Content-Type"].startswith(accept.partition(";")[0])
        return str(answer.read().decode())


@pytest.fixture
def address(
    agent_process: Callable[..., Agent], netns: Callable[[], Netns], shim: Path, tmp_path: Path
) -> Iterator[str]:
    """The address of the metrics of an agent that has done a bit of everything."""
    with metered(agent_process, shim, netns(), tmp_path) as made:
        yield made.address


def test_names_units_and_labels_are_those_that_promtool_wants(address: str) -> None:
    text = read(address)
    check = [program("promtool"), "check", "metrics"]
    linted = subprocess.run(check, input=text, capture_output=True, text=True, check=False)
    assert set(linted.stderr.splitlines()) == EXPORTERS
    assert linted.returncode == FOUND_SOMETHING
    families = list(plain_text(text))
    ours = [family.name for family in families if family.name.startswith("wirespeed_")]
    assert len(ours) > 20
    # What Prometheus' page about metric names asks for besides, and promtool does not check.
    for family in families:
        assert family.documentation
        assert family.name not in family.documentation or family.name.startswith("sriov_")
        assert family.type != "unknown" or family.name.startswith("sriov_")


def test_scrapers_that_ask_for_openmetrics_get_it(address: str) -> None:
    parsed = open_metrics(read(address, OPEN_METRICS))  # type: ignore[no-untyped-call]
    families = {family.name: family for family in parsed}
    assert families["wirespeed_cni_requests"].type == "counter"
    assert families["wirespeed_vf"].type == "info"
    (build,) = families["wirespeed_build"].samples
    assert (build.name, set(build.labels), build.value) == ("wirespeed_build_info", {"version", "python"}, 1)
    assert families["wirespeed_kube_request_duration_seconds"].type == "histogram"
    listed = {"method": "GET", "code": "200"}
    samples = {
        (
            sample.name.removeprefix("wirespeed_kube_request_duration_seconds_"),
            sample.labels.get("le", ""),
        ): sample.value
        for sample in families["wirespeed_kube_request_duration_seconds"].samples
        if listed.items() <= sample.labels.items()
    }
    assert samples["count", ""] == samples["bucket", "+Inf"] >= 2  # pods and networks
    assert samples["bucket", "0.002"] <= samples["bucket", "30.0"]


def test_each_metric_of_the_page_exists_with_its_labels(address: str) -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `((?:wirespeed|sriov)_[^`]+)` \|([^|]*)\|", page, re.MULTILINE)
    told = {
        name.replace("<counter>", "rx_bytes"): {*filter(None, labels.strip().split(", "))} for name, labels in rows
    }
    found: dict[str, set[str]] = {}
    for family in plain_text(read(address)):
        for sample in family.samples:
            name = re.sub(r"_(bucket|count|sum)$", "", sample.name) if family.type == "histogram" else sample.name
            found.setdefault(name, set()).update({*sample.labels} - {"le"})
    del told["wirespeed_devlink_reporter_in_error"]  # it has samples only while a NIC's firmware reports an error
    own: dict[str, Any] = {
        name: labels for name, labels in found.items() if name.startswith(("wirespeed_", "sriov_"))
    }
    others = tuple(f"_vf_{counter}" for counter in COUNTERS[1:])
    assert {name: labels for name, labels in own.items() if not any(each in name for each in others)} == told

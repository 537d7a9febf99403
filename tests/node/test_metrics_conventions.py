"""The agent's metrics, all of them: they follow Prometheus' conventions, and the chart's files ask for them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from tests.apiserver import ApiServer
from tests.fakesysfs import FakeSysfs
from tests.node.calling import PROBE_CONFIG, Call
from tests.node.conftest import PATIENCE, ROOT, Agent, Netns
from tests.node.test_metrics import served
from wirespeed.kernel.netns import Identity
from wirespeed.play.kubelet import Kubelet
from wirespeed.plugins.meta.delegate import NO_NETNS, Delegate, planned_rows
from wirespeed.state.journal import AttachmentStep, DeviceClaim, Journal

MONITORING = ROOT / "deploy/chart/monitoring"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
# Labels that the chart's monitors give each series, and that of the buckets of a histogram.
TARGET_LABELS = {"job", "instance", "node", "le"}
# The metrics of the SR-IOV metrics exporter keep its names and labels, for its dashboards. These only are excepted.
CAMEL_CASE = "label names should be written in 'snake_case' not 'camelCase'"
EXPORTERS = {
    f"{name}: {CAMEL_CASE}" for name in ("sriov_kubepoddevice", "sriov_vf_rx_bytes", "sriov_vf_tx_packets")
}


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
    folder = tmp_path / "agent"
    (folder / "run").mkdir(parents=True)
    _write_journal(folder)
    _take_names(folder, shim)
    sysfs = FakeSysfs(tmp_path / "sys")
    for pf, name in (("0000:18:00.0", "ens1f0"), ("0000:3b:00.0", "ens2f0")):
        sysfs.pf(pf, name=name, vfs=2)
        sysfs.set_interface(name, "operstate", "up")
        stats = sysfs.root / f"bus/pci/devices/{pf}/sriov/0/stats"
        stats.mkdir(parents=True)
        for counter in ("rx_bytes", "tx_packets"):
            (stats / counter).write_text("5\n")
    pools = [{"resourceName": name, "selectors": {"pfNames": [name]}} for name in ("ens1f0", "ens2f0")]
    (tmp_path / "pools.json").write_text(json.dumps({"resourceList": pools}))
    kubelet = Kubelet(tmp_path / "kubelet")
    kubelet.start()
    try:
        with ApiServer(tmp_path) as api:
            agent = agent_process(
                folder=folder,
                metrics="127.0.0.1:0",
                cluster={"kubeconfig": str(api.kubeconfig())},
                kubelet=str(tmp_path / "kubelet"),
                sysfs=str(sysfs.root),
                devicePlugin=str(tmp_path / "pools.json"),
            )
            found = served(agent)
            for name in ("ens1f0", "ens2f0"):
                kubelet.wait_for(f"intel.com/{name}", 2, PATIENCE)
            kubelet.allocate("default", "vfw", "testpmd", "intel.com/ens1f0", 1)
            sysfs.set_interface("ens2f0", "operstate", "down")
            agent.wait_log("pool intel.com/ens2f0: unhealthy")
            assert Call(shim, agent.environ("GC"), PROBE_CONFIG).answer().status == 0
            _fail_an_add(agent, shim, netns().path)
            yield found
    finally:
        kubelet.stop()


def _write_journal(folder: Path) -> None:
    """An attachment that is done, and one whose ADD did not finish."""
    journal = Journal(folder / "run/state.db")
    for container, step in (("c1", AttachmentStep.ADDED), ("c2", AttachmentStep.ADDING)):
        raw = {"cniVersion": "1.0.0", "name": "fast", "type": "sriov"}
        delegate = Delegate(
            configuration="cluster",
            request_ifname="eth0",
            label="default/fast",
            raw=raw,
            version="1.0.0",
            ifname="net1",
        )
        journal.plan(planned_rows([delegate], container, "/run/netns/none", NO_NETNS))
        journal.mark(container, "net1", step)
    claim = DeviceClaim(
        device="0000:19:00.0", plugin="sriov", container="c1", ifname="net1", netns="/x", identity=Identity(0, 0, 0)
    )
    journal.claim(claim)
    journal.close()


def _take_names(folder: Path, shim: Path) -> None:
    """What `wirespeed install --replace sriov-cni` leaves behind."""
    (folder / "bin").mkdir()
    for name in ("wirespeed", "sriov"):
        shutil.copy(shim, folder / "bin" / name)
    record = {"binDir": str(folder / "bin"), "replaced": ["sriov-cni"], "sriovDir": str(folder / "sriov")}
    (folder / "replaced.json").write_text(json.dumps(record))


def _fail_an_add(agent: Agent, shim: Path, netns: str) -> None:
    delegate = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "probe", "fail": 100}]}
    config = {"cniVersion": "1.0.0", "name": "cluster", "type": "wirespeed", "delegates": [delegate]}
    environ = agent.environ("ADD", "c3", CNI_NETNS=netns, CNI_IFNAME="eth0")
    assert Call(shim, environ, config, name="wirespeed").answer().status == 1


def test_names_units_and_labels_are_those_that_promlint_wants(address: str) -> None:
    promlint = ROOT / "build/promlint"
    if not promlint.exists():
        message = "needs build/promlint: make build/promlint"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    text = read(address)
    linted = subprocess.run([promlint], input=text, capture_output=True, text=True, check=True)
    assert set(linted.stdout.splitlines()) == EXPORTERS
    families = list(plain_text(text))
    ours = [family.name for family in families if family.name.startswith("wirespeed_")]
    assert len(ours) > 20
    # What Prometheus' page about metric names asks for besides, and promlint does not check.
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


class Query(NamedTuple):
    """An expression, and the labels that its legend or its annotations use."""

    where: str
    expression: str
    labels: set[str]


def queries() -> Iterator[Query]:
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield Query(panel["title"], target["expr"], set(re.findall(r"{{(\w+)}}", target["legendFormat"])))
    for group in yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            texts = json.dumps(rule["annotations"])
            yield Query(rule["alert"], rule["expr"], set(re.findall(r"\$labels\.(\w+)", texts)))


def test_metrics_and_labels_of_the_dashboard_and_the_alerts_exist(address: str) -> None:
    labels: dict[str, set[str]] = {"up": set()}
    for family in plain_text(read(address)):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    # Counters that this node's VFs lack; all counters of VFs have the same labels.
    for counter in ("rx_packets", "tx_bytes", "rx_dropped", "tx_dropped"):
        labels[f"wirespeed_vf_{counter}_total"] = labels["wirespeed_vf_rx_bytes_total"]
    wrong = []
    for where, expression, shown in queries():
        selectors = re.findall(r"\b((?:wirespeed|sriov|process)_\w+|up)\b(?:{([^}]*)})?", expression)
        assert selectors, where
        for name, matchers in selectors:
            asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
            wrong += [f"{where}: {name}" for _ in "1" if name not in labels]
            wrong += [f"{where}: {name}{{{each}}}" for each in asked - labels.get(name, set()) - TARGET_LABELS]
        grouped = {
            each.strip() for by in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for each in by.split(",")
        }
        known = TARGET_LABELS.union(*(labels.get(name, set()) for name, _ in selectors))
        wrong += [f"{where}: label {each}" for each in (grouped | shown) - known]
        # What an aggregation drops can be neither in a legend nor in an annotation.
        if grouped and " by (" in expression:
            wrong += [f"{where}: label {each} is dropped" for each in shown - grouped]
    assert wrong == []


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
    assert {name: labels for name, labels in own.items() if "tx_packets" not in name} == told

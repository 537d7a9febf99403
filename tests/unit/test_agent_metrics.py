"""What the agent counts itself: exemplars of traced calls, histograms of its parts, the last GC."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from wirespeed.agent.metrics import Metrics
from wirespeed.agent.sources import Attachments
from wirespeed.metrics import SECONDS, Durations, Family
from wirespeed.node import ClusterConfig, Node, NodeConfig
from wirespeed.state.journal import Attachment, AttachmentStep

DURATION = "wirespeed_cni_request_duration_seconds"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    config = NodeConfig(
        state=str(tmp_path / "run/state.db"),
        attachments=str(tmp_path / "attachments"),
        sysfs=str(tmp_path),
        cluster=ClusterConfig(manifests=str(tmp_path)),
    )
    with closing(Node(config)) as node:
        yield node


def open_metrics(metrics: Metrics) -> dict[str, Metric]:
    text = generate_latest(metrics.registry).decode()  # type: ignore[no-untyped-call]
    families = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    return {family.name: family for family in families}


def test_a_traced_call_is_the_exemplar_of_its_bucket_and_others_are_none(node: Node) -> None:
    metrics = Metrics(node)
    metrics.observe("sriov", "ADD", 0, 0.03, TRACE)
    metrics.observe("sriov", "ADD", 0, 0.7)
    found = {
        sample.labels["le"]: (sample.value, sample.exemplar)
        for sample in open_metrics(metrics)[DURATION].samples
        if sample.name == f"{DURATION}_bucket"
    }
    assert [le for le, (_, exemplar) in found.items() if exemplar] == ["0.05"]
    value, exemplar = found["0.05"]
    assert exemplar is not None
    assert (value, exemplar.labels, exemplar.value) == (1, {"trace_id": TRACE}, 0.03)
    assert found["1.0"] == (2, None)


def test_only_a_gc_that_succeeded_is_the_last_one(node: Node) -> None:
    metrics = Metrics(node)
    metrics.observe("meta", "GC", 11, 0.1)
    metrics.observe("meta", "ADD", 0, 0.1)
    assert open_metrics(metrics)["wirespeed_cni_last_gc_timestamp_seconds"].samples == []
    metrics.observe("meta", "GC", 0, 0.1)
    (sample,) = open_metrics(metrics)["wirespeed_cni_last_gc_timestamp_seconds"].samples
    assert sample.labels == {"plugin": "meta"}
    assert sample.value > 1.7e9


def test_durations_of_a_part_are_a_histogram(node: Node) -> None:
    durations = Durations("wirespeed_part_duration_seconds", "Time of a part", ("method",))
    node.metrics.append(lambda: [durations])
    for seconds in (0.0, 0.002, 0.0021, 40.0):
        durations.observe("GET", seconds=seconds)
    family = open_metrics(Metrics(node))["wirespeed_part_duration_seconds"]
    values = {(sample.name, sample.labels.get("le", "")): sample.value for sample in family.samples}
    bucket = "wirespeed_part_duration_seconds_bucket"
    assert [values[bucket, le] for le in ("0.002", "0.005", "30.0", "+Inf")] == [2, 3, 3, 4]
    assert values["wirespeed_part_duration_seconds_count", ""] == 4
    assert values["wirespeed_part_duration_seconds_sum", ""] == pytest.approx(40.0041)
    assert len([name for name, _ in values if name == bucket]) == len(SECONDS)


def pending(attachments: Attachments) -> dict[tuple[str, ...], float]:
    by_name: dict[str, Family] = {family.name: family for family in attachments.metrics()}
    return dict(by_name["wirespeed_oldest_pending_attachment_timestamp_seconds"].samples)


def test_an_unfinished_attachment_is_as_old_as_the_scrape_that_saw_it_first(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("wirespeed.agent.sources.time.time", lambda: now)
    attachments = Attachments(node)
    conflist = {"delegate": {"raw": {"plugins": [{"type": "wirespeed-sriov"}, {"type": "tuning"}]}}}
    for container in ("old", "new"):
        node.journal.plan([Attachment(container=container, ifname="net1", position=0, netns="/x", record=conflist)])
        node.journal.mark(container, "net1", AttachmentStep.ADDING)
        assert pending(attachments) == {("sriov", "adding"): 1000.0}
        now += 60
    node.journal.mark("old", "net1", AttachmentStep.ADDED)
    assert pending(attachments) == {("sriov", "adding"): 1060.0}
    node.journal.mark("new", "net1", AttachmentStep.DELETING)
    assert pending(attachments) == {("sriov", "deleting"): 1120.0}
    node.journal.forget("new", "net1")
    assert pending(attachments) == {}

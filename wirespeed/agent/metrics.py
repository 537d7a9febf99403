"""The agent's metrics for Prometheus, served over HTTP at the configured address."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from wirespeed.agent import sources
from wirespeed.agent.address import parse_address
from wirespeed.errors import Error, os_errors
from wirespeed.metrics import SECONDS, Durations, Family, Source
from wirespeed.node import Node

log = logging.getLogger(__name__)

_SUFFIXES = {"counter": "_total", "info": "_info"}  # of the names of samples


class Metrics:
    """The metrics that the agent counts itself, and the sources of all others."""

    def __init__(self, node: Node) -> None:
        # One more series for each of a counter and a histogram, which nobody reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        labels = ["plugin", "verb"]
        self._calls = Counter(
            "wirespeed_cni_requests",
            "CNI calls answered; code 0 is success",
            [*labels, "code"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "wirespeed_cni_request_duration_seconds",
            "Time from a CNI call's arrival to its answer, waiting included",
            labels,
            registry=self.registry,
            buckets=SECONDS,
        )
        self._last_gc = Gauge(
            "wirespeed_cni_last_gc_timestamp_seconds",
            "When the last GC that succeeded was answered, as Unix time",
            ["plugin"],
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        self.registry.register(_Sources(sources.of(node), node.metrics))

    def observe(self, plugin: str, verb: str, code: int, seconds: float, trace_id: str = "") -> None:
        """Count a call; with `trace_id`, it becomes an exemplar, which scrapers get that ask for OpenMetrics."""
        self._calls.labels(plugin, verb, code).inc()
        self._seconds.labels(plugin, verb).observe(seconds, {"trace_id": trace_id} if trace_id else None)
        if verb == "GC" and code == 0:
            self._last_gc.labels(plugin).set_to_current_time()


@contextmanager
def serving(metrics: Metrics, address: str) -> Iterator[None]:
    """Serve /metrics at "address:port" while the body runs, in the format that the scraper asks for.

    Raises Error(INVALID_CONFIG).
    """
    where = parse_address(address, key="metrics", example="127.0.0.1:9808")
    with os_errors(f"metrics at {address}"):
        server, thread = start_http_server(where.port, where.host, metrics.registry)
    log.info("metrics are served", extra={"fields": {"address": where._replace(port=server.server_port)}})
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Sources(Collector):
    """The metrics of the sources, which are called at each scrape."""

    def __init__(self, own: list[Source], parts: list[Source]) -> None:
        self._own, self._parts = own, parts

    def collect(self) -> Iterator[Metric]:
        for source in (*self._own, *self._parts):
            try:
                families = list(source())
            except (Error, OSError) as error:
                log.warning("metrics: %s", error)
                continue
            yield from map(_metric, families)


def _metric(family: Family | Durations) -> Metric:
    if isinstance(family, Durations):
        return _histogram(family)
    metric = Metric(family.name, family.text, family.kind)
    name = family.name + _SUFFIXES.get(family.kind, "")
    for labels, value in family.samples:
        metric.add_sample(name, dict(zip(family.labels, labels, strict=True)), value)
    return metric


def _histogram(durations: Durations) -> Metric:
    metric = HistogramMetricFamily(durations.name, durations.text, labels=durations.labels)
    bounds = ["+Inf" if math.isinf(bound) else str(float(bound)) for bound in SECONDS]
    for each in durations.distributions():
        metric.add_metric(each.labels, list(zip(bounds, each.counts, strict=True)), each.total)
    return metric

"""The agent's metrics for Prometheus, served over HTTP at the configured address."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from wirespeed.agent import sources
from wirespeed.cni.errors import CniError, Code
from wirespeed.metrics import Family, Source
from wirespeed.node import Node

log = logging.getLogger(__name__)

_KINDS = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "unknown": UnknownMetricFamily}
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, math.inf)


class Metrics:
    """The metrics that the agent counts itself, and the sources of all others."""

    def __init__(self, node: Node) -> None:
        self.registry = CollectorRegistry()
        labels = ["plugin", "verb"]
        self._calls = Counter(
            "wirespeed_cni_requests",
            "CNI calls answered; code 0 is success",
            [*labels, "code"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "wirespeed_cni_seconds",
            "Time from a CNI call's arrival to its answer, waiting included",
            labels,
            registry=self.registry,
            buckets=_SECONDS,
        )
        ProcessCollector(registry=self.registry)
        self.registry.register(_Sources(sources.of(node), node.metrics))

    def observe(self, plugin: str, verb: str, code: int, seconds: float) -> None:
        """Count an answered call."""
        self._calls.labels(plugin, verb, code).inc()
        self._seconds.labels(plugin, verb).observe(seconds)


@contextmanager
def serving(metrics: Metrics, address: str) -> Iterator[None]:
    """Serve /metrics at "address:port" while the body runs. Raises CniError(INVALID_CONFIG)."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise CniError(
            Code.INVALID_CONFIG,
            f'configuration: key "metrics": expected address:port, like 127.0.0.1:9808, got {address!r}',
        )
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), metrics.registry)
    except OSError as error:
        raise CniError(Code.IO_FAILURE, f"metrics at {address}: {error.strerror or error}") from error
    log.info("metrics are served", extra={"fields": {"address": f"{host}:{server.server_port}"}})
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
            except (CniError, OSError) as error:
                log.warning("metrics: %s", error)
                continue
            yield from map(_metric, families)


def _metric(family: Family) -> Metric:
    metric: Metric = _KINDS[family.kind](family.name, family.text, labels=family.labels)
    name = f"{family.name}_total" if family.kind == "counter" else family.name
    for labels, value in family.samples:
        metric.add_sample(name, dict(zip(family.labels, labels, strict=True)), value)
    return metric

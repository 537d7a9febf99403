"""A Prometheus server of one test, which scrapes an agent as with the chart's monitors.

with scraping(tmp_path, "127.0.0.1:9808") as server:
    server.wait_for_scrapes(2)
    assert server.ask("wirespeed_attachments") != []
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode

import yaml

from tests.node.conftest import PATIENCE, ROOT
from tests.node.vhost.conftest import missing

MONITORING = ROOT / "deploy/chart/monitoring"
NODE = "n1"
INTERVAL = 1  # seconds; a scrape that takes longer fails, and the next one is as good
# What the operator gives each target, before the relabelings of its monitor.
_TARGET = {
    "__meta_kubernetes_pod_node_name": NODE,
    "namespace": "wirespeed",
    "pod": "wirespeed-agent-7k2xq",
    "container": "agent",
    "endpoint": "metrics",
    "service": "wirespeed-metrics",
}


def program(name: str) -> str:
    """The path of `prometheus` or `promtool`. Without it, the test fails in CI and is skipped elsewhere."""
    found = shutil.which(name)
    if found is None:
        missing(f"needs {name}: apt-get install prometheus")
    return str(found)


class Prometheus:
    """A running server at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **asked: str | float) -> Any:
        """The data of the API's answer, such as of `get("query", query="up")`; its errors fail the test."""
        address = f"{self.url}/api/v1/{path}?{urlencode(asked)}"
        try:
            with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{asked}: {error.read().decode()}") from None

    def ask(self, expression: str, *, at: float | None = None) -> list[dict[str, str]]:
        """The labels of the series with which an expression is answered, `at` a Unix time (default: now)."""
        answer = self.get("query", query=expression, time=time.time() if at is None else at)
        assert answer["resultType"] == "vector", expression
        return [series["metric"] for series in answer["result"]]

    def wait_for_scrapes(self, number: int) -> None:
        """Wait until that many more scrapes have begun after this call and succeeded."""
        # One that runs now may have begun before.
        wanted = self._scrapes() + number + 1
        self.wait(lambda: self._scrapes() >= wanted, f"{number} more scrapes")

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Poll: the server notifies nobody of a scrape."""
        end, pause = time.monotonic() + 2 * PATIENCE, threading.Event()
        while not condition():
            assert time.monotonic() < end, f"never {what}"
            pause.wait(0.1)

    def _scrapes(self) -> int:
        result = self.get("query", query="sum_over_time(up[1h])")["result"]
        return int(result[0]["value"][1]) if result else 0


@contextmanager
def scraping(folder: Path, address: str) -> Iterator[Prometheus]:
    """Run a server that scrapes the agent at `address` and evaluates the alerts; its files are in `folder`."""
    config = folder / "prometheus.yml"
    config.write_text(json.dumps(_config(address)))
    command = [
        program("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        "--web.listen-address=127.0.0.1:0",
        "--enable-feature=exemplar-storage",
        "--query.lookback-delta=1h",  # a test can ask for a later time than that of the last scrape
    ]
    environ = {**os.environ, "GOMAXPROCS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stderr is not None
        reader = threading.Thread(target=process.stderr.read, daemon=True)  # a full pipe would stop the server
        try:
            url = _wait_ready(process.stderr)
            reader.start()
            yield Prometheus(url)
        finally:
            process.kill()
            if reader.is_alive():
                reader.join(PATIENCE)


def _config(address: str) -> dict[str, Any]:
    job = {
        "job_name": "wirespeed-metrics",
        "static_configs": [{"targets": [address], "labels": _TARGET}],
        "relabel_configs": relabelings(),
    }
    every = {"scrape_interval": f"{INTERVAL}s", "evaluation_interval": f"{INTERVAL}s"}
    return {"global": every, "rule_files": [str(MONITORING / "rules.yaml")], "scrape_configs": [job]}


def relabelings() -> list[dict[str, Any]]:
    """What the chart's monitors do with the labels of targets, with the names of keys that Prometheus has."""
    template = (ROOT / "deploy/chart/templates/metrics.yaml").read_text()
    texts = re.findall(r"^ +relabelings:\n((?: +- .+\n)+)", template, re.MULTILINE)
    service, pod = (yaml.safe_load(text) for text in texts)
    assert service == pod
    return [{re.sub(r"(?=[A-Z])", "_", key).lower(): value for key, value in each.items()} for each in service]


def _wait_ready(stderr: IO[str]) -> str:
    """The address of the server, from its log."""
    lines, address, ready = [], "", False
    for line in stderr:
        lines.append(line)
        if 'msg="Listening on" address=' in line:
            address = line.rpartition("address=")[2].strip()
        ready = ready or "Server is ready to receive web requests" in line
        if address and ready:
            return f"http://{address}"
    raise AssertionError("Prometheus ended:\n" + "".join(lines))

"""Records what the dashboard's panels show of an agent with a minute of calls, for docs/drawings.

pytest tests/node/record_dashboard.py && make drawings    # no test: pytest runs it only by its name
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from docsite.dashboard import Panel, Record, Series, described
from docsite.drawings import FOLDER
from tests.node.conftest import Agent, Netns
from tests.node.metered import COUNTERS, PFS, Metered, metered
from tests.node.prometheus import MONITORING, NODE, Prometheus, scraping

SECONDS, STEP = 60, 2
BITS = {"0": 9.4e9, "1": 3.1e9}  # per second, by VF; the VFs and their counters are made up


def test_record(
    agent_process: Callable[..., Agent], shim: Path, netns: Callable[[], Netns], tmp_path: Path
) -> None:
    with metered(agent_process, shim, netns(), tmp_path) as agent, scraping(tmp_path, agent.address) as server:
        server.wait_for_scrapes(1)
        start = time.time()
        while time.time() < start + SECONDS + 10:
            _count(agent, time.time() - start)
            agent.call()
            threading.Event().wait(0.2)
        found = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
        # The rates of the first seconds have too few scrapes.
        first = start + 10
        panels = [_panel(server, panel, first, first + SECONDS) for panel in found]
    (FOLDER / "dashboard.answers").write_bytes(msgspec.json.encode(Record(first, first + SECONDS, panels)) + b"\n")


def _count(agent: Metered, seconds: float) -> None:
    for pf in PFS:
        for vf, bits in BITS.items():
            for counter in COUNTERS:
                share = {"bytes": 1 / 8, "packets": 1 / 12000, "dropped": 1 / 12e6}[counter.partition("_")[2]]
                busy = 0 if pf == "ens2f0" else 0.5 if counter.startswith("tx") else 1
                agent.set_counter(pf, vf, counter, int(bits * share * busy * seconds))


def _panel(server: Prometheus, panel: dict[str, Any], start: float, end: float) -> Panel:
    targets = panel.get("targets", ())
    series = [each for target in targets for each in _series(server, target, start, end)]
    return msgspec.structs.replace(described(panel), series=series)


def _series(server: Prometheus, target: dict[str, Any], start: float, end: float) -> list[Series]:
    """The answer to a target as Grafana asks for it, without values that are none."""
    expression = target["expr"].replace("$node", NODE).replace("$__rate_interval", "10s")
    answer = server.get("query_range", query=expression, start=start, end=end, step=STEP)
    made = []
    for each in answer["result"]:
        labels = each["metric"]
        values = [(float(at), float(f"{float(value):.4g}")) for at, value in each["values"] if value != "NaN"]
        legend = target["legendFormat"]
        for name in re.findall(r"{{(\w+)}}", legend):
            legend = legend.replace("{{" + name + "}}", labels.get(name, ""))
        if values:
            made.append(Series(legend, labels, values))
    return made

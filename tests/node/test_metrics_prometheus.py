"""A Prometheus server that scrapes an agent answers what the dashboard and the alerts ask, and has exemplars."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.node.conftest import ROOT, Agent, Netns
from tests.node.metered import Metered, metered
from tests.node.prometheus import MONITORING, NODE, Prometheus, program, scraping

RULES = MONITORING / "rules.yaml"
RULES_TEST = ROOT / "tests/node/alerts.yaml"
DURATIONS = "wirespeed_cni_request_duration_seconds_bucket"
OPPOSITES = {"=": "!=", "!=": "=", "!~": "=~"}
DOWN = f"The wirespeed agent on {NODE} does not answer."
STUCK = 700  # seconds after which an attachment that does not change is stuck


class Query(NamedTuple):
    """An expression, and the labels that its legend or its annotations use."""

    where: str
    expression: str
    labels: set[str]


@pytest.fixture
def agent(
    agent_process: Callable[..., Agent], netns: Callable[[], Netns], shim: Path, tmp_path: Path
) -> Iterator[Metered]:
    with metered(agent_process, shim, netns(), tmp_path) as made:
        yield made


@pytest.fixture
def server(agent: Metered, tmp_path: Path) -> Iterator[Prometheus]:
    """A server that has seen calls between two of its scrapes."""
    with scraping(tmp_path, agent.address) as started:
        started.wait_for_scrapes(1)
        agent.call()
        started.wait_for_scrapes(1)
        yield started


def panels() -> Iterator[Query]:
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            # What Grafana puts in the place of its variables.
            expression = target["expr"].replace("$node", NODE).replace("$__rate_interval", "1h")
            yield Query(panel["title"], expression, set(re.findall(r"{{(\w+)}}", target["legendFormat"])))


def alerts() -> dict[str, Query]:
    found = {}
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            texts = json.dumps(rule["annotations"])
            labels = set(re.findall(r"\$labels\.(\w+)", texts))
            found[rule["alert"]] = Query(rule["alert"], rule["expr"], labels)
    return found


def wrong(server: Prometheus, query: Query, *, at: float) -> Iterator[str]:
    """What is wrong with the answers to a query: nothing, or not the labels that it needs."""
    answers = server.ask(query.expression, at=at)
    if not answers:
        yield f"{query.where}: no series for {query.expression}"
    grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", query.expression)
    named = {name.strip() for names in grouped for name in names.split(",")} - {"le"}
    for label in sorted((query.labels | named) - set().union(*answers)):
        yield f"{query.where}: no series with label {label}"
    for opposite in opposites(query.expression):
        if not server.ask(opposite, at=at):
            yield f"{query.where}: no series for {opposite}"


def opposites(expression: str) -> Iterator[str]:
    """The expression with the opposite of each matcher that a series without its label meets.

    With a misspelt label, such a matcher selects every series, and its opposite selects none.
    """
    for found in re.finditer(r"""(=|!=|!~)(?="([^"]*)")""", expression):
        if (found[1] == "=") == (found[2] == ""):
            yield f"{expression[: found.start()]}{OPPOSITES[found[1]]}{expression[found.end() :]}"


def test_opposites_are_those_of_matchers_that_need_no_label() -> None:
    assert list(opposites('a{b="c",d=~"e"} > 1')) == []
    assert list(opposites('a{b!="c"} / a{d!~"e.",f=""}')) == [
        'a{b="c"} / a{d!~"e.",f=""}',
        'a{b!="c"} / a{d=~"e.",f=""}',
        'a{b!="c"} / a{d!~"e.",f!=""}',
    ]


def test_every_panel_of_the_dashboard_has_series_with_the_labels_of_its_legend(server: Prometheus) -> None:
    queries = list(panels())
    assert len(queries) > 25
    assert [each for query in queries for each in wrong(server, query, at=time.time())] == []
    variables = json.loads((MONITORING / "dashboard.json").read_text())["templating"]["list"]
    (asked,) = [each["query"]["query"] for each in variables if each["type"] == "query"]
    found = re.fullmatch(r"label_values\((\w+), (\w+)\)", asked)
    assert found is not None
    assert server.get(f"label/{found[2]}/values", **{"match[]": found[1]}) == [NODE]


def test_labels_of_the_agents_pod_do_not_rename_those_of_the_vfs_pods(server: Prometheus) -> None:
    assert [name for name in server.get("labels") if name.startswith("exported_")] == []
    (given,) = server.ask('wirespeed_vf_info{pod!=""}')
    assert (given["namespace"], given["pod"], given["node"]) == ("default", "vfw", NODE)


def test_every_alert_has_its_reason_in_the_metrics_of_an_agent(agent: Metered, server: Prometheus) -> None:
    queries = alerts()
    down = queries.pop("WirespeedAgentDown")
    later = time.time() + STUCK
    assert [each for query in queries.values() for each in wrong(server, query, at=later)] == []
    agent.agent.stop()
    server.wait(lambda: bool(server.ask(down.expression)), "down")
    assert list(wrong(server, down, at=time.time())) == []
    server.wait(lambda: DOWN in [alert["annotations"]["summary"] for alert in server.get("alerts")["alerts"]], DOWN)
    rules = [rule for group in server.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"]: rule["health"] for rule in rules} == dict.fromkeys(alerts(), "ok")


def test_trace_id_of_a_call_is_the_exemplar_of_its_bucket(agent: Metered, server: Prometheus) -> None:
    trace = agent.fail_an_add()
    server.wait_for_scrapes(1)
    now = time.time()
    found = server.get("query_exemplars", query=DURATIONS, start=now - 600, end=now + 60)
    labels = [
        series["seriesLabels"]
        for series in found
        for exemplar in series["exemplars"]
        if exemplar["labels"] == {"trace_id": trace}
    ]
    assert {(each["plugin"], each["verb"], each["node"]) for each in labels} == {("meta", "ADD", NODE)}


def test_promtool_takes_the_alerts() -> None:
    subprocess.run([program("promtool"), "check", "rules", RULES], check=True)


def test_alerts_fire_when_they_should_and_not_otherwise() -> None:
    tested = yaml.safe_load(RULES_TEST.read_text())["tests"]
    cases = [case for test in tested for case in test["alert_rule_test"]]
    for name in alerts():
        assert {bool(case["exp_alerts"]) for case in cases if case["alertname"] == name} == {True, False}
    subprocess.run([program("promtool"), "test", "rules", RULES_TEST], check=True)

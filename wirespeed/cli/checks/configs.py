"""Checks of configurations (agent, device plugin, Multus' daemon), chart values, node policies and ConfigMaps."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from wirespeed.agent import cniconf
from wirespeed.cli.checks import drivers
from wirespeed.cli.checks.findings import Finding
from wirespeed.cli.checks.networks import metadata_fault
from wirespeed.cli.checks.places import Document, Place, Step
from wirespeed.cli.checks.problems import Mending, Problem, examine, locate, without
from wirespeed.deviceplugin import config as deviceplugin_config
from wirespeed.node import ALIASES, NodeConfig, to_config
from wirespeed.play import manifests
from wirespeed.plugins.meta.config import CAPABILITIES, OWN_TYPE
from wirespeed.provision import policy
from wirespeed.takeover import multus

_POLICY = Mending(keys={"resourceName": "unknown", "numVfs": 1, "nicSelector": {}}, elements={})
_WHERE = "policy file"  # the prefix of its messages
# Separates two problems in a message of the device plugin: each problem begins with a place or a resource.
_NEXT = re.compile(r"; (?=resourceList\b|resource \S+ is there \d+ times)")


def agent(document: Document) -> Iterator[Finding]:
    """Check the agent's configuration."""

    for problem in examine(_read_agent, document.value, reword=_of_autoconf).problems:
        yield Finding.of(problem, document.place)


def _read_agent(value: Any) -> None:
    config = to_config(value)
    if config.autoconf is not None:
        cniconf.check(config.autoconf)


def _of_autoconf(text: str) -> str:
    """Return the message with the full path of a key of autoconf."""
    return text.replace('autoconf: key "', 'key "autoconf.', 1).replace(": configuration primary: ", ": ", 1)


def lenient(meta: dict[str, Any]) -> set[object]:
    """Return the capabilities that pods may use with networks that do not declare them (lenientCapabilities).

    `meta` is a meta-plugin's configuration, or autoconf.meta. Empty for another plugin's configuration, and for
    invalid values: these are reported by the check of the configuration itself.
    """
    kind = meta.get("type", OWN_TYPE)
    if not isinstance(kind, str) or ALIASES.get(kind) != "meta":
        return set()
    given = meta.get("lenientCapabilities")
    if given is None and kind != OWN_TYPE:
        return set(CAPABILITIES)
    return {each for each in given if isinstance(each, str)} if isinstance(given, list) else set()


def device_plugin(document: Document) -> Iterator[Finding]:
    """Check the device plugin's configuration. Its reader reports all problems in one message."""
    outcome = examine(
        lambda value: deviceplugin_config.parse(json.dumps(value).encode(), NodeConfig().resource_prefix),
        document.value,
        split=_NEXT.split,
        reword=without("device plugin configuration: "),
    )
    for problem in outcome.problems:
        yield Finding.of(problem, document.place)
    yield from drivers.of_pools(document.value, document.place)


def chart_values(document: Document) -> Iterator[Finding]:
    """Check the pools in values of the chart. All other values are checked by helm, with the chart's schema."""
    for path, pools in pools_of_chart(document):
        for finding in device_plugin(pools):
            yield replace(finding, text=finding.text.replace("resourceList", path))


def pools_of_chart(document: Document) -> Iterator[tuple[str, Document]]:
    """Yield each list of pools in values of the chart, with its path, as a configuration of the device plugin."""
    for steps, pools in _pool_lists(document.value):
        place = document.place.at(steps)
        yield (
            ".".join(map(str, steps)),
            Document({"resourceList": pools}, Place(place.line, {"resourceList": place})),
        )


def has_pools_of_chart(values: dict[str, Any]) -> bool:
    """Whether a document is values of the chart: there is a list of pools in one of the places for it."""
    return any(
        isinstance(pool, dict) and any(str(key).lower() == "resourcename" for key in pool)
        for _, pools in _pool_lists(values)
        for pool in (pools if isinstance(pools, list) else ())
    )


def _pool_lists(values: dict[str, Any]) -> Iterator[tuple[tuple[Step, ...], Any]]:
    """Yield `pools`, and those of each node group, with the steps to them. For helm, null is the same as no key."""
    groups = values.get("nodeGroups")
    groups = groups.get("groups") if isinstance(groups, dict) else None
    found: dict[tuple[Step, ...], Any] = {("pools",): values.get("pools")}
    for name, group in groups.items() if isinstance(groups, dict) else ():
        found["nodeGroups", "groups", name, "pools"] = group.get("pools") if isinstance(group, dict) else None
    yield from ((steps, pools) for steps, pools in found.items() if pools is not None)


def multus_daemon(document: Document) -> Iterator[Finding]:
    """Check the configuration of Multus' daemon, as the agent translates it."""
    for text in multus.translate(document.value).warnings:
        steps, _ = locate(document.value, text)
        yield Finding.of(Problem(text, steps, error=False), document.place)
    outcome = examine(
        lambda value: _read_agent(multus.translate(value).document),
        document.value,
        reword=_of_daemon,
    )
    for problem in outcome.problems:
        yield Finding.of(problem, document.place)


def _of_daemon(text: str) -> str:
    """Return the message with the key names of the daemon's configuration."""
    return text.removeprefix('autoconf: key "meta": configuration primary: ').replace('key "autoconf.', 'key "', 1)


def node_policy(document: Document) -> Iterator[Finding]:
    """Check an SriovNetworkNodePolicy with the reader of `wirespeed vf apply`."""
    outcome = examine(
        lambda value: policy.read(value, _WHERE), document.value, mending=_POLICY, reword=without(f"{_WHERE}: ")
    )
    for problem in outcome.problems:
        yield Finding.of(problem, document.place)


def config_map(document: Document) -> Iterator[Finding]:
    """Check a ConfigMap with the reader of `wirespeed play`. Configurations inside it are checked separately."""
    raw = document.value
    fault = metadata_fault(raw, raw["kind"])
    if fault is not None:
        yield Finding.of(fault, document.place)
        return
    for problem in examine(manifests.check, raw).problems:
        yield Finding.of(problem, document.place)

"""Checks of configurations (agent, device plugin, Multus' daemon), chart values, node policies and ConfigMaps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from wirespeed.agent import cniconf
from wirespeed.cli.checks import drivers
from wirespeed.cli.checks.findings import Finding, findings_of
from wirespeed.cli.checks.networks import metadata_fault
from wirespeed.cli.checks.places import Document, Place, list_at, object_at, value_at
from wirespeed.cli.checks.problems import Problem, Repairs, examine
from wirespeed.deviceplugin import config as deviceplugin_config
from wirespeed.errors import Error, PathStep, format_path
from wirespeed.node import ALIASES, NodeConfig
from wirespeed.play import manifests
from wirespeed.plugins.meta.config import CAPABILITIES, OWN_TYPE
from wirespeed.provision import policy
from wirespeed.takeover import multus

_POLICY = Repairs(keys={"resourceName": "unknown", "numVfs": 1, "nicSelector": {}}, elements={})
_WHERE = "policy file"  # the first place of its messages
_POOLS: tuple[PathStep, ...] = ("resourceList",)


def agent(document: Document) -> Iterator[Finding]:
    return findings_of(cniconf.read_config, document.value, document.place)


def lenient_capabilities(meta: dict[str, Any]) -> set[object]:
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
    return {each for each in list_at(given) if isinstance(each, str)}


def device_plugin(document: Document) -> Iterator[Finding]:
    return _pools(document, _POOLS)


def _pools(document: Document, path: tuple[PathStep, ...]) -> Iterator[Finding]:
    """Check the list of pools in the document, which messages call `path`."""
    outcome = examine(
        lambda value: deviceplugin_config.parse(json.dumps(value).encode(), NodeConfig().resource_prefix),
        document.value,
        leave_out=["device plugin configuration"],
    )
    for problem in outcome.problems:
        fault = problem.fault
        if fault.path[:1] == _POOLS:
            fault = fault.at(key=(*path, *fault.path[1:]))
        yield Finding.of(replace(problem, fault=fault), document.place)
    yield from drivers.of_pools(document.value, document.place, format_path(path))


def chart_values(document: Document) -> Iterator[Finding]:
    """Check the pools in values of the chart. All other values are checked by helm, with the chart's schema."""
    for path, pools in pools_of_chart(document):
        yield from _pools(pools, path)


def pools_of_chart(document: Document) -> Iterator[tuple[tuple[PathStep, ...], Document]]:
    """Yield each list of pools in values of the chart, with its path, as a configuration of the device plugin."""
    for steps, pools in _pool_lists(document.value):
        place = document.place.at(steps)
        yield steps, Document({"resourceList": pools}, Place(place.line, {"resourceList": place}))


def has_pools_of_chart(values: dict[str, Any]) -> bool:
    """Whether a document is values of the chart: there is a list of pools in one of the places for it."""
    return any(
        isinstance(pool, dict) and any(str(key).lower() == "resourcename" for key in pool)
        for _, pools in _pool_lists(values)
        for pool in list_at(pools)
    )


def _pool_lists(values: dict[str, Any]) -> Iterator[tuple[tuple[PathStep, ...], Any]]:
    """Yield `pools`, and those of each node group, with the steps to them. For helm, null is the same as no key."""
    groups = object_at(values, "nodeGroups", "groups")
    for steps in (("pools",), *(("nodeGroups", "groups", name, "pools") for name in groups)):
        if (pools := value_at(values, *steps)) is not None:
            yield steps, pools


def multus_daemon(document: Document) -> Iterator[Finding]:
    """Check the configuration of Multus' daemon, as the agent translates it."""
    for warning in multus.translate(document.value).warnings:
        yield Finding.of(Problem.of(warning, document.value, error=False), document.place)
    yield from findings_of(_read_multus_daemon, document.value, document.place)


def _read_multus_daemon(value: Any) -> None:
    """Read it as the agent does. The daemon has the keys of `autoconf` and of `autoconf.meta` at the top."""
    try:
        cniconf.read_config(multus.translate(value).document)
    except Error as error:
        inside = 2 if error.path[:2] == ("autoconf", "meta") else 1
        raise error.at(key=error.path[inside:]) from error


def node_policy(document: Document) -> Iterator[Finding]:
    """Check an SriovNetworkNodePolicy with the reader of `wirespeed vf apply`."""
    return findings_of(
        lambda value: policy.read(value, _WHERE),
        document.value,
        document.place,
        repairs=_POLICY,
        leave_out=[_WHERE],
    )


def config_map(document: Document) -> Iterator[Finding]:
    """Check a ConfigMap with the reader of `wirespeed play`. Configurations inside it are checked separately."""
    if fault := metadata_fault(document.value, document.value["kind"]):
        yield Finding.of(fault, document.place)
    else:
        yield from findings_of(manifests.check, document.value, document.place)

"""The Downward API, and volumes made of texts: the files' contents, and how they are written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirespeed.eal import downward as reader
from wirespeed.play import downward, environment, manifests, texts
from wirespeed.play.objects import Facts, Pod
from wirespeed.play.texts import File

FACTS = Facts(
    uid="u-1",
    hostname="vfw",
    node="node-1",
    annotations={"b": 'says "x"\n', "k8s.v1.cni.cncf.io/network-status": '[{"name": "a"}]'},
)
RESOURCES = {
    "limits": {"cpu": "1500m", "memory": "1Gi", "hugepages-1Gi": "2Gi"},
    "requests": {"memory": "100M"},
}


def made(tmp_path: Path, volume: dict[str, Any] | None = None, **container: Any) -> Pod:
    whole = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "vfw", "namespace": "edge", "labels": {"tier": "a", "app": "fire\twall"}},
        "spec": {
            "containers": [
                {"name": "main", "command": ["true"], "resources": RESOURCES, **container},
                {"name": "other", "command": ["true"]},
            ],
            "volumes": [{"name": "v", **(volume or {})}],
        },
    }
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "edge"}}
    config_map["data"] = {"one": "1", "two": "2"}
    (tmp_path / "pod.json").write_text(json.dumps({"kind": "List", "items": [whole, config_map]}))
    return manifests.load([tmp_path / "pod.json"]).pods[0]


def files(pod: Pod) -> dict[str, tuple[str, int]]:
    volume = pod.spec.volumes[0].texts
    assert volume
    found = texts.files(volume, pod, FACTS, {("edge", "c"): {"one": "1", "two": "2"}})
    return {path: (file.text, file.mode) for path, file in found.items()}


def field(path: str) -> dict[str, Any]:
    return {"fieldRef": {"fieldPath": path}}


def amount(resource: str, container: str = "main", **keys: Any) -> dict[str, Any]:
    return {"resourceFieldRef": {"resource": resource, "containerName": container, **keys}}


def test_a_downward_volume_tells_of_the_pod(tmp_path: Path) -> None:
    items = {
        "labels": field("metadata.labels"),
        "annotations": field("metadata.annotations"),
        "who/name": field("metadata.name"),
        "who/namespace": field("metadata.namespace"),
        "who/uid": field("metadata.uid"),
        "tier": {**field("metadata.labels['tier']"), "mode": 0o400},
        "status": field("metadata.annotations['k8s.v1.cni.cncf.io/network-status']"),
        "none": field("metadata.annotations['none']"),
    }
    volume = {
        "downwardAPI": {"items": [{"path": path, **item} for path, item in items.items()], "defaultMode": 0o640}
    }
    found = files(made(tmp_path, volume))
    assert {path: text for path, (text, _) in found.items()} == {
        "labels": 'app="fire\\twall"\ntier="a"',
        "annotations": 'b="says \\"x\\"\\n"\nk8s.v1.cni.cncf.io/network-status="[{\\"name\\": \\"a\\"}]"',
        "who/name": "vfw",
        "who/namespace": "edge",
        "who/uid": "u-1",
        "tier": "a",
        "status": '[{"name": "a"}]',
        "none": "",
    }
    assert {path: mode for path, (_, mode) in found.items() if mode != 0o640} == {"tier": 0o400}


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (amount("limits.cpu"), "2"),
        (amount("limits.cpu", divisor="1m"), "1500"),
        (amount("requests.cpu", divisor="1m"), "1500"),  # without a request, the limit counts
        (amount("limits.memory"), "1073741824"),
        (amount("requests.memory", divisor="1Mi"), "96"),
        (amount("limits.hugepages-1Gi", divisor="1Mi"), "2048"),
        (amount("requests.hugepages-1Gi", divisor="1Gi"), "2"),
        (amount("limits.hugepages-2Mi"), "0"),
        (amount("requests.cpu", "other"), "0"),
        (amount("limits.cpu", "other"), str(len(os.sched_getaffinity(0)))),
        (amount("limits.memory", "other"), str(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))),
    ],
)
def test_resources_are_told_in_units_of_the_divisor(tmp_path: Path, asked: dict[str, Any], told: str) -> None:
    assert files(made(tmp_path, {"downwardAPI": {"items": [{"path": "a", **asked}]}})) == {"a": (told, 0o644)}


def test_a_variable_may_be_of_its_own_containers_resources(tmp_path: Path) -> None:
    variables = [
        {"name": "CPUS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        {"name": "OTHERS", "valueFrom": amount("requests.memory", "other")},
    ]
    pod = made(tmp_path, env=variables)
    found = environment.variables(pod, pod.spec.containers[0], facts=FACTS, config_maps={}, given={})
    assert (found["CPUS"], found["OTHERS"]) == ("2", "0")


def test_keys_of_a_config_map_may_be_chosen(tmp_path: Path) -> None:
    whole = {"configMap": {"name": "c", "defaultMode": 0o755}}
    assert files(made(tmp_path, whole)) == {"one": ("1", 0o755), "two": ("2", 0o755)}
    chosen = {"configMap": {"name": "c", "items": [{"key": "two", "path": "a/b", "mode": 0o600}]}}
    assert files(made(tmp_path, chosen)) == {"a/b": ("2", 0o600)}


def test_a_projected_volume_is_all_of_its_sources(tmp_path: Path) -> None:
    sources: list[dict[str, Any]] = [
        {"configMap": {"name": "c", "items": [{"key": "one", "path": "x"}]}},
        {"configMap": {"name": "absent", "optional": True}},
        {"downwardAPI": {"items": [{"path": "name", **field("metadata.name")}]}},
        {"serviceAccountToken": {"path": "token"}},
    ]
    volume = {"projected": {"sources": sources, "defaultMode": 0o440}}
    assert files(made(tmp_path, volume)) == {"x": ("1", 0o440), "name": ("vfw", 0o440)}


@given(st.dictionaries(st.from_regex(r"[a-z./-]+", fullmatch=True), st.text()))
def test_annotations_are_read_by_who_reads_the_downward_api(annotations: dict[str, str]) -> None:
    assert reader.read(downward.lines(annotations)) == annotations


def seen(place: Path) -> dict[str, str]:
    paths = [Path(folder, name) for folder, _, names in os.walk(place, followlinks=True) for name in names]
    relative = {path.relative_to(place): path for path in paths}
    return {str(path): full.read_text() for path, full in relative.items() if not path.parts[0].startswith("..")}


def test_files_are_replaced_all_at_once_and_those_that_are_open_stay(tmp_path: Path) -> None:
    texts.write(tmp_path, {"a": File("1", 0o640), "b/c": File("2", 0o600), "b/d": File("3", 0o644)})
    assert seen(tmp_path) == {"a": "1", "b/c": "2", "b/d": "3"}
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    with open(tmp_path / "a") as held:
        before = (tmp_path / "..data").resolve()
        texts.write(tmp_path, {"a": File("4", 0o644), "e": File("5", 0o644)})
        assert held.read() == "1"
    assert seen(tmp_path) == {"a": "4", "e": "5"}
    assert not before.exists()
    assert len(list(tmp_path.iterdir())) == 4  # two links to files, one to their directory, and this directory

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from wirespeed.play import environment, manifests
from wirespeed.play.objects import Facts, Pod

FACTS = Facts(
    uid="u-1",
    hostname="vfw",
    node="node-1",
    ips=("10.0.0.2", "fd00::2"),
    annotations={"status": "[]"},
)


def pod(tmp_path: Path, **container: object) -> Pod:
    whole = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "vfw", "namespace": "edge", "labels": {"app": "firewall"}},
        "spec": {"containers": [{"name": "main", "command": ["true"], **container}]},
    }
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "edge"}}
    config_map["data"] = {"key": "from the map"}
    file = tmp_path / "pod.yaml"
    file.write_text(yaml.safe_dump_all([whole, config_map]))
    return manifests.load([file]).pods[0]


def variables(pod: Pod, **given: str) -> dict[str, str]:
    config_maps = {("edge", "c"): {"key": "from the map"}}
    container = pod.spec.containers[0]
    return environment.variables(pod, container, facts=FACTS, config_maps=config_maps, given=given)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("$(A)", "1"),
        ("<$(A)$(A)>", "<11>"),
        ("$(NONE)", "$(NONE)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
        ("$(seq 3)", "$(seq 3)"),
        ("$()", "$()"),
        ("$$", "$"),
    ],
)
def test_references_are_filled_in_as_the_kubelet_does(text: str, filled: str) -> None:
    assert environment.expand(text, {"A": "1"}) == filled


@given(st.text(alphabet="$()AB \n"))
def test_without_variables_only_escapes_change(text: str) -> None:
    assert environment.expand(text.replace("$", "$$"), {"A": "1"}) == text


def test_variables_come_from_the_pod_its_maps_and_those_before_them(tmp_path: Path) -> None:
    fields = (
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "status.podIP",
        "status.podIPs",
    )
    env: list[dict[str, object]] = [
        {"name": field.upper().replace(".", "_"), "valueFrom": {"fieldRef": {"fieldPath": field}}}
        for field in fields
    ]
    env += [
        {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "STATUS", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['status']"}}},
        {"name": "NOTHING", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['other']"}}},
        {"name": "MAPPED", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "key"}}},
        {"name": "OPTIONAL", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "no", "optional": True}}},
        {"name": "LATER", "value": "$(MAPPED), $(LAST)"},
        {"name": "LAST", "value": "$(APP) on $(SPEC_NODENAME)"},
    ]
    assert variables(pod(tmp_path, env=env)) == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "HOSTNAME": "vfw",
        "METADATA_NAME": "vfw",
        "METADATA_NAMESPACE": "edge",
        "METADATA_UID": "u-1",
        "SPEC_NODENAME": "node-1",
        "STATUS_PODIP": "10.0.0.2",
        "STATUS_PODIPS": "10.0.0.2,fd00::2",
        "APP": "firewall",
        "STATUS": "[]",
        "NOTHING": "",
        "MAPPED": "from the map",
        "LATER": "from the map, $(LAST)",
        "LAST": "firewall on node-1",
    }


def test_a_devices_variable_is_known_to_the_command_but_not_to_other_variables(tmp_path: Path) -> None:
    played = pod(tmp_path, args=["-a", "$(PCIDEVICE_X)"], env=[{"name": "COPY", "value": "$(PCIDEVICE_X)"}])
    found = variables(played, PCIDEVICE_X="0000:01:10.0")
    assert found["COPY"] == "$(PCIDEVICE_X)"
    assert environment.command(played.spec.containers[0], found) == ["true", "-a", "0000:01:10.0"]


def test_a_variable_of_the_container_overrides_its_devices(tmp_path: Path) -> None:
    played = pod(tmp_path, env=[{"name": "PCIDEVICE_X", "value": "mine"}])
    assert variables(played, PCIDEVICE_X="0000:01:10.0")["PCIDEVICE_X"] == "mine"

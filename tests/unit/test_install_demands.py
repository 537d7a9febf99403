"""Which networks have pods with requests for which no plugin has the capability."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wirespeed.agent.install.demands import demands
from wirespeed.kube.manifests import ManifestCluster
from wirespeed.plugins.meta.config import load
from wirespeed.plugins.meta.resolve import Pod

META = load({"name": "n", "clusterNetwork": "primary", "multusNamespace": "kube-system"})
HOST_LOCAL = {"type": "host-local", "subnet": "10.0.0.0/24"}
MAC = "02:00:00:00:00:01"


def cluster(folder: Path, networks: dict[str, Any]) -> ManifestCluster:
    for label, config in networks.items():
        namespace, name = label.split("/")
        value = {
            "apiVersion": "k8s.cni.cncf.io/v1",
            "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"config": config if isinstance(config, str) else json.dumps(config)},
        }
        (folder / f"{namespace}-{name}.json").write_text(json.dumps(value))
    return ManifestCluster(folder)


def pod(name: str, networks: Any, default: Any = None) -> Pod:
    annotations = {"k8s.v1.cni.cncf.io/networks": networks if isinstance(networks, str) else json.dumps(networks)}
    if default is not None:
        annotations["v1.multus-cni.io/default-network"] = json.dumps(default)
    return Pod(namespace="vms", name=name, found={"metadata": {"annotations": annotations}})


def test_networks_are_told_with_the_pods_that_ask(tmp_path: Path) -> None:
    version = {"cniVersion": "1.0.0"}
    networks = {
        "vms/bridge": {**version, "type": "bridge"},
        "vms/static": {**version, "type": "macvlan", "ipam": HOST_LOCAL},
        "vms/capable": {
            **version,
            "plugins": [{"type": "bridge"}, {"type": "tuning", "capabilities": {"mac": True}}],
        },
        "vms/vf": {**version, "type": "sriov"},
        "vms/broken": "{",
        "ovn/default": {**version, "type": "ovn-k8s-cni-overlay"},
    }
    pods = [
        pod("b", [{"name": "bridge", "mac": MAC}, {"name": "bridge", "mac": MAC}]),
        pod("a", [{"name": "bridge", "mac": MAC, "ips": ["10.0.0.5"]}]),
        pod("c", [{"name": "static", "ips": ["10.0.0.5"]}, {"name": "capable", "mac": MAC}]),
        pod("d", [{"name": "vf", "mac": MAC, "infiniband-guid": "02:00:00:00:00:00:00:01"}]),
        pod("e", [{"name": "broken", "mac": MAC}, {"name": "absent", "mac": MAC}]),
        pod("f", [{"name": "bridge", "mac": "not one"}]),
        pod("g", "bridge", default=[{"name": "default", "namespace": "ovn", "mac": MAC}]),
        pod("h", ""),
    ]
    assert demands(pods, cluster(tmp_path, networks), META) == {
        ("vms/bridge", "mac"): ["vms/a", "vms/b"],
        ("vms/bridge", "ips"): ["vms/a"],
        ("ovn/default", "mac"): ["vms/g"],
    }

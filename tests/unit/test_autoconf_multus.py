"""Multus' configuration converted to the agent's: the resulting keys, and messages about keys without effect."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from wirespeed.agent import cniconf
from wirespeed.node import NodeConfig
from wirespeed.takeover import multus

# The behaviour of Multus: requests of pods are passed on, and none is rejected.
EVERYTHING = ["ips", "mac", "infinibandGUID", "portMappings", "bandwidth"]

# The configuration in Multus' own manifests.
SHIPPED = {
    "chrootDir": "/hostroot",
    "cniVersion": "0.3.1",
    "logLevel": "verbose",
    "logToStderr": True,
    "cniConfigDir": "/host/etc/cni/net.d",
    "multusAutoconfigDir": "/host/etc/cni/net.d",
    "multusConfigFile": "auto",
    "socketDir": "/host/run/multus/",
}


def taken(document: dict[str, Any]) -> NodeConfig:
    """The document as the agent parses it."""
    config = msgspec.convert(document, NodeConfig)
    if config.autoconf is not None:
        cniconf.check(config.autoconf)
    return config


def test_shipped_configuration_becomes_the_nodes_own_paths_without_a_warning() -> None:
    found = multus.translate(SHIPPED)
    assert found.document == {
        "autoconf": {
            "cniConfigDir": "/etc/cni/net.d",
            "networkName": "multus-cni-network",
            "cniVersion": "0.3.1",
            "meta": {"lenientCapabilities": EVERYTHING},
        }
    }
    assert found.warnings == []
    taken(found.document)


def test_keys_with_a_counterpart_become_it() -> None:
    found = multus.translate(
        {
            "cniConfigDir": "/etc/cni/net.d",
            "multusAutoconfigDir": "/var/lib/rancher/k3s/agent/etc/cni/net.d",
            "multusMasterCNI": "10-flannel.conflist",
            "overrideNetworkName": True,
            "readinessindicatorfile": "/host/run/flannel/subnet.env",
            "kubeconfig": "/etc/cni/net.d/multus.d/multus.kubeconfig",
            "connectionLimit": 8,
            "cniDir": "/var/lib/rancher/multus",
            "binDir": "/var/lib/rancher/k3s/data/cni",
            "confDir": "/hostroot/etc/cni/multus/net.d",
            "defaultNetworks": ["data"],
            "systemNamespaces": ["kube-system", "mesh"],
            "multusNamespace": "networks",
            "namespaceIsolation": True,
            "globalNamespaces": "default,networks",
            "capabilities": {"bandwidth": True},
        }
    )
    assert found.document == {
        "cluster": {"kubeconfig": "/etc/cni/net.d/multus.d/multus.kubeconfig"},
        "readinessIndicatorFile": "/run/flannel/subnet.env",
        "workers": 8,
        "autoconf": {
            "cniConfigDir": "/etc/cni/net.d",
            "primaryDir": "/var/lib/rancher/k3s/agent/etc/cni/net.d",
            "primary": "10-flannel.conflist",
            "meta": {
                "binDir": "/var/lib/rancher/k3s/data/cni",
                "confDir": "/etc/cni/multus/net.d",
                "defaultNetworks": ["data"],
                "systemNamespaces": ["kube-system", "mesh"],
                "multusNamespace": "networks",
                "namespaceIsolation": True,
                "globalNamespaces": "default,networks",
                "capabilities": {"bandwidth": True},
                "lenientCapabilities": EVERYTHING,
            },
        },
    }
    assert found.cni_dir == "/var/lib/rancher/multus"
    assert found.warnings == []
    taken(found.document)


@pytest.mark.parametrize("key", sorted(multus.NEEDLESS))
def test_key_that_is_not_needed_here_changes_nothing_and_is_not_warned_of(key: str) -> None:
    without = {"cniVersion": "1.0.0"}
    assert multus.translate({**without, key: "x"}) == multus.translate(without)


@pytest.mark.parametrize("key", ["perNodeCertificate", "metricsPort", "enablePprof"])
def test_key_whose_effect_is_lost_is_warned_of_with_what_to_do(key: str) -> None:
    (warning,) = multus.translate({key: True}).warnings
    assert warning.msg.startswith(f'key "{key}": it has no effect here: ')


def test_unknown_key_is_warned_of_with_the_nearest() -> None:
    (warning,) = multus.translate({"defaultNetwork": ["a"]}).warnings
    assert warning.msg == 'unknown key "defaultNetwork": it has no effect; did you mean "defaultNetworks"?'


def test_version_that_is_not_spoken_here_is_warned_of_and_left_to_the_primary() -> None:
    found = multus.translate({"cniVersion": "0.5.0"})
    assert "cniVersion" not in found.document["autoconf"]
    assert len(found.warnings) == 1


def test_keys_are_read_in_any_case() -> None:
    found = multus.translate({"readinessIndicatorFile": "/host/run/ready", "NamespaceIsolation": True})
    assert found.document["readinessIndicatorFile"] == "/run/ready"
    meta = found.document["autoconf"]["meta"]
    assert meta == {"namespaceIsolation": True, "lenientCapabilities": EVERYTHING}
    assert found.warnings == []


def test_configuration_of_the_users_own_is_not_written_over() -> None:
    found = multus.translate({"multusConfigFile": "/etc/multus/my.conf"})
    assert found.document == {}
    assert "/etc/multus/my.conf" in found.warnings[0].msg


def test_master_that_is_no_file_is_kept() -> None:
    document = multus.translate({"clusterNetwork": "primary-net"}).document
    assert document["autoconf"]["meta"] == {
        "clusterNetwork": "primary-net",
        "lenientCapabilities": EVERYTHING,
    }
    taken(document)


# CNI configurations that Multus wrote


def test_configuration_of_the_daemon_follows_the_primary_from_now_on() -> None:
    said = multus.own_keys(
        {
            "binDir": "/opt/cni/bin",
            "capabilities": {"portMappings": True},
            "cniVersion": "1.0.0",
            "clusterNetwork": "/host/etc/cni/net.d/10-cbr0.conflist",
            "daemonSocketDir": "/run/multus",
            "name": "multus-cni-network",
            "type": "multus-shim",
        }
    )
    found = multus.translate({**said, **SHIPPED})
    assert found.document["autoconf"]["meta"] == {"binDir": "/opt/cni/bin", "lenientCapabilities": EVERYTHING}
    assert found.warnings == []


def test_list_of_the_thin_plugin_is_read_as_one_object() -> None:
    said = multus.own_keys(
        {
            "cniVersion": "1.0.0",
            "name": "node-net",
            "plugins": [
                {
                    "type": "multus",
                    "capabilities": {"portMappings": True},
                    "kubeconfig": "/etc/cni/net.d/multus.d/multus.kubeconfig",
                    "delegates": [{"cniVersion": "1.0.0", "name": "cbr0", "plugins": [{"type": "bridge"}]}],
                }
            ],
        }
    )
    found = multus.translate(said)
    assert found.document == {
        "cluster": {"kubeconfig": "/etc/cni/net.d/multus.d/multus.kubeconfig"},
        "autoconf": {
            "networkName": "node-net",
            "cniVersion": "1.0.0",
            "meta": {"lenientCapabilities": EVERYTHING},
        },
    }


def test_configuration_with_more_networks_than_the_primary_is_taken_as_it_stands() -> None:
    found = multus.translate({"name": "n", "delegates": [{"type": "bridge"}, {"type": "macvlan"}]})
    assert "autoconf" not in found.document
    assert "2 networks" in found.warnings[0].msg


# Documentation


def test_every_key_is_in_the_documentation_and_no_other() -> None:
    text = (Path(__file__).parents[2] / "docs/multus.md").read_text()
    told: dict[str, str] = {}
    for row in re.finditer(r"^\| (`.+?) \| (\w+) \| .+ \|$", text, re.MULTILINE):
        told |= dict.fromkeys(re.findall(r"`([^`]+)`", row[1]), row[2])
    assert set(told) == multus.KEYS
    assert set(told.values()) == {"same", "better", "ignored"}
    warnings = {key: multus.translate({key: 1}).warnings for key in multus.KEYS}
    lost = {key for key, about in warnings.items() if any("no effect" in each.msg for each in about)}
    assert {told[key] for key in lost} == {"ignored"}

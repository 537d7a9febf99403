"""The meta-plugin's configuration: accepted values and warnings."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirespeed.errors import Error
from wirespeed.plugins.meta import config
from wirespeed.plugins.meta.config import load

OWN: dict[str, Any] = {"cniVersion": "1.0.0", "name": "cluster", "type": "wirespeed", "delegates": [{}]}


@pytest.fixture(autouse=True)
def _every_warning_is_new() -> None:
    config.forget_warned()


def test_what_is_not_given_has_the_peers_defaults() -> None:
    loaded = load(OWN)
    assert (loaded.conf_dir, loaded.bin_dir) == ("/etc/cni/multus/net.d", "/opt/cni/bin")
    assert (loaded.system_namespaces, loaded.multus_namespace) == (["kube-system"], "kube-system")
    assert not loaded.namespace_isolation
    assert (loaded.first_interface, loaded.lenient_capabilities) == (1, [])


@pytest.mark.parametrize("kind", ["multus", "multus-shim"])
def test_peers_configuration_lets_pods_ask_for_anything_unless_it_says_otherwise(kind: str) -> None:
    peer = {**OWN, "type": kind}
    everything = ["ips", "mac", "infinibandGUID", "portMappings", "bandwidth"]
    assert load(peer).lenient_capabilities == everything
    assert load({**peer, "lenientCapabilities": None}).lenient_capabilities == everything
    assert load({**peer, "lenientCapabilities": []}).lenient_capabilities == []
    # The same for networks attached to its pods later.
    assert load(load(peer).hotplug_settings() | {"delegates": [{}]}).lenient_capabilities == everything


@pytest.mark.parametrize(
    ("given_as", "exempt"),
    [
        (None, {"default"}),
        ("", set()),
        (" foo,bar ,default", {"foo", "bar", "default"}),
        ("shared", {"shared"}),
    ],
)
def test_global_namespaces_replace_the_default_one(given_as: str | None, exempt: set[str]) -> None:
    assert load({**OWN, "globalNamespaces": given_as}).exempt_namespaces == exempt


def test_null_is_not_given() -> None:
    loaded = load({**OWN, "clusterNetwork": None, "confDir": None, "runtimeConfig": None, "prevResult": None})
    assert (loaded.cluster_network, loaded.conf_dir, loaded.runtime_config) == (
        "",
        "/etc/cni/multus/net.d",
        {},
    )


def test_peers_configuration_is_taken_with_its_unknown_keys_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    peer = {
        **OWN,
        "type": "multus",
        "logLevel": "debug",
        "cniDir": "/var/lib/cni/multus",
        "kubeconfig": "/etc/cni/net.d/multus.d/multus.kubeconfig",
        "ConfDir": "/x",
        "confdr": "/y",
    }
    with caplog.at_level(logging.WARNING):
        loaded = load(peer)
        assert (loaded.kubeconfig, loaded.conf_dir) == (peer["kubeconfig"], "/x")
        load(peer)
    assert [record.getMessage() for record in caplog.records] == [
        'configuration cluster: unknown key "confdr": it has no effect; did you mean "confDir"?',
        'configuration cluster: key "kubeconfig": it has no effect: the agent accesses the cluster by its own '
        "configuration",
    ]


def test_peers_configuration_with_both_masters_uses_the_cluster_network(caplog: pytest.LogCaptureFixture) -> None:
    both = {**OWN, "type": "multus-shim", "clusterNetwork": "main"}
    assert load(both).cluster_network == "main"
    assert 'key "delegates": it must not be combined with "clusterNetwork"; it has no effect' in caplog.text


def test_keys_of_the_specification_are_known() -> None:
    load({**OWN, "args": {}, "ipam": {}, "dns": {}, "prevResult": {"ips": []}, "capabilities": {"mac": True}})
    load({**OWN, "cni.dev/valid-attachments": [], "cni.dev/attachments": []})
    load({**OWN, "cniVersions": ["1.1.0"], "disableCheck": True, "disableGC": True, "loadOnlyInlinedPlugins": True})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from([*config.MetaConfig.__struct_encode_fields__, "args", "zzz", "logLevel"]) | st.text(
    max_size=4
)


@given(st.dictionaries(keys, json_values, max_size=6), st.sampled_from(["wirespeed", "multus", None]))
def test_whatever_is_given_is_loaded_or_refused(raw: dict[str, Any], kind: str | None) -> None:
    try:
        load(raw if kind is None else {**raw, "type": kind})
    except Error as error:
        assert error.msg.isprintable()

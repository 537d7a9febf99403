"""The generated CNI configuration: which file is the primary plugin's, and what is generated from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirespeed.agent import cniconf
from wirespeed.cni import versions
from wirespeed.cni.chain import load_network
from wirespeed.errors import Error, Kind
from wirespeed.node import AutoconfConfig, NodeConfig
from wirespeed.plugins.meta import config as meta_config

BRIDGE = {"type": "bridge", "capabilities": {"ips": True, "mac": False}}
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}
CBR0 = {"cniVersion": "1.0.0", "name": "cbr0", "plugins": [BRIDGE, PORTMAP]}


def where(folder: Path, **keys: Any) -> AutoconfConfig:
    return msgspec.convert({"cniConfigDir": str(folder), **keys}, AutoconfConfig)


def put(folder: Path, name: str, content: object = CBR0) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def composed(folder: Path, file: str = "00-wirespeed.conflist", **keys: Any) -> dict[str, Any]:
    described = where(folder, **keys)
    cniconf.check(described)
    primary = cniconf.find_primary(described)
    assert primary is not None
    document: dict[str, Any] = json.loads(cniconf.compose(primary, described, file))
    return document


# Choice of the primary plugin's file


def test_primary_is_the_first_by_name_that_a_runtime_reads(tmp_path: Path) -> None:
    put(tmp_path, "20-second.conf", {"cniVersion": "0.4.0", "name": "second", "type": "ptp"})
    put(tmp_path, "05-notes.txt", "no configuration")
    first = put(tmp_path, "10-first.conflist")
    primary = cniconf.find_primary(where(tmp_path))
    assert primary is not None
    assert (primary.path, primary.network.name) == (first, "cbr0")


@pytest.mark.parametrize("kind", ["wirespeed", "multus", "multus-shim"])
def test_a_meta_plugins_own_configuration_is_never_the_primary(tmp_path: Path, kind: str) -> None:
    put(tmp_path, "00-meta.conf", {"cniVersion": "1.0.0", "name": "meta", "type": kind, "clusterNetwork": "x"})
    put(tmp_path, "10-cbr0.conflist")
    primary = cniconf.find_primary(where(tmp_path))
    assert primary is not None
    assert primary.network.name == "cbr0"


def test_the_loopback_interface_alone_is_no_clusters_network(tmp_path: Path) -> None:
    put(tmp_path, "99-loopback.conf", {"cniVersion": "1.0.0", "name": "lo", "type": "loopback"})
    assert cniconf.find_primary(where(tmp_path)) is None


@pytest.mark.parametrize("text", ["", '{"cniVersion": "1.0.0", "na', "[]", '{"cniVersion":"1.0.0","name":"a"}'])
def test_a_primary_that_cannot_be_read_is_told_of_and_none_takes_its_place(tmp_path: Path, text: str) -> None:
    broken = put(tmp_path, "10-cbr0.conflist", text)
    put(tmp_path, "87-podman.conflist")
    with pytest.raises(Error, match=str(broken)):
        cniconf.find_primary(where(tmp_path))


def test_our_own_file_may_be_half_written(tmp_path: Path) -> None:
    put(tmp_path, "00-wirespeed.conflist", "{")
    put(tmp_path, "10-cbr0.conflist")
    assert cniconf.find_primary(where(tmp_path)) is not None


def test_a_primary_that_is_named_is_taken_and_waited_for(tmp_path: Path) -> None:
    put(tmp_path, "10-first.conflist")
    named = where(tmp_path, primary="20-calico.conflist")
    assert cniconf.find_primary(named) is None
    put(tmp_path, "20-calico.conflist", {**CBR0, "name": "calico"})
    primary = cniconf.find_primary(named)
    assert primary is not None
    assert primary.network.name == "calico"


def test_no_folder_yet_is_no_primary_yet(tmp_path: Path) -> None:
    assert cniconf.find_primary(where(tmp_path / "net.d")) is None


# Contents of the generated configuration


def test_master_is_the_primarys_file_and_the_name_is_its(tmp_path: Path) -> None:
    path = put(tmp_path, "10-cbr0.conflist")
    document = composed(tmp_path)
    assert document == {
        "cniVersion": "1.0.0",
        "name": "cbr0",
        "cniVersions": ["1.0.0", "1.1.0"],
        "plugins": [
            {
                "type": "wirespeed",
                "clusterNetwork": str(path),
                "capabilities": {"ips": True, "portMappings": True},
            }
        ],
    }


def test_capabilities_are_also_those_of_the_plugins_in_the_lists_folder(tmp_path: Path) -> None:
    put(tmp_path, "10-cbr0.conflist")
    (tmp_path / "cbr0").mkdir()
    put(tmp_path / "cbr0", "1.conf", {"type": "tuning", "capabilities": {"mac": True}})
    (plugin,) = composed(tmp_path)["plugins"]
    assert plugin["capabilities"] == {"ips": True, "mac": True, "portMappings": True}


def test_single_configuration_is_one_object(tmp_path: Path) -> None:
    path = put(tmp_path, "10-ptp.conf", {"cniVersion": "0.4.0", "name": "ptp", "type": "ptp"})
    assert composed(tmp_path, "00-multus.conf", files=["00-multus.conf"]) == {
        "cniVersion": "0.4.0",
        "name": "ptp",
        "type": "wirespeed",
        "clusterNetwork": str(path),
    }


def test_name_can_be_another_than_the_primarys(tmp_path: Path) -> None:
    put(tmp_path, "10-cbr0.conflist")
    assert composed(tmp_path, networkName="multus-cni-network")["name"] == "multus-cni-network"


def test_version_is_one_that_an_old_runtime_reads_and_newer_ones_are_offered(tmp_path: Path) -> None:
    put(tmp_path, "10-cbr0.conflist", {**CBR0, "cniVersion": "0.3.1"})
    document = composed(tmp_path)
    assert document["cniVersion"] == "0.3.1"
    assert document["cniVersions"] == ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    assert composed(tmp_path, cniVersion="0.4.0")["cniVersion"] == "0.4.0"


def test_primary_without_a_version_is_one_of_0_1_0(tmp_path: Path) -> None:
    raw = {"Name": "cbr0", "plugins": [BRIDGE]}
    put(tmp_path, "10-cbr0.conflist", raw)
    document = composed(tmp_path)
    assert (document["cniVersion"], document["cniVersions"]) == ("0.1.0", list(versions.SUPPORTED))
    put(tmp_path, "10-cbr0.conflist", {**raw, "cniVersion": "0.2.0"})
    assert composed(tmp_path)["cniVersion"] == "0.2.0"


def test_newest_version_needs_no_list(tmp_path: Path) -> None:
    put(tmp_path, "10-cbr0.conflist", {**CBR0, "cniVersion": "1.1.0"})
    assert "cniVersions" not in composed(tmp_path)


def test_primary_that_only_lists_versions_gives_its_oldest(tmp_path: Path) -> None:
    put(tmp_path, "10-a.conflist", {"cniVersions": ["1.1.0", "0.4.0", "9.0"], "name": "a", "plugins": [BRIDGE]})
    assert composed(tmp_path)["cniVersion"] == "0.4.0"


def test_keys_for_the_meta_plugin_are_written_and_its_capabilities_joined(tmp_path: Path) -> None:
    put(tmp_path, "10-cbr0.conflist")
    meta = {"defaultNetworks": ["data"], "namespaceIsolation": True, "capabilities": {"bandwidth": True}}
    plugin = composed(tmp_path, meta=meta)["plugins"][0]
    assert plugin["defaultNetworks"] == ["data"]
    assert plugin["capabilities"] == {"bandwidth": True, "ips": True, "portMappings": True}
    assert meta_config.load({**plugin, "name": "cbr0"}).namespace_isolation


PLUGINS = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["bridge", "portmap", "calico"])},
        optional={"capabilities": st.dictionaries(st.sampled_from(["ips", "mac", "dns"]), st.booleans())},
    ),
    min_size=1,
)


@given(version=st.sampled_from(versions.SUPPORTED), plugins=PLUGINS, as_list=st.booleans())
def test_what_is_composed_is_a_configuration_that_the_meta_plugin_takes(
    version: str, plugins: list[dict[str, Any]], as_list: bool
) -> None:
    network = load_network({"cniVersion": version, "name": "n", "plugins": plugins})
    primary = cniconf.Primary(path=Path("/etc/cni/net.d/10-n.conflist"), network=network)
    file = "00-wirespeed.conflist" if as_list else "00-wirespeed.conf"
    document = json.loads(cniconf.compose(primary, AutoconfConfig(), file))
    ours = load_network(document)
    assert ours.kinds == ["wirespeed"]
    loaded = meta_config.load({**ours.plugins[0], "name": ours.name})
    wanted = {key for plugin in plugins for key, on in plugin.get("capabilities", {}).items() if on}
    assert loaded.capabilities == dict.fromkeys(wanted, True)


# Rejected configurations


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"files": []}, 'key "autoconf.files": expected at least one'),
        ({"files": ["00-wirespeed.json"]}, "00-wirespeed.json"),
        ({"files": ["../00-wirespeed.conf"]}, "../00-wirespeed.conf"),
        ({"cniConfigDir": "net.d"}, 'key "autoconf.cniConfigDir": expected an absolute path'),
        ({"primaryDir": "net.d"}, 'key "autoconf.primaryDir": expected an absolute path'),
        ({"primary": "/etc/cni/net.d/10-cbr0.conflist"}, 'key "autoconf.primary"'),
        ({"primary": "00-wirespeed.conflist"}, 'key "autoconf.primary"'),
        ({"meta": {"type": "multus"}}, 'key "autoconf.meta.type": must not be set here'),
        ({"meta": {"defaultNetwork": ["a"]}}, 'did you mean "defaultNetworks"?'),
        ({"meta": {"binDir": "bin"}}, 'key "autoconf.meta.binDir": expected an absolute path'),
    ],
)
def test_configuration_by_which_nothing_could_be_written_is_refused(
    tmp_path: Path, keys: dict[str, Any], says: str
) -> None:
    with pytest.raises(Error) as refused:
        cniconf.check(where(tmp_path, **keys))
    assert refused.value.kind == Kind.INVALID_CONFIG
    assert 'key "autoconf.' in refused.value.msg
    assert says in refused.value.msg


def test_version_that_nobody_speaks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Error, match="expected one of"):
        cniconf.check(where(tmp_path, cniVersion="2.0.0"))


def test_configuration_file_knows_the_keys() -> None:
    config = msgspec.convert({"autoconf": {"primary": "10-a.conf"}, "readinessIndicatorFile": "/r"}, NodeConfig)
    assert config.autoconf is not None
    assert config.autoconf.files == ("00-wirespeed.conflist",)
    assert NodeConfig().autoconf is None

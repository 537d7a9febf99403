"""Sources of a network's configuration, and rejected configurations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wirespeed.errors import Error, Kind
from wirespeed.kube.cluster import Cluster, NotFoundError, UnavailableError
from wirespeed.kube.manifests import ManifestCluster
from wirespeed.plugins.meta import networks
from wirespeed.plugins.meta.config import MetaConfig

CONF = {"cniVersion": "1.0.0", "type": "bridge"}


@pytest.fixture
def define(tmp_path: Path) -> Callable[..., ManifestCluster]:
    """A cluster with one NetworkAttachmentDefinition: `define("kube-system/main", config)`."""

    def make(label: str, config: str, annotations: dict[str, Any] | None = None) -> ManifestCluster:
        namespace, _, name = label.partition("/")
        value = {
            "apiVersion": "k8s.cni.cncf.io/v1",
            "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": name, "namespace": namespace, "annotations": annotations},
            "spec": {"config": config},
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
        return ManifestCluster(tmp_path)

    return make


@pytest.fixture
def conf_dir(tmp_path: Path) -> Callable[..., str]:
    """A directory with these files: `conf_dir(**{"10-a.conf": {...}})`; strings are written unchanged."""

    def make(**files: Any) -> str:
        folder = tmp_path / "net.d"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return str(folder)

    return make


def no_cluster() -> Cluster:
    raise Error(Kind.INVALID_CONFIG, "no cluster")


def cluster_network(value: str, conf_dir: str = "/nowhere", cluster: Callable[[], Cluster] = no_cluster) -> Any:
    config = MetaConfig(name="c", cluster_network=value, conf_dir=conf_dir)
    return networks.cluster_network(value, config=config, cluster=cluster)


# NetworkAttachmentDefinitions


def test_definition_gives_its_configuration_its_name_and_its_resource(
    define: Callable[..., ManifestCluster],
) -> None:
    cluster = define("ns/vlan", json.dumps(CONF), {"k8s.v1.cni.cncf.io/resourceName": "intel.com/vfs"})
    source = networks.definition(cluster, "ns", "vlan", conf_dir="/nowhere")
    assert (source.label, source.raw, source.resource) == ("ns/vlan", {**CONF, "name": "vlan"}, "intel.com/vfs")


def test_definition_with_a_name_of_its_own_keeps_it(define: Callable[..., ManifestCluster]) -> None:
    cluster = define("ns/vlan", json.dumps({**CONF, "name": "lan"}))
    assert networks.definition(cluster, "ns", "vlan", conf_dir="/nowhere").raw["name"] == "lan"


@pytest.mark.parametrize("config", ["", "  ", None])
def test_definition_without_a_configuration_is_that_of_its_name_on_disk(
    define: Callable[..., ManifestCluster], conf_dir: Callable[..., str], config: Any
) -> None:
    folder = conf_dir(**{"10-other.conf": {**CONF, "name": "other"}, "20-x.conf": {**CONF, "name": "vlan", "n": 2}})
    source = networks.definition(define("ns/vlan", config), "ns", "vlan", conf_dir=folder)
    assert (source.label, source.raw["n"]) == ("ns/vlan", 2)


def test_list_on_disk_goes_before_a_single_configuration(conf_dir: Callable[..., str]) -> None:
    folder = conf_dir(
        **{"10-a.conf": {**CONF, "name": "vlan"}, "20-b.conflist": {"name": "vlan", "plugins": [CONF]}}
    )
    assert "plugins" in networks.by_name(folder, "vlan").raw


def test_unreadable_file_is_named_only_when_nothing_is_found(conf_dir: Callable[..., str]) -> None:
    folder = conf_dir(**{"10-bad.conf": "{", "20-list.json": [], "30-good.conf": {**CONF, "name": "vlan"}})
    assert networks.by_name(folder, "vlan").raw["name"] == "vlan"
    with pytest.raises(Error) as missing:
        networks.by_name(folder, "lan")
    assert missing.value.kind == Kind.INVALID_CONFIG
    assert missing.value.msg.startswith(
        f"no configuration in {folder} has the name 'lan'; {folder}/10-bad.conf: not"
    )
    assert f"{folder}/20-list.json: expected a JSON object, got []" in missing.value.msg


# clusterNetwork


def test_cluster_network_is_a_definition_before_a_file(
    define: Callable[..., ManifestCluster], conf_dir: Callable[..., str]
) -> None:
    folder = conf_dir(**{"10-main.conf": {**CONF, "name": "main"}})
    cluster = define("kube-system/main", json.dumps(CONF))
    assert cluster_network("main", folder, lambda: cluster).label == "kube-system/main"
    other = define("default/other", json.dumps(CONF))
    (Path(other.folder) / "main.json").unlink()
    assert cluster_network("main", folder, lambda: other).label == "main"
    assert cluster_network("main", folder).label == "main"


def test_definition_that_is_there_and_wrong_does_not_become_the_file(
    define: Callable[..., ManifestCluster], conf_dir: Callable[..., str]
) -> None:
    folder = conf_dir(**{"10-main.conf": {**CONF, "name": "main"}})
    cluster = define("kube-system/main", "{")
    with pytest.raises(Error, match=r'kube-system/main: key "spec\.config": not JSON'):
        cluster_network("main", folder, lambda: cluster)


def test_cluster_that_does_not_answer_does_not_become_the_file(
    conf_dir: Callable[..., str], define: Callable[..., ManifestCluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = conf_dir(**{"10-main.conf": {**CONF, "name": "main"}})
    cluster = define("kube-system/other", "")

    def away(namespace: str, name: str) -> dict[str, Any]:
        raise UnavailableError("no answer")

    monkeypatch.setattr(cluster, "network", away)
    with pytest.raises(UnavailableError):
        cluster_network("main", folder, lambda: cluster)


def test_cluster_network_that_is_nowhere_says_where_it_was_sought(define: Callable[..., ManifestCluster]) -> None:
    cluster = define("default/other", "")
    with pytest.raises(Error) as missing:
        cluster_network("main", "/nowhere", lambda: cluster)
    assert "NetworkAttachmentDefinition kube-system/main: no manifest" in missing.value.msg
    assert missing.value.msg.endswith("; no configuration in /nowhere has the name 'main'")
    with pytest.raises(Error, match=r"^no cluster; no configuration in /nowhere has the name 'main'$"):
        cluster_network("main")


def test_cluster_network_may_be_a_file_or_the_first_of_a_folder(conf_dir: Callable[..., str]) -> None:
    folder = conf_dir(**{"20-b.conf": {**CONF, "name": "b"}, "10-a.conflist": {"name": "a", "plugins": [CONF]}})
    assert cluster_network(f"{folder}/20-b.conf").label == "b"
    assert cluster_network(folder).label == "a"


@pytest.mark.parametrize(
    ("files", "value", "message"),
    [
        ({}, "{}", r"expected a file \*.conflist, \*.conf, \*.json in that directory"),
        ({"a.conf": CONF}, "{}/a.conf", 'a.conf: key "name" is missing'),
        ({"a.conf": {**CONF, "name": 1}}, "{}/a.conf", 'a.conf: key "name" is missing'),
        ({"a.conf": "nonsense"}, "{}/a.conf", "a.conf: not JSON"),
        ({}, "{}/a.conf", "a.conf: No such file or directory"),
    ],
)
def test_path_that_is_no_configuration_is_refused(
    conf_dir: Callable[..., str], files: dict[str, Any], value: str, message: str
) -> None:
    with pytest.raises(Error, match=message) as refused:
        cluster_network(value.format(conf_dir(**files)))
    assert refused.value.kind == Kind.INVALID_CONFIG


def test_missing_definition_is_not_found(define: Callable[..., ManifestCluster]) -> None:
    with pytest.raises(NotFoundError):
        networks.definition(define("ns/a", ""), "ns", "b", conf_dir="/nowhere")


# delegates


def test_first_delegate_is_the_master_unless_another_is_marked() -> None:
    plain: list[dict[str, Any]] = [{**CONF, "name": "a"}, {**CONF, "name": "b"}]
    assert [source.master for source in networks.inline(plain)] == [True, False]
    marked = [plain[0], {**plain[1], "masterplugin": True}]
    assert [(source.label, source.master) for source in networks.inline(marked)] == [("a", False), ("b", True)]
    assert [source.raw for source in networks.inline(marked)] == plain  # the mark is not passed to plugins

"""Plugins in directories: those added to a conflist in a file, and the auxiliary chain."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wirespeed.cni.chain import Chain
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.plugins.meta import networks
from wirespeed.plugins.meta.config import MetaConfig, load
from wirespeed.plugins.meta.delegate import Delegate
from wirespeed.plugins.meta.resolve import Resolver, named_pod

Files = Callable[..., Path]
BRIDGE = {"type": "bridge", "mtu": 9000}
LIST = {"cniVersion": "1.0.0", "name": "pods", "plugins": [BRIDGE]}
TUNING = {"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}, "unknown to us": [1, None]}
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """A directory with these files: `files({"pods/1.conf": {...}})`; strings are written unchanged."""

    def make(contents: dict[str, Any]) -> Path:
        for name, content in contents.items():
            path = tmp_path / "net.d" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path / "net.d"

    return make


def found(path: Path) -> dict[str, Any]:
    config = MetaConfig(name="c", cluster_network=str(path))
    return networks.cluster_network(str(path), config=config, cluster=no_cluster).raw


def no_cluster() -> Any:
    raise AssertionError("a path is no object of the cluster")


def delegates(config: dict[str, Any]) -> list[Delegate]:
    """The delegates of a container without a pod."""
    resolver = Resolver(
        chain=Chain({}),
        cluster=no_cluster,
        devices_of=lambda _: {},
        is_served=lambda *_: True,
        ignored=lambda *_: None,
        devinfo=Path("/devinfo"),
    )
    request = Request(command="ADD", container_id="c1", netns="/n", ifname="eth0")
    return resolver.delegates(request, load({"cniVersion": "1.0.0", "name": "c", **config}), named_pod({}))


# The directory of a conflist


def test_list_in_a_file_has_the_plugins_of_the_folder_of_its_name_after_its_own(files: Files) -> None:
    folder = files(
        {"10-x.conflist": LIST, "pods/20-b.conf": PORTMAP, "pods/10-a.conf": TUNING}
        | {"pods/30.conflist": LIST, "pods/40.json": PORTMAP, "other/1.conf": PORTMAP, "pods/inner/1.conf": PORTMAP}
    )
    expected = {**LIST, "plugins": [BRIDGE, TUNING, PORTMAP]}
    assert found(folder / "10-x.conflist") == expected
    assert found(folder) == expected
    (delegate,) = delegates({"clusterNetwork": str(folder / "10-x.conflist")})
    assert delegate.raw == expected  # also in the journal


def test_list_may_have_no_plugins_but_those_of_its_folder(files: Files) -> None:
    folder = files({"x.conflist": {"name": "pods"}, "pods/1.conf": TUNING})
    assert found(folder / "x.conflist")["plugins"] == [TUNING]


@pytest.mark.parametrize("flag", [True, "true"])
def test_list_that_loads_only_its_own_plugins_leaves_the_folder_alone(files: Files, flag: Any) -> None:
    raw = {**LIST, "loadOnlyInlinedPlugins": flag}
    folder = files({"x.conflist": raw, "pods/1.conf": "nonsense"})
    assert found(folder / "x.conflist") == raw


@pytest.mark.parametrize("flag", [False, "false"])
def test_list_that_says_so_has_those_of_its_folder(files: Files, flag: Any) -> None:
    folder = files({"x.conflist": {**LIST, "loadOnlyInlinedPlugins": flag}, "pods/1.conf": TUNING})
    assert found(folder / "x.conflist")["plugins"] == [BRIDGE, TUNING]


def test_single_configuration_has_no_folder(files: Files) -> None:
    conf = {"cniVersion": "1.0.0", "name": "pods", "type": "bridge"}
    folder = files({"x.conf": conf, "pods/1.conf": TUNING})
    assert found(folder / "x.conf") == conf


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"pods/1.conf": "{"}, "$/pods/1.conf: not JSON"),
        ({"pods/1.conf": []}, "$/pods/1.conf: expected a JSON object, got []"),
        ({"pods/1.conf": {"name": "x"}}, '$/pods/1.conf: key "type" is missing'),
        ({"pods/1.conf": {"type": 1}}, '$/pods/1.conf: key "type" is missing'),
        (
            {"x.conflist": {**LIST, "loadOnlyInlinedPlugins": "maybe"}},
            "$/x.conflist: key \"loadOnlyInlinedPlugins\": expected true or false, got 'maybe'",
        ),
        (
            {"x.conflist": {**LIST, "name": "../etc"}},
            "$/x.conflist: key \"name\": expected letters, digits, _ . - after a letter or digit, got '../etc'",
        ),
    ],
)
def test_file_that_cannot_be_appended_is_named(files: Files, contents: dict[str, Any], message: str) -> None:
    folder = files({"x.conflist": LIST, **contents})
    with pytest.raises(Error) as refused:
        found(folder / "x.conflist")
    assert refused.value.kind == Kind.INVALID_CONFIG
    assert refused.value.msg.replace(str(folder), "$").startswith(message)


# The auxiliary chain


def test_chain_beside_the_master_comes_last_and_begins_with_an_empty_result(files: Files) -> None:
    folder = files({"x.conflist": LIST, "more/2.conf": PORTMAP, "more/1.conf": TUNING, "pods/1.conf": PORTMAP})
    for path in (folder / "x.conflist", folder):
        master, chain = delegates({"clusterNetwork": str(path), "auxiliaryCNIChainName": "more"})
        assert master.raw["plugins"] == [BRIDGE, PORTMAP]
        assert not master.auxiliary
        assert master.network().begin is None
        assert (chain.label, chain.ifname, chain.auxiliary) == ("more", "net1", True)
        assert chain.raw == {"cniVersion": "1.0.0", "name": "more", "plugins": [TUNING, PORTMAP]}
        assert chain.network().begin == {"interfaces": [], "ips": [], "routes": [], "dns": {}}


@pytest.mark.parametrize(
    ("versions", "spoken"),
    [
        (("1.0.0", "0.4.0"), "0.4.0"),
        (("1.1.0", None), "1.1.0"),
        ((None, "1.0.0"), "1.0.0"),
        ((None, None), "1.1.0"),
        (("2.0.0", ""), "1.1.0"),
    ],
)
def test_chain_speaks_the_oldest_version_of_its_files(
    files: Files, versions: tuple[str | None, str | None], spoken: str
) -> None:
    """The runtime's version may be too new for the plugins: reference plugins of 2024 reject 1.1.0."""
    first, second = (
        {**TUNING, "cniVersion": version} if version is not None else {"type": "tuning"} for version in versions
    )
    folder = files({"x.conflist": LIST, "more/1.conf": first, "more/2.conf": second})
    _, chain = delegates(
        {"cniVersion": "1.1.0", "clusterNetwork": str(folder / "x.conflist"), "auxiliaryCNIChainName": "more"}
    )
    assert chain.raw["cniVersion"] == spoken


def test_chain_of_a_configuration_without_a_version_speaks_the_one_that_is_implied(files: Files) -> None:
    folder = files({"x.conflist": LIST, "more/1.conf": {**TUNING, "cniVersion": "1.0.0"}})
    config = {"cniVersion": "", "clusterNetwork": str(folder / "x.conflist"), "auxiliaryCNIChainName": "more"}
    _, chain = delegates(config)
    assert chain.raw["cniVersion"] == "0.1.0"


def test_chain_without_plugins_is_none(files: Files) -> None:
    folder = files({"x.conflist": LIST, "more/1.json": TUNING})
    assert len(delegates({"clusterNetwork": str(folder), "auxiliaryCNIChainName": "more"})) == 1


def test_chain_whose_file_cannot_be_read_is_refused(files: Files) -> None:
    folder = files({"x.conflist": LIST, "more/1.conf": "{"})
    with pytest.raises(Error) as refused:
        delegates({"clusterNetwork": str(folder), "auxiliaryCNIChainName": "more"})
    text = f'configuration c: key "auxiliaryCNIChainName": {folder}/more/1.conf: not JSON'
    assert refused.value.msg.startswith(text)


@pytest.mark.parametrize("kind", ["wirespeed", "multus"])
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"clusterNetwork": "main", "auxiliaryCNIChainName": "more"},
            "the directory of the chain lies beside the file of the cluster's network; expected a path in the "
            'key "clusterNetwork"',
        ),
        (
            {"delegates": [{"name": "a", "type": "b"}], "auxiliaryCNIChainName": "more"},
            "the directory of the chain lies beside the file of the cluster's network; expected a path in the "
            'key "clusterNetwork"',
        ),
        (
            {"clusterNetwork": "/x/y.conflist", "auxiliaryCNIChainName": "../more"},
            "key \"name\": expected letters, digits, _ . - after a letter or digit, got '../more'",
        ),
    ],
)
def test_chain_that_lies_nowhere_is_refused(config: dict[str, Any], message: str, kind: str) -> None:
    with pytest.raises(Error) as refused:
        load({"name": "c", "type": kind, **config})
    assert refused.value.kind == Kind.INVALID_CONFIG
    assert refused.value.msg == f'configuration c: key "auxiliaryCNIChainName": {message}'

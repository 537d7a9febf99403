"""Networks and chains: the input of each plugin, their order, and failures."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirespeed.cni import result as results
from wirespeed.cni.chain import Chain, load_network
from wirespeed.cni.errors import Code, NotUndoneError, code_of
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind

ATTACHMENT = Request(
    command="ADD", container_id="c1", netns="/run/netns/pod", ifname="net1", args={"K8S_POD_NAME": "p"}
)


@dataclass
class Recorder:
    """An in-process plugin that records its requests and adds an interface named like its `type`."""

    fails: Mapping[str, Exception] = field(default_factory=dict)
    adds: Mapping[str, list[Any]] = field(default_factory=dict)  # additional keys of the result, by `type`
    requests: list[Request] = field(default_factory=list)

    def _note(self, request: Request) -> None:
        self.requests.append(request)
        if error := self.fails.get(f"{request.command} {request.config['type']}"):
            raise error

    def add(self, request: Request) -> Result:
        self._note(request)
        result = results.read(request.config.get("prevResult") or {})
        result["interfaces"].append({"name": request.config["type"], "mtu": 9000})
        result |= self.adds
        return result

    delete = check = gc = status = _note

    @property
    def calls(self) -> list[str]:
        return [f"{request.command} {request.config['type']}" for request in self.requests]

    def configs(self, command: str) -> list[dict[str, Any]]:
        return [request.config for request in self.requests if request.command == command]


def conflist(*kinds: str, version: str = "1.1.0", **more: Any) -> dict[str, Any]:
    return {"cniVersion": version, "name": "net", "plugins": [{"type": kind} for kind in kinds], **more}


def chain_of(plugin: Recorder) -> Chain:
    return Chain(dict.fromkeys("abc", plugin))


def names(result: Result) -> list[str]:
    return [interface["name"] for interface in result["interfaces"]]


# Networks


def test_conf_is_a_network_of_one_plugin() -> None:
    raw = {"cniVersion": "0.4.0", "name": "net", "type": "bridge", "bridge": "br0"}
    network = load_network(raw)
    assert (network.name, network.version, network.kinds, network.plugins) == ("net", "0.4.0", ["bridge"], [raw])


def test_conflist_is_a_network_of_its_plugins() -> None:
    network = load_network(conflist("bridge", "tuning", disableCheck="true", disableGC=True))
    assert (network.kinds, network.disable_check, network.disable_gc) == (["bridge", "tuning"], True, True)


def test_list_of_inlined_plugins_alone_is_what_is_loaded_anyway() -> None:
    assert load_network(conflist("bridge", loadOnlyInlinedPlugins=True)).kinds == ["bridge"]


def test_name_and_version_of_the_caller_hold_where_the_network_has_none() -> None:
    network = load_network({"type": "bridge", "name": ""}, name="nad", version="0.3.1")
    assert (network.name, network.version) == ("nad", "0.3.1")
    own = load_network(conflist("bridge"), name="nad", version="0.3.1")
    assert (own.name, own.version) == ("net", "1.1.0")


@pytest.mark.parametrize("version", [None, ""])
def test_network_without_a_version_is_one_of_0_1_0(version: str | None) -> None:
    assert load_network({"name": "net", "type": "a", "cniVersion": version}).version == "0.1.0"
    assert load_network({"name": "net", "type": "a"}).version == "0.1.0"
    assert load_network({"name": "net", "plugins": [{"type": "a", "cniVersion": "1.0.0"}]}).version == "0.1.0"


def test_keys_of_the_specification_are_read_in_any_case() -> None:
    raw = {
        "CNIVersion": "0.4.0",
        "Name": "net",
        "Plugins": [
            {"Type": "a", "Capabilities": {"mac": True}, "Own": 1, "IPAM": {"TYPE": "static", "Addresses": []}},
        ],
        "disablecheck": True,
    }
    network = load_network(raw)
    assert (network.name, network.version, network.disable_check) == ("net", "0.4.0", True)
    ipam = {"type": "static", "Addresses": []}
    assert network.plugins == [{"type": "a", "capabilities": {"mac": True}, "Own": 1, "ipam": ipam}]
    assert network.raw == raw  # unchanged, for the journal
    plugin = Recorder()
    chain_of(plugin).add(network, ATTACHMENT)
    assert plugin.configs("ADD") == [{**network.plugins[0], "name": "net", "cniVersion": "0.4.0"}]


def test_highest_of_several_versions_is_used() -> None:
    assert load_network(conflist("a", version="0.4.0", cniVersions=["0.3.1", "1.0.0", "8.0.0"])).version == "1.0.0"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
keys = ["cniVersion", "cniVersions", "name", "type", "plugins", "disableCheck", "disableGC", "capabilities"]


@given(st.dictionaries(st.sampled_from(keys), json_values | st.sampled_from(["1.0.0", "net"])) | json_values)
def test_only_cni_errors_come_out_of_loading(raw: object) -> None:
    try:
        network = load_network(raw)
    except Error as error:
        assert error.kind in {Kind.INVALID_CONFIG, Kind.INCOMPATIBLE_VERSION}
    else:
        assert network.kinds


# ADD


def test_each_plugin_is_given_the_result_of_the_one_before() -> None:
    plugin = Recorder()
    result = chain_of(plugin).add(load_network(conflist("a", "b", "c")), ATTACHMENT)
    assert names(result) == ["a", "b", "c"]
    first, second, third = plugin.configs("ADD")
    assert first == {"type": "a", "name": "net", "cniVersion": "1.1.0"}
    assert second["prevResult"] == {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "a", "mtu": 9000}],
        "dns": {},
    }
    assert [interface["name"] for interface in third["prevResult"]["interfaces"]] == ["a", "b"]


def test_result_is_passed_on_in_the_networks_version() -> None:
    plugin = Recorder()
    chain_of(plugin).add(load_network(conflist("a", "b", version="0.4.0")), ATTACHMENT)
    assert plugin.configs("ADD")[1]["prevResult"] == {
        "cniVersion": "0.4.0",
        "interfaces": [{"name": "a"}],
        "dns": {},
    }


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_result_is_passed_on_in_the_shape_of_an_old_version(version: str) -> None:
    address = {"ips": [{"address": "10.0.0.2/24", "gateway": "10.0.0.1"}]}
    plugin = Recorder(adds=address)
    chain_of(plugin).add(load_network(conflist("a", "b", version=version)), ATTACHMENT)
    first, second = plugin.configs("ADD")
    assert first == {"type": "a", "name": "net", "cniVersion": version}
    shape = {"ip": "10.0.0.2/24", "gateway": "10.0.0.1"}
    assert second["prevResult"] == {"cniVersion": version, "ip4": shape, "dns": {}}


def test_plugin_is_called_with_the_attachment() -> None:
    plugin = Recorder()
    chain_of(plugin).add(load_network(conflist("a")), ATTACHMENT.derive(command="STATUS"))
    (request,) = plugin.requests
    assert request == ATTACHMENT.derive(config=request.config)


def test_runtime_config_reaches_the_plugins_with_the_capability() -> None:
    plugin = Recorder()
    raw = conflist("a", "b", "c")
    raw["plugins"][0]["capabilities"] = {"mac": True, "ips": False}
    raw["plugins"][2]["capabilities"] = {"ips": True, "bandwidth": True}
    asked = {"mac": "02::1", "ips": ["10.0.0.2/24"]}
    chain_of(plugin).add(replace(load_network(raw), runtime_config=asked), ATTACHMENT)
    assert [config.get("runtimeConfig") for config in plugin.configs("ADD")] == [
        {"mac": "02::1"},
        None,
        {"ips": ["10.0.0.2/24"]},
    ]
    assert "runtimeConfig" not in raw["plugins"][0]


@dataclass
class Reader(Recorder):
    """A plugin that reads some of runtimeConfig without declaring capabilities."""

    def capabilities(self, config: Mapping[str, Any]) -> frozenset[str]:
        return frozenset({"mac", "deviceID"} | ({"ips"} if "ipam" in config else set()))


def test_plugin_of_this_process_gets_what_it_reads_of_the_runtime_config_unless_it_declares_otherwise() -> None:
    plugin = Reader()
    raw = conflist("a", "b")
    raw["plugins"][0]["capabilities"] = {"portMappings": True, "mac": False}
    raw["plugins"][1]["ipam"] = {"type": "static"}
    runtime = {"mac": "02::1", "ips": ["10.0.0.2/24"], "deviceID": "d", "portMappings": [], "bandwidth": {}}
    chain_of(plugin).add(replace(load_network(raw), runtime_config=runtime), ATTACHMENT)
    assert [config["runtimeConfig"] for config in plugin.configs("ADD")] == [
        {"deviceID": "d", "portMappings": []},
        {"mac": "02::1", "ips": ["10.0.0.2/24"], "deviceID": "d"},
    ]


class Unmakable(dict[str, Any]):
    """A registry of in-process plugins; creating any other plugin fails."""

    def __missing__(self, kind: str) -> Any:
        raise RuntimeError(f"not {kind}")

    def __contains__(self, kind: object) -> bool:
        return True


def test_delete_of_a_plugin_that_cannot_be_made_leaves_the_others_theirs() -> None:
    plugin = Recorder()
    chain = Chain(Unmakable(a=plugin, c=plugin))
    with pytest.raises(Error, match="plugin b: cannot be created: RuntimeError: not b") as failed:
        chain.delete(replace(load_network(conflist("a", "b", "c")), runtime_config={"mac": "02::1"}), ATTACHMENT)
    assert failed.value.kind == Kind.INTERNAL
    assert plugin.calls == ["DEL c", "DEL a"]


def test_plugin_that_cannot_be_made_or_is_not_there_is_found_before_a_call(tmp_path: Path) -> None:
    network = load_network(conflist("a", "b"))
    with pytest.raises(Error, match=r"^plugin b: cannot be created: RuntimeError: not b$") as unmakable:
        Chain(Unmakable(a=Recorder())).check_plugins(network, [])
    assert unmakable.value.kind == Kind.INTERNAL
    with pytest.raises(Error, match=rf'^plugin b: no executable "b" in {tmp_path}$') as missing:
        Chain({"a": Recorder()}).check_plugins(network, [str(tmp_path)])
    assert missing.value.kind == Kind.INVALID_CONFIG
    (tmp_path / "b").write_text("")
    (tmp_path / "b").chmod(0o755)
    Chain({"a": Recorder()}).check_plugins(network, [str(tmp_path)])


def test_failed_add_is_undone_from_the_failing_plugin_backwards() -> None:
    plugin = Recorder(fails={"ADD b": Error(Kind.DEVICE, "no device", details="details")})
    with pytest.raises(Error) as failed:
        chain_of(plugin).add(load_network(conflist("a", "b", "c")), ATTACHMENT)
    assert not isinstance(failed.value, NotUndoneError)
    assert (code_of(failed.value), failed.value.msg, failed.value.details) == (
        101,
        "plugin b: no device",
        "details",
    )
    assert plugin.calls == ["ADD a", "ADD b", "DEL b", "DEL a"]
    assert [names(config["prevResult"]) for config in plugin.configs("DEL")] == [["a"], ["a"]]


def test_failing_undo_keeps_the_first_error_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    plugin = Recorder(
        fails={
            "ADD b": Error(Kind.DEVICE, "no device"),
            "DEL b": Error(Kind.DEVICE, "still none"),
            "DEL a": ZeroDivisionError("oops"),
        }
    )
    with caplog.at_level(logging.WARNING), pytest.raises(NotUndoneError) as failed:
        chain_of(plugin).add(load_network(conflist("a", "b")), ATTACHMENT)
    left = "plugin b: still none; also plugin a: ZeroDivisionError: oops"
    assert failed.value.kind == Kind.DEVICE
    assert failed.value.msg == f"plugin b: no device; undoing it failed: {left}"
    assert plugin.calls == ["ADD a", "ADD b", "DEL b", "DEL a"]
    assert left in caplog.text


def test_unexpected_exception_is_undone_too() -> None:
    plugin = Recorder(fails={"ADD b": ZeroDivisionError()})
    with pytest.raises(ZeroDivisionError):
        chain_of(plugin).add(load_network(conflist("a", "b")), ATTACHMENT)
    assert plugin.calls == ["ADD a", "ADD b", "DEL b", "DEL a"]


def test_result_of_a_plugin_of_this_process_is_checked_too() -> None:
    class Careless(Recorder):
        def add(self, request: Request) -> Result:
            self._note(request)
            return {"ips": [{"addr": "10.0.0.2/24"}]}

    plugin = Careless()
    with pytest.raises(Error, match=r"plugin a: result: key .ips\[0\]\.address.: expected") as failed:
        chain_of(plugin).add(load_network(conflist("a")), ATTACHMENT)
    assert failed.value.kind == Kind.INVALID_DATA
    assert plugin.calls == ["ADD a", "DEL a"]


def test_add_after_its_deadline_calls_no_plugin_and_undo_has_time_of_its_own() -> None:
    plugin = Recorder()
    with pytest.raises(Error) as late:
        chain_of(plugin).add(load_network(conflist("a")), ATTACHMENT.derive(deadline=time.monotonic()))
    assert late.value.kind == Kind.TRY_AGAIN
    assert plugin.calls == ["DEL a"]


# DEL, CHECK, STATUS, GC

ADDED: Result = results.empty() | {"interfaces": [{"name": "net1", "mtu": 9000}]}


def test_delete_runs_backwards_with_the_result_of_add() -> None:
    plugin = Recorder()
    chain_of(plugin).delete(load_network(conflist("a", "b", version="0.4.0")), ATTACHMENT, result=ADDED)
    assert plugin.calls == ["DEL b", "DEL a"]
    assert [config["prevResult"] for config in plugin.configs("DEL")] == [results.write(ADDED, "0.4.0")] * 2


def test_delete_passes_no_result_before_0_4_0_or_where_there_is_none() -> None:
    plugin = Recorder()
    for version in ("0.3.1", "0.1.0", ""):
        chain_of(plugin).delete(load_network(conflist("a", version=version)), ATTACHMENT, result=ADDED)
    chain_of(plugin).delete(load_network(conflist("a")), ATTACHMENT)
    assert ["prevResult" in config for config in plugin.configs("DEL")] == [False] * 4


def test_delete_attempts_every_plugin_and_raises_the_first_error_with_the_others_named() -> None:
    plugin = Recorder(
        fails={"DEL c": Error(Kind.TRY_AGAIN, "busy", details="soon"), "DEL a": Error(Kind.DEVICE, "gone")}
    )
    with pytest.raises(Error) as failed:
        chain_of(plugin).delete(load_network(conflist("a", "b", "c")), ATTACHMENT)
    assert plugin.calls == ["DEL c", "DEL b", "DEL a"]
    assert (code_of(failed.value), failed.value.msg) == (11, "plugin c: busy; also plugin a: gone")
    assert failed.value.details == "soon"


def test_delete_gets_the_runtime_config_of_its_capabilities() -> None:
    plugin = Recorder()
    raw = conflist("a")
    raw["plugins"][0]["capabilities"] = {"mac": True}
    network = replace(load_network(raw), runtime_config={"mac": "02::1", "ips": []})
    chain_of(plugin).delete(network, ATTACHMENT)
    assert plugin.configs("DEL")[0]["runtimeConfig"] == {"mac": "02::1"}


def test_check_runs_forwards_with_the_result_of_add_up_to_the_first_drift() -> None:
    plugin = Recorder(fails={"CHECK b": Error(Kind.DRIFT, "mtu is 1500")})
    with pytest.raises(Error, match="plugin b: mtu is 1500") as drifted:
        chain_of(plugin).check(load_network(conflist("a", "b", "c")), ATTACHMENT, result=ADDED)
    assert drifted.value.kind == Kind.DRIFT
    assert plugin.calls == ["CHECK a", "CHECK b"]
    assert plugin.configs("CHECK")[0]["prevResult"] == results.write(ADDED, "1.1.0")


@pytest.mark.parametrize(
    "raw", [conflist("a", disableCheck=True), conflist("a", version="0.3.1"), conflist("a", version="")]
)
def test_check_is_not_made_where_it_is_disabled_or_unknown(raw: dict[str, Any]) -> None:
    plugin = Recorder()
    chain_of(plugin).check(load_network(raw), ATTACHMENT, result=ADDED)
    assert plugin.calls == []


def test_status_asks_up_to_the_first_plugin_that_is_not_ready() -> None:
    plugin = Recorder(fails={"STATUS b": Error(Kind.UNAVAILABLE, "no bridge")})
    with pytest.raises(Error, match="plugin b: no bridge") as refused:
        chain_of(plugin).status(load_network(conflist("a", "b", "c")), Request(command="STATUS"))
    assert refused.value.kind == Kind.UNAVAILABLE
    assert plugin.calls == ["STATUS a", "STATUS b"]


def test_status_of_a_missing_executable_is_unavailable() -> None:
    with pytest.raises(Error) as refused:
        Chain({}).status(load_network(conflist("absent")), Request(command="STATUS", path=("/nonexistent",)))
    assert (code_of(refused.value), refused.value.msg) == (
        Code.UNAVAILABLE,
        'plugin absent: no executable "absent" in /nonexistent',
    )


def test_gc_tells_every_plugin_the_valid_attachments_under_both_names() -> None:
    plugin = Recorder(fails={"GC a": Error(Kind.INTERNAL, "stuck")})
    valid = [{"containerID": "c1", "ifname": "net1"}]
    request = Request(command="GC", config={"cni.dev/valid-attachments": valid})
    with pytest.raises(Error, match="plugin a: stuck"):
        chain_of(plugin).gc(load_network(conflist("a", "b")), request)
    assert plugin.calls == ["GC a", "GC b"]
    for config in plugin.configs("GC"):
        assert (config["cni.dev/valid-attachments"], config["cni.dev/attachments"]) == (valid, valid)


def test_gc_without_a_list_is_refused_for_it_would_drop_everything() -> None:
    plugin = Recorder()
    with pytest.raises(Error, match=r"cni\.dev/valid-attachments"):
        chain_of(plugin).gc(load_network(conflist("a")), Request(command="GC"))
    assert plugin.calls == []


@pytest.mark.parametrize("raw", [conflist("a", disableGC=True), conflist("a", version="1.0.0")])
def test_gc_is_not_made_where_it_is_disabled_or_unknown(raw: dict[str, Any]) -> None:
    plugin = Recorder()
    chain_of(plugin).gc(load_network(raw), Request(command="GC", config={"cni.dev/valid-attachments": []}))
    assert plugin.calls == []


def test_status_is_not_asked_of_a_version_that_has_none() -> None:
    plugin = Recorder()
    chain_of(plugin).status(load_network(conflist("a", version="1.0.0")), Request(command="STATUS"))
    assert plugin.calls == []


# Executed plugins


def script(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def test_executed_and_builtin_plugins_pass_results_to_each_other(tmp_path: Path) -> None:
    answered = '{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/24"}}'
    script(tmp_path, "old", f"cat > {tmp_path}/$CNI_COMMAND.json; echo '{answered}'")
    plugin = Recorder()
    network = load_network(conflist("a", "old", "b", version="1.0.0"))
    request = ATTACHMENT.derive(path=(str(tmp_path),))
    result = chain_of(plugin).add(network, request)
    assert names(json.loads((tmp_path / "ADD.json").read_text())["prevResult"]) == ["a"]
    assert plugin.configs("ADD")[1]["prevResult"]["ips"] == [{"address": "10.0.0.2/24"}]
    assert result["ips"] == [{"address": "10.0.0.2/24"}]
    chain_of(plugin).delete(network, request, result=result)
    assert json.loads((tmp_path / "DEL.json").read_text())["prevResult"]["ips"] == [{"address": "10.0.0.2/24"}]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("", "plugin odd: result: expected a JSON object, got ''"),
        ("hello", "plugin odd: result: expected a JSON object, got 'hello\\n'"),
        ("[]", "plugin odd: result: expected an object, got []"),
        (
            '{"ips":[{"address":"x"}]}',
            "plugin odd: result: key \"ips[0].address\": expected an address with prefix length, got 'x'",
        ),
    ],
)
def test_unreadable_result_is_refused_and_the_plugin_undone(said: str, message: str, tmp_path: Path) -> None:
    script(tmp_path, "odd", f"echo $CNI_COMMAND >> {tmp_path}/calls; [ -z '{said}' ] || echo '{said}'")
    with pytest.raises(Error) as failed:
        Chain({}).add(load_network(conflist("odd")), ATTACHMENT.derive(path=(str(tmp_path),)))
    assert (failed.value.kind, failed.value.msg) == (Kind.INVALID_DATA, message)
    assert (tmp_path / "calls").read_text().split() == ["ADD", "DEL"]

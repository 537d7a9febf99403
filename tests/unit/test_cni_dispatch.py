"""A CNI call: from environment and standard input to exit status and standard output."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import Any

import pytest

from wirespeed.cni.dispatch import Answer, answer
from wirespeed.cni.errors import Code
from wirespeed.cni.plugin import Plugin, Result
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind

ENVIRON = {
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/var/run/netns/pod",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
}


@dataclass
class Recorder:
    """A plugin that records its calls, and fails with `error` if set."""

    error: Exception | None = None
    calls: list[str] = field(default_factory=list)

    def _note(self, request: Request) -> None:
        self.calls.append(request.command)
        if self.error:
            raise self.error

    def add(self, request: Request) -> Result:
        self._note(request)
        return {
            "interfaces": [{"name": request.ifname, "mtu": 9000, "sandbox": request.netns}],
            "ips": [{"address": "10.0.0.2/24", "interface": 0}],
        }

    delete = check = gc = status = _note


def call(plugin: Plugin, command: str, version: str = "1.1.0", **more: Any) -> Answer:
    config = {"cniVersion": version, "name": "net", "type": "probe", "cni.dev/valid-attachments": [], **more}
    return answer(lambda: plugin, ENVIRON | {"CNI_COMMAND": command}, json.dumps(config).encode())


def no_plugin() -> Plugin:
    raise AssertionError


def test_add_prints_its_result_in_the_callers_version() -> None:
    assert json.loads(call(Recorder(), "ADD", "0.4.0").stdout) == {
        "cniVersion": "0.4.0",
        "interfaces": [{"name": "eth0", "sandbox": "/var/run/netns/pod"}],
        "ips": [{"version": "4", "address": "10.0.0.2/24", "interface": 0}],
        "dns": {},
    }
    assert json.loads(call(Recorder(), "ADD", "1.1.0").stdout)["interfaces"][0]["mtu"] == 9000


@pytest.mark.parametrize(("given", "spoken"), [("", "0.1.0"), ("0.1.0", "0.1.0"), ("0.2.0", "0.2.0")])
def test_configuration_without_a_version_is_answered_as_one_of_0_1_0(given: str, spoken: str) -> None:
    assert json.loads(call(Recorder(), "ADD", given).stdout) == {
        "cniVersion": spoken,
        "ip4": {"ip": "10.0.0.2/24"},
        "dns": {},
    }
    assert call(Recorder(), "DEL", given) == Answer(0, b"")
    refused = json.loads(call(Recorder(), "CHECK", given).stdout)
    assert (refused["cniVersion"], refused["code"]) == (spoken, Code.INCOMPATIBLE_VERSION)


def test_key_of_the_version_may_be_missing_or_null() -> None:
    for config in ({"name": "net", "type": "probe"}, {"cniVersion": None, "name": "net", "type": "probe"}):
        answered = answer(Recorder, ENVIRON | {"CNI_COMMAND": "ADD"}, json.dumps(config).encode())
        assert json.loads(answered.stdout)["cniVersion"] == "0.1.0"


@pytest.mark.parametrize("command", ["DEL", "CHECK", "GC", "STATUS"])
def test_other_verbs_reach_the_plugin_and_print_nothing(command: str) -> None:
    plugin = Recorder()
    assert call(plugin, command) == Answer(0, b"")
    assert plugin.calls == [command]


def test_version_needs_no_plugin() -> None:
    exit_code, stdout = answer(no_plugin, {"CNI_COMMAND": "VERSION"}, b'{"cniVersion":"0.4.0"}')
    assert exit_code == 0
    assert json.loads(stdout)["cniVersion"] == "0.4.0"


def test_refused_call_makes_no_plugin() -> None:
    exit_code, _ = answer(no_plugin, ENVIRON | {"CNI_COMMAND": "ADD"}, b"{}")
    assert exit_code == 1


@pytest.mark.parametrize(
    ("command", "version"), [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0"), ("STATUS", "0.1.0")]
)
def test_verbs_are_kept_from_versions_that_had_none(command: str, version: str) -> None:
    plugin = Recorder()
    exit_code, stdout = call(plugin, command, version)
    assert (exit_code, json.loads(stdout)["code"]) == (1, Code.INCOMPATIBLE_VERSION)
    assert plugin.calls == []


def test_error_is_told_in_the_callers_version_with_code_and_details() -> None:
    plugin = Recorder(Error(Kind.DEVICE, "device gone", details="see dmesg"))
    assert call(plugin, "ADD", "0.4.0").exit_code == 1
    assert json.loads(call(plugin, "ADD", "0.4.0").stdout) == {
        "cniVersion": "0.4.0",
        "code": 101,
        "msg": "device gone",
        "details": "see dmesg",
    }


def test_unexpected_exception_is_one_line_for_the_runtime_and_a_traceback_for_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        exit_code, stdout = call(Recorder(ZeroDivisionError("one\ntwo")), "DEL")
    assert exit_code == 1
    assert json.loads(stdout)["code"] == Code.INTERNAL
    assert json.loads(stdout)["msg"] == "DEL: ZeroDivisionError: one\\ntwo"
    assert "Traceback" in caplog.text


def test_result_that_cannot_be_written_is_an_error_not_a_crash() -> None:
    class Broken(Recorder):
        def add(self, request: Request) -> Result:
            return {"ips": [{"address": object()}]}

    exit_code, stdout = call(Broken(), "ADD")
    assert (exit_code, json.loads(stdout)["code"]) == (1, Code.INTERNAL)


@pytest.mark.parametrize("stdin", [b"", b"[1]", b"7", b'{"cniVersion": []}', b"[" * 100_000])
def test_error_of_an_unreadable_configuration_is_told_in_the_latest_version(stdin: bytes) -> None:
    exit_code, stdout = answer(no_plugin, ENVIRON | {"CNI_COMMAND": "ADD"}, stdin)
    assert (exit_code, json.loads(stdout)["cniVersion"]) == (1, "1.1.0")

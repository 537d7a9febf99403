"""The device plugin as a process: alone, in the agent, and `--dry-run`, which shows where each device goes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakesysfs import FakeSysfs
from tests.node.conftest import PATIENCE, ROOT, Agent
from wirespeed.play.kubelet import Kubelet

StartAgent = Callable[..., Agent]
VFS = [f"0000:19:00.{number}" for number in range(3)]
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR) .*\n")


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[Kubelet]:
    kubelet = Kubelet(tmp_path / "kubelet")
    kubelet.start()
    yield kubelet
    kubelet.stop()


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Any]:
    """A node's paths as keys of the agent's configuration: three VFs, the third on vfio-pci, and two pools."""
    sysfs = FakeSysfs(tmp_path / "sys")
    sysfs.pf("0000:18:00.0", "ens1f0", vfs=3)
    sysfs.bind(VFS[2], "vfio-pci")
    pools = [
        {"resourceName": "dpdk", "resourcePrefix": "acme.io", "selectors": {"drivers": ["vfio-pci"]}},
        {"resourceName": "net", "selectors": {"pfNames": ["ens1f0#0"]}},
    ]
    (tmp_path / "pools.json").write_text(json.dumps({"resourceList": pools}))
    return {
        "sysfs": str(sysfs.root),
        "kubelet": str(tmp_path / "kubelet"),
        "devinfo": str(tmp_path / "devinfo"),
        "devicePlugin": str(tmp_path / "pools.json"),
        "resourcePrefix": "example.org",
    }


@pytest.fixture
def config(tmp_path: Path, places: dict[str, Any]) -> Path:
    file = tmp_path / "agent.yaml"
    file.write_text(json.dumps(places))
    return file


def command(*arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "wirespeed", "deviceplugin", *arguments]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


TABLE = """\
DEVICE        DRIVER    FUNCTION  POOL
0000:18:00.0  -         -         left out: a PF with 3 VFs
0000:19:00.0  iavf      ens1f0#0  example.org/net
0000:19:00.1  iavf      ens1f0#1  in none: acme.io/dpdk drivers: iavf is not vfio-pci; \
example.org/net pfNames: ens1f0#1 is not ens1f0
0000:19:00.2  vfio-pci  ens1f0#2  acme.io/dpdk

acme.io/dpdk: 1 devices
example.org/net: 1 devices
"""


def test_dry_run_shows_where_each_device_goes(config: Path, kubelet: Kubelet) -> None:
    shown = run("--dry-run", "--config", config)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == TABLE
    assert kubelet.resources() == {}


def test_dry_run_takes_other_pools_and_another_prefix(config: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"resourceList":[{"resourceName":"all","vendor":1}]}')
    shown = run("--dry-run", "--config", config, "--pools", other, "--resource-prefix", "new.org")
    assert shown.returncode == 0
    assert shown.stdout.endswith("\nnew.org/all: 3 devices\n")
    assert (
        'WARNING device plugin configuration: unknown key "resourceList[0].vendor": it has no effect'
        in shown.stderr
    )


def test_wrong_configuration_is_told_in_one_line(config: Path, places: dict[str, Any]) -> None:
    Path(places["devicePlugin"]).write_text('{"resourceList":[{"resourceName":"a.b"},{"selectors":[]}]}')
    for arguments in (("--dry-run",), ()):
        answer = run("--config", config, *arguments)
        assert (answer.returncode, answer.stdout) == (1, "")
        assert answer.stderr.splitlines() == [
            f"Error: device plugin configuration {places['devicePlugin']}: "
            "key \"resourceList[0].resourceName\": expected letters, digits, - and _, got 'a.b'; "
            'key "resourceList[1].resourceName" is missing: expected letters, digits, - and _; '
            'key "resourceList[1].selectors": expected an object or a list of at least one, got []'
        ]


def test_configuration_without_pools_is_told(tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text("{}")
    answer = run("--config", config)
    assert answer.returncode == 1
    assert answer.stderr == 'Error: key "devicePlugin" is missing: expected a path there, or --pools FILE\n'


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_alone_until_it_is_told_to_end(config: Path, kubelet: Kubelet, number: int) -> None:
    with subprocess.Popen(command("--config", config), cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            kubelet.wait_for("acme.io/dpdk", 1, PATIENCE)
            kubelet.wait_for("example.org/net", 1, PATIENCE)
            answer = kubelet.allocate("default", "pod", "app", "example.org/net", 1)
            assert answer.envs["PCIDEVICE_EXAMPLE_ORG_NET"] == VFS[0]
            process.send_signal(number)
            _, logged = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 0
    assert not [line for line in logged.splitlines(keepends=True) if not LINE.fullmatch(line)]
    assert [path.name for path in (kubelet.folder / "device-plugins").iterdir()] == ["kubelet.sock"]


def test_killed_plugin_leaves_sockets_that_the_next_one_takes(config: Path, kubelet: Kubelet) -> None:
    for _ in range(2):
        with subprocess.Popen(command("--config", config), cwd=ROOT, stderr=subprocess.DEVNULL) as process:
            try:
                kubelet.wait_for("acme.io/dpdk", 1, PATIENCE)
            finally:
                process.kill()
        kubelet.wait_until(lambda: not _healthy(kubelet), PATIENCE, "the end")
    assert len(list((kubelet.folder / "device-plugins").iterdir())) == 3


def test_sighup_has_the_pools_read_again(config: Path, kubelet: Kubelet) -> None:
    with subprocess.Popen(command("--config", config), cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            kubelet.wait_for("example.org/net", 1, PATIENCE)
            process.send_signal(signal.SIGHUP)
            assert process.stderr is not None
            assert any("INFO the configuration is reloaded" in line for line in process.stderr)
        finally:
            process.kill()


def _healthy(kubelet: Kubelet) -> list[str]:
    return [
        device.ID for devices in kubelet.resources().values() for device in devices if device.health == "Healthy"
    ]


def test_agent_serves_the_pools_over_restarts_of_the_kubelet(
    agent_process: StartAgent, places: dict[str, Any], kubelet: Kubelet
) -> None:
    agent = agent_process(**places)
    for _ in range(3):
        kubelet.wait_for("acme.io/dpdk", 1, PATIENCE)
        kubelet.wait_for("example.org/net", 1, PATIENCE)
        kubelet.stop()
        kubelet.start()
    kubelet.wait_for("acme.io/dpdk", 1, PATIENCE)
    assert agent.stop() == 0
    agent.reader.join(PATIENCE)
    assert not [line for line in agent.log if not LINE.fullmatch(line)]
    assert [path.name for path in (kubelet.folder / "device-plugins").iterdir()] == ["kubelet.sock"]


def test_sighup_has_the_agent_read_the_pools_again(
    agent_process: StartAgent, places: dict[str, Any], kubelet: Kubelet
) -> None:
    agent = agent_process(**places)
    kubelet.wait_for("example.org/net", 1, PATIENCE)
    agent.process.send_signal(signal.SIGHUP)
    agent.wait_log("INFO the configuration is reloaded", "pools=2")
    assert agent.stop() == 0


def test_agent_with_wrong_pools_says_so_and_ends(agent_process: StartAgent, places: dict[str, Any]) -> None:
    Path(places["devicePlugin"]).write_text('{"resourceList":[{"resourceName":"a.b"}]}')
    agent = agent_process(ready=False, **places)
    agent.wait_log("ERROR device plugin: device plugin configuration", "expected letters, digits")
    assert agent.process.wait(PATIENCE) == 1

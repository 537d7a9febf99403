"""The agent writes the runtime's CNI configuration: real files, changes, kills and restarts."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.node.calling import DONE, until
from tests.node.conftest import PATIENCE, Agent
from tests.node.pods import World
from wirespeed.agent import changes
from wirespeed.agent.autoconf import Autoconf
from wirespeed.cni.errors import Code
from wirespeed.node import AutoconfConfig, NodeConfig
from wirespeed.system import inotify

StartAgent = Callable[..., Agent]
WRITTEN = "CNI configuration written"


class Runtime:
    """The runtime's CNI configuration directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ours = folder / "00-wirespeed.conflist"

    def put(self, *plugins: dict[str, Any], name: str = "10-cbr0.conflist") -> None:
        """Write the primary plugin's configuration atomically."""
        text = json.dumps({"cniVersion": "1.0.0", "name": "cbr0", "plugins": plugins or [{"type": "bridge"}]})
        new = self.folder / f".{name}.tmp"
        new.write_text(text)
        new.rename(self.folder / name)

    def plugin(self) -> dict[str, Any]:
        """Our plugin's configuration in the file that the agent wrote."""
        plugin: dict[str, Any] = json.loads(self.ours.read_bytes())["plugins"][0]
        return plugin


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    folder = tmp_path / "net.d"
    folder.mkdir()
    return Runtime(folder)


@pytest.fixture
def start(agent_process: StartAgent, runtime: Runtime) -> StartAgent:
    """Start agents that write into the runtime's directory; keyword arguments are keys of `autoconf`."""

    def started(*, folder: Path | None = None, indicator: Path | None = None, **keys: Any) -> Agent:
        more = {} if indicator is None else {"readinessIndicatorFile": str(indicator)}
        where = {"cniConfigDir": str(runtime.folder), **keys}
        return agent_process(folder=folder, autoconf=where, **more)

    return started


def test_configuration_is_written_for_root_alone_and_leads_to_the_primarys_file(
    start: StartAgent, runtime: Runtime
) -> None:
    runtime.put()
    start().wait_log(WRITTEN)
    assert runtime.plugin()["clusterNetwork"] == str(runtime.folder / "10-cbr0.conflist")
    assert runtime.ours.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(runtime.folder)) == ["00-wirespeed.conflist", "10-cbr0.conflist"]


def test_capabilities_follow_the_primary_up_and_down(start: StartAgent, runtime: Runtime) -> None:
    runtime.put({"type": "bridge", "capabilities": {"mac": True}})
    agent = start()
    agent.wait_log(WRITTEN)
    assert runtime.plugin()["capabilities"] == {"mac": True}
    runtime.put({"type": "bridge", "capabilities": {"mac": True}}, {"type": "x", "capabilities": {"ips": True}})
    agent.wait_log(WRITTEN)
    assert runtime.plugin()["capabilities"] == {"ips": True, "mac": True}
    runtime.put({"type": "bridge"})
    agent.wait_log(WRITTEN)
    assert "capabilities" not in runtime.plugin()


def test_half_written_primary_leaves_the_last_good_file_and_is_told_of_once(
    start: StartAgent, runtime: Runtime
) -> None:
    runtime.put()
    agent = start()
    agent.wait_log(WRITTEN)
    good, primary = runtime.ours.read_bytes(), runtime.folder / "10-cbr0.conflist"
    primary.write_text('{"cniVersion": "1.0.0", "name": "cb')
    agent.wait_log("10-cbr0.conflist: not JSON", f"{runtime.ours} stays")
    assert runtime.ours.read_bytes() == good
    os.utime(primary)
    primary.write_text('{"cniVersion": "1.0.0", "name": "cb')
    runtime.put({"type": "bridge", "capabilities": {"ips": True}})
    agent.wait_log(WRITTEN)
    assert runtime.plugin()["capabilities"] == {"ips": True}
    assert sum("not JSON" in line for line in agent.log) == 1


def test_primary_that_goes_leaves_the_file(start: StartAgent, runtime: Runtime) -> None:
    runtime.put()
    agent = start()
    agent.wait_log(WRITTEN)
    (runtime.folder / "10-cbr0.conflist").unlink()
    agent.wait_log("no configuration of the cluster's own plugin", f"{runtime.ours} stays")
    assert runtime.plugin()["type"] == "wirespeed"


def test_primary_that_comes_later_is_waited_for(start: StartAgent, runtime: Runtime) -> None:
    agent = start()
    agent.wait_log("no configuration of the cluster's own plugin", "none is written")
    assert os.listdir(runtime.folder) == []
    runtime.put()
    agent.wait_log(WRITTEN)
    assert runtime.ours.exists()


def test_folders_that_are_not_there_yet_are_waited_for(
    agent_process: StartAgent, runtime: Runtime, tmp_path: Path
) -> None:
    place, ours = tmp_path / "var/lib/cni", tmp_path / "etc/cni/net.d"
    agent = agent_process(autoconf={"cniConfigDir": str(ours), "primaryDir": str(place / "net.d")})
    agent.wait_log("no configuration of the cluster's own plugin")
    place.mkdir(parents=True)
    runtime.put()
    runtime.folder.rename(place / "net.d")
    agent.wait_log(WRITTEN)
    assert (ours / "00-wirespeed.conflist").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_configuration_stays_when_the_agent_ends_however_it_does(
    start: StartAgent, runtime: Runtime, number: signal.Signals
) -> None:
    runtime.put()
    agent = start()
    agent.wait_log(WRITTEN)
    before = runtime.ours.read_bytes(), runtime.ours.stat().st_ino
    assert agent.stop(number) in {0, -number}
    assert (runtime.ours.read_bytes(), runtime.ours.stat().st_ino) == before


def test_next_agent_leaves_a_file_that_is_right_and_makes_up_for_what_it_missed(
    start: StartAgent, runtime: Runtime, tmp_path: Path
) -> None:
    runtime.put()
    first = start(folder=tmp_path / "a")
    first.wait_log(WRITTEN)
    inode = runtime.ours.stat().st_ino
    first.stop(signal.SIGKILL)
    second = start(folder=tmp_path / "a")
    assert second.stop() == 0
    assert not any(WRITTEN in line for line in second.log)
    assert runtime.ours.stat().st_ino == inode
    runtime.put({"type": "bridge", "capabilities": {"ips": True}})
    start(folder=tmp_path / "a").wait_log(WRITTEN)
    assert runtime.plugin()["capabilities"] == {"ips": True}


def test_file_that_somebody_removes_or_changes_is_restored(start: StartAgent, runtime: Runtime) -> None:
    runtime.put()
    agent = start()
    agent.wait_log(WRITTEN)
    good = runtime.ours.read_bytes()
    runtime.ours.unlink()
    agent.wait_log("another program changed or removed it", str(runtime.ours))
    assert runtime.ours.read_bytes() == good
    runtime.ours.write_text("")
    agent.wait_log("another program changed or removed it")
    assert runtime.ours.read_bytes() == good


def test_several_files_are_written_each_in_its_form(start: StartAgent, runtime: Runtime) -> None:
    runtime.put()
    agent = start(files=["00-wirespeed.conflist", "00-multus.conf"], networkName="multus-cni-network")
    agent.wait_log(WRITTEN, "00-multus.conf")
    single = json.loads((runtime.folder / "00-multus.conf").read_bytes())
    assert (single["name"], single["type"]) == ("multus-cni-network", "wirespeed")
    assert runtime.plugin() == {k: v for k, v in single.items() if k not in {"cniVersion", "name"}}


def test_nothing_is_written_before_the_primary_says_that_it_is_ready(
    start: StartAgent, runtime: Runtime, tmp_path: Path
) -> None:
    indicator = tmp_path / "run/flannel/subnet.env"
    runtime.put()
    agent = start(indicator=indicator)
    agent.wait_log(f"has not created the file {indicator} yet; none is written")
    assert not runtime.ours.exists()
    indicator.parent.mkdir(parents=True)
    indicator.touch()
    agent.wait_log(WRITTEN)
    indicator.unlink()
    agent.wait_log(f"has not created the file {indicator} yet; {runtime.ours} stays")
    assert runtime.ours.exists()


def test_runtime_that_reads_the_file_gets_the_primarys_network_as_it_is_at_that_time(
    world: World, runtime: Runtime
) -> None:
    runtime.put(world.bridge("10.4.0.0/24"))
    world.agent.stop()
    world.restart(autoconf={"cniConfigDir": str(runtime.folder)})
    world.agent.wait_log(WRITTEN)
    document = json.loads(runtime.ours.read_bytes())
    for version in document["cniVersions"]:
        config = {**document["plugins"][0], "name": document["name"], "cniVersion": version}
        pod = world.pod(f"p{version}", "bridged")
        assert world.add(pod, config)["cniVersion"] == version
        assert list(pod.addresses()) == ["eth0", "net1"]
        assert pod.addresses()["eth0"][0].startswith("10.4.0.")
    inode = runtime.ours.stat().st_ino
    runtime.put(world.bridge("10.5.0.0/24"))
    pod = world.pod("later")
    world.add(pod, config)
    assert pod.addresses() == {"eth0": ["10.5.0.2/24"]}
    assert runtime.ours.stat().st_ino == inode


def test_status_says_at_once_that_the_primary_is_no_more_ready(world: World) -> None:
    indicator = world.folder / "ready"
    world.agent.stop()
    world.restart(readinessIndicatorFile=str(indicator))
    answer = world.runtime("STATUS")
    assert (answer.status, answer.body["code"]) == (1, Code.UNAVAILABLE)
    assert f"has not created the file {indicator} yet" in answer.body["msg"]
    indicator.touch()
    assert world.runtime("STATUS") == DONE


def test_file_that_the_runtime_would_not_take_is_warned_of(start: StartAgent, runtime: Runtime) -> None:
    runtime.put(name="00-cilium.conflist")
    start().wait_log("00-wirespeed.conflist comes after", "00-cilium.conflist by name: the runtime uses the latter")


def test_reader_never_finds_half_a_file(start: StartAgent, runtime: Runtime) -> None:
    runtime.put()
    agent = start()
    agent.wait_log(WRITTEN)
    stop, read = threading.Event(), set()

    def reading() -> None:
        while not stop.is_set():
            read.add(json.dumps(json.loads(runtime.ours.read_bytes())["plugins"][0].get("capabilities")))

    reader = threading.Thread(target=reading)
    reader.start()
    try:
        until(lambda: "null" in read, "read at first")
        for number in range(50):
            runtime.put({"type": "bridge", "capabilities": {f"c{number}": True}})
            agent.wait_log(WRITTEN)
            until(lambda number=number: f'{{"c{number}": true}}' in read, f"read number {number}")  # type: ignore[misc]
    finally:
        stop.set()
        reader.join(PATIENCE)
    assert len(read) == 51


def test_bad_configuration_ends_the_agent_with_what_was_expected(
    agent_process: StartAgent, runtime: Runtime
) -> None:
    agent = agent_process(ready=False, autoconf={"cniConfigDir": "net.d"})
    agent.wait_log('key "autoconf.cniConfigDir": expected an absolute path')
    assert agent.process.wait(PATIENCE) == 1


def test_folder_that_cannot_be_watched_is_looked_at_all_the_same(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(inotify, "Watch", refused)
    monkeypatch.setattr(changes, "POLL_INTERVAL", 0.01)
    writer = Autoconf(NodeConfig(autoconf=AutoconfConfig(cni_config_dir=str(runtime.folder))))
    stop = threading.Event()
    thread = threading.Thread(target=writer.run, args=(stop,))
    thread.start()
    try:
        runtime.put()
        until(runtime.ours.exists, "written")
    finally:
        stop.set()
        thread.join(PATIENCE)
    assert not thread.is_alive()

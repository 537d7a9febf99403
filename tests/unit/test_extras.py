"""The extras of pyproject.toml: what works without them, and the error of what does not."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from wirespeed import extras
from wirespeed.agent import client, frame
from wirespeed.cli.main import main
from wirespeed.cni.errors import Code
from wirespeed.cni.request import Request
from wirespeed.devices.pci import PciDevice
from wirespeed.errors import Error, Kind
from wirespeed.node import Node, NodeConfig, VhostConfig
from wirespeed.state.journal import ClaimStep, DeviceClaim

ROOT = Path(__file__).parents[2]
MODULES = sorted({module for modules in extras.MODULES.values() for module in modules})
HIDE = f"import sys; sys.modules.update(dict.fromkeys({MODULES}))\n"
PATIENCE = 30.0
BEFORE = {"pf": "0000:03:00.0", "index": 0, "driver": "igbvf", "settings": {}}  # snapshot of a VF

# The modules that import what only an extra installs, by that extra. Nothing else may.
NEEDY = {
    "metrics": {"wirespeed.agent.metrics"},
    "ovs": {
        "wirespeed.switches.appctl",
        "wirespeed.switches.ovsdb",
        "wirespeed.plugins.sriov.bridge",
        "wirespeed.plugins.vhost.ovs",
    },
    "play": {f"wirespeed.play.{name}" for name in ("command", "play", "pod", "report", "screen")}
    | {"wirespeed.measure.played"},
    "provision": {
        *(f"wirespeed.provision.{name}" for name in ("eswitch", "facts", "hold", "plan", "udev", "vdpa")),
        "wirespeed.observe.topology",
    },
    "vpp": {"wirespeed.plugins.vhost.vpp"},
}
FAILED_IMPORTS = """
import importlib, json, pkgutil
import wirespeed
failed = []
for module in pkgutil.walk_packages(wirespeed.__path__, "wirespeed."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            assert error.name.partition(".")[0] in sys.modules, error
            failed.append(module.name)
print(json.dumps(failed))
"""


def distribution(module: str) -> str:
    """The name of the distribution that has the module, as pyproject.toml and the locks write it."""
    return packages_distributions()[module][0].replace("_", "-")


def error(extra: str, user: str, *modules: str) -> str:
    missing = ", ".join(modules or extras.MODULES[extra])
    return (
        f"{user} needs Python packages that are not installed ({missing}); "
        f"expected the extra {extra}: pip install 'wirespeed[{extra}]'"
    )


def without_extras(*arguments: str) -> list[str]:
    """The `wirespeed` command in a process that finds none of the extras' packages."""
    return [sys.executable, "-c", f"{HIDE}from wirespeed.cli.main import main; main()", *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = without_extras(*arguments)
    return subprocess.run(done, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE)


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Hide the packages of an extra from this process."""

    def hidden(extra: str) -> None:
        for module in extras.MODULES[extra]:
            monkeypatch.setitem(sys.modules, module, None)

    return hidden


# What is declared


def test_extras_are_those_of_the_project_and_development_has_all() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    first, *_ = project.pop("dev")
    assert first == f"wirespeed[{','.join(sorted(extras.MODULES))}]"
    declared = {extra: {re.split("[<>=]", each)[0] for each in listed} for extra, listed in project.items()}
    assert declared == {extra: set(map(distribution, modules)) for extra, modules in extras.MODULES.items()}


def test_image_has_the_packages_of_every_extra() -> None:
    lock = (ROOT / "deploy/images/requirements.lock").read_text()
    locked = {line.partition("==")[0] for line in lock.splitlines() if "==" in line}
    assert set(map(distribution, MODULES)) <= locked
    listed = re.search(r"(?m)^EXTRAS := (.*)$", (ROOT / "Makefile").read_text())
    assert listed is not None
    assert listed[1].split() == sorted(extras.MODULES)


def test_installation_page_names_every_extra() -> None:
    text = (ROOT / "docs/install.md").read_text()
    assert [extra for extra in extras.MODULES if f"| `{extra}` |" not in text] == []


# Without any extra


def test_only_modules_that_need_an_extra_import_its_packages() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HIDE + FAILED_IMPORTS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(json.loads(done.stdout)) == set().union(*NEEDY.values())


@contextmanager
def agent(folder: Path, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """An agent without any extra; its log is on standard error."""
    (folder / "manifests").mkdir()
    keys = {
        "socket": str(folder / "agent.sock"),
        "state": str(folder / "state.db"),
        "attachments": str(folder / "attachments"),
        "cluster": {"manifests": str(folder / "manifests")},
        "sysfs": str(folder / "sys"),
        "kubelet": str(folder),
        "devinfo": str(folder),
        "leases": str(folder / "leases"),
        "runtimes": [],
        **more,
    }
    (folder / "agent.yaml").write_text(json.dumps(keys))
    command = without_extras("agent", "--config", str(folder / "agent.yaml"))
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_agent_attaches_vfs_without_any_extra(tmp_path: Path) -> None:
    """An ADD of the meta-plugin gets as far as the VF, which this node does not have."""
    master = {"cniVersion": "1.0.0", "name": "data", "type": "sriov", "deviceID": "0000:03:02.1"}
    conf = {"cniVersion": "1.0.0", "name": "pods", "type": "wirespeed", "delegates": [master]}
    variables = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/proc/self/ns/net",
        "CNI_NETNS_OVERRIDE": "1",
        "CNI_IFNAME": "net9",
        "CNI_PATH": str(tmp_path),
    }
    with agent(tmp_path) as process:
        assert process.stderr is not None
        while "ready" not in (line := process.stderr.readline()):
            assert line, "the agent has ended"
        call = frame.Call("wirespeed", variables, json.dumps(conf).encode())
        status, answer = client.call_agent(str(tmp_path / "agent.sock"), call, timeout=PATIENCE)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    body = json.loads(answer)
    assert (status, body["code"]) == (1, Code.DEVICE)
    assert "0000:03:02.1" in body["msg"]


def test_commands_that_need_no_extra_run_without_any(tmp_path: Path) -> None:
    network = {"cniVersion": "1.0.0", "name": "n", "type": "wirespeed-vhost"}
    network["host"] = {"engine": "ovs-dpdk", "iftype": "vhostuser"}  # type: ignore[assignment]
    (tmp_path / "network.json").write_text(json.dumps(network))
    pools = tmp_path / "pools.json"
    pools.write_text('{"resourceList": [{"resourceName": "a", "selectors": {"vendors": ["8086"]}}]}')
    for arguments in (
        ["--help"],
        ["version"],
        ["check", str(tmp_path / "network.json")],
        ["deviceplugin", "--dry-run", "--pools", str(pools)],
        ["eal", "--podinfo", str(tmp_path)],
        ["measure", "--help"],
        ["play", "--help"],
        ["top", "--once", "--interval", "100ms"],
        ["topology", "--help"],
        ["vf", "list", "--help"],
    ):
        done = run(*arguments)
        assert done.returncode == 0, done.stderr


# With one extra missing


def test_agent_with_metrics_does_not_start_without_their_extra(tmp_path: Path) -> None:
    with agent(tmp_path, metrics="127.0.0.1:0") as process:
        _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert error("metrics", 'configuration: key "metrics"') in log
    assert "Traceback" not in log
    assert not (tmp_path / "state.db").exists()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    switches = VhostConfig(
        ovsdb=f"unix:{tmp_path}/db.sock", vpp=str(tmp_path / "api.sock"), sockets=str(tmp_path / "sockets")
    )
    made = Node(NodeConfig(state=str(tmp_path / "state.db"), leases=str(tmp_path / "leases"), vhost=switches))
    yield made
    made.close()


def request(verb: str, config: dict[str, Any]) -> Request:
    return Request(command=verb, container_id="c" * 64, netns="/proc/self/ns/net", ifname="net1", config=config)


def vhost(engine: str) -> dict[str, Any]:
    host = {"engine": engine, "iftype": "vhostuser", "netType": "bridge", "bridge": {"bridgeName": "4"}}
    ipam = {"type": "host-local", "subnet": "10.1.0.0/24"}
    return {"cniVersion": "1.1.0", "name": "net", "type": "wirespeed-vhost", "host": host, "ipam": ipam}


SWITCHED = {
    "cniVersion": "1.1.0",
    "name": "net",
    "type": "wirespeed-sriov",
    "deviceID": "0000:03:02.1",
    "bridge": "b",
}
PORTS = {
    "ovs-dpdk": ("vhost", "ovs", "engine ovs-dpdk", vhost("ovs-dpdk")),
    "vpp": ("vhost", "vpp", "engine vpp", vhost("vpp")),
    "bridge": ("sriov", "ovs", 'key "bridge"', SWITCHED),
}


@pytest.mark.parametrize("port", PORTS)
def test_add_without_the_extra_is_refused_and_changes_nothing(
    port: str, node: Node, hide: Callable[[str], None], tmp_path: Path
) -> None:
    name, extra, user, config = PORTS[port]
    hide(extra)
    plugin = node.plugin(name)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(Error) as refused:
        plugin.add(request("ADD", config))
    assert (refused.value.kind, refused.value.msg) == (Kind.UNAVAILABLE, error(extra, user))
    plugin.delete(request("DEL", config))  # the runtime's answer to a refusal
    assert list(node.journal.claims()) == []
    assert set(os.listdir(tmp_path)) <= {*before, "locks"}
    with pytest.raises(Error) as unavailable:
        plugin.status(request("STATUS", config))
    assert (unavailable.value.kind, unavailable.value.msg) == (Kind.UNAVAILABLE, error(extra, user))


def test_port_whose_extra_was_removed_is_kept_for_later(node: Node, hide: Callable[[str], None]) -> None:
    claim = _claim("ovs-dpdk:port", "vhost", {"engine": "ovs-dpdk", "port": "port", "socket": "", "folder": None})
    node.journal.claim(claim)
    hide("ovs")
    node.plugin("vhost").delete(request("DEL", vhost("ovs-dpdk")))
    assert [each.step for each in node.journal.claims()] == ["removing"]


def test_vf_with_a_port_whose_extra_was_removed_is_restored_and_kept(
    node: Node, hide: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    restored = []

    def restore(device: PciDevice, *_: object, **__: object) -> None:
        restored.append(device.address)

    monkeypatch.setattr("wirespeed.plugins.sriov.sriov.restore", restore)
    monkeypatch.setattr("wirespeed.plugins.sriov.representor.put_back", lambda *_: None)
    record = {
        "wanted": {"settings": {}},
        "before": BEFORE,
        "port": {"bridge": "b", "before": {"index": 1, "up": True, "mtu": 1500}},
    }
    node.journal.claim(_claim("0000:03:02.1", "sriov", record))
    hide("ovs")
    node.plugin("sriov").delete(request("DEL", SWITCHED))
    assert restored == ["0000:03:02.1"]
    assert [each.step for each in node.journal.claims()] == ["removing"]


def _claim(device: str, plugin: str, record: dict[str, Any]) -> DeviceClaim:
    from wirespeed.kernel.netns import Identity

    return DeviceClaim(
        device=device,
        plugin=plugin,
        container="c" * 64,
        ifname="net1",
        netns="/proc/self/ns/net",
        identity=Identity(0, 0, 0),
        record={"network": "net", "deviceInfo": "", "files": [], **record},
        step=ClaimStep.ATTACHED,
    )


def test_play_without_its_extra_is_refused(hide: Callable[[str], None], tmp_path: Path) -> None:
    hide("play")
    told = CliRunner().invoke(main, ["play", "--cni-conf", str(tmp_path), str(tmp_path)])
    assert (told.exit_code, told.output) == (1, f"Error: {error('play', 'wirespeed play')}\n")


def test_measuring_between_pods_of_a_play_is_refused_without_its_extra(hide: Callable[[str], None]) -> None:
    hide("play")
    told = CliRunner().invoke(main, ["measure", "--network", "left"])
    assert (told.exit_code, told.output) == (1, f"Error: {error('play', 'wirespeed measure --network')}\n")


@pytest.mark.parametrize(
    "arguments",
    [["list"], ["list", "--json"], ["create", "e", "4"], ["destroy", "e"], ["bind", "e#0", "--driver", "vfio-pci"]],
)
@pytest.mark.parametrize("module", ["pyroute2", "pyudev", "rich"])
def test_vf_commands_without_their_extra_are_refused(
    module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    told = CliRunner().invoke(main, ["vf", *arguments])
    assert (told.exit_code, told.output) == (1, f"Error: {error('provision', 'wirespeed vf', module)}\n")

"""containerd creates pods with the configuration written by the agent and with the shim as its plugin."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from tests.node import containerd
from tests.node.containerd import Containerd
from tests.node.pods import PLUGINS, World


@pytest.fixture
def runtime(world: World, tmp_path: Path) -> Iterator[Containerd]:
    """The runtime of the world's node, started once the agent has written its configuration."""
    folder = tmp_path / "containerd"
    for made in ("net.d", "bin"):
        (folder / made).mkdir(parents=True)
    for plugin in ("bridge", "host-local", "loopback", "ptp"):
        shutil.copy(PLUGINS / plugin, folder / "bin")
    shutil.copy(world.shim, folder / "bin/wirespeed")
    primary = world.conflist("pods", world.bridge("10.1.0.0/24", "0.0.0.0/0"))
    (folder / "net.d/10-pods.conflist").write_text(json.dumps(primary))
    restart(world, folder)
    world.agent.wait_log("CNI configuration written")
    with containerd.running(folder, world.node, {"WIRESPEED_SOCKET": str(world.agent.socket)}) as started:
        assert started.network_is_ready()
        yield started


def restart(world: World, folder: Path, number: int = signal.SIGTERM) -> None:
    """End the agent by a signal, and start another that writes the configuration into the runtime's directory."""
    world.agent.stop(number)
    world.restart(autoconf={"cniConfigDir": str(folder / "net.d")})


def addresses(runtime: Containerd, sandbox: str) -> dict[str, str]:
    """The first address of each interface of a sandbox, without lo."""
    links = runtime.netns(sandbox).links()
    return {name: link["addr_info"][0]["local"] for name, link in links.items() if name != "lo"}


def nothing_left(world: World) -> bool:
    return not world.rows() and not world.leases() and not world.veths()


def test_pod_has_its_networks_and_its_address_is_that_of_eth0(world: World, runtime: Containerd) -> None:
    world.pod("web", "bridged, ptp")
    sandbox = runtime.run("web")
    assert addresses(runtime, sandbox) == {"eth0": "10.1.0.2", "net1": "10.2.0.2", "net2": "10.3.0.2"}
    assert runtime.address(sandbox) == "10.1.0.2"
    runtime.stop(sandbox)
    assert nothing_left(world)


def test_pod_whose_network_is_not_there_is_refused_with_the_reason(world: World, runtime: Containerd) -> None:
    world.pod("web", "bridged, absent")
    with pytest.raises(grpc.RpcError) as refused:
        runtime.run("web")
    assert "default/absent" in refused.value.details()
    assert nothing_left(world)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_pod_that_another_agent_attached_is_taken_away(world: World, runtime: Containerd, number: int) -> None:
    world.pod("web", "bridged")
    sandbox = runtime.run("web")
    restart(world, runtime.folder, number)
    assert runtime.network_is_ready()
    runtime.stop(sandbox)
    assert nothing_left(world)


def test_pod_that_is_stopped_while_there_is_no_agent_waits_for_the_next(world: World, runtime: Containerd) -> None:
    world.pod("web", "bridged")
    sandbox = runtime.run("web")
    assert world.agent.stop() == 0
    with ThreadPoolExecutor() as pool:
        stopping = pool.submit(runtime.stop, sandbox)
        world.restart(autoconf={"cniConfigDir": str(runtime.folder / "net.d")})
        stopping.result()
    assert nothing_left(world)


def test_many_pods_come_and_go_at_once(world: World, runtime: Containerd) -> None:
    names = [f"p{number}" for number in range(12)]
    for name in names:
        world.pod(name, "bridged, ptp")
    with ThreadPoolExecutor(len(names)) as pool:
        sandboxes = list(pool.map(runtime.run, names))
        assert len({runtime.address(sandbox) for sandbox in sandboxes}) == len(names)
        list(pool.map(runtime.stop, sandboxes))
    assert nothing_left(world)

"""Chains in directories, and what a configuration allows, with executed plugins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.node.calling import DONE
from tests.node.pods import Config, Pod, World


def put(world: World, name: str, content: Config) -> Path:
    path = world.folder / "net.d" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def by_path(world: World, **more: Any) -> Config:
    """A configuration whose master is a conflist in a file, with these additional keys."""
    bridge = world.bridge("10.4.0.0/24", "0.0.0.0/0")
    path = put(world, "10-pods.conflist", world.conflist("filed", bridge))
    config = {key: value for key, value in world.config.items() if key != "delegates"}
    return {**config, "clusterNetwork": str(path), **more}


def sysctl(pod: Pod, key: str) -> str:
    return pod.netns.run("sysctl", "-n", key).strip()


# Without IFNAME in `sysctl`: tuning replaces it in ADD, but not in CHECK.
TUNING = {"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}}
_PASS_ON = "import glob, json, sys; print(json.dumps(json.load(open(max(glob.glob(sys.argv[1]))))['prevResult']))"


def passing(world: World, name: str) -> None:
    """Install a script that answers ADD with its prevResult."""
    calls = world.folder / "calls" / f"[0-9]*-{name}" / "stdin"
    world.script(name, f'[ $CNI_COMMAND = ADD ] && exec python3 -c "{_PASS_ON}" "{calls}"')


def test_plugin_in_the_lists_folder_runs_after_it_until_del_whatever_becomes_of_its_file(world: World) -> None:
    passing(world, "last")
    tuning, last = put(world, "filed/1.conf", TUNING), put(world, "filed/2.conf", {"type": "last"})
    config = by_path(world)
    pod = world.pod("p", "bridged")
    world.add(pod, config)
    assert pod.addresses() == {"eth0": ["10.4.0.2/24"], "net1": ["10.2.0.2/24"]}
    assert [sysctl(pod, f"net.ipv4.conf.{ifname}.arp_filter") for ifname in ("eth0", "net1")] == ["1", "0"]
    environ, stdin = world.calls("last", "ADD")[0]
    assert environ["CNI_IFNAME"] == "eth0"
    assert stdin["prevResult"]["ips"][0]["address"] == "10.4.0.2/24"
    tuning.unlink()
    last.unlink()
    assert world.call("CHECK", pod, config) == DONE
    assert world.call("DEL", pod, config) == DONE
    world.nothing_left(pod)
    assert [environ["CNI_COMMAND"] for environ, _ in world.calls("last")] == ["ADD", "CHECK", "DEL"]


def test_chain_beside_the_master_runs_last_and_is_no_network_of_the_pod(world: World) -> None:
    world.script("last")
    put(world, "vendor/1.conf", TUNING)
    put(world, "vendor/2.conf", {"type": "last"})
    config = by_path(world, auxiliaryCNIChainName="vendor")
    pod = world.pod("p", "bridged")
    world.add(pod, config)
    assert sorted(pod.links()) == ["eth0", "net1"]
    assert sysctl(pod, "net.ipv4.conf.eth0.arp_filter") == "1"
    environ, stdin = world.calls("last", "ADD")[0]
    assert (environ["CNI_IFNAME"], stdin["name"]) == ("eth0", "vendor")
    status = world.status(pod)
    assert status is not None
    assert [entry["interface"] for entry in status] == ["eth0", "net1"]
    assert world.call("CHECK", pod, config) == DONE
    assert world.call("DEL", pod, config) == DONE
    world.nothing_left(pod)
    assert len(world.calls("last", "DEL")) == 1


def test_chain_beside_the_master_that_fails_undoes_the_pod(world: World) -> None:
    world.script("last")
    world.fail("last", "ADD", {"code": 110, "msg": "broken"})
    put(world, "vendor/1.conf", {"type": "last"})
    pod = world.pod("p", "bridged")
    code, message = world.refused("ADD", pod, by_path(world, auxiliaryCNIChainName="vendor"))
    assert (code, message) == (110, "pod default/p: network vendor: plugin last: broken")
    world.nothing_left(pod)


def test_interfaces_are_numbered_from_net0_where_the_configuration_says_so(world: World) -> None:
    config = {**world.config, "firstInterface": 0}
    pod = world.pod("p", "bridged,ptp")
    world.add(pod, config)
    assert pod.addresses() == {"eth0": ["10.1.0.2/24"], "net0": ["10.2.0.2/24"], "net1": ["10.3.0.2/24"]}
    assert world.call("DEL", pod, config) == DONE
    world.nothing_left(pod)


def test_mac_reaches_a_bridge_without_the_capability_where_the_configuration_is_lenient(world: World) -> None:
    pod = world.pod("p", [{"name": "bridged", "mac": "02:00:00:00:00:55"}])
    assert world.refused("ADD", pod)[0] == 106
    world.nothing_left(pod)
    world.add(pod, {**world.config, "lenientCapabilities": ["mac"]})
    assert pod.links()["net1"]["address"] == "02:00:00:00:00:55"
    assert world.call("CHECK", pod) == DONE
    assert world.call("DEL", pod) == DONE
    world.nothing_left(pod)


def test_network_speaks_its_newest_version_and_is_not_checked_or_collected_where_it_says_so(world: World) -> None:
    world.script("side")
    world.script("quiet")
    several = {"cniVersion": "0.4.0", "cniVersions": ["0.4.0", "1.1.0"], "plugins": [{"type": "side"}]}
    world.define("several", several)
    world.define("quiet", {"cniVersion": "1.1.0", "type": "quiet", "disableCheck": True, "disableGC": True})
    pod = world.pod("p", "several,quiet")
    world.add(pod)
    assert world.call("CHECK", pod) == DONE
    assert world.runtime("GC", [(pod.container, "eth0")]) == DONE
    assert world.call("DEL", pod) == DONE
    assert [environ["CNI_COMMAND"] for environ, _ in world.calls("side")] == ["ADD", "CHECK", "GC", "DEL"]
    assert {config["cniVersion"] for _, config in world.calls("side")} == {"1.1.0"}
    assert [environ["CNI_COMMAND"] for environ, _ in world.calls("quiet")] == ["ADD", "DEL"]

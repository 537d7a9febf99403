"""After a reboot, the resources of earlier pods are released: by DEL, by GC, and by the agent itself.

A reboot is simulated: the agent is killed, /run and the pods' network namespaces are deleted, and the records on
disk get another boot ID.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.node import containerd
from tests.node.calling import DONE
from tests.node.conftest import ROOT, Netns
from tests.node.containerd import Containerd
from tests.node.pods import PLUGINS, Config, Pod, World
from wirespeed.cni import result as results
from wirespeed.cni.errors import Code
from wirespeed.kernel.boot import boot_id
from wirespeed.kernel.netns import Identity
from wirespeed.kube import rpc
from wirespeed.kube.proto import cri_pb2 as cri
from wirespeed.plugins.meta.delegate import Delegate, planned_rows
from wirespeed.state.records import Records

VF = "0000:03:02.1"


def power_off(world: World, pods: Sequence[Pod | Netns] = (), *, same_kernel: bool = False) -> None:
    """Remove everything that does not survive a reboot, without any call."""
    world.agent.stop(signal.SIGKILL)
    shutil.rmtree(world.agent.state.parent)
    for pod in pods:
        (pod if isinstance(pod, Netns) else pod.netns).delete()
    if not same_kernel:
        for record in world.records.iterdir():
            record.write_text(record.read_text().replace(boot_id(), "8c8d9a52-0000-4000-8000-000000000000"))


def reboot(world: World, *pods: Pod, same_kernel: bool = False, **config: Any) -> None:
    power_off(world, pods, same_kernel=same_kernel)
    world.restart(**config)


def records(world: World) -> list[str]:
    return sorted(path.name for path in world.records.iterdir())


# DEL and GC


@pytest.mark.parametrize("same_kernel", [False, True])
def test_delete_after_a_reboot_gives_back_what_every_network_held(world: World, same_kernel: bool) -> None:
    world.script("whole")
    world.define("whole", {"cniVersion": "1.0.0", "type": "whole", "capabilities": {"mac": True}})
    pod = world.pod("p", [{"name": "bridged"}, {"name": "ptp"}, {"name": "whole", "mac": "02:00:00:00:00:09"}])
    world.add(pod)
    assert records(world) == ["c-p"]
    reboot(world, pod, same_kernel=same_kernel)
    assert set(world.leases()) == {"10.1.0.2", "10.2.0.2", "10.3.0.2"}
    assert world.call("DEL", pod) == DONE
    assert (world.leases(), world.rows(), records(world)) == ({}, {}, [])
    ((environ, given),) = world.calls("whole", "DEL")
    assert "CNI_NETNS" not in environ
    assert (environ["CNI_CONTAINERID"], environ["CNI_IFNAME"]) == ("c-p", "net3")
    assert "K8S_POD_NAME=p" in environ["CNI_ARGS"]
    assert given["runtimeConfig"] == {"mac": "02:00:00:00:00:09"}
    assert [each["name"] for each in given["prevResult"]["interfaces"]] == ["net3"]
    assert world.call("DEL", pod) == DONE


def test_delete_after_a_reboot_stays_out_of_whatever_has_the_path_of_the_namespace(world: World) -> None:
    pod = world.pod("p", "bridged,ptp")
    world.add(pod)
    reboot(world, pod)
    pod.netns.add()
    pod.netns.run("ip", "link", "add", "net1", "type", "bridge")
    assert world.call("DEL", pod) == DONE
    assert (list(pod.links()), world.leases(), world.rows()) == (["net1"], {}, {})


def test_delete_whose_journal_alone_is_gone_takes_the_interfaces_away_too(world: World) -> None:
    pod = world.pod("p", "bridged,ptp")
    world.add(pod)
    reboot(world, same_kernel=True)
    assert world.call("CHECK", pod) == DONE
    assert world.call("DEL", pod) == DONE
    world.nothing_left(pod)


def test_delete_after_a_reboot_that_fails_in_one_network_is_finished_by_the_next(world: World) -> None:
    world.script("held")
    world.define("held", {"cniVersion": "1.0.0", "type": "held"})
    pod = world.pod("p", "bridged,held,ptp")
    world.add(pod)
    reboot(world, pod)
    world.fail("held", "DEL", {"code": 11, "msg": "locked"})
    assert world.refused("DEL", pod) == (11, "network default/held (net2): plugin held: locked")
    assert (world.leases(), world.rows()) == ({}, {("c-p", "net2"): "deleting"})
    reboot(world)
    assert world.refused("DEL", pod)[0] == 11
    world.fail("held", "DEL", None)
    assert world.call("DEL", pod) == DONE
    assert (world.rows(), records(world)) == ({}, [])


def test_gc_after_a_reboot_collects_what_the_runtime_no_longer_has(world: World) -> None:
    kept, gone = world.pod("kept", "bridged"), world.pod("gone", "bridged,ptp")
    world.add(kept)
    world.add(gone)
    reboot(world, kept, gone)
    assert world.runtime("GC", [("c-kept", "eth0")]) == DONE
    assert set(world.leases().values()) == {"c-kept eth0", "c-kept net1"}
    assert records(world) == ["c-kept"]


def test_container_that_comes_back_under_its_id_is_given_what_it_had(world: World) -> None:
    pod = world.pod("p", "bridged,ptp")
    world.add(pod)
    reboot(world, pod)
    pod.netns.add()
    world.add(pod)
    assert len(world.leases()) == 3
    assert world.call("CHECK", pod) == DONE
    assert world.call("DEL", pod) == DONE
    world.nothing_left(pod)
    assert records(world) == []


def test_attachments_of_an_agent_that_kept_no_records_are_recorded_by_the_next(world: World) -> None:
    pod = world.pod("p", "bridged,ptp")
    world.add(pod)
    world.agent.stop()
    shutil.rmtree(world.records)
    world.restart()
    reboot(world, pod)
    assert world.call("DEL", pod) == DONE
    assert world.leases() == {}


def test_network_that_was_attached_later_is_given_back_after_a_reboot(world: World) -> None:
    pod = world.pod("p", "bridged")
    world.add(pod)
    for verb in ("attach", "detach", "attach"):
        command = (sys.executable, "-m", "wirespeed", verb, "--config", str(world.agent.config), "p", "ptp")
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert len(world.leases()) == 3
    reboot(world, pod)
    assert world.call("DEL", pod) == DONE
    assert (world.leases(), records(world)) == ({}, [])


def test_call_without_an_agent_gives_back_what_one_before_the_reboot_took(world: World) -> None:
    pod = world.pod("p", "bridged,ptp")

    def alone(verb: str) -> None:
        subprocess.run(
            ["nsenter", f"--net={world.node.path}", sys.executable, "-m", "wirespeed", "cni", "meta"],
            input=json.dumps(world.config).encode(),
            env={
                **os.environ,
                **world.environ(verb, pod),
                "WIRESPEED_CONFIG": str(world.agent.config),
            },
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    world.agent.stop()
    alone("ADD")
    assert len(world.leases()) == 3
    world.restart()
    power_off(world, [pod])
    alone("DEL")
    assert (world.leases(), records(world)) == ({}, [])


# Devices


def device_network(world: World, *kinds: str) -> Pod:
    """A pod with a network of executed plugins; the first one has a device and an IPAM plugin."""
    for kind in (*kinds, "leaser"):
        world.script(kind)
    plugins: list[Config] = [{"type": kind} for kind in kinds]
    plugins[0] |= {"deviceID": VF, "ipam": {"type": "leaser"}}
    world.define("device", world.conflist("device", *plugins))
    pod = world.pod("p", "device")
    world.add(pod)
    return pod


def test_device_of_before_a_reboot_is_left_alone_and_its_addresses_are_given_back(world: World) -> None:
    pod = device_network(world, "ib-sriov", "after")
    reboot(world, pod)
    assert world.call("DEL", pod) == DONE
    assert world.calls("ib-sriov", "DEL") == []
    ((environ, given),) = world.calls("leaser", "DEL")
    assert (environ["CNI_CONTAINERID"], environ["CNI_IFNAME"]) == ("c-p", "net1")
    assert given["ipam"] == {"type": "leaser"}
    assert "prevResult" in given
    assert len(world.calls("after", "DEL")) == 1


def test_device_of_this_boot_is_given_back_by_its_plugin_though_the_journal_is_lost(world: World) -> None:
    pod = device_network(world, "ib-sriov")
    reboot(world, pod, same_kernel=True)
    assert world.call("DEL", pod) == DONE
    assert len(world.calls("ib-sriov", "DEL")) == 1
    assert world.calls("leaser", "DEL") == []  # that plugin calls its IPAM plugin itself


@pytest.mark.parametrize("there", [True, False])
def test_addresses_of_a_vf_of_before_a_reboot_are_given_back_by_their_plugin_or_stay_recorded(
    world: World, there: bool
) -> None:
    """The SR-IOV plugin has no claim on the VF any more; only the record shows that it had addresses."""
    if there:
        world.script("leaser")
    delegate = Delegate(
        configuration="cluster",
        request_ifname="eth0",
        label="default/vf",
        raw={"cniVersion": "1.0.0", "name": "vf", "type": "sriov", "ipam": {"type": "leaser"}},
        version="1.0.0",
        ifname="net1",
        device=VF,
        path=(str(world.bin),),
    )
    pod = world.pod("p")
    (row,) = planned_rows([delegate], container=pod.container, netns=pod.netns.path, identity=Identity(4, 5, 6))
    result = {**results.empty(), "ips": [{"address": "10.4.0.2/24"}]}
    Records(world.records).add([replace(row, result=result)])
    reboot(world, pod)
    if there:
        assert world.call("DEL", pod) == DONE
        ((environ, _),) = world.calls("leaser")
        assert (environ["CNI_COMMAND"], environ["CNI_CONTAINERID"]) == ("DEL", "c-p")
    else:
        code, message = world.refused("DEL", pod)
        assert code == Code.INVALID_CONFIG
        assert message.startswith(
            'network default/vf (net1): plugin sriov: ipam leaser: no executable "leaser" in '
        )
    assert records(world) == ([] if there else ["c-p"])


@pytest.mark.parametrize("rebooted", [False, True])
def test_host_devices_addresses_are_given_back_without_its_namespace(world: World, rebooted: bool) -> None:
    """Without a network namespace, host-device does nothing and does not call its IPAM plugin."""
    world.node.run("ip", "link", "add", "card", "type", "veth", "peer", "name", "cable")
    config = {"cniVersion": "1.0.0", "type": "host-device", "device": "card", "ipam": world.ipam("10.4.0.0/24")}
    world.define("card", {**config, "name": "card"})
    pod = world.pod("p", "card")
    world.add(pod)
    assert set(world.leases()) == {"10.1.0.2", "10.4.0.2"}
    if rebooted:
        reboot(world, pod)
    else:
        pod.netns.delete()
    assert world.call("DEL", pod) == DONE
    assert world.leases() == {}


# Records that cannot be written or read


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """In the body, the directory is on a file system without free space."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "full", folder], check=True)
    try:
        (folder / ".filler").write_bytes(bytes(4096))
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_full_disk_is_told_before_anything_is_made(world: World) -> None:
    pod = world.pod("p", "bridged")
    with full_disk(world.records):
        code, message = world.refused("ADD", pod)
        assert (code, message) == (
            Code.IO_FAILURE,
            f"pod default/p: record {world.records}/c-p: No space left on device",
        )
        assert (world.rows(), world.leases(), pod.links()) == ({}, {}, {})
        assert not (world.records / "c-p").exists()
        status, body = world.runtime("STATUS")
        assert (status, body["code"]) == (1, Code.UNAVAILABLE)
        assert body["msg"] == f"records {world.records}: No space left on device"
    world.add(pod)
    assert world.runtime("STATUS") == DONE


def test_disk_that_is_full_later_keeps_no_pod(world: World) -> None:
    pod = world.pod("p", "bridged")
    world.add(pod)
    kept = (world.records / "c-p").read_bytes()
    with full_disk(world.records):
        assert world.call("DEL", pod) == DONE
    (world.records / "c-p").write_bytes(kept)
    world.nothing_left(pod)
    world.agent.stop()
    world.restart()
    assert world.call("DEL", pod) == DONE
    assert records(world) == []


def test_damaged_record_is_logged_and_concerns_nobody_else(world: World) -> None:
    pods = [world.pod(name, "bridged") for name in ("bad", "cut", "empty", "good")]
    for pod in pods:
        world.add(pod)
    power_off(world, pods)
    bad, cut, empty = (world.records / f"c-{name}" for name in ("bad", "cut", "empty"))
    bad.write_bytes(b'\xff{"ifname"\n{"ifname":"net1","record":{"delegate":5},"result":{}}\n')
    cut.write_bytes(cut.read_bytes()[:-100])  # without the result of its last network
    empty.write_bytes(bytes(4096))
    world.restart()
    world.agent.wait_log(f"record {bad}, line 1: cannot be read")
    world.agent.wait_log("record of container c-bad: net1 cannot be used")
    assert world.rows() == {
        **dict.fromkeys([("c-good", "eth0"), ("c-good", "net1"), ("c-cut", "eth0")], "added"),
        ("c-cut", "net1"): "adding",
    }
    for pod in pods:
        assert world.call("DEL", pod) == DONE
    assert (world.leases(), records(world)) == ({}, [])
    later = world.pod("later", "bridged")
    world.add(later)


def lose_content(*files: Path) -> None:
    """Leave what ext4 has of new files after a power failure: it commits their names before their content."""
    for file in files:
        file.write_bytes(b"")


def lease_files(world: World, container: str) -> list[Path]:
    files = (world.folder / "leases").glob("*/*[0-9]")
    return [file for file in files if file.read_bytes().startswith(container.encode())]


def test_power_failure_soon_after_an_add_loses_no_address(world: World) -> None:
    lost, kept = world.pod("lost", "bridged,ptp"), world.pod("kept", "bridged")
    world.add(kept)
    world.add(lost)
    power_off(world, [lost, kept])
    files = lease_files(world, "c-lost")
    assert len(files) == 3
    lose_content(world.records / "c-lost", *files)
    world.restart()
    for file in sorted(files):
        world.agent.wait_log(f"leases in {file.parent}: {file.name} has no content, and is released")
    assert {owner.split()[0] for owner in world.leases().values()} == {"c-kept"}
    assert world.call("DEL", lost) == DONE
    assert records(world) == ["c-kept"]
    assert world.call("DEL", kept) == DONE
    assert (world.leases(), records(world)) == ({}, [])


def test_agent_collects_a_container_whose_record_was_lost_if_the_runtime_does_not_know_it(
    world: World, tmp_path: Path
) -> None:
    pods = [world.pod(name, "bridged,ptp") for name in ("known", "lost")]
    for pod in pods:
        world.add(pod)
    power_off(world, pods)
    lose_content(world.records / "c-known", world.records / "c-lost")
    with serving(tmp_path / "cri.sock", Runtime("c-known")):
        world.restart(runtimes=[str(tmp_path / "cri.sock")])
        collected(world, "c-lost")
    assert {owner.split()[0] for owner in world.leases().values()} == {"c-known"}
    assert records(world) == ["c-known"]
    assert world.call("DEL", pods[0]) == DONE
    assert (world.leases(), records(world)) == ({}, [])


def test_locked_leases_do_not_keep_the_agent_from_starting(world: World) -> None:
    pod = world.pod("p", "bridged")
    world.add(pod)
    (folder,) = {file.parent for file in lease_files(world, "c-p") if file.parent.name == "bridged"}
    world.agent.stop()
    with (folder / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        world.restart()
        world.agent.wait_log(f"leases in {folder}: the lock was not free before the deadline", "are not released")
    assert world.call("DEL", pod) == DONE


# The agent queries the runtime


class Runtime:
    """A runtime with a list of sandboxes."""

    def __init__(self, *sandboxes: str) -> None:
        self.sandboxes = sandboxes

    def Version(self, request: Any, context: grpc.ServicerContext) -> Any:
        return cri.VersionResponse(runtime_name="made", runtime_version="1")

    def ListPodSandbox(self, request: Any, context: grpc.ServicerContext) -> Any:
        return cri.ListPodSandboxResponse(items=[cri.PodSandbox(id=each) for each in self.sandboxes])


@contextmanager
def serving(socket: Path, implementation: Runtime | None) -> Iterator[None]:
    """Serve the CRI at the socket, or a server without it (None)."""
    service = cri.DESCRIPTOR.services_by_name["RuntimeService"]
    handlers = [] if implementation is None else [rpc.handler(service, implementation)]
    with ThreadPoolExecutor(2) as workers:
        server = grpc.server(workers, handlers=handlers)
        server.add_insecure_port(f"unix:{socket}")
        server.start()
        yield
        server.stop(None).wait()


def collected(world: World, *containers: str) -> None:
    """Wait until the agent has collected these containers."""
    for container in sorted(containers):
        world.agent.wait_log("served", "COLLECT", container)


def test_agent_collects_what_the_runtime_does_not_know_after_a_reboot(world: World, tmp_path: Path) -> None:
    pods = [world.pod(name, "bridged,ptp") for name in ("known", "lost1", "lost2")]
    for pod in pods:
        world.add(pod)
    with serving(tmp_path / "cri.sock", Runtime("c-known")):
        reboot(world, *pods, runtimes=[str(tmp_path / "absent.sock"), str(tmp_path / "cri.sock")])
        collected(world, "c-lost1", "c-lost2")
    assert {owner.split()[0] for owner in world.leases().values()} == {"c-known"}
    assert records(world) == ["c-known"]
    assert world.call("DEL", pods[0]) == DONE
    assert (world.leases(), records(world)) == ({}, [])


def test_what_has_a_network_namespace_is_never_collected(world: World, tmp_path: Path) -> None:
    """A sandbox that is being created is not in the runtime's list, and the agent is restarted meanwhile."""
    making, gone = world.pod("making", "bridged"), world.pod("gone", "bridged")
    world.add(making)
    world.add(gone)
    gone.netns.delete()
    world.agent.stop()
    with serving(tmp_path / "cri.sock", Runtime()):
        world.restart(runtimes=[str(tmp_path / "cri.sock")])
        collected(world, "c-gone")
    assert {container for container, _ in world.rows()} == {"c-making"}
    assert world.call("CHECK", making) == DONE


def test_nothing_is_collected_before_every_runtime_answers(world: World, tmp_path: Path) -> None:
    pod = world.pod("p", "bridged,ptp")
    world.add(pod)
    deaf = tmp_path / "deaf.sock"
    deaf.write_bytes(b"")  # nobody is listening
    with serving(tmp_path / "cri.sock", Runtime()):
        reboot(world, pod, runtimes=[str(tmp_path / "cri.sock"), str(deaf)])
        world.agent.wait_log(f"the runtime does not answer on {deaf}: UNAVAILABLE", "1 removed containers")
        assert len(world.leases()) == 3
        deaf.unlink()
        collected(world, "c-p")
    assert world.leases() == {}


def test_nothing_is_collected_where_there_is_no_kubelets_runtime(world: World, tmp_path: Path) -> None:
    pod = world.pod("p", "bridged")
    world.add(pod)
    other, later = tmp_path / "other.sock", tmp_path / "later.sock"
    with serving(other, None):
        reboot(world, pod, runtimes=[str(other), str(later)])
        world.agent.wait_log(f"no runtime has a socket at {other}, {later}")
        assert len(world.leases()) == 2
        with serving(later, Runtime()):
            collected(world, "c-p")
    assert world.leases() == {}


def test_what_fails_as_it_is_collected_is_tried_again(world: World, tmp_path: Path) -> None:
    world.script("held")
    world.define("held", {"cniVersion": "1.0.0", "type": "held"})
    pod = world.pod("p", "bridged,held")
    world.add(pod)
    world.fail("held", "DEL", {"code": 11, "msg": "locked"})
    with serving(tmp_path / "cri.sock", Runtime()):
        reboot(world, pod, runtimes=[str(tmp_path / "cri.sock")])
        world.agent.wait_log("not everything of it is released", "plugin held: locked")
        assert (world.leases(), world.rows()) == ({}, {("c-p", "net2"): "deleting"})
        world.fail("held", "DEL", None)
        collected(world, "c-p")
    assert (world.rows(), records(world)) == ({}, [])


# containerd


@pytest.fixture
def folder(world: World, tmp_path: Path) -> Path:
    """containerd's directory, with the plugins and the configuration written by the agent."""
    world.node.run("ip", "link", "set", "lo", "up")  # containerd listens on it too
    made = tmp_path / "containerd"
    for each in ("net.d", "bin"):
        (made / each).mkdir(parents=True)
    for plugin in ("bridge", "host-local", "loopback", "ptp"):
        shutil.copy(PLUGINS / plugin, made / "bin")
    shutil.copy(world.shim, made / "bin/wirespeed")
    primary = world.conflist("pods", world.bridge("10.1.0.0/24", "0.0.0.0/0"))
    (made / "net.d/10-pods.conflist").write_text(json.dumps(primary))
    world.agent.stop()
    world.restart(autoconf={"cniConfigDir": str(made / "net.d")})
    world.agent.wait_log("CNI configuration written")
    return made


def runtime(world: World, folder: Path, root: str) -> AbstractContextManager[Containerd]:
    """A containerd that uses the data of an earlier one in `root`."""
    environ = {"WIRESPEED_SOCKET": str(world.agent.socket)}
    return containerd.running(folder, world.node, environ, root=folder / root)


def holders(world: World) -> list[str]:
    """The container of each lease."""
    return sorted(owner.split()[0] for owner in world.leases().values())


def at_once(call: Callable[..., Any], *each: Sequence[Any]) -> list[Any]:
    with ThreadPoolExecutor(len(each[0])) as pool:
        return list(pool.map(call, *each))


def ten_pods(world: World, started: Containerd) -> tuple[list[str], list[str], list[Netns]]:
    """Names, sandboxes and network namespaces of ten running pods, each with eth0 and two more networks."""
    names = [f"p{number}" for number in range(10)]
    for name in names:
        world.pod(name, "bridged,ptp")
    sandboxes = at_once(started.run, names)
    assert holders(world) == sorted(sandboxes * 3)
    return names, sandboxes, [started.netns(sandbox) for sandbox in sandboxes]


@pytest.mark.parametrize("same_kernel", [False, True])
def test_reboot_of_a_node_with_containerd_loses_no_address(world: World, folder: Path, same_kernel: bool) -> None:
    """containerd calls DEL for its earlier sandboxes when the kubelet creates new ones, and never calls GC."""
    with runtime(world, folder, "root") as before:
        names, old, namespaces = ten_pods(world, before)
    power_off(world, namespaces, same_kernel=same_kernel)
    assert holders(world) == sorted(old * 3)
    world.restart(autoconf={"cniConfigDir": str(folder / "net.d")})

    with runtime(world, folder, "root") as after:

        def begin_anew(name: str, sandbox: str) -> str:
            after.stop(sandbox)
            return after.run(name, attempt=1)

        new = at_once(begin_anew, names, old)
        assert holders(world) == sorted(new * 3)
        assert records(world) == sorted(new)
        at_once(after.stop, new)
    assert (world.leases(), world.rows(), records(world), world.veths()) == ({}, {}, [], [])


def test_addresses_that_containerd_has_forgotten_are_collected_by_the_agent(world: World, folder: Path) -> None:
    """containerd has lost its state and calls neither DEL nor GC. Running pods keep their addresses."""
    with runtime(world, folder, "root") as before:
        names, old, namespaces = ten_pods(world, before)
    power_off(world, namespaces)
    world.restart(autoconf={"cniConfigDir": str(folder / "net.d")})
    with runtime(world, folder, "another") as after:
        new = at_once(after.run, names)
        assert holders(world) == sorted([*old, *new] * 3)
        world.agent.stop()
        world.restart(autoconf={"cniConfigDir": str(folder / "net.d")}, runtimes=[str(folder / "containerd.sock")])
        collected(world, *old)
        assert holders(world) == sorted(new * 3)
        at_once(after.stop, new)
    assert (world.leases(), world.rows(), records(world)) == ({}, {}, [])


def test_boot_is_told_by_the_kernel() -> None:
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", boot_id())

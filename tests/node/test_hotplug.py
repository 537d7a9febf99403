"""Networks of running pods are attached and detached by command, with executed plugins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.calling import DONE, Events, Gate
from tests.node.conftest import PATIENCE, ROOT
from tests.node.pods import Pod, World


def begin(world: World, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "wirespeed", *arguments, "--config", str(world.agent.config)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told(process: subprocess.Popen[str]) -> str:
    """The output of a command, which must succeed."""
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert (process.returncode, stderr) == (0, "")
    return stdout.strip()


def run(world: World, *arguments: str) -> str:
    return told(begin(world, *arguments))


def refused(world: World, *arguments: str) -> str:
    """The error message of a command, which must fail."""
    process = begin(world, *arguments)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert (process.returncode, stdout) == (1, "")
    return stderr.removeprefix("Error: ").strip()


def reported(world: World, pod: Pod) -> list[tuple[str, str]]:
    """(network, interface) for each entry of network-status."""
    return [(entry["name"], entry["interface"]) for entry in world.status(pod) or []]


@pytest.fixture
def pod(world: World) -> Pod:
    """An attached pod with eth0 and net1."""
    made = world.pod("p", "bridged")
    world.add(made)
    return made


@pytest.fixture
def events(tmp_path: Path) -> Iterator[Events]:
    with Events(tmp_path) as events:
        yield events


BOTH = [("pods", "eth0"), ("default/bridged", "net1")]


def test_network_that_is_attached_later_is_told_checked_and_removed_with_the_pod(world: World, pod: Pod) -> None:
    assert run(world, "attach", "p", "ptp") == "net2 10.3.0.2/24"
    assert pod.addresses() == {"eth0": ["10.1.0.2/24"], "net1": ["10.2.0.2/24"], "net2": ["10.3.0.2/24"]}
    assert reported(world, pod) == [*BOTH, ("default/ptp", "net2")]
    assert world.leases()["10.3.0.2"] == "c-p net2"
    assert world.call("CHECK", pod) == DONE
    pod.netns.run("ip", "link", "delete", "net2")
    assert world.refused("CHECK", pod)[0] != 0
    assert world.call("DEL", pod) == DONE
    assert world.nothing_left(pod)


def test_network_that_is_attached_later_is_known_to_gc(world: World, pod: Pod) -> None:
    run(world, "attach", "default/p", "default/ptp")
    assert world.runtime("GC", [(pod.container, "eth0")]) == DONE
    assert world.call("CHECK", pod) == DONE
    assert world.runtime("GC") == DONE
    assert world.nothing_left(pod)


def test_what_is_asked_of_a_network_reaches_it(world: World, pod: Pod) -> None:
    capable = {"type": "bridge", "bridge": "br9", "ipam": {"type": "static"}, "capabilities": {"ips": True}}
    world.define("asked", world.conflist("asked", {**capable, "capabilities": {"ips": True, "mac": True}}))
    element = {"name": "asked", "ips": ["10.9.0.7/24"], "mac": "02:00:00:00:00:99"}
    assert run(world, "attach", "p", json.dumps(element), "--interface", "late") == "late 10.9.0.7/24"
    link = pod.links()["late"]
    assert (link["address"], pod.addresses()["late"]) == ("02:00:00:00:00:99", ["10.9.0.7/24"])
    assert world.call("DEL", pod) == DONE
    assert world.nothing_left(pod)


def test_answer_in_json_has_the_network_its_interface_and_its_addresses(world: World, pod: Pod) -> None:
    attached = json.loads(run(world, "attach", "p", "ptp", "--json"))
    assert attached == {"network": "default/ptp", "interface": "net2", "ips": ["10.3.0.2/24"]}
    detached = json.loads(run(world, "detach", "p", "net2", "--json"))
    assert (detached["network"], detached["interface"]) == ("default/ptp", "net2")


def test_interface_has_the_first_name_that_is_free(world: World, pod: Pod) -> None:
    pod.netns.run("ip", "link", "add", "net2", "type", "bridge")
    assert run(world, "attach", "p", "ptp").split()[0] == "net3"
    assert run(world, "detach", "p", "net1") == "net1"
    assert run(world, "attach", "p", "bridged").split()[0] == "net1"
    assert run(world, "attach", "p", "bridged@mine").split()[0] == "mine"


def test_network_is_detached_by_its_name_or_its_interface_and_nothing_of_it_stays(world: World, pod: Pod) -> None:
    for what in ("ptp", "default/ptp", "net2"):
        run(world, "attach", "p", "ptp")
        assert run(world, "detach", "p", what) == "net2"
        assert sorted(pod.links()) == ["eth0", "net1"]
        assert reported(world, pod) == BOTH
        assert sorted(world.leases().values()) == ["c-p eth0", "c-p net1"]
        assert world.rows() == dict.fromkeys([("c-p", "eth0"), ("c-p", "net1")], "added")
    assert world.call("CHECK", pod) == DONE


def test_what_cannot_be_done_is_refused_and_nothing_is_changed(world: World, pod: Pod) -> None:
    run(world, "attach", "p", "bridged@again")
    rows, links, status = world.rows(), sorted(pod.links()), world.status(pod)
    refusals = {
        ("attach", "q", "ptp"): "pod default/q: not attached on this node",
        ("attach", "p", "absent"): "pod default/p: NetworkAttachmentDefinition default/absent: no manifest in ",
        ("attach", "p", "ptp@net1"): "pod default/p: network default/ptp (net1): network namespace ",
        ("attach", "p", "ptp,bridged"): "pod default/p: expected one network, got 2",
        ("attach", "p", "a b"): 'pod default/p: annotation k8s.v1.cni.cncf.io/networks: element 1: key "name": ',
        (
            "attach",
            "p",
            '{"name": "ptp", "mac": "02:00:00:00:00:01"}',
        ): "pod default/p: network default/ptp (net2): "
        'key "mac": no plugin of the network has the capability for it',
        ("attach", "p", '{"name": "ptp", "default-route": ["10.3.0.1"]}'): "pod default/p: network default/ptp: "
        'key "default-route": a running pod keeps its default routes',
        ("detach", "p", "eth0"): "pod default/p: network pods (eth0): it is detached only with the pod",
        ("detach", "p", "absent"): "pod default/p: it has neither an interface nor a network 'absent'",
        ("detach", "p", "bridged"): "pod default/p: it has network 'bridged' 2 times; expected net1 or again",
    }
    for arguments, message in refusals.items():
        assert refused(world, *arguments).startswith(message)
    assert (world.rows(), sorted(pod.links()), world.status(pod)) == (rows, links, status)


def test_isolation_of_the_day_of_add_holds(world: World) -> None:
    world.define("theirs", world.conflist("theirs", world.bridge("10.5.0.0/24")), namespace="other")
    pod = world.pod("p")
    world.add(pod, {**world.config, "namespaceIsolation": True})
    assert "namespaces are isolated" in refused(world, "attach", "p", "other/theirs")
    assert run(world, "attach", "p", "bridged") == "net1 10.2.0.2/24"


def test_attachment_that_fails_is_undone_and_the_others_stay(world: World, pod: Pod) -> None:
    world.script("last")
    world.fail("last", "ADD", {"code": 110, "msg": "broken"})
    world.define("chained", world.conflist("chained", world.bridge("10.4.0.0/24"), {"type": "last"}))
    rows = world.rows()
    message = refused(world, "attach", "p", "chained")
    assert message == "pod default/p: network default/chained (net2): plugin last: broken"
    assert world.rows() == rows
    assert sorted(pod.links()) == ["eth0", "net1"]
    assert "10.4.0.2" not in world.leases()
    assert reported(world, pod) == BOTH
    assert world.call("CHECK", pod) == DONE


def test_detachment_that_fails_is_finished_by_the_next_one_or_by_del(world: World, pod: Pod) -> None:
    world.script("side")
    world.define("side", {"cniVersion": "1.0.0", "type": "side"})
    for finish in (lambda: run(world, "detach", "p", "side"), lambda: world.call("DEL", pod)):
        run(world, "attach", "p", "side")
        world.fail("side", "DEL", {"code": 110, "msg": "stuck"})
        assert refused(world, "detach", "p", "side").endswith("plugin side: stuck")
        assert world.rows()["c-p", "net2"] == "deleting"
        assert reported(world, pod) == BOTH
        assert run(world, "attach", "p", "ptp").split()[0] == "net3"
        assert reported(world, pod) == [*BOTH, ("default/ptp", "net3")]
        run(world, "detach", "p", "net3")
        world.fail("side", "DEL", None)
        finish()
        assert ("c-p", "net2") not in world.rows()
    assert world.nothing_left(pod)


def test_calls_for_one_container_run_one_after_another(world: World, events: Events, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    held: dict[str, Any] = {"cniVersion": "1.0.0", "type": "probe"}
    world.define("held", {**held, "events": str(events.path), "gate": str(gate.path)})
    pod = world.pod("p", "bridged")
    world.add(pod)
    attaching = begin(world, "attach", "p", "held")
    assert events.next() == "begin ADD c-p"
    deleting = world.begin("DEL", pod)
    world.agent.wait_log("queued", "DEL", "c-p")
    gate.open()
    assert events.next() == "end ADD c-p"
    assert told(attaching) == "net2"
    assert events.next() == "begin DEL c-p"
    gate.open()
    assert deleting.answer() == DONE
    assert world.nothing_left(pod)


def test_delete_after_a_kill_within_an_attachment_leaves_nothing(
    world: World, events: Events, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    held: dict[str, Any] = {"type": "probe", "events": str(events.path), "gate": str(gate.path)}
    world.define("held", world.conflist("held", world.bridge("10.4.0.0/24"), held))
    pod = world.pod("p", "bridged")
    world.add(pod)
    attaching = begin(world, "attach", "p", "held")
    assert events.next() == "begin ADD c-p"
    assert world.agent.stop(signal.SIGKILL)
    assert attaching.wait(PATIENCE) == 1
    assert world.rows()["c-p", "net2"] == "adding"
    assert "net2" in pod.links()
    world.restart()
    deleting = world.begin("DEL", pod)
    assert events.next() == "begin DEL c-p"
    gate.open()
    assert deleting.answer() == DONE
    assert world.nothing_left(pod)


def test_pod_without_its_network_namespace_or_of_no_pod_gets_nothing(world: World, pod: Pod) -> None:
    other = world.pod("q")
    world.add(other, CNI_ARGS="")
    assert refused(world, "attach", "q", "ptp") == "pod default/q: not attached on this node"
    pod.netns.delete()
    assert refused(world, "attach", "p", "ptp") == "pod default/p: not attached on this node"
    assert world.call("DEL", pod) == DONE


def test_agent_that_is_not_there_is_told_of(world: World, pod: Pod) -> None:
    assert world.agent.stop() == 0
    assert refused(world, "attach", "p", "ptp").startswith(f"agent at {world.agent.socket}: ")

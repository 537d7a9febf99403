"""`wirespeed play` on this kernel: pods with eth0 from Debian's bridge plugin, each play on a node of its own."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import examples
from tests.node.conftest import PATIENCE, ROOT, Netns
from tests.node.plays import WAITS, Fifo, Manifest, Stage, container, give_back, pod, standing, waiting


@pytest.fixture
def stage(netns: Callable[[], Netns], tmp_path: Path, shim: Path) -> Iterator[Stage]:
    """A node to play on. Whatever the test does, nothing may be left on it."""
    with standing(netns(), tmp_path, shim) as made:
        yield made


def test_pods_reach_each_other_over_eth0(stage: Stage) -> None:
    server = waiting("server")
    client = pod("client", container(script="ping -c 2 -i 0.2 -w 30 10.99.0.2 && echo reached"))
    played = stage.play(server, client, options=("--in-order",))
    assert (played.status, played.stderr) == (0, "")
    assert "reached" in played.said("default/client/main")
    assert played.said("default/server/main") == ["up", "ended well"]
    assert [item["status"]["phase"] for item in played.told["items"]] == ["Succeeded", "Succeeded"]
    assert played.pod("server")["status"]["podIP"] == "10.99.0.2"


def test_interfaces_are_shown_as_network_status_tells_them(stage: Stage) -> None:
    played = stage.play(pod("one", container(script="cat /sys/class/net/eth0/address")))
    status = json.loads(played.pod("one")["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"])
    assert [(entry["name"], entry["interface"], entry["ips"]) for entry in status] == [
        ("pods", "eth0", ["10.99.0.2"])
    ]
    assert played.said("default/one/main") == [status[0]["mac"]]
    rows = [line for line in played.stdout.splitlines() if status[0]["mac"] in line]
    (row,) = (line for line in rows if "default/one/main" not in line)  # the container's own line may come first
    assert all(part in row for part in ("eth0", "pods", "10.99.0.2"))


def test_a_failed_pod_fails_the_play(stage: Stage) -> None:
    played = stage.play(pod("good", container(script="true")), pod("bad", container(script="exit 3")))
    assert played.status == 1
    assert played.stderr == "wirespeed play: pod default/bad: container main: exit status 3\n"
    assert [item["status"]["phase"] for item in played.told["items"]] == ["Succeeded", "Failed"]


def test_a_command_that_cannot_be_run_is_named(stage: Stage) -> None:
    played = stage.play(pod("bad", {"name": "main", "command": ["no-such-program"]}))
    assert played.status == 1
    assert "pod default/bad: container main: command no-such-program: No such file or directory" in played.stderr


def test_on_failure_runs_a_container_until_it_succeeds(stage: Stage) -> None:
    once = container(script="[ -e /work/seen ] || { touch /work/seen; exit 7; }")
    once["volumeMounts"] = [{"name": "work", "mountPath": "/work"}]
    played = stage.play(pod("again", once, policy="OnFailure", volumes=[{"name": "work", "emptyDir": {}}]))
    assert played.status == 0
    assert played.restarts("again") == 1


def test_always_runs_a_container_that_has_succeeded_again(stage: Stage) -> None:
    once = container(script=f"[ -e /work/seen ] && {{ touch /work/ready; {WAITS}; }}; touch /work/seen")
    once["volumeMounts"] = [{"name": "work", "mountPath": "/work"}]
    once["readinessProbe"] = {"exec": {"command": ["test", "-e", "/work/ready"]}, "periodSeconds": 1}
    manifest = pod("again", once, policy="Always", volumes=[{"name": "work", "emptyDir": {}}])
    played = stage.play(manifest, options=("--then", "true"))
    assert played.status == 0
    assert played.restarts("again") == 1


def test_a_container_that_crashes_at_the_end_is_told_of(stage: Stage) -> None:
    playing = stage.start(pod("loop", container(script="exit 9"), policy="Always"))
    playing.said("restarts 2")  # the first restart is immediate, the second after 10 s
    played = playing.signal(signal.SIGINT).ended()
    assert played.status == 1
    assert "pod default/loop was not ready when it was stopped: exit status 9, again in 10 s" in played.stderr


def test_init_containers_run_in_order_before_the_others(stage: Stage) -> None:
    steps = [
        container(name, f"echo {name} >> /work/steps; cat /work/steps") for name in ("first", "second", "third")
    ]
    for step in steps:
        step["volumeMounts"] = [{"name": "work", "mountPath": "/work"}]
    volumes = [{"name": "work", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]
    played = stage.play(pod("steps", steps[2], initContainers=steps[:2], volumes=volumes))
    assert played.status == 0
    assert played.said("default/steps/third") == ["first", "second", "third"]


def test_a_failing_init_container_keeps_the_others_from_running(stage: Stage) -> None:
    played = stage.play(pod("init", container(script="echo ran"), initContainers=[container("first", "exit 4")]))
    assert played.status == 1
    assert "pod default/init: init container first: exit status 4" in played.stderr
    assert played.said("default/init/main") == []


def test_variables_are_filled_in(stage: Stage) -> None:
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "colours"}, "data": {"sky": "blue"}}
    script = 'echo "$GREETING"; echo "$PATH $HOME $HOSTNAME"; hostname; grep told /etc/hosts | xargs; pwd'
    told = container(script=script)
    told["workingDir"] = "/some/where"
    told["env"] = [
        {"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "colours", "key": "sky"}}},
        {"name": "GREETING", "value": "$(COLOUR) at $(ADDRESS), not $$(COLOUR)"},
    ]
    played = stage.play(config_map, pod("told", told))
    assert played.said("default/told/main") == [
        "blue at 10.99.0.2, not $(COLOUR)",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /root told",
        "told",
        "10.99.0.2 told",
        "/some/where",
    ]


def test_volumes_are_mounted_as_asked_and_shared_in_the_pod(stage: Stage) -> None:
    host = stage.folder / "host"
    host.mkdir()
    (host / "given").write_text("given\n")
    volumes = [
        {"name": "shared", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "host", "hostPath": {"path": str(host), "type": "Directory"}},
        {"name": "texts", "configMap": {"name": "texts", "defaultMode": 0o755}},
    ]
    mounts = [{"name": name, "mountPath": f"/volumes/{name}"} for name in ("shared", "host", "texts")]
    script = "cd /volumes; texts/greet; cat host/given; echo back > host/made; stat -f -c %T shared"
    writer = container(
        "writer", f"mkfifo /volumes/shared/pipe; {script}; echo over > /volumes/shared/pipe", volumeMounts=mounts
    )
    reader = container("reader", "until [ -p /volumes/shared/pipe ]; do sleep 0.05; done; cat /volumes/shared/pipe")
    reader["volumeMounts"] = mounts[:1]
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "texts"}}
    config_map["data"] = {"greet": "#!/bin/sh\necho hello\n"}
    played = stage.play(config_map, pod("volumes", writer, reader, volumes=volumes))
    assert (played.status, played.stderr) == (0, "")
    assert played.said("default/volumes/writer") == ["hello", "given", "tmpfs"]
    assert played.said("default/volumes/reader") == ["over"]
    assert (host / "made").read_text() == "back\n"


def test_a_volume_tells_of_the_pod_and_of_networks_that_come_later(stage: Stage) -> None:
    """The annotations file has network-status before the container runs, and follows later attachments."""
    info = "/etc/podnetinfo"
    items = [
        {"path": key, "fieldRef": {"fieldPath": f"metadata.{key}"}}
        for key in ("labels", "annotations", "namespace")
    ]
    script = f"cat {info}/labels; echo; cat {info}/namespace; echo; grep -o eth0 {info}/annotations; echo begun; "
    script += f"until grep -q net1 {info}/annotations; do sleep 0.05; done; echo seen; touch {info}/x 2>/dev/null"
    tells = container(script=script + " || echo kept", volumeMounts=[{"name": "info", "mountPath": info}])
    manifest = pod("told", tells, volumes=[{"name": "info", "downwardAPI": {"items": items}}])
    manifest["metadata"]["labels"] = {"tier": 'the "first"', "app": "a"}
    later = {"cniVersion": "1.0.0", "type": "bridge", "bridge": "br0"}
    network = {
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": "later"},
        "spec": {"config": json.dumps(later)},
    }
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}
    playing = stage.start(namespace, network, manifest).said("not played, without effect here: Namespace", "begun")
    _, session = stage.agent()
    agent = f"/run/{session}/agent.json"
    subprocess.run(
        [sys.executable, "-m", "wirespeed", "attach", "--config", agent, "told", "later"], cwd=ROOT, check=True
    )
    played = playing.ended()
    assert (played.status, played.stderr) == (0, "")
    said = ['app="a"', 'tier="the \\"first\\""', "default", "eth0", "begun", "seen", "kept"]
    assert played.said("default/told/main") == said
    annotations = played.pod("told")["metadata"]["annotations"]
    status = json.loads(annotations["k8s.v1.cni.cncf.io/network-status"])
    assert [entry["interface"] for entry in status] == ["eth0", "net1"]


def test_read_only_mounts_refuse_writing(stage: Stage) -> None:
    host = stage.folder / "host"
    host.mkdir()
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "text"}, "data": {"key": "value"}}
    volumes = [{"name": "host", "hostPath": {"path": str(host)}}, {"name": "text", "configMap": {"name": "text"}}]
    writes = container(script="touch /host/made; echo $?; echo other > /text/key; cat /text/key")
    writes["volumeMounts"] = [
        {"name": "host", "mountPath": "/host", "readOnly": True},
        {"name": "text", "mountPath": "/text"},
    ]
    played = stage.play(config_map, pod("writes", writes, volumes=volumes))
    assert "1" in played.said("default/writes/main")
    assert played.said("default/writes/main")[-1] == "value"
    assert not (host / "made").exists()


def test_mount_paths_may_lead_through_links(stage: Stage) -> None:
    writes = container(script="echo here > /var/run/work/file; cat /run/work/file")
    writes["volumeMounts"] = [{"name": "work", "mountPath": "/var/run/work"}]
    played = stage.play(pod("writes", writes, volumes=[{"name": "work", "emptyDir": {}}]))
    assert played.said("default/writes/main") == ["here"]


def test_names_are_looked_up_as_the_node_does(stage: Stage) -> None:
    played = stage.play(pod("names", container(script="cat /etc/resolv.conf; echo end")))
    assert played.said("default/names/main") == [*Path("/etc/resolv.conf").read_text().splitlines(), "end"]


def test_a_host_path_of_another_type_is_refused(stage: Stage) -> None:
    volumes = [{"name": "host", "hostPath": {"path": "/etc/hostname", "type": "Directory"}}]
    played = stage.play(pod("host", container(script="true"), volumes=volumes))
    assert played.status == 1
    assert "pod default/host: volume host: hostPath /etc/hostname: expected a Directory" in played.stderr


def test_a_container_has_devices_processes_and_a_file_system_of_its_own(stage: Stage) -> None:
    secret = f"/etc/{stage.mark}"
    listings = "ls /dev | paste -sd' '; echo $$$$; ls /proc | grep -c '^[0-9]'; ls /sys/class/net | paste -sd' '"
    script = f"{listings}; touch {secret}; ls {secret}; ls /run /tmp"
    played = stage.play(pod("alone", container(script=script)))
    said = played.said("default/alone/main")
    assert said[0] == "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert said[1] == "1"  # the command is PID 1 of its namespace
    assert int(said[2]) <= 4
    assert said[3] == "eth0 lo"
    assert said[4] == secret
    assert said[5:] == ["/run:", "", "/tmp:"]
    assert not Path(secret).exists()


def test_standard_input_is_empty_or_stays_open_as_asked(stage: Stage) -> None:
    reads = container(script="head -c 1; echo read")
    waits = container(script="echo waits; head -c 1; echo read", stdin=True)
    playing = stage.start(pod("empty", reads), pod("open", waits))
    playing.said("empty/main | read", "open/main | waits", "pod default/empty: Succeeded")
    assert playing.signal(signal.SIGINT).ended().said("default/open/main") == ["waits"]


def test_a_pod_is_ready_when_its_probe_says_so(stage: Stage) -> None:
    shared = [{"name": "shared", "hostPath": {"path": str(stage.folder)}}]
    mounts = [{"name": "shared", "mountPath": "/shared"}]
    slow = container(script=f"sleep 1; touch /shared/works; touch /tmp/ready; {WAITS}", volumeMounts=mounts)
    slow["readinessProbe"] = {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1}
    next_one = container(script="ls /shared/works", volumeMounts=mounts)
    played = stage.play(
        pod("slow", slow, policy="Always", volumes=shared),
        pod("next", next_one, volumes=shared),
        options=("--in-order",),
    )
    assert played.status == 0
    assert played.said("default/next/main") == ["/shared/works"]


def test_a_pod_is_ready_once_it_has_started_and_no_sooner(stage: Stage) -> None:
    both = container(script=f"sleep 1; touch /tmp/started; {WAITS}")
    both["startupProbe"] = {"exec": {"command": ["test", "-e", "/tmp/started"]}, "periodSeconds": 1}
    # Fails forever if it is run before the startup probe has succeeded.
    both["readinessProbe"] = {
        "exec": {"command": ["sh", "-c", "[ -e /tmp/started ] || touch /tmp/early; [ ! -e /tmp/early ]"]},
        "periodSeconds": 30,
    }
    played = stage.play(pod("both", both, policy="Always"), options=("--then", "true"))
    assert played.status == 0, played.stderr


def test_a_container_that_does_not_start_in_time_is_ended(stage: Stage) -> None:
    never = container(script=WAITS)
    never["startupProbe"] = {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1}
    played = stage.play(pod("never", never, policy="Never"))
    assert "container main: its startup probe fails: ended" in played.stdout
    assert played.said("default/never/main") == ["up", "ended well"]


def test_in_order_a_failed_pod_keeps_those_after_it_from_starting(stage: Stage) -> None:
    bad = pod("bad", container(script="true"), initContainers=[container("first", "exit 1")])
    played = stage.play(bad, pod("next", container(script="echo ran")), options=("--in-order",))
    assert played.status == 1
    assert "pod default/bad: it failed: those after it are not started" in played.stderr
    assert played.pod("next")["status"]["phase"] == "Pending"
    assert played.said("default/next/main") == []


def test_a_command_is_run_when_all_pods_are_ready(stage: Stage) -> None:
    command = "grep -o 'netns/wirespeed-play-[a-z0-9_]*-1-one' $PODS; grep -o '\"podIP\": \"[0-9.]*' $PODS"
    played = stage.play(waiting("one"), options=("--then", command))
    assert played.status == 0
    lines = [line for line in played.stdout.splitlines() if line.startswith("then | ")]
    assert re.fullmatch(r"then \| netns/wirespeed-play-\w+-1-one", lines[0])
    assert lines[1] == 'then | "podIP": "10.99.0.2'


def test_a_command_that_fails_fails_the_play(stage: Stage) -> None:
    played = stage.play(waiting("one"), options=("--then", "exit 5"))
    assert played.status == 1
    assert played.stderr == "wirespeed play: the command ended with 5: exit 5\n"


def test_the_time_of_a_play_may_be_bounded(stage: Stage) -> None:
    played = stage.play(pod("long", container(script=WAITS)), options=("--timeout", "6"))
    assert played.status == 124
    assert "pod default/long had not ended after 6 s" in played.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_the_end_of_pods_that_do_not_end(stage: Stage, number: int) -> None:
    playing = stage.start(waiting("one"), waiting("two"))
    playing.said("two/main | up", "one/main | up")
    played = playing.signal(number).ended()
    assert (played.status, played.stderr) == (0, "")
    assert played.said("default/one/main") == ["up", "ended well"]


def test_a_signal_cuts_off_pods_that_were_to_end(stage: Stage) -> None:
    playing = stage.start(pod("job", container(script=WAITS)))
    playing.said("job/main | up")
    assert playing.signal(signal.SIGINT).ended().status == 128 + signal.SIGINT


def test_a_signal_while_an_init_container_runs(stage: Stage) -> None:
    first = container("first", WAITS)
    playing = stage.start(pod("init", container(script="echo ran"), initContainers=[first]))
    playing.said("init/first | up")
    played = playing.signal(signal.SIGTERM).ended()
    assert played.status == 128 + signal.SIGTERM
    assert played.said("default/init/main") == []


def test_a_signal_while_a_pod_is_attached_undoes_the_attachment(stage: Stage) -> None:
    begun, gate, calls = Fifo(stage.folder / "begun"), Fifo(stage.folder / "gate"), stage.folder / "calls"
    waits = f"echo > {begun.path}; head -n 1 {gate.path}"
    stage.write_plugin(f"echo $CNI_COMMAND >> {calls}; [ $CNI_COMMAND != ADD ] || {{ {waits}; }}")
    playing = stage.start(waiting("one"))
    begun.heard()
    playing.signal(signal.SIGINT).said("SIGINT: stopping all pods")
    gate.tell()
    played = playing.ended()
    assert (played.status, played.stderr, played.said("default/one/main")) == (0, "", [])
    assert calls.read_text().split() == ["ADD", "DEL"]


def test_a_signal_while_the_agent_starts(stage: Stage) -> None:
    playing = stage.start(pod("one", container(script="echo ran")))
    end = os.pidfd_open(playing.process.pid)
    while not stage.processes().keys() - {playing.process.pid}:
        assert not select.select([end], [], [], 0)[0], "ended before its agent"
    os.close(end)
    played = playing.signal(signal.SIGINT).ended()
    assert played.status == 128 + signal.SIGINT
    assert played.said("default/one/main") == []


def test_a_play_goes_on_when_nobody_reads_what_it_says(stage: Stage) -> None:
    gate = Fifo(stage.folder / "gate")
    talks = container(script="echo up; head -n 1 /gate/gate; seq 100000; exit 3")
    talks["volumeMounts"] = [{"name": "gate", "mountPath": "/gate"}]
    volumes = [{"name": "gate", "hostPath": {"path": str(stage.folder)}}]
    playing = stage.start(pod("talks", talks, volumes=volumes))
    playing.said("talks/main | up")
    playing.stop_reading()
    gate.tell()
    played = playing.ended()
    assert played.status == 1
    assert played.stderr == "wirespeed play: pod default/talks: container main: exit status 3\n"
    log = playing.told.parent / "logs/default_talks_main.log"
    assert log.read_text().splitlines()[-1] == "100000"


def test_containers_that_do_not_end_are_killed_after_the_grace_period(stage: Stage) -> None:
    deaf = container(script="trap '' TERM; echo up; while :; do sleep 0.1; done")
    playing = stage.start(pod("deaf", deaf, policy="Always", terminationGracePeriodSeconds=1))
    playing.said("deaf/main | up")
    played = playing.signal(signal.SIGINT).ended()
    assert played.status == 0
    assert played.pod("deaf")["status"]["containerStatuses"][0]["state"] == {"terminated": {"exitCode": 137}}


def test_a_second_signal_kills_at_once(stage: Stage) -> None:
    deaf = container(script="trap 'echo asked' TERM; echo up; while :; do sleep 0.1; done")
    playing = stage.start(pod("deaf", deaf, policy="Always", terminationGracePeriodSeconds=1000))
    playing.said("deaf/main | up")
    playing.signal(signal.SIGINT).said("deaf/main | asked")
    played = playing.signal(signal.SIGINT).ended()
    assert played.pod("deaf")["status"]["containerStatuses"][0]["state"] == {"terminated": {"exitCode": 137}}


@pytest.mark.parametrize("policy", ["Never", "Always"])
def test_a_plugin_that_refuses_ends_the_play(stage: Stage, policy: str) -> None:
    error = '{"cniVersion": "1.0.0", "code": 42, "msg": "no room on this bridge"}'
    stage.write_plugin(f"[ $CNI_COMMAND != ADD ] || {{ echo '{error}'; exit 1; }}")
    played = stage.play(pod("one", container(script="echo ran"), policy=policy))
    assert played.status == 1
    assert re.search(
        r"^wirespeed play: pod default/one: plugin wirespeed: .*no room on this bridge", played.stderr, re.M
    )
    assert played.said("default/one/main") == []


def test_a_failing_del_is_told_and_all_else_is_taken_back(stage: Stage) -> None:
    error = '{"cniVersion": "1.0.0", "code": 42, "msg": "it will not go"}'
    may_go = stage.folder / "may_go"
    stage.write_plugin(f"[ $CNI_COMMAND != DEL ] || [ -e {may_go} ] || {{ echo '{error}'; exit 1; }}")
    played = stage.play(pod("one", container(script="true")))
    assert played.status == 1
    assert re.search(r"pod default/one: DEL: .*it will not go", played.stderr)
    assert "the journal still has eth0 of pod default/one" in played.stderr
    session = played.pod("one")["metadata"]["annotations"]["wirespeed.play/netns"].split("/")[-1].rsplit("-", 2)[0]
    assert not Path("/run", session).exists()
    may_go.touch()
    give_back(stage, session)


def test_an_agent_that_dies_is_told_and_another_detaches_its_pods(stage: Stage) -> None:
    playing = stage.start(waiting("one"))
    playing.said("one/main | up")
    os.kill(stage.agent()[0], signal.SIGKILL)
    played = playing.ended()
    assert played.status == 1
    assert played.stderr.startswith("wirespeed play: the agent ended with -9")
    assert played.said("default/one/main") == ["up", "ended well"]


def test_containers_and_agent_end_with_a_play_that_is_killed(stage: Stage) -> None:
    playing = stage.start(waiting("one"))
    playing.said("one/main | up")
    _, session = stage.agent()
    running = stage.processes()
    assert any("/bin/sh" in command for command in running.values())
    ends = [os.pidfd_open(pid) for pid in running]
    playing.process.kill()
    for end in ends:
        assert select.select([end], [], [], PATIENCE)[0], "a process outlives the play"
        os.close(end)
    # Only what no process holds is left, and can be cleaned up.
    give_back(stage, session)
    subprocess.run(["ip", "netns", "delete", f"{session}-1-one"], check=True)
    shutil.rmtree(Path("/run", session))


def test_two_plays_at_once_do_not_meet(stage: Stage) -> None:
    both = [stage.start(waiting("same")) for _ in range(2)]
    for playing in both:
        playing.said("same/main | up")
    played = [playing.signal(signal.SIGINT).ended() for playing in both]
    assert [(each.status, each.stderr) for each in played] == [(0, ""), (0, "")]
    assert played[0].pod("same")["status"]["podIP"] != played[1].pod("same")["status"]["podIP"]


@pytest.mark.parametrize(
    ("manifest", "told"),
    [
        (
            {**pod("bad", container(script="true")), "kind": "Deployment"},
            'key "kind": expected Pod, NetworkAttachmentDefinition, ConfigMap or List',
        ),
        (
            pod("bad", container(script="true"), hostNetwork=True),
            'key "spec.hostNetwork": `wirespeed play` does not support it',
        ),
        (
            pod("bad", container(script="true", resources={"limits": {"intel.com/vf": 1}})),
            "pods request intel.com/vf",
        ),
        (
            pod("bad", container(script="true", resources={"limits": {"hugepages-3Mi": "3Mi", "memory": "1Mi"}})),
            "hugepages-3Mi: this node has no pages",
        ),
    ],
    ids=["kind", "host-network", "resource", "hugepages"],
)
def test_what_cannot_be_played_is_refused_before_anything_is_done(
    stage: Stage, manifest: Manifest, told: str
) -> None:
    calls = stage.folder / "calls"
    stage.write_plugin(f"echo $CNI_COMMAND >> {calls}")
    played = stage.play(pod("good", container(script="echo ran")), manifest)
    assert played.status == 1
    assert told in played.stderr
    assert (played.stdout, played.told) == ("", {})
    assert not calls.exists()


def test_a_resource_that_is_only_counted_is_warned_of_and_the_pod_is_played(stage: Stage) -> None:
    resource = "bridge.network.kubevirt.io/br1"
    ipam = {"type": "host-local", "dataDir": str(stage.folder / "leases"), "subnet": "10.98.0.0/24"}
    config = {"type": "bridge", "bridge": "br0", "ipam": ipam}
    network = {
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": "net", "annotations": {"k8s.v1.cni.cncf.io/resourceName": resource}},
        "spec": {"config": json.dumps(config)},
    }
    wants = pod("wants", container(script="ip -o link show net1", resources={"limits": {resource: 1}}))
    wants["metadata"]["annotations"] = {"k8s.v1.cni.cncf.io/networks": "net"}
    played = stage.play(network, wants)
    assert played.stderr == (
        f"wirespeed play: warning: resource {resource}: no device plugin serves it, so pods are given no device\n"
    )
    assert played.status == 0
    assert "net1" in played.said("default/wants/main")[0]


def test_a_pod_whose_devices_are_not_there_is_not_admitted_and_none_is_started(stage: Stage) -> None:
    config = {"resourceList": [{"resourceName": "none", "selectors": {"vendors": ["ffff"]}}]}
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "pools"}}
    config_map["data"] = {"config.json": json.dumps(config)}
    wants = container(script="true", resources={"limits": {"intel.com/none": 1}})
    played = stage.play(config_map, pod("good", container(script="echo ran")), pod("wants", wants))
    assert played.status == 1
    assert played.stderr == (
        "wirespeed play: pod default/wants: not admitted: container main: resource intel.com/none: "
        "1 requested, 0 free (0 devices, 0 healthy, 0 allocated)\n"
    )
    assert played.said("default/good/main") == []


def test_containers_have_of_an_applications_image_what_tells_it_of_its_pod(stage: Stage) -> None:
    # The host's directory of userspace-CNI; libcni creates its parent for root only.
    host = stage.folder / "cni"
    host.mkdir(mode=0o700)
    mounts = [{"name": "cni", "mountPath": "/var/lib/cni"}]
    script = "wirespeed eal --memory 0; wirespeed ready; echo status $?; command -v wirespeed"
    asked = container(script=script, volumeMounts=mounts)
    asked["readinessProbe"] = {"exec": {"command": ["wirespeed", "ready"]}}
    asked["securityContext"] = {"runAsUser": 65534, "readOnlyRootFilesystem": True}
    played = stage.play(pod("app", asked, volumes=[{"name": "cni", "hostPath": {"path": str(host)}}]))
    assert played.status == 0, played.stderr
    arguments, nobody, status, where = played.said("default/app/main")
    assert arguments.endswith("--file-prefix=ws-app --no-pci")
    assert nobody.startswith("no DPDK application runs here")
    assert (status, where) == ("status 1", "/usr/local/bin/wirespeed")


def test_a_volume_where_an_image_has_its_program_is_the_containers(stage: Stage) -> None:
    (stage.folder / "host").mkdir()
    mounted = container(
        script="ls -A /usr/local/bin", volumeMounts=[{"name": "own", "mountPath": "/usr/local/bin"}]
    )
    own = [{"name": "own", "hostPath": {"path": str(stage.folder / "host")}}]
    played = stage.play(pod("app", mounted, volumes=own))
    assert (played.status, played.said("default/app/main")) == (0, [])


def test_pools_of_a_file_are_offered(stage: Stage) -> None:
    values = stage.folder / "values.yaml"
    values.write_text("pools:\n  - {resourceName: none, selectors: {vendors: [ffff]}}\n")
    wants = container(script="true", resources={"limits": {"intel.com/none": 1}})
    played = stage.play(pod("wants", wants), options=("--pools", str(values)))
    assert played.status == 1
    assert "not admitted: container main: resource intel.com/none: 1 requested, 0 free" in played.stderr


def test_variables_and_nodes_of_containers_that_run_are_told(stage: Stage) -> None:
    folder = stage.folder / "seen"
    lasts = waiting("lasts")
    lasts["spec"]["containers"][0]["env"] = [
        {"name": "PCIDEVICE_INTEL_COM_X", "value": "0000:01:10.0,0000:01:10.2"},
        {"name": "OTHER", "value": "not told"},
    ]
    # Never ready, so that --then runs after it has ended.
    ended = pod("ended", {**container(script="true"), "readinessProbe": {"exec": {"command": ["false"]}}})
    then = f"cd {ROOT} && {sys.executable} -m tests.inside {folder}"
    played = stage.play(lasts, ended, options=("--in-order", "--then", then))
    assert played.status == 0, played.stderr
    inside = json.loads((folder / "inside.json").read_text())
    assert inside == {"lasts": "PCIDEVICE_INTEL_COM_X=0000:01:10.0,0000:01:10.2\n"}
    pods = examples.seen(json.loads((folder / "pods.json").read_text()), said={}, inside=inside)
    assert {name: each.state for name, each in pods.items()} == {"lasts": "ready", "ended": "exit code 0"}
    assert list(pods["lasts"].interfaces) == ["eth0"]

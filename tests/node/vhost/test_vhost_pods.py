"""Kubernetes pods: volumes for sockets, annotations, the agent, and a crash at any time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.node.calling import Call
from tests.node.conftest import PATIENCE, ROOT, Agent, Netns
from tests.node.vhost.conftest import Host, Switch, Testpmd, network
from wirespeed.errors import Error, Kind
from wirespeed.plugins.vhost.poddata import CONFIGURATION_DATA, MAPPED_DIR

UID = "3d9a4e2c-1111-2222-3333-444444444444"
ARGS = {"K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": "app", "K8S_POD_UID": UID}

Pods = Callable[[], Netns]


def peers_network(**keys: Any) -> dict[str, Any]:
    """A configuration as in userspace-CNI's examples."""
    return {
        "cniVersion": "0.3.1",
        "type": "userspace",
        "name": "userspace-ovs-net",
        "kubeconfig": "/etc/cni/net.d/multus.d/multus.kubeconfig",
        "logFile": "/var/log/userspace.log",
        "logLevel": "debug",
        "host": {
            "engine": "ovs-dpdk",
            "iftype": "vhostuser",
            "netType": "bridge",
            "vhost": {"mode": "client"},
            "bridge": {"bridgeName": "br-4"},
        },
        "container": {
            "engine": "ovs-dpdk",
            "iftype": "vhostuser",
            "netType": "interface",
            "vhost": {"mode": "server"},
        },
        "ipam": {"type": "host-local", "subnet": "10.56.217.0/24", "routes": [{"dst": "0.0.0.0/0"}]},
        **keys,
    }


def put_pod(folder: Path, volume: dict[str, Any], uid: str = UID) -> None:
    """Write the manifest of a pod whose container has the volume at /sockets."""
    mount = {"name": "shared-dir", "mountPath": "/sockets"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "app", "uid": uid, "annotations": {"mine": "1"}},
        "spec": {
            "volumes": [{"name": "shared-dir", **volume}],
            "containers": [{"name": "app", "volumeMounts": [mount]}],
        },
    }
    (folder / "manifests/app.json").write_text(json.dumps(pod))


def test_the_peers_network_works_unchanged(switch: Switch, host: Host, netns: Pods) -> None:
    shared, pod, conf = host.folder / "shared", netns(), peers_network()
    shared.mkdir()
    put_pod(host.folder, {"hostPath": {"path": str(shared)}})
    results = [host.add(conf, pod, ifname=name, args=ARGS) for name in ("net1", "net2")]
    short = pod.name.removeprefix("ws-")
    assert sorted(switch.ports("br-4")) == [f"{short}-net1", f"{short}-net2"]
    assert switch.get("Interface", f"{short}-net1", "options:vhost-server-path") == f"{shared}/{short}-net1"
    assert results[0]["ips"][0]["address"] == "10.56.217.2/24"
    written = json.loads((host.folder / "manifests/.status/default_app.annotations.json").read_text())
    assert written[MAPPED_DIR] == "/sockets/"
    data = json.loads(written[CONFIGURATION_DATA])
    assert [each["ifName"] for each in data] == ["net1", "net2"]
    assert data[0]["config"] == {
        "engine": "ovs-dpdk",
        "iftype": "vhostuser",
        "netType": "interface",
        "memif": {},
        "vhost": {"mode": "server", "socketfile": f"{short}-net1"},
        "bridge": {},
    }
    for name in ("net1", "net2"):
        host.check(conf, pod, ifname=name, args=ARGS)
        host.delete(conf, pod, ifname=name, args=ARGS)
    assert list(shared.iterdir()) == []
    assert switch.vsctl("list-br").split() == ["br0"]


def test_an_empty_dir_is_reached_by_a_short_path(
    switch: Switch, host: Host, netns: Pods, testpmd: Callable[..., Testpmd]
) -> None:
    volume = host.folder / "kubelet/pods" / UID / "volumes/kubernetes.io~empty-dir/shared-dir"
    volume.mkdir(parents=True)
    put_pod(host.folder, {"emptyDir": {}})
    pod, conf = netns(), network()
    result = host.add(conf, pod, args=ARGS)
    path = result["interfaces"][0]["socketPath"]
    assert Path(path).parent == volume
    assert len(path) > 107
    seen = switch.get("Interface", Path(path).name, "options:vhost-server-path")
    assert len(seen) <= 107
    # In the pod the volume has a short path. Here it is the link that the switch uses.
    application = testpmd(pod, Path(seen).parent / f"configData-{Path(path).name}.json")
    application.wait_link()
    application.quit()
    host.check(conf, pod, args=ARGS)
    host.delete(conf, pod, args=ARGS)
    assert list(volume.iterdir()) == []
    assert not Path(seen).parent.is_symlink()


def test_an_empty_dir_that_is_not_there_yet_is_an_error_that_leaves_nothing(
    switch: Switch, host: Host, netns: Pods
) -> None:
    put_pod(host.folder, {"emptyDir": {}})
    with pytest.raises(Error) as caught:
        host.add(network(), netns(), args=ARGS)
    assert caught.value.kind == Kind.IO


def test_a_pod_that_says_another_folder_is_refused_and_nothing_is_left(
    switch: Switch, host: Host, netns: Pods
) -> None:
    shared = host.folder / "shared"
    shared.mkdir()
    put_pod(host.folder, {"hostPath": {"path": str(shared)}})
    manifest = json.loads((host.folder / "manifests/app.json").read_text())
    manifest["metadata"]["annotations"][MAPPED_DIR] = "/elsewhere"
    (host.folder / "manifests/app.json").write_text(json.dumps(manifest))
    with pytest.raises(Error, match="expected /sockets, the mount path of the volume, got '/elsewhere'"):
        host.add(peers_network(), netns(), args=ARGS)
    assert list(shared.iterdir()) == []
    assert switch.vsctl("list-br").split() == ["br0"]


def test_without_a_pod_the_data_is_in_the_folder_alone(switch: Switch, host: Host, netns: Pods) -> None:
    conf, pod = peers_network(sharedDir=str(host.folder / "base")), netns()
    path = Path(host.add(conf, pod)["interfaces"][0]["socketPath"])
    short = pod.name.removeprefix("ws-")
    assert path == host.folder / "base" / short / f"{short}-net1"
    assert (path.parent / f"configData-{short}-net1.json").exists()
    host.delete(conf, pod)
    assert list((host.folder / "base").iterdir()) == []


def test_the_peers_pods_without_any_folder_have_theirs_beside_the_switchs(
    switch: Switch, host: Host, netns: Pods
) -> None:
    conf, pod = peers_network(), netns()
    path = Path(host.add(conf, pod)["interfaces"][0]["socketPath"])
    short = pod.name.removeprefix("ws-")
    assert path == switch.rundir / short / f"{short}-net1"
    host.delete(conf, pod)
    assert not path.parent.exists()


def test_ports_come_and_go_through_the_shim_and_the_agent(
    switch: Switch, shim: Path, agent_process: Callable[..., Agent], netns: Pods
) -> None:
    agent, pod = agent_process(), netns()
    agent.stop()
    sockets = agent.config.parent / "sockets"
    vhost = {"ovsdb": switch.remote, "ovsRundir": str(switch.rundir), "sockets": str(sockets)}
    agent = agent_process(folder=agent.config.parent, vhost=vhost)
    conf = network()

    def call(verb: str, **more: Any) -> Any:
        environ = agent.environ(verb, "c1", CNI_NETNS=pod.path)
        return Call(shim, environ, conf | more, name="wirespeed-vhost").answer()

    added = call("ADD")
    assert added.status == 0, added.body
    assert added.body["cniVersion"] == "1.1.0"
    assert switch.ports() == ["c1-net1"]
    assert call("CHECK", prevResult=added.body).status == 0
    older = call("DEL")
    assert older.status == 0
    conf["cniVersion"] = "0.3.1"
    added = call("ADD")
    assert added.body["cniVersion"] == "0.3.1"
    assert added.body["interfaces"] == [{"name": "net1", "sandbox": pod.path}]
    assert call("DEL").status == 0
    assert switch.ports() == []
    assert not any(path.name.startswith("c1") for path in sockets.rglob("*"))


def test_a_crash_at_any_moment_of_an_add_is_undone_by_del(switch: Switch, host: Host, netns: Pods) -> None:
    conf, pod = network(bridge={"bridgeName": "made", "create": True}), netns()
    configuration = host.folder / "agent.json"
    where = {"ovsdb": switch.remote, "ovsRundir": str(switch.rundir), "sockets": str(host.folder / "sockets")}
    configuration.write_text(
        json.dumps({"state": host.node.config.state, "leases": host.node.config.leases, "vhost": where})
    )
    request = host.request("ADD", conf, pod)
    environ = {
        **os.environ,
        "WIRESPEED_CONFIG": str(configuration),
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": request.container_id,
        "CNI_NETNS": pod.path,
        "CNI_IFNAME": "net1",
        "CNI_PATH": "/opt/cni/bin",
    }

    def run(moment: float | None) -> float:
        began = time.monotonic()
        command = [sys.executable, "-m", "wirespeed", "cni", "vhost"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=ROOT, env=environ, stdin=pipe, stdout=pipe, stderr=pipe) as process:
            assert process.stdin is not None
            process.stdin.write(json.dumps(conf).encode())
            process.stdin.close()
            process.stdin = None
            if moment is None:
                assert process.wait(PATIENCE) == 0
            else:
                try:
                    process.wait(moment)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.wait(PATIENCE)
        return time.monotonic() - began

    whole = run(None)
    host.delete(conf, pod)
    for step in range(20):
        run(whole * (0.4 + 0.03 * step))  # the first part is the start of Python
        host.delete(conf, pod)
        assert host.left() == []
        assert switch.vsctl("list-br").split() == ["br0"]

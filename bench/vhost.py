"""ADD and DEL of a vhost-user port on OVS-DPDK: whole calls as a runtime makes them, pod by pod.

    python3 -m bench.vhost [--pods 50] [--peer PATH]

The shim and an agent, beside them with --peer userspace-CNI's executable, whose turn it is at every other pod; both
with a pod's hostPath volume, host-local, and annotations through the same stand-in for an API server.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.api import take_puts
from tests.apiserver import ApiServer
from tests.node.calling import until
from tests.node.vhost.conftest import MEMORY, Switch

ROOT = Path(__file__).parents[1]
SHIM = ROOT / "build/wirespeed-cni"
OURS, PEER = "wirespeed", "userspace-cni"

Times = dict[tuple[str, str], list[float]]  # (system, verb) -> ms of each call


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench vhost", description=__doc__)
    parser.add_argument("--pods", type=int, default=50)
    parser.add_argument("--peer", type=Path, help="the executable of userspace-CNI")
    chosen = parser.parse_args()
    print(json.dumps(run(chosen.pods, chosen.peer), indent=2))


def run(pods: int = 50, peer: Path | None = None) -> dict[str, Any]:
    """The medians in ms by system and verb, and how many times as long the peer takes."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="ws-bench-", dir="/tmp"))
        stack.callback(shutil.rmtree, folder)
        switch = stack.enter_context(_switch(folder))
        take_puts()
        api = stack.enter_context(ApiServer(folder))
        kubeconfig = api.kubeconfig()
        environ = stack.enter_context(_agent(folder, switch, kubeconfig))
        systems = {OURS: _link(folder), **({PEER: peer} if peer else {})}
        times: Times = {}
        for number in range(-1, pods):  # the first one warms up
            for name in sorted(systems, reverse=bool(number % 2)):
                pod = _Pod(folder, f"{name}-{number % 1000}", api, kubeconfig)
                found = pod.timed(systems[name], environ)
                for verb, took in found.items() if number >= 0 else ():
                    times.setdefault((name, verb), []).append(took)
    medians = {f"{name} {verb}": round(statistics.median(took), 2) for (name, verb), took in sorted(times.items())}
    ratios = {
        f"ratio {verb}": round(medians[f"{PEER} {verb}"] / medians[f"{OURS} {verb}"], 1)
        for verb in ("ADD", "DEL")
        if peer
    }
    return {"pods": pods, **medians, **ratios}


def _link(folder: Path) -> Path:
    """The shim under the name that says which plugin is asked for."""
    link = folder / "userspace"
    link.symlink_to(SHIM)
    return link


@contextmanager
def _switch(folder: Path) -> Iterator[Switch]:
    huge, place, netns = folder / "huge", folder / "ovs", f"ws-{uuid.uuid4().hex[:8]}"
    pages = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
    before = pages.read_text()
    for made in (huge, place):
        made.mkdir()
    with ExitStack() as stack:
        subprocess.run(["mount", "-t", "hugetlbfs", "-o", "pagesize=2M", "none", huge], check=True)
        stack.callback(lambda: subprocess.run(["umount", huge], check=True))
        stack.callback(pages.write_text, before)
        pages.write_text(str(max(MEMORY, int(before))))
        subprocess.run(["ip", "netns", "add", netns], check=True)
        stack.callback(lambda: subprocess.run(["ip", "netns", "delete", netns], check=True))
        switch = Switch(place, netns, huge)
        stack.callback(switch.close)
        switch.start_database()
        settings = {"dpdk_init": "true", "dpdk_socket_mem": "256", "dpdk_extra": "--no-pci", "pmd_cpu_mask": "0x1"}
        switch.configure(**settings, dpdk_hugepage_dir=str(huge))
        switch.start()
        # A bridge that stays, for neither is to be measured by what making one takes.
        switch.vsctl("add-br", "br0", "--", "set", "Bridge", "br0", "datapath_type=netdev")
        switch.vsctl("add-port", "br0", "stays", "--", "set", "Interface", "stays", "type=internal")
        yield switch


@contextmanager
def _agent(folder: Path, switch: Switch, kubeconfig: Path) -> Iterator[dict[str, str]]:
    """An agent; the environment that both systems are called with."""
    socket = str(folder / "agent.sock")
    config = {
        "socket": socket,
        "state": str(folder / "run/state.db"),
        "leases": str(folder / "leases"),
        "cluster": {"kubeconfig": str(kubeconfig)},
        "vhost": {"ovsdb": switch.remote, "ovsRundir": str(switch.rundir), "sockets": str(folder / "sockets")},
    }
    (folder / "agent.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-m", "cli", "agent", "--config", str(folder / "agent.yaml"), "--log-level", "error"]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            until((folder / "agent.sock").exists, "an agent")
            yield {
                "PATH": os.environ["PATH"],
                "WIRESPEED_SOCKET": socket,
                "OVS_RUNDIR": str(switch.rundir),
                "OVS_SOCKDIR": f"{switch.rundir}/",
                "CNI_IFNAME": "net1",
                "CNI_PATH": "/usr/lib/cni",
            }
        finally:
            process.terminate()


class _Pod:
    """A pod, with a folder on the node as its volume for sockets."""

    def __init__(self, folder: Path, name: str, api: ApiServer, kubeconfig: Path) -> None:
        self.container, uid = uuid.uuid4().hex * 2, str(uuid.uuid4())
        shared = folder / "pods" / name
        shared.mkdir(parents=True)
        api.put(_manifest(name, uid, shared))
        self._args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name};K8S_POD_UID={uid}"
        self._conf = json.dumps(_configuration(kubeconfig, folder / f"leases-{name.rpartition('-')[0]}")).encode()

    def timed(self, plugin: Path, environ: Mapping[str, str]) -> dict[str, float]:
        """ms of its ADD and its DEL."""
        netns = f"ws-{self.container[:8]}"
        subprocess.run(["ip", "netns", "add", netns], check=True)
        try:
            call = {
                **environ,
                "CNI_CONTAINERID": self.container,
                "CNI_NETNS": f"/run/netns/{netns}",
                "CNI_ARGS": self._args,
            }
            return {verb: _timed(plugin, call | {"CNI_COMMAND": verb}, self._conf) for verb in ("ADD", "DEL")}
        finally:
            subprocess.run(["ip", "netns", "delete", netns], check=True)


def _timed(plugin: Path, environ: Mapping[str, str], conf: bytes) -> float:
    began = time.perf_counter()
    done = subprocess.run([plugin], env=environ, input=conf, capture_output=True, check=False)
    took = (time.perf_counter() - began) * 1000
    if done.returncode:
        raise SystemExit(f"{plugin} {environ['CNI_COMMAND']}: {done.stdout!r} {done.stderr!r}")
    return took


def _manifest(pod: str, uid: str, shared: Path) -> dict[str, Any]:
    mount = {"name": "shared-dir", "mountPath": "/var/lib/cni/usrspcni/"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod, "namespace": "default", "uid": uid, "annotations": {}},
        "spec": {
            "volumes": [{"name": "shared-dir", "hostPath": {"path": str(shared)}}],
            "containers": [{"name": "app", "image": "app", "volumeMounts": [mount]}],
        },
    }


def _configuration(kubeconfig: Path, leases: Path) -> dict[str, Any]:
    return {
        "cniVersion": "0.3.1",
        "type": "userspace",
        "name": "net",
        "kubeconfig": str(kubeconfig),
        "host": {
            "engine": "ovs-dpdk",
            "iftype": "vhostuser",
            "netType": "bridge",
            "vhost": {"mode": "client"},
            "bridge": {"bridgeName": "br0"},
        },
        "container": {"engine": "ovs-dpdk", "iftype": "vhostuser", "netType": "interface"},
        "ipam": {"type": "host-local", "dataDir": str(leases), "subnet": "10.9.0.0/16"},
    }


if __name__ == "__main__":
    main()

"""Benchmark of OVS-DPDK: ADD and DEL of a vhost-user port, as calls of a runtime, with a new pod each time.

Compares shim and agent with userspace-CNI. All use a pod's hostPath volume, host-local, annotations in the same
API server stand-in, and the same Open vSwitch.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bench.api import take_puts
from bench.figures import Figures, interleaved, machine
from bench.systems import Caller, executable, suite
from tests.apiserver import ApiServer
from tests.node.vhost.conftest import MEMORY, Switch

OURS = "wirespeed"
PEER = "NAME=BINARY"
PEER_TEXT = "userspace-CNI, called in the same run as ours is: its executable"


class Peer(NamedTuple):
    """userspace-CNI: its name here, and its executable."""

    name: str
    binary: Path


def read_peer(text: str) -> Peer:
    """Parse NAME=BINARY. Raises ValueError that says what is wrong."""
    name, _, binary = text.partition("=")
    if not (name and binary):
        raise ValueError(f"expected {PEER}, got {text!r}")
    return Peer(name, executable(name, binary))


def measure(arguments: argparse.Namespace) -> Figures:
    figures = Figures("OVS-DPDK")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ws-bench-", dir="/tmp")))
        switch = stack.enter_context(_switch(folder))
        take_puts()
        api = stack.enter_context(ApiServer(folder))
        kubeconfig = api.kubeconfig()
        places = {"ovsdb": switch.remote, "ovsRundir": str(switch.rundir), "sockets": str(folder / "sockets")}
        ours = stack.enter_context(suite(folder, {"kubeconfig": str(kubeconfig)}, vhost=places))
        environ = {"OVS_RUNDIR": str(switch.rundir), "OVS_SOCKDIR": f"{switch.rundir}/"}  # for userspace-CNI
        conf = _configuration(kubeconfig, folder / "leases")
        callers = {OURS: ours.caller("userspace", conf, ifname="net1")}
        for peer in arguments.peer:
            callers[peer.name] = Caller(binary=peer.binary, config=conf, environ=environ, ifname="net1")

        def turn(system: str, number: int) -> None:
            args = _new_pod(api, folder / "pods", f"{system}-{number}")
            for verb, took in replace(callers[system], args=args).add_and_delete().items():
                if number:  # round 0 is the warm-up
                    figures.add(f"{verb} of a vhost-user port", system, took)

        interleaved(arguments.rounds, [partial(turn, system) for system in callers])
        figures.notes["agent's resident memory"] = ours.memory()
    figures.notes["machine"] = machine()
    return figures


def _new_pod(api: ApiServer, folder: Path, name: str) -> str:
    """Create a pod with its own directory as the volume for sockets; return its CNI_ARGS."""
    uid, shared = str(uuid.uuid4()), folder / name
    shared.mkdir(parents=True)
    api.put(_manifest(name, uid, shared))
    return f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name};K8S_POD_UID={uid}"


@contextmanager
def _switch(folder: Path) -> Iterator[Switch]:
    """Run Open vSwitch with a bridge that stays, so that no call includes the creation of a bridge."""
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
        switch.vsctl("add-br", "br0", "--", "set", "Bridge", "br0", "datapath_type=netdev")
        switch.vsctl("add-port", "br0", "stays", "--", "set", "Interface", "stays", "type=internal")
        yield switch


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

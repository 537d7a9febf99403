"""Failures on a node whose pods have VFs. After each, every VF has its earlier settings and driver."""

from __future__ import annotations

from cluster.control import is_ready
from cluster.remote import Remote
from tests.cluster import release
from tests.cluster.kube import Kube, Object, network_status
from tests.cluster.workload import KERNEL, VFS, assert_attached, assert_drains, replicas, running, start_some


def test_agent_killed_while_pods_get_vfs(networks: Kube, vms: list[Remote]) -> None:
    """Start as many pods as there are VFs. The agent is killed when the first one is Ready."""
    node = vms[0]
    networks.apply(replicas("vf", node, VFS, ["one", "fast"], dict(KERNEL)))

    def ready() -> list[Object]:
        return [pod for pod in running(networks, "vf") if is_ready(pod)]

    networks.until("some pod is Ready", ready)
    node.run("pkill -9 -f 'wirespeed agent'")
    networks.until(f"{VFS} pods are Ready", lambda: len(ready()) == VFS)
    fast = [network_status(pod)[2] for pod in ready()]
    devices = {status["device-info"]["pci"]["pci-address"] for status in fast}
    addresses = {address for status in fast for address in status["ips"]}
    assert len(devices) == len(addresses) == VFS


def test_restarted_services(networks: Kube, vms: list[Remote]) -> None:
    before = start_some(networks, "before", vms, vf=True)
    assert_attached(networks, before)
    during = start_some(networks, "during", vms, vf=True)
    for service in ("kubelet", "containerd"):
        for node in vms:
            node.run(f"node restart {service}")
    assert_attached(networks, before + during + start_some(networks, "after", vms, vf=True))


def container(of: Object) -> str:
    """The ID of a pod's container."""
    return str(of["status"]["containerStatuses"][0]["containerID"])


def test_node_reset(networks: Kube, vms: list[Remote], wirespeed: Kube) -> None:
    """One pod's files are complete on the disk. Of the other's, only the names are, which ext4 commits first."""
    node = vms[0]
    names = start_some(networks, "earlier", [node], vf=True)
    assert_attached(networks, names)
    node.run("sync")
    names += start_some(networks, "just", [node], vf=True)
    assert_attached(networks, names)
    was = {name: container(*running(networks, name)) for name in names}
    node.run("sync /var/lib/cni/networks /var/lib/wirespeed/attachments")  # of a directory: commits the names
    boot = node.run("cat /proc/sys/kernel/random/boot_id").stdout
    node.run("nohup sh -c 'sleep 0.5; echo b > /proc/sysrq-trigger' > /dev/null 2>&1 &", check=False)
    node.forget()
    networks.until(
        "the node is back",
        lambda: (
            node.run("cat /proc/sys/kernel/random/boot_id", check=False).stdout.strip() not in {"", boot.strip()}
        ),
    )

    def run_again() -> bool:
        return all(
            any(is_ready(one) and container(one) != was[name] for one in running(networks, name)) for name in names
        )

    networks.until("the pods run again", run_again, timeout=600)
    assert_attached(networks, names)
    release.agents_ready(wirespeed)


def test_drained_node(networks: Kube, vms: list[Remote]) -> None:
    node = vms[0]
    names = start_some(networks, "evicted", [node], vf=True)
    assert_attached(networks, names)
    assert_drains(networks, node)

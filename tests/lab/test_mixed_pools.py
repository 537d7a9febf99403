"""All 14 VFs of both PFs in three pools (kernel, VFIO and mixed), with pods that use all of them at once."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from tests.lab.conftest import PFS, LabVfs, bind, differences, make_vfs, remove_vfs, sh, state_of_everything
from wirespeed.devices.pci import PciDevice
from wirespeed.kube import rpc
from wirespeed.kube.proto import deviceplugin_pb2 as dp
from wirespeed.node import NodeConfig

Manifest = dict[str, Any]

EXAMPLES = Path(__file__).parents[2] / "examples"
VFS_PER_PF = 7
PATIENCE = 60.0
NUMBERS = {"net": range(2), "dpdk": range(2, 4), "mixed": range(4, 7)}  # of each PF's VFs
KEYS: dict[str, Manifest] = {
    "net": {"allocation": "packed"},  # so that two pods are on the same PF, and thus on the same wire
    "mixed": {"bind": True, "cdi": True},
}
POOLS = [
    {"resourceName": name, **KEYS.get(name, {}), "selectors": {"pfNames": [f"{pf}#{at[0]}-{at[-1]}" for pf in PFS]}}
    for name, at in NUMBERS.items()
]
HAS = "echo has $PCIDEVICE_INTEL_COM_NET $PCIDEVICE_INTEL_COM_DPDK $PCIDEVICE_INTEL_COM_MIXED;"
WAIT = "echo done; exec sleep infinity"


# The node


@pytest.fixture(scope="module")
def devices(vfs: LabVfs) -> Iterator[dict[str, list[str]]]:
    """Create the VFs of each pool; those of `dpdk` are bound to vfio-pci. Restore the initial VFs afterwards.

    They have fixed MACs and names, as from an operator and udev: after a VF was rebound by hand, both are set
    again.
    """
    remove_vfs()
    pools: dict[str, list[str]] = {name: [] for name in NUMBERS}
    for pf in PFS:
        device = Path(f"/sys/class/net/{pf}/device")
        (device / "sriov_drivers_autoprobe").write_text("0")
        (device / "sriov_numvfs").write_text(str(VFS_PER_PF))
        (device / "sriov_drivers_autoprobe").write_text("1")
        for number, address in PciDevice(device.resolve().name).virtual_functions():
            pool = next(name for name, numbers in NUMBERS.items() if number in numbers)
            pools[pool].append(address)
            sh("ip", "link", "set", pf, "vf", str(number), "mac", f"02:00:00:00:0{pf[-1]}:0{number}")
            bind(address, "vfio-pci" if pool == "dpdk" else "igbvf")
            for netdev in PciDevice(address).netdevs:
                sh("ip", "link", "set", netdev, "name", f"{pf}v{number}")
    yield pools
    remove_vfs()
    assert make_vfs() == vfs


@contextmanager
def as_before() -> Iterator[None]:
    """After the body, all VFs and PFs must be in their earlier state, and none may be bound for a container."""
    before = state_of_everything()
    yield
    assert "\n".join(differences(before, state_of_everything())) == ""
    assert not [*Path(NodeConfig().state).parent.glob("bound/*")]


# Pods


def pod(name: str, container: Manifest, *networks: str, **counts: int) -> Manifest:
    """A pod with one container, which requests these numbers of devices."""
    limits: Manifest = {f"intel.com/{resource}": count for resource, count in counts.items()}
    spec: Manifest = {"terminationGracePeriodSeconds": 0, "containers": [{"name": "main", **container}]}
    if "volumeMounts" in container:
        limits |= {"hugepages-2Mi": "64Mi", "memory": "256Mi"}
        spec["terminationGracePeriodSeconds"] = 10
        spec["volumes"] = [{"name": "hugepages", "emptyDir": {"medium": "HugePages"}}]
    spec["containers"][0]["resources"] = {"limits": limits}
    metadata = {"name": name, "annotations": {"k8s.v1.cni.cncf.io/networks": ",".join(networks)}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def runs(script: str) -> Manifest:
    return {"command": ["sh", "-c", script]}


def echoes() -> Manifest:
    """A container whose testpmd answers all pings to its VF; it is ready when testpmd is."""
    options = "'--lcores=0@(0-1),1@(0-1)' --huge-unlink --socket-mem=64 --allow=$PCIDEVICE_INTEL_COM_MIXED"
    forwarding = "--forward-mode=icmpecho --total-num-mbufs=2048 --rxd=256 --txd=256"
    probe = {"exec": {"command": ["wirespeed", "ready"]}, "periodSeconds": 1, "timeoutSeconds": 10}
    return {
        **runs(f"{HAS} exec dpdk-testpmd {options} -- {forwarding}"),
        "stdin": True,
        "securityContext": {"capabilities": {"add": ["IPC_LOCK"]}},
        "volumeMounts": [{"name": "hugepages", "mountPath": "/dev/hugepages"}],
        "readinessProbe": probe,
    }


def reach(interface: str, address: str) -> str:
    """A part of a script: ping until three replies have arrived."""
    return f"ping -q -c 3 -i 0.2 -w {PATIENCE:.0f} -I {interface} {address} && echo reached;"


def network(name: str, pool: str, **keys: Any) -> Manifest:
    config = {"cniVersion": "1.1.0", "name": name, "type": "wirespeed-sriov", **keys}
    annotations = {"k8s.v1.cni.cncf.io/resourceName": f"intel.com/{pool}"}
    return {
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"config": json.dumps(config)},
    }


def networks(folder: Path) -> tuple[Manifest, ...]:
    """The tests' networks. Leases are in `folder`, so the first address is always the same."""

    def addresses(third: int) -> Manifest:
        ranges = [[{"subnet": f"10.9.{third}.0/24"}]]
        return {"type": "host-local", "ranges": ranges, "dataDir": str(folder / "addresses")}

    return (
        network("plain", "mixed", ipam=addresses(1)),
        network("tagged", "mixed", vlan=102, ipam=addresses(2)),
        network("tagged-dpdk", "mixed", vlan=102, driver="vfio-pci"),
        network("net", "net", vlan=103, ipam=addresses(3)),
    )


@contextmanager
def play(folder: Path, *pods: Manifest) -> Iterator[subprocess.Popen[str]]:
    """Run a play of the pods."""
    config = {"config.json": json.dumps({"resourceList": POOLS})}
    pools = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "pools"}, "data": config}
    (folder / "pods.yaml").write_text(yaml.safe_dump_all([pools, *networks(folder), *pods]))
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "wirespeed", "play", "--cni-conf", str(EXAMPLES / "00-wirespeed.conf")),
            str(folder / "pods.yaml"),
        ],
        cwd=EXAMPLES.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)
        if Path("/sys/class/net/mgmt0").exists():
            sh("ip", "link", "delete", "mgmt0")  # the bridge plugin never removes it


def lines_until_done(process: subprocess.Popen[str], *pods: str) -> dict[str, list[str]]:
    """The output of each pod, until each pod in `pods` has printed "done"."""
    said: dict[str, list[str]] = {}
    missing = set(pods)
    assert process.stdout is not None
    assert process.stderr is not None
    for line in process.stdout:
        source, bar, text = line.rstrip("\n").partition(" | ")
        if bar and source.count("/") == 2:  # namespace/pod/container
            said.setdefault(source.split("/")[1], []).append(text)
        missing -= {name for name in missing if "done" in said.get(name, ())}
        if not missing:
            return said
    raise AssertionError(f"{missing} are not done: {said}: {process.stderr.read()}")


def given(said: dict[str, list[str]]) -> dict[str, list[str]]:
    """The VFs of each pod, from its output."""
    return {
        name: [vf for part in line.split()[1:] for vf in part.split(",")]
        for name, lines in said.items()
        for line in lines
        if line.startswith("has ")
    }


# The device plugin


class Pools:
    """The health of all devices, as ListAndWatch reports it to a kubelet."""

    def __init__(self, session: Path, end: ExitStack) -> None:
        self._changed = threading.Condition()
        self._health: dict[str, dict[str, str]] = {}
        for name in NUMBERS:
            channel = rpc.channel(str(session / f"kubelet/plugins_registry/intel.com_{name}.sock"))
            end.enter_context(channel)
            client = rpc.Client(channel, dp.DESCRIPTOR.services_by_name["DevicePlugin"])
            stream = client.ListAndWatch(dp.Empty())
            reader = threading.Thread(target=self._read, args=(name, stream))
            reader.start()
            end.callback(reader.join)
            end.callback(stream.cancel)

    def _read(self, name: str, stream: Any) -> None:
        try:
            for response in stream:
                with self._changed:
                    self._health[name] = {device.ID: device.health for device in response.devices}
                    self._changed.notify_all()
        except grpc.RpcError as error:  # the stream ends like this
            with self._changed:
                self._health[name] = {"ended": str(error)}

    def wait(self, devices: dict[str, list[str]], unhealthy: set[str]) -> None:
        """Wait until the pools have these devices, and exactly the `unhealthy` ones are unhealthy."""
        expected = {
            name: {vf: "Unhealthy" if vf in unhealthy else "Healthy" for vf in vfs} for name, vfs in devices.items()
        }
        with self._changed:
            assert self._changed.wait_for(lambda: self._health == expected, PATIENCE), (self._health, expected)


# The tests


def test_pods_that_ask_for_all_vfs_have_each_once(devices: dict[str, list[str]], tmp_path: Path) -> None:
    pods = [pod(f"p{number}", runs(HAS), net=1, dpdk=1, mixed=1) for number in range(4)]
    pods.append(pod("p4", runs(HAS), mixed=2))
    for each in pods:
        each["spec"]["restartPolicy"] = "Never"
    with as_before(), play(tmp_path, *pods) as process:
        stdout, stderr = process.communicate(timeout=PATIENCE)
        assert stderr == ""
        assert process.returncode == 0
    found = [vf for line in re.findall(r"\| has (.*)", stdout) for vf in re.split("[ ,]", line.strip())]
    assert sorted(found) == sorted(vf for vfs in devices.values() for vf in vfs)


class Playing:
    """A running play: the pods' output so far, and the health of the pools."""

    def __init__(self, said: dict[str, list[str]], pools: Pools) -> None:
        self.said, self.pools = said, pools
        self.allocated_count = given(said)


@pytest.fixture(scope="module")
def playing(devices: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playing]:
    """Seven pods with VFs of all pools. Afterwards everything must be in its earlier state."""
    # the pod fails if the group cannot be opened
    opens = f"{HAS} cd /dev/vfio; exec 3<>$(ls | grep -v vfio); {WAIT}"
    pods = (
        pod("bound", echoes(), mixed=1),
        pod("bound-by-network", echoes(), "tagged-dpdk", mixed=1),
        pod("dpdk-a", runs(opens), dpdk=1),
        pod("dpdk-b", runs(opens), dpdk=1),
        pod("net-a", runs(f"{HAS} {WAIT}"), "net", net=1),
        pod("net-b", runs(f"{HAS} {reach('net1', '10.9.3.2')} {reach('net1', '10.9.3.3')} {WAIT}"), "net", net=1),
        pod(
            "kernel",
            runs(f"{HAS} ls /dev; {reach('net1', '10.9.1.200')} {reach('net2', '10.9.2.200')} {WAIT}"),
            *("plain", "tagged"),
            mixed=2,
        ),
    )
    with as_before(), play(tmp_path_factory.mktemp("mixed"), *pods) as process, ExitStack() as end:
        said = lines_until_done(process, "kernel", "net-a", "net-b", "dpdk-a", "dpdk-b")
        [session] = Path("/run").glob("wirespeed-play-*")
        yield Playing(said, Pools(session, end))
        end.close()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
        assert errors == ""
        assert process.returncode == 0


def test_each_pod_has_vfs_of_its_own_from_the_pools_that_it_asked(
    playing: Playing, devices: dict[str, list[str]]
) -> None:
    of = {vf: name for name, vfs in devices.items() for vf in vfs}
    assert {name: [of[vf] for vf in vfs] for name, vfs in playing.allocated_count.items()} == {
        "bound": ["mixed"],
        "bound-by-network": ["mixed"],
        "dpdk-a": ["dpdk"],
        "dpdk-b": ["dpdk"],
        "net-a": ["net"],
        "net-b": ["net"],
        "kernel": ["mixed", "mixed"],
    }
    vfs = [vf for each in playing.allocated_count.values() for vf in each]
    assert len(set(vfs)) == len(vfs)


def test_vfs_of_one_mixed_pool_have_the_driver_that_their_pod_wants(playing: Playing) -> None:
    drivers = {name: {PciDevice(vf).driver for vf in vfs} for name, vfs in playing.allocated_count.items()}
    kernel, dpdk = ("net-a", "net-b", "kernel"), ("bound", "bound-by-network", "dpdk-a", "dpdk-b")
    assert drivers == {**{name: {"igbvf"} for name in kernel}, **{name: {"vfio-pci"} for name in dpdk}}
    assert "vfio" not in playing.said["kernel"]


def test_kernel_and_dpdk_of_one_mixed_pool_reach_each_other(playing: Playing) -> None:
    # the first reaches `bound` and, on VLAN 102, `bound-by-network`; the second `net-a` and itself
    for name in ("kernel", "net-b"):
        assert playing.said[name].count("reached") == 2, "\n".join(playing.said[name])


@pytest.mark.parametrize("pf", PFS)
def test_link_of_a_pf_is_the_health_of_its_vfs_alone(
    playing: Playing, devices: dict[str, list[str]], pf: str
) -> None:
    name = Path(f"/sys/class/net/{pf}/device").resolve().name
    own = {address for _, address in PciDevice(name).virtual_functions()}
    playing.pools.wait(devices, set())
    sh("ip", "link", "set", pf, "down")
    try:
        playing.pools.wait(devices, own)
    finally:
        sh("ip", "link", "set", pf, "up")
    playing.pools.wait(devices, set())


def test_vf_that_is_unbound_and_bound_again_is_seen_live(playing: Playing, devices: dict[str, list[str]]) -> None:
    taken = {vf for vfs in playing.allocated_count.values() for vf in vfs}
    for vfs in devices.values():
        free = PciDevice(next(vf for vf in vfs if vf not in taken))
        driver, names = free.driver, free.netdevs
        playing.pools.wait(devices, set())
        (free.path / "driver/unbind").write_text(free.address)
        playing.pools.wait(devices, {free.address})
        bind(free.address, driver)
        for new, old in zip(free.netdevs, names, strict=True):
            sh("ip", "link", "set", new, "name", old)
        playing.pools.wait(devices, set())

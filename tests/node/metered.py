"""An agent whose metrics are all there: attachments, calls that fail, pools, VFs and their counters."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.apiserver import ApiServer
from tests.fakesysfs import FakeSysfs
from tests.node.calling import PROBE_CONFIG, Call
from tests.node.conftest import PATIENCE, Agent, Netns
from tests.node.test_metrics import served
from wirespeed.kernel.netns import Identity
from wirespeed.play.kubelet import Kubelet
from wirespeed.plugins.meta.delegate import NO_NETNS, Delegate, planned_rows
from wirespeed.state.journal import AttachmentStep, DeviceClaim, Journal

COUNTERS = ("rx_bytes", "rx_packets", "rx_dropped", "tx_bytes", "tx_packets", "tx_dropped")
POD = {"K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": "vfw"}
_GONE = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=gone;K8S_POD_UID=7"
PFS = {"ens1f0": "0000:18:00.0", "ens2f0": "0000:3b:00.0"}


@dataclass(frozen=True)
class Metered:
    """A running agent, and the address of its metrics."""

    agent: Agent
    address: str
    _shim: Path
    _netns: str
    _sysfs: Path

    def set_counter(self, pf: str, vf: str, counter: str, value: int) -> None:
        """Let the driver of a PF have counted that for a VF."""
        _counter(self._sysfs, pf, vf, counter).write_text(f"{value}\n")

    def call(self) -> None:
        """Calls of several verbs, of which some fail; one asks the API server for a pod that it does not have."""
        for verb, config, status in (
            ("GC", PROBE_CONFIG, 0),
            ("DEL", PROBE_CONFIG, 0),
            ("STATUS", PROBE_CONFIG, 0),
            ("STATUS", {**PROBE_CONFIG, "fail": 50}, 1),
            ("DEL", {**PROBE_CONFIG, "fail": 100}, 1),
        ):
            assert Call(self._shim, self.agent.environ(verb), config).answer().status == status
        self.fail_an_add()
        self.fail_an_add(CNI_ARGS=_GONE)

    def fail_an_add(self, **environ: str) -> str:
        """An ADD of the meta-plugin that fails. Return its trace id."""
        delegate = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "probe", "fail": 100}]}
        config = {"cniVersion": "1.0.0", "name": "cluster", "type": "wirespeed", "delegates": [delegate]}
        container = uuid.uuid4().hex
        environ = self.agent.environ("ADD", container, CNI_NETNS=self._netns, CNI_IFNAME="eth0", **environ)
        assert Call(self._shim, environ, config, name="wirespeed").answer().status == 1
        # Counted by now; the caller gets its answer earlier.
        line = self.agent.wait_log(" ERROR failed ", f"container={container}")
        return line.partition(" trace=")[2].split()[0]


@contextmanager
def metered(start: Callable[..., Agent], shim: Path, netns: Netns, folder: Path) -> Iterator[Metered]:
    """Run an agent (`start`: the fixture `agent_process`) that has done a bit of everything."""
    files = folder / "agent"
    (files / "run").mkdir(parents=True)
    _write_journal(files)
    _take_names(files, shim)
    sysfs = _sysfs(folder / "sys")
    pools = [{"resourceName": name, "selectors": {"pfNames": [name]}} for name in PFS]
    (folder / "pools.json").write_text(json.dumps({"resourceList": pools}))
    kubelet = Kubelet(folder / "kubelet")
    kubelet.start()
    try:
        with ApiServer(folder) as api:
            agent = start(
                folder=files,
                metrics="127.0.0.1:0",
                cluster={"kubeconfig": str(api.kubeconfig())},
                kubelet=str(folder / "kubelet"),
                sysfs=str(sysfs.root),
                devicePlugin=str(folder / "pools.json"),
            )
            made = Metered(agent, served(agent), shim, netns.path, sysfs.root)
            for name in PFS:
                kubelet.wait_for(f"intel.com/{name}", 2, PATIENCE)
            kubelet.allocate("default", "vfw", "testpmd", "intel.com/ens1f0", 1)
            sysfs.set_interface("ens2f0", "operstate", "down")
            agent.wait_log("pool intel.com/ens2f0: unhealthy")
            made.call()
            yield made
    finally:
        kubelet.stop()


def _sysfs(root: Path) -> FakeSysfs:
    """Two PFs that are up, whose drivers count for their VFs."""
    sysfs = FakeSysfs(root)
    for name, pf in PFS.items():
        sysfs.pf(pf, name=name, vfs=2)
        sysfs.set_interface(name, "operstate", "up")
        for vf in ("0", "1"):
            for counter in COUNTERS:
                file = _counter(root, name, vf, counter)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("5\n")
    return sysfs


def _counter(sysfs: Path, pf: str, vf: str, counter: str) -> Path:
    return sysfs / f"bus/pci/devices/{PFS[pf]}/sriov/{vf}/stats/{counter}"


def _write_journal(folder: Path) -> None:
    """An attachment that is done, and one whose ADD did not finish."""
    journal = Journal(folder / "run/state.db")
    for container, step in (("c1", AttachmentStep.ADDED), ("c2", AttachmentStep.ADDING)):
        raw = {"cniVersion": "1.0.0", "name": "fast", "type": "sriov"}
        delegate = Delegate(
            configuration="cluster",
            request_ifname="eth0",
            label="default/fast",
            raw=raw,
            version="1.0.0",
            ifname="net1",
            args=POD,
        )
        journal.plan(planned_rows([delegate], container, "/run/netns/none", NO_NETNS))
        journal.mark(container, "net1", step)
    claim = DeviceClaim(
        device="0000:19:00.0", plugin="sriov", container="c1", ifname="net1", netns="/x", identity=Identity(0, 0, 0)
    )
    journal.claim(claim)
    journal.close()


def _take_names(folder: Path, shim: Path) -> None:
    """What `wirespeed install --replace sriov-cni` leaves behind."""
    (folder / "bin").mkdir()
    for name in ("wirespeed", "sriov"):
        shutil.copy(shim, folder / "bin" / name)
    record = {"binDir": str(folder / "bin"), "replaced": ["sriov-cni"], "sriovDir": str(folder / "sriov")}
    (folder / "replaced.json").write_text(json.dumps(record))

"""CHECK of a VF with an executed IPAM plugin: the VF is checked whatever the IPAM plugin returns."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fakesysfs import FakeSysfs
from tests.node.conftest import Netns
from wirespeed.cni.errors import code_of
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.kernel import netns as namespaces
from wirespeed.node import Node, NodeConfig

RESULT = {"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1"}]}


@dataclass
class Attached:
    """A VF on vfio-pci attached to a pod, with an address from the plugin own-ipam."""

    node: Node
    net: Netns
    sysfs: FakeSysfs
    vf: str
    pod: Netns
    folder: Path

    def ipam(self, answer: dict[str, Any], status: int) -> None:
        script = self.folder / "own-ipam"
        script.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\nexit {status}\n")
        script.chmod(0o755)

    def call(self, verb: str) -> None:
        config = {"cniVersion": "1.0.0", "name": "net", "type": "sriov", "deviceID": self.vf}
        request = Request(
            command=verb,
            container_id=self.pod.name,
            netns=self.pod.path,
            ifname="net1",
            config=config | {"ipam": {"type": "own-ipam"}},
            path=(str(self.folder),),
        )
        plugin = self.node.plugin("sriov")
        function = {"ADD": plugin.add, "CHECK": plugin.check, "DEL": plugin.delete}[verb]
        with namespaces.opened(self.net.path) as ns:
            namespaces.inside(ns.fd, lambda: function(request))

    def refused(self) -> Error:
        with pytest.raises(Error) as refused:
            self.call("CHECK")
        return refused.value


@pytest.fixture
def attached(netns: Callable[[], Netns], tmp_path: Path) -> Iterator[Attached]:
    net, sysfs = netns(), FakeSysfs(tmp_path / "sys")
    (vf,) = sysfs.pf("0000:18:00.0", "pf0", vfs=1, vf_driver="vfio-pci")
    net.run("ip", "link", "add", "pf0", "type", "bridge")
    node = Node(NodeConfig(state=str(tmp_path / "run/state.db"), sysfs=str(sysfs.root), leases=str(tmp_path / "l")))
    made = Attached(node, net, sysfs, vf, netns(), tmp_path)
    made.ipam(RESULT, 0)
    made.call("ADD")
    yield made
    made.ipam({}, 0)
    made.call("DEL")
    node.close()


def test_an_ipam_without_check_does_not_fail_it(attached: Attached, caplog: pytest.LogCaptureFixture) -> None:
    attached.ipam({"code": 999, "msg": "CNI CHECK method is not implemented"}, 1)
    attached.call("CHECK")
    assert "ipam own-ipam has not checked its addresses: CNI CHECK method is not implemented" in caplog.text


def test_an_ipam_that_has_lost_the_lease_fails_it(attached: Attached) -> None:
    attached.ipam({"code": 104, "msg": "the lease is gone"}, 1)
    assert (code_of(attached.refused()), attached.refused().msg) == (104, "ipam own-ipam: the lease is gone")


def test_the_vf_is_looked_at_before_the_ipam_is_asked(attached: Attached) -> None:
    attached.ipam({"code": 50, "msg": "the lease is gone"}, 1)
    attached.sysfs.bind(attached.vf, "iavf")
    refused = attached.refused()
    attached.sysfs.bind(attached.vf, "vfio-pci")
    assert refused.kind == Kind.DRIFT
    assert "driver" in refused.msg

"""Pods attached by Multus: their rows in the journal, and a DEL with the same effect as Multus' own."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.multusfiles import POD_ARGS, Attached
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.kernel.netns import Identity
from wirespeed.node import Node, NodeConfig
from wirespeed.plugins.meta.delegate import NO_NETNS, recorded_delegate, recorded_identity
from wirespeed.plugins.meta.meta import Meta
from wirespeed.state.journal import Attachment, Journal
from wirespeed.takeover import multus_cache
from wirespeed.takeover.record import MultusFiles

CID = "cid123456789abc"
NETNS = "/run/netns/of-the-pod"
HERE = Identity(4, 77, 12)

MASTER = Attached(
    config={
        "cniVersion": "1.0.0",
        "name": "cbr0",
        "plugins": [
            {"type": "rec-bridge", "isGateway": True, "ipam": {"type": "rec-ipam"}},
            {"type": "rec-portmap", "capabilities": {"portMappings": True}},
        ],
    },
    ifname="eth0",
    capability_args={"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
    result={
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "mac": "da:f0:4b:6f:92:53", "sandbox": NETNS}],
        "ips": [{"address": "10.88.0.2/24", "gateway": "10.88.0.1", "interface": 0}],
    },
)
MACVLAN = Attached(
    config={"cniVersion": "0.4.0", "name": "data", "type": "rec-macvlan", "capabilities": {"mac": True}},
    ifname="net1",
    label="test/data",
    capability_args={"mac": "02:00:00:00:00:01"},
    args={"MAC": "02:00:00:00:00:01"},
    result={
        "cniVersion": "0.4.0",
        "interfaces": [{"name": "net1", "mac": "02:00:00:00:00:01", "sandbox": NETNS}],
        "ips": [{"version": "4", "address": "10.89.0.2/24", "interface": 0}],
    },
)
SRIOV = Attached(
    config={
        "cniVersion": "0.3.1",
        "name": "fast",
        "type": "rec-sriov",
        "deviceID": "0000:03:02.0",
        "pciBusID": "0000:03:02.0",
    },
    ifname="dpdk0",
    label="other/fast",
    extra={"ifnameRequest": "dpdk0", "deviceID": "0000:03:02.0", "resourceName": "intel.com/vf"},
    result={"cniVersion": "0.3.1", "interfaces": [{"name": "dpdk0", "sandbox": NETNS}]},
)


MULTUS = MultusFiles(folder="", configuration="multus-cni-network", version="0.3.1", path=("/opt/cni/bin",))


def rows(networks: list[Attached], **more: Any) -> list[Attachment]:
    """The journal's rows for a pod with these networks, from files as Multus writes them."""
    listed = json.dumps([each.listed() for each in networks]).encode()
    cached = [
        multus_cache.read_cached(json.dumps(each.cached(CID, NETNS)).encode())
        for each in reversed(networks)  # directory listings have no order
        if each.result is not None
    ]
    known: dict[str, Any] = {
        "listed": listed,
        "cached": cached,
        "multus": MULTUS,
        "identity": {NETNS: HERE}.get,
        **more,
    }
    return multus_cache.attachments(CID, **known)


# Rows in the journal


def test_networks_are_in_multus_order_under_their_interfaces() -> None:
    found = rows([MASTER, MACVLAN, SRIOV])
    assert [(row.container, row.ifname, row.position, row.step) for row in found] == [
        (CID, "eth0", 0, "added"),
        (CID, "net1", 1, "added"),
        (CID, "dpdk0", 2, "added"),
    ]
    assert all((row.netns, recorded_identity(row)) == (NETNS, HERE) for row in found)


def test_each_network_has_what_its_add_had() -> None:
    master, macvlan, sriov = map(recorded_delegate, rows([MASTER, MACVLAN, SRIOV]))
    assert [each.raw for each in (master, macvlan, sriov)] == [MASTER.config, MACVLAN.config, SRIOV.config]
    assert [each.label for each in (master, macvlan, sriov)] == ["cbr0", "test/data", "other/fast"]
    assert [each.master for each in (master, macvlan, sriov)] == [True, False, False]
    pod = {**POD_ARGS, "K8S_POD_INFRA_CONTAINER_ID": CID}
    assert master.args == pod
    assert macvlan.args == {**pod, "MAC": "02:00:00:00:00:01"}
    assert macvlan.runtime_config == {"mac": "02:00:00:00:00:01"}
    assert (sriov.resource, sriov.device) == ("intel.com/vf", "0000:03:02.0")
    assert {each.configuration for each in (master, macvlan, sriov)} == {"multus-cni-network"}
    assert {each.request_ifname for each in (master, macvlan, sriov)} == {"eth0"}
    assert {each.path for each in (master, macvlan, sriov)} == {("/opt/cni/bin",)}


def test_results_of_every_version_are_kept_in_one_shape() -> None:
    _, macvlan, _ = rows([MASTER, MACVLAN, SRIOV])
    assert macvlan.result is not None
    assert macvlan.result["ips"] == [{"address": "10.89.0.2/24", "interface": 0}]


def test_master_has_the_interface_of_the_runtimes_call_or_the_one_that_the_pod_asked_for() -> None:
    asked = Attached(**{**vars(MASTER), "ifname": "pri0", "extra": {"ifnameRequest": "pri0"}})
    (row,) = rows([asked])
    assert (row.ifname, recorded_delegate(row).request_ifname) == ("pri0", "eth0")
    other = Attached(**{**vars(MASTER), "ifname": "ens1"})
    (row,) = rows([other])
    assert (row.ifname, recorded_delegate(row).request_ifname) == ("ens1", "ens1")


def test_one_network_attached_twice_is_two_rows_with_their_own_results() -> None:
    second = Attached(**{**vars(MACVLAN), "ifname": "net2", "args": {}, "capability_args": {}})
    _, first, other = rows([MASTER, MACVLAN, second])
    assert (recorded_delegate(first).runtime_config, recorded_delegate(other).runtime_config) == (
        {"mac": "02:00:00:00:00:01"},
        {},
    )


def test_network_whose_add_has_not_succeeded_may_have_been_begun() -> None:
    begun = Attached(**{**vars(MACVLAN), "result": None})
    _, row = rows([MASTER, begun])
    assert (row.ifname, row.step, row.result) == ("net1", "adding", None)
    assert recorded_delegate(row).args == {**POD_ARGS, "K8S_POD_INFRA_CONTAINER_ID": CID}


def test_results_that_a_failed_del_has_left_behind_are_taken_without_the_list() -> None:
    found = rows([MASTER, MACVLAN], listed=None)
    assert {row.ifname for row in found} == {"eth0", "net1"}
    assert {recorded_delegate(row).request_ifname for row in found} == {"eth0"}


def test_namespace_that_is_gone_is_none() -> None:
    (row,) = rows([MASTER], identity=lambda _: NO_NETNS)
    assert recorded_identity(row) == NO_NETNS


# Rejected files


@pytest.mark.parametrize("listed", [b"", b"[{", b"{}", b'[{"Name":"a"}]', b'[{"Bytes":"!"}]'])
def test_list_that_cannot_be_read_is_told_with_its_container(listed: bytes) -> None:
    with pytest.raises(Error, match=f"^container {CID}: ") as refused:
        rows([MASTER], listed=listed)
    assert refused.value.kind == Kind.INVALID_DATA


@pytest.mark.parametrize("given", [{"cniVersion": "0.2.0"}, {"cniVersion": "0.1.0"}, {}])
def test_networks_of_the_oldest_versions_or_without_one_are_taken_over(given: dict[str, str]) -> None:
    shape = {"ip4": {"ip": "10.89.0.2/24", "routes": [{"dst": "10.0.0.0/8"}]}, "dns": {}}
    # If a plugin's result has no version, libcni stores it with the version of the call.
    result = {"cniVersion": given.get("cniVersion", "0.1.0"), **shape}
    old = Attached(config={"name": "data", "type": "rec-macvlan", **given}, ifname="net1", result=result)
    _, row = rows([MASTER, old], multus=msgspec.structs.replace(MULTUS, version="0.1.0"))
    assert recorded_delegate(row).network().version == given.get("cniVersion", "0.1.0")
    assert row.result is not None
    assert row.result["ips"] == [{"address": "10.89.0.2/24"}]
    assert row.result["routes"] == [{"dst": "10.0.0.0/8"}]


def test_network_that_could_not_be_run_is_told_by_name() -> None:
    old = Attached(**{**vars(MACVLAN), "config": {**MACVLAN.config, "cniVersion": "0.5.0"}})
    with pytest.raises(Error, match=rf"container {CID}: network test/data \(net1\): .*0.5.0"):
        rows([MASTER, old])


@given(
    st.binary()
    | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_whatever_is_in_a_file_is_read_or_refused(data: bytes) -> None:
    for read in (multus_cache.read_cached, lambda data: rows([MASTER], listed=data, cached=[])):
        try:
            read(data)
        except Error:
            continue


def test_rows_are_recorded_once_with_their_results(tmp_path: Path) -> None:
    found = rows([MASTER, MACVLAN])
    journal = Journal(tmp_path / "state.db")
    journal.plan(found)  # as left by a process that was killed in between
    for _ in range(2):
        multus_cache.record(journal, found)
        known = journal.attachments()
        assert [(row.ifname, row.step, row.result) for row in known] == [
            (row.ifname, row.step, row.result) for row in found
        ]
        assert [recorded_delegate(row) for row in known] == [recorded_delegate(row) for row in found]
    journal.close()


# DEL


@pytest.fixture
def recorder(tmp_path: Path) -> Callable[[], list[dict[str, Any]]]:
    """Plugins rec-* in tmp_path/bin that record their calls. Yields a function that returns these."""
    log, folder = tmp_path / "calls", tmp_path / "bin"
    folder.mkdir()
    variables = " ".join(f'"${name}"' for name in ("CNI_COMMAND", "CNI_IFNAME", "CNI_NETNS", "CNI_ARGS"))
    for kind in ("bridge", "portmap", "macvlan", "sriov"):
        script = folder / f"rec-{kind}"
        script.write_text(f"#!/bin/sh\n{{ printf '%s\\n' {kind} {variables}; cat; echo; }} >> {log}\n")
        script.chmod(0o755)

    def calls() -> list[dict[str, Any]]:
        lines = log.read_text().splitlines()
        keys = ("kind", "command", "ifname", "netns", "args")
        return [
            {**dict(zip(keys, lines[at : at + 5], strict=True)), "stdin": json.loads(lines[at + 5])}
            for at in range(0, len(lines), 6)
        ]

    return calls


def test_del_calls_all_networks_in_reverse_with_what_add_had_and_its_result(
    tmp_path: Path, recorder: Callable[[], list[dict[str, Any]]]
) -> None:
    node = Node(
        NodeConfig(
            state=str(tmp_path / "state.db"),
            attachments=str(tmp_path / "attachments"),
            devinfo=str(tmp_path / "devinfo"),
        ),
        once=True,
    )
    multus_cache.record(node.journal, rows([MASTER, MACVLAN, SRIOV], identity=lambda _: NO_NETNS))
    Meta(node).delete(
        Request(
            command="DEL",
            container_id=CID,
            netns=NETNS,
            ifname="eth0",
            path=(str(tmp_path / "bin"),),
            config={"cniVersion": "0.3.1", "name": "multus-cni-network", "type": "multus-shim"},
        )
    )
    calls = recorder()
    assert [(call["kind"], call["command"], call["ifname"]) for call in calls] == [
        ("sriov", "DEL", "dpdk0"),
        ("macvlan", "DEL", "net1"),
        ("portmap", "DEL", "eth0"),
        ("bridge", "DEL", "eth0"),
    ]
    sriov, macvlan, portmap, bridge = (call["stdin"] for call in calls)
    assert sriov == SRIOV.config  # in its version, DEL has no prevResult
    assert macvlan == {
        **MACVLAN.config,
        "runtimeConfig": {"mac": "02:00:00:00:00:01"},
        "prevResult": {**(MACVLAN.result or {}), "dns": {}},
    }
    head = {"cniVersion": "1.0.0", "name": "cbr0", "prevResult": {**(MASTER.result or {}), "dns": {}}}
    assert portmap == {**head, **MASTER.config["plugins"][1], "runtimeConfig": MASTER.capability_args}
    assert bridge == {**head, **MASTER.config["plugins"][0]}
    assert f"K8S_POD_NAME=testpod;K8S_POD_INFRA_CONTAINER_ID={CID}" in calls[0]["args"]
    assert node.journal.attachments() == []


def test_conflist_of_a_file_is_the_one_that_add_ran_not_the_lossy_copies_beside_it() -> None:
    entry = MASTER.listed()
    assert "isGateway" not in json.dumps(entry["ConfList"])
    assert "isGateway" not in base64.b64decode(entry["Bytes"]).decode()
    (row,) = rows([MASTER])
    assert recorded_delegate(row).raw == MASTER.config


def test_inline_conflist_is_the_one_that_add_ran_not_the_lossy_copies_beside_it() -> None:
    inline = replace(MASTER, inline=True)
    entry = inline.listed()
    assert "isGateway" not in json.dumps(entry["ConfList"])
    assert "isGateway" in base64.b64decode(entry["Bytes"]).decode()
    (row,) = rows([inline])
    assert recorded_delegate(row).raw == MASTER.config


def test_list_of_an_older_multus_has_the_whole_configuration() -> None:
    entry = replace(MASTER, inline=True).listed()
    del entry["CNINetworkConfigList"]
    cached = multus_cache.read_cached(json.dumps(MASTER.cached(CID, NETNS)).encode())
    (row,) = multus_cache.attachments(
        CID,
        json.dumps([entry]).encode(),
        [cached],
        multus=MULTUS,
        identity=lambda _: HERE,
    )
    assert recorded_delegate(row).raw == MASTER.config

"""Node policies: rejected policies, the PFs that they select, and how several are merged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tests import pfs
from wirespeed.cli.main import main
from wirespeed.errors import Error, Kind
from wirespeed.provision.facts import Pf
from wirespeed.provision.policy import (
    API_VERSION,
    KIND,
    Policy,
    Wanted,
    for_node,
    load,
    merge,
    vf_numbers,
)

PF0 = replace(pfs.PF, address="0000:86:00.0", device="158b", name="ens803f0", altnames=("enp134s0f0",))
PF1 = replace(pfs.PF, address="0000:86:00.1", vendor="15b3", device="1017", name="ens803f1")

PF_NAMES = 'key "spec.nicSelector.pfNames[0]": '


def written(folder: Path, *specs: dict[str, Any], **more: Any) -> list[Policy]:
    """Policies from a file with these specs, named p0, p1, ...; missing keys have small valid defaults."""
    documents = [
        {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": f"p{number}"},
            "spec": {"resourceName": f"r{number}", "nicSelector": {"pfNames": ["ens803f0"]}, "numVfs": 2, **spec},
            **more,
        }
        for number, spec in enumerate(specs)
    ]
    path = folder / "policies.yaml"
    path.write_text("\n---\n".join(map(json.dumps, documents)))
    return load([path])


def groups(wanted: Wanted) -> list[tuple[str, list[int], str]]:
    return [(group.resource, sorted(group.numbers), group.device_type) for group in wanted.groups]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"numVfs": 0}, 'key "spec.numVfs": expected an integer from 1 to 65535, got 0'),
        ({"numVfs": "4"}, "key \"spec.numVfs\": expected an integer from 1 to 65535, got '4'"),
        ({"priority": 100}, 'key "spec.priority": expected an integer from 0 to 99, got 100'),
        ({"numVFs": 4}, 'unknown key "spec.numVFs"; did you mean "numVfs"?'),
        (
            {"nicSelector": {"pfName": ["e"]}},
            'unknown key "spec.nicSelector.pfName"; did you mean "pfNames"?',
        ),
        (
            {"deviceType": "vfio_pci"},
            'key "spec.deviceType": expected "netdevice" or "vfio-pci", got \'vfio_pci\'; did you mean "vfio-pci"?',
        ),
        ({"nicSelector": {}}, 'key "spec.nicSelector": expected vendor, deviceID, rootDevices or pfNames'),
        (
            {"nicSelector": {"vendor": "0x8086"}},
            "key \"spec.nicSelector.vendor\": expected four hex digits, got '0x8086'",
        ),
        (
            {"nicSelector": {"rootDevices": ["86:00.0"]}},
            'key "spec.nicSelector.rootDevices[0]": expected a PCI address',
        ),
        (
            {"nicSelector": {"pfNames": ["ens803f0#a-c"]}},
            PF_NAMES + "expected VF numbers like 0,2-5 after the #, got 'ens803f0#a-c'",
        ),
        (
            {"nicSelector": {"pfNames": ["ens803f0#1-0"]}},
            PF_NAMES + "expected VF numbers like 0,2-5 after the #, got 'ens803f0#1-0'",
        ),
        (
            {"nicSelector": {"pfNames": ["ens803f0#0-2"]}},
            PF_NAMES + "expected VF numbers from 0 to 1, got 'ens803f0#0-2'; numVfs is 2",
        ),
        (
            {"nicSelector": {"netFilter": "aws/NetworkID:x"}},
            'key "spec.nicSelector.netFilter": expected none: it is not supported',
        ),
        (
            {"vdpaType": "vhost"},
            'key "spec.vdpaType": expected deviceType netdevice and eSwitchMode switchdev with it',
        ),
        (
            {"vdpaType": "virtio", "eSwitchMode": "switchdev", "deviceType": "vfio-pci"},
            'key "spec.vdpaType": expected deviceType netdevice and eSwitchMode switchdev with it',
        ),
        ({"vdpaType": "net"}, 'key "spec.vdpaType": expected "virtio" or "vhost", got \'net\''),
        ({"bridge": {"ovs": {}}}, 'key "spec.bridge": expected none: it is not supported'),
        ({"deviceType": "vfio-pci", "isRdma": True}, 'key "spec.isRdma": expected false with deviceType vfio-pci'),
        (
            {"eSwitchMode": "switchdev", "linkType": "IB"},
            'key "spec.eSwitchMode": expected linkType eth with switchdev',
        ),
        ({"resourceName": "a.b"}, 'key "spec.resourceName": expected up to 63 letters'),
        ({"resourceName": "-x"}, 'key "spec.resourceName": expected up to 63 letters'),
        ({"resourceName": "x" * 64}, 'key "spec.resourceName": expected up to 63 letters'),
        *(
            ({"resourceName": name}, 'key "spec.resourceName": expected up to 63 letters')
            for name in ("", "_", "-", "x-", "a b", "a/b")
        ),
    ],
)
def test_a_wrong_policy_is_refused_by_file_document_and_key(
    tmp_path: Path, spec: dict[str, Any], told: str
) -> None:
    with pytest.raises(Error) as refused:
        written(tmp_path, {}, spec)
    assert refused.value.kind == Kind.INVALID_CONFIG
    assert refused.value.msg.startswith(f"{tmp_path}/policies.yaml, document 2: policy p1: {told}")


@pytest.mark.parametrize(
    "name", ["myresource", "my-resource", "MyResource", "a", "my_resource", "net_device-1", "x" * 63]
)
def test_a_resource_name_may_be(tmp_path: Path, name: str) -> None:
    assert written(tmp_path, {"resourceName": name})[0].spec.resource_name == name


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- 1", "document 1: expected an object with kind and metadata, got [1]"),
        (f"kind: {KIND}", 'document 1: key "apiVersion": expected sriovnetwork.openshift.io/v1, got None'),
        ("kind: Pod", "expected objects of kind SriovNetworkNodePolicy; there are none"),
        ("a: [", "not YAML: "),
        ("", "expected objects of kind SriovNetworkNodePolicy; there are none"),
    ],
)
def test_a_file_that_holds_no_policies(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(Error) as refused:
        load([path])
    assert told in refused.value.msg


def test_a_policy_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    written(tmp_path / "a", {})
    written(tmp_path, {})
    with pytest.raises(Error, match=r"policy p0: it is there twice, also in .*/a/policies.yaml, document 1"):
        load([tmp_path / "a/policies.yaml", tmp_path / "policies.yaml"])


EXPORTED = """
apiVersion: v1
items:
- apiVersion: sriovnetwork.openshift.io/v1
  kind: SriovNetworkNodePolicy
  metadata:
    creationTimestamp: 2024-05-01T10:00:00Z
    generation: 1
    managedFields: [{manager: sriov-network-operator, operation: Update, time: 2024-05-01T10:00:00Z}]
    name: default
    namespace: sriov-network-operator
    resourceVersion: "1203"
    uid: 3c5a3a8e-0000-4000-8000-000000000001
  spec:
    nicSelector: {}
    nodeSelector: {}
    numVfs: 0
    resourceName: ""
- apiVersion: sriovnetwork.openshift.io/v1
  kind: SriovNetworkNodePolicy
  metadata:
    creationTimestamp: null
    name: mine
    uid: 1e3
  spec:
    bridge: {ovs: null}
    linkType: null
    mtu:
    nicSelector:
      pfNames:
      rootDevices: [0000:18:00.0, 0000:18:00.1]
    nodeSelector:
    numVfs: 4.0
    priority: 0o12
    resourceName: intelnics
  status: {}
kind: List
metadata:
  resourceVersion: ""
---
apiVersion: v1
kind: Namespace
metadata: {name: sriov-network-operator}
"""


@pytest.mark.parametrize("kind", ["List", f"{KIND}List"])
def test_what_kubectl_writes_is_read(tmp_path: Path, kind: str) -> None:
    """A list from the cluster, with the API server's additional keys; an unquoted address is a string."""
    path = tmp_path / "exported.yaml"
    path.write_text(EXPORTED.replace("kind: List", f"kind: {kind}"))
    said: list[str] = []
    (policy,) = load([path], on_skip=said.append)
    assert policy.name == "mine"
    assert policy.spec.nic_selector.root_devices == ["0000:18:00.0", "0000:18:00.1"]
    assert (policy.spec.num_vfs, policy.spec.priority, policy.spec.mtu) == (4, 10, 0)
    assert said == [
        f"{path}, document 1: policy default: skipped, it is the operator's own policy and requests nothing",
        f"{path}, document 2: Namespace sriov-network-operator: skipped, it is not a {KIND}",
    ]


def test_the_operators_own_policy_alone_asks_for_nothing(tmp_path: Path) -> None:
    nothing = {"resourceName": "", "nicSelector": {}, "numVfs": 0}
    assert written(tmp_path, nothing, metadata={"name": "default"}) == []
    with pytest.raises(Error, match=r'policy p0: key "spec\.resourceName"'):
        written(tmp_path, nothing)


def test_the_command_says_what_it_passes_over(tmp_path: Path) -> None:
    written(tmp_path, {"resourceName": "", "nicSelector": {}, "numVfs": 0}, metadata={"name": "default"})
    (tmp_path / "agent.yaml").write_text(f"sysfs: {tmp_path}/sys\nstate: {tmp_path}/state.db\n")
    (tmp_path / "sys/bus/pci/devices").mkdir(parents=True)
    arguments = ["vf", "apply", str(tmp_path / "policies.yaml"), "--config", str(tmp_path / "agent.yaml")]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout == (
        f"{tmp_path}/policies.yaml, document 1: policy default: skipped, it is the operator's own policy and "
        "requests nothing\nnothing to do\n"
    )


def test_a_policy_of_that_name_that_asks_for_vfs_is_one_like_others(tmp_path: Path) -> None:
    (policy,) = written(tmp_path, {"numVfs": 3}, metadata={"name": "default"})
    assert policy.spec.num_vfs == 3


def test_a_node_selector_is_met_by_equal_labels(tmp_path: Path) -> None:
    policies = written(tmp_path, {"nodeSelector": {"role": "worker", "dpdk": ""}}, {})
    assert [p.name for p in for_node(policies, {"role": "worker", "dpdk": "", "other": "x"})] == ["p0", "p1"]
    assert [p.name for p in for_node(policies, {"role": "worker"})] == ["p1"]


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ({"vendor": "8086"}, [PF0]),
        ({"vendor": "15B3", "deviceID": "1017"}, [PF1]),
        ({"rootDevices": ["0000:86:00.0", "0000:86:00.1"]}, [PF0, PF1]),
        ({"pfNames": ["enp134s0f0"]}, [PF0]),  # an alternative name
        ({"pfNames": ["enp134s0f0", "ens803f1"], "vendor": "15b3"}, [PF1]),
    ],
)
def test_a_selector_selects_by_all_of_its_keys(tmp_path: Path, selector: dict[str, Any], chosen: list[Pf]) -> None:
    wanted = merge(written(tmp_path, {"nicSelector": selector}), [PF0, PF1])
    assert sorted(wanted) == [pf.address for pf in chosen]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"nicSelector": {"vendor": "1234"}}, 'policy p0: key "spec.nicSelector": no PF of this node is selected'),
        ({"numVfs": 65}, "expected at most 64, what PF ens803f0 offers, got 65"),
        ({"linkType": "ib"}, "expected the type of PF 0000:86:00.0, ether, got 'ib'"),
    ],
)
def test_a_policy_that_no_pf_of_the_node_can_meet(tmp_path: Path, spec: dict[str, Any], told: str) -> None:
    with pytest.raises(Error) as refused:
        merge(written(tmp_path, spec), [PF0])
    assert told in refused.value.msg


def test_an_alternative_name_keeps_its_numbers_and_several_ranges_add_up(tmp_path: Path) -> None:
    selector = {"pfNames": ["enp134s0f0#2-3,5", "ens803f0#0"]}
    wanted = merge(written(tmp_path, {"nicSelector": selector, "numVfs": 6}), [PF0])
    assert groups(wanted[PF0.address]) == [("r0", [0, 2, 3, 5], "netdevice")]


LOW = {"resourceName": "low", "nicSelector": {"pfNames": ["ens803f0#0-1"]}, "priority": 99}
HIGH = {"resourceName": "high", "nicSelector": {"pfNames": ["ens803f0#0-1"]}, "priority": 10}


@pytest.mark.parametrize(
    ("specs", "num_vfs", "mtu", "kept"),
    [
        # Higher priority, same VFs: only that one counts.
        ([LOW | {"numVfs": 4, "mtu": 2000}, HIGH], 2, 0, [("high", [0, 1])]),
        # Higher priority, other VFs: both count, with the larger number of VFs and MTU.
        (
            [LOW | {"mtu": 2000}, HIGH | {"nicSelector": {"pfNames": ["ens803f0#2-3"]}, "numVfs": 4}],
            4,
            2000,
            [("low", [0, 1]), ("high", [2, 3])],
        ),
        # Same priority, same VFs: the later by name counts, with the larger number of VFs and MTU.
        ([LOW | {"numVfs": 3, "mtu": 2000}, HIGH | {"priority": 99}], 3, 2000, [("high", [0, 1])]),
        # Same priority, other VFs: both count.
        (
            [LOW, HIGH | {"priority": 99, "nicSelector": {"pfNames": ["ens803f0#2-4"]}, "numVfs": 5}],
            5,
            0,
            [("low", [0, 1]), ("high", [2, 3, 4])],
        ),
        # Same resource: the later replaces the earlier.
        (
            [LOW, LOW | {"nicSelector": {"pfNames": ["ens803f0#2-3"]}, "numVfs": 4}],
            4,
            0,
            [("low", [2, 3])],
        ),
        # One policy that covers the VFs of two others.
        (
            [
                LOW | {"nicSelector": {"pfNames": ["ens803f0#0"]}},
                LOW | {"resourceName": "two", "nicSelector": {"pfNames": ["ens803f0#1"]}},
                HIGH,
            ],
            2,
            0,
            [("high", [0, 1])],
        ),
    ],
)
def test_policies_are_laid_over_each_other_by_priority(
    tmp_path: Path, specs: list[dict[str, Any]], num_vfs: int, mtu: int, kept: list[tuple[str, list[int]]]
) -> None:
    wanted = merge(written(tmp_path, *specs), [PF0])[PF0.address]
    found = [(resource, numbers) for resource, numbers, _ in groups(wanted)]
    assert (wanted.num_vfs, wanted.mtu, found) == (num_vfs, mtu, kept)


def test_policies_of_two_pfs_stand_side_by_side(tmp_path: Path) -> None:
    other = HIGH | {"nicSelector": {"pfNames": ["ens803f1#0-1"]}}
    wanted = merge(written(tmp_path, LOW, other), [PF0, PF1])
    assert {address: groups(each) for address, each in wanted.items()} == {
        PF0.address: [("low", [0, 1], "netdevice")],
        PF1.address: [("high", [0, 1], "netdevice")],
    }


def test_two_names_of_a_pf_are_one_pf(tmp_path: Path) -> None:
    by_altname = HIGH | {"nicSelector": {"pfNames": ["enp134s0f0#0-1"]}}
    assert groups(merge(written(tmp_path, LOW, by_altname), [PF0])[PF0.address]) == [("high", [0, 1], "netdevice")]


def test_no_policies_ask_for_nothing() -> None:
    assert merge([], [PF0]) == {}


@given(st.text(alphabet="0123456789,-a ", max_size=12))
def test_vf_numbers_are_read_or_refused(text: str) -> None:
    try:
        numbers = vf_numbers(text)
    except ValueError as error:
        assert str(error).startswith("expected VF numbers like 0,2-5")
        return
    assert numbers
    assert vf_numbers(",".join(map(str, numbers))) == numbers

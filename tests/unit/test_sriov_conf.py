"""The SR-IOV configuration: accepted and rejected values, and error messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.kernel.netlink.vf import VfSettings
from wirespeed.plugins.sriov import conf
from wirespeed.plugins.sriov.conf import KEYS, BridgePort, SriovConf
from wirespeed.plugins.sriov.rss import Rss

DEVICE = "0000:af:06.1"


def request(**keys: Any) -> Request:
    config = {"cniVersion": "1.0.0", "name": "net", "type": "wirespeed-sriov", "deviceID": DEVICE} | keys
    return Request(command="ADD", container_id="c", netns="/n", ifname="net1", config=config)


def parse(asked: Request) -> SriovConf:
    return conf.parse(asked, Path("/devinfo"))


def test_a_device_alone_changes_nothing_of_the_vf() -> None:
    asked = parse(request())
    assert asked.device == DEVICE
    assert asked.settings == VfSettings()
    assert (asked.mac, asked.mtu, asked.txqlen, asked.promisc, asked.allmulti) == (*[None] * 5,)
    assert (asked.queues, asked.rss) == (None, None)
    assert (asked.reset, asked.driver) == (None, "")


def test_of_a_peers_key_in_two_spellings_the_last_one_counts() -> None:
    asked = parse(request(type="sriov", VLAN=5, vlan=6))
    assert asked.settings == VfSettings(vlan=6, vlan_qos=0, vlan_proto=0x8100)


def test_every_key_reaches_its_setting() -> None:
    asked = parse(
        request(
            vlan=100,
            vlanQoS=3,
            vlanProto="802.1AD",
            mac="02:00:00:00:00:AA",
            spoofchk="off",
            trust="on",
            link_state="enable",
            min_tx_rate=10,
            max_tx_rate=200,
            mtu=9000,
            txQueueLen=4000,
            promisc="on",
            all_multicast="off",
            queues=4,
            rss={"weights": [3, 1], "hash": "xor"},
            driver="vfio-pci",
            rdmaIsolation=False,
            reset="off",
        )
    )
    assert asked.settings == VfSettings(
        mac="02:00:00:00:00:aa",
        vlan=100,
        vlan_qos=3,
        vlan_proto=0x88A8,
        spoofchk=False,
        trust=True,
        link_state=1,
        min_tx_rate=10,
        max_tx_rate=200,
    )
    assert (asked.mac, asked.mtu, asked.txqlen) == ("02:00:00:00:00:aa", 9000, 4000)
    assert (asked.promisc, asked.allmulti, asked.queues) == (True, False, 4)
    assert asked.rss == Rss(weights=[3, 1], hash="xor")
    assert (asked.driver, asked.reset) == ("vfio-pci", False)


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ({"runtimeConfig": {"mac": "02:00:00:00:00:01"}, "mac": "02:00:00:00:00:03"}, "02:00:00:00:00:01"),
        ({"mac": "02:00:00:00:00:03"}, "02:00:00:00:00:02"),
    ],
)
def test_the_runtimes_mac_wins_over_the_arguments_and_these_over_the_configuration(
    sources: dict[str, Any], expected: str
) -> None:
    asked = request(**sources).derive(args={"MAC": "02:00:00:00:00:02"})
    assert parse(asked).mac == expected


GUID, OTHER = "02:00:00:00:00:00:00:01", "02:00:00:00:00:00:00:02"


@pytest.mark.parametrize(
    ("keys", "args"),
    [
        ({"runtimeConfig": {"infinibandGUID": GUID}, "args": {"cni": {"guid": OTHER}}}, {"GUID": OTHER}),
        ({"args": {"cni": {"guid": OTHER}}}, {"GUID": GUID}),
        ({"args": {"cni": {"guid": GUID.replace(":", "-")}}}, {}),
    ],
)
def test_the_runtimes_guid_wins_over_the_arguments_and_these_over_the_configuration(
    keys: dict[str, Any], args: dict[str, str]
) -> None:
    asked = parse(request(**keys).derive(args=args))
    assert asked.settings == VfSettings(node_guid=GUID, port_guid=GUID)


@pytest.mark.parametrize("guid", [5, "02:00:00:00:00:01", ":".join(["00"] * 8), ":".join(["FF"] * 8), "x"])
def test_what_is_no_guid_is_refused(guid: object) -> None:
    with pytest.raises(Error, match=r'key "infinibandGUID": expected an 8-byte GUID like .*, got') as refused:
        parse(request(runtimeConfig={"infinibandGUID": guid}))
    assert refused.value.kind == Kind.INVALID_CONFIG


def test_a_scalable_function_has_no_guid_to_set() -> None:
    with pytest.raises(Error, match='key "infinibandGUID": it has no effect on a scalable function'):
        parse(request(deviceID="mlx5_core.sf.4", runtimeConfig={"infinibandGUID": GUID}))


@pytest.mark.parametrize("args", [5, {"cni": 5}, {"cni": None}, {"cni": {"guid": ""}}])
def test_arguments_without_a_guid_ask_for_none(args: object) -> None:
    assert parse(request(args=args)).settings == VfSettings()


def test_an_unknown_argument_is_refused_unless_unknown_ones_may_be_ignored() -> None:
    asked = request().derive(args={"FOO": "1", "MAC": "02:00:00:00:00:02"})
    with pytest.raises(Error, match="network net: CNI_ARGS: unknown FOO; expected one of") as refused:
        parse(asked)
    assert refused.value.kind == Kind.INVALID_REQUEST
    assert parse(asked.derive(args={**asked.args, "IgnoreUnknown": "1"})).mac == "02:00:00:00:00:02"


def test_the_runtimes_own_arguments_are_known() -> None:
    args = {
        "K8S_POD_NAMESPACE": "default",
        "K8S_POD_NAME": "p",
        "K8S_POD_INFRA_CONTAINER_ID": "c",
        "IP": "10.0.0.5",
    }
    assert parse(request().derive(args=args)).mac is None


def test_a_device_info_file_lies_in_the_folder_for_them() -> None:
    asked = parse(request(runtimeConfig={"CNIDeviceInfoFile": "/devinfo/cni/default-net-c_net1"}))
    assert asked.device_info_file == "/devinfo/cni/default-net-c_net1"


def test_keys_are_read_in_any_case_as_the_peer_does() -> None:
    assert parse(request(VLAN=7, Trust="on")).settings == VfSettings(
        vlan=7, vlan_qos=0, vlan_proto=0x8100, trust=True
    )


def test_vlan_0_without_priority_is_explicitly_no_vlan() -> None:
    assert parse(request(vlan=0, vlanQoS=0, vlanProto="802.1Q")).settings.vlan == 0


INFO_FILE = 'key "runtimeConfig.CNIDeviceInfoFile": expected '

REFUSED = [
    ({"deviceID": None}, 'key "deviceID" is missing: expected the PCI address of a VF'),
    (
        {"deviceID": "eth0"},
        'key "deviceID": expected a PCI address like 0000:03:02.0, or a scalable function like mlx5_core.sf.4, '
        "got 'eth0'",
    ),
    ({"deviceID": "mlx5_core.rdma.4"}, 'key "deviceID": expected a PCI address'),
    ({"deviceID": "../mlx5_core.sf.4"}, 'key "deviceID": expected a PCI address'),
    ({"deviceID": "0000:03:02.8"}, 'key "deviceID": expected a PCI address'),
    ({"deviceID": "../0000:03:02.0"}, 'key "deviceID": expected a PCI address'),
    ({"vlan": 4095}, 'key "vlan": expected an integer from 0 to 4094, got 4095'),
    ({"vlan": 5000}, 'key "vlan": expected an integer from 0 to 4094, got 5000'),
    ({"vlan": -1}, 'key "vlan": expected an integer from 0 to 4094, got -1'),
    ({"vlan": "100"}, "key \"vlan\": expected an integer from 0 to 4094, got '100'"),
    ({"vlan": True}, 'key "vlan": expected an integer from 0 to 4094, got True'),
    ({"vlan": 1, "vlanQoS": 8}, 'key "vlanQoS": expected an integer from 0 to 7, got 8'),
    ({"vlanQoS": 0}, 'key "vlanQoS": it needs the key "vlan"'),
    ({"vlan": 0, "vlanQoS": 1}, 'key "vlanQoS": 1 needs a "vlan" that is not 0'),
    ({"vlanProto": "802.1q"}, 'key "vlanProto": it needs the key "vlan"'),
    ({"vlan": 5, "vlanProto": "802"}, 'key "vlanProto": expected "802.1Q" or "802.1ad", got \'802\''),
    ({"vlan": 0, "vlanProto": "802.1ad"}, 'key "vlanProto": 802.1ad needs a "vlan" that is not 0'),
    ({"mac": "zz"}, 'key "mac": expected a unicast MAC address'),
    ({"mac": "01:00:5e:00:00:01"}, 'key "mac": expected a unicast MAC address'),
    ({"mac": "00:00:00:00:00:00"}, 'key "mac": expected a unicast MAC address'),
    ({"mac": 5}, 'key "mac": expected a unicast MAC address'),
    ({"spoofchk": "yes"}, 'key "spoofchk": expected "on" or "off", got \'yes\''),
    ({"spoofchk": True}, 'key "spoofchk": expected "on" or "off", got True'),
    ({"trust": "ON"}, 'key "trust": expected "on" or "off", got \'ON\''),
    ({"link_state": "ENABLE"}, 'key "link_state": expected "auto", "enable" or "disable", got \'ENABLE\''),
    ({"link_state": 1}, 'key "link_state": expected "auto", "enable" or "disable", got 1'),
    ({"min_tx_rate": -1}, 'key "min_tx_rate": expected an integer from 0'),
    (
        {"min_tx_rate": 200, "max_tx_rate": 100},
        'key "min_tx_rate": expected at most "max_tx_rate" (100 Mbit/s), got 200',
    ),
    ({"max_tx_rate": "10"}, 'key "max_tx_rate": expected an integer from 0'),
    ({"mtu": 10}, 'key "mtu": expected an integer from 68 to 65535, got 10'),
    ({"txQueueLen": 0}, 'key "txQueueLen": expected an integer from 1 to 100000, got 0'),
    ({"txQueueLen": 100_001}, 'key "txQueueLen": expected an integer from 1 to 100000, got 100001'),
    ({"txQueueLen": "500"}, "key \"txQueueLen\": expected an integer from 1 to 100000, got '500'"),
    ({"txQLen": 500}, 'unknown key "txQLen"; did you mean "txQueueLen"?'),
    ({"promisc": "on"}, 'key "promisc": "on" needs "trust": "on"'),
    ({"all_multicast": "on", "trust": "off"}, 'key "all_multicast": "on" needs "trust": "on"'),
    ({"all_multicast": True}, 'key "all_multicast": expected "on" or "off", got True'),
    ({"queues": 0}, 'key "queues": expected an integer from 1 to 1024, got 0'),
    ({"driver": "../vfio-pci"}, 'key "driver": expected the name of a driver like "vfio-pci"'),
    ({"rdmaIsolation": "yes"}, "key \"rdmaIsolation\": expected true or false, got 'yes'"),
    ({"rdmaIsolation": 1}, 'key "rdmaIsolation": expected true or false, got 1'),
    ({"rdmaIsolation": True, "driver": "netdevice"}, 'key "rdmaIsolation": it cannot be combined with "driver"'),
    ({"driver": 5}, 'key "driver": expected the name of a driver'),
    ({"rss": {"queues": 0}}, 'key "rss.queues": expected an integer from 1 to 1024, got 0'),
    ({"reset": "yes"}, 'key "reset": expected "on" or "off", got \'yes\''),
    ({"vlanTrunk": "10-20"}, 'key "vlanTrunk": the kernel cannot give several VLANs to a VF'),
    ({"bridge": "br int"}, 'key "bridge": expected the name of an Open vSwitch bridge like br-int'),
    ({"bridge": 5}, 'key "bridge": expected the name of an Open vSwitch bridge'),
    ({"trunk": [5]}, 'key "trunk": it needs the key "bridge"'),
    ({"bridge": "br0", "trunk": [0]}, 'key "trunk": expected a list of VLANs from 1 to 4094, got [0]'),
    ({"bridge": "br0", "trunk": "5"}, 'key "trunk": expected a list of VLANs'),
    ({"bridge": "br0", "trunk": [5], "vlan": 5}, 'key "trunk": VLAN 5 is the untagged one'),
    ({"bridge": "br0", "vlan": 5, "vlanQoS": 3}, 'key "bridge": a port of Open vSwitch has no "vlanQoS"'),
    ({"bridge": "br0", "vlan": 5, "vlanProto": "802.1ad"}, 'key "bridge": a port of Open vSwitch has no'),
    ({"bridge": "br0", "min_tx_rate": 5}, 'key "bridge": a port of Open vSwitch has no'),
    ({"bridge": "br0", "vlan": 4095}, 'key "vlan": expected an integer from 0 to 4094'),
    ({"vlann": 5}, 'unknown key "vlann"; did you mean "vlan"?'),
    ({"spoof_chk": "on"}, 'unknown key "spoof_chk"; did you mean "spoofchk"?'),
    ({"VLAN": 5, "vlan": 6}, 'key "vlan": it is given twice, also as "vlan"'),
    ({"runtimeConfig": {"CNIDeviceInfoFile": "/etc/passwd"}}, INFO_FILE + "a file in /devinfo, got '/etc/passwd'"),
    ({"runtimeConfig": {"CNIDeviceInfoFile": "/devinfo/../etc/passwd"}}, INFO_FILE + "an absolute path"),
    ({"runtimeConfig": {"CNIDeviceInfoFile": "devinfo/a"}}, INFO_FILE + "a file in /devinfo"),
    ({"runtimeConfig": {"CNIDeviceInfoFile": "/devinfo"}}, INFO_FILE + "a file in /devinfo"),
    ({"runtimeConfig": {"CNIDeviceInfoFile": 5}}, INFO_FILE + "an absolute path"),
    ({"runtimeConfig": []}, 'key "runtimeConfig": expected an object'),
    ({"ipam": "host-local"}, 'key "ipam": expected an object'),
]


@pytest.mark.parametrize(("keys", "message"), REFUSED, ids=[str(keys) for keys, _ in REFUSED])
def test_refuses(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(Error) as refused:
        parse(request(**keys))
    assert refused.value.kind == Kind.INVALID_CONFIG
    assert refused.value.msg.startswith(f"network net: {message}")


def test_vlan_and_limit_are_the_ports_and_not_the_vfs_where_there_is_a_bridge() -> None:
    asked = parse(
        request(bridge="br-int", vlan=5, trunk=[7, 6], max_tx_rate=100, trust="on", mac="02:00:00:00:00:0a")
    )
    assert asked.port == BridgePort(bridge="br-int", vlan=5, trunk=(6, 7), rate=100)
    assert asked.settings == VfSettings(mac="02:00:00:00:00:0a", trust=True)
    assert parse(request(bridge="br-int", vlan=0)).port == BridgePort(bridge="br-int")
    assert parse(request(bridge="")).port is None


def test_a_scalable_functions_port_has_a_vlan_and_a_limit() -> None:
    asked = parse(request(deviceID=FUNCTION, bridge="br-int", vlan=5, max_tx_rate=100))
    assert asked.port == BridgePort(bridge="br-int", vlan=5, rate=100)
    with pytest.raises(Error, match='key "trust": it has no effect on a scalable function'):
        parse(request(deviceID=FUNCTION, bridge="br-int", trust="on"))


FUNCTION = "mlx5_core.sf.4"


def test_a_scalable_functions_interface_gets_what_an_interface_has() -> None:
    keys = {"mac": "02:00:00:00:00:0a", "mtu": 9000, "txQueueLen": 500, "promisc": "on", "all_multicast": "on"}
    asked = parse(request(deviceID=FUNCTION, queues=2, rdmaIsolation=True, **keys))
    assert (asked.device, asked.settings) == (FUNCTION, VfSettings())
    assert (asked.mac, asked.mtu, asked.txqlen, asked.promisc, asked.allmulti) == tuple(
        True if value == "on" else value for value in keys.values()
    )
    assert (asked.queues, asked.rdma_isolation) == (2, True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vlan", 0),
        ("vlanQoS", 0),
        ("vlanProto", "802.1q"),
        ("spoofchk", "off"),
        ("trust", "on"),
        ("link_state", "auto"),
        ("min_tx_rate", 0),
        ("max_tx_rate", 0),
        ("driver", "vfio-pci"),
        ("reset", "off"),
        ("vlan", [100]),
        ("trust", {}),
    ],
)
def test_what_only_a_vf_has_is_refused_for_a_scalable_function(key: str, value: object) -> None:
    with pytest.raises(Error, match=f'key "{key}": it has no effect on a scalable function') as refused:
        parse(request(deviceID=FUNCTION, **{key: value}))
    assert refused.value.kind == Kind.INVALID_CONFIG


@pytest.mark.parametrize(
    "key", ["vlan", "vlanQoS", "vlanProto", "min_tx_rate", "max_tx_rate", "spoofchk", "link_state", "driver"]
)
def test_empty_key_that_only_a_vf_has_is_ignored_for_a_scalable_function(key: str) -> None:
    asked = parse(request(deviceID=FUNCTION, **{key: ""}))
    assert (asked.device, asked.settings) == (FUNCTION, VfSettings())


def test_several_vlans_are_refused_in_the_peers_configuration_too() -> None:
    with pytest.raises(Error, match='key "vlanTrunk": the kernel cannot give several VLANs'):
        parse(request(type="sriov", vlantrunk="10-20"))


def test_an_unknown_key_of_the_peers_configuration_is_only_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    parse(request(type="sriov", vf=0))
    assert 'unknown key "vf": it has no effect' in caplog.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=10), JSON, max_size=6),
    st.sampled_from([DEVICE, FUNCTION]),
)
def test_whatever_is_configured_only_a_cni_error_comes_out(keys: dict[str, Any], device: str) -> None:
    try:
        parse(request(**{"deviceID": device, **keys}))
    except Error as error:
        assert "\n" not in error.msg

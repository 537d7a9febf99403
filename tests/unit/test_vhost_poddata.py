"""The data for the application, in userspace-CNI's format and as device-info."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wirespeed.cni.request import Request
from wirespeed.errors import Error
from wirespeed.plugins.vhost import conf as configuration
from wirespeed.plugins.vhost import poddata
from wirespeed.plugins.vhost.sockets import Folder

OVS = {"engine": "ovs-dpdk", "iftype": "vhostuser"}
MEMIF = {"engine": "vpp", "iftype": "memif", "netType": "bridge", "bridge": {"bridgeId": 4}}
EMPTY: dict[str, Any] = {"memif": {}, "vhost": {}, "bridge": {}}


def data(
    host: dict[str, Any], container: dict[str, Any] | None = None, ips: bool = False, **more: Any
) -> dict[str, Any]:
    config = {"name": "net", "type": "userspace", "host": host, "container": container or {}, **more}
    request = Request(command="ADD", container_id="c" * 64, netns="/n", ifname="net1", config=config)
    conf = configuration.parse(request, Path("/devinfo"))
    addressing = {"ips": [{"address": "10.0.0.2/24", "gateway": "10.0.0.1"}]} if ips else {}
    return poddata.configuration_data(request, conf, role=conf.app_role, file="s", addressing=addressing)


@pytest.mark.parametrize(
    ("host", "container", "expected"),
    [
        ({**OVS, "vhost": {"mode": "client"}}, {}, {"vhost": {"mode": "server", "socketfile": "s"}}),
        ({**OVS, "vhost": {"mode": "server"}}, {}, {"vhost": {"mode": "client", "socketfile": "s"}}),
        (OVS, {}, {"vhost": {"mode": "client", "socketfile": "s"}}),
        (
            {**OVS, "vhost": {"mode": "server"}},
            {**OVS, "vhost": {"mode": "server"}},
            {"engine": "ovs-dpdk", "vhost": {"mode": "server", "socketfile": "s"}},
        ),
        (
            {**OVS, "vhost": {"mode": "client"}},
            {"vhost": {"mode": "server", "socketfile": "theirs"}},
            # there is only one socket, with the host's name for it
            {"vhost": {"mode": "server", "socketfile": "s"}},
        ),
        (OVS, {"netType": "bridge"}, {"netType": "bridge", "vhost": {"mode": "client", "socketfile": "s"}}),
        ({**MEMIF, "memif": {"role": "master"}}, {}, {"memif": {"role": "slave", "socketfile": "s"}}),
        ({**MEMIF, "memif": {"role": "slave"}}, {}, {"memif": {"role": "master", "socketfile": "s"}}),
        (
            {**MEMIF, "memif": {"role": "master", "mode": "ip"}},
            {},
            {"memif": {"role": "slave", "mode": "ip", "socketfile": "s"}},
        ),
        (
            {**MEMIF, "memif": {"role": "slave", "mode": "ip"}},
            {"memif": {"role": "master", "mode": "ethernet"}},
            {"memif": {"role": "master", "mode": "ethernet", "socketfile": "s"}},
        ),
    ],
)
def test_the_applications_side_follows_from_the_hosts(
    host: dict[str, Any], container: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert data(host, container)["config"] == {**EMPTY, "iftype": host["iftype"], **expected}


def test_addresses_are_told_without_gateways_and_make_it_an_interface() -> None:
    told = data(OVS, ips=True)
    assert told["config"]["netType"] == "interface"
    assert told["ipResult"] == {
        "interfaces": [{"name": "net1", "sandbox": "/n"}],
        "ips": [{"interface": 0, "address": "10.0.0.2/24"}],
        "dns": {},
    }
    assert data(OVS, {"netType": "bridge"}, ips=True)["config"]["netType"] == "bridge"
    assert "netType" not in data(OVS)["config"]


def test_an_interface_that_the_application_shall_not_take_for_the_hosts_kind_keeps_its_own() -> None:
    assert data(OVS, {"iftype": "memif"})["config"]["iftype"] == "memif"


def test_what_the_peer_cannot_say_stands_beside_it() -> None:
    config = data({**OVS, "mtu": 9000, "queues": 2}, mac="02:00:00:00:00:01")["config"]
    assert (config["mtu"], config["queues"], config["mac"]) == (9000, 2, "02:00:00:00:00:01")


def test_device_info_has_the_socket_as_the_container_finds_it() -> None:
    request = Request(command="ADD", config={"name": "net", "host": OVS})
    conf = configuration.parse(request, Path("/devinfo"))
    inside = poddata.device_info(conf, Folder(path="/host", inside="/pod"), role="server", file="s")
    assert inside["vhost-user"] == {"mode": "server", "path": "/pod/s"}
    unknown = poddata.device_info(conf, Folder(path="/host"), role="server", file="s")
    assert unknown["vhost-user"]["path"] == "/host/s"


# Annotations


def entry(ifname: str, note: str = "") -> dict[str, Any]:
    return {"ifName": ifname, "name": note}


def test_annotations_are_new() -> None:
    changed = poddata.pod_annotations({}, entry("net1"), "/sockets")
    assert json.loads(changed[poddata.CONFIGURATION_DATA]) == [entry("net1")]
    assert changed[poddata.MAPPED_DIR] == "/sockets/"


def test_a_second_interface_is_appended_and_one_that_is_there_replaced() -> None:
    present = {poddata.CONFIGURATION_DATA: json.dumps([entry("net1", "old"), entry("net2")])}
    changed = poddata.pod_annotations(present, entry("net1", "new"), "")
    assert json.loads(changed[poddata.CONFIGURATION_DATA]) == [entry("net2"), entry("net1", "new")]
    assert poddata.MAPPED_DIR not in changed


@pytest.mark.parametrize("said", ["/sockets", "/sockets/"])
def test_the_same_folder_is_left_as_it_is_written(said: str) -> None:
    assert poddata.MAPPED_DIR not in poddata.pod_annotations({poddata.MAPPED_DIR: said}, entry("net1"), "/sockets")


def test_another_folder_is_refused() -> None:
    with pytest.raises(Error, match="expected /sockets, the mount path of the volume, got '/other'"):
        poddata.pod_annotations({poddata.MAPPED_DIR: "/other"}, entry("net1"), "/sockets")


@pytest.mark.parametrize("text", ["", "{", '{"a": 1}', "null", "[1]"])
def test_data_that_is_none_is_replaced(text: str) -> None:
    changed = poddata.pod_annotations({poddata.CONFIGURATION_DATA: text}, entry("net1"), "")
    assert json.loads(changed[poddata.CONFIGURATION_DATA]) == [entry("net1")]

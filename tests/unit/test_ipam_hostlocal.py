"""host-local in process: allocated addresses, and the files on disk."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirespeed import structs
from wirespeed.cni.address import parse_ip, parse_prefix
from wirespeed.cni.errors import Code, code_of
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.ipam import Ipam, ranges
from wirespeed.ipam.leases import Leases
from wirespeed.ipam.ranges import RangeKeys
from wirespeed.system import inotify

ROOT = Path(__file__).parents[2]
SUBNET = {"subnet": "10.1.2.0/24"}


def request(container: str = "c1", ifname: str = "net1", *, ipam: dict[str, Any] = SUBNET, **more: Any) -> Request:
    args = more.pop("env", {})
    config = {"cniVersion": "1.1.0", "name": "net", "type": "probe", "ipam": {"type": "host-local", **ipam}, **more}
    return Request(command="ADD", container_id=container, netns="/n", ifname=ifname, args=args, config=config)


@pytest.fixture
def ipam(tmp_path: Path) -> Ipam:
    return Ipam(tmp_path)


def given_to(ipam: Ipam, call: Request) -> list[str]:
    return [ip["address"] for ip in ipam.add(call)["ips"]]


def failure(ipam: Ipam, call: Request) -> Error:
    with pytest.raises(Error) as failed:
        ipam.add(call)
    return failed.value


def files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_bytes().decode() for path in folder.iterdir()}


# Allocation


def test_address_comes_with_gateway_routes_and_dns(ipam: Ipam, tmp_path: Path) -> None:
    resolv = tmp_path / "resolv.conf"
    resolv.write_text(
        "# comment\n; another\nnameserver 10.0.0.53\nnameserver fd00::53\ndomain local\n"
        "search a b\nsearch c\noptions ndots:5\nsortlist 10.0.0.0\nnameserver\n"
    )
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.1.2.9"}]
    assert ipam.add(request(ipam=SUBNET | {"routes": routes, "resolvConf": str(resolv)})) == {
        "ips": [{"address": "10.1.2.2/24", "gateway": "10.1.2.1"}],
        "routes": routes,
        "dns": {
            "nameservers": ["10.0.0.53", "fd00::53"],
            "domain": "local",
            "search": ["a", "b", "c"],
            "options": ["ndots:5"],
        },
    }


def test_lease_lies_where_and_as_the_reference_plugin_keeps_it(ipam: Ipam, tmp_path: Path) -> None:
    sets = [[SUBNET], [{"subnet": "fd00::/64", "rangeStart": "fd00::00AB"}]]
    assert given_to(ipam, request(ipam={"ranges": sets})) == ["10.1.2.2/24", "fd00::ab/64"]
    assert files(tmp_path / "net") == {
        "10.1.2.2": "c1\r\nnet1",
        "fd00::ab": "c1\r\nnet1",
        "last_reserved_ip.0": "10.1.2.2",
        "last_reserved_ip.1": "fd00::ab",
        "lock": "",
    }


def test_leases_lie_in_the_data_folder_of_the_configuration(ipam: Ipam, tmp_path: Path) -> None:
    ipam.add(request(ipam=SUBNET | {"dataDir": str(tmp_path / "mine")}))
    assert (tmp_path / "mine/net/10.1.2.2").exists()


def test_freed_address_does_not_come_back_before_the_others(ipam: Ipam) -> None:
    small = {"subnet": "10.1.2.0/29"}  # .1 is the gateway, so .2 to .6 are allocated
    ipam.add(request("c1", ipam=small))
    ipam.delete(request("c1", ipam=small))
    assert [given_to(ipam, request(f"d{n}", ipam=small)) for n in range(5)] == [
        [f"10.1.2.{n}/29"] for n in (3, 4, 5, 6, 2)
    ]


def test_neither_gateway_nor_network_nor_broadcast_is_ever_given(ipam: Ipam) -> None:
    small = {"subnet": "10.1.2.0/29", "rangeStart": "10.1.2.0", "rangeEnd": "10.1.2.7", "gateway": "10.1.2.4"}
    assert sorted(given_to(ipam, request(f"c{n}", ipam=small))[0] for n in range(5)) == [
        f"10.1.2.{n}/29" for n in (1, 2, 3, 5, 6)
    ]
    failed = failure(ipam, request("c5", ipam=small))
    assert (code_of(failed), failed.msg) == (
        Code.ADDRESS,
        "ipam host-local: no address left in 10.1.2.1-10.1.2.6",
    )


@pytest.mark.parametrize("gateway", ["10.1.9.9", "fe80::1", "::a01:202"])
def test_gateway_outside_the_subnet_is_told_and_keeps_no_address_back(ipam: Ipam, gateway: str) -> None:
    far = {"subnet": "10.1.2.0/30", "gateway": gateway, "routes": [{"dst": "0.0.0.0/0"}]}
    given = ipam.add(request("c1", ipam=far))
    assert given["ips"] == [{"address": "10.1.2.1/30", "gateway": gateway}]
    assert given["routes"] == [{"dst": "0.0.0.0/0"}]
    assert given_to(ipam, request("c2", ipam=far)) == ["10.1.2.2/30"]


def test_keys_of_a_route_are_read_in_any_case(ipam: Ipam, caplog: pytest.LogCaptureFixture) -> None:
    call = request(ipam=SUBNET | {"Routes": [{"Dst": "10.9.0.0/16", "GW": "10.1.2.9", "MTU": 1400, "metric": 5}]})
    assert ipam.add(call)["routes"] == [{"dst": "10.9.0.0/16", "gw": "10.1.2.9", "mtu": 1400}]
    assert 'network net: unknown key "ipam.routes[0].metric": it has no effect' in caplog.text


def test_ranges_of_a_set_are_used_one_after_the_other(ipam: Ipam) -> None:
    both = {
        "ranges": [
            [
                {"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.10", "rangeEnd": "10.1.2.11"},
                {"subnet": "10.5.0.0/16", "rangeStart": "10.5.0.7", "rangeEnd": "10.5.0.7", "gateway": "10.5.9.9"},
            ]
        ]
    }
    assert [ipam.add(request(f"c{n}", ipam=both))["ips"][0] for n in range(3)] == [
        {"address": "10.1.2.10/24", "gateway": "10.1.2.1"},
        {"address": "10.1.2.11/24", "gateway": "10.1.2.1"},
        {"address": "10.5.0.7/16", "gateway": "10.5.9.9"},
    ]
    assert failure(ipam, request("c3", ipam=both)).msg.endswith("in 10.1.2.10-10.1.2.11, 10.5.0.7-10.5.0.7")


def test_ranges_of_the_runtime_come_first(ipam: Ipam) -> None:
    runtime = {"ipRanges": [[{"subnet": "10.7.0.0/24"}]]}
    assert given_to(ipam, request(runtimeConfig=runtime)) == ["10.7.0.2/24", "10.1.2.2/24"]


def test_large_subnet_is_not_walked(ipam: Ipam) -> None:
    wide = {"ranges": [[{"subnet": "10.0.0.0/8"}], [{"subnet": "fd00::/16"}]]}
    assert given_to(ipam, request(ipam=wide)) == ["10.0.0.2/8", "fd00::2/16"]


@pytest.mark.parametrize(
    "asked",
    [
        {"runtimeConfig": {"ips": ["10.1.2.77/24"]}},
        {"runtimeConfig": {"ips": ["10.1.2.77"]}},
        {"args": {"cni": {"ips": ["10.1.2.77"]}}},
        {"env": {"IP": "10.1.2.77"}},
        # The meta-plugin passes it in both ways.
        {"env": {"IP": "10.1.2.77/24"}, "runtimeConfig": {"ips": ["10.1.2.77/24"]}},
        {"runtimeConfig": {"ips": ["::ffff:10.1.2.77"]}},
    ],
)
def test_requested_address_is_given(ipam: Ipam, asked: dict[str, Any]) -> None:
    assert given_to(ipam, request(**asked)) == ["10.1.2.77/24"]


def test_requested_addresses_are_matched_to_their_range_sets(ipam: Ipam) -> None:
    sets = {"ranges": [[SUBNET], [{"subnet": "fd00::/64"}], [{"subnet": "10.8.0.0/24"}]]}
    call = request(ipam=sets, runtimeConfig={"ips": ["fd00::77", "10.1.2.77"]})
    assert given_to(ipam, call) == ["10.1.2.77/24", "fd00::77/64", "10.8.0.2/24"]


def test_requested_address_that_is_taken_names_its_owner(ipam: Ipam) -> None:
    ipam.add(request("c1"))
    failed = failure(ipam, request("c2", env={"IP": "10.1.2.2"}))
    assert (code_of(failed), failed.msg) == (
        Code.ADDRESS,
        "ipam host-local: requested address 10.1.2.2 belongs to container c1 net1",
    )


def test_interface_gets_no_second_address(ipam: Ipam) -> None:
    ipam.add(request("c1"))
    failed = failure(ipam, request("c1"))
    assert (code_of(failed), failed.msg) == (
        Code.ADDRESS,
        "ipam host-local: container c1 net1: address 10.1.2.2 of this network is already allocated to it; "
        "DEL it first",
    )
    assert given_to(ipam, request("c1", "net2")) == ["10.1.2.3/24"]


def test_what_was_given_is_taken_back_when_a_later_range_set_has_none(ipam: Ipam, tmp_path: Path) -> None:
    sets = {"ranges": [[SUBNET], [{"subnet": "10.8.0.0/30"}]]}
    ipam.add(request("c1", ipam=sets))
    failure(ipam, request("c2", ipam=sets))
    assert {name for name in files(tmp_path / "net") if name[0].isdigit()} == {"10.1.2.2", "10.8.0.2"}


# DEL, CHECK, GC, STATUS


def test_delete_frees_the_addresses_of_one_interface_and_may_be_repeated(ipam: Ipam, tmp_path: Path) -> None:
    sets = {"ranges": [[SUBNET], [{"subnet": "fd00::/64"}]]}
    for ifname in ("net1", "net2"):
        ipam.add(request("c1", ifname, ipam=sets))
    ipam.delete(request("c1", "net1", ipam=sets))
    ipam.delete(request("c1", "net1", ipam=sets))
    ipam.delete(request("c1", "net3", ipam=sets))
    left = {name: owner for name, owner in files(tmp_path / "net").items() if "\r\n" in owner}
    assert left == {"10.1.2.3": "c1\r\nnet2", "fd00::3": "c1\r\nnet2"}


def test_delete_of_a_network_that_never_was_makes_nothing(ipam: Ipam, tmp_path: Path) -> None:
    ipam.delete(request())
    assert not any(tmp_path.iterdir())


def test_delete_needs_no_sound_ranges(ipam: Ipam, tmp_path: Path) -> None:
    ipam.add(request())
    ipam.delete(request(ipam={"subnet": "changed meanwhile"}))
    assert not (tmp_path / "net/10.1.2.2").exists()


def test_delete_frees_what_was_noted_without_an_ifname(ipam: Ipam, tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/10.1.2.9").write_text("c1")
    (tmp_path / "net/10.1.2.10").write_text("c2\n")
    ipam.delete(request("c1"))
    assert set(files(tmp_path / "net")) == {"10.1.2.10", "lock"}


def test_check_finds_a_lease_for_each_range_set(ipam: Ipam, tmp_path: Path) -> None:
    sets = {"ranges": [[SUBNET], [{"subnet": "fd00::/64"}]]}
    call = request(ipam=sets)
    ipam.add(call)
    ipam.check(call)
    (tmp_path / "net/fd00::2").unlink()
    with pytest.raises(Error) as drifted:
        ipam.check(call)
    assert (code_of(drifted.value), drifted.value.msg) == (
        Code.DRIFT,
        f"ipam host-local: container c1 net1: no lease of fd00::1-fd00::ffff:ffff:ffff:ffff in {tmp_path}/net",
    )


def test_gc_keeps_the_valid_attachments_alone(ipam: Ipam, tmp_path: Path) -> None:
    for container in ("c1", "c2"):
        for ifname in ("net1", "net2"):
            ipam.add(request(container, ifname))
    (tmp_path / "net/10.1.2.100").write_text("c1")
    (tmp_path / "net/10.1.2.101").write_text("c3")
    (tmp_path / "net/10.1.2.102").write_text("")  # its writer was killed
    valid = [{"containerID": "c1", "ifname": "net1"}, {"containerID": "c2", "ifname": "net2"}]
    call = request()
    ipam.gc(call.derive(config=call.config | {"cni.dev/valid-attachments": valid}))
    assert {name for name in files(tmp_path / "net") if name[0].isdigit()} == {
        "10.1.2.2",
        "10.1.2.5",
        "10.1.2.100",
    }


def test_status_tells_what_keeps_addresses_from_being_given(ipam: Ipam, tmp_path: Path) -> None:
    ipam.status(request())
    (tmp_path / "file").write_text("")
    for call in (request(ipam={}), request(ipam=SUBNET | {"dataDir": str(tmp_path / "file")})):
        with pytest.raises(Error) as refused:
            ipam.status(call)
        assert refused.value.kind == Kind.UNAVAILABLE


# The directory and its lock


def test_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    failed = failure(Ipam(tmp_path / "file"), request())
    assert failed.kind == Kind.IO
    assert failed.msg.startswith(f"ipam host-local: leases in {tmp_path}/file/net: {tmp_path}/file/net/")
    assert failed.msg.endswith(": Not a directory")


@pytest.fixture
def held(tmp_path: Path) -> Iterator[int]:
    """The lock, held as by another process: flock(2) locks belong to the open file."""
    (tmp_path / "net").mkdir()
    file = os.open(tmp_path / "net/lock", os.O_RDWR | os.O_CREAT, 0o640)
    fcntl.flock(file, fcntl.LOCK_EX)
    yield file
    os.close(file)


def test_lock_of_another_process_is_waited_for(ipam: Ipam, held: int) -> None:
    answers: list[list[str]] = []
    worker = threading.Thread(target=lambda: answers.append(given_to(ipam, request())))
    worker.start()
    wait_until_blocked_in_flock()
    assert answers == []
    fcntl.flock(held, fcntl.LOCK_UN)
    worker.join(10)
    assert answers == [["10.1.2.2/24"]]


def wait_until_blocked_in_flock() -> None:
    """Wait until /proc/locks shows a waiter ("->") of this process."""
    deadline = time.monotonic() + 10
    while not any("->" in line and f" {os.getpid()} " in line for line in open("/proc/locks")):  # noqa: SIM115
        assert time.monotonic() < deadline


@pytest.mark.usefixtures("held")
def test_lock_is_not_waited_for_after_the_deadline(ipam: Ipam, tmp_path: Path) -> None:
    failed = failure(ipam, request().derive(deadline=time.monotonic() + 0.05))
    assert (code_of(failed), failed.msg) == (
        Code.TRY_AGAIN_LATER,
        f"ipam host-local: leases in {tmp_path}/net: the lock was not free before the deadline",
    )


def test_changes_of_others_are_seen_by_a_process_that_comes_back(ipam: Ipam, tmp_path: Path) -> None:
    for number in range(3):  # the directory is watched from the second call on
        ipam.add(request(f"c{number}"))
    other = Ipam(tmp_path)
    other.delete(request("c1"))
    ipam.add(request("c1"))  # its address was freed by the other process
    other.add(request("c9"))
    with pytest.raises(Error, match=r"belongs to container c9 net1"):
        ipam.add(request("d", env={"IP": "10.1.2.6"}))
    ipam.delete(request("c9"))
    assert not (tmp_path / "net/10.1.2.6").exists()


def test_folder_is_read_each_time_where_it_cannot_be_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_the_limit(path: str, mask: int) -> inotify.Watch:
        raise OSError(errno.EMFILE, "Too many open files", path)

    monkeypatch.setattr(inotify, "Watch", at_the_limit)
    ours, other = Ipam(tmp_path), Ipam(tmp_path)
    for number in range(3):
        ours.add(request(f"c{number}"))
        other.delete(request(f"c{number}"))
    assert given_to(ours, request("c0")) == ["10.1.2.5/24"]


def test_folder_that_was_replaced_is_read_anew(ipam: Ipam, tmp_path: Path) -> None:
    for number in range(3):
        ipam.add(request(f"c{number}"))
    (tmp_path / "net").rename(tmp_path / "old")
    ipam.add(request("c0"))
    assert set(files(tmp_path / "net")) >= {"10.1.2.2", "lock"}
    for path in (tmp_path / "net").iterdir():
        path.unlink()
    (tmp_path / "net").rmdir()
    assert given_to(ipam, request("c0")) == ["10.1.2.2/24"]


def test_half_written_lease_of_a_killed_process_is_no_lease(ipam: Ipam, tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/.new").write_text("somebody else with a long id\r\nnet1")
    assert given_to(ipam, request()) == ["10.1.2.2/24"]
    assert (tmp_path / "net/10.1.2.2").read_bytes() == b"c1\r\nnet1"


@pytest.mark.parametrize("last", ["", "nonsense", "10.200.0.1", "fd00::1", "\xff"])
def test_last_address_that_makes_no_sense_starts_the_range_anew(ipam: Ipam, tmp_path: Path, last: str) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/last_reserved_ip.0").write_text(last)
    assert given_to(ipam, request()) == ["10.1.2.2/24"]


def test_letting_go_of_leases_closes_their_watch(tmp_path: Path) -> None:
    before = watches()
    leases = Leases(tmp_path)
    for _ in range(3):
        with leases.locked(time.monotonic() + 10):
            pass
    assert len(watches() - before) == 1
    del leases
    assert watches() <= before


USES = """
import sys
from pathlib import Path
from wirespeed.ipam.leases import Leases

leases = Leases(Path(sys.argv[1]))
for use in range(2):
    with leases.locked(float("inf")):
        print("ctypes" in sys.modules)
"""


def test_ctypes_is_not_loaded_before_leases_are_used_again(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", USES, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert told.split() == ["False", "True"]


def watches() -> set[str]:
    """The file descriptors of this process that are inotify instances."""
    fds = [fd.path for fd in os.scandir("/proc/self/fd")]
    return {fd for fd in fds if os.path.lexists(fd) and os.readlink(fd) == "anon_inode:inotify"}


# Properties


subnets = st.integers(26, 30).map("10.0.0.0/{}".format)


@given(subnets, st.data())
def test_walk_in_turn_gives_every_address_once(subnet: str, data: st.DataObject) -> None:
    prefix = parse_prefix(subnet)
    assert prefix is not None
    hosts = st.integers(1, prefix.last - prefix.first - 1).map(lambda host: f"10.0.0.{host}")
    start, end = sorted([data.draw(hosts), data.draw(hosts)], key=lambda text: int(text.rpartition(".")[2]))
    conf = RangeKeys(subnet=subnet, range_start=start, range_end=end, gateway=data.draw(hosts))
    (ranged,) = ranges.read_sets(conf, None, None)
    last = data.draw(st.none() | hosts)
    walked = [str(ip) for _, ip in ranges.allocation_order(ranged, parse_ip(last))]
    wanted = {f"10.0.0.{host}" for host in range(int(start.split(".")[3]), int(end.split(".")[3]) + 1)}
    assert sorted(walked) == sorted(wanted - {conf.gateway})
    if walked and last in walked:
        assert walked[-1] == last


texts = st.sampled_from(["10.0.0.0/24", "10.0.0.5", "fd00::/64", "fd00::5", "10.0.0.0/30", "/x"]) | st.text(
    max_size=5
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*structs.keys_of(RangeKeys), "dst", "gw"]), inner, max_size=4)
    ),
    max_leaves=10,
)


config_keys = st.sampled_from([*structs.keys_of(RangeKeys), "ranges", "routes", "addresses", "dns"])


@given(
    conf=st.dictionaries(config_keys, values),
    kind=st.sampled_from(["host-local", "static"]),
    runtime=st.dictionaries(st.sampled_from(["ips", "ipRanges"]), values) | values,
    env=st.dictionaries(st.sampled_from(["IP", "GATEWAY"]), texts),
)
def test_only_cni_errors_come_out_of_any_configuration(
    tmp_path_factory: pytest.TempPathFactory, conf: dict[str, Any], kind: str, runtime: object, env: dict[str, str]
) -> None:
    ipam = Ipam(tmp_path_factory.getbasetemp() / "any")
    call = request(ipam={**conf, "type": kind}, runtimeConfig=runtime, args={"cni": runtime}, env=env)
    try:
        ipam.add(call)
    except Error as error:
        assert error.msg.isprintable()
    else:
        ipam.delete(call)

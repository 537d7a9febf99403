"""host-local and static in process compared with the reference plugins: same directory, same configurations."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, example, given, settings
from hypothesis import strategies as st

from wirespeed.cni.execute import run_plugin
from wirespeed.cni.request import Request
from wirespeed.errors import Error
from wirespeed.ipam import Ipam

REFERENCE = "/usr/lib/cni/host-local"
RANGES = [[{"subnet": "10.1.0.0/24"}], [{"subnet": "2001:db8::/64", "rangeStart": "2001:db8::00A0"}]]


class Sides:
    """Our host-local and the reference's, with the same directory."""

    def __init__(self, folder: Path, sets: list[list[dict[str, str]]]) -> None:
        self.folder = folder / "net"
        self._ipam = Ipam(Path("/nonexistent"))
        conf = {"type": "host-local", "dataDir": str(folder), "ranges": sets, "routes": [{"dst": "0.0.0.0/0"}]}
        self._config = {"cniVersion": "1.0.0", "name": "net", "type": "probe", "ipam": conf}

    def request(self, command: str, container: str, **more: Any) -> Request:
        config = self._config | more
        return Request(
            command=command, container_id=container, netns="/n", ifname="net1", path=("/x",), config=config
        )

    def ours(self, container: str, **more: Any) -> list[str]:
        return [ip["address"] for ip in self._ipam.add(self.request("ADD", container, **more))["ips"]]

    def theirs(self, container: str, **more: Any) -> list[str]:
        result = json.loads(run_plugin(REFERENCE, self.request("ADD", container, **more)))
        return [ip["address"] for ip in result["ips"]]

    def ours_frees(self, container: str) -> None:
        self._ipam.delete(self.request("DEL", container))

    def theirs_frees(self, container: str) -> None:
        run_plugin(REFERENCE, self.request("DEL", container))

    def ours_checks(self, container: str) -> None:
        self._ipam.check(self.request("CHECK", container))

    def theirs_checks(self, container: str) -> None:
        run_plugin(REFERENCE, self.request("CHECK", container))

    def leases(self) -> dict[str, bytes]:
        return {
            path.name: path.read_bytes()
            for path in self.folder.iterdir()
            if path.name != "lock" and not path.name.startswith("last_reserved_ip.")
        }


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    assert Path(REFERENCE).exists(), "install containernetworking-plugins"
    return Sides(tmp_path, RANGES)


def test_result_is_that_of_the_reference_plugin(tmp_path: Path) -> None:
    results, leases = [], []
    for name in ("ours", "theirs"):
        sides = Sides(tmp_path / name, RANGES)
        request = sides.request("ADD", "c1")
        if name == "ours":
            results.append(sides._ipam.add(request))
        else:
            raw = json.loads(run_plugin(REFERENCE, request))
            results.append({key: raw[key] for key in ("ips", "routes", "dns")})
        leases.append({path.name: path.read_bytes() for path in sides.folder.iterdir()})
    assert results[0] == results[1]
    assert leases[0] == leases[1]


def test_interleaved_allocations_never_meet_and_go_on_in_turn(sides: Sides) -> None:
    given = [sides.ours(f"c{n}") if n % 3 else sides.theirs(f"c{n}") for n in range(12)]
    assert [v4 for v4, _ in given] == [f"10.1.0.{n}/24" for n in range(2, 14)]
    assert [v6 for _, v6 in given] == [f"2001:db8::{n:x}/64" for n in range(0xA0, 0xAC)]


def test_each_frees_and_checks_what_the_other_gave(sides: Sides) -> None:
    for n in range(4):  # ours must continue in a directory that it has used before
        sides.ours(f"ours{n}")
        sides.theirs(f"theirs{n}")
    for n in range(4):
        sides.theirs_checks(f"ours{n}")
        sides.ours_checks(f"theirs{n}")
        sides.theirs_frees(f"ours{n}")
        sides.ours_frees(f"theirs{n}")
        for check, container in ((sides.theirs_checks, f"theirs{n}"), (sides.ours_checks, f"ours{n}")):
            with pytest.raises(Error):
                check(container)
    assert sides.leases() == {}


def test_address_requested_of_one_is_taken_for_the_other(sides: Sides) -> None:
    wanted = {"runtimeConfig": {"ips": ["10.1.0.77/24"]}}
    assert sides.theirs("c1", **wanted)[0] == "10.1.0.77/24"
    with pytest.raises(Error, match=r"requested address 10\.1\.0\.77 belongs to container c1 net1"):
        sides.ours("c2", **wanted)
    sides.ours_frees("c1")
    assert sides.ours("c2", **wanted)[0] == "10.1.0.77/24"
    with pytest.raises(Error, match=r"10\.1\.0\.77"):
        sides.theirs("c3", **wanted)


def test_both_find_the_same_small_range_full(tmp_path: Path) -> None:
    sides = Sides(tmp_path, [[{"subnet": "10.2.0.0/29"}]])
    assert [sides.ours("a"), sides.theirs("b"), sides.ours("c"), sides.theirs("d"), sides.ours("e")] == [
        [f"10.2.0.{n}/29"] for n in (2, 3, 4, 5, 6)
    ]
    for add in (sides.ours, sides.theirs):
        with pytest.raises(Error):
            add("f")
    sides.ours_frees("b")
    assert sides.theirs("f") == ["10.2.0.3/29"]
    sides.theirs_frees("c")
    assert sides.ours("g") == ["10.2.0.4/29"]


def test_reference_plugin_waits_for_the_lock_that_we_hold(sides: Sides) -> None:
    sides.ours("c1")
    request = sides.request("ADD", "c2")
    environ = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c2",
        "CNI_NETNS": "/n",
        "CNI_IFNAME": "net1",
        "CNI_PATH": "/x",
    }
    with open(sides.folder / "lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen([REFERENCE], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reference:
            assert reference.stdin is not None
            reference.stdin.write(json.dumps(request.config).encode())
            reference.stdin.close()
            inode = f":{os.fstat(lock.fileno()).st_ino} "
            while not any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines()):
                assert reference.poll() is None, "it did not wait"
            assert "10.1.0.3" not in sides.leases()
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert reference.wait(10) == 0
    assert sides.leases()["10.1.0.3"] == b"c2\r\nnet1"


def test_concurrent_callers_of_both_get_different_addresses(sides: Sides) -> None:
    given: list[str] = []
    failed: list[BaseException] = []

    def work(add: Callable[..., list[str]], free: Callable[[str], None], mark: str) -> None:
        try:
            for n in range(8):
                given.append(add(f"{mark}-{n}")[0])
            free(f"{mark}-0")
        except BaseException as error:
            failed.append(error)

    workers = [
        threading.Thread(target=work, args=(*(ours if number % 2 else theirs), f"w{number}"))
        for number in range(8)
        for ours, theirs in [((sides.ours, sides.theirs_frees), (sides.theirs, sides.ours_frees))]
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failed == []
    assert len(given) == len(set(given)) == 64
    owners = [content for name, content in sides.leases().items() if ":" not in name]
    assert len(owners) == len(set(owners)) == 56


# Random configurations

V4 = [
    "10.1.1.1",
    "10.1.1.0",
    "10.1.1.62",
    "10.1.1.254",
    "10.9.9.9",
    "::ffff:10.1.1.9",
    "010.1.1.1",
    "10.1.1",
    "",
    None,
]
V6 = [
    "2001:db8:1::1",
    "2001:DB8:1::00a0",
    "2001:db8:1::",
    "fe80::1",
    "2001:db8:9::1",
    "2001:db8:1::1%eth0",
    "",
    None,
]
SUBNETS = {
    4: ["10.1.1.0/24", "10.1.1.0/26", "10.1.1.0/30", "10.1.1.7/24", "10.1.1.0/31", "10.1.1.0/024", "010.1.1.0/24",
        "::ffff:10.1.1.0/120", "10.1.1.0/33", "10.1.1.0/255.255.255.0", "10.1.1.0"],
    6: ["2001:db8:1::/64", "2001:DB8:0001::/64", "2001:db8:1::/112", "2001:db8:1::7/64", "2001:db8:1::/127"],
}  # fmt: skip
DESTINATIONS = [
    "0.0.0.0/0",
    "::/0",
    "10.1.1.5/24",
    "FD00::/8",
    "::ffff:10.0.0.0/104",
    "10.0.0.0",
    "default",
    "",
    None,
]


def case(*keys: str) -> st.SearchStrategy[str]:
    return st.sampled_from(keys)


def mostly(good: list[Any], bad: list[Any]) -> st.SearchStrategy[Any]:
    """Mostly good values: a configuration of arbitrary values is nearly always rejected."""
    return st.one_of(*[st.sampled_from(good)] * 4, st.sampled_from(bad))


@st.composite
def ranges(draw: st.DrawFn) -> dict[str, Any]:
    family = draw(st.sampled_from([4, 6]))
    own = V4 if family == 4 else V6
    start, end = ("10.1.1.9", "10.1.1.33") if family == 4 else ("2001:DB8:1::00a0", "2001:db8:1:0:0::a7")
    # Network and broadcast addresses are excluded: the reference plugin allocates them if a range begins or ends
    # there.
    odd = [text for text in own if text not in {"10.1.1.0", "2001:db8:1::"}]
    found = {draw(case("subnet", "Subnet")): draw(mostly(SUBNETS[family][:2], SUBNETS[family]))}
    for key, values in {
        "gateway": mostly(own[:5], V4 + V6),
        "rangeStart": mostly([start], odd),
        "rangeEnd": mostly([end], odd),
    }.items():
        if draw(st.booleans()):
            found[draw(case(key, key.upper()))] = draw(values)
    return found


@st.composite
def routed(draw: st.DrawFn) -> dict[str, Any]:
    route: dict[str, Any] = {draw(case("dst", "Dst")): draw(mostly(DESTINATIONS[:5], DESTINATIONS))}
    if draw(st.booleans()):
        route[draw(case("gw", "GW"))] = draw(mostly(V4[:6] + V6[:5], V4 + V6))
    return route


@st.composite
def host_local(draw: st.DrawFn) -> dict[str, Any]:
    form = draw(st.sampled_from(["single", "single", "ranges", "both"]))
    found: dict[str, Any] = {"type": "host-local"}
    if form != "ranges":
        found |= draw(ranges())
    if form != "single":
        found["ranges"] = draw(st.lists(st.lists(ranges(), min_size=1, max_size=2), max_size=2) | st.none())
    return found | {draw(case("routes", "Routes")): draw(st.lists(routed(), max_size=2) | st.none())}


@st.composite
def statics(draw: st.DrawFn) -> dict[str, Any]:
    good = ["10.1.1.7/24", "10.1.1.5/32", "::ffff:10.1.1.5/128", "2001:DB8:1::7/64", "2001:db8::0005/0"]
    prefixed = mostly(good, SUBNETS[4] + SUBNETS[6])
    addresses: list[dict[str, Any]] = [
        {draw(case("address", "Address")): draw(prefixed)}
        | ({"gateway": draw(mostly(V4[:6] + V6[:5], V4 + V6))} if draw(st.booleans()) else {})
        for _ in range(draw(st.integers(0, 2)))
    ]
    found = {"type": "static", "addresses": addresses, "routes": draw(st.lists(routed(), max_size=2) | st.none())}
    names = st.lists(st.sampled_from(["10.0.0.53", "fd00::53", "a.b"]), max_size=2) | st.none()
    dns = {"nameservers": draw(names), "Search": draw(names), "domain": draw(st.sampled_from(["", "d", None]))}
    return found | ({"dns": dns} if draw(st.booleans()) else {})


def outside(subnet: str, gateway: str, *destinations: str) -> dict[str, Any]:
    routes = [{"dst": destination} for destination in destinations]
    return {"type": "host-local", "ranges": [[{"subnet": subnet, "gateway": gateway}]], "routes": routes}


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),  # no shrinking, because each example runs a program
)
@example(ipam=outside("2001:db8:1::/64", "fe80::1", "::/0"))
@example(ipam=outside("10.1.1.0/26", "10.1.1.254", "0.0.0.0/0"))
@example(ipam=outside("10.1.1.0/26", "fe80::1"))
@example(ipam=outside("2001:db8:1::/120", "10.1.1.2"))
@given(ipam=host_local() | statics())
def test_what_the_reference_plugin_takes_is_taken_with_the_same_result(
    tmp_path_factory: pytest.TempPathFactory, ipam: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("leases")

    def call(side: str) -> Request:
        with_plugin_folder = ipam | ({"dataDir": str(folder / side)} if ipam["type"] == "host-local" else {})
        config = {"cniVersion": "1.0.0", "name": "net", "type": "probe", "ipam": with_plugin_folder}
        return Request(command="ADD", container_id="c1", netns="/n", ifname="net1", path=("/x",), config=config)

    try:
        raw = json.loads(run_plugin(f"/usr/lib/cni/{ipam['type']}", call("theirs")))
    except Error:
        return  # the reference plugin may reject what works here
    event(f"{ipam['type']} takes it")
    theirs = {"ips": raw.get("ips", []), "routes": raw.get("routes") or [], "dns": raw.get("dns") or {}}
    assert Ipam(Path("/nonexistent")).add(call("ours")) == theirs
    if ipam["type"] == "host-local":
        leases = [
            {f.name: f.read_bytes() for f in (folder / side / "net").iterdir()} for side in ("ours", "theirs")
        ]
        assert leases[0] == leases[1]

"""The same calls of a plugin in this process and as an executable, each on its own node, and what they leave."""

from __future__ import annotations

import difflib
import errno
import json
import re
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from wirespeed.cni import result as results
from wirespeed.cni.execute import find_plugin, run_plugin
from wirespeed.cni.plugin import Plugin
from wirespeed.cni.request import Request
from wirespeed.errors import Error
from wirespeed.kernel import netns
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.rtnl import Rtnl

T = TypeVar("T")
_PATIENCE = 10.0  # seconds
Config = dict[str, Any]

_MAC = re.compile(r"\b(?:[0-9a-f]{1,2}:){5}[0-9a-f]{1,2}\b")
_VETH = re.compile(r"\bveth[0-9a-f]{8}\b")
_LINK_LOCAL = re.compile(r"\bfe80::[0-9a-f:]+\b")
_COUNTED = {"ifindex", "link_index", "link_netnsid", "valid_life_time", "preferred_life_time", "stats64", "stats"}
_OF_TIME = re.compile(r"_timer$|^(expires|age|cacheinfo|used)$")
_SYSCTLS = (
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/ipv4/conf/*/arp_notify",
    "net/ipv6/conf/*/accept_dad",
    "net/ipv6/conf/*/accept_ra",
    "net/ipv6/conf/*/disable_ipv6",
    "net/ipv6/conf/*/enhanced_dad",
    "net/ipv6/conf/*/keep_addr_on_down",
    "net/ipv6/conf/*/ndisc_notify",
    "net/ipv4/conf/*/rp_filter",  # what the trials of tuning set
    "net/ipv4/neigh/*/gc_stale_time",
    "net/core/somaxconn",
    "net/ipv4/ip_local_port_range",
)
_LEFT_BY_REFUSED = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")  # ptp's executable: before its checks
# What Debian's executables, of release 1.1.1, do not know: keys (left out of all configurations) and sysctls. They
# create interfaces with a txqlen of 0, and host-device leaves its alias on the node.
_NEW_KEYS = frozenset({"linkInContainer", "bcqueuelen", "DPDKMode"})
_NEW_SYSCTLS = ("keep_addr_on_down", "ndisc_notify")
_NEW_PROPERTIES = frozenset({"txqlen", "ifalias"})


@dataclass
class Side:
    """A node and a pod, as network namespaces, with host-local's leases."""

    node: str
    pod: str
    leases: Path
    path: tuple[str, ...]
    old: bool  # the executables are Debian's

    def on_node(self, function: Callable[[], T]) -> T:
        with netns.opened(f"/run/netns/{self.node}") as ns:
            return netns.inside(ns.fd, function)

    def request(self, command: str, config: Config, args: Mapping[str, str], *, gone: bool = False) -> Request:
        known = {key: value for key, value in config.items() if not self.old or key not in _NEW_KEYS}
        return Request(
            command=command,
            container_id="c1",
            netns="" if gone else f"/run/netns/{self.pod}",
            ifname="net1",
            args=dict(args),
            path=self.path,
            config=json.loads(_replaced(json.dumps(known), self._values)),
        )

    @property
    def _values(self) -> dict[str, str]:
        return {"@LEASES@": str(self.leases), "@POD@": f"/run/netns/{self.pod}"}

    def state(self) -> dict[str, Any]:
        """What the kernel has on both sides, the leases, and what DEL of tuning restores.

        Random names and numbers are masked.
        """
        leased = sorted(path.name for path in self.leases.glob("*/*") if path.name[0].isdigit())
        kernel = {"node": _kernel_state(self.node), "pod": _kernel_state(self.pod)}
        for each in kernel.values() if self.old else ():
            for link in each["links"]:
                for name in _NEW_PROPERTIES:
                    link.pop(name, None)
            each["sysctls"] = {key: on for key, on in each["sysctls"].items() if not key.endswith(_NEW_SYSCTLS)}
        backups = {path.name: _mask_text(path.read_text()) for path in self.leases.glob("tuning/*")}
        return {**kernel, "leases": leased, "backups": backups}


@contextmanager
def side(folder: Path, path: Path) -> Iterator[Side]:
    mark = uuid.uuid4().hex[:8]
    made = Side(f"wsnode-{mark}", f"wspod-{mark}", folder / mark, (str(path),), is_old(path))
    names = (made.node, made.pod)
    for name in names:
        ip("netns", "add", name)
    try:
        ip("-n", made.node, "link", "set", "lo", "up")
        yield made
    finally:
        for name in reversed(names):
            ip("netns", "del", name)


@cache
def is_old(path: Path) -> bool:
    """Whether the executables are Debian's, which do not tell their version."""
    told = subprocess.run(
        [path / "loopback"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return "version unknown" in told.stderr


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


class Executed:
    """A plugin's executable."""

    def __init__(self, kind: str, side: Side) -> None:
        self._kind, self._side = kind, side

    def call(self, request: Request) -> Config | None:
        """Return the result of an ADD."""
        binary = find_plugin(self._kind, self._side.path)
        printed = self._side.on_node(lambda: run_plugin(binary, request))
        return results.read(json.loads(printed), request.version) if request.command == "ADD" else None


class InProcess:
    """A plugin in this process."""

    def __init__(self, plugin: Plugin, side: Side) -> None:
        self._plugin, self._side = plugin, side

    def call(self, request: Request) -> Config | None:
        names = {"ADD": "add", "DEL": "delete", "CHECK": "check", "STATUS": "status", "GC": "gc"}
        answer = self._side.on_node(lambda: getattr(self._plugin, names[request.command])(request))
        return results.read(answer, "1.1.0") if request.command == "ADD" else None


def _replaced(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def _kernel_state(name: str) -> dict[str, Any]:
    links = _masked(json.loads(ip("-n", name, "-d", "-j", "address", "show")))
    return {
        "links": sorted(links, key=lambda link: (link["ifname"], json.dumps(link, sort_keys=True))),
        "routes": _sorted(
            _masked(json.loads(ip("-n", name, family, "-d", "-j", "route", "show", "table", "all")))
            for family in ("-4", "-6")
        ),
        "rules": _sorted(
            # The kernel adds one for all VRFs with the first, for good.
            [
                each
                for each in _masked(json.loads(ip("-n", name, family, "-j", "rule", "show")))
                if "l3mdev" not in each
            ]
            for family in ("-4", "-6")
        ),
        "vlans": _sorted([_masked(json.loads(_run("bridge", "-n", name, "-j", "vlan", "show") or "[]"))]),
        "sysctls": _sysctls(name),
    }


def _sorted(lists: Any) -> list[Any]:
    return sorted((each for listed in lists for each in listed), key=lambda each: json.dumps(each, sort_keys=True))


@cache
def kernel_has(kind: str) -> bool:
    """Whether the kernel knows these interfaces: it refuses one without more, with another error."""
    with Rtnl() as rtnl:
        try:
            rtnl.create_link("probe0", kind)
        except NetlinkError as error:
            return bool(error.errno != errno.EOPNOTSUPP)
    raise AssertionError(kind)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _sysctls(name: str) -> dict[str, str]:
    def read() -> dict[str, str]:
        root = Path("/proc/sys")
        found = {}
        for pattern in _SYSCTLS:
            for path in root.glob(pattern):
                found[_mask_text(str(path.relative_to(root)))] = path.read_text().strip()
        return found

    with netns.opened(f"/run/netns/{name}") as ns:
        return netns.inside(ns.fd, read)


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _masked(each) for key, each in value.items() if key not in _COUNTED and not _OF_TIME.search(key)
        }
    if isinstance(value, list):
        return [_masked(each) for each in value]
    if value == "LOWERLAYERDOWN":  # "DOWN" if the peer of a veth was elsewhere when the kernel looked
        return "DOWN"
    return _mask_text(value) if isinstance(value, str) else value


def _mask_text(text: str) -> str:
    text = _VETH.sub("vethXXXXXXXX", _LINK_LOCAL.sub("fe80::X", text))
    return _MAC.sub(lambda found: found[0] if found[0].startswith("02:11:") else "MAC", text)


def masked_result(result: Config | None, side: Side) -> Any:
    """A result with the names that differ by chance masked."""
    return json.loads(_mask_text(json.dumps(result)).replace(side.pod, "POD"))


@dataclass
class Trial:
    """One configuration, and what a node has before."""

    kind: str
    config: Config
    args: dict[str, str] = field(default_factory=dict)
    prepare: tuple[tuple[str, ...], ...] = ()  # `ip` commands on the node; NODE and POD are replaced
    finish: tuple[tuple[str, ...], ...] = ()  # after the DEL that follows a refusal: the earlier plugins' DEL
    newer: str = ""  # what Debian's executable, 1.1.1, does differently

    def begin(self, side: Side) -> None:
        _commands(side, self.prepare)

    def end(self, side: Side) -> None:
        _commands(side, self.finish)


def _commands(side: Side, commands: tuple[tuple[str, ...], ...]) -> None:
    for command in commands:
        ip(*(each.replace("NODE", side.node).replace("POD", side.pod) for each in command))


def outcome(call: Callable[[], T]) -> T | Error:
    try:
        return call()
    except Error as error:
        return error


def compare(trial: Trial, plugin: Callable[[Side], Plugin], folder: Path, binaries: Path) -> None:
    """Do the same by executable and in this process; AssertionError where result or state differ.

    ADD by each; CHECK of each one's attachment by both; then DEL by the other one, and DEL again. If the executable
    refuses the ADD, so must the plugin in this process; the executable may leave an interface until the DEL.
    """
    with side(folder, binaries) as one, side(folder, binaries) as other:
        callers = [(Executed(trial.kind, each), InProcess(plugin(each), each)) for each in (one, other)]
        pair = _Pair(trial, one, other, callers)
        for each in pair.sides:
            trial.begin(each)
        if trial.prepare:
            assert_same(pair.sides, "before")
        attached = pair.add()
        if attached is not None:
            pair.check(attached)
            pair.delete(attached or [trial.config] * 2, refused=not attached)


@dataclass
class _Pair:
    """A trial on two nodes: the executable attaches on the first, the plugin in this process on the other."""

    trial: Trial
    one: Side
    other: Side
    callers: list[tuple[Executed, InProcess]]

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.one, self.other

    @property
    def about(self) -> str:
        return f"{self.trial.kind} {json.dumps(self.trial.config)} args={self.trial.args}"

    def request(self, side: Side, command: str, config: Config, *, gone: bool = False) -> Request:
        return side.request(command, config, self.trial.args, gone=gone)

    def add(self) -> list[Config] | None:
        """Return both configurations with prevResult, none after a refusal; None if they cannot be compared."""
        before = self.other.state() if self.trial.finish else None
        requests = [self.request(each, "ADD", self.trial.config) for each in self.sides]
        executed = outcome(lambda: self.callers[0][0].call(requests[0]))
        own = outcome(lambda: self.callers[1][1].call(requests[1]))
        if self.one.old and isinstance(executed, Error) and "no default route interface" in executed.msg:
            return None  # Debian's build finds no default route at all
        if isinstance(executed, Error) or isinstance(own, Error):
            assert isinstance(executed, Error), f"{self.about}: only in this process: {own}"
            assert isinstance(own, Error), f"{self.about}: only the executable: {executed}"
            if before is not None:
                now = self.other.state
                assert_equal(lambda: (before, now()), f"after refusal of {self.about}", "before", "after")
            return []
        assert executed is not None
        assert own is not None
        assert masked_result(own, self.other) == masked_result(executed, self.one), self.about
        assert_same(self.sides, f"after ADD of {self.about}")
        version = str(self.trial.config["cniVersion"])
        return [{**self.trial.config, "prevResult": results.write(each, version)} for each in (executed, own)]

    def check(self, configs: list[Config]) -> None:
        """CHECK by this process must succeed on both sides, and by the executable on both or none."""
        refusals = []
        for each, (executed, own), config in zip(self.sides, self.callers, configs, strict=False):
            check = self.request(each, "CHECK", config)
            own.call(check)
            refusals.append(outcome(partial(executed.call, check)))
        # Some executables fail in every CHECK without IPAM: then of both attachments.
        assert len({isinstance(each, Error) for each in refusals}) <= 1, f"CHECK of {self.about}: {refusals}"

    def delete(self, configs: list[Config], *, refused: bool) -> None:
        """DEL by the other one than made it, and again by both, also without a network namespace."""
        self.callers[0][1].call(self.request(self.one, "DEL", configs[0]))
        deleted = outcome(partial(self.callers[1][0].call, self.request(self.other, "DEL", configs[1])))
        if refused:
            self.callers[1][1].call(self.request(self.other, "DEL", configs[1]))
            for each in self.sides:
                self.trial.end(each)
            _delete_leftovers(self.one)
        elif isinstance(deleted, Error):
            raise deleted
        # Some executables refuse in a DEL what they refuse in an ADD, and leave what there was in the pod before.
        # host-device of release 1.1.1 leaves what it refuses in the pod.
        if not refused or not (self.one.old or isinstance(deleted, Error)):
            assert_same(self.sides, f"after DEL of {self.about}", but=_LEFT_BY_REFUSED if refused else ())
        for each, (executed, own), config in zip(self.sides, self.callers, configs, strict=True):
            for gone in (False, True):
                again = self.request(each, "DEL", config, gone=gone)
                # Some executables refuse a DEL of what is gone, or one without CNI_NETNS.
                outcome(partial(executed.call, again))
                own.call(again)


def _delete_leftovers(side: Side) -> None:
    """Delete what ipvlan and vlan leave in the pod if their interface's name is taken, and no DEL finds."""
    for link in json.loads(ip("-n", side.pod, "-j", "link", "show")):
        if _VETH.fullmatch(link["ifname"]):
            ip("-n", side.pod, "link", "delete", link["ifname"])


def assert_same(sides: tuple[Side, Side], when: str, *, but: Sequence[str] = ()) -> None:
    """Wait until both sides have the same state. `but` are sysctls of the node that are not compared."""

    def state(side: Side) -> dict[str, Any]:
        found = side.state()
        for name in but:
            found["node"]["sysctls"].pop(name)
        return found

    assert_equal(lambda: (state(sides[0]), state(sides[1])), when, "executed", "in process")


def assert_equal(states: Callable[[], tuple[Any, Any]], when: str, one: str, other: str) -> None:
    """Wait until two states are the same: the kernel checks IPv6 addresses and carriers for a while."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        first, second = states()
        if first == second and "tentative" not in json.dumps(second):
            return
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    before, after = (json.dumps(state, indent=1, sort_keys=True).splitlines() for state in (first, second))
    lines = difflib.unified_diff(before, after, one, other, lineterm="")
    raise AssertionError("\n".join((when, *lines)))

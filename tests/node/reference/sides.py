"""The same calls of a plugin in this process and as an executable, each on a node of its own, and what they leave."""

from __future__ import annotations

import difflib
import json
import re
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from wirespeed.cni import result as results
from wirespeed.cni.execute import find_plugin, run_plugin
from wirespeed.cni.plugin import Plugin
from wirespeed.cni.request import Request
from wirespeed.errors import Error
from wirespeed.kernel import netns

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
)
_NEEDS_NETNS = frozenset({"sbr"})  # executables whose DEL fails without CNI_NETNS, against the specification


@dataclass
class Side:
    """A node and a pod, as network namespaces, with host-local's leases."""

    node: str
    pod: str
    leases: Path
    path: tuple[str, ...]

    def on_node(self, function: Callable[[], T]) -> T:
        with netns.opened(f"/run/netns/{self.node}") as ns:
            return netns.inside(ns.fd, function)

    def request(self, command: str, config: Config, args: Mapping[str, str], *, gone: bool = False) -> Request:
        return Request(
            command=command,
            container_id="c1",
            netns="" if gone else f"/run/netns/{self.pod}",
            ifname="net1",
            args=dict(args),
            path=self.path,
            config=json.loads(
                json.dumps(config).replace("@LEASES@", str(self.leases)).replace("@POD@", f"/run/netns/{self.pod}")
            ),
        )

    def state(self) -> dict[str, Any]:
        """What the kernel has on the node and in the pod, and the leases; names and numbers by chance are masked."""
        leased = sorted(path.name for path in self.leases.glob("*/*") if path.name[0].isdigit())
        return {"node": _kernel_state(self.node), "pod": _kernel_state(self.pod), "leases": leased}


@contextmanager
def side(folder: Path, path: Path) -> Iterator[Side]:
    mark = uuid.uuid4().hex[:8]
    made = Side(f"wsnode-{mark}", f"wspod-{mark}", folder / mark, (str(path),))
    names = (made.node, made.pod)
    for name in names:
        ip("netns", "add", name)
    try:
        ip("-n", made.node, "link", "set", "lo", "up")
        yield made
    finally:
        for name in reversed(names):
            ip("netns", "del", name)


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


def is_old(kind: str, binaries: Path) -> bool:
    """Whether the executable knows nothing of CNI 1.1: it is older than 1.7."""
    return "1.1.0" not in _run("env", "CNI_COMMAND=VERSION", str(binaries / kind))


def kernel_has(kind: str) -> bool:
    """Whether the kernel has this kind of virtual interface; the lab's has them all."""
    name = f"wskind-{uuid.uuid4().hex[:8]}"
    ip("netns", "add", name)
    try:
        more = {"vrf": ("table", "1")}.get(kind, ())
        command = ("ip", "-n", name, "link", "add", "one", "type", kind, *more)
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    finally:
        ip("netns", "del", name)


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
        both = (one, other)
        for each in both:
            trial.begin(each)
        if trial.prepare:
            _assert_same(both, "before")
        before = other.state() if trial.finish else None
        callers = {each.node: (Executed(trial.kind, each), InProcess(plugin(each), each)) for each in both}
        requests = [each.request("ADD", trial.config, trial.args) for each in both]
        executed = outcome(lambda: callers[one.node][0].call(requests[0]))
        own = outcome(lambda: callers[other.node][1].call(requests[1]))
        about = f"{trial.kind} {json.dumps(trial.config)} args={trial.args}"
        if isinstance(executed, Error) or isinstance(own, Error):
            assert isinstance(executed, Error), f"{about}: only in this process: {own}"
            assert isinstance(own, Error), f"{about}: only the executable: {executed}"
            if before is not None:
                assert_equal(lambda: (before, other.state()), f"after refusal of {about}", "before", "after")
            results_of: list[Config] = []
        else:
            assert executed is not None
            assert own is not None
            results_of = [executed, own]
            assert masked_result(own, other) == masked_result(executed, one), about
            _assert_same(both, f"after ADD of {about}")
        version = str(trial.config["cniVersion"])
        after = [{**trial.config, "prevResult": results.write(each, version)} for each in results_of]
        refusals = []
        for each, config in zip(both, after, strict=False):
            check = each.request("CHECK", config, trial.args)
            callers[each.node][1].call(check)
            refusals.append(outcome(lambda each=each, check=check: callers[each.node][0].call(check)))  # type: ignore[misc]
        # Some executables fail in every CHECK without IPAM: then of both attachments.
        assert len({isinstance(each, Error) for each in refusals}) <= 1, f"CHECK of {about}: {refusals}"
        configs = after or [trial.config] * 2
        callers[one.node][1].call(one.request("DEL", configs[0], trial.args))
        _delete(callers[other.node][0], other.request("DEL", configs[1], trial.args), refused=not results_of)
        for each in both if not results_of else ():
            trial.end(each)
        _assert_same(both, f"after DEL of {about}")
        for each, config in zip(both, configs, strict=True):
            for caller in callers[each.node]:
                _delete(caller, each.request("DEL", config, trial.args), refused=not results_of)
                if isinstance(caller, InProcess) or trial.kind not in _NEEDS_NETNS:
                    gone = each.request("DEL", config, trial.args, gone=True)
                    _delete(caller, gone, refused=not results_of)


def _delete(caller: Executed | InProcess, request: Request, *, refused: bool) -> None:
    """Call DEL; that of an executable may fail, too, after an ADD that was refused for its configuration."""
    try:
        caller.call(request)
    except Error:
        if not refused or isinstance(caller, InProcess):
            raise


def _assert_same(sides: tuple[Side, Side], when: str) -> None:
    assert_equal(lambda: (sides[0].state(), sides[1].state()), when, "executed", "in process")


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
    a, b = (json.dumps(state, indent=1, sort_keys=True).splitlines() for state in (first, second))
    raise AssertionError(f"{when}\n" + "\n".join(difflib.unified_diff(a, b, one, other, lineterm="")))

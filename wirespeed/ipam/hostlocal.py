"""host-local, in this process: addresses from this node's ranges, with the reference plugin's files and lock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from wirespeed import structs
from wirespeed.cni.address import Ip, parse_ip, parse_prefix
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind, as_kind
from wirespeed.ipam import conf, ranges
from wirespeed.ipam.leases import Leases
from wirespeed.ipam.ranges import Range, RangeKeys, Ranges, RangeSet
from wirespeed.keys import normalize_case
from wirespeed.structs import Cell, Words


@structs.prepared
class Keys(RangeKeys, kw_only=True, frozen=True, rename="camel"):
    """The keys of `ipam` of type host-local, with those of a single range; null is the same as no key."""

    type: Annotated[Any, Words("any value", "`host-local`")] = None
    """selects this plugin"""
    ranges: Annotated[Ranges | None, Cell("list of lists of ranges")] = None
    """one address is allocated from each list. A range has the keys `subnet` to `gateway`"""
    routes: conf.Routes | None = None
    """returned with the addresses, unchanged"""
    resolv_conf: Annotated[conf.FilePath | None, Cell("path")] = None
    """a file in the format of resolv.conf, whose content is returned as DNS"""
    data_dir: conf.FilePath | None = None
    """the directory of the leases; default: `leases` of the agent"""


@structs.prepared
class _RuntimeKeys(msgspec.Struct, kw_only=True, frozen=True):
    """The keys of `runtimeConfig` for host-local (capability `ipRanges`)."""

    ip_ranges: Ranges | None = msgspec.field(name="ipRanges", default=None)


@dataclass(frozen=True, kw_only=True)
class HostLocalConf:
    """The validated configuration; `wanted` are the requested addresses, which must all be allocated."""

    sets: list[RangeSet]
    wanted: list[Ip]
    routes: list[dict[str, Any]]
    dns: dict[str, Any]


def parse(request: Request) -> HostLocalConf:
    """Check the configuration. Raises Error(INVALID_CONFIG, INVALID_REQUEST) that names the key."""
    keys = conf.read(request, request.config["ipam"], Keys, "ipam")
    runtime = request.config.get("runtimeConfig")
    given = {"ipRanges": runtime.get("ipRanges")} if isinstance(runtime, dict) else {}
    listed = conf.read(request, given, _RuntimeKeys, "runtimeConfig")
    sets = ranges.read_sets(keys, keys.ranges, listed.ip_ranges)
    return HostLocalConf(
        sets=sets,
        wanted=_requested(request, sets),
        routes=conf.routes(keys.routes),
        dns=_resolv_conf(conf.path("ipam.resolvConf", keys.resolv_conf)),
    )


def folder(request: Request, default: Path) -> Path:
    """Return the folder of the network's leases. Raises Error(INVALID_CONFIG)."""
    given = normalize_case(request.config["ipam"], structs.keys_of(Keys))
    keys = structs.read({"dataDir": given.get("dataDir")}, Keys, where="ipam")  # DEL needs no other key to be valid
    return Path(conf.path("ipam.dataDir", keys.data_dir) or default) / request.name


def add(request: Request, leases: Leases) -> Result:
    """Allocate one address from each range set.

    Raises Error(ADDRESS) if none is left, a requested one is taken, or the interface has one already.
    """
    wanted = parse(request)
    given: list[tuple[Range, Ip]] = []
    with leases.locked(request.deadline):
        try:
            for number, range_set in enumerate(wanted.sets):
                each, ip = _pick(request, leases, number, range_set, wanted.wanted)
                leases.reserve(ip, request.container_id, request.ifname)
                given.append((each, ip))
                leases.set_last(number, ip)
        except BaseException:
            leases.release(ip for _, ip in given)
            raise
    ips = [{"address": f"{ip}/{each.subnet.length}", "gateway": str(each.gateway)} for each, ip in given]
    return {"ips": ips, "routes": wanted.routes, "dns": wanted.dns}


def delete(request: Request, leases: Leases) -> None:
    """Release the addresses of the container's interface, if it has any."""
    if leases.exists():
        with leases.locked(request.deadline):
            leases.release(leases.addresses_of(request.container_id, request.ifname))


def check(request: Request, leases: Leases) -> None:
    """Check that the interface has an address of each range set. Raises Error(DRIFT)."""
    sets = parse(request).sets
    owned = []
    if leases.exists():
        with leases.locked(request.deadline):
            owned = leases.addresses_of(request.container_id, request.ifname)
    for each in sets:
        if not any(ranges.find(each, ip) for ip in owned):
            what = f"no lease of {ranges.format_ranges(each)} in {leases.folder}"
            raise Error(Kind.DRIFT, what, where=_owner(request))


def gc(request: Request, leases: Leases) -> None:
    """Release the leases of all but the valid attachments."""
    valid = request.valid_attachments
    containers = {container for container, _ in valid}
    if leases.exists():
        with leases.locked(request.deadline):
            leases.release(
                ip
                for ip, (container, ifname) in leases.owners().items()
                # Keep a lease without an ifname if any interface of its container is valid.
                if (container, ifname) not in valid and (ifname or container not in containers)
            )


def status(request: Request, leases: Leases) -> None:
    """Check that the configuration and the leases' folder are usable. Raises Error(UNAVAILABLE)."""
    with as_kind(Kind.UNAVAILABLE):
        parse(request)
        with leases.locked(request.deadline):
            pass


def _owner(request: Request) -> str:
    return f"container {request.container_id} {request.ifname}"


def _pick(
    request: Request, leases: Leases, number: int, range_set: RangeSet, wanted: Sequence[Ip]
) -> tuple[Range, Ip]:
    """Choose the address to allocate from one range set; return its range and the address."""
    for ip in leases.addresses_of(request.container_id, request.ifname):
        if ranges.find(range_set, ip):
            what = f"address {ip} of this network is already allocated to it"
            raise Error(Kind.ADDRESS, what, where=_owner(request), hint="DEL it first")
    for ip in wanted:
        if each := ranges.find(range_set, ip):
            if owner := leases.owner(ip):
                raise Error(Kind.ADDRESS, f"requested address {ip} belongs to container {' '.join(owner).rstrip()}")
            return each, ip
    for each, ip in ranges.allocation_order(range_set, leases.last(number)):
        if not leases.is_taken(ip):
            return each, ip
    raise Error(Kind.ADDRESS, f"no address left in {ranges.format_ranges(range_set)}")


def _requested(request: Request, sets: Sequence[RangeSet]) -> list[Ip]:
    """Return the requested addresses, at most one of each range set.

    Raises Error(INVALID_CONFIG), or INVALID_REQUEST for one in CNI_ARGS.
    """
    found: dict[int, tuple[Ip, str]] = {}
    for asked in (each for source in conf.requested(request).values() for each in source):
        prefix = parse_prefix(asked.text)
        ip = parse_ip(asked.text) if prefix is None else prefix.ip
        assert ip is not None  # validated by conf.requested
        number = next((number for number, range_set in enumerate(sets) if ranges.find(range_set, ip)), None)
        if number is None:
            raise asked.wrong(f"an address of {'; '.join(map(ranges.format_ranges, sets))}")
        each = ranges.find(sets[number], ip)
        if each is not None and ip == each.gateway:
            raise asked.wrong("another address than the gateway's")
        first, text = found.setdefault(number, (ip, asked.text))
        if first != ip:
            raise asked.wrong(f"one address of {ranges.format_ranges(sets[number])}", f"{text!r} is requested too")
    return [ip for ip, _ in found.values()]


def _resolv_conf(path: str) -> dict[str, Any]:
    """Read the DNS settings of a resolv.conf(5). Raises Error(INVALID_CONFIG) if it cannot be read."""
    if not path:
        return {}
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except OSError as error:
        raise Error(Kind.INVALID_CONFIG, f"{path}: {error.strerror}", key="ipam.resolvConf") from error
    found: dict[str, Any] = {}
    for line in lines:
        match line.split():
            case ["nameserver", address, *_]:
                found.setdefault("nameservers", []).append(address)
            case ["domain", name, *_]:
                found["domain"] = name
            case ["search" | "options" as key, *values] if values:
                found.setdefault(key, []).extend(values)
    return found

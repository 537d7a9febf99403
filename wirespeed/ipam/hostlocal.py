"""host-local: addresses from ranges of this node, in this process, with the reference plugin's files and lock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from wirespeed import structs
from wirespeed.cni.address import Ip, parse_ip, parse_prefix
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.ipam import conf, ranges
from wirespeed.ipam.leases import Leases
from wirespeed.ipam.ranges import Range, RangeKeys, RangeSet
from wirespeed.structs import Cell, Words


@structs.prepared
class Keys(RangeKeys, kw_only=True, frozen=True, rename="camel"):
    """The keys of `ipam` of type host-local, with those of a single range; null is the same as no key."""

    type: Annotated[Any, Words("any value", "`host-local`")] = None
    ranges: Annotated[list[list[RangeKeys]] | None, Cell("list of lists of ranges")] = None
    """one address is allocated from each list"""
    routes: conf.Routes | None = None
    """returned with the addresses, unchanged"""
    resolv_conf: Annotated[conf.FilePath | None, Cell("path")] = None
    """a file in the format of resolv.conf, whose content is returned as DNS"""
    data_dir: conf.FilePath | None = None
    """the directory of the leases; default: `leases` of the agent"""


KEYS = structs.keys_of(Keys)


@dataclass(frozen=True, kw_only=True)
class HostLocalConf:
    """The validated configuration; `wanted` are the requested addresses, which must all be allocated."""

    sets: list[RangeSet]
    wanted: list[Ip]
    routes: list[dict[str, Any]]
    dns: dict[str, Any]


def parse(request: Request) -> HostLocalConf:
    """Check the configuration. Raises CniError(INVALID_CONFIG, INVALID_ENVIRONMENT) that names the key."""
    ipam = conf.canonical(request.config["ipam"], KEYS, f"network {request.name}: ipam")
    runtime = request.config.get("runtimeConfig")
    sets = ranges.read_sets(ipam, runtime if isinstance(runtime, dict) else {})
    return HostLocalConf(
        sets=sets,
        wanted=_wanted(request, sets),
        routes=conf.routes(ipam),
        dns=_resolv_conf(conf.absolute_path("ipam.resolvConf", ipam.get("resolvConf"))),
    )


def folder(request: Request, default: Path) -> Path:
    """Return the folder of the network's leases. Raises CniError(INVALID_CONFIG)."""
    ipam = conf.canonical(request.config["ipam"], KEYS, f"network {request.name}: ipam")
    return Path(conf.absolute_path("ipam.dataDir", ipam.get("dataDir")) or default) / request.name


def add(request: Request, leases: Leases) -> Result:
    """Allocate one address from each range set.

    Raises CniError(ADDRESS) if none is left, a requested one is taken, or the interface has one already.
    """
    wanted = parse(request)
    given: list[tuple[int, Range, Ip]] = []
    with leases.locked(request.deadline):
        try:
            for number, ranged in enumerate(wanted.sets):
                each, ip = _pick(request, leases, number, ranged, wanted.wanted)
                leases.reserve(ip, request.container_id, request.ifname)
                given.append((number, each, ip))
                leases.set_last(number, ip)
        except BaseException:
            leases.release(ip for _, _, ip in given)
            raise
    ips = [{"address": f"{ip}/{each.subnet.length}", "gateway": str(each.gateway)} for _, each, ip in given]
    return {"ips": ips, "routes": wanted.routes, "dns": wanted.dns}


def delete(request: Request, leases: Leases) -> None:
    """Release the addresses of the container's interface, if it has any."""
    if leases.exists():
        with leases.locked(request.deadline):
            leases.release(leases.of(request.container_id, request.ifname))


def check(request: Request, leases: Leases) -> None:
    """Check that the interface has an address of each range set. Raises CniError(DRIFT)."""
    sets = parse(request).sets
    owned = []
    if leases.exists():
        with leases.locked(request.deadline):
            owned = leases.of(request.container_id, request.ifname)
    for each in sets:
        if not any(ranges.find(each, ip) for ip in owned):
            raise CniError(
                Code.DRIFT,
                f"container {request.container_id} {request.ifname} has no lease of {ranges.shown(each)} "
                f"in {leases.folder}",
            )


def gc(request: Request, leases: Leases) -> None:
    """Release the leases of all but the valid attachments."""
    valid = request.valid_attachments
    containers = {container for container, _ in valid}
    if leases.exists():
        with leases.locked(request.deadline):
            leases.release(
                ip
                for ip, (container, ifname) in leases.owners().items()
                # A lease without an ifname is kept if any interface of its container is valid.
                if (container, ifname) not in valid and (ifname or container not in containers)
            )


def status(request: Request, leases: Leases) -> None:
    """Check that the configuration and the leases' folder are usable. Raises CniError(UNAVAILABLE)."""
    try:
        parse(request)
        with leases.locked(request.deadline):
            pass
    except CniError as error:
        raise CniError(Code.UNAVAILABLE, error.msg) from error


def _pick(
    request: Request, leases: Leases, number: int, ranged: RangeSet, wanted: Sequence[Ip]
) -> tuple[Range, Ip]:
    """Choose the address to allocate from one range set; return its range and the address."""
    for ip in leases.of(request.container_id, request.ifname):
        if ranges.find(ranged, ip):
            raise CniError(
                Code.ADDRESS,
                f"container {request.container_id} {request.ifname} has address {ip} of this network already; "
                "DEL it first",
            )
    for ip in wanted:
        each = ranges.find(ranged, ip)
        if each is not None:
            owner = leases.owner(ip)
            if owner is not None:
                raise CniError(
                    Code.ADDRESS, f"requested address {ip} belongs to container {' '.join(owner).rstrip()}"
                )
            return each, ip
    for each, ip in ranges.in_turn(ranged, leases.last(number)):
        if not leases.is_taken(ip):
            return each, ip
    raise CniError(Code.ADDRESS, f"no address left in {ranges.shown(ranged)}")


def _wanted(request: Request, sets: Sequence[RangeSet]) -> list[Ip]:
    """Return the requested addresses, at most one of each range set.

    Raises CniError(INVALID_CONFIG), or INVALID_ENVIRONMENT for one in CNI_ARGS.
    """
    found: dict[int, tuple[Ip, str]] = {}
    for source, texts in conf.requested(request).items():
        code = Code.INVALID_ENVIRONMENT if source.startswith("CNI_ARGS") else Code.INVALID_CONFIG
        for text in texts:
            ip = parse_ip(text.partition("/")[0])
            prefix = parse_prefix(text)
            ip = prefix.ip if prefix is not None else ip
            assert ip is not None  # validated by conf.requested
            number = next((number for number, ranged in enumerate(sets) if ranges.find(ranged, ip)), None)
            if number is None:
                everywhere = "; ".join(map(ranges.shown, sets))
                raise CniError(code, f"{source}: expected an address of {everywhere}, got {text!r}")
            each = ranges.find(sets[number], ip)
            if each is not None and ip == each.gateway:
                raise CniError(code, f"{source}: expected another address than the gateway's, got {text!r}")
            if found.setdefault(number, (ip, text))[0] != ip:
                raise CniError(
                    code,
                    f"{source}: expected one address of {ranges.shown(sets[number])}, got {text!r} besides "
                    f"{found[number][1]!r}",
                )
    return [ip for ip, _ in found.values()]


def _resolv_conf(path: str) -> dict[str, Any]:
    """Read the DNS settings of a resolv.conf(5). Raises CniError(INVALID_CONFIG) if it cannot be read."""
    if not path:
        return {}
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except OSError as error:
        raise CniError(Code.INVALID_CONFIG, f'key "ipam.resolvConf": {path}: {error.strerror}') from error
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

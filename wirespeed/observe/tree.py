"""The topology as a tree of text, for terminals, pipes and a given width."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from wirespeed.observe.attached import PodInterface
from wirespeed.observe.layout import Function, Interface, Pf, Topology
from wirespeed.observe.switches import Switch, SwitchPort
from wirespeed.plugins.vhost.conf import NONE, OVS, VPP
from wirespeed.provision.listing import Settings
from wirespeed.text import aligned, printable

_NARROWEST = 40  # columns of text, however deep and however narrow the terminal


@dataclass(frozen=True)
class _Marks:
    """The characters of the tree: before an item, before the last item, below each of them; and an arrow."""

    item: str
    last: str
    below: str
    below_last: str
    arrow: str


_UTF8 = _Marks("├─ ", "└─ ", "│  ", "   ", "→")
_ASCII = _Marks("|- ", "`- ", "|  ", "   ", "->")


@dataclass(frozen=True)
class _Item:
    """A line: `cells`, aligned with those of its siblings, and `owner`. Below it are `details` and `children`."""

    cells: tuple[str, ...]
    owner: str = ""
    details: tuple[str, ...] = ()
    children: list[_Item] = field(default_factory=list)


def lines(topology: Topology, *, width: int = 80, utf8: bool = True) -> list[str]:
    """Return the topology as lines of at most `width` columns, where words are not longer than that."""
    found = [*_numa_nodes(topology.pfs), *_switches(topology.switches)]
    marks = _UTF8 if utf8 else _ASCII
    text: list[str] = []
    for number, top in enumerate(found):
        text += [*([""] if number else []), " ".join(top.cells), *_below(top.children, marks, "", width)]
    if not found:
        text = ["this node has no PF with SR-IOV or scalable functions, and no vhost-user ports"]
    if topology.faults:
        text += ["", "not shown:", *(f"  {fault}" for fault in topology.faults)]
    return [printable(line, ascii_only=not utf8) for line in text]


def _below(items: Sequence[_Item], marks: _Marks, indent: str, width: int) -> Iterator[str]:
    lines = aligned([item.cells for item in items])
    for number, (item, line) in enumerate(zip(items, lines, strict=True)):
        last = number + 1 == len(items)
        below = indent + (marks.below_last if last else marks.below)
        deeper = below + (marks.below if item.children else marks.below_last)
        owner = f"{marks.arrow} {item.owner}" if item.owner else ""
        first = indent + (marks.last if last else marks.item) + (f"{line}  {owner}" if owner else line.rstrip())
        if owner and len(first) > width:
            yield indent + (marks.last if last else marks.item) + line.rstrip()
            yield from _wrapped([owner], deeper, width)
        else:
            yield first.rstrip()
        yield from _wrapped(item.details, deeper, width)
        yield from _below(item.children, marks, below, width)


def _wrapped(details: Iterable[str], indent: str, width: int) -> list[str]:
    """Wrap between details, not in them, unless one is too long for a line."""
    text = ", ".join(detail.replace(" ", "\0") for detail in details)
    room = max(_NARROWEST, width - len(indent))
    wrapped = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
    return [f"{indent}{line}".replace("\0", " ") for line in wrapped]


# PFs


def _numa_nodes(pfs: Iterable[Pf]) -> Iterator[_Item]:
    for numa_node, those in groupby(sorted(pfs, key=lambda pf: pf.numa_node), key=lambda pf: pf.numa_node):
        yield _Item((numa_title(numa_node),), children=[_pf(pf) for pf in those])


def numa_title(numa_node: int) -> str:
    return f"NUMA node {numa_node}" if numa_node >= 0 else "no NUMA node"


def _pf(pf: Pf) -> _Item:
    cells = (f"PF {pf.name}".rstrip(), pf.address, pf.driver or "no driver", link_of_pf(pf))
    return _Item(cells, details=tuple(details_of_pf(pf)), children=[_function(each) for each in pf.functions])


def link_of_pf(pf: Pf) -> str:
    state = _state(up=pf.up, carrier=pf.carrier)
    return f"{state} {speed(pf.speed)}" if pf.speed and pf.carrier else state


def details_of_pf(pf: Pf) -> Iterator[str]:
    """Yield what else is known of a PF."""
    vfs = sum(each.kind == "VF" for each in pf.functions)
    if pf.total_vfs:
        yield f"{vfs} of {pf.total_vfs} VFs"
    if others := len(pf.functions) - vfs:
        yield f"{others} scalable functions"
    if pf.eswitch != "legacy":
        yield f"eswitch {pf.eswitch}"
    if pf.link_type not in {"", "ether"}:
        yield pf.link_type
    if pf.mtu:
        yield f"MTU {pf.mtu}"
    if pf.rdma:
        yield f"RDMA {' '.join(pf.rdma)}"
    if pf.model:
        yield pf.model


def _function(function: Function) -> _Item:
    cells = (
        f"{function.kind} {function.index}",
        function.address,
        function.driver or "no driver",
        interface_name(function.interface),
        interface_state(function.interface),
    )
    return _Item(cells, owner_of(function), tuple(details_of_function(function)))


def owner_of(function: Function) -> str:
    """Return who has the function: a pod's interface, or another user; "" for nobody."""
    return owner(function.pod) or function.user


def owner(pod: PodInterface | None) -> str:
    return f"{pod.owner} {pod.ifname}" if pod else ""


def details_of_function(function: Function) -> Iterator[str]:
    """Yield what else is known of a function; settings only if they differ from the defaults of drivers."""
    if mac := (function.interface.mac if function.interface else "") or _set_mac(function.settings):
        yield f"MAC {mac}"
    yield from _details_of_settings(function.settings)
    if function.iommu_group:
        yield f"IOMMU group {function.iommu_group}"
    if function.rdma:
        yield f"RDMA {' '.join(function.rdma)}"
    if function.vdpa:
        yield f"vDPA {function.vdpa}"
    if function.representor:
        yield f"representor {function.representor}"
    if function.bridge:
        yield f"on bridge {function.bridge}"
    if function.pool:
        yield f"pool {function.pool}"
    if function.pod and function.pod.network:
        yield f"network {function.pod.network}"


def _set_mac(settings: Settings) -> str:
    """Return the MAC that the PF has for the VF, "" if it has none."""
    mac = settings.mac or ""
    return mac if mac.strip("0:") else ""


def _details_of_settings(settings: Settings) -> Iterator[str]:
    if settings.vlan:
        priority = f" priority {settings.vlan_priority}" if settings.vlan_priority else ""
        yield f"VLAN {settings.vlan}{priority}" + (" QinQ (802.1ad)" if settings.vlan_protocol == "802.1ad" else "")
    if settings.min_rate:
        yield f"at least {settings.min_rate} Mbit/s"
    if settings.max_rate:
        yield f"at most {settings.max_rate} Mbit/s"
    if settings.trust:
        yield "trusted"
    if settings.spoofchk is not None:
        yield f"spoof check {'on' if settings.spoofchk else 'off'}"
    if settings.link_state not in {None, "auto"}:
        yield f"link state {settings.link_state}"


def interface_name(interface: Interface | None) -> str:
    return interface.name if interface else "-"


def interface_state(interface: Interface | None) -> str:
    return _state(up=interface.up, carrier=interface.carrier) if interface else ""


def _state(*, up: bool, carrier: bool) -> str:
    if not up:
        return "down"
    return "up" if carrier else "no carrier"


def speed(mbit: int) -> str:
    """Return a speed in Mbit/s as text."""
    return f"{mbit / 1000:g} Gbit/s" if mbit >= 1000 else f"{mbit} Mbit/s"


# Switches


def _switches(switches: Iterable[Switch]) -> Iterator[_Item]:
    for kind, those in groupby(switches, key=lambda switch: switch.kind):
        yield _Item((switch_title(kind),), children=[_bridge(each) for each in those])


def switch_title(kind: str) -> str:
    return {OVS: "Open vSwitch", VPP: "VPP", NONE: "memif between pods"}[kind]


def bridge_title(switch: Switch) -> str:
    if switch.kind == NONE:
        return f"socket {switch.bridge}"
    name = "bridge" if switch.kind == OVS else "bridge domain"
    return f"{name} {switch.bridge}" if switch.bridge else "routed ports"


def _bridge(switch: Switch) -> _Item:
    details = [f"other ports: {' '.join(switch.others)}"] if switch.others else []
    children = [_port(each, shares_socket=switch.kind == NONE) for each in switch.ports]
    cells = (bridge_title(switch), *([f"datapath {switch.datapath}"] if switch.datapath else []))
    return _Item(cells, details=tuple(details), children=children)


def _port(port: SwitchPort, *, shares_socket: bool) -> _Item:
    names = () if shares_socket else (port.name,)
    cells = (*names, f"{kind_of_port(port)} {port.role}".rstrip(), port.state)
    return _Item(cells, owner(port.pod), tuple(details_of_port(port, shares_socket=shares_socket)))


def kind_of_port(port: SwitchPort) -> str:
    return "vhost-user" if port.kind == "vhostuser" else port.kind


def details_of_port(port: SwitchPort, *, shares_socket: bool = False) -> Iterator[str]:
    """Yield what else is known of a port."""
    if port.pod is None:
        yield "not in the journal"
    if port.vlan is not None:
        yield f"VLAN {port.vlan}"
    if port.trunk:
        yield f"tagged VLANs {' '.join(map(str, port.trunk))}"
    if port.mtu:
        yield f"MTU {port.mtu}"
    if port.pod and port.pod.network:
        yield f"network {port.pod.network}"
    if port.socket and not shares_socket:
        yield f"socket {port.socket}"

"""The topology as an SVG drawing, from left to right: PFs and bridges, their VFs and ports, and pods.

The drawing has no script and no external parts, and its colours follow the browser's light or dark scheme.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import groupby

from wirespeed.observe import tree
from wirespeed.observe.layout import Function, Pf, Topology
from wirespeed.observe.switches import Switch, SwitchPort
from wirespeed.plugins.vhost.conf import NONE
from wirespeed.text import printable

_CHARACTER = 7.4  # px: width of a character of a monospace font of 12 px, with a reserve
_LINE = 16  # px
_PADDING, _GAP, _BETWEEN, _MARGIN = 8, 10, 60, 16  # px: in a box, between boxes, between columns, around all
_STYLE = """
  svg { background: #ffffff; }
  text { font: 12px monospace; fill: #263238; }
  text.title { font-weight: bold; }
  text.detail { fill: #546e7a; }
  rect { fill: #eceff1; stroke: #90a4ae; }
  rect.pf { fill: #b2dfdb; stroke: #00695c; }
  rect.pod { fill: #e0f2f1; stroke: #00695c; }
  path { fill: none; stroke: #90a4ae; stroke-width: 1.5; }
  @media (prefers-color-scheme: dark) {
    svg { background: #1e2429; }
    text { fill: #eceff1; }
    text.detail { fill: #b0bec5; }
    rect { fill: #2b343a; stroke: #607d8b; }
    rect.pf { fill: #00453e; stroke: #4db6ac; }
    rect.pod { fill: #0f3330; stroke: #4db6ac; }
    path { stroke: #607d8b; }
  }
"""


@dataclass
class _Box:
    """A box with lines of text, the first one as its title; `pod` is the title of the pod's box it leads to."""

    kind: str
    text: list[str]
    pod: str = ""
    children: list[_Box] = field(default_factory=list)
    y: float = 0.0

    @property
    def width(self) -> float:
        return max(map(len, self.text)) * _CHARACTER + 2 * _PADDING

    @property
    def height(self) -> float:
        return len(self.text) * _LINE + 2 * _PADDING

    @property
    def middle(self) -> float:
        return self.y + self.height / 2


@dataclass
class _Group:
    """The boxes of a NUMA node or of a kind of switch, below its title."""

    title: str
    boxes: list[_Box]
    y: float = 0.0


def svg(topology: Topology) -> str:
    """Return the drawing as an XML document."""
    groups = [*_numa_nodes(topology.pfs), *_switches(topology.switches)]
    bottom = _place(groups)
    left = [box for group in groups for box in group.boxes]
    middle = [child for box in left for child in box.children]
    pods = _pods(middle)
    bottom = max([bottom, *(pod.y + pod.height for pod in pods)])
    columns, x = [], float(_MARGIN)
    for boxes in (left, middle, pods):
        columns.append(x)
        x += max((box.width for box in boxes), default=0) + _BETWEEN
    parts = [_text(_MARGIN, group.y + _LINE, group.title, "title") for group in groups]
    parts += [_edge(columns[0], box, columns[1], child) for box in left for child in box.children]
    by_title = {pod.text[0]: pod for pod in pods}
    parts += [_edge(columns[1], box, columns[2], by_title[box.pod]) for box in middle if box.pod]
    for column, boxes in zip(columns, (left, middle, pods), strict=True):
        parts += [part for box in boxes for part in _drawn(column, box)]
    for fault in topology.faults:
        bottom += _LINE + _GAP
        parts.append(_text(_MARGIN, bottom, f"not shown: {fault}", "detail"))
    longest = max(
        (len(text) for text in (*(group.title for group in groups), *map("not shown: {}".format, topology.faults))),
        default=0,
    )
    width = max(x - _BETWEEN, _MARGIN + longest * _CHARACTER) + _MARGIN
    height = bottom + _MARGIN
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
    head += f'viewBox="0 0 {width:.0f} {height:.0f}">'
    title = f"<title>{_escaped(f'Topology of node {topology.node}')}</title>"
    return "\n".join([head, title, f"<style>{_STYLE}</style>", *parts, "</svg>", ""])


# What is drawn


def _numa_nodes(pfs: Iterable[Pf]) -> list[_Group]:
    ordered = sorted(pfs, key=lambda pf: pf.numa_node)
    return [
        _Group(tree.numa_title(numa_node), [_pf(pf) for pf in those])
        for numa_node, those in groupby(ordered, key=lambda pf: pf.numa_node)
    ]


def _pf(pf: Pf) -> _Box:
    text = [f"PF {pf.name}".rstrip(), f"{pf.address} {pf.driver or 'no driver'}", tree.link_of_pf(pf)]
    return _Box("pf", [*text, *tree.details_of_pf(pf)], children=[_function(each) for each in pf.functions])


def _function(function: Function) -> _Box:
    title = f"{function.kind} {function.index}  {function.address}  {function.driver or 'no driver'}"
    if function.interface:
        name, state = tree.interface_name(function.interface), tree.interface_state(function.interface)
        title += f"  {name} {state}"
    user = [function.user] if function.user and not function.pod else []
    owner = function.pod.owner if function.pod else ""
    return _Box("function", [title, *_lines([*user, *tree.details_of_function(function)])], owner)


def _switches(switches: Iterable[Switch]) -> list[_Group]:
    return [
        _Group(tree.switch_title(kind), [_bridge(each) for each in those])
        for kind, those in groupby(switches, key=lambda switch: switch.kind)
    ]


def _bridge(switch: Switch) -> _Box:
    text = [tree.bridge_title(switch)]
    text += [f"datapath {switch.datapath}"] if switch.datapath else []
    text += [f"other ports: {' '.join(switch.others)}"] if switch.others else []
    children = [_port(each, shares_socket=switch.kind == NONE) for each in switch.ports]
    return _Box("pf", text, children=children)


def _port(port: SwitchPort, *, shares_socket: bool) -> _Box:
    title = f"{port.name}  {tree.kind_of_port(port)} {port.role}  {port.state}".rstrip()
    details = tree.details_of_port(port, shares_socket=shares_socket)
    return _Box("function", [title, *_lines(details)], port.pod.owner if port.pod else "")


def _lines(details: Iterable[str], width: int = 64) -> list[str]:
    """Join details to lines of about that many characters."""
    found: list[str] = []
    for detail in details:
        if found and len(found[-1]) + len(detail) < width:
            found[-1] += f", {detail}"
        else:
            found.append(detail)
    return found


# Where it is drawn


def _place(groups: Sequence[_Group]) -> float:
    """Set the y of all boxes but those of pods; return the bottom of the lowest."""
    y = float(_MARGIN)
    for group in groups:
        group.y = y
        y += 2 * _LINE
        for box in group.boxes:
            top = y
            for child in box.children:
                child.y = y
                y += child.height + _GAP
            box.y = top
            y = max(y, top + box.height + _GAP)
        y += _GAP
    return y


def _pods(rows: Sequence[_Box]) -> list[_Box]:
    """Return a box for each pod, near the middle of what it has, without overlap."""
    having: dict[str, list[_Box]] = {}
    for row in rows:
        if row.pod:
            having.setdefault(row.pod, []).append(row)
    found, y = [], float(_MARGIN)
    middles = {pod: sum(row.middle for row in those) / len(those) for pod, those in having.items()}
    for pod, middle in sorted(middles.items(), key=lambda each: each[1]):
        box = _Box("pod", [pod])
        box.y = max(y, middle - box.height / 2)
        y = box.y + box.height + _GAP
        found.append(box)
    return found


# SVG


def _drawn(x: float, box: _Box) -> list[str]:
    rect = (
        f'<rect class="{box.kind}" x="{x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" '
    )
    lines = [
        _text(x + _PADDING, box.y + _PADDING + _LINE * number + 12, text, "detail" if number else "title")
        for number, text in enumerate(box.text)
    ]
    return [f'{rect}rx="4"/>', *lines]


def _edge(from_x: float, from_box: _Box, to_x: float, to_box: _Box) -> str:
    x, y, to_y = from_x + from_box.width, from_box.middle, to_box.middle
    bend = (x + to_x) / 2
    return f'<path d="M {x:.1f} {y:.1f} C {bend:.1f} {y:.1f} {bend:.1f} {to_y:.1f} {to_x:.1f} {to_y:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" xml:space="preserve">{_escaped(text)}</text>'


def _escaped(text: str) -> str:
    return escape(printable(text))

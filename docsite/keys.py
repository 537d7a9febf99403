"""Tables in the documentation: the keys of each configuration, from the Structs that declare them.

python -m docsite.keys    # write them into the pages: make docs

A table stands between `<!-- keys: NAME -->` and `<!-- end -->`; the rest of a page is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from wirespeed import declared
from wirespeed.deviceplugin import config as deviceplugin
from wirespeed.ipam import conf as ipam
from wirespeed.ipam import hostlocal, static
from wirespeed.node import NodeConfig
from wirespeed.plugins.meta import selection
from wirespeed.plugins.meta.config import MetaConfig
from wirespeed.plugins.sriov import conf as sriov
from wirespeed.plugins.sriov.rss import Rss
from wirespeed.plugins.vhost import conf as vhost
from wirespeed.provision import policy
from wirespeed.structs import struct_of

PAGES = tuple(Path(__file__).parents[1] / "docs" / name for name in ("configuration.md", "vf.md"))
# Tables with the columns key, value, what it is for.
VALUES: dict[str, type[msgspec.Struct]] = {
    "networks": selection.NetworkKeys,
    "networks portMappings": selection.PortMappingKeys,
    "networks bandwidth": selection.BandwidthKeys,
    "sriov": sriov.Keys,
    "sriov rss": Rss,
    "pool": deviceplugin.PoolKeys,
    "selectors": deviceplugin.SelectorKeys,
    "host-local": hostlocal.Keys,
    "static": static.Keys,
    "static addresses": static.AddressKeys,
    "routes": ipam.RouteKeys,
    "dns": ipam.DnsKeys,
    "vhost": vhost.Keys,
    "vhost side": vhost.SideKeys,
    "vhost memif": vhost.MemifKeys,
    "vhost vhost": vhost.VhostKeys,
    "vhost bridge": vhost.BridgeKeys,
    "vhost socket": vhost.SocketKeys,
    "vhost bandwidth": vhost.BandwidthKeys,
    "vhost mirror": vhost.MirrorKeys,
    "node-policy": policy.Spec,
    "node-policy nicSelector": policy.NicSelector,
}
# Tables with the columns key, default, what it is for; the keys of a Struct in the Struct have its key before them.
DEFAULTS: dict[str, type[msgspec.Struct]] = {"agent": NodeConfig, "meta": MetaConfig}
_TABLE = re.compile(r"(?P<head><!-- keys: (?P<name>[^>]+) -->\n)(?:\|.*\n)*(?P<end>\n<!-- end -->\n)")


def page(text: str) -> str:
    """Return the text of the page with the tables as the code declares them."""
    return _TABLE.sub(lambda match: match["head"] + _table(match["name"]) + match["end"], text)


def _table(name: str) -> str:
    head = "default" if name in DEFAULTS else "value"
    rows = with_defaults(DEFAULTS[name]) if name in DEFAULTS else _with_values(VALUES[name])
    lines = [f"| key | {head} | what it is for |", "|---|---|---|", *map(_row, rows)]
    return "".join(f"{line}\n" for line in lines)


def _row(cells: tuple[str, ...]) -> str:
    return re.sub(" +", " ", f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")


def _with_values(kind: type[msgspec.Struct]) -> Iterator[tuple[str, ...]]:
    texts = declared.texts(kind)
    for field in msgspec.structs.fields(kind):
        yield f"`{field.encode_name}`", declared.cell(field.type), texts[field.encode_name]


def with_defaults(kind: type[msgspec.Struct], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield the keys of a Struct and of the Structs in it, each with its default and its text, in Markdown."""
    texts = declared.texts(kind)
    for field in msgspec.structs.fields(kind):
        key = field.encode_name
        inner = struct_of(field.type)
        if inner is None or field.default is None:
            yield f"`{prefix}{key}`", declared.default(kind, key), texts[key]
        if inner is not None:
            yield from with_defaults(inner, f"{prefix}{key}.")


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(page(path.read_text()))

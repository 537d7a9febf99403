"""docs/configuration.md: its tables list the keys that the code reads, with the code's defaults."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from wirespeed.deviceplugin import config as deviceplugin_config
from wirespeed.ipam import hostlocal, static
from wirespeed.kube import dra
from wirespeed.kube.cluster import NETWORK_STATUS
from wirespeed.node import NodeConfig
from wirespeed.plugins.meta import networks, selection
from wirespeed.plugins.meta.config import MetaConfig
from wirespeed.plugins.sriov import conf as sriov_conf
from wirespeed.plugins.sriov.rss import Rss
from wirespeed.plugins.vhost import conf as vhost_conf
from wirespeed.plugins.vhost import poddata

DOCUMENT = Path(__file__).parents[2] / "docs/configuration.md"
_TABLE = re.compile(r"<!-- keys: (?P<name>[^>]+) -->\n\|[^\n]*\n\|[-|]*\|\n(?P<rows>(?:\|[^\n]*\n)*)")


def tables() -> dict[str, list[list[str]]]:
    """The rows of each table, by the table's name; cells are without backquotes."""
    found = {}
    for match in _TABLE.finditer(DOCUMENT.read_text()):
        rows = [row.strip("|").split("|") for row in match["rows"].splitlines()]
        found[match["name"]] = [[cell.strip() for cell in row] for row in rows]
    return found


def struct_keys(kind: type[msgspec.Struct], prefix: str = "") -> dict[str, Any]:
    """Every key of a Struct with its default; keys of nested Structs by their path."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        inner = next((each for each in (field.type, *get_args(field.type)) if _is_struct(each)), None)
        default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
        if inner is None or field.default is None:
            found[prefix + field.encode_name] = default
        if inner is not None:
            found |= struct_keys(inner, f"{prefix}{field.encode_name}.")
    return found


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def written(default: Any) -> str:
    """A default as written in the tables; empty values are an empty cell."""
    if default in ("", None) or (default is not False and not default):
        return ""
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


@pytest.mark.parametrize(("name", "kind"), [("agent", NodeConfig), ("meta", MetaConfig)])
def test_a_table_of_a_struct_has_its_keys_and_defaults(name: str, kind: type[msgspec.Struct]) -> None:
    assert [(row[0], row[1]) for row in tables()[name]] == [
        (f"`{key}`", written(default)) for key, default in struct_keys(kind).items()
    ]


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("networks", selection.KEYS),
        ("sriov", sriov_conf.KEYS),
        ("sriov rss", Rss.__struct_fields__),
        ("vhost", vhost_conf.KEYS),
        ("vhost side", vhost_conf.HOST_KEYS),
        ("vhost memif", vhost_conf.MEMIF_KEYS),
        ("vhost vhost", vhost_conf.VHOST_KEYS),
        ("vhost bridge", vhost_conf.BRIDGE_KEYS),
        ("vhost socket", vhost_conf.SOCKET_KEYS),
        ("vhost bandwidth", vhost_conf.BANDWIDTH_KEYS),
        ("vhost mirror", vhost_conf.MIRROR_KEYS),
        ("host-local", hostlocal.KEYS),
        ("static", static.KEYS),
        ("pool", deviceplugin_config.POOL_KEYS),
        ("selectors", deviceplugin_config.SELECTOR_KEYS),
        ("dra", (dra.RESOURCE_NAME, dra.DEVICE_ID)),
        (
            "annotations",
            (
                selection.NETWORKS,
                selection.DEFAULT_NETWORK,
                networks.RESOURCE_NAME,
                NETWORK_STATUS,
                poddata.CONFIGURATION_DATA,
                poddata.MAPPED_DIR,
            ),
        ),
    ],
)
def test_a_table_has_the_keys_of_the_code(name: str, keys: Iterable[str]) -> None:
    assert [row[0] for row in tables()[name]] == [f"`{key}`" for key in keys]


def test_every_key_says_what_it_is_or_what_it_takes() -> None:
    assert all(any(row[1:]) for rows in tables().values() for row in rows)

"""The record of an installation: the plugin names that the shim took from other tools on this node.

The agent reads it to keep these names, and the next installation to give back those that it no longer replaces.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from wirespeed import steps, structs
from wirespeed.errors import Error, Kind, as_error
from wirespeed.node import NodeConfig
from wirespeed.steps import Step

# The names that the shim takes, by the tool that is replaced.
PEERS = {"multus": ("multus", "multus-shim"), "sriov-cni": ("sriov",), "userspace-cni": ("userspace",)}
_AGAIN = "remove it, and run wirespeed install again"


class MultusFiles(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Where Multus keeps its state of pods, and how to read it."""

    folder: str
    configuration: str  # the name of the CNI configuration with which the runtime calls the meta-plugin
    version: str  # the cniVersion of networks that have none
    path: tuple[str, ...]  # Multus' binDir


@structs.prepared
class Record(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The replaced tools of PEERS, the folder of their plugins, and where they keep their state."""

    bin_dir: str = ""
    replaced: tuple[str, ...] = ()
    sriov_dir: str = "/var/lib/cni/sriov"
    multus: MultusFiles | None = None


def place(config: NodeConfig) -> Path:
    """Return its path: on disk, next to the folder of the attachments' records."""
    return Path(config.attachments).with_name("replaced.json")


def read(config: NodeConfig, *, hint: str = _AGAIN) -> Record | None:
    """Read the record, without tools that this version does not know; None if there is none.

    Raises Error that names the file, and ends with the hint if its content is wrong.
    """
    path = place(config)
    try:
        decoded = msgspec.json.decode(path.read_bytes())
        record = structs.read(decoded, Record)
        return msgspec.structs.replace(record, replaced=tuple(peer for peer in record.replaced if peer in PEERS))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise as_error(error, path) from error
    except Error as error:
        raise error.of_kind(Kind.INVALID_DATA).within(str(path)).with_hint(hint) from error
    except msgspec.DecodeError as error:
        raise Error(Kind.INVALID_DATA, f"not JSON: {error}", where=str(path), hint=hint) from error


def write(config: NodeConfig, record: Record) -> list[Step]:
    """Return the step that writes the record, or removes it if nothing is replaced; empty if it is up to date."""
    path, new = place(config), msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
    if not record.replaced:
        return [steps.remove(path, f"remove {path}")] if path.exists() else []
    if path.exists() and path.read_bytes() == new:
        return []
    return [steps.write(path, new, 0o644, f"record in {path} which tools are replaced")]

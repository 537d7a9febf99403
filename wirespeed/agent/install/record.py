"""What an installation took from others on this node, noted for the agent, which keeps it, and for the next one."""

from __future__ import annotations

from pathlib import Path

import msgspec

from wirespeed import structs
from wirespeed.agent.install import steps
from wirespeed.agent.install.binaries import PEERS
from wirespeed.agent.install.steps import Step
from wirespeed.cni.errors import CniError, Code
from wirespeed.node import NodeConfig

_AGAIN = "remove it, and run wirespeed install again"


class MultusFiles(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How what Multus keeps of pods in `folder` is read; the rest is as in `takeover.attachments`."""

    folder: str
    configuration: str
    version: str
    path: tuple[str, ...]


@structs.prepared
class Record(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Whose names the shim took, of `binaries.PEERS`, in which folder, and where they keep what they attach."""

    bin_dir: str = ""
    replaced: tuple[str, ...] = ()
    sriov_dir: str = "/var/lib/cni/sriov"
    multus: MultusFiles | None = None


def place(config: NodeConfig) -> Path:
    """Where it lies: on disk, beside the records of what containers hold."""
    return Path(config.attachments).with_name("replaced.json")


def read(config: NodeConfig) -> Record | None:
    """What is noted, as far as this version knows it; None where nothing was taken.

    Raises CniError that names the file.
    """
    path = place(config)
    try:
        noted = msgspec.json.decode(path.read_bytes(), type=Record)
        return msgspec.structs.replace(noted, replaced=tuple(peer for peer in noted.replaced if peer in PEERS))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CniError(Code.IO_FAILURE, f"{path}: {error.strerror}") from error
    except msgspec.ValidationError as error:
        raise CniError(Code.DECODING_FAILURE, f"{path}: {structs.fault(error, Record)}; {_AGAIN}") from error
    except msgspec.DecodeError as error:
        raise CniError(Code.DECODING_FAILURE, f"{path}: not JSON: {error}; {_AGAIN}") from error


def write(config: NodeConfig, record: Record) -> list[Step]:
    """The step that notes it, or that removes what is noted of nothing; none where it is so already."""
    path, new = place(config), msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
    there = path.read_bytes() if path.exists() else None
    if record.replaced and there != new:
        return [steps.write(path, new, 0o644, f"note in {path} whose names are taken")]
    if not record.replaced and there is not None:
        return [steps.remove(path, f"remove {path}")]
    return []

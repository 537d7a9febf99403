"""OCI image archives (https://github.com/opencontainers/image-spec): single files that runtimes import."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from image.layer import Layer

_TYPES = "application/vnd.oci.image"
_INDEX = {"schemaVersion": 2, "mediaType": f"{_TYPES}.index.v1+json"}


class Variant(NamedTuple):
    """The image for one architecture (in OCI's naming): its layers, and how its containers are started."""

    architecture: str
    layers: Sequence[tuple[Layer, str]]  # each with its description
    environment: Mapping[str, str]
    entrypoint: Sequence[str]
    command: Sequence[str]


def write_archive(
    target: Path,
    variants: Sequence[Variant],
    *,
    reference: str,
    version: str,
    epoch: int,
    labels: Mapping[str, str],
) -> str:
    """Write `target`, an OCI archive of an image with all `variants`; return the digest of the image.

    `reference` is the image's name in a runtime that has imported it ("localhost/NAME:VERSION").
    """
    new = target.with_name(f".{target.name}.{os.getpid()}")
    blobs: dict[str, bytes | Path] = {}
    try:
        manifests = [_manifest(variant, blobs, epoch=epoch, labels=labels) for variant in variants]
        names = {"org.opencontainers.image.ref.name": version, "io.containerd.image.name": reference}
        image = manifests[0]
        if len(manifests) > 1:  # an image for several architectures is a separate index, which gets the name
            image = {"mediaType": _INDEX["mediaType"], **_blob(blobs, _INDEX | {"manifests": manifests})}
        index = _INDEX | {"manifests": [{**image, "annotations": names}]}
        with tarfile.open(new, "w", format=tarfile.PAX_FORMAT) as archive:
            _file(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}), epoch)
            _file(archive, "index.json", _json(index), epoch)
            for digest, content in sorted(blobs.items()):
                _file(archive, f"blobs/sha256/{digest}", content, epoch)
        os.replace(new, target)
    finally:
        new.unlink(missing_ok=True)
    return str(image["digest"])


def _manifest(
    variant: Variant, blobs: dict[str, bytes | Path], *, epoch: int, labels: Mapping[str, str]
) -> dict[str, Any]:
    """Add a variant's manifest, config and layers to `blobs`; return the manifest's descriptor."""
    created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = {
        "created": created,
        "architecture": variant.architecture,
        "os": "linux",
        "config": {
            "Env": [f"{name}={value}" for name, value in variant.environment.items()],
            **({"Entrypoint": list(variant.entrypoint)} if variant.entrypoint else {}),
            "Cmd": list(variant.command),
            "Labels": dict(labels),
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer, _ in variant.layers]},
        "history": [{"created": created, "created_by": what} for _, what in variant.layers],
    }
    layers = []
    for layer, _ in variant.layers:
        blobs[layer.digest] = layer.path
        digest = f"sha256:{layer.digest}"
        layers.append({"mediaType": f"{_TYPES}.layer.v1.tar+gzip", "digest": digest, "size": layer.size})
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_TYPES}.manifest.v1+json",
        "config": {"mediaType": f"{_TYPES}.config.v1+json", **_blob(blobs, config)},
        "layers": layers,
    }
    platform = {"architecture": variant.architecture, "os": "linux"}
    return {"mediaType": f"{_TYPES}.manifest.v1+json", **_blob(blobs, manifest), "platform": platform}


def _blob(blobs: dict[str, bytes | Path], value: object) -> dict[str, Any]:
    """Add a JSON document; return its digest and size."""
    text = _json(value)
    digest = hashlib.sha256(text).hexdigest()
    blobs[digest] = text
    return {"digest": f"sha256:{digest}", "size": len(text)}


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _file(archive: tarfile.TarFile, name: str, content: bytes | Path, epoch: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.mtime = epoch
    if isinstance(content, bytes):
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    else:
        entry.size = content.stat().st_size
        with content.open("rb") as file:
            archive.addfile(entry, file)

"""Software bills of materials, CycloneDX JSON.

That of an image has its Debian packages and its Python libraries. That of a library has the library alone.
"""

from __future__ import annotations

import fnmatch
import json
import re
import tarfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License, LicenseAcknowledgement
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from lab.errors import LabError

# Paths in a layer.
_STATUS = "var/lib/dpkg/status"
_SYSTEM = "usr/lib/os-release"
_METADATA = "*.dist-info/METADATA"


def write(target: Path, archive: Path, *, name: str, version: str, sha256: str, epoch: int) -> None:
    """Write the bill of the OCI archive `archive`, whose SHA-256 is `sha256`.

    It has the packages of all architectures. The same archive gives the same bytes; `epoch` (s) is its time.
    """
    files, digest = _read(archive)
    components = {each.bom_ref.value: each for each in _components(files)}
    purl = PackageURL("oci", None, name, digest, {"tag": version})
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=sha256)]
    image = _component(ComponentType.CONTAINER, name, version, purl, hashes=hashes)
    _write(target, image, components.values(), identity=str(purl), epoch=epoch)


def write_library(target: Path, metadata: str, *, sha256: str, epoch: int) -> None:
    """Write the bill of a Python library without dependencies.

    `metadata` is the core metadata of its wheel, `sha256` the wheel's SHA-256, `epoch` (s) the time in the bill.
    Raises LabError if the library has dependencies, because the bill would not list them.
    """
    fields = HeaderParser().parsestr(metadata)
    if needed := fields.get_all("Requires-Dist"):
        raise LabError(f"{fields['Name']}: expected no dependencies, got {', '.join(needed)}")
    library = _python(fields)
    library.hashes.add(HashType(alg=HashAlgorithm.SHA_256, content=sha256))
    _write(target, library, [], identity=f"{library.purl}?checksum=sha256:{sha256}", epoch=epoch)


def _write(target: Path, about: Component, needed: Iterable[Component], *, identity: str, epoch: int) -> None:
    """Write the bill of `about`, which consists of `needed`. `identity` determines its serial number."""
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, identity),
        metadata=BomMetaData(component=about, timestamp=datetime.fromtimestamp(epoch, UTC)),
        components=needed,
    )
    bom.register_dependency(about, needed)
    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)
    target.write_text(text + "\n")


def _read(archive: Path) -> tuple[list[tuple[str, str]], str]:
    """What is read of the image, as pairs (path, text), and the image's digest."""
    with tarfile.open(archive) as content:
        (named,) = _json(content, "index.json")["manifests"]
        image = _json(content, _path(named))
        manifests = [_json(content, _path(each)) for each in image.get("manifests", [named])]
        files = [pair for each in manifests for layer in each["layers"] for pair in _layer(content, layer)]
    return files, str(named["digest"])


def _layer(content: tarfile.TarFile, descriptor: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    with tarfile.open(fileobj=content.extractfile(_path(descriptor)), mode="r|gz") as layer:
        for member in layer:
            if member.name in {_STATUS, _SYSTEM} or fnmatch.fnmatchcase(member.name, _METADATA):
                file = layer.extractfile(member)
                assert file is not None, member.name
                yield member.name, file.read().decode()


def _path(descriptor: Mapping[str, Any]) -> str:
    return "blobs/sha256/" + str(descriptor["digest"]).removeprefix("sha256:")


def _json(content: tarfile.TarFile, name: str) -> dict[str, Any]:
    file = content.extractfile(name)
    assert file is not None, name
    found: dict[str, Any] = json.load(file)
    return found


def _components(files: Iterable[tuple[str, str]]) -> Iterator[Component]:
    """The operating system, its packages, and the Python libraries."""
    files = list(files)
    (system, *_) = [text for path, text in files if path == _SYSTEM]
    fields = dict(re.findall(r'(?m)^(ID|VERSION_ID)="?([^"\n]*)', system))
    distribution, number = fields["ID"], fields["VERSION_ID"]
    release = f"{distribution}-{number}"
    yield Component(type=ComponentType.OPERATING_SYSTEM, name=distribution, version=number, bom_ref=release)
    for path, text in files:
        if path == _STATUS:
            for stanza in filter(None, text.split("\n\n")):
                yield _debian(HeaderParser().parsestr(stanza), distribution, release)
        elif path != _SYSTEM:
            yield _python(HeaderParser().parsestr(text))


def _debian(fields: Message, distribution: str, release: str) -> Component:
    """A package of dpkg's database. Debian's security tracker lists source packages: the qualifier `upstream`."""
    qualifiers = {"arch": fields["Architecture"], "distro": release}
    if source := fields["Source"]:  # "gcc-14", or "gcc-14 (14.2.0-19)" if its version is not the package's
        qualifiers["upstream"] = re.sub(r" \((.*)\)", r"@\1", source)
    purl = PackageURL("deb", distribution, fields["Package"], fields["Version"], qualifiers)
    return _component(ComponentType.LIBRARY, fields["Package"], fields["Version"], purl)


def _python(fields: Message) -> Component:
    """A distribution, from its core metadata (https://packaging.python.org/specifications/core-metadata)."""
    name, version = re.sub(r"[-_.]+", "-", fields["Name"]).lower(), fields["Version"]
    purl = PackageURL("pypi", None, name, version)
    return _component(ComponentType.LIBRARY, name, version, purl, licenses=list(_licenses(fields)))


def _component(kind: ComponentType, name: str, version: str, purl: PackageURL, **more: Any) -> Component:
    return Component(type=kind, name=name, version=version, purl=purl, bom_ref=str(purl), **more)


def _licenses(fields: Message) -> Iterator[License]:
    """The licence as the distribution declares it: an SPDX expression, a short text, or classifiers."""
    make, declared = LicenseFactory().make_from_string, LicenseAcknowledgement.DECLARED
    text = (fields["License-Expression"] or fields["License"] or "").strip()
    if text and "\n" not in text:  # some have the licence's whole text here
        yield make(text, license_acknowledgement=declared)
        return
    for classifier in fields.get_all("Classifier", []):
        if classifier.startswith("License :: "):
            yield make(classifier.rpartition(" :: ")[2], license_acknowledgement=declared)

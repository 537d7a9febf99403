"""Files to check: what each of their documents is, told by its content, and what the code that reads it says."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from agent import multus
from cli.checks import configs, networks
from cli.checks.findings import Finding
from cli.checks.networks import NAD, Definitions
from cli.checks.places import Document, Lines, UnreadableError, lines_of, read, read_json
from cli.checks.pods import TEMPLATES, Pods
from provision.policy import KIND as NODE_POLICY
from wirespeed.kube import documents
from wirespeed.node import Node, NodeConfig

_JSON = (".json", ".conf", ".conflist")
SUFFIXES = (".yaml", ".yml", *_JSON)
# Documents that are no Kubernetes object: what they are called, and keys of which they have one at least.
_KINDS: Mapping[str, frozenset[str]] = {
    "device plugin": frozenset({"resourcelist"}),
    "network": frozenset({"type", "plugins"}),
    "agent": frozenset(NodeConfig.__struct_encode_fields__),
    "multus": frozenset(multus.KEYS),
}
_OF_JSON = ("device plugin", "network", "multus")  # whose readers take nothing else
_CHECKS: Mapping[str, Callable[[Document], Iterator[Finding]]] = {
    "device plugin": configs.device_plugin,
    "network": networks.configuration,
    "agent": configs.agent,
    "multus": configs.multus_daemon,
    NAD: networks.definition,
    NODE_POLICY: configs.node_policy,
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """The findings of each file, by line, and how many documents of a known kind there were."""

    findings: list[tuple[Path, Finding]]
    documents: int


@dataclass(frozen=True, kw_only=True)
class _Known:
    """A document of a known kind, and the file that it is in."""

    path: Path
    kind: str
    document: Document


def check(paths: Sequence[Path]) -> Report:
    """Check the files; a folder is its files of known suffixes. Definitions of one count for pods of another."""
    found: list[tuple[Path, Finding]] = []
    known: list[_Known] = []
    for path in _expanded(paths):
        for each in _contents(path):
            if isinstance(each, Finding):
                found.append((path, each))
            else:
                known.append(each)
    definitions, twice = _definitions(known)
    found += twice
    with tempfile.TemporaryDirectory(prefix="wirespeed-check-") as folder:
        config = NodeConfig(state=f"{folder}/state.db", kubelet=folder, devinfo=folder, leases=folder)
        with closing(Node(config, once=True)) as node:
            pods = Pods(definitions, node)
            for each in known:
                found += [(each.path, finding) for finding in _findings(each, pods)]
    order = {path: number for number, path in enumerate(_expanded(paths))}
    found = sorted(set(found), key=lambda item: (order[item[0]], item[1].line, not item[1].error, item[1].text))
    return Report(findings=found, documents=len(known))


def _expanded(paths: Sequence[Path]) -> list[Path]:
    """The files, each once."""
    found: dict[Path, None] = {}
    for path in paths:
        inside = sorted(each for each in path.iterdir() if each.suffix in SUFFIXES) if path.is_dir() else [path]
        found |= dict.fromkeys(each for each in inside if each.is_file() or not path.is_dir())
    return list(found)


def _contents(path: Path) -> Iterator[_Known | Finding]:
    """What a file holds, and what cannot be read of it or is nothing that is known here."""
    try:
        text = path.read_text()
    except OSError as error:
        yield Finding(1, error=True, text=f"cannot be read: {error.strerror}")
        return
    except UnicodeDecodeError as error:
        yield Finding(1, error=True, text=f"expected text in UTF-8, got byte {error.object[error.start]:#04x}")
        return
    try:
        found = read(text, json_only=path.suffix in _JSON)
    except UnreadableError as error:
        yield Finding(error.line, error=True, text=str(error))
        return
    for document in found:
        yield from networks.repeated(document)
        for part in _parts(document):
            yield from _recognised(path, part, text, lines_of(text))


def _parts(document: Document) -> Iterator[Document]:
    """The document, or the items of a list of Kubernetes objects: without what is null, as these are read."""
    value = document.value
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind is not None:
        value = documents.given(value)
        document = replace(document, value=value)
    items = value.get("items") if isinstance(kind, str) and kind.endswith("List") else None
    if not isinstance(items, list):
        yield document
        return
    for number, item in enumerate(items):
        if isinstance(item, dict) and kind != "List":  # a typed list's items need not say what they are
            item = {"kind": str(kind).removesuffix("List"), "apiVersion": value.get("apiVersion"), **item}  # noqa: PLW2901
        yield from _parts(Document(item, document.place.at(("items", number))))


def _recognised(path: Path, document: Document, text: str, lines: Lines) -> Iterator[_Known | Finding]:
    value = document.value
    if value is None:  # nothing between two "---"
        return
    kind = _kind(value)
    if kind == "ConfigMap":
        yield from _config_map(path, document)
    elif kind in _OF_JSON and not document.is_json:
        try:
            read_json(text, lines)
        except UnreadableError as error:
            yield Finding(error.line, error=True, text=f"{kind} configuration: {error}")
    elif kind in _CHECKS or kind in TEMPLATES:
        yield _Known(path=path, kind=kind, document=document)
    elif not kind:
        yield Finding(
            document.place.line,
            error=True,
            text="not known: expected a Kubernetes object (kind), a CNI configuration (type or plugins), or a "
            "configuration of the device plugin (resourceList), of the agent or of Multus' daemon",
        )


def _kind(value: object) -> str:
    """What a document is; "" if it is nothing that is known."""
    if not isinstance(value, dict):
        return ""
    if isinstance(value.get("kind"), str) and "apiVersion" in value:
        return str(value["kind"])
    keys = {str(key) for key in value}
    folded = {key.lower() for key in keys}
    for kind in ("device plugin", "network"):
        if folded & _KINDS[kind]:
            return kind
    counts = {kind: len(keys & _KINDS[kind]) for kind in ("agent", "multus")}
    best = max(counts, key=lambda kind: counts[kind])
    return best if counts[best] else ""


def _config_map(path: Path, document: Document) -> Iterator[_Known | Finding]:
    """The configurations in a ConfigMap: what of it is nothing that is known here may be anybody's."""
    data = document.value.get("data")
    for key, text in data.items() if isinstance(data, dict) else ():
        if not isinstance(text, str):
            continue
        place = document.place.at(("data", str(key)))
        try:
            inside = read(text, place.lines)
        except UnreadableError as error:
            if str(key).endswith(SUFFIXES):
                yield Finding(error.line, error=True, text=f"ConfigMap: data: {key}: {error}")
            continue
        for each in inside:
            if _kind(each.value) in _KINDS:
                yield from networks.repeated(each)
                yield from _recognised(path, each, text, place.lines)


def _definitions(known: Sequence[_Known]) -> tuple[Definitions, list[tuple[Path, Finding]]]:
    """The definitions of all files, and what is wrong where two are of one name."""
    definitions = Definitions()
    seen: dict[tuple[str, str], str] = {}
    twice = []
    for each in known:
        if each.kind != NAD or networks.definition_fault(each.document.value) is not None:
            continue
        key = networks.key(each.document.value)
        line = each.document.place.line
        if key in seen:
            text = f"{NAD} {'/'.join(key)} is there twice: {seen[key]} has it too"
            twice.append((each.path, Finding(line, error=True, text=text)))
        else:
            seen[key] = f"{each.path}:{line}"
            definitions.known[key] = each.document.value
    return definitions, twice


def _findings(each: _Known, pods: Pods) -> list[Finding]:
    try:
        if each.kind in TEMPLATES:
            return list(pods.check(each.document.value, each.document.place))
        return list(_CHECKS[each.kind](each.document))
    except RecursionError:
        return [Finding(each.document.place.line, error=True, text="nested too deeply to be read")]

"""Read files, detect the kind of each document from its content, and check it with the code for that kind."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from wirespeed.cli.checks import configs, networks, operators, pods, vfio
from wirespeed.cli.checks.findings import Finding
from wirespeed.cli.checks.networks import NAD, Context, Definitions, Executables
from wirespeed.cli.checks.places import (
    TEMPLATE,
    Document,
    Lines,
    TemplateError,
    UnreadableError,
    lines_of,
    list_at,
    object_at,
    read,
    read_json,
    readable_documents,
    value_at,
)
from wirespeed.cli.checks.pods import TEMPLATES, Pods
from wirespeed.kube import documents
from wirespeed.node import Node, NodeConfig
from wirespeed.plugins.meta.config import CAPABILITIES, Capability
from wirespeed.provision.policy import KIND as NODE_POLICY
from wirespeed.takeover import multus

_JSON = (".json", ".conf", ".conflist")
SUFFIXES = (".yaml", ".yml", *_JSON)
# Documents that are not Kubernetes objects, by the name used here. A document with one of the keys is of that kind.
_KINDS: Mapping[str, frozenset[str]] = {
    "device plugin": frozenset({"resourcelist"}),
    "network": frozenset({"type", "plugins"}),
    "agent": frozenset(NodeConfig.__struct_encode_fields__),
    "multus": frozenset(multus.KEYS),
}
_JSON_ONLY = ("device plugin", "network", "multus")  # their readers accept JSON only
_CONFIG_MAP = "ConfigMap"
_CHART_VALUES = "chart values"
_CHECKS: Mapping[str, Callable[[Document], Iterator[Finding]]] = {
    "device plugin": configs.device_plugin,
    "agent": configs.agent,
    "multus": configs.multus_daemon,
    _CHART_VALUES: configs.chart_values,
    NODE_POLICY: configs.node_policy,
    _CONFIG_MAP: configs.config_map,
}
# Documents that contain plugins, whose executables can be searched for.
_NETWORKS: Mapping[str, Callable[[Document, Context], Iterator[Finding]]] = {
    "network": networks.configuration,
    NAD: networks.definition,
    **dict.fromkeys(operators.NETWORKS, operators.network),
}
_SCHEMA_KEYS = frozenset({"$schema", "properties", "items"})  # keys of a JSON Schema
_UNIQUE = frozenset({NAD, NODE_POLICY, _CONFIG_MAP, "Pod"})  # two of the same name are an error
_KUSTOMIZE = ("kustomization.yaml", "kustomization.yml")  # such a file may omit kind


@dataclass(frozen=True, kw_only=True)
class Report:
    """The findings, sorted by file and line; the number of documents of known kinds; other kinds, counted."""

    findings: list[tuple[Path, Finding]]
    documents: int
    others: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class _Known:
    """A document of a known kind, with its file."""

    path: Path
    kind: str
    document: Document


def check(paths: Sequence[Path], *, search: Sequence[str] = (), recursive: bool = False) -> Report:
    """Check the files; in a directory, those with known suffixes. Pods may use definitions of any of the files.

    Plugins' executables are searched for in the directories `search`; without any they are not checked.
    """
    named_files, problems = _expand(paths, recursive=recursive)
    found = list(problems)
    known: list[_Known] = []
    others: Counter[str] = Counter()
    for path, named in named_files.items():
        for each in _contents(path, named=named):
            if isinstance(each, Finding):
                found.append((path, each))
            elif isinstance(each, _Known):
                known.append(each)
            else:
                others[each] += 1
    definitions, duplicates = _definitions(known)
    found += duplicates
    with tempfile.TemporaryDirectory(prefix="wirespeed-check-") as folder:
        config = NodeConfig(
            state=f"{folder}/state.db", attachments=folder, kubelet=folder, devinfo=folder, leases=folder
        )
        with closing(Node(config, once=True)) as node:
            context = Context(executables=Executables(path=tuple(search), builtin=node.plugins) if search else None)
            pods_of = Pods(definitions, node, _on_vfio(known, definitions), lenient=_lenient(known))
            for each in known:
                found += [(each.path, finding) for finding in _findings(each, pods_of, context)]
    order = {path: number for number, path in enumerate([*(path for path, _ in problems), *named_files])}
    found = sorted(set(found), key=lambda item: (order[item[0]], item[1].line, not item[1].error, item[1].text))
    return Report(findings=found, documents=len(known), others=others)


def _on_vfio(known: Sequence[_Known], definitions: Definitions) -> vfio.Resources:
    """Collect from all files the resources whose devices are on vfio-pci."""
    found = vfio.Resources()
    for each in known:
        if each.kind == _CHART_VALUES:
            for _, pools in configs.pools_of_chart(each.document):
                found.add("device plugin", pools.value)
        else:
            found.add(each.kind, each.document.value)
    for raw in definitions.known.values():
        found.add_network(raw)
    return found


def _expand(paths: Sequence[Path], *, recursive: bool) -> tuple[dict[Path, bool], list[tuple[Path, Finding]]]:
    """Return the files to read (the value: whether the file was named itself), and findings about directories."""
    files: dict[Path, bool] = {}
    problems = []
    for path in paths:
        if not path.is_dir():
            files[path] = True
            continue
        inside, below = _inside(path), [each for folder in _folders(path) for each in _inside(folder)]
        for each in [*inside, *(below if recursive else ())]:
            files.setdefault(each, False)
        if not inside and not (recursive and below):
            text = f"expected files *{', *'.join(SUFFIXES)} in this folder"
            if below:
                text += f"; there are {len(below)} in the folders below it, which --recursive reads"
            problems.append((path, Finding(1, error=True, text=text)))
    return files, problems


def _inside(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.suffix in SUFFIXES and each.is_file())


def _folders(folder: Path) -> Iterator[Path]:
    """Yield the directories below one, recursively, without hidden ones such as .git and symbolic links."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
            yield path
            yield from _folders(path)


def _contents(path: Path, *, named: bool) -> Iterator[_Known | Finding | str]:
    """Yield a file's documents, findings for what cannot be read or recognised, and the kinds of other objects."""
    try:
        text = path.read_text()
    except OSError as error:
        yield Finding(1, error=True, text=f"cannot be read: {error.strerror}")
        return
    except UnicodeDecodeError as error:
        yield Finding(1, error=True, text=f"expected text in UTF-8, got byte {error.object[error.start]:#04x}")
        return
    for document in readable_documents(text, json_only=path.suffix in _JSON):
        if isinstance(document, UnreadableError):
            yield Finding(document.line, error=not isinstance(document, TemplateError), text=str(document))
            continue
        yield from networks.repeated_key_findings(document)
        for part in _parts(document):
            yield from _recognise(path, part, text, lines_of(text), named=named)


def _parts(document: Document) -> Iterator[Document]:
    """Yield the document, or the items of a Kubernetes list. Null values are dropped, as Kubernetes does."""
    value = document.value
    kind = value_at(value, "kind")
    if kind is not None:
        value = documents.without_nulls(value)
        document = replace(document, value=value)
    items = value.get("items") if isinstance(kind, str) and kind.endswith("List") else None
    if not isinstance(items, list):
        yield document
        return
    for number, item in enumerate(items):
        if isinstance(item, dict) and kind != "List":  # items of a typed list may omit kind and apiVersion
            item = {"kind": str(kind).removesuffix("List"), "apiVersion": value.get("apiVersion"), **item}  # noqa: PLW2901
        yield from _parts(Document(item, document.place.at(("items", number))))


def _recognise(
    path: Path, document: Document, text: str, lines: Lines, *, named: bool
) -> Iterator[_Known | Finding | str]:
    value = document.value
    if value is None:  # nothing between two "---"
        return
    kind = _kind(value)
    if kind in _JSON_ONLY and not document.is_json:
        try:
            read_json(text, lines)
        except UnreadableError as error:
            yield Finding(error.line, error=True, text=f"{kind} configuration: {error}")
    elif kind in _CHECKS or kind in _NETWORKS or kind in TEMPLATES or kind in operators.MACHINES:
        yield _Known(path=path, kind=kind, document=document)
        if kind == _CONFIG_MAP:
            yield from _inside_config_map(path, document)
    elif kind == "List" or (kind.endswith("List") and "items" in value):
        line = document.place.at(("items",)).line
        yield Finding(line, error=True, text=f'{kind}: key "items": expected a list')
    elif kind or path.name in _KUSTOMIZE:
        yield kind.removeprefix("/") or "Kustomization"
    else:
        refused = named or path.suffix in (".conf", ".conflist")
        yield Finding(document.place.line, error=refused, text=_not_known(value))


def _not_known(value: object) -> str:
    if isinstance(value, dict) and isinstance(value.get("kind"), str):
        return f'{value["kind"]}: key "apiVersion" is missing'
    return (
        "not known: expected a Kubernetes object (kind), a CNI configuration (type or plugins), or a configuration "
        "of the device plugin (resourceList, or the chart's values with pools), of the agent or of Multus' daemon"
    )


def _kind(value: object) -> str:
    """Return a document's kind: "" if it is unknown, with a leading "/" for an object that is not checked."""
    if not isinstance(value, dict):
        return ""
    if isinstance(value.get("kind"), str) and "apiVersion" in value:
        kind = str(value["kind"])
        of_other_group = (kind in TEMPLATES and not pods.is_read(value)) or (
            kind in (*operators.NETWORKS, *operators.MACHINES) and not operators.is_read(value)
        )
        return f"/{kind}" if of_other_group else kind
    if value.keys() & _SCHEMA_KEYS and value.get("type") in ("object", "array", None):  # a schema has "type" too
        return ""
    keys = {str(key) for key in value}
    folded = {key.lower() for key in keys}
    for kind in ("device plugin", "network"):
        if folded & _KINDS[kind]:
            return kind
    if configs.has_pools_of_chart(value):
        return _CHART_VALUES
    counts = {kind: len(keys & _KINDS[kind]) for kind in ("agent", "multus")}
    best = max(counts, key=lambda kind: counts[kind])
    return best if counts[best] else ""


def _inside_config_map(path: Path, document: Document) -> Iterator[_Known | Finding | str]:
    """Yield the configurations in a ConfigMap. Unknown content is no error: a ConfigMap may hold anything."""
    for key, text in object_at(document.value, "data").items():
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
                yield from networks.repeated_key_findings(each)
                yield from _recognise(path, each, text, place.lines, named=True)


def _definitions(known: Sequence[_Known]) -> tuple[Definitions, list[tuple[Path, Finding]]]:
    """Return the definitions of all files, and findings for two objects of the same name."""
    definitions = Definitions()
    seen: dict[tuple[str, ...], str] = {}
    duplicates = []
    for each in known:
        raw, kind = each.document.value, NAD if each.kind in operators.NETWORKS else each.kind
        if kind not in _UNIQUE or networks.metadata_fault(raw, kind) is not None:
            continue
        if each.kind in operators.NETWORKS:
            raw = operators.definition(raw)
        elif kind == NAD and networks.definition_fault(raw) is not None:
            continue
        # Except for NADs, files of different directories may define the same object: each may be used on its own.
        key = (kind, *networks.key(raw), "" if kind == NAD else str(each.path.parent))
        line = each.document.place.line
        if key in seen:
            text = f"{kind} {'/'.join(key[1:3])} is there twice: {seen[key]} has it too"
            duplicates.append((each.path, Finding(line, error=True, text=text)))
        else:
            seen[key] = f"{each.path}:{line}"
            if kind == NAD:
                definitions.known[networks.key(raw)] = raw
    return definitions, duplicates


def _lenient(known: Sequence[_Known]) -> list[Capability]:
    """Return the capabilities that the meta-plugin configurations among the files allow for any network."""
    found: set[object] = set()
    for each in known:
        value = each.document.value
        if each.kind == "multus":  # its translation allows all of them
            return list(CAPABILITIES)
        if each.kind == "agent":
            meta = value_at(value, "autoconf", "meta")
        elif each.kind == "network":
            meta = next(iter(list_at(value, "plugins")), value)
        else:
            continue
        if isinstance(meta, dict):
            found |= configs.lenient_capabilities(meta)
    return [capability for capability in CAPABILITIES if capability in found]


def _findings(each: _Known, pods_of: Pods, context: Context) -> list[Finding]:
    place = each.document.place
    try:
        if each.kind in TEMPLATES:
            found = list(pods_of.check(each.document.value, place))
        elif each.kind in operators.MACHINES:
            found = list(pods_of.machine(each.document))
        elif each.kind in _NETWORKS:
            found = list(_NETWORKS[each.kind](each.document, context))
        else:
            found = list(_CHECKS[each.kind](each.document))
    except RecursionError:
        return [Finding(place.line, error=True, text="nested too deeply to be read")]
    return [_as_template_finding(finding) for finding in found]


def _as_template_finding(finding: Finding) -> Finding:
    """Replace findings about template expressions: in a template that parses as YAML, values are not known yet."""
    return replace(finding, error=False, text=TEMPLATE) if "{{" in finding.text else finding

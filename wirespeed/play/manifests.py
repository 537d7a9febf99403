"""Reads and checks the manifests to play: Pods, NetworkAttachmentDefinitions and ConfigMaps in YAML or JSON."""

from __future__ import annotations

import json
import re
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from wirespeed import errors, structs
from wirespeed.cni.chain import load_network
from wirespeed.errors import Error, Kind, PathStep, Thing
from wirespeed.keys import unknown_key
from wirespeed.kube import documents, resources
from wirespeed.play import downward, limits, quantity, security, texts
from wirespeed.play.objects import (
    Container,
    EmptyDir,
    EnvVar,
    HostPath,
    Metadata,
    Pod,
    PodSpec,
    Resources,
    TextVolume,
    Volume,
)
from wirespeed.plugins.meta.selection import check_name, check_namespace

NAD = "NetworkAttachmentDefinition"
HOST_PATH_TYPES = ("DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice")
# Kinds that create pods. They are rejected, not ignored: the play would lack their pods.
_OF_PODS = ("CronJob", "DaemonSet", "Deployment", "Job", "ReplicaSet", "ReplicationController", "StatefulSet")
_LONGEST, _RANDOM = 63, 5  # length of a generated name, and of its random suffix
_SOURCES = ("configMap", "downwardAPI", "serviceAccountToken")
VERSIONS = {"Pod": "v1", NAD: "k8s.cni.cncf.io/v1", "ConfigMap": "v1"}
# The kinds of volumes in Kubernetes; the supported ones come first.
_VOLUMES = ("emptyDir", "hostPath", "configMap", "downwardAPI", "projected")
KINDS_OF_VOLUMES = (
    *_VOLUMES,
    *("awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "csi", "ephemeral", "fc", "flexVolume"),
    *("flocker", "gcePersistentDisk", "gitRepo", "glusterfs", "image", "iscsi", "nfs", "persistentVolumeClaim"),
    *("photonPersistentDisk", "portworxVolume", "quobyte", "rbd", "scaleIO", "secret", "storageos"),
    "vsphereVolume",
)

_LABEL = re.compile(r"(?=.{1,63}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class Manifests:
    """The content of all files, in their order. `config_maps` has each ConfigMap's `data` by (namespace, name)."""

    pods: list[Pod] = field(default_factory=list)
    networks: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    config_maps: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # objects without effect here, one line per file
    pools: str = ""  # a device plugin configuration from outside of the manifests (--pools)

    def device_plugin(self) -> str:
        """Return the device plugin's configuration: `pools`, or config.json of a ConfigMap with a resourceList.

        "" if there is none. Raises Error(INVALID_CONFIG) if there are several.
        """
        found = [
            (f"{namespace}/{name}", data["config.json"])
            for (namespace, name), data in self.config_maps.items()
            if '"resourcelist"' in data.get("config.json", "").lower()
        ]
        if len(found) > 1:
            names = " and ".join(label for label, _ in found)
            expected = "one device plugin configuration"
            raise Error(Kind.INVALID_CONFIG, where=f"ConfigMaps {names}", expected=expected, got=len(found))
        if found and self.pools:
            expected = "no device plugin configuration beside that of --pools"
            raise Error(Kind.INVALID_CONFIG, where=Thing("ConfigMap", found[0][0]), expected=expected)
        return found[0][1] if found else self.pools


def load(files: Sequence[Path], *, pools: Path | None = None) -> Manifests:
    """Read and check the files in order; a directory stands for its *.yaml, *.yml and *.json files, sorted.

    `pools` is a file with a device plugin configuration or chart values; its pools are not checked here.
    Raises Error(INVALID_CONFIG) that names file, document and key.
    """
    manifests = Manifests(pools=_pools_of(pools) if pools else "")
    seen: dict[tuple[str, str, str], str] = {}
    for file in files:
        for path in _expand(file):
            others: dict[str, None] = {}
            for where, document in documents.read(path):
                for raw in documents.objects(document, where):
                    if raw["kind"] not in (*VERSIONS, *_OF_PODS):
                        others[_kind_and_name(raw)] = None
                        continue
                    with errors.within(where):
                        key = _take(manifests, raw, where)
                        if raw["kind"] == "Pod":
                            _check_played(manifests.pods[-1])
                    if key in seen:
                        what = f"it is defined twice: {seen[key]} and {where}"
                        raise Error(Kind.INVALID_CONFIG, what, where=Thing(key[0], f"{key[1]}/{key[2]}"))
                    seen[key] = where
            if others:
                manifests.notes.append(f"{path}: not played, without effect here: {', '.join(others)}")
    _check_references(manifests)
    return manifests


def _pools_of(file: Path) -> str:
    """Return the device plugin configuration in a file, which may also be chart values with `pools`."""
    for where, document in documents.read(file):
        if isinstance(document, dict) and "resourceList" in document:
            return json.dumps(document)
        if isinstance(document, dict) and isinstance(document.get("pools"), list):
            return json.dumps({"resourceList": document["pools"]})
        expected = 'the key "resourceList", or the chart\'s values with a list of pools'
        raise Error(Kind.INVALID_CONFIG, where=where, expected=expected)
    raise Error(Kind.INVALID_CONFIG, "it is empty", where=str(file), expected="pools")


def check(raw: dict[str, Any]) -> None:
    """Raise Error(INVALID_CONFIG) if Kubernetes would reject an object of a kind that is played.

    What Kubernetes accepts but a play does not support passes this check.
    """
    _take(Manifests(), raw, "")


def _expand(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(each for each in path.iterdir() if each.suffix in documents.SUFFIXES)
    if not found:
        expected = "*.yaml, *.yml or *.json files in that directory"
        raise Error(Kind.INVALID_CONFIG, where=str(path), expected=expected)
    return found


def _take(manifests: Manifests, raw: dict[str, Any], where: str) -> tuple[str, str, str]:
    """Check and add an object; return its kind, namespace and name."""
    kind = raw["kind"]
    if kind not in VERSIONS:
        raise structs.wrong("kind", f"{', '.join(VERSIONS)} or List", kind)
    if raw.get("apiVersion") != VERSIONS[kind]:
        raise structs.wrong("apiVersion", VERSIONS[kind], raw.get("apiVersion")).within(kind)
    metadata = _convert(raw.get("metadata") or {}, Metadata, kind, "metadata")
    if metadata.generate_name and not metadata.name:
        metadata = msgspec.structs.replace(metadata, name=_generate_name(metadata.generate_name))
        raw = {**raw, "metadata": {**raw["metadata"], "name": metadata.name}}
    with errors.within(kind), errors.under("metadata", "name"):
        name = check_name(metadata.name)
    with errors.within(f"{kind} {name}"), errors.under("metadata", "namespace"):
        namespace = check_namespace(metadata.namespace or "default")
    key = (namespace, name)
    what = f"{kind} {namespace}/{name}"
    if kind == "ConfigMap":
        manifests.config_maps[key] = _convert(raw.get("data") or {}, dict[str, str], what, "data")
    elif kind == NAD:
        with errors.within(what):
            _check_network(raw, name)
        manifests.networks[key] = raw
    else:
        if "spec" not in raw:
            raise Error(Kind.INVALID_CONFIG, where=what, key="spec", missing=True)
        spec = _convert(raw["spec"], PodSpec, what, "spec")
        pod = Pod(namespace=namespace, name=name, metadata=metadata, spec=spec, raw=raw, where=where)
        with errors.within(what):
            _check_pod(pod)
        manifests.pods.append(pod)
    return (kind, *key)


def _kind_and_name(raw: Mapping[str, Any]) -> str:
    """Return an object's kind and name for messages."""
    metadata = raw.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{raw['kind']} {name}" if name else str(raw["kind"])


def _generate_name(begin: str) -> str:
    """Generate a name from generateName as the API server does."""
    suffix = (secrets.choice("bcdfghjklmnpqrstvwxz2456789") for _ in range(_RANDOM))
    return begin[: _LONGEST - _RANDOM] + "".join(suffix)


def _convert(value: object, kind: Any, what: str, key: str) -> Any:
    with errors.within(what):
        return structs.read(value, kind, where=key)


def _check_network(raw: dict[str, Any], name: str) -> None:
    text = (raw.get("spec") or {}).get("config") or ""
    if not isinstance(text, str):
        raise structs.wrong("spec.config", "a string", text)
    if not text.strip():
        return  # the meta-plugin then uses the configuration of that name in its directory
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Error(Kind.INVALID_CONFIG, f"not JSON: {error}", key="spec.config") from error
    with errors.within('key "spec.config"'):
        load_network(config, name=name)


_POD_REFUSED = (
    "host_network",
    "host_pid",
    "host_ipc",
    "share_process_namespace",
    "active_deadline_seconds",
    "ephemeral_containers",
    "resource_claims",
    "hostname_override",
    "resources",
)


def _check_pod(pod: Pod) -> None:
    """Raise Error for what Kubernetes rejects too."""
    spec = pod.spec
    if not spec.containers:
        raise Error(Kind.INVALID_CONFIG, key="spec.containers", expected="at least one")
    if (seconds := spec.termination_grace_period_seconds) < 0:
        raise structs.wrong("spec.terminationGracePeriodSeconds", "seconds from 0", seconds)
    volumes = _check_volumes(pod)
    names: set[str] = set()
    for key, containers in (("initContainers", spec.init_containers), ("containers", spec.containers)):
        for number, container in enumerate(containers):
            with errors.under("spec", key, number):
                if not _LABEL.fullmatch(container.name):
                    raise structs.wrong("name", "lower-case letters, digits and -, at most 63", container.name)
                if container.name in names:
                    raise Error(Kind.INVALID_CONFIG, f"{container.name!r} is there twice", key="name")
                names.add(container.name)
                _check_container(container, volumes)
                with errors.under("securityContext"):
                    security.check(spec.security_context, container.security_context)
    for number, volume in enumerate(spec.volumes):
        with errors.under("spec", "volumes", number):
            if volume.empty_dir:
                with errors.under("emptyDir"):
                    _check_empty_dir(volume.empty_dir, hugepages(pod))
            if volume.host_path:
                with errors.under("hostPath"):
                    _check_host_path(volume.host_path)


def _check_played(pod: Pod) -> None:
    """Raise Error for valid pods that use what a play does not support."""
    with errors.within(Thing("Pod", pod.label)), errors.under("spec"):
        _refuse_set(pod.spec, _POD_REFUSED)
        for number, (volume, raw) in enumerate(_with_raw(pod)):
            with errors.under("volumes", number):
                _check_played_volume(volume, raw)
        for number, container in enumerate(pod.spec.init_containers):
            with errors.under("initContainers", number):
                _check_played_container(pod.spec, container)
                if extended_resources(container):
                    what = "extended resources of init containers are not supported by `wirespeed play`"
                    raise Error(Kind.INVALID_CONFIG, what, key="resources")
        for number, container in enumerate(pod.spec.containers):
            with errors.under("containers", number):
                _check_played_container(pod.spec, container)


def _check_played_volume(volume: Volume, raw: dict[str, Any]) -> None:
    if other := [key for key in raw if key not in ("name", *_VOLUMES)]:
        raise structs.wrong((), f"one of {', '.join(_VOLUMES)}", ", ".join(other))
    if volume.config_map:
        _refuse_set(volume.config_map, ("default_user",), "configMap")
    for number, source in enumerate((raw.get("projected") or {}).get("sources") or ()):
        if unknown := [key for key in source if key not in _SOURCES] or (not source and ["none"]):
            key = ("projected", "sources", number)
            raise structs.wrong(key, f"one of {', '.join(_SOURCES)}", ", ".join(unknown))
    if volume.empty_dir:
        _refuse_set(volume.empty_dir, ("mode",), "emptyDir")


def _check_played_container(spec: PodSpec, container: Container) -> None:
    _refuse_set(container, ("env_from", "volume_devices", "restart_policy", "restart_policy_rules"))
    if not container.command:
        expected = "a program of this machine's file system, because images are not pulled"
        raise Error(Kind.INVALID_CONFIG, key="command", missing=True, expected=expected)
    for number, variable in enumerate(container.env):
        if (source := variable.value_from) is not None:
            _refuse_set(source, ("secret_key_ref", "file_key_ref"), "env", number, "valueFrom")
            if source.field_ref:
                with errors.under("env", number, "valueFrom", "fieldRef"):
                    downward.check_field(source.field_ref)
    for number, mount in enumerate(container.volume_mounts):
        _refuse_set(mount, ("sub_path", "sub_path_expr", "bind_mount_options"), "volumeMounts", number)
        if not mount.mount_path.startswith("/") or ".." in mount.mount_path.split("/"):
            raise structs.wrong(("volumeMounts", number, "mountPath"), "an absolute path", mount.mount_path)
    for key, probe in (("startupProbe", container.startup_probe), ("readinessProbe", container.readiness_probe)):
        if probe and (probe.period_seconds < 1 or probe.timeout_seconds < 1):
            raise Error(Kind.INVALID_CONFIG, key=key, expected="periodSeconds and timeoutSeconds from 1")
    _refuse_set(container.resources, ("claims",), "resources")
    with errors.under("securityContext"):
        security.check_without_image(spec.security_context, container.security_context)


def _refuse_set(part: msgspec.Struct, attributes: Sequence[str], *path: PathStep) -> None:
    for attribute in attributes:
        if getattr(part, attribute):
            names = {f.name: f.encode_name for f in msgspec.structs.fields(part)}
            what = "`wirespeed play` does not support it"
            raise Error(Kind.INVALID_CONFIG, what, key=(*path, names[attribute]))


def _with_raw(pod: Pod) -> Iterator[tuple[Volume, dict[str, Any]]]:
    return zip(pod.spec.volumes, pod.raw["spec"].get("volumes") or (), strict=True)


def _check_volumes(pod: Pod) -> dict[str, Volume]:
    found: dict[str, Volume] = {}
    for number, (volume, raw) in enumerate(_with_raw(pod)):
        path, kinds = ("spec", "volumes", number), [key for key in raw if key != "name"]
        if others := [kind for kind in kinds if kind not in KINDS_OF_VOLUMES]:
            raise unknown_key(others[0], KINDS_OF_VOLUMES, within=path)
        if not kinds:  # Kubernetes' default
            volume.empty_dir = EmptyDir()
        elif len(kinds) != 1:
            raise structs.wrong(path, f"one of {', '.join(_VOLUMES)}", ", ".join(kinds))
        if volume.texts:
            with errors.under(*path, kinds[0]):
                texts.check(volume.texts, pod.spec.all_containers)
        if volume.name in found:
            raise Error(Kind.INVALID_CONFIG, f"{volume.name!r} is there twice", key=(*path, "name"))
        found[volume.name] = volume
    return found


def _check_empty_dir(volume: EmptyDir, asked: dict[str, int]) -> None:
    medium, _, size = volume.medium.partition("-")
    if volume.medium not in {"", "Memory", "HugePages"} and not (medium == "HugePages" and size):
        raise structs.wrong("medium", "Memory, HugePages or HugePages-<size>", volume.medium)
    if medium == "HugePages" and (size not in asked if size else len(asked) != 1):
        wanted = f"a container that requests hugepages-{size}" if size else "requests of hugepages of one size"
        raise structs.wrong("medium", f"{wanted} for {volume.medium}", ", ".join(asked) or None)
    if volume.size_limit is not None:
        with errors.under("sizeLimit"):
            quantity.whole_number(volume.size_limit)


def _check_host_path(volume: HostPath) -> None:
    if not volume.path.startswith("/") or ".." in volume.path.split("/"):
        raise structs.wrong("path", "an absolute path", volume.path)
    if volume.type not in ("", *HOST_PATH_TYPES):
        raise structs.wrong("type", f"one of {', '.join(HOST_PATH_TYPES)}", volume.type)


def _check_container(container: Container, volumes: dict[str, Volume]) -> None:
    for number, variable in enumerate(container.env):
        with errors.under("env", number):
            _check_variable(variable)
    for number, mount in enumerate(container.volume_mounts):
        if mount.name not in volumes:
            what = f"no volume {mount.name!r} in spec.volumes"
            raise Error(Kind.INVALID_CONFIG, what, key=("volumeMounts", number, "name"))
    if not container.working_dir.startswith("/"):
        raise structs.wrong("workingDir", "an absolute path", container.working_dir)
    with errors.under("resources"):
        _check_resources(container.resources)


def _check_variable(variable: EnvVar) -> None:
    if not variable.name or "=" in variable.name or "\0" in variable.name + (variable.value or ""):
        raise structs.wrong("name", "a variable's name", variable.name)
    source = variable.value_from
    if source is None:
        return
    sources = [part for part in msgspec.structs.astuple(source) if part]
    if (variable.value is not None) + len(sources) != 1:
        keys = "valueFrom.fieldRef, valueFrom.configMapKeyRef and valueFrom.resourceFieldRef"
        raise Error(Kind.INVALID_CONFIG, expected=f"one of value, {keys}")
    if source.resource_field_ref:
        with errors.under("valueFrom", "resourceFieldRef"):
            downward.check_resource(source.resource_field_ref)


def _check_resources(asked: Resources) -> None:
    for key, amounts in (("limits", asked.limits), ("requests", asked.requests)):
        for resource, amount in amounts.items():
            with errors.under(key, resource):
                if "/" not in resource:
                    quantity.parse(amount)
                    continue
                if problem := resources.name_problem(resource):
                    raise Error(Kind.INVALID_CONFIG, problem)
                quantity.whole_number(amount)
                if asked.limits.get(resource) != asked.requests.get(resource, asked.limits.get(resource)):
                    raise Error(Kind.INVALID_CONFIG, expected="the same in limits and requests")
    limits.check(asked.limits, asked.requests)


def extended_resources(container: Container) -> dict[str, int]:
    """Return how many of each extended resource the container requests, sorted by name."""
    asked = {**container.resources.requests, **container.resources.limits}
    return {
        resource: count
        for resource, amount in sorted(asked.items())
        if "/" in resource and (count := quantity.whole_number(amount))
    }


def hugepages(pod: Pod) -> dict[str, int]:
    """Return the bytes of hugepages that the pod's containers request, by page size: {"2Mi": 134217728}."""
    sums: Counter[str] = Counter()
    for container in pod.spec.containers:
        sums.update(limits.of(container).hugepages)  # the requests are the same, see limits.check
    return dict(sums)


def _check_references(manifests: Manifests) -> None:
    """Check that the ConfigMaps and keys that pods refer to exist."""
    for pod in manifests.pods:
        for volume in pod.spec.volumes:
            if volume.texts:
                _check_sources(volume.texts, (*pod.places, Thing("volume", volume.name)), pod.namespace, manifests)
        for container in pod.spec.all_containers:
            for variable in container.env:
                key = variable.value_from and variable.value_from.config_map_key_ref
                if not key or key.optional:
                    continue
                if key.key not in manifests.config_maps.get((pod.namespace, key.name), {}):
                    what = f"no key {key.key} in a ConfigMap {pod.namespace}/{key.name} in the files"
                    where = (*pod.places, Thing("container", container.name), Thing("variable", variable.name))
                    raise Error(Kind.INVALID_CONFIG, what, where=where)


def _check_sources(volume: TextVolume, where: Sequence[str | Thing], namespace: str, manifests: Manifests) -> None:
    """Check that the ConfigMaps and keys of a volume exist; note what only a cluster would provide."""
    lacking = ["serviceAccountToken"] if texts.has_token(volume) else []
    for wanted in texts.config_maps(volume):
        data = manifests.config_maps.get((namespace, wanted.name))
        label = f"ConfigMap {namespace}/{wanted.name}"
        if wanted.optional:
            continue
        if data is None and wanted.name == texts.ROOT_CA:
            lacking.append(label)
        elif data is None:
            raise Error(Kind.INVALID_CONFIG, f"no {label} in the files", where=where)
        elif missing := [item.key for item in wanted.items if item.key not in data]:
            raise Error(Kind.INVALID_CONFIG, f"no key {missing[0]} in {label}", where=where)
    if lacking:
        note = f"without {' and '.join(lacking)}: there is no API server here"
        manifests.notes.append(": ".join(map(str, (*where, note))))

"""Reads and checks the manifests to play: Pods, NetworkAttachmentDefinitions and ConfigMaps in YAML or JSON."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from wirespeed import structs
from wirespeed.cni.chain import load_network
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.keys import unknown_key
from wirespeed.kube import documents, resources
from wirespeed.play import downward, limits, quantity, security, texts
from wirespeed.play.downward import FieldRef, ResourceFieldRef
from wirespeed.play.texts import ConfigMapVolume, DownwardVolume, ProjectedVolume
from wirespeed.plugins.meta.selection import check_name, check_namespace

NAD = "NetworkAttachmentDefinition"
HOST_PATH_TYPES = (
    *("", "DirectoryOrCreate", "Directory", "FileOrCreate", "File"),
    *("Socket", "CharDevice", "BlockDevice"),
)
# Kinds that create pods. They are rejected, not ignored: without their pods something else would be played.
_OF_PODS = ("CronJob", "DaemonSet", "Deployment", "Job", "ReplicaSet", "ReplicationController", "StatefulSet")
_LONGEST, _RANDOM = 63, 5  # length of a generated name, and of its random suffix
_SOURCES = ("configMap", "downwardAPI", "serviceAccountToken")
VERSIONS = {"Pod": "v1", NAD: "k8s.cni.cncf.io/v1", "ConfigMap": "v1"}
# The kinds of volumes in Kubernetes; the supported ones come first.
_VOLUMES = ("emptyDir", "hostPath", "configMap", "downwardAPI", "projected")
KINDS_OF_VOLUMES = (
    *_VOLUMES,
    *(
        "awsElasticBlockStore",
        "azureDisk",
        "azureFile",
        "cephfs",
        "cinder",
        "csi",
        "ephemeral",
        "fc",
    ),
    *("flexVolume", "flocker", "gcePersistentDisk", "gitRepo", "glusterfs", "image", "iscsi", "nfs"),
    *("persistentVolumeClaim", "photonPersistentDisk", "portworxVolume", "quobyte", "rbd", "scaleIO"),
    *("secret", "storageos", "vsphereVolume"),
)


_LABEL = re.compile(r"(?=.{1,63}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?")


class _Part(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """A part of a pod. An unknown key is an error, as in Kubernetes."""


class ConfigMapKey(_Part):
    name: str
    key: str
    optional: bool = False


class ValueFrom(_Part):
    field_ref: FieldRef | None = None
    config_map_key_ref: ConfigMapKey | None = None
    resource_field_ref: ResourceFieldRef | None = None
    # Rejected:
    secret_key_ref: Any = None
    file_key_ref: Any = None


class EnvVar(_Part):
    name: str
    value: str | None = None
    value_from: ValueFrom | None = None


class ExecAction(_Part):
    command: list[str]


class Probe(_Part):
    """A startup or readiness probe. `exec` probes are run; other kinds are ignored.

    Times in seconds, as in Kubernetes.
    """

    exec: ExecAction | None = None
    initial_delay_seconds: int = 0
    period_seconds: int = 10
    timeout_seconds: int = 1
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace_period_seconds: int | None = None
    http_get: Any = None
    tcp_socket: Any = None
    grpc: Any = None


class Resources(_Part):
    limits: dict[str, str | int | float] = {}
    requests: dict[str, str | int | float] = {}
    claims: Any = None  # rejected


class VolumeMount(_Part):
    name: str
    mount_path: str
    read_only: bool = False
    sub_path: str = ""  # rejected
    sub_path_expr: str = ""  # rejected
    bind_mount_options: Any = None  # rejected
    mount_propagation: str = ""
    recursive_read_only: str = ""


class Container(_Part):
    """A container. The fields that have an effect come first."""

    name: str
    command: list[str] = []
    args: list[str] = []
    env: list[EnvVar] = []
    working_dir: str = "/"
    resources: Resources = msgspec.field(default_factory=Resources)
    volume_mounts: list[VolumeMount] = []
    startup_probe: Probe | None = None
    readiness_probe: Probe | None = None
    security_context: security.SecurityContext | None = None
    stdin: bool = False
    # Rejected:
    env_from: list[Any] = []
    volume_devices: list[Any] = []
    restart_policy: str | None = None
    restart_policy_rules: Any = None
    # Without effect: there is no image, and no kubelet that manages the container.
    image: str = ""
    image_pull_policy: str = ""
    liveness_probe: Any = None
    lifecycle: Any = None
    ports: Any = None
    stdin_once: bool = False
    tty: bool = False
    resize_policy: Any = None
    termination_message_path: str = ""
    termination_message_policy: str = ""


class EmptyDir(_Part):
    medium: str = ""
    size_limit: str | int | None = None
    mode: Any = None  # rejected


class HostPath(_Part):
    path: str
    type: str = ""


class Volume(_Part, forbid_unknown_fields=False):
    """A volume. Keys of other kinds are rejected in _check_volumes and _check_played_volume."""

    name: str
    empty_dir: EmptyDir | None = None
    host_path: HostPath | None = None
    config_map: ConfigMapVolume | None = None
    downward_api: DownwardVolume | None = msgspec.field(name="downwardAPI", default=None)
    projected: ProjectedVolume | None = None

    @property
    def texts(self) -> texts.Volume | None:
        """The volume that consists of texts, as described in `texts`; None for a plain directory."""
        return self.config_map or self.downward_api or self.projected


class HostAlias(_Part):
    ip: str
    hostnames: list[str] = []


@structs.prepared
class PodSpec(_Part):
    """The spec of a pod. The fields that have an effect come first."""

    containers: list[Container]
    init_containers: list[Container] = []
    restart_policy: Literal["Always", "OnFailure", "Never"] = "Always"
    volumes: list[Volume] = []
    termination_grace_period_seconds: int = 30
    hostname: str = ""
    host_aliases: list[HostAlias] = []
    security_context: security.PodSecurityContext | None = None
    # Rejected: the pod would be a different one without them.
    host_network: bool = False
    host_pid: bool = msgspec.field(name="hostPID", default=False)
    host_ipc: bool = msgspec.field(name="hostIPC", default=False)
    share_process_namespace: bool = False
    active_deadline_seconds: int | None = None
    ephemeral_containers: list[Any] = []
    resource_claims: list[Any] = []
    hostname_override: str | None = None
    resources: Any = None
    # Without effect on a single node without a cluster.
    affinity: Any = None
    automount_service_account_token: Any = None
    dns_config: Any = None
    dns_policy: Any = None
    enable_service_links: Any = None
    eviction_responders: Any = None
    host_users: Any = None
    image_pull_secrets: Any = None
    node_name: Any = None
    node_selector: Any = None
    os: Any = None
    overhead: Any = None
    preemption_policy: Any = None
    priority: Any = None
    priority_class_name: Any = None
    readiness_gates: Any = None
    runtime_class_name: Any = None
    scheduler_name: Any = None
    scheduling_gates: Any = None
    scheduling_group: Any = None
    service_account: Any = None
    service_account_name: Any = None
    set_hostname_as_fqdn: Any = msgspec.field(name="setHostnameAsFQDN", default=None)
    subdomain: Any = None
    tolerations: Any = None
    topology_spread_constraints: Any = None


@structs.prepared
class Metadata(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A pod to play; `raw` is its object in the manifest, `where` its file and document."""

    namespace: str
    name: str
    metadata: Metadata
    spec: PodSpec
    raw: dict[str, Any]
    where: str

    @property
    def label(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def ends_by_itself(self) -> bool:
        """Whether the pod ends without being stopped, which one with restartPolicy Always never does."""
        return self.spec.restart_policy != "Always"


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

        "" if there is none. Raises CniError(INVALID_CONFIG) if there are several.
        """
        found = [
            (f"{namespace}/{name}", data["config.json"])
            for (namespace, name), data in self.config_maps.items()
            if '"resourcelist"' in data.get("config.json", "").lower()
        ]
        if len(found) > 1:
            names = " and ".join(label for label, _ in found)
            raise CniError(
                Code.INVALID_CONFIG,
                f"ConfigMaps {names}: expected one device plugin configuration, got {len(found)}",
            )
        if found and self.pools:
            raise CniError(
                Code.INVALID_CONFIG,
                f"ConfigMap {found[0][0]}: expected no device plugin configuration beside that of --pools",
            )
        return found[0][1] if found else self.pools


def load(files: Sequence[Path], *, pools: Path | None = None) -> Manifests:
    """Read and check the files in order; a directory stands for its *.yaml, *.yml and *.json files, sorted.

    `pools` is a file with a device plugin configuration or chart values; its pools are not checked here.
    Raises CniError(INVALID_CONFIG) that names file, document and key.
    """
    manifests = Manifests(pools=_pools_of(pools) if pools else "")
    seen: dict[tuple[str, str, str], str] = {}
    for file in files:
        for path in _expanded(file):
            others: dict[str, None] = {}
            for where, document in documents.read(path):
                for raw in documents.objects(document, where):
                    if raw["kind"] not in (*VERSIONS, *_OF_PODS):
                        others[_kind_and_name(raw)] = None
                        continue
                    try:
                        key = _take(manifests, raw, where)
                        if raw["kind"] == "Pod":
                            _check_played(manifests.pods[-1])
                    except CniError as error:
                        raise error.prefixed(where) from None
                    if key in seen:
                        raise _refused(f"{key[0]} {key[1]}/{key[2]} is there twice: {seen[key]} and {where}")
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
        raise _refused(f"{where}: expected the key resourceList, or the chart's values with a list of pools")
    raise _refused(f"{file}: expected pools, and it is empty")


def check(raw: dict[str, Any]) -> None:
    """Raise CniError(INVALID_CONFIG) if Kubernetes would reject an object of a kind that is played.

    What Kubernetes accepts but a play does not support passes this check.
    """
    _take(Manifests(), raw, "")


def _refused(text: str) -> CniError:
    return CniError(Code.INVALID_CONFIG, text)


def _expanded(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(each for each in path.iterdir() if each.suffix in documents.SUFFIXES)
    if not found:
        raise _refused(f"{path}: expected *.yaml, *.yml or *.json files in that folder")
    return found


def _take(manifests: Manifests, raw: dict[str, Any], where: str) -> tuple[str, str, str]:
    """Check and add an object; return its kind, namespace and name."""
    kind = raw["kind"]
    if kind not in VERSIONS:
        raise _refused(f"kind {kind} is not played: expected {', '.join(VERSIONS)} or List")
    if raw.get("apiVersion") != VERSIONS[kind]:
        raise _refused(f"{kind}: apiVersion: expected {VERSIONS[kind]}, got {raw.get('apiVersion')!r}")
    metadata = _converted(raw.get("metadata") or {}, Metadata, f"{kind}: metadata")
    if metadata.generate_name and not metadata.name:
        metadata = msgspec.structs.replace(metadata, name=_generated(metadata.generate_name))
        raw = {**raw, "metadata": {**raw["metadata"], "name": metadata.name}}
    name = check_name(metadata.name, f"{kind}: metadata.name")
    namespace = check_namespace(metadata.namespace or "default", f"{kind} {name}: metadata.namespace")
    key = (namespace, name)
    what = f"{kind} {namespace}/{name}"
    if kind == "ConfigMap":
        data = _converted(raw.get("data") or {}, dict[str, str], f"{what}: data")
        manifests.config_maps[key] = data
    elif kind == NAD:
        _check_network(raw, what, name)
        manifests.networks[key] = raw
    else:
        if "spec" not in raw:
            raise _refused(f"{what}: spec is missing")
        spec = _converted(raw["spec"], PodSpec, f"{what}: spec")
        pod = Pod(namespace=namespace, name=name, metadata=metadata, spec=spec, raw=raw, where=where)
        try:
            _check_pod(pod)
        except CniError as error:
            raise error.prefixed(what) from None
        manifests.pods.append(pod)
    return (kind, *key)


def _kind_and_name(raw: Mapping[str, Any]) -> str:
    """Return an object's kind and name for messages."""
    metadata = raw.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{raw['kind']} {name}" if name else str(raw["kind"])


def _generated(begin: str) -> str:
    """Generate a name from generateName as the API server does."""
    return begin[: _LONGEST - _RANDOM] + "".join(
        secrets.choice("bcdfghjklmnpqrstvwxz2456789") for _ in range(_RANDOM)
    )


def _converted(value: object, kind: Any, where: str) -> Any:
    try:
        return structs.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _refused(structs.placed(error, where, kind, value)) from None


def _check_network(raw: dict[str, Any], what: str, name: str) -> None:
    text = (raw.get("spec") or {}).get("config") or ""
    if not isinstance(text, str):
        raise _refused(f"{what}: spec.config: expected a string, got {type(text).__name__}")
    if not text.strip():
        return  # the meta-plugin then uses the configuration of that name in its directory
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refused(f"{what}: spec.config: not JSON: {error}") from error
    try:
        load_network(config, name=name)
    except CniError as error:
        raise error.prefixed(f"{what}: spec.config") from None


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
    """Raise CniError for what Kubernetes rejects too."""
    spec = pod.spec
    if not spec.containers:
        raise _refused("spec.containers: expected at least one")
    if spec.termination_grace_period_seconds < 0:
        raise _refused("spec.terminationGracePeriodSeconds: expected seconds from 0")
    volumes = _check_volumes(pod)
    names: set[str] = set()
    for key, containers in (("initContainers", spec.init_containers), ("containers", spec.containers)):
        for number, container in enumerate(containers):
            where = f"spec.{key}[{number}]"
            if not _LABEL.fullmatch(container.name):
                expected = "lower-case letters, digits and -, at most 63"
                raise _refused(f"{where}.name: expected {expected}, got {container.name!r}")
            if container.name in names:
                raise _refused(f"{where}.name: {container.name!r} is there twice")
            names.add(container.name)
            _check_container(container, where, volumes)
            _check_security(spec, container, where)
    for number, volume in enumerate(spec.volumes):
        if volume.empty_dir:
            _check_empty_dir(volume.empty_dir, f"spec.volumes[{number}].emptyDir", hugepages(pod))
        if volume.host_path:
            _check_host_path(volume.host_path, f"spec.volumes[{number}].hostPath")


def _check_played(pod: Pod) -> None:
    """Raise CniError for valid pods that use what a play does not support."""
    try:
        _refuse_set(pod.spec, _POD_REFUSED, "spec")
        for number, (volume, raw) in enumerate(
            zip(pod.spec.volumes, pod.raw["spec"].get("volumes") or (), strict=True)
        ):
            _check_played_volume(volume, raw, f"spec.volumes[{number}]")
        for number, container in enumerate(pod.spec.init_containers):
            where = f"spec.initContainers[{number}]"
            _check_played_container(pod.spec, container, where)
            if extended(container):
                raise _refused(f"{where}.resources: extended resources of init containers are not given out here")
        for number, container in enumerate(pod.spec.containers):
            _check_played_container(pod.spec, container, f"spec.containers[{number}]")
    except CniError as error:
        raise error.prefixed(f"Pod {pod.label}") from None


def _check_played_volume(volume: Volume, raw: dict[str, Any], where: str) -> None:
    if other := [key for key in raw if key not in ("name", *_VOLUMES)]:
        raise _refused(f"{where}: expected one of {', '.join(_VOLUMES)}, got {', '.join(other)}")
    if volume.config_map:
        _refuse_set(volume.config_map, ("default_user",), f"{where}.configMap")
    for number, source in enumerate((raw.get("projected") or {}).get("sources") or ()):
        if unknown := [key for key in source if key not in _SOURCES] or (not source and ["none"]):
            expected = ", ".join(_SOURCES)
            raise _refused(
                f"{where}.projected.sources[{number}]: expected one of {expected}, got {', '.join(unknown)}"
            )
    if volume.empty_dir:
        _refuse_set(volume.empty_dir, ("mode",), f"{where}.emptyDir")


def _check_played_container(spec: PodSpec, container: Container, where: str) -> None:
    _refuse_set(container, ("env_from", "volume_devices", "restart_policy", "restart_policy_rules"), where)
    if not container.command:
        raise _refused(
            f"{where}.command: is missing: images are not pulled, expected a program of this machine's file system"
        )
    for number, variable in enumerate(container.env):
        source, here = variable.value_from, f"{where}.env[{number}].valueFrom"
        if source is not None:
            _refuse_set(source, ("secret_key_ref", "file_key_ref"), here)
            if source.field_ref and (problem := downward.field_refusal(source.field_ref.field_path)):
                raise _refused(f"{here}.fieldRef.fieldPath: {problem}")
    for number, mount in enumerate(container.volume_mounts):
        here = f"{where}.volumeMounts[{number}]"
        _refuse_set(mount, ("sub_path", "sub_path_expr", "bind_mount_options"), here)
        if not mount.mount_path.startswith("/") or ".." in mount.mount_path.split("/"):
            raise _refused(f"{here}.mountPath: expected an absolute path, got {mount.mount_path!r}")
    for key, probe in (("startupProbe", container.startup_probe), ("readinessProbe", container.readiness_probe)):
        if probe and (probe.period_seconds < 1 or probe.timeout_seconds < 1):
            raise _refused(f"{where}.{key}: expected periodSeconds and timeoutSeconds from 1")
    _refuse_set(container.resources, ("claims",), f"{where}.resources")
    if problem := security.image_refusal(spec.security_context, container.security_context):
        raise _refused(f"{where}.securityContext.{problem}")


def _check_security(spec: PodSpec, container: Container, where: str) -> None:
    if problem := security.refusal(spec.security_context, container.security_context):
        raise _refused(f"{where}.securityContext.{problem}")


def _refuse_set(part: msgspec.Struct, attributes: Sequence[str], where: str) -> None:
    for attribute in attributes:
        if getattr(part, attribute):
            names = {f.name: f.encode_name for f in msgspec.structs.fields(part)}
            raise _refused(f"{where}.{names[attribute]}: is not done here: expected none")


def _check_volumes(pod: Pod) -> dict[str, Volume]:
    found: dict[str, Volume] = {}
    for number, (volume, raw) in enumerate(
        zip(pod.spec.volumes, pod.raw["spec"].get("volumes") or (), strict=True)
    ):
        where = f"spec.volumes[{number}]"
        kinds = [key for key in raw if key != "name"]
        if unknown := [kind for kind in kinds if kind not in KINDS_OF_VOLUMES]:
            raise _refused(f"{where}: {unknown_key(unknown[0], KINDS_OF_VOLUMES)}")
        if not kinds:  # Kubernetes' default
            volume.empty_dir = EmptyDir()
        elif len(kinds) != 1:
            raise _refused(f"{where}: expected one of {', '.join(_VOLUMES)}, got {', '.join(kinds)}")
        if volume.texts and (
            problem := texts.refusal(volume.texts, [*pod.spec.init_containers, *pod.spec.containers])
        ):
            raise _refused(f"{where}.{kinds[0]}{problem}")
        if volume.name in found:
            raise _refused(f"{where}.name: {volume.name!r} is there twice")
        found[volume.name] = volume
    return found


def _check_empty_dir(volume: EmptyDir, where: str, asked: dict[str, int]) -> None:
    medium, _, size = volume.medium.partition("-")
    if volume.medium not in {"", "Memory", "HugePages"} and not (medium == "HugePages" and size):
        raise _refused(f"{where}.medium: expected Memory, HugePages or HugePages-<size>, got {volume.medium!r}")
    if medium == "HugePages" and (size not in asked if size else len(asked) != 1):
        wanted = f"a container that asks for hugepages-{size}" if size else "hugepages of one size to be asked for"
        raise _refused(f"{where}.medium: {volume.medium}: expected {wanted}, got {', '.join(asked) or 'none'}")
    if volume.size_limit is not None:
        try:
            quantity.whole(volume.size_limit)
        except ValueError as error:
            raise _refused(f"{where}.sizeLimit: {error}") from None


def _check_host_path(volume: HostPath, where: str) -> None:
    if not volume.path.startswith("/") or ".." in volume.path.split("/"):
        raise _refused(f"{where}.path: expected an absolute path, got {volume.path!r}")
    if volume.type not in HOST_PATH_TYPES:
        known = ", ".join(kind for kind in HOST_PATH_TYPES if kind)
        raise _refused(f"{where}.type: expected one of {known}, got {volume.type!r}")


def _check_container(container: Container, where: str, volumes: dict[str, Volume]) -> None:
    for number, variable in enumerate(container.env):
        _check_variable(variable, f"{where}.env[{number}]")
    for number, mount in enumerate(container.volume_mounts):
        here = f"{where}.volumeMounts[{number}]"
        if mount.name not in volumes:
            raise _refused(f"{here}.name: no volume {mount.name!r} in spec.volumes")
    if not container.working_dir.startswith("/"):
        raise _refused(f"{where}.workingDir: expected an absolute path, got {container.working_dir!r}")
    _check_resources(container.resources, f"{where}.resources")


def _check_variable(variable: EnvVar, where: str) -> None:
    if not variable.name or "=" in variable.name or "\0" in variable.name + (variable.value or ""):
        raise _refused(f"{where}.name: expected a variable's name, got {variable.name!r}")
    source = variable.value_from
    if source is None:
        return
    sources = [part for part in msgspec.structs.astuple(source) if part]
    if (variable.value is not None) + len(sources) != 1:
        keys = "valueFrom.fieldRef, valueFrom.configMapKeyRef and valueFrom.resourceFieldRef"
        raise _refused(f"{where}: expected one of value, {keys}")
    if source.resource_field_ref and (problem := downward.resource_refusal(source.resource_field_ref)):
        raise _refused(f"{where}.valueFrom.resourceFieldRef{problem}")


def _check_resources(asked: Resources, where: str) -> None:
    for key, amounts in (("limits", asked.limits), ("requests", asked.requests)):
        for resource, amount in amounts.items():
            here = f"{where}.{key}[{resource!r}]"
            try:
                if "/" in resource:
                    if problem := resources.refusal(resource):
                        raise ValueError(problem)  # noqa: TRY301 — prefixed below
                    quantity.whole(amount)
                    if asked.limits.get(resource) != asked.requests.get(resource, asked.limits.get(resource)):
                        raise ValueError("expected the same in limits and requests")  # noqa: TRY301
                else:
                    quantity.parse(amount)
            except ValueError as error:
                raise _refused(f"{here}: {error}") from None
    if problem := limits.refusal(asked.limits, asked.requests):
        raise _refused(f"{where}: {problem}")


def extended(container: Container) -> dict[str, int]:
    """Return how many of each extended resource the container requests, sorted by name."""
    asked = {**container.resources.requests, **container.resources.limits}
    counted = {resource: quantity.whole(amount) for resource, amount in sorted(asked.items()) if "/" in resource}
    return {resource: count for resource, count in counted.items() if count}


def hugepages(pod: Pod) -> dict[str, int]:
    """Return the bytes of hugepages that the pod's containers request, by page size: {"2Mi": 134217728}."""
    sums: dict[str, int] = {}
    for container in pod.spec.containers:
        for resource, amount in {**container.resources.requests, **container.resources.limits}.items():
            if resource.startswith("hugepages-"):
                size = resource.removeprefix("hugepages-")
                sums[size] = sums.get(size, 0) + int(quantity.parse(amount))
    return sums


def _check_references(manifests: Manifests) -> None:
    """Check that the ConfigMaps and keys that pods refer to exist."""
    for pod in manifests.pods:
        for volume in pod.spec.volumes:
            if volume.texts:
                where = f"{pod.where}: Pod {pod.label}: volume {volume.name}"
                _check_sources(volume.texts, where, pod.namespace, manifests)
        for container in [*pod.spec.init_containers, *pod.spec.containers]:
            for variable in container.env:
                key = variable.value_from and variable.value_from.config_map_key_ref
                if not key or key.optional:
                    continue
                if key.key not in manifests.config_maps.get((pod.namespace, key.name), {}):
                    raise _refused(
                        f"{pod.where}: Pod {pod.label}: container {container.name}: variable {variable.name}: "
                        f"no key {key.key} in a ConfigMap {pod.namespace}/{key.name} in the files"
                    )


def _check_sources(volume: texts.Volume, where: str, namespace: str, manifests: Manifests) -> None:
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
            raise _refused(f"{where}: no {label} in the files")
        elif missing := [item.key for item in wanted.items if item.key not in data]:
            raise _refused(f"{where}: no key {missing[0]} in {label}")
    if lacking:
        manifests.notes.append(f"{where}: without {' and '.join(lacking)}: there is no API server here")

"""The Kubernetes objects that can be played, as manifests declare them, and the facts of a running pod."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from wirespeed import structs
from wirespeed.errors import Thing

ConfigMaps = Mapping[tuple[str, str], Mapping[str, str]]


class _Part(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """A part of a pod. An unknown key is an error, as in Kubernetes."""


class Capabilities(_Part):
    add: list[str] | None = None
    drop: list[str] | None = None


class _SecurityContext(_Part):
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    # Without effect.
    app_armor_profile: Any = None
    se_linux_options: Any = None
    seccomp_profile: Any = None
    windows_options: Any = None


class SecurityContext(_SecurityContext):
    """A container's securityContext."""

    capabilities: Capabilities | None = None
    privileged: bool | None = None
    allow_privilege_escalation: bool | None = None
    read_only_root_filesystem: bool | None = None
    proc_mount: str | None = None  # without effect


class PodSecurityContext(_SecurityContext):
    """A pod's securityContext."""

    supplemental_groups: list[int] | None = None
    supplemental_groups_policy: str | None = None
    fs_group: int | None = None
    # Without effect.
    fs_group_change_policy: str | None = None  # without effect because volumes are created anew for each pod
    se_linux_change_policy: str | None = None
    sysctls: Any = None


class FieldRef(_Part):
    field_path: str
    api_version: str = "v1"


class ResourceFieldRef(_Part):
    resource: str  # "limits.cpu", "requests.hugepages-1Gi", ...
    container_name: str = ""  # a variable's default is its own container
    divisor: str | int | float = 0  # 0 means 1


class Item(_Part, kw_only=True):
    """A file of a volume: its path in the volume, and its permissions."""

    path: str
    mode: int | None = None


class DownwardItem(Item):
    field_ref: FieldRef | None = None
    resource_field_ref: ResourceFieldRef | None = None


class DownwardVolume(_Part):
    items: list[DownwardItem] = []
    default_mode: int | None = None


class KeyItem(Item, kw_only=True):
    key: str


class ConfigMapVolume(_Part):
    name: str = ""
    items: list[KeyItem] = []
    default_mode: int | None = None
    default_user: Any = None  # rejected
    optional: bool = False


class Source(_Part, forbid_unknown_fields=False):
    """A source of a projected volume. Keys of other kinds are rejected in play.manifests."""

    config_map: ConfigMapVolume | None = None
    downward_api: DownwardVolume | None = msgspec.field(name="downwardAPI", default=None)
    service_account_token: Any = None  # without effect: there is no API server to accept the token


class ProjectedVolume(_Part):
    sources: list[Source] = []
    default_mode: int | None = None


# A volume whose files are texts; see `wirespeed.play.texts`.
TextVolume = ConfigMapVolume | DownwardVolume | ProjectedVolume


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
    """A startup or readiness probe. `exec` probes are run; other kinds are ignored. Times are in seconds."""

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
    security_context: SecurityContext | None = None
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
    def texts(self) -> TextVolume | None:
        """The volume that consists of texts, see TextVolume; None for a plain directory."""
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
    security_context: PodSecurityContext | None = None
    # Rejected: without them, the pod would behave differently.
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

    @property
    def all_containers(self) -> list[Container]:
        return [*self.init_containers, *self.containers]


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
    def places(self) -> tuple[str | Thing, ...]:
        """Where it is, for errors."""
        return self.where, Thing("Pod", self.label)

    @property
    def ends_by_itself(self) -> bool:
        """Whether the pod ends without being stopped, which one with restartPolicy Always never does."""
        return self.spec.restart_policy != "Always"


def containers(pods: Iterable[Pod]) -> Iterator[tuple[Pod, Container]]:
    """Yield all containers, each with its pod."""
    return ((pod, each) for pod in pods for each in pod.spec.all_containers)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known about a pod once it has its network; `annotations` include network-status."""

    uid: str
    hostname: str
    node: str
    home: str = "/root"  # of the container's user
    ips: Sequence[str] = ()
    annotations: Mapping[str, str]

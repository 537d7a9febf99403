"""The node as plugins see it: its configuration and paths, its journal, its cluster and the other plugins."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from wirespeed import structs
from wirespeed.cni.plugin import Plugin
from wirespeed.errors import Error, Kind, Thing, as_error, within
from wirespeed.live import Live
from wirespeed.metrics import Counts, Source
from wirespeed.state.calls import Calls
from wirespeed.state.records import RecordedJournal

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from wirespeed.cni.chain import InProcess
    from wirespeed.kube.cluster import Cluster
    from wirespeed.kube.devices import PodDevices
    from wirespeed.kube.podresources import PodResources

_URL = structs.Words("a URL that begins with http:// or https://")
DEFAULT_CONFIG = Path("/etc/wirespeed/agent.yaml")


class ClusterConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename="camel"):
    """Where pods and networks are read: kubeconfig or manifests; with neither, the in-cluster service account."""

    kubeconfig: str = ""
    """path of a kubeconfig file. Without it and `cluster.manifests`, the in-cluster service account is used"""
    manifests: str = ""
    """directory of manifest files that are read instead of an API server"""
    request_timeout: Annotated[float, msgspec.Meta(gt=0, le=60)] = 4.0
    """seconds to wait for the API server's answer to the first attempt of a request. Each further attempt waits
    twice as long, up to 30 s. `deadline` limits a CNI request as a whole, however slow the API server is"""
    events: bool = True
    """report attachments, and why a pod was refused them, as Kubernetes events"""


class AutoconfConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename="camel"):
    """The runtime's CNI configuration, which the agent writes from that of the primary (default network) plugin."""

    files: tuple[str, ...] = ("00-wirespeed.conflist",)
    """names of the files to write: `*.conflist` as a list of plugins, `*.conf` as a single plugin"""
    cni_config_dir: str = "/etc/cni/net.d"
    """the directory from which the runtime reads its configuration"""
    primary_dir: str = ""
    """the directory of the primary CNI plugin's configuration; default: `autoconf.cniConfigDir`"""
    primary: str = ""
    """the name of the primary CNI plugin's file; default: the file that the runtime would use without a
    meta-plugin"""
    cni_version: str = ""
    """a version that the runtime supports; default: that of the primary CNI plugin's file"""
    network_name: str = ""
    """the `name` in the written file; default: that of the primary CNI plugin's file"""
    meta: dict[str, Any] = {}
    """more keys for the meta-plugin: `defaultNetworks`, `namespaceIsolation` ..."""


class TracingConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename="camel"):
    """Where traces of the agent's calls are exported to: an OpenTelemetry collector."""

    endpoint: Annotated[str, msgspec.Meta(pattern=structs.whole(r"https?://[^/\s]+(/\S*)?")), _URL] = (
        "http://127.0.0.1:4318/v1/traces"
    )
    """the URL at which the collector receives traces by OTLP/HTTP"""
    ratio: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    """the share of successful calls whose traces are exported, 0 to 1. Those of failed calls always are"""
    attributes: dict[str, str] = {}
    """more attributes of the resource (the agent), such as `k8s.cluster.name`"""


class VhostConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename="camel"):
    """Where the switches for vhost-user and memif interfaces are found, and where their sockets may be."""

    ovsdb: str = "unix:/run/openvswitch/db.sock"
    """the address of Open vSwitch's database: `unix:<path>` or `tcp:<ip>:<port>`"""
    ovs_rundir: str = "/run/openvswitch"
    """the directory in which Open vSwitch creates the sockets that it listens on"""
    vpp: str = "/run/vpp/api.sock"
    """VPP's API socket"""
    sockets: str = "/run/wirespeed/vhost"
    """the directory for the sockets of pods that have no volume for them, and for short symbolic links to
    directories with long paths"""
    userspace_dir: str = "/var/lib/cni/usrspcni"
    """the directory in which userspace-CNI recorded the ports that it created before it was replaced"""


class WebConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename="camel"):
    """The node's web page, and the HTTP API that it uses."""

    address: str = ""
    """the IP address and port at which the [web page](web.md) and its API are served, such as `127.0.0.1:9809`;
    without it they are not. An address that is not a loopback address requires `web.tlsCertificate`"""
    tls_certificate: str = ""
    """path of the server's certificate, in PEM, with the intermediate certificates after it. The file is read again
    when it changes"""
    tls_key: str = ""
    """path of the private key of `web.tlsCertificate`, in PEM, without a password"""
    anonymous: bool = False
    """answer without a token. Only allowed on a loopback address: every user and process of the node, and every pod
    with `hostNetwork`, may then read what the page shows"""


@structs.prepared
class NodeConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename="camel"):
    """The agent's configuration file (YAML or JSON): $WIRESPEED_CONFIG, by default /etc/wirespeed/agent.yaml."""

    socket: str = "/run/wirespeed/agent.sock"
    """the socket on which the agent listens. The shim uses the default path unless `WIRESPEED_SOCKET` in the
    runtime's environment sets another one. `WIRESPEED_WAIT_MS` sets how many milliseconds the shim waits for an
    agent (default: 30000)"""
    state: str = "/run/wirespeed/state.db"
    """the journal. It must be on a tmpfs, because the settings of the VFs do not survive a reboot either"""
    attachments: str = "/var/lib/wirespeed/attachments"
    """the directory of the records, one file for each container. Keep it on a disk, as address leases are: a DEL
    after a reboot releases what the records list"""
    runtimes: tuple[str, ...] = ("/run/containerd/containerd.sock", "/run/crio/crio.sock")
    """CRI sockets of the node's runtimes. After its start, the agent releases what was held by sandboxes that no
    longer exist and that none of these runtimes lists. With `[]`, the agent releases nothing on its own. Other
    common sockets: `/run/k3s/containerd/containerd.sock`, `/run/k0s/containerd.sock`"""
    cluster: ClusterConfig = ClusterConfig()
    node_name: str = ""
    """this node's name; default: `NODE_NAME` of the environment, otherwise the host name"""
    sysfs: str = "/sys"
    """where sysfs is mounted"""
    kubelet: str = "/var/lib/kubelet"
    """the kubelet's directory, which contains `pod-resources` and `device-plugins`"""
    devinfo: str = "/var/run/k8s.cni.cncf.io/devinfo"
    """the directory of device-info files"""
    leases: str = "/var/lib/cni/networks"
    """the directory of the addresses that host-local has leased, for networks that set no `dataDir`"""
    vhost: VhostConfig = VhostConfig()
    device_plugin: str = ""
    """the device plugin's configuration file, or a [directory with one file for each
    node](health-and-reload.md#reload). Without it, the agent runs no device plugin"""
    resource_prefix: str = "intel.com"
    """the prefix of the resource names of pools that set no `resourcePrefix`"""
    cdi: bool = False
    """containers get the pools' devices by CDI; the key `cdi` of a pool overrides this"""
    cdi_dir: str = "/var/run/cdi"
    """the directory from which the runtime reads CDI specifications"""
    cdi_annotations: bool = False
    """pass the names of CDI devices in annotations, for a kubelet or runtime without the field `cdi_devices`"""
    autoconf: AutoconfConfig | None = None
    """`{}` makes the agent write the runtime's CNI configuration, with the defaults below; without this key it
    writes none"""
    reference_plugins: Literal["execute", "inProcess"] = "execute"
    """how [plugins of the CNI reference set](reference-plugins.md) run: as programs, or, with `inProcess`, in the
    agent"""
    readiness_indicator_file: str = ""
    """a file that the primary CNI plugin creates when it is ready. Until it exists, the agent writes no CNI
    configuration and STATUS fails. Without this key, it waits for no file"""
    follow_networks: bool = False
    """attach and detach networks of running pods when their annotation changes. This requires an API server"""
    metrics: str = ""
    """the address and port at which [Prometheus metrics](metrics.md) are served, such as `127.0.0.1:9808`; without
    it none are served"""
    tracing: TracingConfig | None = None
    """`{}` makes the agent [export traces](tracing.md) of its calls, with the defaults below; without this key it
    exports none"""
    web: WebConfig = WebConfig()
    workers: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 32
    """how many ADDs of one plugin run at the same time, 1 to 1024. Its DELs and other requests have the same number
    of slots of their own, which ADDs never occupy"""
    deadline: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 90.0
    """seconds after which a CNI request is cancelled and undone, up to 3600"""


def load_config(path: Path | None = None) -> NodeConfig:
    """Read the configuration file; a missing default file means all defaults.

    Raises Error(INVALID_CONFIG) that names the file and the key.
    """
    chosen = path or config_path()
    where = Thing("configuration", str(chosen))
    try:
        text = chosen.read_bytes()
    except FileNotFoundError:
        if chosen == DEFAULT_CONFIG:
            return NodeConfig()
        raise Error(Kind.INVALID_CONFIG, "no such file", where=where) from None
    except OSError as error:
        raise as_error(error, where) from error
    with within(where):
        return parse_config(text)


def config_path() -> Path:
    """Return where the configuration file is, unless the command line names another."""
    return Path(os.environ.get("WIRESPEED_CONFIG", DEFAULT_CONFIG))


def parse_config(text: bytes | str) -> NodeConfig:
    """Parse the text of a configuration file. Raises Error(INVALID_CONFIG) that names the key."""
    import yaml  # noqa: PLC0415 — not on the path of a plugin that runs with defaults

    from wirespeed.kube import kubeyaml  # noqa: PLC0415

    try:
        value = kubeyaml.load(text) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Error(Kind.INVALID_CONFIG, f"not YAML: {' '.join(str(error).split())}") from error
    return structs.read(value, NodeConfig)


def open_journal(config: NodeConfig) -> RecordedJournal:
    """Open the node's journal. Raises Error(IO)."""
    return RecordedJournal(Path(config.state), Path(config.attachments))


class Node:
    """The argument of every plugin's `create(node)`. Its parts are created on first use, and live as long as it.

    A node created with `once` serves one call: it reads from the API server what that call needs, without watches.
    """

    def __init__(self, config: NodeConfig, *, once: bool = False) -> None:
        self.config = config
        self.once = once
        self.live = Live()  # what the parts of the agent report
        self.undone = Counts(
            "wirespeed_failed_adds_undone",
            "ADDs that failed and were undone; outcome incomplete is left to a DEL or GC",
            ("plugin", "outcome"),
        )
        self.metrics: list[Source] = [lambda: [self.undone.family()]]  # the metrics of the parts of the agent
        self.reload_callbacks: list[Callable[[], None]] = []  # called on SIGHUP, in the signal handler

    @cached_property
    def name(self) -> str:
        return self.config.node_name or os.environ.get("NODE_NAME") or os.uname().nodename

    @cached_property
    def journal(self) -> RecordedJournal:
        return open_journal(self.config)

    def existing_journal(self) -> RecordedJournal | None:
        """Return the journal, None if there is none: who only looks must not create one. Raises Error(IO)."""
        if "journal" in self.__dict__:  # the agent's, which is open even if another program removed its file
            return self.journal
        path, hint = self.config.state, "run the command as root" if os.geteuid() else ""
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise as_error(error, f"journal {path}").with_hint(hint) from error
        if not os.access(path, os.R_OK | os.W_OK):
            raise Error(Kind.IO, "Permission denied", where=f"journal {path}", hint=hint)
        return self.journal

    @cached_property
    def calls(self) -> Calls:
        """The history of the calls that the node's agents served."""
        return Calls(Path(self.config.state).with_name("calls.jsonl"))

    @cached_property
    def cluster(self) -> Cluster:
        """Pods and networks. Raises Error when the configured source cannot be used."""
        where = self.config.cluster
        if where.manifests:
            from wirespeed.kube.manifests import ManifestCluster  # noqa: PLC0415 — one of the two is loaded

            return ManifestCluster(Path(where.manifests))
        from wirespeed.kube.apiserver import ApiCluster  # noqa: PLC0415 — the client takes 0.2 s to import
        from wirespeed.kube.retry import RetryPolicy  # noqa: PLC0415

        policy = RetryPolicy.of(where.request_timeout)
        cluster = ApiCluster(kubeconfig=where.kubeconfig, node_name=self.name, watch=not self.once, policy=policy)
        self.metrics.append(cluster.metrics)
        return cluster

    @cached_property
    def reference_plugin(self) -> InProcess:
        """Returns, for a configuration, the plugin of the reference set that runs in this process, if one does."""
        if self.config.reference_plugins == "execute":
            return lambda _config, _path: None
        from wirespeed.plugins.reference.catalogue import Reference  # noqa: PLC0415 — only if configured

        return Reference(Path(self.config.leases)).plugin

    @cached_property
    def pod_resources(self) -> PodResources:
        """The devices that the kubelet allocated to pods."""
        from wirespeed.kube.podresources import PodResources  # noqa: PLC0415 — grpc takes 50 ms to import

        return PodResources(Path(self.config.kubelet) / "pod-resources/kubelet.sock")

    @cached_property
    def devices(self) -> PodDevices:
        """The devices that the kubelet and DRA drivers allocated to pods."""
        from wirespeed.kube.devices import PodDevices  # noqa: PLC0415 — not for a plugin without pods

        return PodDevices(
            Path(self.config.kubelet), pod_resources=lambda: self.pod_resources, cluster=lambda: self.cluster
        )

    @cached_property
    def plugins(self) -> Mapping[str, Plugin]:
        """The plugins that run in this process, by the `type` that configurations use for them."""
        return _Plugins(self)

    def plugin(self, kind: str) -> Plugin:
        """Return the plugin with that name or alias. Raises Error(INVALID_CONFIG) that lists the known ones."""
        if kind not in self.plugins:
            known = ", ".join(sorted({*self.plugins, *ALIASES}))
            raise Error(Kind.INVALID_CONFIG, "unknown plugin", expected=f"one of {known}", got=kind)
        return self.plugins[kind]

    def reload(self) -> None:
        """Reload configurations, as on SIGHUP."""
        for part in self.reload_callbacks:
            part()

    def recreate_journal(self) -> bool:
        """Recreate the journal if its file was removed; return whether it was. Raises Error(IO)."""
        return "journal" in self.__dict__ and self.journal.rewrite_if_removed()

    def stop_retries(self) -> None:
        """Stop retrying requests to the API server, as the agent is about to end."""
        if "cluster" in self.__dict__:
            self.cluster.stop_retries()

    def close(self) -> None:
        for part in ("cluster", "pod_resources", "journal"):
            if part in self.__dict__:
                self.__dict__[part].close()


# The suite's own plugins, by name; others come from the entry point group `wirespeed.plugins`.
PLUGINS = {"meta": "wirespeed.plugins.meta", "sriov": "wirespeed.plugins.sriov", "vhost": "wirespeed.plugins.vhost"}

# Other names for them, as a plugin's `type` or as the executable's name; those of the projects they replace too.
ALIASES = {
    "wirespeed": "meta",
    "multus": "meta",
    "multus-shim": "meta",
    "wirespeed-sriov": "sriov",
    "wirespeed-vhost": "vhost",
    "userspace": "vhost",
}


class _Plugins(Mapping[str, Plugin]):
    """The plugins by name and alias, each created on first use."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._created: dict[str, Plugin] = {}

    @cached_property
    def _third_party(self) -> dict[str, EntryPoint]:
        from importlib.metadata import entry_points  # noqa: PLC0415 — takes 11 ms, and our own plugins need none

        return {point.name: point for point in entry_points(group="wirespeed.plugins")}

    def __getitem__(self, kind: str) -> Plugin:
        name = ALIASES.get(kind, kind)
        with self._lock:
            if name not in self._created:
                if name in PLUGINS:
                    create: Any = importlib.import_module(PLUGINS[name]).create
                else:
                    create = self._third_party[name].load()
                self._created[name] = create(self._node)
            return self._created[name]

    def __contains__(self, kind: object) -> bool:
        name = ALIASES.get(str(kind), str(kind))
        return name in PLUGINS or name in self._third_party

    def __iter__(self) -> Iterator[str]:
        return iter({**PLUGINS, **self._third_party})

    def __len__(self) -> int:
        return len({**PLUGINS, **self._third_party})

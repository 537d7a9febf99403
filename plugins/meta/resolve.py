"""Resolves a runtime's call to delegates: the pod, its networks in order, and the inputs of each network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from wirespeed.cni import versions
from wirespeed.cni.chain import Chain, load_network
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.request import Request
from wirespeed.kube import deviceinfo
from wirespeed.kube.cluster import Cluster, NotFoundError
from wirespeed.plugins.meta import networks, selection
from wirespeed.plugins.meta.checks import needs_ip_argument, takes
from wirespeed.plugins.meta.config import MetaConfig, warn
from wirespeed.plugins.meta.delegate import Delegate
from wirespeed.plugins.meta.devices import Devices, DeviceUse, device_use
from wirespeed.plugins.meta.networks import Source
from wirespeed.plugins.meta.selection import Selection

# CNI_ARGS that concern the runtime's interface; they are passed to the master only.
_OF_THE_MASTER = ("IP", "MAC", "GATEWAY")


@dataclass(frozen=True, kw_only=True)
class Pod:
    """The pod of a call; `uid` is the UID that the runtime uses, `found` the API object."""

    namespace: str
    name: str
    uid: str = ""
    found: dict[str, Any] = field(default_factory=dict)  # empty until `read_pod`

    @property
    def label(self) -> str:
        return f"{self.namespace}/{self.name}"

    def annotation(self, key: str) -> str:
        """The annotation's value, "" if it is not set."""
        return (self.found["metadata"].get("annotations") or {}).get(key) or ""


def named_pod(args: Mapping[str, str]) -> Pod | None:
    """Return the pod that CNI_ARGS name; None without one (a runtime that has no pods).

    Raises CniError(INVALID_ENVIRONMENT).
    """
    name, namespace = args.get("K8S_POD_NAME", ""), args.get("K8S_POD_NAMESPACE", "")
    if not name and not namespace:
        return None
    try:
        return Pod(
            namespace=selection.check_namespace(namespace, "CNI_ARGS: K8S_POD_NAMESPACE"),
            name=selection.check_name(name, "CNI_ARGS: K8S_POD_NAME"),
            uid=args.get("K8S_POD_UID", ""),
        )
    except CniError as error:
        raise CniError(Code.INVALID_ENVIRONMENT, error.msg) from error


def read_pod(pod: Pod, cluster: Cluster) -> Pod:
    """Return the pod with its API object.

    Raises CniError(TRY_AGAIN_LATER) if the cluster has no such pod, UnavailableError.
    """
    try:
        found = cluster.pod(pod.namespace, pod.name, pod.uid)
    except NotFoundError as error:
        # Without the annotation the pod's networks are unknown; attaching only the master would leave it without
        # its other interfaces. A static pod starts before its mirror pod exists, so ask the runtime to retry. For
        # a pod that was deleted meanwhile the runtime does not retry.
        raise CniError(Code.TRY_AGAIN_LATER, error.msg) from error
    return replace(pod, uid=pod.uid or found["metadata"].get("uid") or "", found=found)


_NOTHING = Selection(namespace="", name="")


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """A network that the container gets, and the pod's requests for it (none if the configuration names it)."""

    source: Source
    asked: Selection = _NOTHING
    selected: bool = False  # by the networks annotation


@dataclass(frozen=True, kw_only=True)
class Resolver:
    """Resolves networks to delegates.

    `devices_of` returns a pod's device ids by resource name. `served` returns whether a device plugin of the node
    or a driver of the pod's claims has devices of the resource. `ignored` is called with the parts of a pod's
    annotations that have no effect. The cluster and the devices are accessed only if needed.
    """

    chain: Chain
    cluster: Callable[[], Cluster]
    devices_of: Callable[[Pod], dict[str, list[str]]]
    served: Callable[[Pod, str], bool]
    ignored: Callable[[Pod, str], None]
    devinfo: Path

    def delegates(self, request: Request, config: MetaConfig, pod: Pod | None) -> list[Delegate]:
        """Return the delegates of an ADD in order, the master first. The pod must have its API object (`read_pod`).

        Raises CniError that names the network, the annotation or the key, UnavailableError.
        """
        wanted = self._wanted(config, pod)
        names = _names(wanted, request.ifname, first=config.first_interface)
        devices = self._devices(wanted, pod)
        return [
            self._delegate(request, config, each, ifname=ifname, resource=resource, device=device)
            for each, ifname, (resource, device) in zip(wanted, names, devices, strict=True)
        ]

    def later(
        self,
        request: Request,
        config: MetaConfig,
        pod: Pod,
        asked: Selection,
        *,
        ifname: str,
        taken: Sequence[tuple[str, str]],
        selected: bool,
    ) -> Delegate:
        """Return the delegate of a hotplugged network; `taken` are the devices that the pod has attached already.

        Raises CniError that names the network, UnavailableError.
        """
        source = self._selected(asked, config, pod, config.exempt_namespaces)
        wanted = _Wanted(source=source, asked=asked, selected=selected)
        ((resource, device),) = self._devices([wanted], pod, taken)
        return self._delegate(request, config, wanted, ifname=ifname, resource=resource, device=device)

    def configured(self, request: Request, config: MetaConfig, *, namespace: str | None) -> list[Delegate]:
        """Return the delegates of the configuration alone, for a pod of that namespace (None: without a pod)."""
        wanted = [_Wanted(source=source) for source in self._sources(config, namespace)]
        wanted += self._auxiliary(config)
        names = _names(wanted, request.ifname, first=config.first_interface)
        return [
            self._delegate(request, config, each, ifname=ifname, resource=each.source.resource, device="")
            for each, ifname in zip(wanted, names, strict=True)
        ]

    # Which networks

    def _sources(self, config: MetaConfig, namespace: str | None) -> list[Source]:
        """Return the master, then the other networks of the configuration."""
        if not config.cluster_network:
            inline = networks.inline(config.delegates)
            return sorted(inline, key=lambda source: not source.master)
        sources = [replace(self._of_cluster("clusterNetwork", config.cluster_network, config), master=True)]
        if namespace is not None and namespace not in config.system_namespaces:
            sources += [self._of_cluster("defaultNetworks", name, config) for name in config.default_networks]
        return sources

    def _auxiliary(self, config: MetaConfig) -> list[_Wanted]:
        try:
            source = networks.auxiliary(config)
        except CniError as error:
            raise error.prefixed(f'configuration {config.name}: key "auxiliaryCNIChainName"') from error
        return [_Wanted(source=source)] if source else []

    def _of_cluster(self, key: str, value: str, config: MetaConfig) -> Source:
        try:
            return networks.cluster_network(value, config=config, cluster=self.cluster)
        except CniError as error:
            raise error.prefixed(f'configuration {config.name}: key "{key}", {value!r}') from error

    def _wanted(self, config: MetaConfig, pod: Pod | None) -> list[_Wanted]:
        wanted = [
            _Wanted(source=source) for source in self._sources(config, None if pod is None else pod.namespace)
        ]
        if pod is None:
            return wanted + self._auxiliary(config)
        text = pod.annotation(selection.DEFAULT_NETWORK)
        master = selection.parse_default(text, namespace=config.multus_namespace)
        if master is not None:
            allowed = config.exempt_namespaces | {config.multus_namespace}
            source = self._selected(master, config, pod, allowed)
            wanted[0] = _Wanted(source=replace(source, master=True), asked=master)
        for asked in selection.parse(pod.annotation(selection.NETWORKS), namespace=pod.namespace):
            source = self._selected(asked, config, pod, config.exempt_namespaces)
            wanted.append(_Wanted(source=source, asked=asked, selected=True))
        return wanted + self._auxiliary(config)

    def _selected(self, asked: Selection, config: MetaConfig, pod: Pod, allowed: frozenset[str]) -> Source:
        """Return the network that a pod selects. Raises CniError(POLICY) if namespace isolation forbids it."""
        if asked.ignored:
            self.ignored(pod, "; ".join(asked.ignored))
        if config.namespace_isolation and asked.namespace not in allowed | {pod.namespace}:
            known = " or ".join([pod.namespace, *sorted(allowed - {pod.namespace})])
            raise CniError(
                Code.POLICY,
                f"network {asked.label}: namespaces are isolated: expected a network of namespace {known}",
            )
        return networks.definition(self.cluster(), asked.namespace, asked.name, conf_dir=config.conf_dir)

    # What each is given

    def _devices(
        self, wanted: Sequence[_Wanted], pod: Pod | None, taken: Sequence[tuple[str, str]] = ()
    ) -> list[tuple[str, str]]:
        """Return (resource, device) of each network, ("", "") without a device."""
        if pod is None:
            for each in wanted:
                if each.source.resource and device_use(load_network(each.source.raw)) is not DeviceUse.NONE:
                    raise CniError(
                        Code.DEVICE,
                        f"network {each.source.label}: no device of resource {each.source.resource}: devices are "
                        "given to pods, and CNI_ARGS name none",
                    )
            return [("", "")] * len(wanted)
        devices = Devices(lambda: self.devices_of(pod), pod.label, taken)
        found = [("", "")] * len(wanted)
        # Devices that are requested by id come first, so that no other network gets them.
        for number, each in sorted(enumerate(wanted), key=lambda item: not item[1].asked.device_id):
            try:
                if each.asked.device_id:
                    resource = devices.take_id(each.asked.device_id, each.source.resource)
                    found[number] = resource, each.asked.device_id
                elif each.source.resource and self._gets_device(each.source, devices, pod):
                    found[number] = each.source.resource, devices.take(each.source.resource)
            except CniError as error:
                raise error.prefixed(f"network {each.source.label}") from error
        return found

    def _gets_device(self, source: Source, devices: Devices, pod: Pod) -> bool:
        """Whether the network must get a device of its resource.

        Some resources are only counters, used to schedule pods to nodes that have a certain bridge. They have no
        devices, and their networks need none.
        """
        if devices.has(source.resource):
            return True
        use = device_use(load_network(source.raw))
        if use is DeviceUse.POSSIBLE:
            return devices.had(source.resource) or self.served(pod, source.resource)
        return use is DeviceUse.NEEDED

    def _delegate(
        self, request: Request, config: MetaConfig, each: _Wanted, *, ifname: str, resource: str, device: str
    ) -> Delegate:
        source, asked = each.source, each.asked
        runtime = {**(config.runtime_config if source.master else {}), **asked.runtime_config()}
        runtime |= {"deviceID": device} if device else {}
        delegate = Delegate(
            configuration=config.name,
            request_ifname=request.ifname,
            label=source.label,
            raw=source.raw,
            version=versions.IMPLIED,
            ifname=ifname,
            master=source.master,
            args=_args(request.args, master=source.master),
            path=tuple(dict.fromkeys((config.bin_dir, *request.path))),
            runtime_config=runtime,
            auxiliary=source.auxiliary,
            selected=each.selected,
            settings=config.for_later() if source.master else {},
            asked=tuple(asked.runtime_config()),
            cni_args=asked.cni_args,
            resource=resource,
            device=device,
            default_route=asked.default_route,
        )
        try:
            # A plugin may write device-info without a device, e.g. for a vhost-user port.
            if device or takes(self.chain, delegate.network(), "CNIDeviceInfoFile"):
                delegate = self._with_device_info(delegate, request.container_id)
            return self._with_arguments(delegate, asked, config.lenient_capabilities)
        except CniError as error:
            raise error.prefixed(delegate.where) from error

    def _with_device_info(self, delegate: Delegate, container: str) -> Delegate:
        file = str(deviceinfo.cni_file(self.devinfo, delegate.label, container, delegate.ifname))
        runtime = {**delegate.runtime_config, "CNIDeviceInfoFile": file}
        return msgspec.structs.replace(delegate, runtime_config=runtime, device_info_file=file)

    def _with_arguments(self, delegate: Delegate, asked: Selection, lenient: Sequence[str]) -> Delegate:
        """Put into CNI_ARGS what the network gets by no capability: addresses for an IPAM plugin that reads them
        there, and requests that lenientCapabilities allow.
        """
        if not delegate.asked:
            return delegate
        network = delegate.network()
        missing = [key for key in delegate.asked if key in lenient and not takes(self.chain, network, key)]
        args = dict(delegate.args)
        if asked.ips and ("ips" in missing or needs_ip_argument(self.chain, network)):
            args["IP"] = ",".join(asked.ips)
        if "mac" in missing:
            args["MAC"] = asked.mac
        for key in missing:
            if key not in {"ips", "mac"}:
                warn(
                    f'network {delegate.label}: pods ask for "{key}", which no plugin of it takes: it has no effect'
                )
        kept = tuple(key for key in delegate.asked if key not in missing)
        return msgspec.structs.replace(delegate, args=args, asked=kept, lenient=tuple(missing))


def _names(wanted: Sequence[_Wanted], master: str, *, first: int) -> list[str]:
    """Return the interface name of each network: `master` for the master, then the requested name or net<number>,
    counted from `first`.

    Raises CniError: INTERFACE if two have the same name, INVALID_CONFIG if the pod requests another for the master.
    """
    taken: dict[str, str] = {}
    for position, each in enumerate(wanted):
        name = each.asked.interface or (f"net{position - 1 + first}" if position else master)
        if not position and name != master:
            raise CniError(
                Code.INVALID_CONFIG,
                f'network {each.source.label}: key "interface": expected {master}, which is what the runtime calls '
                f"the pod's first interface, got {name!r}",
            )
        if name in taken:
            raise CniError(
                Code.INTERFACE,
                f"interface {name} would be that of network {taken[name]} and of network {each.source.label}: "
                "expected a name for one only",
            )
        taken[name] = each.source.label
    return list(taken)


def _args(given: Mapping[str, str], *, master: bool) -> dict[str, str]:
    """Return CNI_ARGS for a delegate: the runtime's, plus IgnoreUnknown=1 so that plugins accept unknown ones."""
    kept = {key: value for key, value in given.items() if master or key not in _OF_THE_MASTER}
    return kept | {"IgnoreUnknown": "1"}

"""Resolves a runtime's call to delegates: the pod, its networks in order, and the inputs of each network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from wirespeed import errors, structs
from wirespeed.cni import versions
from wirespeed.cni.chain import Chain, load_network
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind, Thing
from wirespeed.kube import deviceinfo
from wirespeed.kube.cluster import Cluster, NotFoundError
from wirespeed.plugins.meta import networks, selection
from wirespeed.plugins.meta.checks import has_capability, needs_ip_argument
from wirespeed.plugins.meta.config import MetaConfig, warn
from wirespeed.plugins.meta.delegate import Delegate
from wirespeed.plugins.meta.devices import Devices, DeviceUse, device_use
from wirespeed.plugins.meta.networks import Source
from wirespeed.plugins.meta.selection import Selection

# CNI_ARGS that concern the runtime's interface; they are passed to the master only.
_MASTER_ARGS = ("IP", "MAC", "GATEWAY")


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
    """Return the pod that CNI_ARGS name, None if they name none. Raises Error(INVALID_REQUEST)."""
    name, namespace = args.get("K8S_POD_NAME", ""), args.get("K8S_POD_NAMESPACE", "")
    if not name and not namespace:
        return None
    try:
        with errors.within("K8S_POD_NAMESPACE"):
            selection.check_namespace(namespace)
        with errors.within("K8S_POD_NAME"):
            selection.check_name(name)
    except Error as error:
        raise error.within("CNI_ARGS").of_kind(Kind.INVALID_REQUEST) from error
    return Pod(namespace=namespace, name=name, uid=args.get("K8S_POD_UID", ""))


def read_pod(pod: Pod, cluster: Cluster) -> Pod:
    """Return the pod with its API object. Raises Error(TRY_AGAIN) if there is no such pod, UnavailableError."""
    try:
        found = cluster.pod(pod.namespace, pod.name, pod.uid)
    except NotFoundError as error:
        # Without the annotation the pod's networks are unknown; attaching only the master would leave it without
        # its other interfaces. A static pod starts before its mirror pod exists, so ask the runtime to retry. For
        # a pod that was deleted meanwhile the runtime does not retry.
        raise error.of_kind(Kind.TRY_AGAIN) from error
    return replace(pod, uid=pod.uid or found["metadata"].get("uid") or "", found=found)


@dataclass(frozen=True, kw_only=True)
class Resolver:
    """Resolves networks to delegates.

    `devices_of` returns a pod's device ids by resource name. `is_served` returns whether a device plugin of the
    node or a DRA driver of the pod's claims offers devices of the resource. `ignored` is called with errors about
    parts of a pod's annotations that have no effect. The cluster and the devices are accessed only if needed.
    """

    chain: Chain
    cluster: Callable[[], Cluster]
    devices_of: Callable[[Pod], dict[str, list[str]]]
    is_served: Callable[[Pod, str], bool]
    ignored: Callable[[Pod, Sequence[Error]], None]
    devinfo: Path

    def delegates(self, request: Request, config: MetaConfig, pod: Pod | None) -> list[Delegate]:
        """Return the delegates of an ADD, the master first; the pod is from `read_pod`. Raises Error."""
        wanted = self._wanted_networks(config, pod)
        names = _names(wanted, request.ifname, first=config.first_interface)
        devices = self._devices(wanted, pod)
        return [
            self._delegate(request, config, each, ifname=ifname, resource=resource, device=device)
            for each, ifname, (resource, device) in zip(wanted, names, devices, strict=True)
        ]

    def hotplug_delegate(
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
        """Return the delegate of a hotplugged network; the pod has the devices `taken` already. Raises Error."""
        source = self._selected_network(asked, config, pod, config.exempt_namespaces)
        source = replace(source, selected=selected)
        ((resource, device),) = self._devices([source], pod, taken)
        return self._delegate(request, config, source, ifname=ifname, resource=resource, device=device)

    def configured_delegates(
        self, request: Request, config: MetaConfig, *, namespace: str | None
    ) -> list[Delegate]:
        """Return the delegates of the configuration alone, for a pod of that namespace (None: without a pod)."""
        sources = self._sources(config, namespace) + self._auxiliary(config)
        names = _names(sources, request.ifname, first=config.first_interface)
        return [
            self._delegate(request, config, each, ifname=ifname, resource=each.resource, device="")
            for each, ifname in zip(sources, names, strict=True)
        ]

    # Which networks

    def _sources(self, config: MetaConfig, namespace: str | None) -> list[Source]:
        """Return the master, then the other networks of the configuration."""
        if not config.cluster_network:
            with errors.under("delegates"):
                inline = networks.inline(config.delegates)
            return sorted(inline, key=lambda source: not source.master)
        sources = [replace(self._configured_network("clusterNetwork", config.cluster_network, config), master=True)]
        if namespace is not None and namespace not in config.system_namespaces:
            sources += [
                self._configured_network("defaultNetworks", name, config) for name in config.default_networks
            ]
        return sources

    def _auxiliary(self, config: MetaConfig) -> list[Source]:
        with errors.within(config.where, 'key "auxiliaryCNIChainName"'):
            source = networks.auxiliary(config)
        return [source] if source else []

    def _configured_network(self, key: str, value: str, config: MetaConfig) -> Source:
        with errors.within(config.where, f'key "{key}", {value!r}'):
            return networks.cluster_network(value, config=config, cluster=self.cluster)

    def _wanted_networks(self, config: MetaConfig, pod: Pod | None) -> list[Source]:
        wanted = self._sources(config, None if pod is None else pod.namespace)
        if pod is None:
            return wanted + self._auxiliary(config)
        text = pod.annotation(selection.DEFAULT_NETWORK)
        master = selection.parse_default(text, namespace=config.multus_namespace)
        if master is not None:
            allowed = config.exempt_namespaces | {config.multus_namespace}
            wanted[0] = replace(self._selected_network(master, config, pod, allowed), master=True)
        for asked in selection.parse(pod.annotation(selection.NETWORKS), namespace=pod.namespace):
            source = self._selected_network(asked, config, pod, config.exempt_namespaces)
            wanted.append(replace(source, selected=True))
        return wanted + self._auxiliary(config)

    def _selected_network(self, asked: Selection, config: MetaConfig, pod: Pod, allowed: frozenset[str]) -> Source:
        """Return the network that a pod selects. Raises Error(POLICY) if namespace isolation forbids it."""
        if asked.ignored:
            self.ignored(pod, asked.ignored)
        if config.namespace_isolation and asked.namespace not in allowed | {pod.namespace}:
            known = " or ".join([pod.namespace, *sorted(allowed - {pod.namespace})])
            raise Error(
                Kind.POLICY,
                "namespaces are isolated",
                where=Thing("network", asked.label),
                expected=f"a network of namespace {known}",
            )
        source = networks.definition(self.cluster(), asked.namespace, asked.name, conf_dir=config.conf_dir)
        return replace(source, asked=asked)

    # Devices and arguments of each network

    def _devices(
        self, wanted: Sequence[Source], pod: Pod | None, taken: Sequence[tuple[str, str]] = ()
    ) -> list[tuple[str, str]]:
        """Return (resource, device) of each network, ("", "") without a device."""
        if pod is None:
            for each in wanted:
                if each.resource and device_use(load_network(each.raw)) is not DeviceUse.NONE:
                    resource = Thing("resource", each.resource)
                    raise Error(
                        Kind.DEVICE,
                        f"no device of {resource}: devices are given to pods, and CNI_ARGS name no pod",
                        where=each.where,
                        about=[resource],
                    )
            return [("", "")] * len(wanted)
        devices = Devices(lambda: self.devices_of(pod), pod.label, taken)
        found = [("", "")] * len(wanted)
        # Devices that are requested by id come first, so that no other network gets them.
        for number, each in sorted(enumerate(wanted), key=lambda item: not item[1].asked.device_id):
            with errors.within(each.where):
                if each.asked.device_id:
                    of = devices.take_id(each.asked.device_id, each.resource)
                    found[number] = of, each.asked.device_id
                elif each.resource and self._gets_device(each, devices, pod):
                    found[number] = each.resource, devices.take(each.resource)
        return found

    def _gets_device(self, source: Source, devices: Devices, pod: Pod) -> bool:
        """Whether the network must get a device of its resource.

        Some resources only count, to schedule pods to nodes with a certain bridge: their networks need no device.
        """
        if devices.has_free(source.resource):
            return True
        use = device_use(load_network(source.raw))
        if use is DeviceUse.POSSIBLE:
            return devices.has_handed_out(source.resource) or self.is_served(pod, source.resource)
        return use is DeviceUse.NEEDED

    def _delegate(
        self, request: Request, config: MetaConfig, source: Source, *, ifname: str, resource: str, device: str
    ) -> Delegate:
        asked = source.asked
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
            selected=source.selected,
            settings=config.hotplug_settings() if source.master else {},
            asked=tuple(asked.runtime_config()),
            cni_args=asked.cni_args,
            resource=resource,
            device=device,
            default_route=asked.default_route,
        )
        with errors.within(delegate.where):
            # A plugin may write device-info without a device, e.g. for a vhost-user port.
            if device or has_capability(self.chain, delegate.network(), "CNIDeviceInfoFile"):
                file = str(deviceinfo.cni_file(self.devinfo, delegate.label, request.container_id, ifname))
                runtime |= {"CNIDeviceInfoFile": file}
                delegate = msgspec.structs.replace(delegate, runtime_config=runtime, device_info_file=file)
            return self._with_arguments(delegate, asked, config.lenient_capabilities)

    def _with_arguments(self, delegate: Delegate, asked: Selection, lenient: Sequence[str]) -> Delegate:
        """Put into CNI_ARGS what no capability of the network covers: addresses for an IPAM plugin that reads them
        there, and requests that lenientCapabilities allow.
        """
        if not delegate.asked:
            return delegate
        network = delegate.network()
        missing = [key for key in delegate.asked if key in lenient and not has_capability(self.chain, network, key)]
        args = dict(delegate.args)
        if asked.ips and ("ips" in missing or needs_ip_argument(self.chain, network)):
            args["IP"] = ",".join(asked.ips)
        if "mac" in missing:
            args["MAC"] = asked.mac
        for key in missing:
            if key not in {"ips", "mac"}:
                what = f'pods ask for "{key}", and no plugin of it has that capability: it has no effect'
                warn(Error(Kind.UNSUPPORTED, what, where=Thing("network", delegate.label)))
        kept = tuple(key for key in delegate.asked if key not in missing)
        return msgspec.structs.replace(delegate, args=args, asked=kept, lenient=tuple(missing))


def _names(wanted: Sequence[Source], master: str, *, first: int) -> list[str]:
    """Return the interface names: `master`, then each requested name or net<number>, counted from `first`.

    Raises Error: INTERFACE if two have the same name, INVALID_CONFIG if the pod requests another for the master.
    """
    taken: dict[str, Thing] = {}
    for position, each in enumerate(wanted):
        name = each.asked.interface or (f"net{position - 1 + first}" if position else master)
        if not position and name != master:
            expected = f"{master}, the runtime's name for the pod's first interface"
            raise structs.wrong("interface", expected, name).within(each.where)
        if name in taken:
            both = (taken[name], each.where)
            raise Error(
                Kind.INTERFACE,
                f"{both[0]} and {both[1]} would both be interface {name}",
                key="interface",
                expected="another name for one of them",
                about=both,
            )
        taken[name] = each.where
    return list(taken)


def _args(given: Mapping[str, str], *, master: bool) -> dict[str, str]:
    """Return CNI_ARGS for a delegate: the runtime's, plus IgnoreUnknown=1 so that plugins accept unknown ones."""
    kept = {key: value for key, value in given.items() if master or key not in _MASTER_ARGS}
    return kept | {"IgnoreUnknown": "1"}

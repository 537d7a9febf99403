"""A delegate: one network of one container, as ADD resolved it and as the journal stores it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from wirespeed import structs
from wirespeed.cni import result as results
from wirespeed.cni.chain import Network, load_network
from wirespeed.cni.request import Request
from wirespeed.errors import Thing
from wirespeed.kernel import netns as namespaces
from wirespeed.kernel.boot import boot_id
from wirespeed.kernel.netns import Identity
from wirespeed.state.journal import Attachment

NO_NETNS = Identity(0, 0, 0)  # for a network namespace that is gone; no existing one has this identity


@structs.prepared
class Delegate(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """A network's configuration and its plugins' inputs. Older records are read too: new fields need defaults."""

    configuration: str  # name of the meta-plugin's configuration; GC selects by it
    request_ifname: str  # CNI_IFNAME of the runtime's call; DEL and CHECK select by it
    label: str  # name of the network in messages and network-status
    raw: dict[str, Any]  # conf or conflist, as it was found
    version: str  # cniVersion if `raw` has none
    ifname: str
    master: bool = False
    args: dict[str, str] = {}  # CNI_ARGS
    path: tuple[str, ...] = ()  # folders to search for plugin executables
    runtime_config: dict[str, Any] = {}  # each plugin gets the keys for which it has the capability
    auxiliary: bool = False  # works on the master's interface; `ifname` is then only the key in the journal
    selected: bool = False  # from the pod's networks annotation
    settings: dict[str, Any] = {}  # master only: keys of the meta-plugin's configuration that hotplug needs
    asked: tuple[str, ...] = ()  # capabilities that the annotation requests and a plugin must have
    lenient: tuple[str, ...] = ()  # capabilities that the annotation requests, no plugin has, and may be ignored
    cni_args: dict[str, Any] = {}  # merged into args.cni of each plugin
    resource: str = ""
    device: str = ""
    device_info_file: str = ""
    default_route: tuple[str, ...] | None = None  # gateways; (): keep the default routes that the plugins made

    @property
    def where(self) -> Thing:
        """The network and its interface, as the place of errors."""
        return Thing("network", self.label, "" if self.auxiliary else self.ifname)

    @property
    def cni_ifname(self) -> str:
        """CNI_IFNAME for its plugins: an auxiliary chain works on the master's interface."""
        return self.request_ifname if self.auxiliary else self.ifname

    def network(self) -> Network:
        """Load `raw` and fill in device and arguments. Raises Error(INVALID_CONFIG, INCOMPATIBLE_VERSION)."""
        network = load_network(self.raw, version=self.version)
        return replace(
            network,
            plugins=[self._with_device_and_args(plugin) for plugin in network.plugins],
            begin=results.empty() if self.auxiliary else None,
            runtime_config=self.runtime_config,
        )

    def request(self, call: Request, *, netns: str) -> Request:
        """Derive the request for this attachment from the runtime's call."""
        path = (*self.path, *(folder for folder in call.path if folder not in self.path))
        return call.derive(netns=netns, ifname=self.cni_ifname, args=self.args, path=path)

    def _with_device_and_args(self, plugin: dict[str, Any]) -> dict[str, Any]:
        """Return the plugin's configuration with the device and the arguments filled in."""
        completed = dict(plugin)
        if self.device:
            completed |= {"deviceID": self.device, "pciBusID": self.device}
        if self.cni_args:
            args = _object(plugin, "args", plugin.get("args"))
            cni = _object(plugin, "args.cni", args.get("cni"))
            completed["args"] = {**args, "cni": {**cni, **self.cni_args}}
        return completed


def _object(plugin: dict[str, Any], key: str, value: object) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        fault = structs.wrong(key, "an object, for the cni-args of the pod", value)
        raise fault.within(Thing("plugin", plugin["type"]))
    return value


def planned_rows(delegates: Sequence[Delegate], container: str, netns: str, identity: Identity) -> list[Attachment]:
    """Return the journal rows of a plan, in order; `identity` is that of the network namespace at path `netns`."""
    return [
        Attachment(
            container=container,
            ifname=delegate.ifname,
            position=position,
            netns=netns,
            record={
                "delegate": msgspec.to_builtins(delegate),
                "netns": msgspec.to_builtins(identity),
                "boot": boot_id(),
            },
        )
        for position, delegate in enumerate(delegates)
    ]


def recorded_delegate(row: Attachment) -> Delegate:
    return msgspec.convert(row.record["delegate"], Delegate)


def recorded_identity(row: Attachment) -> Identity:
    """Return the identity of the network namespace that the attachment was made in."""
    return msgspec.convert(row.record["netns"], Identity)


def of_earlier_boot(row: Attachment) -> bool:
    """Whether the attachment is older than the last boot: its interface is gone, its device may be in use again."""
    return bool(row.record.get("boot", boot_id()) != boot_id())


def netns_gone(row: Attachment) -> bool:
    return of_earlier_boot(row) or not namespaces.alive(row.netns, recorded_identity(row))

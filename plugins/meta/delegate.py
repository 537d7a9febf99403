"""A delegate: one network of one container as ADD decided it, which is also what the journal keeps of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from wirespeed import structs
from wirespeed.cni import result as results
from wirespeed.cni.chain import Network, load_network
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.request import Request
from wirespeed.host import netns as namespaces
from wirespeed.host.boot import boot_id
from wirespeed.host.netns import Identity
from wirespeed.state.journal import Attachment

NOWHERE = Identity(0, 0, 0)  # of a network namespace that is gone: none has it


@structs.prepared
class Delegate(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The network's own configuration, and all that its plugins are given beside it.

    An agent of a later version reads what this one wrote: a field that is added needs a default.
    """

    configuration: str  # name of the meta-plugin's configuration: whose GC this is
    request_ifname: str  # CNI_IFNAME of the runtime's call: whose DEL and CHECK this is
    label: str  # what messages and network-status call the network
    raw: dict[str, Any]  # conf or conflist, as it was found
    version: str  # the cniVersion where `raw` has none
    ifname: str
    master: bool = False
    args: dict[str, str] = {}  # CNI_ARGS
    path: tuple[str, ...] = ()  # where plugins are executed from
    runtime_config: dict[str, Any] = {}  # of which each plugin gets what it has the capabilities for
    auxiliary: bool = False  # it makes no interface, its plugins work on the master's; `ifname` is its name here
    selected: bool = False  # the pod's annotation asks for it
    settings: dict[str, Any] = {}  # the master's: the configuration's keys that networks of a later day need
    asked: tuple[str, ...] = ()  # the capabilities that the pod's annotation needs of the network
    lenient: tuple[str, ...] = ()  # those that it asks for too, that no plugin has, and that may be without effect
    cni_args: dict[str, Any] = {}  # put into each plugin's args.cni
    resource: str = ""
    device: str = ""
    device_info_file: str = ""
    default_route: tuple[str, ...] | None = None  # gateways; empty is the one that the plugins make

    @property
    def where(self) -> str:
        """How a message names it."""
        named = self.ifname and not self.auxiliary
        return f"network {self.label} ({self.ifname})" if named else f"network {self.label}"

    @property
    def cni_ifname(self) -> str:
        """What its plugins are told as CNI_IFNAME: an auxiliary chain works on the master's interface."""
        return self.request_ifname if self.auxiliary else self.ifname

    def network(self) -> Network:
        """What its plugins are run with. Raises CniError(INVALID_CONFIG, INCOMPATIBLE_VERSION)."""
        network = load_network(self.raw, version=self.version)
        return replace(
            network,
            plugins=[self._completed(plugin) for plugin in network.plugins],
            begin=results.empty() if self.auxiliary else None,
        )

    def request(self, call: Request, *, netns: str) -> Request:
        """The runtime's call as one of this attachment."""
        path = (*self.path, *(folder for folder in call.path if folder not in self.path))
        return call.derive(netns=netns, ifname=self.cni_ifname, args=self.args, path=path)

    def _completed(self, plugin: dict[str, Any]) -> dict[str, Any]:
        """The plugin's configuration with the device and the arguments in it."""
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
        raise CniError(
            Code.INVALID_CONFIG,
            f'plugin {plugin["type"]}: key "{key}": expected an object, for the cni-args of the pod, got {value!r}',
        )
    return value


def planned(delegates: Sequence[Delegate], *, container: str, netns: str, identity: Identity) -> list[Attachment]:
    """The journal's rows of a plan, in order; `identity` is that of the network namespace at the path `netns`."""
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


def recorded(row: Attachment) -> Delegate:
    """The delegate of a row."""
    return msgspec.convert(row.record["delegate"], Delegate)


def recorded_identity(row: Attachment) -> Identity:
    """Which network namespace the attachment was made in."""
    return msgspec.convert(row.record["netns"], Identity)


def of_earlier_boot(row: Attachment) -> bool:
    """Whether the attachment was made before the node was started: then its interface is gone, and its device may
    be another's.
    """
    return bool(row.record.get("boot", boot_id()) != boot_id())


def departed(row: Attachment) -> bool:
    """Whether the network namespace that the attachment was made in is no more."""
    return of_earlier_boot(row) or not namespaces.alive(row.netns, recorded_identity(row))

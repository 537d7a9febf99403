"""Takeover from Multus: converts the files that Multus and libcni keep of a pod into journal rows.

`<cniDir>/<container>` lists a pod's networks in the order of ADD (Multus, pkg/types, DelegateNetConf);
`<cniDir>/results/<network>-<container>-<interface>` is libcni's cache of each successful ADD (kind cniCacheV1).
This module gets their contents from the caller and does not access the files itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec

from wirespeed import structs
from wirespeed.cni import result as results
from wirespeed.cni.request import check_container_id, ifname_fault
from wirespeed.errors import Error, Kind, Thing, within
from wirespeed.kernel.netns import Identity
from wirespeed.plugins.meta.delegate import Delegate, planned_rows
from wirespeed.state.journal import Attachment, AttachmentStep, Journal
from wirespeed.takeover.record import MultusFiles

MASTER_IFNAME = "eth0"  # CNI_IFNAME of every Kubernetes runtime; used if no file contains it


@structs.prepared
class Cached(msgspec.Struct, kw_only=True):
    """libcni's cache entry of one ADD: its inputs and its result. `config` is base64 in the file."""

    kind: str
    container: str = msgspec.field(name="containerId")
    config: bytes
    ifname: str = msgspec.field(name="ifName")
    network: str = msgspec.field(name="networkName")
    netns: str = ""
    args: list[tuple[str, str]] | None = msgspec.field(name="cniArgs", default=None)
    capability_args: dict[str, Any] | None = msgspec.field(name="capabilityArgs", default=None)
    result: dict[str, Any] | None = None


class _Plugin(msgspec.Struct):
    config: bytes = msgspec.field(name="Bytes")


class _FileList(msgspec.Struct, kw_only=True):
    """A conflist that Multus 4.2 or newer read from a file, including the plugins from the folder of its name."""

    name: str = msgspec.field(name="Name", default="")
    version: str = msgspec.field(name="CNIVersion", default="")
    disable_check: bool = msgspec.field(name="DisableCheck", default=False)
    disable_gc: bool = msgspec.field(name="DisableGC", default=False)
    plugins: list[_Plugin] | None = msgspec.field(name="Plugins", default=None)


@structs.prepared
class _Listed(msgspec.Struct, kw_only=True):
    """One network in Multus' list of a pod.

    `config` is the conf or conflist that ADD ran, including the device id. For a conflist that was read from a file
    it has only the plugin types, and `file` has the full configurations.
    """

    config: bytes = msgspec.field(name="Bytes")
    file: _FileList | None = msgspec.field(name="CNINetworkConfigList", default=None)
    label: str = msgspec.field(name="Name", default="")
    ifname: str = msgspec.field(name="ifnameRequest", default="")
    device: str = msgspec.field(name="deviceID", default="")
    resource: str = msgspec.field(name="resourceName", default="")


def read_cached(data: bytes) -> Cached:
    """Decode a file of libcni's cache. Raises Error(INVALID_DATA)."""
    try:
        cached = msgspec.json.decode(data, type=Cached)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Error(Kind.INVALID_DATA, f"not a result in libcni's cache: {error}") from error
    if cached.kind != "cniCacheV1":
        raise Error(Kind.INVALID_DATA, key="kind", expected="cniCacheV1", got=cached.kind)
    if fault := ifname_fault(cached.ifname):
        raise Error(Kind.INVALID_DATA, fault, key="ifName")
    check_container_id(cached.container)
    return cached


class _Found(NamedTuple):
    """A network of a pod, its interface name, and the cache entry of its ADD (None if there is none)."""

    listed: _Listed
    ifname: str
    cached: Cached | None


def attachments(
    container: str,
    listed: bytes | None,
    cached: Sequence[Cached],
    *,
    multus: MultusFiles,
    identity: Callable[[str], Identity],
) -> list[Attachment]:
    """Return the journal rows of one container, in the order in which Multus attached its networks.

    `listed` is the content of Multus' list (None if it is lost, e.g. after a failed DEL), `cached` are the cache
    entries; the ADD of a network without one did not succeed. `identity` returns the identity of the network
    namespace at a path. Raises Error that names what cannot be read.
    """
    with within(Thing("container", container)):
        networks = _match_results([] if listed is None else _read_list(listed), cached)
        master = networks[0] if networks else None
        ifname = MASTER_IFNAME if master is None or master.listed.ifname else master.ifname
        args = _common_args(cached)
        delegates = [_delegate(each, multus, ifname, args, master=each is master) for each in networks]
        netns = next((each.netns for each in cached if each.netns), "")
        rows = planned_rows(delegates, container=container, netns=netns, identity=identity(netns))
        return [_with_result(row, each.cached, multus.version) for row, each in zip(rows, networks, strict=True)]


def record(journal: Journal, rows: Sequence[Attachment]) -> None:
    """Write a container's rows to the journal; of existing ones, step and result. Raises Error(INTERFACE, IO)."""
    if not journal.attachments(rows[0].container):
        journal.plan(rows)
    for row in rows:
        journal.mark(row.container, row.ifname, row.step, row.result)


def _read_list(data: bytes) -> list[_Listed]:
    try:
        listed = msgspec.json.decode(data, type=list[_Listed])
    except (msgspec.DecodeError, RecursionError) as error:
        raise Error(Kind.INVALID_DATA, f"not a list of networks as Multus writes it: {error}") from error
    for entry in listed:
        if entry.file is not None and entry.file.plugins:
            entry.config = msgspec.json.encode(_conflist(entry.file, entry.file.plugins))
    return listed


def _conflist(file: _FileList, plugins: Sequence[_Plugin]) -> dict[str, Any]:
    keys = {
        "cniVersion": file.version,
        "name": file.name,
        "disableCheck": file.disable_check,
        "disableGC": file.disable_gc,
        "plugins": [_decode(plugin.config) for plugin in plugins],
    }
    return {key: value for key, value in keys.items() if value}


def _match_results(listed: Sequence[_Listed], cached: Sequence[Cached]) -> list[_Found]:
    """Return the listed networks with their cache entries, then the cache entries that belong to none of them."""
    left = list(cached)
    found = []
    for entry, ifname in zip(listed, _ifnames(listed, cached), strict=True):
        network = _decode(entry.config).get("name")
        result = next((each for each in left if (each.network, each.ifname) == (network, ifname)), None)
        if result is not None:
            left.remove(result)
        found.append(_Found(entry, ifname, result))
    return found + [
        _Found(_Listed(config=each.config, label=each.network, ifname=each.ifname), each.ifname, each)
        for each in left
    ]


def _ifnames(listed: Sequence[_Listed], cached: Sequence[Cached]) -> list[str]:
    """Return the interface of each network: the requested name, else CNI_IFNAME (master) or net1, net2 ..."""
    if not listed:
        return []
    others = [entry.ifname or f"net{position}" for position, entry in enumerate(listed)][1:]
    master = _decode(listed[0].config).get("name")
    made = [each.ifname for each in cached if each.network == master and each.ifname not in others]
    return [listed[0].ifname or (made[0] if made else MASTER_IFNAME), *others]


def _decode(config: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(config, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise Error(Kind.INVALID_DATA, f"not the configuration of a network: {error}") from error


def _common_args(cached: Sequence[Cached]) -> dict[str, str]:
    """Return the CNI_ARGS common to all networks of the container: those that identify the pod."""
    args = next((each.args for each in cached if each.args), [])
    return {key: value for key, value in args if key == "IgnoreUnknown" or key.startswith("K8S_POD_")}


def _delegate(
    found: _Found, multus: MultusFiles, request_ifname: str, args: dict[str, str], *, master: bool
) -> Delegate:
    entry, ifname, cached = found
    raw = _decode(entry.config)
    runtime_config = (cached.capability_args if cached else None) or {}
    delegate = Delegate(
        configuration=multus.configuration,
        request_ifname=request_ifname,
        label=entry.label or str(raw.get("name")),
        raw=raw,
        version=multus.version,
        ifname=ifname,
        master=master,
        args=dict(cached.args) if cached and cached.args else args,  # dict: Multus repeats some keys
        path=multus.path,
        runtime_config=runtime_config,
        resource=entry.resource,
        device=entry.device if entry.resource else "",  # Multus passed the device to plugins only in that case
        device_info_file=str(runtime_config.get("CNIDeviceInfoFile") or ""),
    )
    with within(delegate.where):
        delegate.network()
    return delegate


def _with_result(row: Attachment, cached: Cached | None, version: str) -> Attachment:
    if cached is None:
        return replace(row, step=AttachmentStep.ADDING)
    with within(f"cached result of network {cached.network} ({cached.ifname})"):
        result = None if cached.result is None else results.read(cached.result, version)
    return replace(row, step=AttachmentStep.ADDED, result=result)

"""Reads and checks node policies (SriovNetworkNodePolicy objects in YAML files), and merges them for each PF."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from wirespeed import errors, structs
from wirespeed.devices import pci
from wirespeed.errors import NOTHING, Error, Kind, Thing
from wirespeed.kube import documents
from wirespeed.structs import Cell, Words, whole

if TYPE_CHECKING:
    from wirespeed.provision.facts import Pf

API_VERSION = "sriovnetwork.openshift.io/v1"
KIND = "SriovNetworkNodePolicy"
LOWEST_PRIORITY = 99
_OPERATOR_POLICY = "default"  # the name of the policy that older SR-IOV operators create

_NUMBERS = re.compile(r"(\d{1,3})(?:-(\d{1,3}))?")
_EXPECTED = "VF numbers like 0,2-5"

_Resource = Annotated[
    str,
    Meta(pattern=whole("[a-zA-Z0-9]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9])?")),
    Words(
        "up to 63 letters, digits, - and _, the first and last no - or _", "up to 63 letters, digits, `-` and `_`"
    ),
]
_Hex = Annotated[str, Meta(pattern=whole("[0-9a-fA-F]{4}")), Words("four hex digits")]
_Pci = Annotated[str, Meta(pattern=whole(pci.ADDRESS.pattern)), Words("a PCI address", "PCI addresses")]
_PfName = Annotated[str, Words("the name of a PF, with or without VF numbers", "names, `ens1f0#0-3,7`")]
_Unsupported = Words("none: it is not supported", "refused: not supported")
_Mtu = Annotated[int, Meta(ge=0, le=65535)]
_LinkType = Annotated[Literal["", "eth", "ETH", "ib", "IB"], Cell("`eth`, `ib`")]


class _Part(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, rename="camel"):
    """A part of a policy. An unknown key is an error."""


class NicSelector(_Part, frozen=True, kw_only=True):
    """Selects the PFs that match all keys given."""

    vendor: _Hex = ""
    """the PF's vendor"""
    device_id: _Hex = msgspec.field(name="deviceID", default="")
    """the PF's device"""
    root_devices: list[_Pci] = []
    """PFs"""
    pf_names: list[_PfName] = []
    """names or alternative names of PFs, optionally with VF numbers (several ranges; the operator allows one)"""
    net_filter: Annotated[Literal[""], _Unsupported] = ""
    """for virtual platforms only"""


@structs.prepared
class Spec(_Part, frozen=True, kw_only=True):
    """The spec of a policy, with the keys of the SR-IOV network operator."""

    resource_name: _Resource
    """required: names the group of VFs"""
    node_selector: Annotated[dict[str, str], Cell("object of labels")] = {}
    """the policy applies to nodes that have these labels (`--label KEY=VALUE`); without it, to every node"""
    nic_selector: Annotated[NicSelector, Cell("object, see below")]
    """required: which PFs the policy is for"""
    num_vfs: Annotated[int, Meta(ge=1, le=65535)]
    """required: the number of VFs that the PF is to have"""
    priority: Annotated[int, Meta(ge=0, le=LOWEST_PRIORITY)] = LOWEST_PRIORITY
    """0 is the highest priority; default: the lowest"""
    mtu: _Mtu = 0
    """the MTU of the VFs; the PF's MTU is raised if it is smaller, and never lowered. 0 is the same as no key"""
    device_type: Literal["netdevice", "vfio-pci"] = "netdevice"
    """the driver of the VFs; `netdevice` is the VF's own one, the default"""
    link_type: _LinkType = ""
    """must be the PF's own type; it is not changed"""
    e_switch_mode: Literal["", "legacy", "switchdev"] = ""
    """set by devlink; `switchdev` is refused with `linkType: ib`"""
    externally_managed: bool = False
    """the PF is not changed and must already have what the policy asks for; only its VFs are changed"""
    is_rdma: bool = False
    """for the device plugin: it does not affect how VFs are created. `true` is refused with `vfio-pci`, because a
    VF on vfio-pci has no RDMA device"""
    need_vhost_net: bool = False
    """for the device plugin"""
    exclude_topology: bool = False
    """for the device plugin"""
    vdpa_type: Literal["", "virtio", "vhost"] = ""
    """each VF gets a vdpa device of that type, named `vdpa:<PCI address>`; only with `netdevice` and `switchdev`.
    Without it, a VF's vdpa device is removed"""
    bridge: Annotated[dict[str, Any], Meta(max_length=0), _Unsupported] = {}


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A policy; `document` is its file and document."""

    name: str
    document: str
    spec: Spec

    @property
    def where(self) -> tuple[str, Thing]:
        """The places for errors about this policy."""
        return self.document, Thing("policy", self.name)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Some VFs of a PF, by their numbers, and their requested state."""

    resource: str
    numbers: frozenset[int]
    device_type: str
    mtu: int = 0  # 0: it is not changed
    vdpa: str | None = None  # type of their vdpa devices; "": they have none; None: they are not changed


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The requested state of a PF. Values that no policy sets ("" or 0) are not changed."""

    num_vfs: int
    mtu: int = 0
    eswitch: str = ""
    externally_managed: bool = False
    groups: tuple[Group, ...] = ()


def load(files: Sequence[Path], *, on_skip: Callable[[str], None] = lambda _: None) -> list[Policy]:
    """Return the policies in the files; `on_skip` is called with a message for each object that is skipped.

    Raises Error(INVALID_CONFIG) that names file, document and key.
    """
    found: dict[str, Policy] = {}
    kinds: set[str] = set()
    for path in files:
        for where, document in documents.read(path):
            for raw in documents.objects(document, where):
                kinds.add(raw["kind"])
                policy = read(raw, where, on_skip=on_skip)
                if policy is None:
                    continue
                if policy.name in found:
                    what = f"it is there twice, also in {found[policy.name].document}"
                    raise Error(Kind.INVALID_CONFIG, what, where=policy.where)
                found[policy.name] = policy
    if KIND not in kinds:
        where = ", ".join(map(str, files))
        raise Error(Kind.INVALID_CONFIG, where=where, expected=f"objects of kind {KIND}", hint="there are none")
    return list(found.values())


def for_node(policies: Iterable[Policy], labels: Mapping[str, str]) -> list[Policy]:
    """Return the policies whose nodeSelector matches a node with these labels."""
    return [policy for policy in policies if policy.spec.node_selector.items() <= labels.items()]


def merge(policies: Iterable[Policy], pfs: Sequence[Pf]) -> dict[str, Wanted]:
    """Return what the policies request for each PF, by its PCI address.

    Policies are applied from the lowest priority (the highest number) to the highest. A group of VFs is dropped if
    a group of a later policy has the same resource or shares a VF with it. If a group of an earlier policy remains,
    or the priorities are equal, the larger numVfs and mtu are used, else those of the later policy.
    Raises Error(INVALID_CONFIG) for a request that a PF cannot satisfy, or a policy that selects no PF.
    """
    found: dict[str, tuple[int, Wanted]] = {}
    for policy in sorted(policies, key=lambda policy: (-policy.spec.priority, policy.name)):
        chosen = [pf for pf in pfs if _selects(policy.spec.nic_selector, pf)]
        if not chosen:
            what = "no PF of this node is selected"
            raise Error(Kind.INVALID_CONFIG, what, where=policy.where, key="spec.nicSelector")
        priority = policy.spec.priority
        for pf in chosen:
            alone = _request(policy, pf)
            found[pf.address] = priority, _merge_into(found.get(pf.address), priority, alone)
    return {address: wanted for address, (_, wanted) in sorted(found.items())}


# Reading


def read(raw: Mapping[str, Any], where: str, *, on_skip: Callable[[str], None] = lambda _: None) -> Policy | None:
    """Return an object's policy; None, after a call of `on_skip`, if it creates no VFs.

    That is an object of another kind, or the empty policy that older releases of the operator create.
    Raises Error(INVALID_CONFIG) at `where`.
    """
    metadata = raw.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if raw["kind"] != KIND:
        on_skip(f"{where}: {raw['kind']} {name or ''}: skipped, it is not a {KIND}")
        return None
    if (version := raw.get("apiVersion")) != API_VERSION:
        raise Error(Kind.INVALID_CONFIG, where=where, key="apiVersion", expected=API_VERSION, got=version)
    if not isinstance(name, str) or not name:
        raise Error(Kind.INVALID_CONFIG, where=where, key="metadata.name", missing=True)
    spec = raw.get("spec")
    if name == _OPERATOR_POLICY and isinstance(spec, dict) and not spec.get("numVfs"):
        on_skip(f"{where}: policy {name}: skipped, it is the operator's own policy and requests nothing")
        return None
    with errors.within(where, Thing("policy", name)):
        found = structs.read(spec, Spec, where="spec")
        _check(found)
    return Policy(name=name, document=where, spec=found)


def _check(spec: Spec) -> None:
    if spec.device_type == "vfio-pci" and spec.is_rdma:
        raise _wrong("isRdma", "false with deviceType vfio-pci", "a VF on vfio-pci has no RDMA device")
    if spec.vdpa_type and (spec.device_type != "netdevice" or spec.e_switch_mode != "switchdev"):
        raise _wrong("vdpaType", "deviceType netdevice and eSwitchMode switchdev with it")
    if spec.e_switch_mode == "switchdev" and spec.link_type.lower() == "ib":
        raise _wrong("eSwitchMode", "linkType eth with switchdev")
    selector = spec.nic_selector
    if not (selector.vendor or selector.device_id or selector.root_devices or selector.pf_names):
        raise _wrong("nicSelector", "vendor, deviceID, rootDevices or pfNames")
    for index, entry in enumerate(selector.pf_names):
        key = f"nicSelector.pfNames[{index}]"
        try:
            numbers = vf_numbers(entry.partition("#")[2]) if "#" in entry else frozenset({0})
        except ValueError:
            raise _wrong(key, f"{_EXPECTED} after the #", got=entry) from None
        if max(numbers) >= spec.num_vfs:
            hint = f"numVfs is {spec.num_vfs}"
            raise _wrong(key, f"VF numbers from 0 to {spec.num_vfs - 1}", hint, got=entry)


def _wrong(key: str, expected: str, hint: str = "", *, got: object = NOTHING) -> Error:
    return Error(Kind.INVALID_CONFIG, key=f"spec.{key}", expected=expected, got=got, hint=hint)


def vf_numbers(text: str) -> frozenset[int]:
    """Return the numbers of a text such as "0,2-5". Raises ValueError."""
    found: set[int] = set()
    for part in text.split(","):
        match = _NUMBERS.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise ValueError(f"expected {_EXPECTED}, got {part!r}")
        found.update(range(first, last + 1))
    return frozenset(found)


# Merging


def _selects(selector: NicSelector, pf: Pf) -> bool:
    named = {entry.partition("#")[0] for entry in selector.pf_names}
    return (
        (not selector.vendor or selector.vendor.lower() == pf.vendor)
        and (not selector.device_id or selector.device_id.lower() == pf.device)
        and (not selector.root_devices or pf.address in selector.root_devices)
        and (not named or not named.isdisjoint(pf.names))
    )


def _request(policy: Policy, pf: Pf) -> Wanted:
    """Return what the policy alone requests, for a group of VFs: those given with the PF's name, or else all."""
    spec = policy.spec
    if spec.num_vfs > pf.total_vfs:
        expected = f"at most {pf.total_vfs}, what PF {pf.names[0] if pf.names else pf.address} offers"
        raise _wrong("numVfs", expected, got=spec.num_vfs).within(*policy.where)
    asked = {"eth": "ether", "ib": "infiniband"}.get(spec.link_type.lower())
    if asked and pf.link_type and asked != pf.link_type:
        expected = f"the type of PF {pf.address}, {pf.link_type}"
        raise _wrong("linkType", expected, got=spec.link_type).within(*policy.where)
    entries = [entry.partition("#") for entry in spec.nic_selector.pf_names]
    mine = [numbers for name, _, numbers in entries if name in pf.names]
    if not mine or "" in mine:
        numbers = frozenset(range(spec.num_vfs))
    else:
        numbers = frozenset().union(*map(vf_numbers, mine))
    group = Group(
        resource=spec.resource_name,
        numbers=numbers,
        device_type=spec.device_type,
        mtu=spec.mtu,
        vdpa=spec.vdpa_type,
    )
    return Wanted(
        num_vfs=spec.num_vfs,
        mtu=spec.mtu,
        eswitch=spec.e_switch_mode,
        externally_managed=spec.externally_managed,
        groups=(group,),
    )


def _merge_into(before: tuple[int, Wanted] | None, priority: int, alone: Wanted) -> Wanted:
    """Merge the request of one policy for a PF into the result of the policies before it."""
    if before is None:
        return alone
    earlier, wanted = before
    [group] = alone.groups
    kept = tuple(
        old for old in wanted.groups if old.resource != group.resource and old.numbers.isdisjoint(group.numbers)
    )
    if earlier != priority and not kept:
        return alone
    return replace(
        alone,
        num_vfs=max(wanted.num_vfs, alone.num_vfs),
        mtu=max(wanted.mtu, alone.mtu),
        eswitch=alone.eswitch or wanted.eswitch,
        groups=(*kept, group),
    )

"""Read and check node policies (SriovNetworkNodePolicy objects in YAML files), and merge their requests per PF."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from wirespeed import structs
from wirespeed.cni.errors import CniError, Code
from wirespeed.devices import pci
from wirespeed.kube import documents
from wirespeed.structs import Words, whole

API_VERSION = "sriovnetwork.openshift.io/v1"
KIND = "SriovNetworkNodePolicy"
LOWEST = 99
_OPERATORS = "default"  # the name of the policy that older SR-IOV operators create

_RESOURCE = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9])?")
_NUMBERS = re.compile(r"(\d{1,3})(?:-(\d{1,3}))?")
_Hex = Annotated[str, msgspec.Meta(pattern=whole("[0-9a-fA-F]{4}")), Words("four hex digits")]


class _Part(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, rename="camel"):
    """A part of a policy. An unknown key is an error."""


class NicSelector(_Part, frozen=True, kw_only=True):
    """Selects the PFs that match all keys given."""

    vendor: _Hex = ""  # four hex digits
    device_id: _Hex = msgspec.field(name="deviceID", default="")  # of the PF, four hex digits
    root_devices: list[str] = []  # PCI addresses of PFs
    pf_names: list[str] = []  # "ens1" or "ens1#0-3,7": a PF's name or alternative name, with or without VF numbers
    net_filter: str = ""  # rejected: for virtual platforms only


@structs.prepared
class Spec(_Part, frozen=True, kw_only=True):
    """The spec of a policy, with the keys of the SR-IOV network operator."""

    resource_name: str
    node_selector: dict[str, str] = {}
    nic_selector: NicSelector
    num_vfs: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    priority: Annotated[int, msgspec.Meta(ge=0, le=LOWEST)] = LOWEST  # 0 is the highest
    mtu: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0  # bytes; 0: unchanged; the PF's is never lowered
    device_type: Literal["netdevice", "vfio-pci"] = "netdevice"
    link_type: Literal["", "eth", "ETH", "ib", "IB"] = ""  # must match the PF, whose type is not changed
    e_switch_mode: Literal["", "legacy", "switchdev"] = ""
    externally_managed: bool = False  # change only the VFs, not the PF
    # For the operator's device plugin; they do not change the VFs.
    is_rdma: bool = False
    need_vhost_net: bool = False
    exclude_topology: bool = False
    vdpa_type: Literal["", "virtio", "vhost"] = ""  # type of the vdpa device to create for each VF
    bridge: Any = None  # rejected


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A policy; `where` is its file and document."""

    name: str
    where: str
    spec: Spec


@dataclass(frozen=True, kw_only=True)
class Group:
    """Some VFs of a PF, by their numbers, and their requested state.

    `mtu` 0 does not change it. `vdpa` is the type of their vdpa devices; "" means none, None does not change them.
    """

    resource: str
    policy: str
    numbers: frozenset[int]
    device_type: str
    mtu: int = 0
    vdpa: str | None = None


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The requested state of a PF. Values that no policy sets ("" or 0) are not changed."""

    num_vfs: int
    mtu: int = 0
    eswitch: str = ""
    externally_managed: bool = False
    groups: tuple[Group, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PfIdentity:
    """The attributes by which a policy selects a PF. `names` are its interface's name and alternative names."""

    address: str
    vendor: str
    device: str
    names: tuple[str, ...]
    link_type: str  # "ether", "infiniband" or ""
    total_vfs: int


def load(files: Sequence[Path], *, say: Callable[[str], None] = lambda _: None) -> list[Policy]:
    """Return the policies in the files; `say` is called with a message for each object that is skipped.

    Raises CniError(INVALID_CONFIG) that names file, document and key.
    """
    found: dict[str, Policy] = {}
    kinds: set[str] = set()
    for path in files:
        for where, document in documents.read(path):
            for raw in documents.objects(document, where):
                kinds.add(raw["kind"])
                policy = read(raw, where, say=say)
                if policy is None:
                    continue
                if policy.name in found:
                    raise _wrong(where, f"policy {policy.name} is there twice, also in {found[policy.name].where}")
                found[policy.name] = policy
    if KIND not in kinds:
        raise _wrong(", ".join(map(str, files)), f"expected objects of kind {KIND}, found none")
    return list(found.values())


def for_node(policies: Iterable[Policy], labels: Mapping[str, str]) -> list[Policy]:
    """Return the policies whose nodeSelector matches a node with these labels."""
    return [policy for policy in policies if policy.spec.node_selector.items() <= labels.items()]


def merge(policies: Iterable[Policy], pfs: Sequence[PfIdentity]) -> dict[str, Wanted]:
    """Return what the policies request for each PF, by its PCI address.

    Policies are applied from the lowest priority (the highest number) to the highest. A group of VFs is dropped if
    a later group has the same resource or shares a VF with it. If a group of an earlier policy remains, or the
    priorities are equal, the larger numVfs and mtu are used, else those of the later policy.
    Raises CniError(INVALID_CONFIG) for a request that a PF cannot satisfy, or a policy that selects no PF.
    """
    found: dict[str, tuple[int, Wanted]] = {}
    for policy in sorted(policies, key=lambda policy: (-policy.spec.priority, policy.name)):
        chosen = [pf for pf in pfs if _selects(policy.spec.nic_selector, pf)]
        if not chosen:
            raise _wrong(policy.where, f"policy {policy.name}: spec.nicSelector: no PF of this node is selected")
        for pf in chosen:
            group = _group(policy, pf)
            before = found.get(pf.address)
            priority = policy.spec.priority
            found[pf.address] = (priority, _over(before, priority, _alone(policy.spec, group), group))
    return {address: wanted for address, (_, wanted) in sorted(found.items())}


# Reading


def _wrong(where: str, text: str) -> CniError:
    return CniError(Code.INVALID_CONFIG, f"{where}: {text}")


def read(raw: Mapping[str, Any], where: str, *, say: Callable[[str], None] = lambda _: None) -> Policy | None:
    """Return an object's policy; None, after a call of `say`, if it creates no VFs.

    That is an object of another kind, or the empty policy that older releases of the operator create.
    Raises CniError(INVALID_CONFIG) that starts with `where`.
    """
    metadata = raw.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if raw["kind"] != KIND:
        say(f"{where}: {raw['kind']} {name or ''}: passed over, it is no {KIND}")
        return None
    if raw.get("apiVersion") != API_VERSION:
        raise _wrong(where, f'key "apiVersion": expected {API_VERSION}, got {raw.get("apiVersion")!r}')
    if not isinstance(name, str) or not name:
        raise _wrong(where, 'key "metadata.name" is missing')
    where = f"{where}: policy {name}"
    spec = raw.get("spec")
    if name == _OPERATORS and isinstance(spec, dict) and not spec.get("numVfs"):
        say(f"{where}: passed over, it is the operator's own and asks for nothing")
        return None
    return Policy(name=name, where=where, spec=_spec(spec, where))


def _spec(raw: object, where: str) -> Spec:
    try:
        spec = structs.convert(raw, Spec)
    except msgspec.ValidationError as error:
        raise CniError(Code.INVALID_CONFIG, structs.placed(error, f"{where}: spec", Spec, raw)) from error
    _check(spec, where)
    return spec


def _check(spec: Spec, where: str) -> None:
    if not _RESOURCE.fullmatch(spec.resource_name):
        raise _wrong(
            f"{where}: spec.resourceName",
            f"expected up to 63 letters, digits, - and _, the first and last no - or _, got {spec.resource_name!r}",
        )
    for key, value in {"nicSelector.netFilter": spec.nic_selector.net_filter, "bridge": spec.bridge}.items():
        if value:
            raise _wrong(f"{where}: spec.{key}", f"not supported: expected none, got {value!r}")
    if spec.device_type == "vfio-pci" and spec.is_rdma:
        raise _wrong(f"{where}: spec.isRdma", "expected false with deviceType vfio-pci: it has no RDMA device")
    if spec.vdpa_type and (spec.device_type != "netdevice" or spec.e_switch_mode != "switchdev"):
        raise _wrong(f"{where}: spec.vdpaType", "expected deviceType netdevice and eSwitchMode switchdev with it")
    if spec.e_switch_mode == "switchdev" and spec.link_type.lower() == "ib":
        raise _wrong(f"{where}: spec.eSwitchMode", "switchdev: expected linkType eth")
    _check_selector(spec, f"{where}: spec.nicSelector")


def _check_selector(spec: Spec, where: str) -> None:
    selector = spec.nic_selector
    if not (selector.vendor or selector.device_id or selector.root_devices or selector.pf_names):
        raise _wrong(where, "expected vendor, deviceID, rootDevices or pfNames")
    for address in selector.root_devices:
        if not pci.ADDRESS.fullmatch(address):
            raise _wrong(f"{where}.rootDevices", f"expected a PCI address, got {address!r}")
    for entry in selector.pf_names:
        try:
            numbers = vf_numbers(entry.partition("#")[2]) if "#" in entry else frozenset({0})
        except ValueError as error:
            raise _wrong(f"{where}.pfNames", f"{entry!r}: {error}") from None
        if max(numbers) >= spec.num_vfs:
            raise _wrong(
                f"{where}.pfNames",
                f"{entry!r}: expected VF numbers from 0 to {spec.num_vfs - 1} (numVfs is {spec.num_vfs})",
            )


def vf_numbers(text: str) -> frozenset[int]:
    """Return the numbers of a text such as "0,2-5". Raises ValueError."""
    found: set[int] = set()
    for part in text.split(","):
        match = _NUMBERS.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise ValueError(f"expected VF numbers like 0,2-5, got {part!r}")
        found.update(range(first, last + 1))
    return frozenset(found)


# Merging


def _selects(selector: NicSelector, pf: PfIdentity) -> bool:
    named = {entry.partition("#")[0] for entry in selector.pf_names}
    return (
        (not selector.vendor or selector.vendor.lower() == pf.vendor)
        and (not selector.device_id or selector.device_id.lower() == pf.device)
        and (not selector.root_devices or pf.address in selector.root_devices)
        and (not named or not named.isdisjoint(pf.names))
    )


def _group(policy: Policy, pf: PfIdentity) -> Group:
    """Return the VFs of the PF that the policy selects: those given with its name, or else all."""
    spec = policy.spec
    if spec.num_vfs > pf.total_vfs:
        raise _wrong(
            f"{policy.where}: spec.numVfs",
            f"expected at most {pf.total_vfs}, what PF {pf.names[0] if pf.names else pf.address} offers, "
            f"got {spec.num_vfs}",
        )
    asked = {"eth": "ether", "ib": "infiniband"}.get(spec.link_type.lower())
    if asked and pf.link_type and asked != pf.link_type:
        raise _wrong(f"{policy.where}: spec.linkType", f"PF {pf.address} is {pf.link_type}: expected its own type")
    entries = [entry.partition("#") for entry in spec.nic_selector.pf_names]
    mine = [numbers for name, _, numbers in entries if name in pf.names]
    if not mine or "" in mine:
        numbers = frozenset(range(spec.num_vfs))
    else:
        numbers = frozenset().union(*map(vf_numbers, mine))
    return Group(
        resource=spec.resource_name,
        policy=policy.name,
        numbers=numbers,
        device_type=spec.device_type,
        mtu=spec.mtu,
        vdpa=spec.vdpa_type,
    )


def _alone(spec: Spec, group: Group) -> Wanted:
    return Wanted(
        num_vfs=spec.num_vfs,
        mtu=spec.mtu,
        eswitch=spec.e_switch_mode,
        externally_managed=spec.externally_managed,
        groups=(group,),
    )


def _over(before: tuple[int, Wanted] | None, priority: int, alone: Wanted, group: Group) -> Wanted:
    """Merge what a policy alone would request of a PF into the result of the policies before it."""
    if before is None:
        return alone
    earlier, wanted = before
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

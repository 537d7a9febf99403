"""What the topology of a node consists of: PFs with their functions, and switches with their ports."""

from __future__ import annotations

import msgspec

from wirespeed import structs
from wirespeed.observe.attached import PodInterface
from wirespeed.observe.switches import Switch
from wirespeed.provision.listing import Settings


class Interface(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The network interface of a function, on the host or in the pod that has the function. `mtu` is in bytes."""

    name: str
    mac: str
    mtu: int
    up: bool
    carrier: bool
    in_pod: bool = False


class Function(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A VF or a scalable function (`kind`: "VF", "SF"), number `index` of its PF.

    `representor` is its interface on the PF's embedded switch, `bridge` the bridge that it is a
    port of for a pod. `vdpa` is its vdpa device, `pool` the resource of the device plugin that offers it. `pod` is
    the interface that has it; `user` is who uses it otherwise. Text is "" and `numa_node` -1 if there is none.
    """

    kind: str
    address: str
    index: int
    driver: str
    numa_node: int = -1
    iommu_group: str = ""
    interface: Interface | None = None
    settings: Settings = Settings()
    representor: str = ""
    bridge: str = ""
    rdma: tuple[str, ...] = ()
    vdpa: str = ""
    pool: str = ""
    pod: PodInterface | None = None
    user: str = ""


class Pf(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A PF. `speed` is in Mbit/s, 0 if unknown (no link); `eswitch` is "legacy" or "switchdev"."""

    address: str
    name: str
    driver: str
    model: str = ""
    numa_node: int = -1
    up: bool = False
    carrier: bool = False
    speed: int = 0
    mtu: int = 0
    link_type: str = ""
    eswitch: str = "legacy"
    total_vfs: int = 0
    rdma: tuple[str, ...] = ()
    functions: tuple[Function, ...] = ()


@structs.prepared
class Topology(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the node has, and who has it. `faults` are the messages about what could not be read."""

    node: str
    pfs: tuple[Pf, ...] = ()
    switches: tuple[Switch, ...] = ()
    faults: tuple[str, ...] = ()

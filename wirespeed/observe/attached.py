"""Which interface of which pod has which device or port, from the journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from wirespeed.node import Node
from wirespeed.plugins.meta.delegate import of_earlier_boot, recorded_delegate
from wirespeed.state.journal import Attachment, DeviceClaim


class PodInterface(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An interface of a pod. `namespace` and `pod` are "" if the runtime's call named no pod.

    `network` is the network's name, `resource` the resource of its devices ("" if the network names none).
    """

    namespace: str = ""
    pod: str = ""
    container: str = ""
    ifname: str = ""
    network: str = ""
    resource: str = ""

    @property
    def owner(self) -> str:
        """The pod as "namespace/name", or the beginning of the container's id if the pod is unknown."""
        return f"{self.namespace}/{self.pod}" if self.pod else f"container {self.container[:12]}"


@dataclass(frozen=True)
class Attached:
    """The claims by device, and the pods' interfaces: by device, and by container and interface."""

    claims: Mapping[str, DeviceClaim] = field(default_factory=dict)
    by_device: Mapping[str, PodInterface] = field(default_factory=dict)
    by_interface: Mapping[tuple[str, str], PodInterface] = field(default_factory=dict)

    def having(self, device: str) -> PodInterface | None:
        """Return the interface that has the device, None if no pod has it."""
        claim = self.claims.get(device)
        return self.by_device.get(device) if claim is None else self.of(claim)

    def of(self, claim: DeviceClaim) -> PodInterface:
        """Return the interface of a claim, also of one that another meta-plugin than wirespeed's asked for."""
        if known := self.by_interface.get((claim.container, claim.ifname)):
            return known
        namespace, _, pod = str(claim.record.get("pod", "")).rpartition("/")
        network = str(claim.record.get("network", ""))
        return PodInterface(
            namespace=namespace, pod=pod, container=claim.container, ifname=claim.ifname, network=network
        )


def read(node: Node) -> Attached:
    """Read the journal; a node without a journal has no attachments. Raises Error(IO) if it cannot be read."""
    journal = node.existing_journal()
    if journal is None:
        return Attached()
    claims = {claim.device: claim for claim in journal.claims()}
    by_device, by_interface = {}, {}
    for row in journal.attachments():
        # An attachment of an earlier boot no longer has its device.
        if "delegate" in row.record and not of_earlier_boot(row):
            device, interface = _interface(row)
            by_interface[row.container, row.ifname] = interface
            if device:
                by_device[device] = interface
    return Attached(claims, by_device, by_interface)


def _interface(row: Attachment) -> tuple[str, PodInterface]:
    """Return an attachment's device ("" without one) and its interface."""
    delegate = recorded_delegate(row)
    interface = PodInterface(
        namespace=delegate.args.get("K8S_POD_NAMESPACE", ""),
        pod=delegate.args.get("K8S_POD_NAME", ""),
        container=row.container,
        ifname=row.ifname,
        network=delegate.label,
        resource=delegate.resource,
    )
    return delegate.device, interface

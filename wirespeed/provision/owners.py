"""Devices that are in use: by attachments according to the journal, by pods according to the kubelet."""

from __future__ import annotations

from pathlib import Path

from wirespeed.cni.errors import CniError
from wirespeed.kernel.boot import is_of_earlier_boot
from wirespeed.node import NodeConfig


def owners(config: NodeConfig) -> dict[str, str]:
    """Return a description of each device's owner by PCI address. Raises CniError if journal or kubelet fail."""
    return {**_of_kubelet(Path(config.kubelet) / "pod-resources/kubelet.sock"), **_of_journal(Path(config.state))}


def _of_kubelet(socket: Path) -> dict[str, str]:
    if not socket.exists():
        return {}
    from wirespeed.kube.podresources import PodResources  # noqa: PLC0415 — gRPC, only with a kubelet

    service = PodResources(socket)
    try:
        return {each.device: f"the kubelet gave it to pod {each.namespace}/{each.pod}" for each in service.given()}
    except CniError:
        # The socket file is left from before the boot. The kubelet has not started yet, so no pod runs.
        if is_of_earlier_boot(socket):
            return {}
        raise
    finally:
        service.close()


def _of_journal(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    from wirespeed.state.journal import Journal  # noqa: PLC0415

    journal = Journal(path)
    try:
        return {
            claim.device: f"it is {claim.ifname} of container {claim.container[:12]}" for claim in journal.claims()
        }
    finally:
        journal.close()

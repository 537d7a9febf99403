"""Devices in use: by attachments, according to the journal, and by pods, according to the kubelet."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from wirespeed.errors import Error
from wirespeed.kernel.boot import is_of_earlier_boot
from wirespeed.node import NodeConfig


def owners(config: NodeConfig) -> dict[str, str]:
    """Return a description of each device's owner by PCI address. Raises Error if journal or kubelet fail."""
    return {**_of_kubelet(Path(config.kubelet) / "pod-resources/kubelet.sock"), **_of_journal(Path(config.state))}


def _of_kubelet(socket: Path) -> dict[str, str]:
    if not socket.exists():
        return {}
    from wirespeed.kube.podresources import PodResources  # noqa: PLC0415 — gRPC, only with a kubelet

    try:
        with closing(PodResources(socket)) as service:
            given = service.allocations()
    except Error:
        # The socket file is left from before the boot. The kubelet has not started yet, so no pod runs.
        if is_of_earlier_boot(socket):
            return {}
        raise
    return {each.device: f"the kubelet gave it to pod {each.namespace}/{each.pod}" for each in given}


def _of_journal(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    from wirespeed.state.journal import Journal  # noqa: PLC0415

    with closing(Journal(path)) as journal:
        claims = journal.claims()
    return {claim.device: f"it is {claim.ifname} of container {claim.container[:12]}" for claim in claims}

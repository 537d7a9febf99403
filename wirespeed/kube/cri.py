"""Listing the sandboxes of a container runtime (CRI v1, RuntimeService)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import grpc

from wirespeed.cni.errors import CniError, Code
from wirespeed.kube import rpc
from wirespeed.kube.proto import cri_pb2 as pb

_TIMEOUT = 10.0  # seconds; runtimes answer from memory
_OPTIONS = (
    ("grpc.max_receive_message_length", 16 << 20),  # as in the kubelet: the answer has all pods' annotations
    ("grpc.use_local_subchannel_pool", 1),  # a new channel connects at once, despite the backoff of an old one
)
_SERVICE = pb.DESCRIPTOR.services_by_name["RuntimeService"]


def sandboxes(sockets: Sequence[Path]) -> set[str] | None:
    """Return the ids of the sandboxes of all runtimes behind these sockets; None if no runtime is found.

    Sandboxes that are stopped but not yet removed are included. Those being created are not: containerd lists a
    sandbox only after its networks exist and its first process runs. A socket that does not exist, or whose server
    does not implement CRI v1 and so cannot be a kubelet's runtime, is skipped.

    Raises CniError(TRY_AGAIN_LATER) if one of them does not answer, as its sandboxes are then unknown.
    """
    listed = [_listed(socket) for socket in sockets if socket.exists()]
    found = [ids for ids in listed if ids is not None]
    return set().union(*found) if found else None


def _listed(socket: Path) -> set[str] | None:
    channel = rpc.channel(str(socket), options=_OPTIONS)
    try:
        answer = rpc.Client(channel, _SERVICE).ListPodSandbox(pb.ListPodSandboxRequest(), timeout=_TIMEOUT)
        return {sandbox.id for sandbox in answer.items}
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return None
        reason = f"{error.code().name}: {error.details()}"
        raise CniError(
            Code.TRY_AGAIN_LATER, f"sandboxes: the runtime does not answer on {socket}: {reason}"
        ) from error
    finally:
        channel.close()

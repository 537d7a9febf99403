"""Which sandboxes a container runtime has (CRI v1, RuntimeService)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import grpc

from wirespeed.cni.errors import CniError, Code
from wirespeed.kube import rpc
from wirespeed.kube.proto import cri_pb2 as pb

_TIMEOUT = 10.0  # seconds; runtimes answer from memory
_OPTIONS = (
    ("grpc.max_receive_message_length", 16 << 20),  # as the kubelet: annotations of every pod are in the answer
    ("grpc.use_local_subchannel_pool", 1),  # a new channel connects at once, whatever an old one waits for
)
_SERVICE = pb.DESCRIPTOR.services_by_name["RuntimeService"]


def sandboxes(sockets: Sequence[Path]) -> set[str] | None:
    """The ids of the sandboxes of all the runtimes that have one of the sockets, None where none has.

    A sandbox that is stopped and not removed yet is one of them. One that is being made is not: containerd notes it
    last, after its networks are made and its first process runs. A socket whose owner speaks no CRI v1 counts for
    none: it is no kubelet's runtime.

    Raises CniError(TRY_AGAIN_LATER) where one of them does not answer: its sandboxes are not known then.
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

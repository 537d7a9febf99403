"""The version and the sandboxes of a container runtime (CRI v1, RuntimeService)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import grpc

from wirespeed.kube import rpc
from wirespeed.kube.proto import cri_pb2 as pb

_TIMEOUT = 10.0  # seconds; runtimes answer from memory
_SERVICE = pb.DESCRIPTOR.services_by_name["RuntimeService"]


class Version(NamedTuple):
    """What a runtime is: "containerd" or "cri-o", and "v2.1.4" or "1.33.2"."""

    name: str
    version: str


def version(socket: Path, *, timeout: float = _TIMEOUT) -> Version:
    """Return what the runtime behind a socket is. Raises Error(TRY_AGAIN) if it does not answer."""
    with rpc.channel(str(socket), options=rpc.OPTIONS) as channel:
        try:
            answer = rpc.Client(channel, _SERVICE).Version(pb.VersionRequest(), timeout=timeout)
        except grpc.RpcError as error:
            raise rpc.failed(f"the runtime does not answer on {socket}", error, where="version") from error
    return Version(answer.runtime_name, answer.runtime_version)


def sandboxes(sockets: Sequence[Path]) -> set[str] | None:
    """Return the ids of the sandboxes of all runtimes behind these sockets; None if no runtime is found.

    Sandboxes that are stopped but not yet removed are included. Those being created are not: containerd lists a
    sandbox only after its networks exist and its first process runs. A socket that does not exist, or whose server
    does not implement CRI v1 and so cannot be a kubelet's runtime, is skipped.

    Raises Error(TRY_AGAIN) if one of them does not answer, as its sandboxes are then unknown.
    """
    listed = [_list_sandboxes(socket) for socket in sockets if socket.exists()]
    found = [ids for ids in listed if ids is not None]
    return set().union(*found) if found else None


def _list_sandboxes(socket: Path) -> set[str] | None:
    with rpc.channel(str(socket), options=rpc.OPTIONS) as channel:
        try:
            answer = rpc.Client(channel, _SERVICE).ListPodSandbox(pb.ListPodSandboxRequest(), timeout=_TIMEOUT)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return None
            raise rpc.failed(f"the runtime does not answer on {socket}", error, where="sandboxes") from error
    return {sandbox.id for sandbox in answer.items}

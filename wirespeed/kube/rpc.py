"""gRPC over unix sockets for the kubelet's services: clients and servers, created from service descriptors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import ServiceDescriptor

from wirespeed.errors import Error, Kind


class Client:
    """A service's methods as callables that raise grpc.RpcError: `client.Register(request, timeout=5)`."""

    def __init__(self, channel: grpc.Channel, service: ServiceDescriptor) -> None:
        for method in service.methods:
            kind = channel.unary_stream if method.server_streaming else channel.unary_unary
            call = kind(
                f"/{service.full_name}/{method.name}",
                request_serializer=message_factory.GetMessageClass(method.input_type).SerializeToString,
                response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
            )
            setattr(self, method.name, call)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        raise AttributeError(f"the service has no method {name}")


# For the kubelet and runtimes.
OPTIONS = (
    ("grpc.max_receive_message_length", 16 << 20),  # as in the kubelet: an answer may be about all pods
    ("grpc.use_local_subchannel_pool", 1),  # a new channel connects at once, despite the backoff of an old one
)


def channel(socket: str, *, options: Sequence[tuple[str, Any]] = ()) -> grpc.Channel:
    """Create a channel to a unix socket; the authority is "localhost", as in the kubelet's own clients."""
    return grpc.insecure_channel(f"unix:{socket}", options=[("grpc.default_authority", "localhost"), *options])


def failed(what: str, error: grpc.RpcError, *, where: str) -> Error:
    """Return Error(TRY_AGAIN) for a failed call: what happened, and gRPC's reason."""
    return Error(Kind.TRY_AGAIN, f"{what}: {error.code().name}: {error.details()}", where=where)


def handler(service: ServiceDescriptor, implementation: object) -> grpc.GenericRpcHandler:
    """Serve `service` by the methods of the same names of `implementation`: (request, context) -> response."""
    methods: dict[str, grpc.RpcMethodHandler] = {}
    for method in service.methods:
        kind = (
            grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler
        )
        methods[method.name] = kind(
            getattr(implementation, method.name),
            request_deserializer=message_factory.GetMessageClass(method.input_type).FromString,
            response_serializer=message_factory.GetMessageClass(method.output_type).SerializeToString,
        )
    return grpc.method_handlers_generic_handler(service.full_name, methods)

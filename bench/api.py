"""The API server of the benchmarks: the tests' stand-in, extended for peers that send protobuf."""

from __future__ import annotations

from tests import apiserver


def take_puts() -> None:
    """Make the stand-in accept a peer's PUT of a pod's status. Its protobuf body is ignored."""

    def put(handler: apiserver._Handler) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        namespace, name = handler.path.split("?")[0].split("/")[4:7:2]
        handler._fault = handler.server.api.arrived(apiserver.Request("PUT", handler.path, {}, ""))
        handler._send(200, handler.server.api.find(("pods", namespace, name)))

    apiserver._Handler.do_PUT = put  # type: ignore[attr-defined]

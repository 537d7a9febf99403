"""The API server that all systems ask: the tests' stand-in, which answers a peer's protobuf as well."""

from __future__ import annotations

from tests import apiserver


def take_puts() -> None:
    """Have the stand-in answer a peer's PUT of a pod's status, which is protobuf, as if it were done."""

    def put(handler: apiserver._Handler) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        namespace, name = handler.path.split("?")[0].split("/")[4:7:2]
        handler._fault = handler.server.api.arrived(apiserver.Request("PUT", handler.path, {}, ""))
        handler._send(200, handler.server.api.find(("pods", namespace, name)))

    apiserver._Handler.do_PUT = put  # type: ignore[attr-defined]

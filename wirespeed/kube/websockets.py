"""WebSockets at the API server, for the subresources of pods that are connections: portforward and exec.

Their protocol is v4.channel.k8s.io: the first byte of a message is its channel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import responses
from typing import Any

import msgspec
from kubernetes.stream import ws_client
from websocket import WebSocket, WebSocketBadStatusException, WebSocketException

from wirespeed.kube.api import Api, RefusedError, UnreachableError
from wirespeed.kube.credentials import Loaded, authorization

_PROTOCOL = "v4.channel.k8s.io"
_CONNECT = 10.0  # seconds to connect, and for each answer until the connection is open
_CLOSE = 1.0  # seconds to wait for the other side when the connection is closed


@contextmanager
def opened(api: Api, path: str) -> Iterator[Any]:
    """Yield a WebSocket at a path with its query. Raises RefusedError, UnreachableError."""
    with lost():
        websocket = _open(api.loaded(), path)
    try:
        yield websocket
    finally:
        with suppress(WebSocketException, OSError):  # the other side has closed it
            websocket.close(timeout=_CLOSE)


def _open(loaded: Loaded, path: str) -> Any:
    """Open a WebSocket at the API server, with its TLS context: the library's own is stricter than kubectl's."""
    configuration = loaded.configuration
    tls = {"context": loaded.tls, "server_hostname": configuration.tls_server_name}
    header = authorization(configuration)
    options: dict[str, Any] = {
        "header": [f"Authorization: {header}"] if header else [],
        "subprotocols": [_PROTOCOL],
        "suppress_origin": True,
    }
    url = ws_client.get_websocket_url(configuration.host + path)
    if configuration.proxy:
        options = ws_client.websocket_proxycare(options, configuration, url, {})
    websocket: Any = WebSocket(sslopt=tls, skip_utf8_validation=True)
    websocket.settimeout(_CONNECT)
    websocket.connect(url, **options)
    return websocket


@contextmanager
def lost() -> Iterator[None]:
    """Raise errors of the WebSocket as those of other requests to the API server."""
    try:
        yield
    except WebSocketBadStatusException as error:
        raise RefusedError(error.status_code, _message(error)) from error
    except (WebSocketException, OSError) as error:
        raise UnreachableError(" ".join(str(error).split()) or type(error).__name__) from error


def _message(error: WebSocketBadStatusException) -> str:
    """Return the message of the Status object with which the API server refuses."""
    try:
        return " ".join(str(msgspec.json.decode(error.resp_body or b"")["message"]).split())
    except (msgspec.DecodeError, LookupError, TypeError):
        return responses.get(error.status_code, "")

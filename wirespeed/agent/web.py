"""The node's web page and its API: GET /v1/<view>, for callers who may see what a view shows."""

from __future__ import annotations

import ipaddress
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import parse_qsl

import msgspec

import wirespeed
from wirespeed import structs
from wirespeed.agent import views
from wirespeed.agent.address import Address, parse_address
from wirespeed.agent.webserver import Answer, Certificate, Request, problem, serving
from wirespeed.errors import Error, Kind, about_keys
from wirespeed.node import Node, WebConfig

log = logging.getLogger(__name__)

_PAGE = Path(__file__).with_name("page")
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
POD = re.compile(
    r"(?P<namespace>[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)/(?P<name>[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?)"
)
_AT_ONCE = 2  # views that are computed at the same time; the others wait, and CNI calls keep the processor
_STATUS = {Kind.INVALID_REQUEST: 400, Kind.NOT_ATTACHED: 404, Kind.TRY_AGAIN: 503, Kind.UNAVAILABLE: 503}

# Called with a request, its view ("" for /v1) and the view's arguments, which are checked: returns the answer to a
# caller who may not see it. Raises Error if that cannot be known.
Guard = Callable[[Request, str, Mapping[str, str]], Answer | None]


@structs.prepared
class Index(msgspec.Struct, frozen=True, kw_only=True):
    """What GET /v1 answers: the node, the version of its agent, and the names of the views."""

    node: str
    version: str
    views: tuple[str, ...]


@contextmanager
def running(node: Node) -> Iterator[None]:
    """Serve the page while the body runs. Raises Error(INVALID_CONFIG), Error(IO)."""
    config = node.config.web
    address = check(config, manifests=node.config.cluster.manifests)
    certificate = Certificate(config) if config.tls_certificate else None
    with ExitStack() as parts:
        refuse: Guard = refuse_sites
        if not config.anonymous:
            from wirespeed.agent.webusers import users  # noqa: PLC0415 — imports the client library

            refuse = parts.enter_context(users(node))
        served = parts.enter_context(serving(address, certificate, _Web(node, refuse).answer))
        scheme = "http" if certificate is None else "https"
        log.info("the web page is served", extra={"fields": {"address": f"{scheme}://{served}"}})
        yield


def check(config: WebConfig, *, manifests: str) -> Address:
    """Return the address to serve at. Raises Error(INVALID_CONFIG) for what would show the node to everybody."""
    address = parse_address(config.address, key="web.address", example="127.0.0.1:9809")
    try:
        loopback = ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        raise _wrong("web.address", expected="an IP address, not a name", got=address.host) from None
    if bool(config.tls_certificate) != bool(config.tls_key):
        key = "web.tlsKey" if config.tls_certificate else "web.tlsCertificate"
        raise _wrong(key, what="expected it beside the other one of web.tlsCertificate and web.tlsKey")
    if not loopback and not config.tls_certificate:
        raise _wrong(
            "web.tlsCertificate",
            what=f"tokens would be sent unencrypted to {address}",
            expected="a certificate and a key, or a loopback address in web.address",
        )
    if not loopback and config.anonymous:
        raise _wrong("web.anonymous", what=f"only on a loopback address, not on {address}")
    if manifests and not config.anonymous:
        what = "there is no API server to check tokens, as cluster.manifests is set"
        raise _wrong("web.anonymous", what=what, expected="true")
    return address


def _wrong(key: str, what: str = "", **more: object) -> Error:
    about = about_keys("web.address", "web.tlsCertificate", "web.tlsKey", "cluster.manifests")
    return Error(Kind.INVALID_CONFIG, what, where="configuration", key=key, about=about, **more)  # type: ignore[arg-type]


class _Web:
    """Answers requests, for any thread."""

    def __init__(self, node: Node, refuse: Guard) -> None:
        self._node, self._refuse = node, refuse
        self._turns = threading.BoundedSemaphore(_AT_ONCE)
        # The page itself needs no token: it is the same on every node.
        self._files = {
            f"/{each.name}": Answer(200, each.read_bytes(), _KINDS[each.suffix]) for each in _PAGE.iterdir()
        }
        self._files["/"] = self._files.pop("/index.html")

    def answer(self, request: Request) -> Answer:
        path, _, query = request.path.partition("?")
        if path in self._files:
            return self._files[path]
        name = path.removeprefix("/v1/") if path != "/v1" else ""
        if name and (name == path or name not in views.VIEWS):
            return problem(404, f"there is no {path}; /v1 lists the views")
        try:
            arguments = _arguments(query)
            return self._refuse(request, name, arguments) or Answer(200, self._view(name, arguments))
        except Error as error:
            return problem(_STATUS.get(error.kind, 500), error.msg)
        except Exception:  # of a view: the page shows the others all the same
            log.exception("web: %s", path)
            return problem(500, "internal error: see the agent's log")

    def _view(self, name: str, arguments: Mapping[str, str]) -> bytes:
        if not name:
            return msgspec.json.encode(
                Index(node=self._node.name, version=wirespeed.__version__, views=tuple(views.VIEWS))
            )
        with self._turns:
            return msgspec.json.encode(views.view(self._node, name, arguments))


def _arguments(query: str) -> dict[str, str]:
    """Return the arguments of a view. Raises Error(INVALID_REQUEST)."""
    try:
        pairs = parse_qsl(
            query, keep_blank_values=True, strict_parsing=bool(query), errors="strict", max_num_fields=20
        )
    except ValueError as error:
        raise Error(Kind.INVALID_REQUEST, f"query: {error}", expected="name=value&name=value") from error
    arguments = dict(pairs)
    if len(arguments) < len(pairs):
        raise Error(Kind.INVALID_REQUEST, "query: an argument is given twice")
    if "pod" in arguments and not POD.fullmatch(arguments["pod"]):
        raise Error(Kind.INVALID_REQUEST, key="pod", expected="namespace/name", got=arguments["pod"])
    return arguments


def refuse_sites(request: Request, view: str, arguments: Mapping[str, str]) -> Answer | None:  # noqa: ARG001
    """Answer everybody who reaches the loopback address, but no web site in the browser of one who does.

    A site may point a name of its own to 127.0.0.1, and read what is there (DNS rebinding).
    """
    host = re.sub(r":\d+$", "", request.host)
    if host in {"localhost", "[::1]"} or re.fullmatch(r"127(\.\d{1,3}){3}", host):
        return None
    return problem(421, "expected the host localhost, 127.0.0.1 or [::1]")

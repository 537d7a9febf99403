"""The agent's HTTP API: who may see which view, over TLS or on a loopback address, and what is refused."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.apiserver import ApiServer
from tests.certificates import HAND_MADE, Authority
from tests.node.calling import PROBE_CONFIG, Call
from tests.node.conftest import PATIENCE, Agent
from tests.reviews import ACCESS_REVIEWS, TOKEN_REVIEWS

StartAgent = Callable[..., Agent]
ON_NODE = ("nodes", "", "n1")


class Response(NamedTuple):
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)


def served(agent: Agent) -> tuple[str, str, int]:
    """The scheme, address and port of the agent's page, from its log. Call it once per agent."""
    address = agent.wait_log("the web page is served").rpartition("address=")[2].strip().strip('"')
    scheme, _, rest = address.partition("://")
    host, _, port = rest.rpartition(":")
    return scheme, host.strip("[]"), int(port)


class Web:
    """A client of the page of an agent."""

    def __init__(self, agent: Agent, ca: Path | None = None) -> None:
        self.scheme, self.host, self.port = served(agent)
        assert (self.scheme == "https") == (ca is not None)
        self._tls = ssl.create_default_context(cafile=str(ca)) if ca else None
        if self._tls is not None:
            self._tls.verify_flags &= ~ssl.VERIFY_X509_STRICT  # a default of Python 3.13: see wirespeed.kube.tls

    def open(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        return http.client.HTTPSConnection(self.host, self.port, timeout=PATIENCE, context=self._tls)

    def ask(self, path: str, token: str = "", method: str = "GET", **headers: str) -> Response:
        with contextlib.closing(self.open()) as connection:
            sent = {"Authorization": f"Bearer {token}"} if token else {}
            connection.request(method, path, headers={**sent, **headers})
            answer = connection.getresponse()
            return Response(answer.status, dict(answer.getheaders()), answer.read().decode())

    def plain(self) -> socket.socket:
        """A connection without TLS."""
        return socket.create_connection((self.host, self.port), timeout=PATIENCE)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(tmp_path) as server:
        yield server


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    (tmp_path / "web-tls").mkdir()
    return Authority(tmp_path / "web-tls", HAND_MADE)


@pytest.fixture
def web(agent_process: StartAgent, api: ApiServer, authority: Authority) -> Web:
    """The page of node n1, over TLS, with an API server that knows its users."""
    certificate, key, _ = authority.issue("web", "serverAuth")
    agent = agent_process(
        web={"address": "127.0.0.1:0", "tlsCertificate": str(certificate), "tlsKey": str(key)},
        cluster={"kubeconfig": str(api.kubeconfig())},
        nodeName="n1",
    )
    return Web(agent, authority.certificate)


@pytest.fixture
def anonymous(agent_process: StartAgent) -> Callable[..., Web]:
    """Start an agent that answers everybody on a loopback address."""

    def start(**config: Any) -> Web:
        return Web(agent_process(web={"address": "127.0.0.1:0", "anonymous": True}, nodeName="n1", **config))

    return start


# Who may see what


def test_page_needs_no_token_and_its_views_do(web: Web) -> None:
    page = web.ask("/")
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    for path in ("/v1", "/v1/status", "/v1/why?pod=default/web"):
        refused = web.ask(path)
        assert refused.status == 401
        assert refused.headers["WWW-Authenticate"] == 'Bearer realm="wirespeed"'
        assert refused.body == {"error": "expected a token: Authorization: Bearer <token>"}


def test_who_may_get_the_node_sees_its_status(web: Web, api: ApiServer) -> None:
    token = api.reviews.token(api.reviews.user("ann", [ON_NODE]))
    assert web.ask("/v1", token).body["node"] == "n1"
    assert "status" in web.ask("/v1", token).body["views"]
    answer = web.ask("/v1/status", token)
    assert (answer.status, answer.body["node"]) == (200, "n1")


def test_who_may_get_another_node_is_refused(web: Web, api: ApiServer) -> None:
    token = api.reviews.token(api.reviews.user("bob", [("nodes", "", "n2"), ("pods", "default", "web")]))
    assert web.ask("/v1/status", token)[::2] == (403, '{"error":"user bob may not get nodes n1"}')


def test_who_may_get_a_pod_sees_what_happened_to_it_and_not_to_others(web: Web, api: ApiServer) -> None:
    token = api.reviews.token(api.reviews.user("eve", [("pods", "default", "web")]))
    api.put({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {"containers": []}})
    assert web.ask("/v1/why?pod=default/web", token).body["pod"] == "default/web"
    other = web.ask("/v1/why?pod=kube-system/dns", token)
    assert (other.status, other.body) == (403, {"error": "user eve may not get pods kube-system/dns"})
    assert web.ask("/v1/why", token).status == 403  # no pod at all


def test_unknown_token_is_refused_and_asked_for_once(web: Web, api: ApiServer) -> None:
    for _ in range(3):
        refused = web.ask("/v1/status", "stolen")
        assert (refused.status, refused.body["error"]) == (401, "the API server does not accept this token")
    assert api.counts()[f"POST {TOKEN_REVIEWS}"] == 2  # for each audience
    assert api.counts()[f"POST {ACCESS_REVIEWS}"] == 0


def test_without_an_api_server_nobody_is_let_in(web: Web, api: ApiServer) -> None:
    token = api.reviews.token(api.reviews.user("ann", [ON_NODE]))
    api.stop()
    answer = web.ask("/v1/status", token)
    assert answer.status == 503
    assert answer.body["error"].startswith("the API server does not answer a TokenReview: ")


def test_tokens_are_not_logged(agent_process: StartAgent, api: ApiServer) -> None:
    agent = agent_process(
        web={"address": "127.0.0.1:0"}, cluster={"kubeconfig": str(api.kubeconfig())}, nodeName="n1"
    )
    web, token = Web(agent), api.reviews.token(api.reviews.user("ann", [ON_NODE]))
    for sent in (token, "stolen-token", f"{token} second-part"):
        web.ask("/v1/status", sent)
    api.fault(part="reviews", status=403)
    web.ask("/v1/status", "other-token")
    agent.stop()
    agent.reader.join(PATIENCE)
    log = "".join(agent.log)
    assert "GET /v1/status" in log
    for secret in (token, "stolen-token", "second-part", "other-token"):
        assert secret not in log


# What is answered


def test_views_tell_apart_what_is_unknown_and_what_is_wrong(anonymous: Callable[..., Web]) -> None:
    web = anonymous()
    cases = {
        "/v1/nothing": 404,
        "/etc/passwd": 404,
        "/../agent.yaml": 404,
        "/v1/why": 400,
        "/v1/why?pod=web": 400,
        "/v1/why?pod=../../x/y": 400,
        "/v1/why?pod=a/b&pod=c/d": 400,
        "/v1/why?pod": 400,
        "/v1/status?colour=red": 400,
        "/v1/why?pod=default/nobody": 404,
    }
    for path, status in cases.items():
        answer = web.ask(path)
        assert (answer.status, list(answer.body)) == (status, ["error"]), path
    assert web.ask("/v1/why?pod=web").body["error"] == "key \"pod\": expected namespace/name, got 'web'"


def test_every_answer_has_the_headers_that_protect_a_browser(anonymous: Callable[..., Web]) -> None:
    web = anonymous()
    for path, method in (
        ("/", "GET"),
        ("/app.js", "GET"),
        ("/v1/status", "GET"),
        ("/v1/none", "GET"),
        ("/", "POST"),
    ):
        headers = web.ask(path, method=method).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'self'; ")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in headers


def test_head_has_the_headers_alone_and_other_methods_are_refused(anonymous: Callable[..., Web]) -> None:
    web = anonymous()
    head = web.ask("/", method="HEAD")
    assert (head.status, head.text) == (200, "")
    assert int(head.headers["Content-Length"]) == len(web.ask("/").text.encode())
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        refused = web.ask("/v1/status", method=method)
        assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD")
    assert web.ask("/v1/status", **{"Content-Length": "0"}).status == 400


def test_connection_serves_one_request_after_another(anonymous: Callable[..., Web]) -> None:
    with contextlib.closing(anonymous().open()) as connection:
        connection.connect()
        used = connection.sock
        for path in ("/v1/status", "/v1/nothing", "/", "/v1/status"):
            connection.request("GET", path)
            connection.getresponse().read()
            assert connection.sock is used


# What is not served


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "10.0.0.1:9809", "localhost.evil.example", ""])
def test_web_site_does_not_reach_an_anonymous_page_by_a_name_of_its_own(
    anonymous: Callable[..., Web], host: str
) -> None:
    web = anonymous()
    assert web.ask("/v1/status", Host=host).status == 421
    for own in (f"127.0.0.1:{web.port}", f"localhost:{web.port}", "[::1]:1", "localhost"):
        assert web.ask("/v1/status", Host=own).status == 200


WRONG = {
    "a name": ({"address": "localhost:9809"}, "expected an IP address, not a name"),
    "no port": ({"address": "127.0.0.1"}, "expected address:port, like 127.0.0.1:9809"),
    "no TLS": ({"address": "0.0.0.0:0"}, "tokens would be sent unencrypted to 0.0.0.0:0"),
    "no TLS, IPv6": ({"address": "[::]:0"}, "tokens would be sent unencrypted to [::]:0"),
    "half": ({"address": "127.0.0.1:0", "tlsKey": "/x"}, "web.tlsCertificate"),
    "no file": ({"address": "127.0.0.1:0", "tlsKey": "/x", "tlsCertificate": "/y"}, "/y and /x: No such file"),
    "no API server": ({"address": "127.0.0.1:0"}, "there is no API server to check tokens"),
}


@pytest.mark.parametrize(("config", "text"), WRONG.values(), ids=WRONG)
def test_configuration_that_would_show_the_node_to_everybody_ends_the_agent(
    agent_process: StartAgent, config: dict[str, str], text: str
) -> None:
    agent = agent_process(web={"anonymous": "tlsKey" in config and "/y" in config.values(), **config}, ready=False)
    assert agent.process.wait(PATIENCE) == 1
    assert text in agent.wait_log("ERROR", "web.")


def test_anonymous_page_is_refused_on_other_addresses(agent_process: StartAgent, authority: Authority) -> None:
    certificate, key, _ = authority.issue("web", "serverAuth")
    config = {"address": "0.0.0.0:0", "anonymous": True, "tlsCertificate": str(certificate), "tlsKey": str(key)}
    agent = agent_process(web=config, ready=False)
    assert agent.process.wait(PATIENCE) == 1
    assert "only on a loopback address, not on 0.0.0.0:0" in agent.wait_log("ERROR", "web.anonymous")


def test_agent_without_a_page_imports_nothing_of_it(agent_process: StartAgent) -> None:
    agent = agent_process(forked=False, environ={"PYTHONVERBOSE": "1"})
    agent.stop()
    agent.reader.join(PATIENCE)
    log = "".join(agent.log)
    assert "wirespeed.agent.daemon" in log
    assert "wirespeed.agent.web" not in log
    assert "http.server" not in log


# Clients that keep others waiting


def test_slow_clients_keep_nobody_waiting(web: Web, api: ApiServer) -> None:
    token = api.reviews.token(api.reviews.user("ann", [ON_NODE]))
    with contextlib.ExitStack() as slow:
        for _ in range(10):
            slow.enter_context(web.plain())  # it never opens TLS
        for _ in range(10):
            connection = slow.enter_context(contextlib.closing(web.open()))
            connection.connect()
            connection.sock.sendall(b"GET /v1/status HTTP/1.1\r\nAuthoriz")
        assert web.ask("/v1/status", token).status == 200


def test_request_that_does_not_come_to_its_end_is_ended(web: Web) -> None:
    with web.plain() as silent:
        assert silent.recv(1) == b""  # after 10 seconds, far less than PATIENCE


def test_connections_are_bounded_and_calls_are_served_all_the_same(agent_process: StartAgent, shim: Path) -> None:
    agent = agent_process(web={"address": "127.0.0.1:0", "anonymous": True})
    web = Web(agent)
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(web.plain()) for _ in range(40)]
        for _ in range(8):
            agent.wait_log("too many connections")
        assert sockets[-1].recv(1) == b""
        assert Call(shim, agent.environ("STATUS"), PROBE_CONFIG).answer().status == 0
    assert web.ask("/").status == 200


def test_request_without_end_is_cut_short(anonymous: Callable[..., Web]) -> None:
    web = anonymous()
    for head in (b"GET /" + b"a" * 70_000, b"GET / HTTP/1.1\r\n" + b"X-Filler: aaaaaaaaaaaaaaaaaaaaa\r\n" * 2_000):
        with web.plain() as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(head)
            with contextlib.suppress(ConnectionError):
                assert b" 200 " not in connection.recv(100)
    assert web.ask("/").status == 200


def test_agent_ends_while_clients_are_connected(agent_process: StartAgent) -> None:
    agent = agent_process(web={"address": "127.0.0.1:0", "anonymous": True})
    web = Web(agent)
    with contextlib.closing(web.open()) as idle, web.plain() as silent:
        idle.request("GET", "/")
        idle.getresponse().read()
        silent.sendall(b"GET")
        assert agent.stop() == 0


# TLS


def test_certificate_is_read_again_when_it_changes_and_a_broken_one_is_not(
    agent_process: StartAgent, authority: Authority
) -> None:
    certificate, key, first = authority.issue("web", "serverAuth")
    config = {"address": "127.0.0.1:0", "anonymous": True, "tlsCertificate": str(certificate), "tlsKey": str(key)}
    agent = agent_process(web=config)
    web = Web(agent, authority.certificate)
    assert _serial(web) == first
    *_, second = authority.issue("web", "serverAuth")
    assert _serial(web) == second
    key.write_text("nothing")
    assert _serial(web) == second
    agent.wait_log("the previous certificate is still used")


def _serial(web: Web) -> str:
    with contextlib.closing(web.open()) as connection:
        connection.connect()
        assert isinstance(connection.sock, ssl.SSLSocket)
        certificate: Any = connection.sock.getpeercert()
        return str(certificate["serialNumber"])

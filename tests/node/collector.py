"""An OpenTelemetry collector that receives traces over HTTP, and refuses what the protocol does not allow."""

from __future__ import annotations

import base64
import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import grpc
from google.protobuf import json_format

from tests.node.conftest import PATIENCE
from wirespeed.kernel.netns import inside, opened

otlp: Any = grpc.protos("tests/node/otlp.proto")

_IDS = {"traceId": 32, "spanId": 16, "parentSpanId": 16}  # hexadecimal digits


class Span(NamedTuple):
    """A received span; times are in nanoseconds since 1970."""

    trace: str
    id: str
    parent: str
    name: str
    kind: int
    began: int
    ended: int
    attributes: dict[str, str]
    code: int
    message: str


class Export(NamedTuple):
    """A received request."""

    resource: dict[str, str]
    spans: list[Span]

    @property
    def root(self) -> Span:
        (root,) = [span for span in self.spans if not span.parent]
        return root


def decode(body: bytes) -> Export:
    """Decode a request as the protocol demands: unknown names, wrong types and ids of a wrong length are errors."""
    message = json_format.ParseDict(_ids_as_bytes(json.loads(body)), otlp.ExportTraceServiceRequest())
    (spans,) = message.resource_spans
    (scope,) = spans.scope_spans
    assert scope.scope.name == "wirespeed"
    return Export(_attributes(spans.resource), [_span(span) for span in scope.spans])


def _ids_as_bytes(value: Any) -> Any:
    """Encode ids as protobuf's JSON does for bytes: OTLP has them in hexadecimal digits."""
    if isinstance(value, list):
        return [_ids_as_bytes(each) for each in value]
    if not isinstance(value, dict):
        return value
    found = {key: _ids_as_bytes(each) for key, each in value.items()}
    for key in _IDS.keys() & found.keys():
        assert len(found[key]) == _IDS[key]
        found[key] = base64.b64encode(bytes.fromhex(found[key])).decode()
    return found


def _span(span: Any) -> Span:
    return Span(
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.name,
        span.kind,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _attributes(span),
        span.status.code,
        span.status.message,
    )


def _attributes(of: Any) -> dict[str, str]:
    keys = [each.key for each in of.attributes]
    assert len(keys) == len(set(keys))  # the protocol: "The keys must be unique"
    return {each.key: each.value.string_value for each in of.attributes}


class Collector:
    """Answers each request with `status` and `answer`. While `holding`, requests wait until `release`."""

    def __init__(self, netns: str) -> None:
        self.status, self.answer = 200, b"{}"
        self.held = threading.Semaphore(0)  # one for each request that is being held
        self._released = threading.Event()
        self._released.set()
        self._exports: queue.SimpleQueue[Export] = queue.SimpleQueue()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.receive(self, body)

            def log_message(self, *_: Any) -> None:
                pass

        with opened(netns) as ns:
            self.server = inside(ns.fd, lambda: ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        self.server.daemon_threads = True

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1/traces"

    def hold(self) -> None:
        self._released.clear()

    def release(self) -> None:
        self._released.set()

    def next(self) -> Export:
        return self._exports.get(timeout=PATIENCE)

    def receive(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        if not self._released.is_set():
            self.held.release()
            self._released.wait(4 * PATIENCE)
        status, answer = self.status, self.answer
        if (request.path, request.headers["Content-Type"]) != ("/v1/traces", "application/json"):
            status = 404
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(answer)))
        request.end_headers()
        request.wfile.write(answer)
        self._exports.put(decode(body))


@contextmanager
def collecting(netns: str = "/proc/thread-self/ns/net") -> Iterator[Collector]:
    """Run a collector in that network namespace."""
    made = Collector(netns)
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield made
    finally:
        made.release()
        made.server.shutdown()
        made.server.server_close()
        thread.join(PATIENCE)

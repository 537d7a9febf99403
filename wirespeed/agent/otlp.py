"""Traces of calls, exported to an OpenTelemetry collector: OTLP over HTTP, encoded as JSON.

Each call is a root span, each of its steps a span below it. The format is that of the specification of OTLP
(OTLP/HTTP, JSON Protobuf Encoding): camel-case names, trace and span ids in hexadecimal digits, 64-bit integers as
text. The names of attributes are those of OpenTelemetry's semantic conventions, where they have one.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import msgspec
import urllib3
from urllib3.exceptions import HTTPError

from wirespeed import __version__, structs
from wirespeed.node import Node, TracingConfig
from wirespeed.state.calls import Call
from wirespeed.trace import ROOT

log = logging.getLogger(__name__)

MAX_QUEUE = 256  # calls that wait to be sent; of further ones, the trace is dropped
_BATCH = 32  # calls of a request at most
_REQUEST_TIME = 10.0  # seconds for a request
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds from a failed request to the next, doubled each time
_END_TIME = 1.5  # seconds to send what is left when the agent ends
_LOG_INTERVAL = 60.0  # seconds between two lines about failures
_RETRYABLE = frozenset({429, 502, 503, 504})  # OTLP/HTTP, Retryable Response Codes
_INTERNAL, _SERVER = 1, 2  # SpanKind
_ERROR = 2  # StatusCode
_SAMPLED = 1  # W3C trace flags

# Attributes of what a step is about; a key that is not here becomes wirespeed.<key>.
_ATTRIBUTES = {"ifname": "cni.ifname", "verb": "cni.command"}


class _Text(msgspec.Struct, rename="camel"):
    string_value: str


class _Attribute(msgspec.Struct, rename="camel"):
    key: str
    value: _Text


class _Status(msgspec.Struct, rename="camel", omit_defaults=True, frozen=True):
    code: int = 0
    message: str = ""


class _Span(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    trace_id: str
    span_id: str
    parent_span_id: str = ""
    flags: int = _SAMPLED
    name: str
    kind: int
    start_time_unix_nano: str
    end_time_unix_nano: str
    attributes: list[_Attribute]
    status: _Status = _Status()


class _Scope(msgspec.Struct, rename="camel"):
    name: str
    version: str


class _ScopeSpans(msgspec.Struct, rename="camel"):
    scope: _Scope
    spans: list[_Span]


class _Resource(msgspec.Struct, rename="camel"):
    attributes: list[_Attribute]


class _ResourceSpans(msgspec.Struct, rename="camel"):
    resource: _Resource
    scope_spans: list[_ScopeSpans]


@structs.prepared
class _Request(msgspec.Struct, rename="camel"):
    """ExportTraceServiceRequest."""

    resource_spans: list[_ResourceSpans]


@structs.prepared
class _PartialSuccess(msgspec.Struct, rename="camel", frozen=True):
    rejected_spans: int | str = 0
    error_message: str = ""


@structs.prepared
class _Response(msgspec.Struct, rename="camel"):
    """ExportTraceServiceResponse."""

    partial_success: _PartialSuccess = _PartialSuccess()


class _Outcome(NamedTuple):
    """How a request ended: what went wrong, "" if nothing; whether its calls are to be sent again, or are lost."""

    problem: str = ""
    again: bool = False
    lost: bool = False


class Exporter:
    """Sends the traces of finished calls from a thread of its own; what cannot be sent is dropped and counted."""

    def __init__(self, node: Node, config: TracingConfig) -> None:
        self._endpoint, self._ratio = config.endpoint, config.ratio
        self._resource = _Resource(_attributes(resource(node.name) | config.attributes))
        self._http = urllib3.PoolManager(retries=False)
        self._changed = threading.Condition()
        self._calls: deque[Call] = deque()
        self._end: float | None = None  # when the agent ends: the time until which calls may still be sent
        self._dropped = 0
        self._next_log = 0.0
        self._thread = threading.Thread(target=self._run, name="trace exporter", daemon=True)
        self._thread.start()

    def export(self, call: Call) -> None:
        """Send the call's trace soon, if it belongs to the sample; a call that failed always does. Never waits."""
        if not call.code and not sampled(call.trace, self._ratio):
            return
        with self._changed:
            if len(self._calls) >= MAX_QUEUE:
                self._dropped += 1
                return
            self._calls.append(call)
            self._changed.notify()

    def close(self) -> None:
        """Send what is left, for _END_TIME at most."""
        with self._changed:
            self._end = time.monotonic() + _END_TIME
            self._changed.notify()
        self._thread.join(_END_TIME)
        with self._changed:
            dropped = self._dropped + len(self._calls)
        if dropped:
            log.warning("traces: %d calls were not exported to %s", dropped, self._endpoint)

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while batch := self._wait_for_calls():
            outcome = self._send(batch)
            with self._changed:
                if outcome.again and self._end is not None:
                    return
                if outcome.again:
                    self._report(outcome)
                    self._changed.wait_for(lambda: self._end is not None, pause)
                    pause = min(_LONGEST_PAUSE, 2 * pause)
                    continue
                for _ in batch:
                    self._calls.popleft()
                self._dropped += len(batch) if outcome.lost else 0
                pause = _FIRST_PAUSE
                if outcome.problem:
                    self._report(outcome)

    def _wait_for_calls(self) -> list[Call]:
        """Wait for calls, which stay in the queue until they are sent; return none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._calls or self._end is not None)
            return list(islice(self._calls, _BATCH))

    def _send(self, calls: Sequence[Call]) -> _Outcome:
        """Send calls in one request."""
        left = _REQUEST_TIME if self._end is None else self._end - time.monotonic()
        if left <= 0:
            return _Outcome("no time is left", again=True)
        try:
            response = self._http.request(
                "POST",
                self._endpoint,
                body=request(calls, self._resource),
                headers={"Content-Type": "application/json", "User-Agent": f"wirespeed/{__version__}"},
                timeout=urllib3.Timeout(total=left),
                redirect=False,
            )
        except HTTPError as error:
            return _Outcome(str(error).rpartition("): ")[2], again=True)  # without the connection's repr
        if response.status != 200:
            again = response.status in _RETRYABLE
            return _Outcome(f"{response.status} {response.reason}", again=again, lost=not again)
        return _Outcome(_rejection(response.data))

    def _report(self, outcome: _Outcome) -> None:
        """Log a failure, and how many calls were dropped since the last such line; once per _LOG_INTERVAL."""
        now = time.monotonic()
        if now >= self._next_log:
            fields = {"endpoint": self._endpoint, "dropped": self._dropped}
            log.warning("traces cannot be exported: %s", outcome.problem, extra={"fields": fields})
            self._next_log, self._dropped = now + _LOG_INTERVAL, 0


def _rejection(body: bytes) -> str:
    """Return why a collector that answered with success has rejected spans, "" if it has not."""
    try:
        rejected = msgspec.json.decode(body, type=_Response).partial_success
    except msgspec.DecodeError:
        return ""  # an empty body, or one in another encoding
    return f"{rejected.rejected_spans} spans rejected: {rejected.error_message}" if rejected.rejected_spans else ""


def sampled(trace: str, ratio: float) -> bool:
    """Whether a trace belongs to the sample, by its id, as OpenTelemetry's TraceIdRatioBased decides."""
    return int(trace[16:], 16) < ratio * (1 << 64)


def resource(node_name: str) -> dict[str, str]:
    """Return the attributes of what the spans come from: this agent on this node."""
    return {
        "service.name": "wirespeed-agent",
        "service.version": __version__,
        "host.name": os.uname().nodename,
        "k8s.node.name": node_name,
    }


def request(calls: Iterable[Call], source: _Resource) -> bytes:
    """Return an ExportTraceServiceRequest with the spans of the calls."""
    spans = [span for call in calls for span in _spans(call)]
    scope = _ScopeSpans(_Scope("wirespeed", __version__), spans)
    return msgspec.json.encode(_Request([_ResourceSpans(source, [scope])]))


def _spans(call: Call) -> Iterator[_Span]:
    """Yield the call's span, then those of its steps."""
    ids = os.urandom(8 * (len(call.steps) + 1)).hex()
    root, *inner = [ids[at : at + 16] for at in range(0, len(ids), 16)]
    namespace, _, pod = call.pod.rpartition("/")
    about = {
        "cni.command": call.verb,
        "cni.plugin": call.plugin,
        "cni.ifname": call.ifname,
        "container.id": call.container,
        "k8s.namespace.name": namespace,
        "k8s.pod.name": pod,
        "k8s.pod.uid": call.uid,
        "error.type": str(call.code or ""),
    }
    message = f"{call.error}: {call.details}" if call.details else call.error
    yield _Span(
        trace_id=call.trace,
        span_id=root,
        name=f"{call.verb} {call.plugin}",
        kind=_SERVER,
        start_time_unix_nano=_nanoseconds(call.at),
        end_time_unix_nano=_nanoseconds(call.at + call.seconds),
        attributes=_attributes(about),
        status=_Status(_ERROR, message) if call.code else _Status(),
    )
    for step, own in zip(call.steps, inner, strict=True):
        began = call.at + step.began
        yield _Span(
            trace_id=call.trace,
            span_id=own,
            parent_span_id=root if step.parent == ROOT else inner[step.parent],
            name=step.name,
            kind=_INTERNAL,
            start_time_unix_nano=_nanoseconds(began),
            end_time_unix_nano=_nanoseconds(began + step.seconds),
            attributes=_attributes(
                {_ATTRIBUTES.get(key, f"wirespeed.{key}"): text for key, text in step.about.items()}
            ),
            status=_Status(_ERROR, step.error) if step.error else _Status(),
        )


def _nanoseconds(seconds: float) -> str:
    return str(int(seconds * 1e9))


def _attributes(values: Mapping[str, str]) -> list[_Attribute]:
    return [_Attribute(key, _Text(value)) for key, value in values.items() if value]

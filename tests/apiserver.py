"""A Kubernetes API server for tests: pods, networks and DRA's claims and slices over TLS, with faults on demand.

    with ApiServer(tmp_path) as api:
        api.put(pod)                                     # an object as the API has it; watchers are told
        start_something(kubeconfig=api.kubeconfig())     # a file for a user with a token of its own
        api.wait(lambda: len(api.watches) == 2)          # until whoever watches does
        ...
        assert api.counts() == {"PATCH /api/v1/namespaces/default/pods/web/status": 1}

It serves what a node's agent asks for, as the real one does: GET, LIST with limit and continue, WATCH with
resourceVersion, bookmarks and 410, PATCH by merge patch, POST of events, field selectors on name, node and driver,
bearer tokens and client certificates. Its threads live in the test's process; another process reaches it by the
kubeconfig.
"""

from __future__ import annotations

import contextlib
import copy
import http.server
import json
import os
import re
import select
import socket
import socketserver
import ssl
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.certificates import HAND_MADE, Authority, Profile
from wirespeed.host import netns as namespaces

PATIENCE = 30.0  # seconds after which something that a test waits for will not come
PODS = "/api/v1/pods"
NETWORKS = "/apis/k8s.cni.cncf.io/v1/network-attachment-definitions"
CLAIMS = "/apis/resource.k8s.io/v1/resourceclaims"
SLICES = "/apis/resource.k8s.io/v1/resourceslices"

_KINDS = {
    "pods": "Pod",
    "events": "Event",
    "network-attachment-definitions": "NetworkAttachmentDefinition",
    "resourceclaims": "ResourceClaim",
    "resourceslices": "ResourceSlice",  # of the cluster: in no namespace
}
_VERSIONS = {  # of what is not the core's
    "network-attachment-definitions": "k8s.cni.cncf.io/v1",
    "resourceclaims": "resource.k8s.io/v1",
    "resourceslices": "resource.k8s.io/v1",
}
_RESOURCES = {kind: resource for resource, kind in _KINDS.items()}
_PATH = re.compile(
    r"(/api/v1|/apis/k8s\.cni\.cncf\.io/v1|/apis/resource\.k8s\.io/v1)(?:/namespaces/(?P<namespace>[^/]+))?"
    rf"/(?P<resource>{'|'.join(_KINDS)})(?:/(?P<name>[^/]+)(?P<status>/status)?)?"
)
_FIELDS = {"pods": ("spec.nodeName",), "resourceslices": ("spec.nodeName", "spec.driver")}
_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}

Object = dict[str, Any]
Key = tuple[str, str, str]  # resource, namespace, name


class Request(NamedTuple):
    """What was asked; `verb` is GET, LIST, WATCH, PATCH or POST."""

    verb: str
    path: str
    query: dict[str, str]
    authorization: str


@dataclass(eq=False, kw_only=True)
class Fault:
    """What happens to the next `times` (None: all) requests of a verb whose path has that part in it.

    They are held until `release`, or for `delay` seconds, or until their client leaves; then refused with
    `status`, or their connection is cut, or they are answered. With `after` that comes after so many bytes of
    the answer, of which each byte then takes `drip` seconds. `met` counts them.
    """

    verb: str = ""
    part: str = ""
    times: int | None = None
    hold: bool = False
    delay: float = 0.0
    status: int = 0
    message: str = ""
    retry_after: int | None = None
    cut: bool = False
    after: int | None = None
    drip: float = 0.0
    met: int = 0
    released: int = field(default_factory=lambda: os.eventfd(0))

    def release(self) -> None:
        """Let those go on that are held."""
        os.eventfd_write(self.released, 1)

    def fits(self, request: Request) -> bool:
        left = self.times is None or self.met < self.times
        return left and self.verb in ("", request.verb) and self.part in request.path


class ApiServer:
    """Serves on 127.0.0.1 from `start` (or `with`) to `stop`, with certificates of its own in `folder`.

    With `netns`, the path of a network namespace, the address is that namespace's. `certificates` says what those
    look like.
    `requests` is all that was asked, in order; `watches` the paths of the watches that run; `connections` how
    many are open. All may be looked at from any thread; `wait` waits for a state of them.
    """

    def __init__(self, folder: Path, *, netns: str = "", certificates: Profile = HAND_MADE) -> None:
        self.requests: list[Request] = []
        self.changed = threading.Condition()
        self.going = threading.Event()  # nothing is done while it is not set
        self.going.set()
        self.url = ""
        self._netns = netns or "/proc/thread-self/ns/net"
        self._folder = folder / "apiserver"
        self._folder.mkdir()
        self._objects: dict[Key, Object] = {}
        self._history: list[_Change] = []
        self._pages: dict[str, list[Object]] = {}
        self._version = 100
        self._oldest = 100  # the version from which on the history is known
        self._credentials: set[str] = set()  # what an Authorization header may be, and serials of certificates
        self._faults: list[Fault] = []
        self._watches: list[_Watch] = []
        self._server: _Server | None = None
        self._port = 0
        self._ca = Authority(self._folder, certificates)

    def __enter__(self) -> ApiServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for fault in self._faults:
            os.close(fault.released)

    def start(self) -> None:
        """Serve, on the same port as before."""
        with namespaces.opened(self._netns) as netns:
            context = self._ca.server_context()
            self._server = namespaces.inside(netns.fd, lambda: _Server(self, self._port, context))
        self._port = self._server.server_address[1]
        self.url = f"https://127.0.0.1:{self._port}"
        self._server.begin()

    def stop(self) -> None:
        """Be gone as a killed process is: connections end in the middle of what they do."""
        if self._server is not None:
            self._server.end()
            self._server = None

    # Objects

    def put(self, value: Mapping[str, Any]) -> Object:
        """Create or replace an object; what is now there, with its uid and resourceVersion."""
        new = copy.deepcopy(dict(value))
        space = {} if new["kind"] == "ResourceSlice" else {"namespace": "default"}
        metadata = new["metadata"] = {**space, **new["metadata"]}
        key = (_RESOURCES[new["kind"]], metadata.get("namespace", ""), metadata["name"])
        with self.changed:
            old = self._objects.get(key)
            metadata.setdefault("uid", old["metadata"]["uid"] if old else str(uuid.uuid4()))
            return copy.deepcopy(self._store(key, old, new))

    def delete(self, kind: str, namespace: str, name: str) -> None:
        key = (_RESOURCES[kind], namespace, name)
        with self.changed:
            self._store(key, self._objects[key], None)

    def object(self, kind: str, namespace: str, name: str) -> Object:
        with self.changed:
            return copy.deepcopy(self._objects[_RESOURCES[kind], namespace, name])

    def objects(self, kind: str) -> list[Object]:
        """All of a kind, by namespace and name."""
        with self.changed:
            found = [value for key, value in sorted(self._objects.items()) if key[0] == _RESOURCES[kind]]
            return copy.deepcopy(found)

    def compact(self) -> None:
        """Forget the history: watches and pages of lists that go on from before are refused with 410."""
        with self.changed:
            self._oldest = self._version
            self._history.clear()
            self._pages.clear()

    # Watches

    @property
    def watches(self) -> list[str]:
        """The paths of those that run and are not being ended."""
        with self.changed:
            return [watch.request.path for watch in self._watches if not watch.ending]

    @property
    def connections(self) -> int:
        """How many are open."""
        with self.changed:  # the TLS socket takes the file descriptor of the one below it
            return sum(each.fileno() >= 0 for each in self._server.open) if self._server else 0

    def bookmark(self) -> None:
        """Tell all watches that allow it how far the history has gone."""
        with self.changed:
            for watch in self._watches:
                watch.bookmark = True
                watch.wake()

    def end_watches(self) -> None:
        """End all watches as their timeoutSeconds does."""
        self._end_watches("end")

    def cut_watches(self, *, midline: bool = False) -> None:
        """Break the connections of all watches, on demand in the middle of an event."""
        self._end_watches("midline" if midline else "cut")

    # Users

    def token(self) -> str:
        """A new token that is accepted."""
        made = uuid.uuid4().hex
        with self.changed:
            self._credentials.add(f"bearer {made}")
        return made

    def certificate(self, name: str = "client") -> tuple[Path, Path]:
        """A new client certificate that is accepted, and its key: files <name>.crt and <name>.key, replaced."""
        certificate, key, serial = self._ca.issue(name, "clientAuth")
        with self.changed:
            self._credentials.add(serial)
        return certificate, key

    def revoke_all(self) -> None:
        """Accept none of the tokens and certificates made so far."""
        with self.changed:
            self._credentials.clear()

    def kubeconfig(self, **user: Any) -> Path:
        """A kubeconfig file for the user with these keys; by default one with a token of its own."""
        path = self._folder / f"kubeconfig-{uuid.uuid4().hex[:8]}"
        cluster = {"server": self.url, "certificate-authority": str(self._ca.certificate)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user or {"token": self.token()}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path.write_text(json.dumps(config))
        return path

    @property
    def ca_file(self) -> Path:
        return self._ca.certificate

    # What was asked, and what goes wrong

    def counts(self) -> Counter[str]:
        """How often each "VERB path" was asked."""
        with self.changed:
            return Counter(f"{request.verb} {request.path}" for request in self.requests)

    def forget(self) -> None:
        """Count requests from here."""
        with self.changed:
            self.requests.clear()

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; it is looked at after each request, connection and change."""
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE), f"asked until now: {self.requests}"

    def fault(self, verb: str = "", part: str = "", **what: Any) -> Fault:
        """Let requests go wrong from now on; see Fault. Of several that fit a request it meets the last one."""
        made = Fault(verb=verb, part=part, **what)
        with self.changed:
            self._faults.append(made)
        return made

    def heal(self) -> None:
        """No more faults; those that are held go on."""
        with self.changed:
            for fault in self._faults:
                fault.times = 0
                fault.release()

    @contextlib.contextmanager
    def pausing(self, seconds: float, every: float) -> Iterator[None]:
        """Do nothing at all for so many seconds of `every` so many, as a process that is stopped by turns.

        What has arrived is done afterwards, whether or not its client still waits.
        """
        end = threading.Event()

        def turns() -> None:
            while not end.is_set():
                self.going.clear()
                end.wait(seconds)
                self.going.set()
                end.wait(every - seconds)

        thread = threading.Thread(target=turns)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    # For the handlers

    def arrived(self, request: Request) -> Fault | None:
        """Take note of a request; the fault that it meets."""
        with self.changed:
            self.requests.append(request)
            fault = next((fault for fault in reversed(self._faults) if fault.fits(request)), None)
            if fault is not None:
                fault.met += 1
            self.changed.notify_all()
            return fault

    def accepts(self, credential: str) -> bool:
        with self.changed:
            return credential in self._credentials

    def find(self, key: Key) -> Object:
        with self.changed:
            try:
                return copy.deepcopy(self._objects[key])
            except KeyError:
                raise _StatusError(404, f'{key[0]} "{key[2]}" not found') from None

    def page(self, resource: str, namespace: str | None, query: Mapping[str, str]) -> Object:
        """A list, or a part of it."""
        with self.changed:
            if token := query.get("continue"):
                if token not in self._pages:
                    raise _StatusError(410, "The provided continue parameter is too old")
                found = self._pages.pop(token)
            else:
                matches = _selector(resource, namespace, query)
                found = [value for key, value in sorted(self._objects.items()) if matches(key, value)]
            limit = int(query.get("limit") or 0) or len(found)
            metadata: Object = {"resourceVersion": str(self._version)}
            if rest := found[limit:]:
                metadata |= {"continue": uuid.uuid4().hex, "remainingItemCount": len(rest)}
                self._pages[metadata["continue"]] = rest
            page = copy.deepcopy(found[:limit])
        for value in page:
            if resource == "pods":  # the items of the API's own lists say neither
                value.pop("kind", None)
                value.pop("apiVersion", None)
        version = _VERSIONS.get(resource, "v1")
        return {"kind": f"{_KINDS[resource]}List", "apiVersion": version, "metadata": metadata, "items": page}

    def create(self, resource: str, namespace: str, value: Object) -> Object:
        metadata = value["metadata"]
        key = (resource, namespace, metadata["name"])
        if metadata.get("namespace", namespace) != namespace:
            raise _StatusError(
                400, "the namespace of the provided object does not match the namespace sent on the request"
            )
        if (value.get("involvedObject") or {}).get("namespace", "default") != namespace:
            text = "involvedObject.namespace: Invalid value: does not match event.namespace"
            raise _StatusError(422, f'Event "{key[2]}" is invalid: {text}')
        with self.changed:
            if key in self._objects:
                raise _StatusError(409, f'{resource} "{key[2]}" already exists')
            return copy.deepcopy(
                self._store(key, None, {**value, "metadata": {**metadata, "uid": str(uuid.uuid4())}})
            )

    def patch(self, key: Key, patch: Object, *, status: bool) -> Object:
        with self.changed:
            old = self.find(key)
            given, mine = patch.get("metadata") or {}, old["metadata"]
            if (uid := given.get("uid", mine["uid"])) != mine["uid"]:
                text = f'metadata.uid: Invalid value: "{uid}": field is immutable'
                raise _StatusError(422, f'{_KINDS[key[0]]} "{key[2]}" is invalid: {text}')
            if given.get("resourceVersion", mine["resourceVersion"]) != mine["resourceVersion"]:
                text = "the object has been modified; please apply your changes to the latest version"
                raise _StatusError(409, f'Operation cannot be fulfilled on {key[0]} "{key[2]}": {text}')
            new = _merged(old, patch)
            if status:
                new["spec"] = old.get("spec")
            return copy.deepcopy(old if new == old else self._store(key, old, new))

    @contextlib.contextmanager
    def watching(self, request: Request, matches: Callable[[Key, Object], bool]) -> Iterator[_Watch]:
        """A watch that is told of changes."""
        watch = _Watch(request, matches)
        with self.changed:
            try:
                watch.since = int(request.query.get("resourceVersion") or 0)
            except ValueError:
                raise _StatusError(400, "resourceVersion: invalid") from None
            if watch.since < self._oldest:
                watch.refused = f"too old resource version: {watch.since} ({self._oldest})"
            watch.wake()
            self._watches.append(watch)
            self.changed.notify_all()
        try:
            yield watch
        finally:
            with self.changed:
                self._watches.remove(watch)
                self.changed.notify_all()
                watch.close()

    def events(self, watch: _Watch) -> list[Object]:
        """What a watch has not been told of yet."""
        with self.changed:
            events = [
                event
                for change in self._history
                if change.version > watch.since
                if (event := change.event(watch.matches)) is not None
            ]
            watch.since = max(watch.since, self._version)
            if watch.refused:
                events = [{"type": "ERROR", "object": _status(410, watch.refused)}]
                watch.ending = "end"
            elif watch.bookmark and watch.request.query.get("allowWatchBookmarks") == "true":
                metadata = {"resourceVersion": str(self._version), "creationTimestamp": None}
                events.append({"type": "BOOKMARK", "object": {"kind": "Bookmark", "metadata": metadata}})
            watch.bookmark = False
            return events

    def _store(self, key: Key, old: Object | None, new: Object | None) -> Object:
        self._version += 1
        kept = copy.deepcopy(new if new is not None else old) or {}
        kept["metadata"]["resourceVersion"] = str(self._version)
        if new is None:
            del self._objects[key]
        else:
            self._objects[key] = kept
        self._history.append(_Change(self._version, key, old, kept, deleted=new is None))
        for watch in self._watches:
            watch.wake()
        self.changed.notify_all()
        return kept

    def _end_watches(self, how: str) -> None:
        with self.changed:
            for watch in self._watches:
                watch.ending = how
                watch.wake()


@dataclass(frozen=True)
class _Change:
    version: int
    key: Key
    old: Object | None
    new: Object
    deleted: bool

    def event(self, matches: Callable[[Key, Object], bool]) -> Object | None:
        """As a watch with that selector sees it: an object that no longer matches is deleted for it."""
        before = self.old is not None and matches(self.key, self.old)
        after = not self.deleted and matches(self.key, self.new)
        if not before and not after:
            return None
        kind = "DELETED" if not after else "MODIFIED" if before else "ADDED"
        return {"type": kind, "object": self.new}


@dataclass(eq=False)
class _Watch:
    request: Request
    matches: Callable[[Key, Object], bool]
    since: int = 0
    bookmark: bool = False
    refused: str = ""
    ending: str = ""
    woken: int = field(default_factory=lambda: os.eventfd(0))

    def wake(self) -> None:
        os.eventfd_write(self.woken, 1)

    def close(self) -> None:
        os.close(self.woken)


class _StatusError(Exception):
    """Answered as a Status object."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})


class _GoneError(Exception):
    """The client left, or is to be left."""


def _status(status: int, message: str) -> Object:
    reason = _REASONS.get(status, "Unknown")
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": status,
    }


def _selector(resource: str, namespace: str | None, query: Mapping[str, str]) -> Callable[[Key, Object], bool]:
    wanted = dict(part.split("=", 1) for part in query.get("fieldSelector", "").split(",") if part)
    if unknown := wanted.keys() - {"metadata.name", *_FIELDS.get(resource, ())}:
        raise _StatusError(400, f"field label not supported: {', '.join(unknown)}")
    name = wanted.pop("metadata.name", None)

    def matches(key: Key, value: Object) -> bool:
        return (
            key[0] == resource
            and namespace in (None, key[1])
            and name in (None, key[2])
            and all(
                (value["spec"].get(field.removeprefix("spec.")) or "") == text for field, text in wanted.items()
            )
        )

    return matches


def _merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection: request after request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def do_GET(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 — its name in the base class
        """Nothing: a test asks for `requests`."""

    def _serve(self) -> None:
        url = urlsplit(self.path)
        match = _PATH.fullmatch(unquote(url.path))
        query = dict(parse_qsl(url.query))
        verb = self.command
        if verb == "GET" and match and not match["name"]:
            verb = "WATCH" if query.get("watch") == "true" else "LIST"
        request = Request(verb, unquote(url.path), query, self.headers.get("Authorization") or "")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.api.going.wait()
        self._fault = self.server.api.arrived(request)
        try:
            self._meet_fault(sent=None)
            self._check_user(request)
            self._answer(request, match, body)
        except _StatusError as error:
            self._send(error.status, _status(error.status, error.message), error.headers)
        except _GoneError:
            self.close_connection = True

    def _check_user(self, request: Request) -> None:
        certificate: Any = self.connection.getpeercert()
        scheme, _, token = request.authorization.partition(" ")
        credentials = (f"{scheme.lower()} {token}", str(certificate["serialNumber"]) if certificate else "")
        if not any(map(self.server.api.accepts, credentials)):
            raise _StatusError(401, "Unauthorized")

    def _answer(self, request: Request, match: re.Match[str] | None, body: bytes) -> None:
        if request.path == "/version":
            self._send(200, {"major": "1", "minor": "35"})
            return
        if match is None:
            raise _StatusError(404, "the server could not find the requested resource")
        api, resource = self.server.api, match["resource"]
        key = (resource, match["namespace"] or "", match["name"] or "")
        if request.verb == "PATCH":
            if self.headers.get("Content-Type") != "application/merge-patch+json":
                raise _StatusError(415, "expected application/merge-patch+json")
            patch = json.loads(body)
            if not isinstance(patch, dict):
                raise _StatusError(400, "cannot unmarshal into a Go value of type map[string]interface {}")
            self._send(200, api.patch(key, patch, status=bool(match["status"])))
        elif request.verb == "POST":
            self._create(key, body)
        elif request.verb == "GET":
            self._send(200, api.find(key))
        elif request.verb == "LIST":
            self._send(200, api.page(resource, match["namespace"], request.query))
        else:
            with api.watching(request, _selector(resource, match["namespace"], request.query)) as watch:
                self._watch(watch)

    def _create(self, key: Key, body: bytes) -> None:
        if self.headers.get("Content-Type") != "application/json":
            raise _StatusError(415, "expected application/json")
        if key[0] != "events" or key[2]:
            raise _StatusError(405, "the server does not allow this method on the requested resource")
        self._send(201, self.server.api.create(key[0], key[1], json.loads(body)))

    def _watch(self, watch: _Watch) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        end = time.monotonic() + float(watch.request.query.get("timeoutSeconds") or 1800)
        while not watch.ending:
            if not self._pause(watch.woken, max(0.0, end - time.monotonic())):
                break
            os.eventfd_read(watch.woken)
            for event in self.server.api.events(watch):
                self._chunk(json.dumps(event).encode() + b"\n")
        if watch.ending == "midline":
            self._chunk(b'{"type":"MODIFIED","object":{"metada')
        if watch.ending in ("midline", "cut"):
            raise _GoneError
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def _send(self, status: int, value: Object, headers: Mapping[str, str] | None = None) -> None:
        self.server.api.going.wait()
        data = json.dumps(value).encode()
        self.send_response(status)
        fields = {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
        for name, text in fields.items():
            self.send_header(name, text)
        self.end_headers()
        fault = self._fault
        begin, rest = (
            (data, b"") if fault is None or fault.after is None else (data[: fault.after], data[fault.after :])
        )
        self.wfile.write(begin)
        self.wfile.flush()
        self._meet_fault(sent=len(begin))
        if fault is not None and fault.drip:
            for byte in rest:
                self._pause(fault.released, fault.drip)
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
        else:
            self.wfile.write(rest)

    def _meet_fault(self, *, sent: int | None) -> None:
        """What the fault does at this point of the answer: before it, or after so many bytes of it."""
        fault = self._fault
        if fault is None or fault.after != sent:
            return
        if fault.hold or fault.delay:
            self._pause(fault.released, None if fault.hold else fault.delay)
        if fault.cut:
            raise _GoneError
        if fault.status:
            self._fault = None
            headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            raise _StatusError(fault.status, fault.message or _REASONS.get(fault.status, ""), headers)

    def _pause(self, wake: int, seconds: float | None) -> bool:
        """Wait for the eventfd; whether it came in time. Raises _GoneError when the client leaves."""
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        poll.register(self.connection, select.POLLIN | select.POLLRDHUP)  # a client that waits says nothing
        found = dict(poll.poll(None if seconds is None else seconds * 1000))
        if self.connection.fileno() in found:
            raise _GoneError
        return bool(found)


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """The listening socket, and a thread for each connection."""

    allow_reuse_address = True
    request_queue_size = 128
    daemon_threads = False  # server_close() waits for them

    def __init__(self, api: ApiServer, port: int, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.api = api
        self.open: set[socket.socket] = set()
        self._ended = False
        self._context = context
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self.shutdown()
        self._thread.join()
        with self.api.changed:
            self._ended = True
            for connection in self.open:
                with contextlib.suppress(OSError):  # its client has left already
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
        self.server_close()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread: a handshake that does not end keeps nobody else waiting."""
        self.api.going.wait()
        with contextlib.suppress(OSError), self._tracked(request):  # clients leave when they want
            secure = self._context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
            with secure, self._tracked(secure):
                secure.do_handshake()
                super().finish_request(secure, client_address)

    @contextlib.contextmanager
    def _tracked(self, connection: socket.socket) -> Iterator[None]:
        with self.api.changed:
            if self._ended:
                raise ConnectionAbortedError
            self.open.add(connection)
            self.api.changed.notify_all()
        try:
            yield
        finally:
            with self.api.changed:
                self.open.discard(connection)
                self.api.changed.notify_all()

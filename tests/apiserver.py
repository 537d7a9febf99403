"""A Kubernetes API server for tests: pods, networks, resource claims and slices (DRA) over TLS; with faults.

    with ApiServer(tmp_path) as api:
        api.put(pod)                                     # the object as stored; watches get an event
        start_something(kubeconfig=api.kubeconfig())     # a kubeconfig with its own token
        api.wait(lambda: len(api.watches) == 2)          # until both watches are open
        ...
        assert api.counts() == {"PATCH /api/v1/namespaces/default/pods/web/status": 1}

It serves the requests of a node's agent like the real API server: GET, LIST with limit and continue, WATCH with
resourceVersion, bookmarks and 410, PATCH by merge patch, POST of events, access reviews and TokenRequests, label
selectors and some field selectors, bearer tokens and client certificates. For clients of the agents, it also has
POST and DELETE of pods, and connections to ports of pods and to commands in their containers. Its threads run in
the test's process; other processes connect with the kubeconfig.
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

from tests import execution, podrules, portforward, reviews, websockets
from tests.certificates import HAND_MADE, Authority, Profile
from tests.reviews import Reviews, User
from wirespeed.kernel import netns as namespaces

PATIENCE = 30.0  # seconds; a wait that takes longer fails
PODS = "/api/v1/pods"
NETWORKS = "/apis/k8s.cni.cncf.io/v1/network-attachment-definitions"
CLAIMS = "/apis/resource.k8s.io/v1/resourceclaims"
SLICES = "/apis/resource.k8s.io/v1/resourceslices"


_KINDS = {
    "pods": "Pod",
    "events": "Event",
    "network-attachment-definitions": "NetworkAttachmentDefinition",
    "resourceclaims": "ResourceClaim",
    "resourceslices": "ResourceSlice",
    "nodes": "Node",
}
_OF_THE_CLUSTER = frozenset({"resourceslices", "nodes"})  # they have no namespace
_VERSIONS = {  # of resources outside the core API group
    "network-attachment-definitions": "k8s.cni.cncf.io/v1",
    "resourceclaims": "resource.k8s.io/v1",
    "resourceslices": "resource.k8s.io/v1",
}
_RESOURCES = {kind: resource for resource, kind in _KINDS.items()}
_PATH = re.compile(
    r"(/api/v1|/apis/k8s\.cni\.cncf\.io/v1|/apis/resource\.k8s\.io/v1)(?:/namespaces/(?P<namespace>[^/]+))?"
    rf"/(?P<resource>{'|'.join(_KINDS)})(?:/(?P<name>[^/]+)(?P<status>/status)?)?"
)
_FIELDS = {
    "pods": ("spec.nodeName",),
    "resourceslices": ("spec.nodeName", "spec.driver"),
    "events": ("involvedObject.kind", "involvedObject.name", "involvedObject.uid", "type", "reason"),
}
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
    """A request; `verb` is GET, LIST, WATCH, PATCH, POST or DELETE."""

    verb: str
    path: str
    query: dict[str, str]
    authorization: str


@dataclass(eq=False, kw_only=True)
class Fault:
    """A fault for the next `times` requests (None: all) whose verb is `verb` and whose path contains `part`.

    A matching request is held until `release` is called, for `delay` seconds, or until its client disconnects. Then
    it is refused with `status`, its connection is cut, or it is answered normally. With `after`, the fault occurs
    after that many bytes of the answer, and each later byte takes `drip` seconds. `met` counts the requests.
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
        """Let the held requests continue."""
        os.eventfd_write(self.released, 1)

    def fits(self, request: Request) -> bool:
        left = self.times is None or self.met < self.times
        return left and self.verb in ("", request.verb) and self.part in request.path


class ApiServer:
    """Serves on 127.0.0.1 from `start` (or `with`) to `stop`. Its certificates are in `folder`.

    `netns` is the path of the network namespace to listen in. `certificates` is the profile of the certificates.
    `requests` are all requests in order, `watches` the paths of the open watches, `connections` the number of open
    connections. All can be read from any thread; `wait` waits for a condition on them.
    """

    def __init__(self, folder: Path, *, netns: str = "", certificates: Profile = HAND_MADE) -> None:
        self.requests: list[Request] = []
        self.served = [{"name": "network-attachment-definitions", "namespaced": True}]  # of the group of networks
        self.changed = threading.Condition()
        self.going = threading.Event()  # while it is cleared, the server pauses
        self.going.set()
        self.url = ""
        self.reviews = Reviews()
        self.commands: dict[tuple[str, str], execution.Start] = {}  # by pod (name) and container
        self._netns = netns or "/proc/thread-self/ns/net"
        self._folder = folder / "apiserver"
        self._folder.mkdir()
        self._objects: dict[Key, Object] = {}
        self._history: list[_Change] = []
        self._pages: dict[str, list[Object]] = {}
        self._version = 100
        self._oldest = 100  # the oldest version that the history still covers
        self._credentials: set[str] = set()  # accepted Authorization headers and certificate serials
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
        """Serve. After `stop`, on the same port as before."""
        with namespaces.opened(self._netns) as netns:
            context = self._ca.server_context()
            self._server = namespaces.inside(netns.fd, lambda: _Server(self, self._port, context))
        self._port = self._server.server_address[1]
        self.url = f"https://127.0.0.1:{self._port}"
        self._server.begin()

    def stop(self) -> None:
        """Stop like a killed process: open connections break immediately."""
        if self._server is not None:
            self._server.end()
            self._server = None

    # Objects

    def put(self, value: Mapping[str, Any]) -> Object:
        """Create or replace an object. Return it as stored, with uid and resourceVersion."""
        new = copy.deepcopy(dict(value))
        space = {} if _RESOURCES[new["kind"]] in _OF_THE_CLUSTER else {"namespace": "default"}
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
        """All objects of a kind, by namespace and name."""
        with self.changed:
            found = [value for key, value in sorted(self._objects.items()) if key[0] == _RESOURCES[kind]]
            return copy.deepcopy(found)

    def compact(self) -> None:
        """Forget the history: watches and list pages that continue from an earlier version get 410."""
        with self.changed:
            self._oldest = self._version
            self._history.clear()
            self._pages.clear()

    # Watches

    @property
    def watches(self) -> list[str]:
        """The paths of the watches that are open and not being ended."""
        with self.changed:
            return [watch.request.path for watch in self._watches if not watch.ending]

    @property
    def connections(self) -> int:
        """The number of open connections."""
        with self.changed:  # after the TLS handshake, fileno() of the plain socket is -1
            return sum(each.fileno() >= 0 for each in self._server.open) if self._server else 0

    def bookmark(self) -> None:
        """Send a bookmark with the current version to all watches that allow bookmarks."""
        with self.changed:
            for watch in self._watches:
                watch.bookmark = True
                watch.wake()

    def end_watches(self) -> None:
        """End all watches as if their timeoutSeconds had passed."""
        self._end_watches("end")

    def cut_watches(self, *, midline: bool = False) -> None:
        """Break the connections of all watches; with `midline` in the middle of an event."""
        self._end_watches("midline" if midline else "cut")

    # Users

    def token(self) -> str:
        """Return a new token, which is accepted."""
        made = uuid.uuid4().hex
        with self.changed:
            self._credentials.add(f"bearer {made}")
        return made

    def login(self, user: User) -> str:
        """Return a new token of a user of `reviews`, which is accepted here, too."""
        made = self.reviews.token(user)
        with self.changed:
            self._credentials.add(f"bearer {made}")
        return made

    def certificate(self, name: str = "client") -> tuple[Path, Path]:
        """Create a client certificate that is accepted, and its key: <name>.crt and <name>.key (overwritten)."""
        certificate, key, serial = self._ca.issue(name, "clientAuth")
        with self.changed:
            self._credentials.add(serial)
        return certificate, key

    def revoke_all(self) -> None:
        """Reject all tokens and certificates created so far."""
        with self.changed:
            self._credentials.clear()

    def kubeconfig(self, **user: Any) -> Path:
        """A kubeconfig file whose user has these keys; by default a new token."""
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

    # Requests and faults

    def counts(self) -> Counter[str]:
        """The number of requests by "VERB path"."""
        with self.changed:
            return Counter(f"{request.verb} {request.path}" for request in self.requests)

    def forget(self) -> None:
        """Reset the recorded requests."""
        with self.changed:
            self.requests.clear()

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds. It is evaluated after each request, connection and change."""
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE), f"asked until now: {self.requests}"

    def fault(self, verb: str = "", part: str = "", **what: Any) -> Fault:
        """Add a fault; see Fault for the arguments. If several match a request, the last one applies."""
        made = Fault(verb=verb, part=part, **what)
        with self.changed:
            self._faults.append(made)
        return made

    def heal(self) -> None:
        """End all faults and let the held requests continue."""
        with self.changed:
            for fault in self._faults:
                fault.times = 0
                fault.release()

    @contextlib.contextmanager
    def pausing(self, seconds: float, every: float) -> Iterator[None]:
        """Pause the server for `seconds` of every `every` seconds, like a process that is repeatedly stopped.

        Requests that arrive during a pause are handled after it, even if their client has disconnected.
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

    # Called by the request handlers

    def arrived(self, request: Request) -> Fault | None:
        """Record a request. Return the fault that applies to it."""
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
        """A list, or one page of it."""
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
            if resource in {"pods", "nodes", "events"}:  # items of built-in lists have neither kind nor apiVersion
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
        if resource == "pods":
            if found := list(podrules.problems(value)):
                raise _StatusError(422, f'Pod "{key[2]}" is invalid: {"; ".join(found)}')
            value = {**value, "metadata": {**metadata, "namespace": namespace}, "status": {"phase": "Pending"}}
            metadata = value["metadata"]
        elif (value.get("involvedObject") or {}).get("namespace", "default") != namespace:
            text = "involvedObject.namespace: Invalid value: does not match event.namespace"
            raise _StatusError(422, f'Event "{key[2]}" is invalid: {text}')
        with self.changed:
            if key in self._objects:
                raise _StatusError(409, f'{resource} "{key[2]}" already exists')
            return copy.deepcopy(
                self._store(key, None, {**value, "metadata": {**metadata, "uid": str(uuid.uuid4())}})
            )

    def end(self, key: Key) -> Object:
        """Delete a pod: at once if it is on no node; else its kubelet does, after its containers have ended."""
        with self.changed:
            old = self.find(key)
            if not old["spec"].get("nodeName"):
                return copy.deepcopy(self._store(key, old, None))
            going = {**old, "metadata": {**old["metadata"], "deletionTimestamp": "2026-01-02T03:04:05Z"}}
            return copy.deepcopy(self._store(key, old, going))

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
        """Register a watch."""
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
        """The events that the watch has not received yet."""
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
        """The event for a watch with that selector. An object that no longer matches is DELETED for it."""
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
    """The client disconnected, or its connection is to be cut."""


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
    wanted = _equalities(query.get("fieldSelector", ""))
    labels = _equalities(query.get("labelSelector", ""))
    if unknown := wanted.keys() - {"metadata.name", *_FIELDS.get(resource, ())}:
        raise _StatusError(400, f"field label not supported: {', '.join(unknown)}")
    name = wanted.pop("metadata.name", None)

    def matches(key: Key, value: Object) -> bool:
        return (
            key[0] == resource
            and namespace in (None, key[1])
            and name in (None, key[2])
            and all((_at(value, field) or "") == text for field, text in wanted.items())
            and labels.items() <= (value["metadata"].get("labels") or {}).items()
        )

    return matches


def _equalities(selector: str) -> dict[str, str]:
    """The keys and values of a selector; of its operators, only = is known here."""
    parts = [part.split("=", 1) for part in selector.split(",") if part]
    if any(len(part) != 2 or part[0].endswith("!") or " " in part[0] for part in parts):
        raise _StatusError(400, f"unable to parse requirement: {selector}")
    return dict(parts)


def _at(value: Object, field: str) -> Any:
    for step in field.split("."):
        value = value.get(step) or {}
    return value


def _merged(target: Any, patch: Any) -> Any:
    """Apply a merge patch (RFC 7386)."""
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
    """One connection, with any number of requests."""

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

    def do_DELETE(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 — its name in the base class
        """Log nothing: tests read `requests` instead."""

    def _serve(self) -> None:
        url = urlsplit(self.path)
        match = _PATH.fullmatch(unquote(url.path))
        query = dict(parse_qsl(url.query))
        verb = self.command
        self._forward = portforward.PATH.fullmatch(unquote(url.path))
        execute = execution.PATH.fullmatch(unquote(url.path))
        if verb == "GET" and match and not match["name"]:
            verb = "WATCH" if query.get("watch") == "true" else "LIST"
        request = Request(verb, unquote(url.path), query, self.headers.get("Authorization") or "")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.api.going.wait()
        self._fault = self.server.api.arrived(request)
        try:
            self._meet_fault(sent=None)
            self._check_user(request)
            if request.path in reviews.PATHS or reviews.ACCOUNT_TOKEN.fullmatch(request.path):
                self._answer_review(request, body)
            elif self._forward:
                self._port_forward(request, self._forward)
            elif execute:
                self._execute(execute, parse_qsl(url.query))
            else:
                self._answer(request, match, body)
        except _StatusError as error:
            self._send(error.status, _status(error.status, error.message), error.headers)
        except _GoneError:
            self.close_connection = True

    def _answer_review(self, request: Request, body: bytes) -> None:
        if request.verb != "POST":
            raise _StatusError(405, "the server does not allow this method on the requested resource")
        with self.server.api.changed:
            try:
                answer = self.server.api.reviews.answer(request.path, json.loads(body))
            except reviews.InvalidError as error:
                raise _StatusError(error.status, str(error)) from error
        self._send(201, answer)

    def _port_forward(self, request: Request, match: re.Match[str]) -> None:
        pod = self.server.api.find(("pods", match["namespace"], match["name"]))
        try:
            port, headers = portforward.check(pod, dict(self.headers.items()), request.query)
        except websockets.RefusedError as error:
            raise _StatusError(error.status, error.message) from error
        self._upgrade(headers)
        with contextlib.suppress(ConnectionError):  # a client that is gone
            portforward.serve(self.connection, port, uid=pod["metadata"]["uid"])

    def _execute(self, match: re.Match[str], query: list[tuple[str, str]]) -> None:
        api = self.server.api
        pod = api.find(("pods", match["namespace"], match["name"]))
        try:
            container, command, headers = execution.check(pod, dict(self.headers.items()), query)
        except websockets.RefusedError as error:
            raise _StatusError(error.status, error.message) from error
        if (start := api.commands.get((match["name"], container))) is None:
            raise _StatusError(500, f'container not found ("{container}")')
        self._upgrade(headers)
        with contextlib.suppress(ConnectionError):  # a client that is gone
            execution.serve(self.connection, command, start)

    def _upgrade(self, headers: Mapping[str, str]) -> None:
        """Answer the handshake of a connection that is no HTTP any more."""
        self.send_response(101)
        for name, text in headers.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.flush()
        self.close_connection = True

    def _check_user(self, request: Request) -> None:
        certificate: Any = self.connection.getpeercert()
        scheme, _, token = request.authorization.partition(" ")
        credentials = (f"{scheme.lower()} {token}", str(certificate["serialNumber"]) if certificate else "")
        if not any(map(self.server.api.accepts, credentials)):
            raise _StatusError(401, "Unauthorized")

    def _answer(self, request: Request, match: re.Match[str] | None, body: bytes) -> None:
        if match is None:
            self._answer_without_objects(request, body)
            return
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
        elif request.verb == "DELETE":
            if resource != "pods" or not key[2]:
                raise _StatusError(405, "the server does not allow this method on the requested resource")
            self._send(200, api.end(key))
        elif request.verb == "GET":
            self._send(200, api.find(key))
        elif request.verb == "LIST":
            self._send(200, api.page(resource, match["namespace"], request.query))
        else:
            with api.watching(request, _selector(resource, match["namespace"], request.query)) as watch:
                self._watch(watch)

    def _answer_without_objects(self, request: Request, body: bytes) -> None:
        if request.path == "/version":
            self._send(200, {"major": "1", "minor": "35"})
        elif request.path == NETWORKS.rpartition("/")[0] and self.server.api.served:
            self._send(200, {"kind": "APIResourceList", "resources": self.server.api.served})
        else:
            raise _StatusError(404, "the server could not find the requested resource")

    def _create(self, key: Key, body: bytes) -> None:
        if self.headers.get("Content-Type") != "application/json":
            raise _StatusError(415, "expected application/json")
        if key[0] not in {"events", "pods"} or key[2]:
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
        """Apply the fault at this point of the answer: before it (`sent` is None), or after that many bytes."""
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
        """Wait for the eventfd. Return whether it came in time. Raises _GoneError if the client disconnects."""
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        # readable only if the client disconnects: it sends nothing while it waits
        poll.register(self.connection, select.POLLIN | select.POLLRDHUP)
        found = dict(poll.poll(None if seconds is None else seconds * 1000))
        if self.connection.fileno() in found:
            raise _GoneError
        return bool(found)


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """The listening socket, with one thread for each connection."""

    allow_reuse_address = True
    request_queue_size = 128
    daemon_threads = False  # server_close() waits for the threads

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
                with contextlib.suppress(OSError):  # the client has already disconnected
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
        self.server_close()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Do the TLS handshake in the connection's own thread, so that a slow one blocks no other connection."""
        self.api.going.wait()
        with contextlib.suppress(OSError), self._tracked(request):  # clients may disconnect at any time
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

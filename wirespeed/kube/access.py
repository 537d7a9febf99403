"""Who a caller with a bearer token is, and what that user may do: asked of the API server, remembered briefly."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from wirespeed import structs
from wirespeed.errors import Error, Kind
from wirespeed.kube.api import Api, RefusedError, Timeouts, UnreachableError

AUDIENCE = "wirespeed"  # of tokens that are good for agents alone
_TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 — a path
_ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_TIMEOUTS = Timeouts(connect=2.0, read=4.0, total=6.0)
_REMEMBERED = 5.0  # seconds; a token that was revoked is accepted for as long
_MOST = 512  # answers that are remembered at most, of each kind

T = TypeVar("T")


class Resource(NamedTuple):
    """An object that a user may `get`: of the core API group, `namespace` is "" for an object of the cluster."""

    resource: str
    name: str
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.resource} {self.namespace}/{self.name}".replace(" /", " ")


class User(msgspec.Struct, frozen=True):
    """A user as a TokenReview describes it."""

    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, Sequence[str]] = {}


@structs.prepared
class _TokenStatus(msgspec.Struct):
    authenticated: bool = False
    user: User = User()
    audiences: tuple[str, ...] = ()


@structs.prepared
class _AccessStatus(msgspec.Struct):
    allowed: bool = False
    denied: bool = False


class UnauthenticatedError(Error):
    """The API server does not know the token."""

    def __init__(self) -> None:
        super().__init__(Kind.POLICY, "the API server does not accept this token")


class ForbiddenError(Error):
    """The user may not do this."""

    def __init__(self, user: User, resource: Resource) -> None:
        super().__init__(Kind.POLICY, f"user {user.username} may not get {resource}")


class Access:
    """Checks callers, from any thread. What the API server answered holds for a few seconds."""

    def __init__(self, api: Api, *, remembered: float = _REMEMBERED) -> None:
        self._api = api
        self._secret = os.urandom(16)  # the keys below are no use to who reads this process' memory later
        self._users: _Memory[User | None] = _Memory(remembered)
        self._unknown: _Memory[User | None] = _Memory(remembered)  # apart, so that guesses do not displace users
        self._allowed: _Memory[bool] = _Memory(remembered)

    def check(self, token: str, resources: Sequence[Resource]) -> User:
        """Return who has the token, if that user may get all of the resources.

        Raises UnauthenticatedError, ForbiddenError, and Error(UNAVAILABLE) if the API server cannot tell.
        """
        key = hashlib.blake2b(token.encode(), key=self._secret).digest()
        user = self._user(key, token)
        if user is None:
            raise UnauthenticatedError
        for resource in resources:
            known = self._allowed.get((key, resource))
            allowed = self._allowed.put((key, resource), self._may_get(user, resource)) if known is None else known
            if not allowed:
                raise ForbiddenError(user, resource)
        return user

    def _user(self, key: bytes, token: str) -> User | None:
        if (known := self._users.get(key)) is not None:
            return known
        if self._unknown.has(key):
            return None
        # A token of another audience is good for nothing else: neither for the API server, nor if it is lost.
        user = self._review(token, (AUDIENCE,)) or self._review(token, ())
        return (self._unknown if user is None else self._users).put(key, user)

    def _review(self, token: str, audiences: Sequence[str]) -> User | None:
        """Return who has the token, None if it is invalid or for other audiences.

        Without `audiences`, it has to be for the API server.
        """
        spec = {"token": token, **({"audiences": list(audiences)} if audiences else {})}
        status = self._ask(_TOKEN_REVIEWS, "TokenReview", "authentication.k8s.io/v1", spec, _TokenStatus)
        # An authenticator that knows no audiences answers with none: then the token is one of the API server's.
        meant = not audiences or not set(audiences).isdisjoint(status.audiences)
        return status.user if status.authenticated and meant else None

    def _may_get(self, user: User, resource: Resource) -> bool:
        spec = {
            "user": user.username,
            "uid": user.uid,
            "groups": list(user.groups),
            "extra": {key: list(values) for key, values in user.extra.items()},
            "resourceAttributes": {
                "verb": "get",
                "version": "v1",
                "resource": resource.resource,
                "name": resource.name,
                "namespace": resource.namespace,
            },
        }
        status = self._ask(_ACCESS_REVIEWS, "SubjectAccessReview", "authorization.k8s.io/v1", spec, _AccessStatus)
        return status.allowed and not status.denied

    def _ask(self, path: str, kind: str, version: str, spec: Mapping[str, Any], answer: type[T]) -> T:
        """Make a review; return its status. Errors name neither the token nor the request."""
        body = {"apiVersion": version, "kind": kind, "metadata": {}, "spec": spec}
        try:
            status = self._api.post(path, body, timeouts=_TIMEOUTS).get("status") or {}
            return structs.convert(status, answer)
        except RefusedError as error:
            hint = "the agent's role needs create on it: web.enabled of the chart" if error.status == 403 else ""
            raise Error(Kind.UNAVAILABLE, f"the API server refuses a {kind}: {error.status}", hint=hint) from error
        except UnreachableError as error:
            raise Error(Kind.UNAVAILABLE, f"the API server does not answer a {kind}: {error}") from error
        except msgspec.ValidationError as error:
            raise Error(Kind.UNAVAILABLE, f"the API server's answer is no {kind}: {error}") from error


class _Memory(Generic[T]):
    """Answers by key, each for `seconds`; when there are too many, the oldest is dropped."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._kept: OrderedDict[object, tuple[float, T]] = OrderedDict()

    def has(self, key: object) -> bool:
        with self._lock:
            return key in self._kept and self._kept[key][0] > time.monotonic()

    def get(self, key: object) -> T | None:
        with self._lock:
            until, answer = self._kept.get(key, (0.0, None))
            return answer if until > time.monotonic() else None

    def put(self, key: object, answer: T) -> T:
        with self._lock:
            self._kept.pop(key, None)
            self._kept[key] = (time.monotonic() + self._seconds, answer)
            while len(self._kept) > _MOST:
                self._kept.popitem(last=False)
        return answer

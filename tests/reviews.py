"""The reviews of the API server for tests: who has a token, and what that user, or the one who asks, may do."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]
Right = tuple[str, str, str]  # resource, namespace ("" for an object of the cluster), name

API_AUDIENCE = "https://kubernetes.default.svc"
TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
SELF_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
PATHS = (TOKEN_REVIEWS, ACCESS_REVIEWS, SELF_REVIEWS)
_ATTRIBUTES = frozenset({"namespace", "verb", "group", "version", "resource", "subresource", "name"})
ACCOUNT_TOKEN = re.compile(r"/api/v1/namespaces/(?P<namespace>[^/]+)/serviceaccounts/(?P<name>[^/]+)/token")


class InvalidError(Exception):
    """A review that the API server refuses, with the status of its answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(kw_only=True)
class User:
    """A user with some tokens; `rights` is what it may get."""

    name: str
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    groups: tuple[str, ...] = ("system:authenticated",)
    extra: Mapping[str, list[str]] = field(default_factory=dict)
    rights: set[Right] = field(default_factory=set)

    def described(self) -> Object:
        extra = {"extra": dict(self.extra)} if self.extra else {}
        return {"username": self.name, "uid": self.uid, "groups": list(self.groups), **extra}


class Reviews:
    """Users, their tokens with the audiences of each, and the answers to reviews.

    `forbidden` are verbs and resources ("pods/status") that the caller of the API server may not use itself.
    """

    def __init__(self) -> None:
        self.forbidden: set[tuple[str, str]] = set()
        self._users: dict[str, User] = {}
        self._tokens: dict[str, tuple[User, frozenset[str]]] = {}

    def user(self, name: str, rights: Iterable[Right] = (), **more: Any) -> User:
        self._users[name] = User(name=name, rights=set(rights), **more)
        return self._users[name]

    def token(self, user: User, audience: str = API_AUDIENCE) -> str:
        """Return a new token of the user."""
        made = f"{uuid.uuid4().hex}.{uuid.uuid4().hex}.x_-"
        self._tokens[made] = user, frozenset({audience})
        return made

    def revoke(self, token: str) -> None:
        del self._tokens[token]

    def account(self, namespace: str, name: str, rights: Iterable[Right] = ()) -> User:
        """Create a service account; whoever may create its tokens may be it."""
        return self.user(f"system:serviceaccount:{namespace}:{name}", rights)

    def answer(self, path: str, body: Object) -> Object:
        """Return the review with its status. Raises InvalidError."""
        if match := ACCOUNT_TOKEN.fullmatch(path):
            return self._account_token(body, **match.groupdict())
        kind, group, answer = {
            TOKEN_REVIEWS: ("TokenReview", "authentication.k8s.io/v1", self._authenticate),
            ACCESS_REVIEWS: ("SubjectAccessReview", "authorization.k8s.io/v1", self._authorize),
            SELF_REVIEWS: ("SelfSubjectAccessReview", "authorization.k8s.io/v1", self._authorize_caller),
        }[path]
        if (body.get("kind"), body.get("apiVersion")) != (kind, group):
            raise InvalidError(400, f"the kind in the data ({body.get('kind')}) does not match {kind} of {group}")
        return {**body, "status": answer(body.get("spec") or {})}

    def _account_token(self, body: Object, *, namespace: str, name: str) -> Object:
        """Answer a TokenRequest."""
        user = self._users.get(f"system:serviceaccount:{namespace}:{name}")
        if (body.get("kind"), body.get("apiVersion")) != ("TokenRequest", "authentication.k8s.io/v1"):
            raise InvalidError(400, "the kind in the data does not match TokenRequest of authentication.k8s.io/v1")
        if user is None:
            raise InvalidError(404, f'serviceaccounts "{name}" not found')
        spec = body.get("spec") or {}
        if spec.get("expirationSeconds", 3600) < 600:
            raise InvalidError(422, "spec.expirationSeconds: may not specify a duration less than 10 minutes")
        (audience,) = spec.get("audiences") or [API_AUDIENCE]
        return {**body, "status": {"token": self.token(user, audience)}}

    def _authenticate(self, spec: Object) -> Object:
        if not spec.get("token"):
            raise InvalidError(400, "token is required for TokenReview in authentication")
        user, audiences = self._tokens.get(spec["token"], (None, frozenset()))
        meant = audiences & set(spec.get("audiences") or [API_AUDIENCE])
        if user is None or not meant:
            return {"user": {}, "error": "[invalid bearer token, Token has been invalidated]"}
        return {"authenticated": True, "user": user.described(), "audiences": sorted(meant)}

    def _authorize_caller(self, spec: Object) -> Object:
        wanted = _wanted(spec)
        resource = "/".join(filter(None, (wanted.get("resource"), wanted.get("subresource"))))
        return {"allowed": (wanted.get("verb"), resource) not in self.forbidden}

    def _authorize(self, spec: Object) -> Object:
        wanted = _wanted(spec)
        if not spec.get("user") and not spec.get("groups"):
            raise InvalidError(422, "spec.user: at least one of user or group must be specified")
        user = self._users.get(spec.get("user", ""))
        asked = {key: spec.get(key) for key in ("uid", "groups", "extra") if spec.get(key)}
        described = {} if user is None else user.described()
        described.pop("username", None)
        if user is None or asked != described:  # rights may be bound to a group, so all of it has to be passed on
            return {"allowed": False, "reason": "no such user"}
        right = (wanted.get("resource"), wanted.get("namespace", ""), wanted.get("name", ""))
        core = wanted.get("group", "") == "" and wanted.get("subresource", "") == ""
        return {"allowed": core and wanted.get("verb") == "get" and right in user.rights}


def _wanted(spec: Object) -> Object:
    """Return what a review of access asks about. Raises InvalidError."""
    wanted: Object | None = spec.get("resourceAttributes")
    if wanted is None or spec.get("nonResourceAttributes") is not None:
        raise InvalidError(422, "exactly one of nonResourceAttributes or resourceAttributes must be specified")
    if unknown := wanted.keys() - _ATTRIBUTES:
        raise InvalidError(400, f'strict decoding error: unknown field "spec.resourceAttributes.{min(unknown)}"')
    return wanted

"""Reviews of the API server: may an account do something, and who has a token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from wirespeed import structs
from wirespeed.errors import Error, Kind
from wirespeed.kube.api import Api, Timeouts

_AUTHENTICATION, _AUTHORIZATION = "authentication.k8s.io/v1", "authorization.k8s.io/v1"

T = TypeVar("T")


class Right(NamedTuple):
    """A verb on resources of an API group ("": the core group), as in a rule of a ClusterRole.

    With `name`, on one object; `namespace` is "" for an object of the cluster.
    """

    verb: str
    resource: str
    group: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""

    def __str__(self) -> str:
        resource = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        resource = f"{resource}.{self.group}" if self.group else resource
        name = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return " ".join(filter(None, (self.verb, resource, name)))


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


def owner(api: Api, token: str, audiences: Sequence[str], *, timeouts: Timeouts) -> User | None:
    """Return who has the token, None if it is invalid or for other audiences.

    Without `audiences`, it has to be for the API server. Raises as `may` does.
    """
    spec = {"token": token, **({"audiences": list(audiences)} if audiences else {})}
    status = _review(api, _AUTHENTICATION, "TokenReview", spec, _TokenStatus, timeouts=timeouts)
    # An authenticator that knows no audiences answers with none: then the token is one of the API server's.
    meant = not audiences or not set(audiences).isdisjoint(status.audiences)
    return status.user if status.authenticated and meant else None


def may(api: Api, right: Right, user: User | None = None, *, timeouts: Timeouts) -> bool:
    """Whether the API server allows it to a user; None: to the account that asks.

    Raises RefusedError if the review itself is refused, UnreachableError, and Error(UNAVAILABLE) for an answer that
    is none. No error names a token.
    """
    spec: dict[str, Any] = {"resourceAttributes": {**right._asdict(), "version": "v1"}}
    if user is None:
        status = _review(api, _AUTHORIZATION, "SelfSubjectAccessReview", spec, _AccessStatus, timeouts=timeouts)
    else:
        spec |= {
            "user": user.username,
            "uid": user.uid,
            "groups": list(user.groups),
            "extra": {key: list(values) for key, values in user.extra.items()},
        }
        status = _review(api, _AUTHORIZATION, "SubjectAccessReview", spec, _AccessStatus, timeouts=timeouts)
    return status.allowed and not status.denied


def _review(
    api: Api, version: str, kind: str, spec: Mapping[str, Any], answer: type[T], *, timeouts: Timeouts
) -> T:
    """Make a review; return its status."""
    body = {"apiVersion": version, "kind": kind, "metadata": {}, "spec": spec}
    status = api.post(f"/apis/{version}/{kind.lower()}s", body, timeouts=timeouts).get("status") or {}
    try:
        return structs.convert(status, answer)
    except msgspec.ValidationError as error:
        raise Error(Kind.UNAVAILABLE, f"the API server's answer is no {kind}: {error}") from error

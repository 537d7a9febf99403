"""Who a caller with a bearer token is, and what that user may do: asked of the API server, remembered briefly."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from wirespeed.errors import Error, Kind
from wirespeed.kube import reviews
from wirespeed.kube.api import Api, RefusedError, Timeouts, UnreachableError
from wirespeed.kube.reviews import Right, User

AUDIENCE = "wirespeed"  # of tokens that are good for agents alone
_TIMEOUTS = Timeouts(connect=2.0, read=4.0, total=6.0)
_REMEMBERED = 5.0  # seconds; a token that was revoked is accepted for as long
_MOST = 512  # answers that are remembered at most, of each kind

T = TypeVar("T")


class UnauthenticatedError(Error):
    """The API server does not know the token."""

    def __init__(self) -> None:
        super().__init__(Kind.POLICY, "the API server does not accept this token")


class ForbiddenError(Error):
    """The user may not do this."""

    def __init__(self, user: User, right: Right) -> None:
        super().__init__(Kind.POLICY, f"user {user.username} may not {right}")


class Access:
    """Checks callers, from any thread. What the API server answered holds for a few seconds."""

    def __init__(self, api: Api, *, remembered: float = _REMEMBERED) -> None:
        self._api = api
        self._secret = os.urandom(16)  # the keys below are no use to who reads this process' memory later
        self._users: _Memory[User | None] = _Memory(remembered)
        self._unknown: _Memory[User | None] = _Memory(remembered)  # apart, so that guesses do not displace users
        self._allowed: _Memory[bool] = _Memory(remembered)

    def check(self, token: str, rights: Sequence[Right]) -> User:
        """Return who has the token, if that user has all of the rights.

        Raises UnauthenticatedError, ForbiddenError, and Error(UNAVAILABLE) if the API server cannot tell.
        """
        key = hashlib.blake2b(token.encode(), key=self._secret).digest()
        user = self._user(key, token)
        if user is None:
            raise UnauthenticatedError
        for right in rights:
            known = self._allowed.get((key, right))
            allowed = self._allowed.put((key, right), self._may(user, right)) if known is None else known
            if not allowed:
                raise ForbiddenError(user, right)
        return user

    def _user(self, key: bytes, token: str) -> User | None:
        if (known := self._users.get(key)) is not None:
            return known
        if self._unknown.has(key):
            return None
        # A token of another audience is good for nothing else: neither for the API server, nor if it is lost.
        user = self._owner(token, (AUDIENCE,)) or self._owner(token, ())
        return (self._unknown if user is None else self._users).put(key, user)

    def _owner(self, token: str, audiences: Sequence[str]) -> User | None:
        return self._ask("TokenReview", lambda: reviews.owner(self._api, token, audiences, timeouts=_TIMEOUTS))

    def _may(self, user: User, right: Right) -> bool:
        return self._ask("SubjectAccessReview", lambda: reviews.may(self._api, right, user, timeouts=_TIMEOUTS))

    def _ask(self, what: str, review: Callable[[], T]) -> T:
        """Make a review. Errors name neither the token nor the request."""
        try:
            return review()
        except RefusedError as error:
            hint = "the agent's role needs create on it: web.enabled of the chart" if error.status == 403 else ""
            raise Error(Kind.UNAVAILABLE, f"the API server refuses a {what}: {error.status}", hint=hint) from error
        except UnreachableError as error:
            raise Error(Kind.UNAVAILABLE, f"the API server does not answer a {what}: {error}") from error


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

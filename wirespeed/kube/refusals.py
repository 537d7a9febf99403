"""What the API server refused, and that it did not answer, as errors about the object of the request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from wirespeed.errors import Error, Kind, Thing
from wirespeed.kube.api import Api, RefusedError, UnreachableError
from wirespeed.kube.cluster import NotFoundError, UnavailableError
from wirespeed.kube.retry import may_succeed_soon


@contextmanager
def request_errors(api: Api, what: str | Thing) -> Iterator[None]:
    """Turn errors of requests to `api` that are made inside into Errors about `what`."""
    try:
        yield
    except RefusedError as error:
        raise _to_error(api, error).within(what) from error
    except UnreachableError as error:
        raise UnavailableError(f"no answer from the API server: {error}{_attempts(error)}", where=what) from error


def _to_error(api: Api, error: RefusedError) -> Error:
    if error.status == 404:
        return NotFoundError("the API server has no such object")
    if error.status == 401:  # may be temporary: credentials are replaced at run time
        who = api.credentials.label
        return UnavailableError(f"the API server does not accept the credentials of the {who}: {error}")
    if error.status == 403:
        return Error(Kind.POLICY, f"the API server forbids it: {error}")
    if may_succeed_soon(error):
        return UnavailableError(f"the API server cannot answer now: {error}{_attempts(error)}")
    return Error(Kind.POLICY, f"the API server refuses: {error}")


def _attempts(error: RefusedError | UnreachableError) -> str:
    return f" (after {error.attempts} attempts)" if error.attempts > 1 else ""

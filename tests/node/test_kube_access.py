"""Who has a bearer token, and what that user may get: TokenReview and SubjectAccessReview."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apiserver import ApiServer
from tests.reviews import ACCESS_REVIEWS, TOKEN_REVIEWS
from wirespeed.errors import Error, Kind
from wirespeed.kube import access
from wirespeed.kube.access import Access, ForbiddenError, UnauthenticatedError
from wirespeed.kube.api import Api
from wirespeed.kube.reviews import Right

NODE = Right("get", "nodes", name="n1")
POD = Right("get", "pods", namespace="default", name="web")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(tmp_path) as server:
        yield server


@pytest.fixture
def client(api: ApiServer) -> Iterator[Api]:
    with contextlib.closing(Api(str(api.kubeconfig()))) as made:
        yield made


def test_user_may_see_what_the_role_names_and_nothing_else(api: ApiServer, client: Api) -> None:
    extra = {"authentication.kubernetes.io/pod-name": ["p"]}
    user = api.reviews.user("ann", [("nodes", "", "n1")], groups=("ops", "system:authenticated"), extra=extra)
    checked = Access(client)
    token = api.reviews.token(user)
    assert checked.check(token, [NODE]).username == "ann"
    for other in (POD, NODE._replace(name="n2"), NODE._replace(resource="pods"), NODE._replace(verb="list")):
        with pytest.raises(ForbiddenError, match=f"^user ann may not {other}$"):
            checked.check(token, [NODE, other])


def test_unknown_token_is_nobodys(api: ApiServer, client: Api) -> None:
    user = api.reviews.user("ann", [("nodes", "", "n1")])
    token = api.reviews.token(user)
    api.reviews.revoke(token)
    with pytest.raises(UnauthenticatedError, match=r"^the API server does not accept this token$"):
        Access(client).check(token, [NODE])


def test_token_for_the_agents_alone_is_accepted_and_that_for_another_audience_is_not(
    api: ApiServer, client: Api
) -> None:
    user = api.reviews.user("ann", [("nodes", "", "n1")])
    assert Access(client).check(api.reviews.token(user, access.AUDIENCE), [NODE]).username == "ann"
    with pytest.raises(UnauthenticatedError):
        Access(client).check(api.reviews.token(user, "vault"), [NODE])


def test_answers_hold_for_a_moment_and_no_longer(api: ApiServer, client: Api) -> None:
    user = api.reviews.user("ann", [("nodes", "", "n1")])
    token = api.reviews.token(user, access.AUDIENCE)
    long, none = Access(client, remembered=600), Access(client, remembered=0)
    for checked in (long, long, none, none):
        checked.check(token, [NODE])
    assert api.counts() == {f"POST {TOKEN_REVIEWS}": 3, f"POST {ACCESS_REVIEWS}": 3}
    api.reviews.revoke(token)
    assert long.check(token, [NODE])
    with pytest.raises(UnauthenticatedError):
        none.check(token, [NODE])


def test_guesses_are_remembered_too_and_displace_no_user(
    api: ApiServer, client: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "_MOST", 2)
    token = api.reviews.token(api.reviews.user("ann", [("nodes", "", "n1")]), access.AUDIENCE)
    checked = Access(client, remembered=600)
    checked.check(token, [NODE])
    for guess in ("a", "a", "b", "c"):
        with pytest.raises(UnauthenticatedError):
            checked.check(guess, [NODE])
    api.forget()
    checked.check(token, [NODE])
    assert not api.counts()


def test_agent_without_the_right_to_ask_says_which_value_of_the_chart_gives_it(api: ApiServer, client: Api) -> None:
    api.fault(part="tokenreviews", status=403, message="forbidden: secret-token")
    with pytest.raises(Error) as caught:
        Access(client).check("secret-token", [NODE])
    assert caught.value.kind is Kind.UNAVAILABLE
    assert caught.value.msg == (
        "the API server refuses a TokenReview: 403; the agent's role needs create on it: web.enabled of the chart"
    )


def test_api_server_that_is_down_lets_nobody_in(api: ApiServer, client: Api) -> None:
    token = api.reviews.token(api.reviews.user("ann", [("nodes", "", "n1")]))
    api.stop()
    with pytest.raises(Error, match=r"^the API server does not answer a TokenReview: ") as caught:
        Access(client).check(token, [NODE])
    assert caught.value.kind is Kind.UNAVAILABLE
    assert token not in caught.value.msg

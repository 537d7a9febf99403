"""The options of `kubectl wirespeed` that say which cluster is asked, and as whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from wirespeed.cli.kubectl.session import Caller, Session

_CONNECTION = (
    click.option("--kubeconfig", default="", metavar="FILE", help="The kubeconfig file.  [default: as kubectl]"),
    click.option("--context", default="", metavar="NAME", help="The context.  [default: the current one]"),
    click.option(
        "-n",
        "--namespace",
        default="",
        metavar="NAME",
        help="The namespace of pods, networks and the service account that are given without one.  [default: the "
        "context's]",
    ),
    click.option(
        "--agent-namespace",
        default="kube-system",
        metavar="NAME",
        show_default=True,
        help="The namespace into which the chart was installed. No token is sent to a pod of another one.",
    ),
    click.option(
        "--as-service-account",
        "account",
        default="",
        metavar="[NAMESPACE/]NAME",
        help="Ask the agents as this service account, with a token that only they accept.",
    ),
)


def connected(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which cluster is asked, and as whom; the command gets them as `caller`."""

    @wraps(command)
    def called(
        *, kubeconfig: str, context: str, namespace: str, agent_namespace: str, account: str, **others: Any
    ) -> Any:
        from wirespeed.cli.kubectl.session import Caller  # noqa: PLC0415 — see wirespeed.cli.main

        return command(caller=Caller(kubeconfig, context, namespace, agent_namespace, account), **others)

    for option in reversed(_CONNECTION):
        called = option(called)
    return called


@contextmanager
def connected_session(caller: Caller) -> Iterator[Session]:
    from wirespeed.cli.kubectl.session import Session  # noqa: PLC0415 — see wirespeed.cli.main

    with closing(Session(caller)) as found:
        yield found

"""`wirespeed version` and `wirespeed --version`."""

from __future__ import annotations

from dataclasses import dataclass

import click

from wirespeed import __version__
from wirespeed.cli import options

_COMMIT = (
    "$Format:%H$"  # replaced by `git archive`: the sources of a release know their commit, a checkout does not
)


@dataclass(frozen=True)
class Version:
    """What `wirespeed version --json` prints."""

    version: str
    commit: str  # of the sources; "" if it is not known
    python: str
    cni: tuple[str, ...]  # the supported versions of the CNI specification, the oldest first


@click.command(epilog=options.examples("wirespeed version", "wirespeed version --json | jq -r .version"))
@options.AS_JSON
def version(*, as_json: bool) -> None:
    """Show the version and the supported CNI versions.

    The JSON object has the keys version, commit (of the sources; "" if it is not known), python, and cni: the
    supported versions of CNI.
    """
    show(as_json=as_json)


def show(*, as_json: bool = False) -> None:
    """Print the version: also for `wirespeed --version`."""
    found = _version()
    click.echo(options.as_json(found) if as_json else f"wirespeed {found.version}, CNI {', '.join(found.cni)}")


def _version() -> Version:
    import platform  # noqa: PLC0415 — see wirespeed.cli.main

    from wirespeed.cni.versions import SUPPORTED  # noqa: PLC0415

    commit = "" if _COMMIT.startswith("$") else _COMMIT
    return Version(__version__, commit, platform.python_version(), tuple(SUPPORTED))

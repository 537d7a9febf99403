"""The program `wirespeed` in an application's container: `eal` and `ready`. It needs only Python.

An installation of wirespeed-eal has them as the commands wirespeed-eal and wirespeed-ready.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

_USAGE = """\
Usage: wirespeed COMMAND

For an application in a pod:
  eal    the arguments of DPDK's EAL for the pod's interfaces (wirespeed eal --help)
  ready  whether the ports of the container's DPDK application are up: for a readiness probe
"""
_READY_USAGE = """\
Usage: wirespeed-ready

Exits with 0 if all ports of the container's DPDK application are up, else with 1 and the reason on standard error.
"""


def main(arguments: Sequence[str]) -> int:
    """Run a command; return the exit status."""
    if arguments[:1] == ["eal"]:
        from .command import main as eal  # noqa: PLC0415 — a probe shall not load it

        return eal(arguments[1:])
    if arguments == ["ready"]:
        return ready()
    if arguments in (["-h"], ["--help"]):
        sys.stdout.write(_USAGE)
        return 0
    sys.stderr.write(f"Error: expected eal or ready, got {' '.join(arguments) or 'nothing'}\n{_USAGE}")
    return 2


def ready() -> int:
    """Return 0 if the container's DPDK application is ready; else 1, with the reason on standard error."""
    from .ready import problem, runtime_folder  # noqa: PLC0415

    if text := problem(runtime_folder()):
        sys.stderr.write(f"{text}\n")
    return 1 if text else 0


def eal_script() -> int:
    """Run `wirespeed-eal`; return the exit status."""
    from .command import main as eal  # noqa: PLC0415

    return eal(sys.argv[1:], program="wirespeed-eal")


def ready_script() -> int:
    """Run `wirespeed-ready`; return the exit status."""
    arguments = sys.argv[1:]
    if not arguments:
        return ready()
    help_ = arguments in (["-h"], ["--help"])
    (sys.stdout if help_ else sys.stderr).write(_READY_USAGE)
    return 0 if help_ else 2

"""The options of the lab's command line."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import lab

EPILOG = """\
examples:
  python3 -m lab run -- pytest tests/lab
  python3 -m lab run --timeout 300 --out out -- sh -c 'pytest tests/lab --junitxml=/out/lab.xml'
  python3 -m lab run -- sh -c 'echo 4 > /sys/class/net/ens1/device/sriov_numvfs; ip link'
  python3 -m lab shell

The guest: Debian 13 with its stock kernel; PFs ens1 and ens2 (igb, 7 VFs each), up; IOMMU on; hugepages in
/dev/hugepages; CNI reference plugins in /usr/lib/cni; dpdk-testpmd; the project in /work/wirespeed, its
dependencies in /opt/venv. What it writes is gone afterwards, except to /out (--out).
"""


class Parser(argparse.ArgumentParser):
    """Reports a usage error in one line, without the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"lab: {message} (see {self.prog} --help)\n")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; the command follows the first --. Raises SystemExit(2) for a usage error."""
    ours, command = split(arguments)
    result = parser().parse_args(ours)
    if result.action == "run" and not command:
        parser().error("run needs a command after --, such as: run -- pytest tests/lab")
    if result.action != "run" and command is not None:
        parser().error(f"{result.action} takes no command; use: run -- COMMAND")
    result.command = command
    return result


def split(arguments: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Return what is before the first -- and what is after it (None without --)."""
    given = list(arguments)
    if "--" not in given:
        return given, None
    place = given.index("--")
    return given[:place], given[place + 1 :]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    result = Parser(
        prog="python3 -m lab",
        description=lab.__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = result.add_subparsers(dest="action", required=True, metavar="build|run|shell")
    commands.add_parser("build", help="build what is missing (run and shell do so too); needs root")
    run = commands.add_parser(
        "run",
        help="run one command in a fresh VM and exit with its exit code",
        usage="%(prog)s [OPTIONS] -- COMMAND...",
    )
    run.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="kill the VM if the command takes longer (exit code 125)",
    )
    shell = commands.add_parser("shell", help="a root shell in a fresh VM; leave with exit or Ctrl-]")
    for command in (run, shell):
        add_machine_options(command)
    return result


def add_machine_options(command: argparse.ArgumentParser) -> None:
    """Add the options of run and shell."""
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="the guest's directory /out, shared with this host"
    )
    command.add_argument(
        "--env", type=setting, action="append", default=[], metavar="K=V", help="set a variable in the guest"
    )
    command.add_argument(
        "--add",
        action="append",
        default=[],
        metavar="PATH[:GUESTPATH]",
        help="copy a file or directory that git does not list, such as build/ or /tmp/bin:/opt/peers",
    )
    command.add_argument(
        "--hub",
        choices=("separate", "joined"),
        default="separate",
        help="whether the two PFs are on one wire (joined) or on two (default: separate)",
    )
    command.add_argument(
        "--udev", action="store_true", help="start udevd and wait until it has settled (default: no udevd)"
    )
    command.add_argument(
        "--hugepages", type=count, default=512, metavar="N", help="number of 2 MiB hugepages (default: 512)"
    )
    command.add_argument("--memory", default="4G", metavar="SIZE", help="memory of the guest (default: 4G)")
    command.add_argument(
        "--accel",
        choices=("auto", "kvm", "tcg"),
        default="auto",
        help="auto uses kvm if a probe boots with it (default: auto)",
    )
    command.add_argument("--kernel", default="", metavar="ARGS", help="additional kernel command line arguments")
    command.add_argument("--console", type=Path, metavar="FILE", help="write the guest's console log to this file")


def seconds(text: str) -> float:
    """Parse a positive number of seconds."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return value


def count(text: str) -> int:
    """Parse a whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)


def setting(text: str) -> tuple[str, str]:
    """Parse K=V."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not K=V")
    return name, value

"""The options of the lab's command line."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

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
    options = parser()
    result = options.parse_args(ours)
    if result.action == "run" and not command:
        options.error("run needs a command after --, such as: run -- pytest tests/lab")
    if result.action != "run" and command is not None:
        options.error(f"{result.action} takes no command; use: run -- COMMAND")
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
        "--timeout", type=seconds, metavar="SECONDS", help="kill the VM if the command takes longer (exit code 125)"
    )
    shell = commands.add_parser("shell", help="a root shell in a fresh VM; leave with exit or Ctrl-]")
    for command in (run, shell):
        add_machine_options(command.add_argument)
    return result


def add_machine_options(option: Callable[..., Any]) -> None:
    """Add the options of run and shell; `option` is the parser's add_argument."""
    option("--out", type=Path, metavar="DIR", help="the guest's directory /out, shared with this host")
    option("--env", type=setting, action="append", default=[], metavar="K=V", help="set a variable in the guest")
    option(
        "--add",
        action="append",
        default=[],
        metavar="PATH[:GUESTPATH]",
        help="copy a file or directory that git does not list, such as build/ or /tmp/bin:/opt/peers",
    )
    option(
        "--hub",
        choices=("separate", "joined"),
        default="separate",
        help="whether the two PFs are on one wire (joined) or on two (default: separate)",
    )
    option("--udev", action="store_true", help="start udevd and wait until it has settled (default: no udevd)")
    option("--hugepages", type=count, default=512, metavar="N", help="number of 2 MiB hugepages (default: 512)")
    option("--memory", default="4G", metavar="SIZE", help="memory of the guest (default: 4G)")
    option(
        "--accel",
        choices=("auto", "kvm", "tcg"),
        default="auto",
        help="auto uses kvm if a probe boots with it (default: auto)",
    )
    option("--kernel", default="", metavar="ARGS", help="additional kernel command line arguments")
    option("--console", type=Path, metavar="FILE", help="write the guest's console log to this file")


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return value


def count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)


def setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not K=V")
    return name, value

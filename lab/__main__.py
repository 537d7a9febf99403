"""The command line: python3 -m lab build | run | shell."""

import argparse
import os
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn

from lab.accel import choose
from lab.build import build, cache_folder
from lab.errors import LabError
from lab.progress import Progress
from lab.recipe import REPO
from lab.session import Session
from lab.tree import GUEST_TREE, write_tree
from lab.vm import Files, Machine, scratch, started

FAILED = 125
PASSED_ON = ("TERM", "COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "COLORTERM")
GUEST_PATH = "/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

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


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    result = argparse.ArgumentParser(
        prog="python3 -m lab", description=sys.modules["lab"].__doc__, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = result.add_subparsers(dest="action", required=True, metavar="build|run|shell")
    commands.add_parser("build", help="build what is missing (run and shell do it too); needs root")
    run = commands.add_parser("run", help="run one command in a fresh VM and end with its exit code")
    run.add_argument("--timeout", type=seconds, metavar="SECONDS", help="kill the VM if the command takes longer (exit code 125)")
    shell = commands.add_parser("shell", help="a root shell in a fresh VM; leave with exit or Ctrl-]")
    for command in (run, shell):
        add_machine_options(command)
    run.add_argument("command", nargs="+", metavar="COMMAND", help="command and arguments, after --")
    return result


def add_machine_options(command: argparse.ArgumentParser) -> None:
    """Options that run and shell share."""
    command.add_argument("--out", type=Path, metavar="DIR", help="what the guest writes to /out appears here, at once")
    command.add_argument("--env", type=setting, action="append", default=[], metavar="K=V", help="set a variable in the guest")
    command.add_argument("--add", action="append", default=[], metavar="PATH[:GUESTPATH]",
        help="bring a file or folder besides what git lists, such as build/ or /tmp/bin:/opt/peers")
    command.add_argument("--hub", choices=("separate", "joined"), default="separate",
        help="whether the two PFs are on one wire (default: separate)")
    command.add_argument("--udev", action="store_true", help="start udevd and settle (default: no udevd)")
    command.add_argument("--hugepages", type=int, default=512, metavar="N", help="2 MiB pages (default: 512)")
    command.add_argument("--memory", default="4G", metavar="SIZE", help="of the guest (default: 4G)")
    command.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto",
        help="auto takes kvm if a probe boots under it (default: auto)")
    command.add_argument("--kernel", default="", metavar="ARGS", help="more kernel command line")
    command.add_argument("--console", type=Path, metavar="FILE", help="keep the guest's console log here")


def seconds(text: str) -> float:
    """A positive number of seconds."""
    value = float(text)
    if not value > 0:
        raise ValueError(text)
    return value


def setting(text: str) -> tuple[str, str]:
    """K=V."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not K=V")
    return name, value


def job(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the guest's agent is told to do."""
    size = shutil.get_terminal_size()
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    if arguments.action == "shell" or sys.stdout.isatty():
        environment |= {"TERM": os.environ.get("TERM", "dumb")}
    if arguments.action == "run" and sys.stdout.isatty():
        environment |= {"COLUMNS": str(size.columns), "LINES": str(size.lines)}
    environment |= {"PATH": GUEST_PATH, "PYTHONPATH": GUEST_TREE, "HOME": "/root", "USER": "root", "SHELL": "/bin/bash"}
    environment |= {"LANG": "C.UTF-8", "VIRTUAL_ENV": "/opt/venv", "WIRESPEED_LAB": "1"}
    environment |= dict(arguments.env)
    return {
        "do": arguments.action,
        "command": arguments.command if arguments.action == "run" else ["/bin/bash", "-i"],
        "environment": environment,
        "folder": GUEST_TREE,
        "rows": size.lines,
        "columns": size.columns,
    }


def in_vm(arguments: argparse.Namespace, progress: Progress) -> int:
    """Boots a VM, does the job, returns its exit code."""
    artefacts = build(progress)
    accel = choose(artefacts, arguments.accel, progress)
    machine = Machine(accel=accel, memory=arguments.memory, hugepages=arguments.hugepages, hub=arguments.hub,
        udev=arguments.udev, extra_kernel=arguments.kernel)
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        out = arguments.out or folder / "out"
        out.mkdir(parents=True, exist_ok=True)
        tree = folder / "tree.tar"
        write_tree(tree, REPO, add=arguments.add)
        console = arguments.console or folder / "console.log"
        files = Files(artefacts=artefacts, tree=tree, out=out.resolve(), console=console.resolve())
        begin = time.monotonic()
        with progress.step(f"booting ({accel})", done="up"):
            vm = stack.enter_context(started(files, machine, folder))
            session = Session(vm, {"out": sys.stdout.fileno(), "err": sys.stderr.fileno()})
            session.boot()
        progress.close()
        if arguments.action == "run":
            return session.run(job(arguments), arguments.timeout)
        return interact(session, job(arguments))


def interact(session: Session, shell: dict[str, Any]) -> int:
    """A shell on this terminal."""
    with raw_terminal(sys.stdin.fileno()), resized(session):
        code = session.shell(shell, sys.stdin.fileno())
    print("lab: left" if code is None else f"lab: the shell ended with {code}", file=sys.stderr)
    return code or 0


@contextmanager
def raw_terminal(terminal: int) -> Iterator[None]:
    """Every key goes to the guest."""
    before = termios.tcgetattr(terminal)
    tty.setraw(terminal)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


@contextmanager
def resized(session: Session) -> Iterator[None]:
    """The guest's terminal follows the size of ours."""

    def follow(*_: object) -> None:
        size = shutil.get_terminal_size()
        session.send(do="resize", rows=size.lines, columns=size.columns)

    before = signal.signal(signal.SIGWINCH, follow)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


class Stopped(BaseException):
    """SIGINT, SIGTERM or SIGHUP came; unwinds everything, whatever is under way."""


def stop_on_signals() -> None:
    """Signals unwind like errors, so that no VM and no folder stays."""

    def stop(number: int, _: object) -> NoReturn:
        raise Stopped(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: the command's own, 125 if the lab failed, 2 for bad use."""
    asked = parser().parse_args(arguments)
    stop_on_signals()
    try:
        with Progress() as progress:
            if asked.action == "build":
                build(progress)
                progress.say(f"built in {cache_folder()}")
                return 0
            if asked.action == "shell" and not sys.stdin.isatty():
                raise LabError("shell needs a terminal; for scripts there is: python3 -m lab run -- COMMAND")
            return in_vm(asked, progress)
    except LabError as error:
        if error.detail:
            print(error.detail, file=sys.stderr)
        print(f"lab: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
    except Stopped as stopped:
        number = int(stopped.args[0])
        print(f"lab: stopped by {signal.Signals(number).name}", file=sys.stderr)
        return 128 + number


if __name__ == "__main__":
    sys.exit(main())

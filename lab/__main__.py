"""The command line: python3 -m lab build | run | shell."""

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, NoReturn

from lab.accel import choose
from lab.build import build, cache_folder
from lab.errors import LabError
from lab.options import parse
from lab.progress import Progress
from lab.recipe import REPO
from lab.scratch import scratch
from lab.session import Session
from lab.terminal import shared_terminal
from lab.tree import GUEST_TREE, write_tree
from lab.vm import Files, Machine, started

FAILED = 125
PASSED_ON = ("TERM", "COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "COLORTERM")
GUEST_ENVIRONMENT = {
    "PATH": "/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONPATH": GUEST_TREE,
    "HOME": "/root",
    "USER": "root",
    "SHELL": "/bin/bash",
    "LANG": "C.UTF-8",
    "VIRTUAL_ENV": "/opt/venv",
    "WIRESPEED_LAB": "1",
}


def job(arguments: argparse.Namespace) -> dict[str, Any]:
    size = shutil.get_terminal_size()
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    if arguments.action == "shell" or sys.stdout.isatty():
        environment |= {"TERM": os.environ.get("TERM", "dumb")}
    if arguments.action == "run" and sys.stdout.isatty():
        environment |= {"COLUMNS": str(size.columns), "LINES": str(size.lines)}
    environment |= GUEST_ENVIRONMENT | dict(arguments.env)
    return {
        "do": arguments.action,
        "command": arguments.command if arguments.action == "run" else ["/bin/bash", "-i"],
        "environment": environment,
        "folder": GUEST_TREE,
        "rows": size.lines,
        "columns": size.columns,
    }


def in_vm(arguments: argparse.Namespace, progress: Progress) -> int:
    """Boot a VM and run the job; return its exit code."""
    if arguments.action == "shell" and not sys.stdin.isatty():
        raise LabError("shell needs a terminal; for scripts there is: python3 -m lab run -- COMMAND")
    artefacts = build(progress)
    accel = choose(artefacts, arguments.accel, progress)
    machine = Machine(
        accel=accel,
        memory=arguments.memory,
        hugepages=arguments.hugepages,
        hub=arguments.hub,
        udev=arguments.udev,
        extra_kernel=arguments.kernel,
    )
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        out = arguments.out or folder / "out"
        out.mkdir(parents=True, exist_ok=True)
        tree = folder / "tree.tar"
        write_tree(tree, REPO, add=arguments.add)
        console = arguments.console or folder / "console.log"
        files = Files(artefacts=artefacts, tree=tree, out=out.resolve(), console=console.resolve())
        with progress.step(f"booting ({accel})", done="up"):
            vm = stack.enter_context(started(files, machine, folder))
            session = Session(vm, {"out": sys.stdout.fileno(), "err": sys.stderr.fileno()})
            session.boot()
        progress.close()
        if arguments.action == "run":
            return session.run(job(arguments), arguments.timeout)
        with shared_terminal(session, sys.stdin.fileno()):
            code = session.shell(job(arguments), sys.stdin.fileno())
        print("lab: left" if code is None else f"lab: the shell ended with {code}", file=sys.stderr)
        return code or 0


class Stopped(BaseException):
    """SIGINT, SIGTERM or SIGHUP was received. Not an Exception, so that no handler of errors stops it."""


def exit_code(label: str, work: Callable[[Progress], int]) -> int:
    """Do the work of a command line; return its exit code, or 125 if it failed."""

    def stop(number: int, _: object) -> NoReturn:
        raise Stopped(number)

    # Signals are exceptions, so that no VM and no directory is left behind.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, stop)
    try:
        with Progress(label=label) as progress:
            return work(progress)
    except LabError as error:
        if error.detail:
            print(error.detail, file=sys.stderr)
        print(f"{label}: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
    except OSError as error:
        print(f"{label}: {error}", file=sys.stderr)
        return FAILED
    except Stopped as stopped:
        number = int(stopped.args[0])
        print(f"{label}: stopped by {signal.Signals(number).name}", file=sys.stderr)
        return 128 + number


def work(asked: argparse.Namespace, progress: Progress) -> int:
    if asked.action != "build":
        return in_vm(asked, progress)
    build(progress)
    progress.say(f"built in {cache_folder()}")
    return 0


def main() -> int:
    """Run the command line; return the command's exit code, 125 if the lab failed, 2 for a usage error."""
    return exit_code("lab", partial(work, parse(sys.argv[1:])))


if __name__ == "__main__":
    sys.exit(main())

"""`wirespeed eal` and `wirespeed-eal`: the options, and what is printed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from . import args, pod

_TEXT = """\
Print the arguments of DPDK's EAL for this pod's interfaces, CPUs and hugepages, on one line.

    dpdk-testpmd $({program}) -- --forward-mode=io --auto-start

VFs come from PCIDEVICE_* and network-status, vhost-user and memif sockets from network-status, from the
annotations userspace/*, and from the files beside the sockets. A socket that the application shall listen on,
and that one which was killed has left there, is removed.
"""


def main(arguments: Sequence[str], *, program: str = "wirespeed eal") -> int:
    """Do what the options say; the exit status. `program` is how the help calls the command."""
    options = _parser(program).parse_args(arguments)
    sources = pod.Sources(podinfo=options.podinfo, sockets=tuple(options.sockets))
    if options.json:
        sys.stdout.write(json.dumps([asdict(interface) for interface in pod.interfaces(sources)], indent=2) + "\n")
        return 0
    try:
        pod.remove_stale(pod.interfaces(sources))
        told = args.arguments(sources, cores=options.cores, memory=options.memory, file_prefix=options.file_prefix)
    except (args.EalError, OSError) as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    sys.stdout.write(" ".join(told) + "\n")
    return 0


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description=_TEXT.format(program=program),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--podinfo",
        type=Path,
        default=Path("/etc/podnetinfo"),
        metavar="FOLDER",
        help="where the Downward API is mounted (default: %(default)s)",
    )
    add(
        "--sockets",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="a folder with sockets, or a file configData-*.json in one; may be given more than once",
    )
    add("--cores", type=_count, default=0, metavar="N", help="how many of the container's CPUs; 0 is all")
    add("--memory", type=_count, metavar="MIB", help="MiB of hugepages, instead of the container's limit")
    add(
        "--file-prefix",
        default="",
        metavar="NAME",
        help="instead of one made of the pod's and the container's name",
    )
    add("--json", action="store_true", help="the pod's interfaces as JSON, instead of arguments")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number from 0, got {text!r}")
    return int(text)

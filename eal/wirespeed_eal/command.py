"""`wirespeed eal` and `wirespeed-eal`: options and output."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from . import args, pod

_TEXT = """\
Print the arguments of DPDK's EAL for this pod's interfaces, CPUs and hugepages, on one line.

    dpdk-testpmd $({program}) -- --forward-mode=io --auto-start

VFs come from PCIDEVICE_* and network-status, vhost-user and memif sockets from network-status, from the
annotations userspace/*, and from the files beside the sockets. If an application that was killed left behind the
socket that this one is to listen on, the socket is removed.
"""


def main(arguments: Sequence[str], *, program: str = "wirespeed eal") -> int:
    """Run the command; return the exit status. `program` is the command's name in its help."""
    options = _parser(program).parse_args(arguments)
    sources = pod.Sources(podinfo=options.podinfo, sockets=tuple(options.sockets))
    if options.json:
        sys.stdout.write(json.dumps(listed(pod.interfaces(sources)), indent=2) + "\n")
        return 0
    try:
        pod.remove_stale(pod.interfaces(sources))
        line = args.arguments(sources, cores=options.cores, memory=options.memory, file_prefix=options.file_prefix)
    except (args.EalError, OSError) as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    sys.stdout.write(" ".join(line) + "\n")
    return 0


def listed(interfaces: Iterable[pod.Interface]) -> list[dict[str, object]]:
    """Return interfaces for JSON, with keys in camelCase as in what other commands print."""
    return [{_camel_case(name): value for name, value in asdict(each).items()} for each in interfaces]


def _camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.title, others))


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
        help="directory where the Downward API is mounted (default: %(default)s)",
    )
    add(
        "--sockets",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="a directory with sockets, or a file configData-*.json; may be given several times",
    )
    add("--cores", type=_count, default=0, metavar="N", help="number of the container's CPUs to use; 0 means all")
    add("--memory", type=_count, metavar="MIB", help="MiB of hugepages (default: the container's limit)")
    add(
        "--file-prefix",
        default="",
        metavar="NAME",
        help="prefix of hugepage files (default: made from the pod's and the container's name)",
    )
    add("--json", action="store_true", help="print the pod's interfaces as JSON instead of the arguments")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number from 0, got {text!r}")
    return int(text)

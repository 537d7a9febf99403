"""The command line: python3 -m bench host | lab | vhost | deviceplugin."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import bench
from bench import deviceplugin, host, lab, systems, vhost
from bench.figures import Figures
from bench.systems import SHIM, CallFailedError

EPILOG = """\
examples:
  python3 -m bench host --out figures
  python3 -m bench host --peer 'other=/opt/other/plugin:/tmp/other.conf:/opt/other'
  python3 -m lab run --add build -- python3 -m bench lab
  python3 -m bench vhost --peer other=/opt/other/plugin
  python3 -m bench deviceplugin --peer 'other=/opt/other/plugin --config-file @CONFIG@'
"""


class Where(NamedTuple):
    """A benchmark: where it runs, and with which peers (other systems) it can compare."""

    measure: Callable[[argparse.Namespace], Figures]
    text: str
    peer_text: str
    peer: str = systems.PEER
    read_peer: Callable[[str], Any] = systems.read_peer
    rounds: int = 40


WHERES = {
    "host": Where(host.measure, "this machine: pods with bridged networks", systems.PEER_TEXT + host.PEER_TEXT),
    "lab": Where(lab.measure, "inside the lab VM: its SR-IOV VFs", systems.PEER_TEXT + lab.PEER_TEXT),
    "vhost": Where(
        vhost.measure,
        "this machine: vhost-user ports of Open vSwitch with DPDK",
        *(vhost.PEER_TEXT, vhost.PEER, vhost.read_peer),
    ),
    "deviceplugin": Where(
        deviceplugin.measure,
        "this machine: device plugins on 8 PFs with VFs",
        *(deviceplugin.PEER_TEXT, deviceplugin.PEER, deviceplugin.read_peer),
        rounds=5,
    ),
}


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    if not SHIM.exists():
        parser.error(f"{SHIM} is not built: make {SHIM.relative_to(SHIM.parents[1])}")
    try:
        figures = WHERES[arguments.where].measure(arguments)
    except CallFailedError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    figures.show()
    if arguments.out is not None:
        figures.write(arguments.out, f"bench-{arguments.where}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m bench",
        description=bench.__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    wheres = parser.add_subparsers(dest="where", required=True, metavar="WHERE")
    for name, where in WHERES.items():
        option = wheres.add_parser(name, help=where.text, description=f"Figures of {where.text}.").add_argument
        rounds = "number of rounds, with one turn per system (default: %(default)s)"
        option("--rounds", type=int, default=where.rounds, metavar="N", help=rounds)
        peer = _reader(where.read_peer)
        option("--peer", type=peer, action="append", default=[], metavar=where.peer, help=where.peer_text)
        out = f"write bench-{name}.md and bench-{name}.json to this directory"
        option("--out", type=Path, metavar="DIR", help=out)
        if name == "deviceplugin":
            vfs = "number of VFs of each PF (default: %(default)s)"
            option("--vfs", type=int, default=deviceplugin.VFS, metavar="N", help=vfs)
        if name == "host":
            service = "a shell command to run meanwhile, for a peer with a daemon"
            option("--service", action="append", default=[], metavar="COMMAND", help=service)
    return parser


def _reader(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Turn ValueError of `read` into argparse's error for --peer."""

    def peer(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return peer


if __name__ == "__main__":
    sys.exit(main())

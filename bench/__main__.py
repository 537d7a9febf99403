"""The command line: python3 -m bench host | lab."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import bench
from bench import host, lab
from bench.systems import PEER_HELP, SHIM, CallFailedError, Peer, read_peer

EPILOG = """\
examples:
  python3 -m bench host --out figures
  python3 -m bench host --peer 'other=/opt/other/plugin:/tmp/other.conf:/opt/other'
  python3 -m lab run --add build -- python3 -m bench lab

In the lab, --peer's configuration says "@KERNEL@" or "@VFIO@" for the address of the VF that it is measured with.
On the host it may say "@KUBECONFIG@", and a --service has KUBECONFIG in its environment: of the API server that
all systems ask. It has the pod default/bench, whose annotation names the networks net1 and net2.
python3 -m bench.vhost measures ports of Open vSwitch.
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m bench",
        description=bench.__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "where", choices=("host", "lab"), help="this machine, or (inside the lab VM) its SR-IOV VFs"
    )
    parser.add_argument(
        "--rounds", type=int, default=40, metavar="N", help="how often each is called (default: 40)"
    )
    parser.add_argument(
        "--peer", type=_peer, action="append", default=[], metavar="NAME=BINARY:CONF[:CNI_PATH]", help=PEER_HELP
    )
    parser.add_argument(
        "--service",
        action="append",
        default=[],
        metavar="COMMAND",
        help="a shell command that runs beside, for a peer with a daemon (host only)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write bench-WHERE.md and bench-WHERE.json there")
    arguments = parser.parse_args()
    if not SHIM.exists():
        parser.error(f"{SHIM} is not built: make {SHIM.relative_to(SHIM.parents[1])}")
    try:
        figures = {"host": host, "lab": lab}[arguments.where].measure(arguments)
    except CallFailedError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    figures.show()
    if arguments.out is not None:
        figures.write(arguments.out, f"bench-{arguments.where}")
    return 0


def _peer(text: str) -> Peer:
    try:
        return read_peer(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())

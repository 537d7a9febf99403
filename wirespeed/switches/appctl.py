"""Commands of ovs-vswitchd itself, as ovs-appctl(8) sends them, and the counters of its ports.

Its database has counters too, but ovs-vswitchd writes them there only every 5 seconds (stats-update-interval of
ovs-vswitchd.conf.db(5)), which is too rarely for rates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from wirespeed.errors import as_error
from wirespeed.switches import ovsdb
from wirespeed.switches.switch import SwitchDownError

_PORT = re.compile(r"^  port \d+: (?P<name>\S+)")
_COUNTERS = re.compile(
    r"^    (?P<way>RX|TX) packets:(?P<packets>\d+|\?) errors:(?P<errors>\d+|\?) dropped:(?P<dropped>\d+|\?)"
)
_BYTES = re.compile(r"^    RX bytes:(?P<rx>\d+|\?)(?: \([^)]*\))?  TX bytes:(?P<tx>\d+|\?)")


def port_counters(rundir: Path, *, deadline: float) -> dict[str, dict[str, int]]:
    """Return the counters of the ports of the userspace datapath (DPDK) by name, from the switch's point of view.

    They are rx_packets, tx_bytes, rx_dropped, tx_errors ...; a port lacks those that its driver does not count. {}
    if the switch has no such datapath. Raises SwitchDownError.
    """
    listed = str(run(rundir, "dpctl/dump-dps", deadline=deadline)).split()
    shown = [
        run(rundir, "dpctl/show", "-s", name, deadline=deadline) for name in listed if name.startswith("netdev@")
    ]
    return parse_counters("\n".join(shown))


def run(rundir: Path, command: str, *arguments: str, deadline: float) -> str:
    """Return what a command of ovs-vswitchd prints. Raises SwitchDownError, or Error if it refuses the command."""
    pidfile = rundir / "ovs-vswitchd.pid"
    try:
        pid = int(pidfile.read_text())
    except (OSError, ValueError) as error:
        reason = as_error(error).what if isinstance(error, OSError) else str(error)
        raise SwitchDownError(reason, where=str(pidfile)) from error
    # The first part is the executable's name: Debian's ovs-vswitchd-dpdk may have been started by its own.
    found = sorted(rundir.glob(f"ovs-vswitchd*.{pid}.ctl"))
    remote = f"unix:{found[0] if found else rundir / f'ovs-vswitchd.{pid}.ctl'}"
    try:
        with ovsdb.connected(remote, deadline=deadline) as switch:
            return str(switch.call(command, list(arguments)))
    except SwitchDownError as error:
        raise error.at(where=[f"ovs-vswitchd at {remote}"]) from error


def parse_counters(text: str) -> dict[str, dict[str, int]]:
    """Return the counters by port in the output of `dpctl/show -s`; "?" is a counter that a port does not have."""
    found: dict[str, dict[str, int]] = {}
    port: dict[str, int] = {}
    for line in text.splitlines():
        if match := _PORT.match(line):
            port = found.setdefault(match["name"], {})
        elif match := _COUNTERS.match(line):
            way = match["way"].lower()
            port.update(_numbers({f"{way}_{name}": match[name] for name in ("packets", "errors", "dropped")}))
        elif match := _BYTES.match(line):
            port.update(_numbers({"rx_bytes": match["rx"], "tx_bytes": match["tx"]}))
    return found


def _numbers(texts: Mapping[str, str]) -> dict[str, int]:
    return {name: int(text) for name, text in texts.items() if text != "?"}

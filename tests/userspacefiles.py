"""What userspace-CNI (built in February 2025, with Open vSwitch 3.1) leaves behind for a port.

KEPT is a file found in its `data` directory. The rows in the switch are created by the same commands as it uses.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.node.vhost.conftest import Switch

KEPT = '{"vhostname":"aaaaaaaaaaaa-net1","vhostmac":"","ifmac":"06:ca:e8:c7:0a:bb"}'
KEPT_OF_VPP = '{"swIfIndex":1,"memifSocketId":1}'  # written by hand in the format of cnivpp/localdb.go


def keep(base: Path, container: str, ifname: str, port: str = "") -> Path:
    """Write the file of an attachment to Open vSwitch."""
    data = base / "data"
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = data / f"local-{container[:12]}-{ifname}.json"
    file.write_text(json.dumps({**json.loads(KEPT), "vhostname": port or f"{container[:12]}-{ifname}"}))
    return file


def make_port(switch: Switch, bridge: str, port: str, folder: Path, *, mode: str = "client") -> None:
    """Create a port, and its bridge if it does not exist."""
    if not switch.vsctl("--bare", "--columns=name", "find", "bridge", f"name={bridge}"):
        switch.vsctl("add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=netdev")
        switch.add_flow(bridge, "actions=NORMAL")
    settings = ["type=dpdkvhostuserclient", f"options:vhost-server-path={folder / port}"]
    if mode != "client":
        settings = ["type=dpdkvhostuser"]
    switch.vsctl("add-port", bridge, port, "--", "set", "Interface", port, *settings)
    if mode != "client":
        (switch.rundir / port).rename(folder / port)

"""What userspace-CNI leaves of a port, as its build of February 2025 did beside Open vSwitch 3.1.

KEPT is a file of its `data` folder as it was found; the rows of the switch are made by the same commands.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.node.vhost.conftest import Switch

KEPT = '{"vhostname":"aaaaaaaaaaaa-net1","vhostmac":"","ifmac":"06:ca:e8:c7:0a:bb"}'
KEPT_OF_VPP = '{"swIfIndex":1,"memifSocketId":1}'  # its form alone, from cnivpp/localdb.go


def keep(base: Path, container: str, ifname: str, port: str = "") -> Path:
    """The file of an attachment to Open vSwitch."""
    data = base / "data"
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = data / f"local-{container[:12]}-{ifname}.json"
    file.write_text(json.dumps({**json.loads(KEPT), "vhostname": port or f"{container[:12]}-{ifname}"}))
    return file


def make_port(switch: Switch, bridge: str, port: str, folder: Path, *, mode: str = "client") -> None:
    """A port, and its bridge where there is none."""
    if not switch.vsctl("--bare", "--columns=name", "find", "bridge", f"name={bridge}"):
        switch.vsctl("add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=netdev")
        switch.add_flow(bridge, "actions=NORMAL")
    settings = ["type=dpdkvhostuserclient", f"options:vhost-server-path={folder / port}"]
    if mode != "client":
        settings = ["type=dpdkvhostuser"]
    switch.vsctl("add-port", bridge, port, "--", "set", "Interface", port, *settings)
    if mode != "client":
        (switch.rundir / port).rename(folder / port)

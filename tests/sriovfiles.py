"""The files that sriov-cni keeps for a VF, in its format (2.10: pkg/types, NetConf)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ORIGINAL = {
    "HostIFName": "enp3s0f0v0",
    "SpoofChk": True,
    "Trust": False,
    "AdminMAC": "00:00:00:00:00:00",
    "EffectiveMAC": "b6:11:22:33:44:55",
    "Vlan": 0,
    "VlanQoS": 0,
    "VlanProto": 33024,
    "MinTxRate": 0,
    "MaxTxRate": 0,
    "LinkState": 0,
    "MTU": 1500,
}


def kept(
    device: str, *, name: str = "fast", original: dict[str, Any] | None = None, **config: Any
) -> dict[str, Any]:
    """The file of a VF. `config` is the user's configuration; `original` overrides its earlier state."""
    return {
        "cniVersion": "1.0.0",
        "name": name,
        "type": "sriov",
        "ipam": {"type": "host-local"},
        "dns": {},
        "OrigVfState": {**ORIGINAL, **(original or {})},
        "Master": "enp3s0f0",
        "MAC": "",
        "MTU": 1500,
        "vlan": None,
        "vlanQoS": None,
        "vlanProto": None,
        "deviceID": device,
        "VFID": 0,
        "min_tx_rate": None,
        "max_tx_rate": None,
        "runtimeConfig": {},
        **config,
    }


def write(folder: Path, container: str, ifname: str, netns: str, value: dict[str, Any]) -> None:
    """Write the files of one attachment."""
    (folder / "pci").mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / f"{container}-{ifname}").write_text(json.dumps(value))
    (folder / "pci" / value["deviceID"]).write_text(netns)

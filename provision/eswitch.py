"""The mode of a PF's embedded switch, by devlink."""

from __future__ import annotations

import json
import subprocess

from wirespeed.cni.errors import CniError, Code


def mode(address: str) -> str:
    """ "legacy" or "switchdev"; a PF without a devlink eswitch has the legacy way of working."""
    done = _devlink("-j", "dev", "eswitch", "show", f"pci/{address}")
    if done.returncode:
        return "legacy"
    try:
        return str(json.loads(done.stdout)["dev"][f"pci/{address}"]["mode"])
    except (ValueError, LookupError, TypeError):
        return "legacy"


def set_mode(address: str, wanted: str) -> None:
    """Set it. Raises CniError(DEVICE) with what the driver answers."""
    done = _devlink("dev", "eswitch", "set", f"pci/{address}", "mode", wanted)
    if done.returncode:
        raise CniError(Code.DEVICE, f"PF {address}: eswitch mode {wanted}: {' '.join(done.stderr.split())}")


def _devlink(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["devlink", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return subprocess.CompletedProcess(arguments, 127, "", "the program devlink (iproute2) is not there")

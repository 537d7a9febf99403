"""What devlink and ddptool report about NICs and sysfs does not: DDP profiles, and whether RDMA is enabled."""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

log = logging.getLogger(__name__)

_PROFILE = "fw.app.name"  # linux/devlink.h: DEVLINK_INFO_VERSION_GENERIC_FW_APP_NAME
_NO_PROFILE = 8  # ddptool's exit status for a NIC without one
_TIMEOUT = 30.0  # seconds: a NIC whose firmware does not answer must not block everything


@dataclass
class Firmware:
    """Queries only what is wanted and caches the answers, as NICs answer slowly. Each failure is logged once."""

    wants_profiles: bool = False
    wants_rdma: bool = False
    _ddptool_profiles: dict[str, str] = field(default_factory=dict)
    _logged: set[str] = field(default_factory=set)

    def profile(self, address: str, pf: str) -> str:
        """Return the DDP profile that devlink reports for a device or its PF, else ddptool's; "" if not wanted."""
        if not self.wants_profiles:
            return ""
        if found := self._profiles.get(address) or self._profiles.get(pf):
            return found
        if address not in self._ddptool_profiles:
            self._ddptool_profiles[address] = self._ask_ddptool(address)
        return self._ddptool_profiles[address]

    def has_rdma(self, address: str) -> bool:
        """Whether RDMA is enabled on the device, even if its RDMA device is in a pod and not visible in sysfs."""
        return self.wants_rdma and address in self._rdma

    def clear_cache(self) -> None:
        """Drop the cached answers."""
        self.__dict__.pop("_profiles", None)
        self.__dict__.pop("_rdma", None)
        self._ddptool_profiles.clear()

    @cached_property
    def _profiles(self) -> Mapping[str, str]:
        return profiles(self._devlink("dev", "info").get("info", {}))

    @cached_property
    def _rdma(self) -> frozenset[str]:
        return rdma_enabled(self._devlink("dev", "param", "show").get("param", {}))

    def _ask_ddptool(self, address: str) -> str:
        try:
            done = _run("ddptool", "-l", "-a", "-j", "-s", address)
            return profile_of_ddptool(done.returncode, done.stdout)
        except FileNotFoundError:
            return ""
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            self._warn(f"ddptool for {address}: {error}")
            return ""

    def _devlink(self, *arguments: str) -> dict[str, Any]:
        """Run devlink and return its JSON answer, {} without one."""
        command = f"devlink {' '.join(arguments)}"
        try:
            done = _run("devlink", "-j", *arguments)
            answer = json.loads(done.stdout or "{}")
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            self._warn(f"{command}: {error}")
            return {}
        if done.returncode:
            self._warn(f"{command}: exit status {done.returncode}: {done.stderr.strip()}")
        return answer if isinstance(answer, dict) else {}

    def _warn(self, text: str) -> None:
        if text not in self._logged:
            self._logged.add(text)
            log.warning("%s", text)


def profiles(info: Mapping[str, Any]) -> dict[str, str]:
    """Return the DDP profiles by PCI address; `info` is that key of the output of `devlink -j dev info`."""
    running = {handle: device.get("versions", {}).get("running", {}) for handle, device in info.items()}
    return {handle.removeprefix("pci/"): each[_PROFILE] for handle, each in running.items() if _PROFILE in each}


def rdma_enabled(params: Mapping[str, Any]) -> frozenset[str]:
    """Return the PCI addresses with `enable_rdma` on; `params` is key `param` of `devlink -j dev param show`."""
    return frozenset(
        handle.removeprefix("pci/")
        for handle, found in params.items()
        for param in found
        if param["name"] == "enable_rdma" and any(value.get("value") is True for value in param["values"])
    )


def profile_of_ddptool(status: int, output: str) -> str:
    """Return the profile in the output of `ddptool -l -a -j -s <address>`, "" for none. Raises ValueError."""
    if status == _NO_PROFILE:
        return ""
    if status:
        raise ValueError(f"exit status {status}")
    try:
        inventory = json.loads(output)["DDPInventory"]
        name = (inventory[0] if isinstance(inventory, list) else inventory)["DDPpackage"]["name"]
    except (LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"expected DDPInventory.DDPpackage.name, got {output[:60]!r}") from error
    if not isinstance(name, str):
        raise ValueError(f"expected a name as DDPInventory.DDPpackage.name, got {name!r}")
    return name


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT, check=False)

"""A play's own directory, and the files in it that the agent reads."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wirespeed import errors, program
from wirespeed.cni.chain import load_network
from wirespeed.deviceplugin import config
from wirespeed.errors import Error, Kind, Thing
from wirespeed.node import NodeConfig, load_config
from wirespeed.play import admission
from wirespeed.play.environment import BASE
from wirespeed.play.manifests import Manifests
from wirespeed.play.objects import Pod
from wirespeed.plugins.meta.devices import DeviceUse, device_use
from wirespeed.plugins.meta.networks import RESOURCE_NAME

SESSIONS = "/run"  # a short path, because socket paths have a length limit


class Session:
    """The directory of one play, and the paths in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifests = folder / "manifests"  # the agent's substitute for the API server
        self.kubelet = folder / "kubelet"
        self.cdi = folder / "cdi"  # CDI specifications of the device plugin
        self.pods = folder / "pods"  # the pods' directories
        self.root = folder / "root"  # empty; containers' roots are mounted here
        self.links = folder / "bin"  # links to the shim, one per plugin name
        self.program = folder / "wirespeed"  # this program as it is mounted into containers
        self.agent = folder / "agent.json"
        self.state = folder / "pods.json"

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def config(self) -> NodeConfig:
        return load_config(self.agent)

    def write(self, manifests: Manifests, device_plugin: str) -> None:
        """Write what the agent reads, except the pods. `device_plugin` is the device plugin's configuration."""
        for folder in (self.manifests, self.kubelet, self.pods, self.root, self.links):
            folder.mkdir()
        # The python3 of a container's PATH: its user may have no access to the interpreter of this process.
        program.write(self.program, shutil.which("python3", path=BASE["PATH"]) or os.path.realpath(sys.executable))
        for (namespace, name), raw in manifests.networks.items():
            write(self.manifests / f"network_{namespace}_{name}.json", raw)
        if device_plugin:
            (self.folder / "config.json").write_text(device_plugin)
        # VFs and addresses are shared with everything else on this machine, so the journal, its records and the
        # leases keep their default paths. Sandboxes removed by the node's own runtime are left to the node's own
        # agent to collect ("runtimes" is empty).
        keys = {
            "socket": str(self.folder / "agent.sock"),
            "cluster": {"manifests": str(self.manifests)},
            "kubelet": str(self.kubelet),
            "devinfo": str(self.folder / "devinfo"),
            "cdiDir": str(self.cdi),
            "runtimes": [],
            "devicePlugin": str(self.folder / "config.json") if device_plugin else "",
        }
        write(self.agent, keys)

    def add_pod(self, pod: Pod, uid: str) -> None:
        """Write a pod's object for the agent."""
        raw = {**pod.raw, "metadata": {**pod.raw["metadata"], "uid": uid}}
        write(self.manifests / f"pod_{pod.namespace}_{pod.name}.json", raw)


@contextlib.contextmanager
def session_folder() -> Iterator[Session]:
    """Create a play's directory; remove it at the end. Raises Error(IO) if it cannot be removed."""
    folder = Path(tempfile.mkdtemp(prefix="wirespeed-play-", dir=SESSIONS))
    try:
        yield Session(folder)
    finally:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise errors.as_error(error).within(f"directory {folder} cannot be removed") from error


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def find_shim(asked: Path | None, folders: Sequence[str]) -> Path:
    """Return the shim: `asked`, else this checkout's, else the installed one. Raises Error(INVALID_CONFIG)."""
    built = Path(__file__).parents[2] / "build/wirespeed-cni"
    places = [asked] if asked else [built, *(Path(folder, "wirespeed") for folder in folders)]
    for place in places:
        if place.is_file() and os.access(place, os.X_OK):
            return place.resolve()
    listed = ", ".join(map(str, places))
    raise Error(Kind.INVALID_CONFIG, "the shim is not there", expected=f"an executable {listed}")


def device_plugin(manifests: Manifests) -> str:
    """Return the device plugin's configuration, "" for none.

    Raises Error(INVALID_CONFIG) if it is invalid, or if pods request a resource that it does not offer and that
    is not in `unserved_resources`.
    """
    text, offered = manifests.device_plugin(), _offered_resources(manifests)
    known = {*offered, *unserved_resources(manifests)}
    if unknown := [resource for resource in admission.requested_resources(manifests.pods) if resource not in known]:
        pools = ", ".join(offered) or "none"
        raise Error(
            Kind.INVALID_CONFIG,
            f"pods request {', '.join(unknown)}, which no pool offers; the pools are {pools}",
            hint="add a pool to the resourceList of --pools, or of a ConfigMap's config.json",
            about=[Thing("resource", each) for each in unknown],
        )
    return text


def unserved_resources(manifests: Manifests) -> list[str]:
    """Return requested resources that no device plugin serves and whose networks can do without a device.

    In a cluster, such a resource is set in the node status, so that pods are scheduled to a node with a certain
    bridge. A resource that no network uses is not included: its container would lack a device. Raises
    Error(INVALID_CONFIG).
    """
    uses: dict[str, set[DeviceUse]] = {}
    for (_, name), raw in manifests.networks.items():
        resource = (raw["metadata"].get("annotations") or {}).get(RESOURCE_NAME) or ""
        text = (raw.get("spec") or {}).get("config") or ""
        use = device_use(load_network(json.loads(text), name=name)) if text.strip() else DeviceUse.POSSIBLE
        uses.setdefault(resource, set()).add(use)
    offered = _offered_resources(manifests)
    return [
        resource
        for resource in admission.requested_resources(manifests.pods)
        if resource not in offered and resource in uses and DeviceUse.NEEDED not in uses[resource]
    ]


def _offered_resources(manifests: Manifests) -> list[str]:
    """Return the device plugin's resources. Raises Error(INVALID_CONFIG) if its configuration is invalid."""
    text = manifests.device_plugin()
    with errors.within("--pools" if manifests.pools else "config.json"):
        return [pool.resource for pool in config.parse(text.encode(), NodeConfig().resource_prefix)] if text else []

"""A play's own folder, and what the agent finds there."""

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

from wirespeed import program
from wirespeed.cni.chain import load_network
from wirespeed.cni.errors import CniError, Code
from wirespeed.deviceplugin import config
from wirespeed.node import NodeConfig, load_config
from wirespeed.play import admission
from wirespeed.play.environment import BASE
from wirespeed.play.manifests import Manifests, Pod
from wirespeed.plugins.meta.devices import DeviceUse, device_use
from wirespeed.plugins.meta.networks import RESOURCE_NAME

SESSIONS = "/run"  # the paths of sockets have to be short


class Session:
    """The folder of one play, and what lies where in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifests = folder / "manifests"  # the cluster, as the agent sees it
        self.kubelet = folder / "kubelet"
        self.cdi = folder / "cdi"  # what the device plugin tells the runtime
        self.pods = folder / "pods"  # the pods' folders
        self.root = folder / "root"  # empty: containers' roots are put together here
        self.links = folder / "bin"  # the shim under the plugins' names
        self.program = folder / "wirespeed"  # what containers have of this program
        self.agent = folder / "agent.json"
        self.state = folder / "pods.json"

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def config(self) -> NodeConfig:
        """What the agent is configured with."""
        return load_config(self.agent)

    def write(self, manifests: Manifests, device_plugin: str) -> None:
        """Write what the agent reads, but for the pods; `device_plugin` is the device plugin's configuration."""
        for folder in (self.manifests, self.kubelet, self.pods, self.root, self.links):
            folder.mkdir()
        # A container's own Python, for its user may not reach that of this process.
        program.write(self.program, shutil.which("python3", path=BASE["PATH"]) or os.path.realpath(sys.executable))
        for (namespace, name), raw in manifests.networks.items():
            write(self.manifests / f"network_{namespace}_{name}.json", raw)
        if device_plugin:
            (self.folder / "config.json").write_text(device_plugin)
        # Who owns a VF and which addresses are taken are facts of this machine, whoever plays on it: the journal,
        # its records and the leases stay where they are by default. What the node's own runtime has let go of is
        # for the node's own agent to collect.
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
        """Let the agent know of a pod."""
        raw = {**pod.raw, "metadata": {**pod.raw["metadata"], "uid": uid}}
        write(self.manifests / f"pod_{pod.namespace}_{pod.name}.json", raw)


@contextlib.contextmanager
def opened() -> Iterator[Session]:
    """A folder that is removed afterwards. Raises CniError(IO_FAILURE) when that fails."""
    folder = Path(tempfile.mkdtemp(prefix="wirespeed-play-", dir=SESSIONS))
    try:
        yield Session(folder)
    finally:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            text = f"folder {folder} cannot be removed: {error.filename}: {error.strerror}"
            raise CniError(Code.IO_FAILURE, text) from error


def write(path: Path, value: Any) -> None:
    """Write JSON."""
    path.write_text(json.dumps(value))


def find_shim(asked: Path | None, folders: Sequence[str]) -> Path:
    """The shim's executable: the one asked for, else that of this checkout, else the installed one.

    Raises CniError(INVALID_CONFIG).
    """
    built = Path(__file__).parents[2] / "build/wirespeed-cni"
    places = [asked] if asked else [built, *(Path(folder, "wirespeed") for folder in folders)]
    for place in places:
        if place.is_file() and os.access(place, os.X_OK):
            return place.resolve()
    listed = ", ".join(map(str, places))
    raise CniError(Code.INVALID_CONFIG, f"the shim is not there: expected an executable {listed}")


def device_plugin(manifests: Manifests) -> str:
    """The device plugin's configuration, "" for none.

    Raises CniError(INVALID_CONFIG) for a wrong one, or when pods ask for what it does not offer and which is not
    `counted`.
    """
    text, offered = manifests.device_plugin(), _offered(manifests)
    known = {*offered, *counted(manifests)}
    if unknown := [resource for resource in admission.wanted(manifests.pods) if resource not in known]:
        raise CniError(
            Code.INVALID_CONFIG,
            f"pods ask for {', '.join(unknown)}: expected it in the resourceList of --pools, or of a ConfigMap's "
            f"config.json, got {', '.join(offered) or 'none'}",
        )
    return text


def counted(manifests: Manifests) -> list[str]:
    """Resources that pods ask for, that no device plugin serves and whose networks can do without a device.

    In a cluster the status of nodes counts them, so that pods come to a node that has a certain bridge. A resource
    of no network is none of them: a container would miss its device. Raises CniError(INVALID_CONFIG).
    """
    uses: dict[str, set[DeviceUse]] = {}
    for (_, name), raw in manifests.networks.items():
        resource = (raw["metadata"].get("annotations") or {}).get(RESOURCE_NAME) or ""
        text = (raw.get("spec") or {}).get("config") or ""
        use = device_use(load_network(json.loads(text), name=name)) if text.strip() else DeviceUse.POSSIBLE
        uses.setdefault(resource, set()).add(use)
    offered = _offered(manifests)
    return [
        resource
        for resource in admission.wanted(manifests.pods)
        if resource not in offered and resource in uses and DeviceUse.NEEDED not in uses[resource]
    ]


def _offered(manifests: Manifests) -> list[str]:
    """The resources of the device plugin. Raises CniError(INVALID_CONFIG) for a wrong configuration."""
    text = manifests.device_plugin()
    try:
        return [pool.resource for pool in config.parse(text.encode(), NodeConfig().resource_prefix)] if text else []
    except CniError as error:
        raise error.prefixed("--pools" if manifests.pools else "config.json") from None

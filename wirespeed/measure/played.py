"""Two pods that exist only for a measurement, made and removed by `wirespeed play`."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from wirespeed.errors import Error, Kind, Thing
from wirespeed.measure.report import Report, Settings
from wirespeed.play import manifests, play
from wirespeed.plugins.meta.networks import RESOURCE_NAME

SENDER, RECEIVER = "measure-sender", "measure-receiver"
_INTERFACE = "net1"
_CARRIER = {"exec": {"command": ["grep", "-q", "1", f"/sys/class/net/{_INTERFACE}/carrier"]}, "periodSeconds": 1}


def measure(options: play.Options, network: str, settings: Settings) -> Report:
    """Play two pods on a network, "[namespace/]name", and measure from one to the other.

    `options` are those of the play; its files define the network. The output of the play goes to standard error.
    Raises Error.
    """
    namespace, _, name = network.rpartition("/")
    namespace = namespace or "default"
    resource = _resource(options, namespace, name)
    with tempfile.TemporaryDirectory(prefix="wirespeed-measure-") as made:
        pods, found = Path(made) / "pods.json", Path(made) / "report.json"
        items = [_pod(each, namespace, name, resource) for each in (SENDER, RECEIVER)]
        pods.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
        ends = [f"pod/{namespace}/{each}:{_INTERFACE}" for each in (SENDER, RECEIVER)]
        command = (sys.executable, "-m", "wirespeed", "measure", "--from", ends[0], "--to", ends[1], "--json")
        then = f"exec {shlex.join((*command, *_arguments(settings)))} > {shlex.quote(str(found))}"
        asked = dataclasses.replace(options, files=(*options.files, pods), then=then)
        console = Console(stderr=True, highlight=False)
        if status := play.play(asked, console, console):
            raise Error(Kind.UNAVAILABLE, f"the play of the two pods ended with {status}: see above")
        return msgspec.json.decode(found.read_bytes(), type=Report)


def _arguments(settings: Settings) -> list[str]:
    """Return the options of `wirespeed measure` for these settings."""
    found = [*(f"--test={each}" for each in settings.tests), *(f"--size={each}" for each in settings.sizes)]
    found += [f"--trial={settings.trial}", f"--pause={settings.pause}", f"--resolution={settings.resolution}"]
    found += [f"--accept-loss={settings.accepted_loss}", f"--latency-load={settings.latency_load}"]
    return found if settings.max_rate is None else [*found, f"--max-rate={settings.max_rate}"]


def _resource(options: play.Options, namespace: str, name: str) -> str:
    """Return the resource of the network's devices, "" for none. Raises Error(INVALID_CONFIG)."""
    networks = manifests.load(options.files, pools=options.pools).networks
    if (namespace, name) not in networks:
        known = ", ".join("/".join(key) for key in networks) or "none"
        where = Thing("network", f"{namespace}/{name}")
        raise Error(Kind.INVALID_CONFIG, f"the files do not define it; they define: {known}", where=where)
    annotations: dict[str, str] = networks[namespace, name]["metadata"].get("annotations") or {}
    return annotations.get(RESOURCE_NAME, "")


def _pod(name: str, namespace: str, network: str, resource: str) -> dict[str, Any]:
    """Return a pod that waits; it is ready when its interface has a carrier."""
    annotations = {"k8s.v1.cni.cncf.io/networks": f"{namespace}/{network}@{_INTERFACE}"}
    container: dict[str, Any] = {"name": "waits", "command": ["sleep", "infinity"], "readinessProbe": _CARRIER}
    if resource:
        container["resources"] = {"limits": {resource: 1}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "annotations": annotations},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
    }

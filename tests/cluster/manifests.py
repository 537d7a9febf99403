"""Objects that tests create."""

from __future__ import annotations

import json
from typing import Any

from image.recipe import version
from tests.cluster.kube import Object
from tests.examples import NETWORKS

IMAGE = f"localhost/wirespeed-testpmd:{version()}"


def nad(name: str, config: Object, *, resource: str | None = None) -> Object:
    """A NetworkAttachmentDefinition with this configuration; adds name and version if missing."""
    annotations = {} if resource is None else {"k8s.v1.cni.cncf.io/resourceName": resource}
    return {
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"config": json.dumps({"cniVersion": "1.0.0", "name": name, **config})},
    }


def bridge(name: str, subnet: str) -> Object:
    """A network of the bridge plugin, with addresses from host-local."""
    ipam = {"type": "host-local", "ranges": [[{"subnet": subnet}]]}
    # Interface names have at most 15 characters.
    return nad(name, {"type": "bridge", "bridge": f"br-{name}"[:15], "ipam": ipam})


def pod(
    name: str,
    networks: Any = None,
    *,
    node: str | None = None,
    command: tuple[str, ...] = ("sleep", "infinity"),
    resources: dict[str, str | int] | None = None,
    capabilities: tuple[str, ...] = (),
    **spec: Any,
) -> Object:
    """A pod with one container. `networks` is the annotation: text, a list of names, or a list of JSON objects."""
    container: Object = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": list(command),
        "resources": {"limits": resources or {}},
    }
    if capabilities:
        container["securityContext"] = {"capabilities": {"add": list(capabilities)}}
    said = {}
    if networks is not None:
        names = isinstance(networks, list) and all(isinstance(network, str) for network in networks)
        said[NETWORKS] = (
            ",".join(networks) if names else networks if isinstance(networks, str) else json.dumps(networks)
        )
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": said, "labels": {"app": "test"}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            # A token volume per pod is slow on emulated nodes.
            "automountServiceAccountToken": False,
            "containers": [container],
            **({"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}),
            **spec,
        },
    }

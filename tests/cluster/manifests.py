"""Objects that tests create."""

from __future__ import annotations

import json
from typing import Any

from image.recipe import version
from tests.cluster.kube import Object
from tests.examples import NETWORKS

IMAGE = f"localhost/wirespeed-testpmd:{version()}"


def nad(name: str, config: Object, *, resource: str | None = None) -> Object:
    """A NetworkAttachmentDefinition of this configuration, which gets name and version if it has none."""
    annotations = {} if resource is None else {"k8s.v1.cni.cncf.io/resourceName": resource}
    return {
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"config": json.dumps({"cniVersion": "1.0.0", "name": name, **config})},
    }


def bridge(name: str, subnet: str) -> Object:
    """A network by the bridge plugin, with addresses of host-local."""
    ipam = {"type": "host-local", "ranges": [[{"subnet": subnet}]]}
    # The name of an interface has at most 15 letters.
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
    """A pod of one container; `networks` is its annotation, as text, names, or what JSON is made of."""
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
            # An account's token is a volume more, which costs where nodes are emulated.
            "automountServiceAccountToken": False,
            "containers": [container],
            **({"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}),
            **spec,
        },
    }

"""Pods that exist only for a measurement, made by `wirespeed play`: its ends, and a testpmd between them."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from wirespeed.cni.chain import load_network
from wirespeed.errors import Error, Kind, Thing
from wirespeed.measure import testpmd
from wirespeed.measure.path import Endpoint
from wirespeed.measure.report import Report, Settings, arguments
from wirespeed.play import manifests, play
from wirespeed.plugins.meta.devices import DeviceUse, device_use
from wirespeed.plugins.meta.networks import RESOURCE_NAME

SENDER, RECEIVER, FORWARDER = "measure-sender", "measure-receiver", "measure-forwarder"
_END = "net1"
_ENTRY, _EXIT = "net1", "net2"
# It is ready when its interface has a carrier. One without a kernel interface is left to the measurement to refuse.
_CARRIER = f"cd /sys/class/net/{_END} 2> /dev/null || exit 0; grep -q 1 carrier"
_IMAGE = "localhost/wirespeed-testpmd"  # what the pods of the examples run; a play has no images


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which pods to make, by the names of their networks, "[namespace/]name".

    `networks` are those of the two pods at the ends, () if there are other `ends`: the interfaces of the sender and
    the receiver. `through` are those of a testpmd between the ends, () for none; or `running`, the ports of a
    forwarder that is there. `flags` are more options for the command that measures.
    """

    networks: tuple[str, ...] = ()
    ends: tuple[Endpoint, ...] = ()
    through: tuple[str, ...] = ()
    running: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


def measure(options: play.Options, wanted: Wanted, settings: Settings) -> Report:
    """Play the pods, and measure from one end to the other.

    `options` are those of the play; its files define the networks. The output of the play goes to standard error.
    Raises Error.
    """
    known = _Networks(options)
    ends = [known.find(each) for each in wanted.networks]
    through = [known.find_for_dpdk(each) for each in wanted.through]
    with tempfile.TemporaryDirectory(prefix="wirespeed-measure-") as made:
        pods, found, shared = (Path(made) / name for name in ("pods.json", "report.json", "testpmd"))
        items = [_end(name, each) for name, each in zip((SENDER, RECEIVER), ends, strict=False)]
        if through:
            _check_sizes(settings)
            testpmd.make_folder(shared)
            items.append(_forwarder(through, shared))
        pods.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
        path = [*_ends(wanted, ends), *_through(wanted, through, shared), *wanted.flags]
        command = (sys.executable, "-m", "wirespeed", "measure", "--json", *path)
        then = f"exec {shlex.join((*command, *arguments(settings)))} > {shlex.quote(str(found))}"
        asked = dataclasses.replace(options, files=(*options.files, pods), then=then)
        console = Console(stderr=True, highlight=False)
        if status := play.play(asked, console, console):
            raise Error(Kind.UNAVAILABLE, f"the play of the pods ended with {status}: see above")
        return msgspec.json.decode(found.read_bytes(), type=Report)


def _check_sizes(settings: Settings) -> None:
    if (largest := max(settings.sizes)) > testpmd.LARGEST:
        expected = f"at most {testpmd.LARGEST} bytes, which is testpmd's limit"
        raise Error(Kind.INVALID_REQUEST, "frames are too large", expected=expected, got=largest)


def _ends(wanted: Wanted, networks: Sequence[_Network]) -> list[str]:
    """Return the options of `wirespeed measure` for the ends of the path."""
    if networks:
        names = zip((SENDER, RECEIVER), networks, strict=True)
        sender, receiver = (f"pod/{each.namespace}/{name}:{_END}" for name, each in names)
    else:
        sender, receiver = (
            f"{each.netns}:{each.interface}" if each.netns else each.interface for each in wanted.ends
        )
    return [f"--from={sender}", f"--to={receiver}"]


def _through(wanted: Wanted, networks: Sequence[_Network], shared: Path) -> list[str]:
    """Return the options of `wirespeed measure` for the forwarder."""
    if not networks:
        return [f"--through={each}" for each in wanted.running]
    pod = f"pod/{networks[0].namespace}/{FORWARDER}"
    return [*(f"--through={pod}:{each}" for each in (_ENTRY, _EXIT)), f"--testpmd={shared}"]


@dataclass(frozen=True)
class _Network:
    """A network, and the resource of its devices, "" for none."""

    namespace: str
    name: str
    resource: str

    @property
    def label(self) -> str:
        return f"{self.namespace}/{self.name}"


class _Networks:
    """The networks that the files of a play define."""

    def __init__(self, options: play.Options) -> None:
        self._networks = manifests.load(options.files, pools=options.pools).networks

    def find(self, name: str) -> _Network:
        """Return the network "[namespace/]name". Raises Error(INVALID_CONFIG)."""
        key = self._key(name)
        annotations: dict[str, str] = self._networks[key]["metadata"].get("annotations") or {}
        return _Network(*key, annotations.get(RESOURCE_NAME, ""))

    def find_for_dpdk(self, name: str) -> _Network:
        """Return a network for a DPDK application. Raises Error(INVALID_CONFIG), also if it never is one."""
        found = self.find(name)
        text = (self._networks[self._key(name)].get("spec") or {}).get("config") or ""
        if (
            text.strip()
            and device_use(network := load_network(json.loads(text), name=found.name)) is DeviceUse.NONE
        ):
            what = "its plugins make interfaces of the kernel, which testpmd does not use"
            expected = "a network of VFs on vfio-pci, vhost-user or memif ports"
            got = f"the plugins {', '.join(network.kinds)}"
            where = Thing("network", found.label)
            raise Error(Kind.INVALID_CONFIG, what, where=where, expected=expected, got=got)
        return found

    def _key(self, name: str) -> tuple[str, str]:
        namespace, _, short = name.rpartition("/")
        key = (namespace or "default", short)
        if key not in self._networks:
            known = ", ".join("/".join(each) for each in self._networks) or "none"
            where = Thing("network", "/".join(key))
            raise Error(Kind.INVALID_CONFIG, f"the files do not define it; they define: {known}", where=where)
        return key


def _end(name: str, network: _Network) -> dict[str, Any]:
    """Return a pod that waits. It is not probed any more once it is ready: that would disturb the measurement."""
    probe = {"exec": {"command": ["/bin/sh", "-c", _CARRIER]}, "periodSeconds": 1, "timeoutSeconds": 30}
    probe["failureThreshold"] = 120
    container: dict[str, Any] = {"name": "waits", "command": ["sleep", "infinity"], "startupProbe": probe}
    return _pod(name, container, {_END: network})


def _forwarder(networks: Sequence[_Network], shared: Path) -> dict[str, Any]:
    """Return a pod with testpmd between two networks, which is driven in the folder `shared`."""
    container: dict[str, Any] = {
        "name": "testpmd",
        "image": _IMAGE,
        "command": ["/bin/sh", "-c", testpmd.SCRIPT],
        "securityContext": {"capabilities": {"add": ["IPC_LOCK"]}},  # vfio pins the memory that a VF uses
        "resources": {"limits": {"hugepages-2Mi": "128Mi", "memory": "256Mi"}},
        "volumeMounts": [
            {"name": "hugepages", "mountPath": "/dev/hugepages"},
            {"name": "measure", "mountPath": testpmd.MOUNTED},
        ],
    }
    pod = _pod(FORWARDER, container, dict(zip((_ENTRY, _EXIT), networks, strict=True)))
    volumes = [
        {"name": "hugepages", "emptyDir": {"medium": "HugePages"}},
        {"name": "measure", "hostPath": {"path": str(shared), "type": "Directory"}},
    ]
    if not all(each.resource for each in networks):  # sockets that are in no device's folder
        container["volumeMounts"].append({"name": "shared-dir", "mountPath": "/var/lib/cni/usrspcni"})
        sockets = {"path": str(shared.with_name("sockets")), "type": "DirectoryOrCreate"}
        volumes.append({"name": "shared-dir", "hostPath": sockets})
    pod["spec"] |= {"volumes": volumes, "restartPolicy": "Never"}
    return pod


def _pod(name: str, container: dict[str, Any], networks: dict[str, _Network]) -> dict[str, Any]:
    """Return a pod with one container, in the namespace of its first network; `networks` are by interface."""
    asked = ",".join(f"{network.label}@{interface}" for interface, network in networks.items())
    counts = Counter(each.resource for each in networks.values() if each.resource)
    if counts:
        resources = container.setdefault("resources", {"limits": {}})
        resources["limits"] |= counts
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": next(iter(networks.values())).namespace,
            "annotations": {"k8s.v1.cni.cncf.io/networks": asked},
        },
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
    }

"""Reports of a play's pods: rows of their interfaces, and their state as in `kubectl get pods -o json`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from wirespeed.devices.pci import PciDevice
from wirespeed.play.pod import PodRun, State
from wirespeed.play.sandbox import NETNS
from wirespeed.play.screen import InterfaceRow


def interfaces(runs: Iterable[PodRun]) -> list[InterfaceRow]:
    """Return the pods' interfaces from network-status, with their devices' drivers."""
    rows = []
    for run in runs:
        for entry in run.attachment.status if run.attachment else ():
            device = entry.get("device-info", {}).get("pci", {}).get("pci-address", "")
            rows.append(
                InterfaceRow(
                    pod=run.pod.label,
                    interface=entry.get("interface", ""),
                    network=entry.get("name", ""),
                    addresses=", ".join(entry.get("ips", ())),
                    mac=entry.get("mac", ""),
                    device=device,
                    driver=PciDevice(device).driver if device else "",
                )
            )
    return rows


def pods(runs: Iterable[PodRun]) -> dict[str, Any]:
    """Return a List of Pods with status. An annotation has the path of each pod's network namespace."""
    return {"apiVersion": "v1", "kind": "List", "items": [_pod(run) for run in runs]}


def _pod(run: PodRun) -> dict[str, Any]:
    status: dict[str, Any] = {
        "phase": str(run.phase),
        "conditions": [{"type": "Ready", "status": "True" if run.ready else "False"}],
        "initContainerStatuses": [_container(state) for state in run.init_states.values()],
        "containerStatuses": [_container(state) for state in run.states.values()],
    }
    if run.reason:
        status["message"] = run.reason
    if ips := run.sandbox.ips:
        status |= {"podIP": ips[0], "podIPs": [{"ip": ip} for ip in ips]}
    metadata = {
        **run.pod.raw["metadata"],
        "namespace": run.pod.namespace,
        "uid": run.uid,
        "annotations": {**run.annotations, NETNS: run.sandbox.netns},
    }
    return {**run.pod.raw, "metadata": metadata, "status": status}


def _container(state: State) -> dict[str, Any]:
    ended = {} if state.exit_code is None else {"terminated": {"exitCode": state.exit_code}}
    shown: dict[str, Any] = {"running": {}} if state.running else ended or {"waiting": {"reason": state.reason}}
    return {
        "name": state.name,
        "ready": state.ready,
        "restartCount": state.restarts,
        "state": shown,
        "lastState": ended if state.running else {},
    }

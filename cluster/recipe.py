"""The programs of a cluster as an artefact in the lab's cache: versions and sources."""

from __future__ import annotations

import os
from pathlib import Path

from lab.build import build_one, cache_folder
from lab.progress import Progress
from lab.recipe import Recipe

CLUSTER = Path(__file__).resolve().parent

# The newest release, and the oldest one that is supported upstream.
NEWEST = "1.37.2"
OLDEST = "1.35.4"
# Module, version, package:program pairs, build tags.
MODULES = """
github.com/containerd/containerd/v2 v2.4.2 ./cmd/containerd:containerd,./cmd/containerd-shim-runc-v2:\
containerd-shim-runc-v2,./cmd/ctr:ctr no_btrfs,no_devmapper,no_zfs
sigs.k8s.io/cri-tools v1.36.0 ./cmd/crictl:crictl
go.etcd.io/etcd/server/v3 v3.6.16 .:etcd
helm.sh/helm/v3 v3.22.0 ./cmd/helm:helm
gopkg.in/k8snetworkplumbingwg/multus-cni.v4 v4.3.0 ./cmd/multus-daemon:multus-daemon,./cmd/multus-shim:multus-shim,\
./cmd/install_multus:install_multus,./cmd/passthru-cni:passthru
github.com/prometheus-operator/prometheus-operator v0.85.0
"""
# Files of the modules that are kept in manifests/.
KEPT = """
deployments/multus-daemonset-thick.yml
example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml
example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml
"""
# In the artefact: programs in bin and bin/VERSION, and this read-only disk with the programs for nodes.
NODE_DISK = "programs.img"


def recipe(kubernetes: str = NEWEST, kubelets: tuple[str, ...] = (NEWEST, OLDEST)) -> Recipe:
    """Return the recipe of the programs: a complete Kubernetes, and more kubelets."""
    locked = {NEWEST, OLDEST}
    return Recipe(
        name="programs",
        title="Kubernetes, containerd, etcd, helm, Multus (Go; a quarter of an hour)",
        script=(CLUSTER / "recipes/programs.sh").read_text(),
        settings={
            "KUBERNETES": kubernetes,
            "KUBELETS": " ".join(sorted(set(kubelets))),
            "MODULES": MODULES,
            "KEPT": KEPT,
            # Checksums are kept for the locked versions only; for others, the Go module proxy is trusted.
            "UNLOCKED": "no" if {kubernetes, *kubelets} <= locked else "yes",
        },
        inputs={},
        files=tuple(CLUSTER / name for name in ("go.lock", "modules.lock", "guest/pause.c")),
    )


def programs(progress: Progress, wanted: Recipe) -> Path:
    """Return the directory of the programs; build them if it does not exist. Raises LabError."""
    environment = dict(os.environ, CLUSTER=str(CLUSTER))
    return build_one(wanted, progress, cache=cache_folder().parent / "cluster", environment=environment)

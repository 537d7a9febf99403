"""Checks of the container runtime: whether it answers, its CNI directories, CDI, and limits of locked memory."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from wirespeed.doctor.facts import Facts
from wirespeed.doctor.finding import Answer, Fails, Holds, Severity, Subject, check
from wirespeed.errors import Error, Kind
from wirespeed.kube.cri import Version

_SUBJECT = Subject.RUNTIME
_CONTAINERD = (
    "/etc/containerd/config.toml",
    "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
    "/etc/k0s/containerd.toml",
)
_CRI1, _CRI2 = "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"  # containerd 1.x, 2.x
_CDI_DIRS = ["/etc/cdi", "/var/run/cdi"]  # the default of both runtimes
_NETWORK_DIR = "/etc/cni/net.d"
_LOCKED = re.compile(r"Max locked memory\s+(\S+)")


@check(
    "runtime-answers",
    _SUBJECT,
    expected="a runtime that answers on one of the agent's sockets (key runtimes)",
    why="after its start, the agent releases what sandboxes held that the runtime no longer lists",
    source="docs/configuration.md, key runtimes",
    fix="set the key `runtimes` of the agent's configuration to the runtime's socket (crictl info)",
)
def runtime_answers(facts: Facts) -> Answer:
    if not facts.config.runtimes:
        return None
    if (found := _runtime(facts)) is None:
        return Fails(f"none of {', '.join(facts.config.runtimes)} exists")
    return Holds(f"{found.name} {found.version}")


def _runtime(facts: Facts) -> Version | None:
    """Return what answers on the first socket that exists, None if none exists. Raises Error(TRY_AGAIN)."""
    socket = next(filter(facts.files.exists, facts.config.runtimes), None)
    return facts.sources.runtime(socket) if socket else None


@check(
    "runtime-cni-directory",
    _SUBJECT,
    expected="the runtime reads the directory that the agent writes, and one file of it",
    otherwise=Severity.ERROR,
    why="with another directory, pods are started by another CNI configuration; with max_conf_num other than 1, "
    "containerd runs the others too",
    source="containerd: docs/cri/config.md, CNI Config",
    fix="set `conf_dir` in containerd's configuration, or `autoconf.cniConfigDir` of the agent's; restart "
    "containerd",
)
def runtime_cni_directory(facts: Facts) -> Answer:
    runtime = _runtime(facts)
    if runtime is None or runtime.name != "containerd":
        return None
    cni = _table(_cri(facts).get("cni"))
    folder, number = cni.get("conf_dir", _NETWORK_DIR), cni.get("max_conf_num", 1)
    if str(folder).rstrip("/") != facts.cni_folder.rstrip("/"):
        return Fails(f"conf_dir is {folder}, and the agent's {facts.cni_folder}")
    return Holds(f"conf_dir is {folder}") if number == 1 else Fails(f"max_conf_num is {number}")


@check(
    "cdi-on",
    _SUBJECT,
    expected="CDI in the runtime, if the agent passes devices by CDI",
    why="without it, the runtime ignores the devices' names, and containers start without device nodes, or not at "
    "all",
    source="CNCF: Container Device Interface, README; containerd: docs/cri/config.md, enable_cdi",
    fix='containerd 1.7: `enable_cdi = true` below `[plugins."io.containerd.grpc.v1.cri"]`, and restart it; older '
    "ones: update it",
)
def cdi_on(facts: Facts) -> Answer:
    runtime = _runtime(facts)
    if runtime is None:
        return None
    severity = Severity.ERROR if facts.config.cdi else Severity.INFO
    number = tuple(map(int, re.findall(r"\d+", runtime.version)[:2]))
    if runtime.name == "cri-o":
        found = f"cri-o {runtime.version}"
        return Holds(found) if number >= (1, 23) else Fails(found, severity=severity)
    if runtime.name != "containerd":
        raise Error(Kind.UNSUPPORTED, f"CDI of {runtime.name} is not known here")
    if number < (1, 7):
        return Fails(f"containerd {runtime.version} has no CDI", severity=severity)
    on = _cri(facts).get("enable_cdi", number >= (2, 0))
    found = f"containerd {runtime.version}, enable_cdi is {str(on).lower()}"
    return Holds(found) if on else Fails(found, severity=severity)


@check(
    "cdi-directory",
    _SUBJECT,
    expected="the agent's cdiDir among the directories that the runtime reads",
    otherwise=Severity.ERROR,
    why="the runtime finds no device by its CDI name, and the container does not start",
    source="containerd: docs/cri/config.md, cdi_spec_dirs; CRI-O: crio.conf(5), cdi_spec_dirs",
    fix="set `cdiDir` of the agent's configuration to one of them",
)
def cdi_directory(facts: Facts) -> Answer:
    runtime = _runtime(facts)
    if runtime is None or runtime.name != "containerd" or not facts.config.cdi:
        return None
    folders = [_real(str(each)) for each in _cri(facts).get("cdi_spec_dirs") or _CDI_DIRS]
    found = f"cdiDir is {facts.config.cdi_dir}, and the runtime reads {', '.join(folders)}"
    return Holds(found) if _real(facts.config.cdi_dir) in folders else Fails(found)


def _real(folder: str) -> str:
    return folder.rstrip("/").replace("/var/run/", "/run/", 1)


@check(
    "runtime-locked-memory",
    _SUBJECT,
    expected="no limit of locked memory for the runtime, from which containers inherit it",
    otherwise=Severity.INFO,
    why="vfio and RDMA lock the memory that a device reads and writes: without the capability IPC_LOCK, a "
    "container can lock only up to this limit",
    source='DPDK Getting Started Guide, "Running DPDK Applications Without Root Privileges"; systemd.exec(5)',
    fix="`systemctl edit containerd`: `LimitMEMLOCK=infinity` below `[Service]`, and restart it; or add IPC_LOCK "
    "to pods",
)
def runtime_locked_memory(facts: Facts) -> Answer:
    if (process := facts.process("containerd", "crio")) is None:
        return None
    match = _LOCKED.search(facts.files.text(f"/proc/{process.pid}/limits"))
    limit = match[1] if match else "not known"
    return Holds(limit) if limit == "unlimited" else Fails(f"{process.name}: {limit} bytes")


# Its configuration


def _cri(facts: Facts) -> Mapping[str, Any]:
    """Return containerd's table of the CRI plugin. Raises Error if it is in files that this one imports."""
    path = next(filter(facts.files.exists, _CONTAINERD), None)
    if path is None:
        return {}  # its defaults
    try:
        document = tomllib.loads(facts.files.text(path))
    except tomllib.TOMLDecodeError as error:
        raise Error(Kind.INVALID_DATA, f"not TOML: {error}", where=path) from error
    plugins = _table(document.get("plugins"))
    found = {**_table(plugins.get(_CRI1)), **_table(plugins.get(_CRI2))}
    if document.get("imports") and not found:
        raise Error(Kind.UNSUPPORTED, "it imports other files, which are not read here", where=path)
    return found


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}

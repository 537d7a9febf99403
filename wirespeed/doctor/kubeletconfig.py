"""The kubelet's settings, from its command line and its configuration files; the state files of its managers."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from wirespeed import structs
from wirespeed.doctor import cpulists
from wirespeed.doctor.cpulists import Cpus
from wirespeed.doctor.files import Files
from wirespeed.errors import Error, Kind, within

T = TypeVar("T")

_DEFAULT = "/var/lib/kubelet/config.yaml"  # where kubeadm puts it


@structs.prepared
class KubeletConfig(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of a KubeletConfiguration (kubelet.config.k8s.io/v1beta1); the defaults are the kubelet's."""

    cpu_manager_policy: str = "none"
    cpu_manager_policy_options: dict[str, str] = {}
    topology_manager_policy: str = "none"
    memory_manager_policy: str = "None"
    reserved_system_cpus: str = msgspec.field(name="reservedSystemCPUs", default="")


# Flags that override keys of the file (kubelet --help: deprecated, but still read).
_FLAGS = {
    "--cpu-manager-policy": "cpuManagerPolicy",
    "--topology-manager-policy": "topologyManagerPolicy",
    "--memory-manager-policy": "memoryManagerPolicy",
    "--reserved-cpus": "reservedSystemCPUs",
}


@structs.prepared
class CpuState(msgspec.Struct, frozen=True, rename="camel"):
    """The state of the CPU manager: its policy, and exclusive CPUs by the pod's UID and the container's name."""

    policy_name: str
    default_cpu_set: str = ""
    entries: dict[str, dict[str, str]] = {}

    @property
    def exclusive(self) -> Cpus:
        return cpulists.NONE.union(*(self.of_pod(uid) for uid in self.entries))

    def of_pod(self, uid: str) -> Cpus:
        return cpulists.NONE.union(*map(cpulists.of_list, self.entries.get(uid, {}).values()))


@structs.prepared
class _MemoryState(msgspec.Struct, frozen=True, rename="camel"):
    policy_name: str


def read_config(files: Files, arguments: tuple[str, ...]) -> KubeletConfig:
    """Read the kubelet's settings; `arguments` are its command line. Raises Error: IO, INVALID_DATA."""
    flags = _flags(arguments)
    path = flags.get("--config", _DEFAULT)
    keys = _document(files, path)
    if folder := flags.get("--config-dir"):  # drop-in files, each overrides those before it by name
        for name in files.entries(folder):
            if name.endswith(".conf"):
                keys |= _document(files, f"{folder}/{name}")
    keys |= {key: flags[flag] for flag, key in _FLAGS.items() if flag in flags}
    with within(path):
        return _decoded(keys, KubeletConfig)


def read_cpu_state(files: Files, kubelet: str) -> CpuState:
    """Read the CPU manager's state in the kubelet's directory. Raises Error: IO, INVALID_DATA."""
    return _state(files, f"{kubelet}/cpu_manager_state", CpuState)


def read_memory_policy(files: Files, kubelet: str) -> str:
    """Read the memory manager's policy in the kubelet's directory. Raises Error: IO, INVALID_DATA."""
    return _state(files, f"{kubelet}/memory_manager_state", _MemoryState).policy_name


def _flags(arguments: tuple[str, ...]) -> dict[str, str]:
    """Return the flags of a command line: "--name=value", or "--name" "value"."""
    found = {}
    for argument, following in zip(arguments, (*arguments[1:], ""), strict=False):
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            found[name] = value if equals else following
    return found


def _document(files: Files, path: str) -> dict[str, Any]:
    import yaml  # noqa: PLC0415 — takes 30 ms to import, and not every node has the file

    from wirespeed.kube import kubeyaml  # noqa: PLC0415

    try:
        value = kubeyaml.load(files.data(path)) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Error(Kind.INVALID_DATA, f"not YAML: {' '.join(str(error).split())}", where=path) from error
    if not isinstance(value, dict):
        raise Error(Kind.INVALID_DATA, where=path, expected="an object", got=value)
    return value


def _state(files: Files, path: str, kind: type[T]) -> T:
    try:
        value = msgspec.json.decode(files.data(path))
    except msgspec.DecodeError as error:
        raise Error(Kind.INVALID_DATA, f"not JSON: {error}", where=path) from error
    with within(path):
        return _decoded(value, kind)


def _decoded(value: object, kind: type[T]) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise Error(Kind.INVALID_DATA, str(error)) from error

"""Checks of the kubelet: its managers of CPUs, memory and topology, and its sockets."""

from __future__ import annotations

from wirespeed.doctor import cpulists
from wirespeed.doctor.facts import Facts
from wirespeed.doctor.finding import Answer, Fails, Holds, Severity, Subject, check
from wirespeed.errors import Error

_SUBJECT = Subject.KUBELET
_CHANGE = "drain the node, stop the kubelet, remove {state}, set {setting} in its configuration, start it"
_OTHER_PLUGINS = ("sriovdp", "rdma-shared-dp", "userspacedp")  # as in /proc/<pid>/comm


@check(
    "kubelet-runs",
    _SUBJECT,
    expected="a kubelet, with the directory that the agent's configuration names",
    otherwise=Severity.ERROR,
    why="the kubelet allocates devices, CPUs and memory to pods",
    source="docs/configuration.md, key kubelet",
    fix="start the kubelet; if its directory is another one (--root-dir), set the key `kubelet` of the agent's "
    "configuration",
)
def kubelet_runs(facts: Facts) -> Answer:
    folder = facts.config.kubelet
    if not facts.files.exists(folder):
        return Fails(f"there is no {folder}")
    process = facts.process("kubelet")
    # k3s, k0s and microk8s run it inside of a process of their own: there, its socket is what tells.
    return Holds(f"process {process.pid}" if process else f"{folder} is there")


def _is_node(facts: Facts) -> bool:
    """Whether there is a kubelet: without one, `kubelet-runs` says what the other checks would."""
    return facts.files.exists(facts.config.kubelet)


@check(
    "cpu-manager",
    _SUBJECT,
    expected="cpuManagerPolicy static",
    why="otherwise a pod's CPUs are shared with all other pods: the scheduler takes them from a polling "
    "application",
    source="Kubernetes: Control CPU Management Policies on the Node",
    fix=_CHANGE.format(state="/var/lib/kubelet/cpu_manager_state", setting="`cpuManagerPolicy: static`"),
)
def cpu_manager(facts: Facts) -> Answer:
    if not _is_node(facts):
        return None
    policy = facts.cpu_state().policy_name
    return Holds(policy) if policy == "static" else Fails(policy)


@check(
    "reserved-cpus",
    _SUBJECT,
    expected="isolated CPUs for pods: none of them in the kubelet's reservedSystemCPUs",
    why="reserved CPUs are given to no pod exclusively, so isolated ones among them are lost",
    source="Kubernetes: Reserve Compute Resources for System Daemons, Explicitly Reserved CPU List",
    fix="set `reservedSystemCPUs` to the CPUs that are not isolated",
)
def reserved_cpus(facts: Facts) -> Answer:
    if not facts.isolated:
        return None
    reserved = cpulists.of_list(facts.kubelet_config().reserved_system_cpus)
    if wrong := reserved & facts.isolated:
        return Fails(f"isolated CPUs {cpulists.text_of(wrong)} are reserved")
    return Holds(f"reserved: {cpulists.text_of(reserved)}")


@check(
    "topology-manager",
    _SUBJECT,
    expected="topologyManagerPolicy single-numa-node, or restricted",
    why="otherwise a pod may get CPUs of one NUMA node and a VF of another, so that each packet crosses the link "
    "between the sockets",
    source="Kubernetes: Control Topology Management Policies on a Node",
    fix="set `topologyManagerPolicy: single-numa-node` in the kubelet's configuration, and restart the kubelet",
)
def topology_manager(facts: Facts) -> Answer:
    if len(facts.numa_nodes) < 2 or not _is_node(facts):
        return None
    policy = facts.kubelet_config().topology_manager_policy
    if policy in {"single-numa-node", "restricted"}:
        return Holds(policy)
    return Fails(policy, severity=Severity.INFO if policy == "best-effort" else None)


@check(
    "memory-manager",
    _SUBJECT,
    expected="memoryManagerPolicy Static",
    why="otherwise a pod's memory and hugepages may come from another NUMA node than its CPUs and its VF",
    source="Kubernetes: Utilizing the NUMA-aware Memory Manager",
    fix=_CHANGE.format(
        state="/var/lib/kubelet/memory_manager_state", setting="`memoryManagerPolicy: Static` and `reservedMemory`"
    ),
)
def memory_manager(facts: Facts) -> Answer:
    if len(facts.numa_nodes) < 2 or not _is_node(facts):
        return None
    policy = facts.memory_policy()
    return Holds(policy) if policy == "Static" else Fails(policy)


@check(
    "kubelet-registration-socket",
    _SUBJECT,
    expected="a kubelet that listens for device plugins",
    otherwise=Severity.ERROR,
    why="device plugins register their resources there",
    source="Kubernetes: Device Plugins, Device plugin registration",
    fix="restart the kubelet",
)
def kubelet_registration_socket(facts: Facts) -> Answer:
    if not _is_node(facts):
        return None
    return _connects(facts, f"{facts.config.kubelet}/device-plugins/kubelet.sock")


@check(
    "kubelet-pod-resources",
    _SUBJECT,
    expected="a kubelet that answers which devices a pod has",
    otherwise=Severity.ERROR,
    why="the agent asks for a pod's devices at each ADD; without the answer no pod with devices starts",
    source="Kubernetes: Device Plugins, Monitoring device plugin resources",
    fix="restart the kubelet",
)
def kubelet_pod_resources(facts: Facts) -> Answer:
    if not _is_node(facts):
        return None
    socket = f"{facts.config.kubelet}/pod-resources/kubelet.sock"
    if not facts.files.exists(socket):
        return Fails(f"there is no {socket}")
    try:
        facts.sources.kubelet()
    except Error as error:
        return Fails(error.msg)
    return Holds("it answers")


@check(
    "kubelet-plugins-registry",
    _SUBJECT,
    expected="the kubelet's directory of plugins",
    why="the kubelet looks there for plugins that it registers itself, DRA drivers among them",
    source="Kubernetes: Device Plugins; pkg/kubelet/pluginmanager",
    fix="restart the kubelet, which creates it",
)
def kubelet_plugins_registry(facts: Facts) -> Answer:
    if not _is_node(facts):
        return None
    path = f"{facts.config.kubelet}/plugins_registry"
    return Holds(path) if facts.files.exists(path) else Fails(f"there is no {path}")


@check(
    "device-plugin-sockets",
    _SUBJECT,
    expected="a program behind each socket of a device plugin",
    otherwise=Severity.INFO,
    why="a socket without one was left by a plugin that was killed: its resource has no healthy devices",
    source="Kubernetes: Device Plugins, Device plugin deployment",
)
def device_plugin_sockets(facts: Facts) -> Answer:
    if not _is_node(facts):
        return None
    folder = f"{facts.config.kubelet}/device-plugins"
    names = [each for each in facts.files.entries(folder) if each.endswith(".sock") and each != "kubelet.sock"]
    dead = [name for name in names if isinstance(_connects(facts, f"{folder}/{name}"), Fails)]
    if dead:
        return Fails(f"nobody listens on {', '.join(dead)}", fix=f"`rm {' '.join(f'{folder}/{n}' for n in dead)}`")
    return Holds(f"{len(names)} sockets, all served")


@check(
    "other-device-plugins",
    _SUBJECT,
    expected="no second device plugin for the same cards",
    why="two plugins that offer the same VF give it to two pods",
    source="docs/deviceplugin.md",
    fix="delete the DaemonSet of the SR-IOV network device plugin, or the pools of wirespeed's configuration",
)
def other_device_plugins(facts: Facts) -> Answer:
    found = [each for each in facts.processes if each.name in _OTHER_PLUGINS]
    if not found or not facts.config.device_plugin:
        told = f"{found[0].name} runs, and the agent's configuration has no devicePlugin" if found else "none runs"
        return Holds(told)
    return Fails(f"{found[0].name} runs (process {found[0].pid}) beside the agent's device plugin")


def _connects(facts: Facts, socket: str) -> Answer:
    try:
        facts.files.check_connects(socket)
    except Error as error:
        return Fails(error.msg)
    return Holds(socket)

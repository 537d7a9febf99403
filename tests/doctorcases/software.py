"""Cases of the kubelet, CNI, the runtime, switches, the cluster and a pod."""

from __future__ import annotations

from dataclasses import replace

from tests.doctorcases.case import CPU, Case, answers, removes, writes
from tests.madenode import APPLICATION, CGROUP, KUBELET, LIMITS, MadeNode
from wirespeed.doctor import Severity
from wirespeed.doctor.cluster import Permissions
from wirespeed.doctor.switches import Ovs
from wirespeed.errors import Error, Kind
from wirespeed.kube.cluster import UnavailableError
from wirespeed.kube.cri import Version
from wirespeed.node import AutoconfConfig
from wirespeed.switches.switch import UnreachableError

ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO
NET = "/etc/cni/net.d"
MULTUS = '{"cniVersion":"0.3.1","name":"multus-cni-network","type":"multus-shim"}'


def first_of_multus(node: MadeNode) -> None:
    node.write(f"{NET}/00-multus.conf", MULTUS)
    node.program("/opt/cni/bin/multus-shim", b"\x7fELF of Multus")


def with_multus_binary(node: MadeNode) -> None:
    node.program("/opt/cni/bin/multus", b"\x7fELF of Multus")


def other_cni_folder(node: MadeNode) -> None:
    node.configure(autoconf=AutoconfConfig(cni_config_dir="/var/lib/rancher/k3s/agent/etc/cni/net.d"))


def cdi_is_off(node: MadeNode) -> None:
    node.answers = replace(node.answers, runtime=Version("containerd", "1.7.28"))
    node.write("/etc/containerd/config.toml", "version = 2")


def cdi_is_unknown_to_old(node: MadeNode) -> None:
    node.answers = replace(node.answers, runtime=Version("cri-o", "1.22.5"))
    node.configure(cdi=False)


CASES = [
    # Kubelet
    Case("kubelet-runs", removes(KUBELET), ERROR, "there is no /var/lib/kubelet"),
    Case(
        "cpu-manager", writes(f"{KUBELET}/cpu_manager_state", '{"policyName":"none","checksum":1}'), WARNING, "none"
    ),
    Case(
        "reserved-cpus",
        writes(f"{KUBELET}/config.yaml", "reservedSystemCPUs: 0-1"),
        WARNING,
        "isolated CPUs 1 are reserved",
    ),
    Case("topology-manager", writes(f"{KUBELET}/config.yaml", "{}"), WARNING, "none"),
    Case(
        "topology-manager",
        writes(f"{KUBELET}/config.yaml", "topologyManagerPolicy: best-effort"),
        INFO,
        "best-effort",
    ),
    Case(
        "memory-manager",
        writes(f"{KUBELET}/memory_manager_state", '{"policyName":"None","checksum":1}'),
        WARNING,
        "None",
    ),
    Case(
        "kubelet-registration-socket",
        lambda node: node.abandon(f"{KUBELET}/device-plugins/kubelet.sock"),
        ERROR,
        "/var/lib/kubelet/device-plugins/kubelet.sock: Connection refused",
    ),
    Case(
        "kubelet-pod-resources",
        answers(kubelet=Error(Kind.TRY_AGAIN, "the kubelet does not answer", where="devices of pods")),
        ERROR,
        "devices of pods: the kubelet does not answer",
    ),
    Case(
        "kubelet-pod-resources",
        removes(f"{KUBELET}/pod-resources"),
        ERROR,
        "there is no /var/lib/kubelet/pod-resources/kubelet.sock",
    ),
    Case(
        "kubelet-plugins-registry",
        removes(f"{KUBELET}/plugins_registry"),
        WARNING,
        "there is no /var/lib/kubelet/plugins_registry",
    ),
    Case(
        "device-plugin-sockets",
        lambda node: node.abandon(f"{KUBELET}/device-plugins/intel.com_left.sock"),
        INFO,
        "nobody listens on intel.com_left.sock",
    ),
    Case(
        "other-device-plugins",
        lambda node: node.process(950, "sriovdp"),
        WARNING,
        "sriovdp runs (process 950) beside the agent's device plugin",
    ),
    # CNI and the agent
    Case(
        "cni-first",
        first_of_multus,
        ERROR,
        f"{NET}/00-multus.conf is a configuration of multus-shim, "
        f"before {NET}/00-wirespeed.conflist, {NET}/10-flannel.conflist",
    ),
    Case(
        "cni-first",
        removes(f"{NET}/00-wirespeed.conflist"),
        ERROR,
        f"{NET}/10-flannel.conflist is a configuration of flannel, portmap",
    ),
    Case("cni-first", removes(NET), ERROR, f"no configuration in {NET}"),
    Case(
        "cni-readable",
        writes(f"{NET}/99-x.conf", "{"),
        WARNING,
        f"{NET}/99-x.conf: not JSON: Expecting property name enclosed in double quotes: line 2 column 1 (char 2)",
    ),
    Case(
        "cni-readable",
        writes(f"{NET}/99-x.conf", '{"name": "x"}'),
        WARNING,
        f"{NET}/99-x.conf: it has no name, or no plugin",
    ),
    Case("cni-plugins", removes("/opt/cni/bin/loopback"), ERROR, "loopback: not in /opt/cni/bin"),
    Case(
        "cni-plugins",
        lambda node: node.place("/opt/cni/bin/wirespeed").chmod(0o644),
        ERROR,
        "wirespeed: not in /opt/cni/bin",
    ),
    Case("other-meta-plugins", first_of_multus, WARNING, f"{NET}/00-multus.conf is a configuration of Multus"),
    Case(
        "other-meta-plugins",
        lambda node: node.process(960, "multus-daemon"),
        WARNING,
        "process multus-daemon (960)",
    ),
    Case(
        "other-meta-plugins",
        with_multus_binary,
        INFO,
        "multus in /opt/cni/bin, and no configuration uses it",
    ),
    Case(
        "agent-answers",
        lambda node: node.abandon("/run/wirespeed/agent.sock"),
        ERROR,
        "/run/wirespeed/agent.sock: Connection refused",
    ),
    Case(
        "journal-in-memory",
        lambda node: node.configure(state="/var/lib/wirespeed/state.db", attachments="/run/wirespeed/attachments"),
        WARNING,
        "the journal /var/lib/wirespeed/state.db is on ext4; the records /run/wirespeed/attachments are on tmpfs",
    ),
    # Container runtime
    Case(
        "runtime-answers",
        removes("/run/containerd/containerd.sock"),
        WARNING,
        "none of /run/containerd/containerd.sock, /run/crio/crio.sock exists",
    ),
    Case(
        "runtime-cni-directory",
        other_cni_folder,
        ERROR,
        "conf_dir is /etc/cni/net.d, and the agent's /var/lib/rancher/k3s/agent/etc/cni/net.d",
    ),
    Case(
        "runtime-cni-directory",
        writes("/etc/containerd/config.toml", '[plugins."io.containerd.grpc.v1.cri".cni]\nmax_conf_num = 0'),
        ERROR,
        "max_conf_num is 0",
    ),
    Case("cdi-on", cdi_is_off, ERROR, "containerd 1.7.28, enable_cdi is false"),
    Case("cdi-on", answers(runtime=Version("containerd", "1.6.33")), ERROR, "containerd 1.6.33 has no CDI"),
    Case("cdi-on", cdi_is_unknown_to_old, INFO, "cri-o 1.22.5"),
    Case(
        "cdi-directory",
        lambda node: node.configure(cdi_dir="/opt/cdi"),
        ERROR,
        "cdiDir is /opt/cdi, and the runtime reads /etc/cdi, /run/cdi",
    ),
    Case(
        "runtime-locked-memory",
        writes("/proc/800/limits", LIMITS.format("8388608")),
        INFO,
        "containerd: 8388608 bytes",
    ),
    # Virtual switches
    Case(
        "ovs-answers",
        answers(ovs=UnreachableError("Connection refused", where="Open vSwitch database unix:x")),
        ERROR,
        "Open vSwitch database unix:x: Connection refused",
    ),
    Case("ovs-answers", answers(ovs=Ovs("3.5.0", False, True, {})), ERROR, "ovs-vswitchd does not run"),
    Case("ovs-dpdk", answers(ovs=Ovs("3.5.0", True, False, {})), WARNING, "dpdk-init is not set"),
    Case(
        "ovs-dpdk",
        answers(ovs=Ovs("3.5.0", True, False, {"dpdk-init": "true"})),
        WARNING,
        "dpdk-init is set, and DPDK is not initialized: see the log of ovs-vswitchd",
    ),
    Case(
        "ovs-pmd-cpus",
        answers(ovs=Ovs("3.5.0", True, True, {})),
        WARNING,
        "no pmd-cpu-mask: one thread on some CPU of each NUMA node",
    ),
    Case(
        "ovs-pmd-cpus",
        answers(ovs=Ovs("3.5.0", True, True, {"pmd-cpu-mask": "22"})),
        WARNING,
        "they poll on CPUs 1,5, which the kubelet gave to pods",
    ),
    Case(
        "ovs-offload",
        answers(ovs=Ovs("3.5.0", True, True, {})),
        WARNING,
        "hw-offload is not true, and ens1f0 (0000:18:00.0) in switchdev mode",
    ),
    Case(
        "vpp-answers",
        lambda node: node.abandon("/run/vpp/api.sock"),
        ERROR,
        "/run/vpp/api.sock: Connection refused",
    ),
    # Cluster
    Case(
        "api-server",
        answers(permissions=UnavailableError("no answer from the API server: timeout")),
        ERROR,
        "no answer from the API server: timeout",
    ),
    Case(
        "permissions",
        answers(permissions=Permissions(("patch pods/status",), networks=True)),
        ERROR,
        "forbidden: patch pods/status",
    ),
    Case(
        "networks-resource",
        answers(permissions=Permissions((), networks=False)),
        ERROR,
        "the cluster does not have it",
    ),
    # Pod
    Case("pod-devices", lambda node: node.without_devices(), INFO, "it has none"),
    Case(
        "pod-exclusive-cpus",
        lambda node: node.status("Cpus_allowed_list", "0,2-4,6-7"),
        WARNING,
        "it shares CPUs 0,2-4,6-7 with other pods",
    ),
    Case("pod-isolated-cpus", writes(f"{CPU}/isolated", "3,7"), INFO, "CPUs 1,5 are not isolated"),
    Case(
        "pod-cpus-near-device",
        lambda node: node.status("Cpus_allowed_list", "1,3"),
        WARNING,
        "CPUs 3 are not on NUMA node 0",
    ),
    Case(
        "pod-memory-near-device",
        lambda node: node.status("Mems_allowed_list", "0-1"),
        INFO,
        "it may come from NUMA node 0-1, the device is on 0",
    ),
    Case(
        "pod-memory-near-device",
        lambda node: node.status("Mems_allowed_list", "1"),
        WARNING,
        "it may come from NUMA node 1, the device is on 0",
    ),
    Case(
        "pod-threads",
        lambda node: node.status("Cpus_allowed_list", "1"),
        WARNING,
        "CPUs 5, of the same cores, are not its own",
    ),
    Case(
        "pod-throttling",
        writes(f"/sys/fs/cgroup{CGROUP}/cpu.stat", "usage_usec 5\nnr_throttled 31"),
        WARNING,
        "throttled 31 times",
    ),
    Case(  # cgroup v1 has a hierarchy of its own for CPUs
        "pod-throttling",
        writes(f"/sys/fs/cgroup/cpu{CGROUP}/cpu.stat", "nr_periods 40\nnr_throttled 7\nthrottled_time 5"),
        WARNING,
        "throttled 7 times",
    ),
    Case("pod-hugepages", writes(f"/sys/fs/cgroup{CGROUP}/hugetlb.1GB.max", "0"), ERROR, "its limits have none"),
    Case(
        "pod-locked-memory",
        lambda node: node.status("CapEff", "00000000a80425fb"),
        ERROR,
        "no IPC_LOCK, and a limit of 65536 bytes",
    ),
    Case(
        "pod-device-nodes",
        removes(f"/proc/{APPLICATION}/root/dev/vfio"),
        ERROR,
        "no container has /dev/vfio/6400 or /dev/vfio/noiommu-6400",
    ),
    Case(
        "pod-interrupts",
        writes("/proc/irq/120/effective_affinity_list", "5"),
        WARNING,
        "1: 120 of ens1f0 (0000:18:00.0)",
    ),
]

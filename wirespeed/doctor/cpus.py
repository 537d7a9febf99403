"""Checks of the CPUs: isolation, interrupts, ticks, frequency, idle states and hardware threads."""

from __future__ import annotations

from collections import Counter

from wirespeed.doctor import cpulists
from wirespeed.doctor.facts import Facts, Nic
from wirespeed.doctor.finding import Answer, Fails, Holds, Severity, Subject, check, check_each, some

_SUBJECT = Subject.CPU
_CPUS = "/sys/devices/system/cpu"
_DEEP = 20  # microseconds: C1 and C1E take less to leave, C3 and C6 more
_IRQBALANCE = ("/etc/default/irqbalance", "/etc/sysconfig/irqbalance")


@check(
    "cpu-isolation",
    _SUBJECT,
    expected="CPUs for polling applications that the scheduler leaves alone",
    why="the kubelet's static CPU manager keeps other pods off a pod's CPUs, but not the node's own processes: "
    "one of them takes the CPU for milliseconds, and at 10 Gbit/s 14,880 packets of 64 bytes arrive in each",
    source='DPDK Getting Started Guide, "How to get best performance"; Kubernetes: Control CPU Management Policies',
    fix="add `isolcpus=managed_irq,domain,2-N nohz_full=2-N` to the kernel's command line (not the kubelet's "
    "reservedSystemCPUs), and reboot",
)
def cpu_isolation(facts: Facts) -> Answer:
    if facts.isolated:
        return Holds(f"isolated: {cpulists.text_of(facts.isolated)}")
    return Fails("no CPU is isolated")


@check(
    "cpu-ticks",
    _SUBJECT,
    expected="no timer tick on isolated CPUs",
    why="the tick interrupts a polling application 100 to 1000 times a second",
    source="kernel: timers/no_hz.rst",
    fix="add `nohz_full=` with the isolated CPUs to the kernel's command line, and reboot",
)
def cpu_ticks(facts: Facts) -> Answer:
    if not facts.isolated:
        return None
    text = facts.files.text(f"{_CPUS}/nohz_full", "")
    quiet = cpulists.NONE if text == "(null)" else cpulists.of_list(text)
    if loud := facts.isolated - quiet:
        return Fails(f"the tick runs on isolated CPUs {cpulists.text_of(loud)}")
    return Holds(f"nohz_full: {text}")


@check(
    "cpu-workqueues",
    _SUBJECT,
    expected="the kernel's unbound work on other CPUs than isolated ones",
    why="work items of the kernel would run on the CPUs of polling applications",
    source="kernel: core-api/workqueue.rst, admin-guide/kernel-per-CPU-kthreads.rst",
    fix="write the mask of the other CPUs to /sys/devices/virtual/workqueue/cpumask; `isolcpus=domain` does it at "
    "boot",
)
def cpu_workqueues(facts: Facts) -> Answer:
    if not facts.isolated:
        return None
    mask = cpulists.of_mask(facts.files.text("/sys/devices/virtual/workqueue/cpumask"))
    if shared := facts.isolated & mask:
        return Fails(f"it may run on isolated CPUs {cpulists.text_of(shared)}")
    return Holds(f"it runs on CPUs {cpulists.text_of(mask & facts.online)}")


@check_each(
    lambda facts: facts.cards,
    "irq-affinity",
    _SUBJECT,
    expected="the card's interrupts on other CPUs than isolated ones, and those that pods have exclusively",
    why="an interrupt takes the CPU from the application that polls on it",
    source='kernel: core-api/irq/irq-affinity.rst; DPDK Getting Started Guide, "How to get best performance"',
)
def irq_affinity(facts: Facts, nic: Nic) -> Answer:
    interrupts = facts.files.entries(f"{nic.path}/msi_irqs")
    if not interrupts or not facts.quiet:
        return None
    wrong = {}
    for number in interrupts:
        text = facts.files.text(f"/proc/irq/{number}/effective_affinity_list", "") or facts.files.text(
            f"/proc/irq/{number}/smp_affinity_list", ""
        )
        if hit := cpulists.of_list(text) & facts.quiet:
            wrong[number] = hit
    if wrong:
        where = cpulists.text_of(cpulists.NONE.union(*wrong.values()))
        housekeeping = cpulists.text_of(facts.online - facts.quiet)
        return Fails(
            f"{len(wrong)} of {len(interrupts)} interrupts are on CPUs {where}",
            fix=f"`for i in {' '.join(wrong)}; do echo {housekeeping} > /proc/irq/$i/smp_affinity_list; done`",
        )
    return Holds(f"none of {len(interrupts)} interrupts is on CPUs {cpulists.text_of(facts.quiet)}")


@check(
    "irqbalance",
    _SUBJECT,
    expected="no irqbalance, or one that leaves out the CPUs that pods poll on",
    why="irqbalance moves interrupts to CPUs that look idle to it; it knows isolated CPUs, but not those that the "
    "kubelet gave to pods",
    source="irqbalance(1), IRQBALANCE_BANNED_CPULIST",
    fix="set IRQBALANCE_BANNED_CPULIST in /etc/default/irqbalance (/etc/sysconfig/irqbalance) to the pods' CPUs, "
    "or `systemctl disable --now irqbalance`",
)
def irqbalance(facts: Facts) -> Answer:
    if facts.process("irqbalance") is None:
        return Holds("it does not run")
    banned = any(
        line.strip().startswith("IRQBALANCE_BANNED_CPU")
        for path in _IRQBALANCE
        for line in facts.files.text(path, "").splitlines()
    )
    if banned or (facts.isolated and not facts.exclusive - facts.isolated):
        return Holds("it runs, and leaves out " + ("the CPUs of its configuration" if banned else "isolated CPUs"))
    return Fails("it runs, and may use all CPUs that are not isolated")


@check(
    "cpu-frequency",
    _SUBJECT,
    expected="the governor performance on all CPUs",
    why="other governors lower the clock, and raise it only after the load has risen",
    source='kernel: admin-guide/pm/cpufreq.rst; DPDK Getting Started Guide, "How to get best performance"',
    fix="`cpupower frequency-set -g performance`; keep it with a service, or tuned's profile cpu-partitioning",
)
def cpu_frequency(facts: Facts) -> Answer:
    governors = Counter(
        governor
        for cpu in facts.online
        if (governor := facts.files.text(f"{_CPUS}/cpu{cpu}/cpufreq/scaling_governor", ""))
    )
    if not governors:
        return Holds("the kernel does not change frequencies here")
    slow = [f"{name} on {count} CPUs" for name, count in governors.items() if name != "performance"]
    return Fails(some(slow)) if slow else Holds(f"performance on {governors.total()} CPUs")


@check(
    "cpu-idle-states",
    _SUBJECT,
    expected=f"no idle state that takes more than {_DEEP} microseconds to leave",
    why="a CPU that waits for an interrupt leaves such a state first: in 100 microseconds, 1,488 packets of 64 "
    "bytes arrive at 10 Gbit/s; a CPU that polls is not concerned, but its sibling and the clock of its package "
    "are",
    source='kernel: admin-guide/pm/cpuidle.rst, intel_idle.rst; DPDK Getting Started Guide: "C3, C6 off"',
    fix="add `intel_idle.max_cstate=1` (AMD: `processor.max_cstate=1`) to the kernel's command line, or "
    "`cpupower idle-set -D 20`",
)
def cpu_idle_states(facts: Facts) -> Answer:
    deep: dict[str, int] = {}
    states = 0
    for cpu in sorted(facts.isolated or facts.online):
        folder = f"{_CPUS}/cpu{cpu}/cpuidle"
        for name in facts.files.entries(folder):
            states += 1
            latency = facts.files.number(f"{folder}/{name}/latency")
            if latency > _DEEP and not facts.files.number(f"{folder}/{name}/disable"):
                deep[facts.files.text(f"{folder}/{name}/name")] = latency
    if deep:
        return Fails(some(f"{name} takes {latency} microseconds" for name, latency in deep.items()))
    return Holds("no such state is on" if states else "the kernel puts CPUs into no idle states here")


@check(
    "cpu-threads",
    _SUBJECT,
    expected="both hardware threads of a core for the same pod, or one thread a core",
    otherwise=Severity.INFO,
    why="two threads share the units of one core: what another pod does on the second one slows down the first",
    source='DPDK Getting Started Guide, "How to get best performance"; Kubernetes: Control CPU Management '
    "Policies, full-pcpus-only",
    fix='`cpuManagerPolicyOptions: {full-pcpus-only: "true"}` in the kubelet\'s configuration, or turn SMT off',
)
def cpu_threads(facts: Facts) -> Answer:
    if facts.files.text(f"{_CPUS}/smt/active") == "0":
        return Holds("a core has one thread")
    if facts.kubelet_config().cpu_manager_policy_options.get("full-pcpus-only") == "true":
        return Holds("the kubelet gives whole cores to pods (full-pcpus-only)")
    return Fails("cores have two threads, and the kubelet may give them to different pods")

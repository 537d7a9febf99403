"""Checks of the virtual switches: Open vSwitch with DPDK, its PMD threads and hardware offload, and VPP."""

from __future__ import annotations

import time
from typing import NamedTuple

from wirespeed import extras
from wirespeed.doctor import cpulists
from wirespeed.doctor.facts import Facts
from wirespeed.doctor.finding import Answer, Fails, Holds, Severity, Subject, check, some
from wirespeed.errors import Error, Kind

_SUBJECT = Subject.SWITCH
_PATIENCE = 2.0  # seconds for the database to answer


class Ovs(NamedTuple):
    """What Open vSwitch's database says of it. `config` is other_config; `running`: whether ovs-vswitchd runs."""

    version: str
    running: bool
    dpdk: bool
    config: dict[str, str]


def read_ovs(remote: str) -> Ovs:
    """Ask the database at `remote`. Raises Error if it does not answer, or the client is not installed."""
    extras.need("ovs", "the check of Open vSwitch")
    from wirespeed.switches import ovsdb  # noqa: PLC0415 — imports the client

    columns = ["ovs_version", "dpdk_initialized", "other_config"]
    with ovsdb.connected(remote, deadline=time.monotonic() + _PATIENCE) as database:
        (answer,) = database.transact(ovsdb.select_rows("Open_vSwitch", columns=columns))
        running = database.switch_runs()
    if not answer["rows"]:
        what, hint = "the database is empty", "start ovs-vswitchd, or `ovs-vsctl init`"
        raise Error(Kind.INVALID_DATA, what, where=f"Open vSwitch at {remote}", hint=hint)
    row = answer["rows"][0]
    version = next(iter(ovsdb.items(row["ovs_version"])), "")
    return Ovs(str(version), running, bool(row["dpdk_initialized"]), ovsdb.mapping(row["other_config"]))


def _ovs(facts: Facts) -> Ovs | None:
    """Return what Open vSwitch is; None if there is none on the node. Raises Error if it does not answer."""
    remote = facts.config.vhost.ovsdb
    if remote.startswith("unix:") and not facts.files.exists(remote.removeprefix("unix:")):
        return None
    return facts.ovs()


@check(
    "ovs-answers",
    _SUBJECT,
    expected="a database that answers, and an ovs-vswitchd that runs",
    otherwise=Severity.ERROR,
    why="ports for pods are created in the database, and ovs-vswitchd makes them",
    source="ovs-vswitchd(8); docs/vhost.md",
    fix="`systemctl restart openvswitch-switch`",
)
def ovs_answers(facts: Facts) -> Answer:
    try:
        ovs = _ovs(facts)
    except extras.MissingExtraError:
        raise
    except Error as error:
        return Fails(error.msg)
    if ovs is None:
        return None
    return Holds(f"Open vSwitch {ovs.version}") if ovs.running else Fails("ovs-vswitchd does not run")


@check(
    "ovs-dpdk",
    _SUBJECT,
    expected="DPDK in Open vSwitch",
    why="vhost-user ports exist only with it; without, packets go through the kernel",
    source="Open vSwitch: Open vSwitch with DPDK",
    fix="`ovs-vsctl set Open_vSwitch . other_config:dpdk-init=true`, then restart ovs-vswitchd",
)
def ovs_dpdk(facts: Facts) -> Answer:
    if (ovs := _ovs(facts)) is None:
        return None
    if ovs.dpdk:
        return Holds("it is initialized")
    if ovs.config.get("dpdk-init") in {"true", "try"}:
        return Fails("dpdk-init is set, and DPDK is not initialized: see the log of ovs-vswitchd")
    return Fails("dpdk-init is not set")


@check(
    "ovs-pmd-cpus",
    _SUBJECT,
    expected="PMD threads on CPUs of their own, which no pod has",
    why="a PMD thread polls all the time: a pod on the same CPU shares it with a thread that never sleeps",
    source="Open vSwitch: PMD Threads",
    fix="`ovs-vsctl set Open_vSwitch . other_config:pmd-cpu-mask=0xC` (CPUs 2 and 3), and list these CPUs in the "
    "kubelet's reservedSystemCPUs",
)
def ovs_pmd_cpus(facts: Facts) -> Answer:
    ovs = _ovs(facts)
    if ovs is None or not ovs.dpdk:
        return None
    if not (mask := ovs.config.get("pmd-cpu-mask", "")):
        return Fails("no pmd-cpu-mask: one thread on some CPU of each NUMA node")
    polled = cpulists.of_mask(mask)
    if shared := polled & facts.exclusive:
        return Fails(f"they poll on CPUs {cpulists.text_of(shared)}, which the kubelet gave to pods")
    return Holds(f"CPUs {cpulists.text_of(polled)}")


@check(
    "ovs-offload",
    _SUBJECT,
    expected="hardware offload, if a card is in switchdev mode",
    why="otherwise all packets between representors pass through the CPU, and the card's switch is not used",
    source="Open vSwitch: Open vSwitch with hardware offload (other_config:hw-offload); docs/sriov.md",
    fix="`ovs-vsctl set Open_vSwitch . other_config:hw-offload=true`, then restart ovs-vswitchd",
)
def ovs_offload(facts: Facts) -> Answer:
    if (ovs := _ovs(facts)) is None:
        return None
    switches = [
        str(nic)
        for nic in facts.cards
        if nic.interface and nic.device.attribute(f"net/{nic.interface}/phys_switch_id")
    ]
    if not switches:
        return None
    if ovs.config.get("hw-offload") == "true":
        return Holds("hw-offload is true")
    return Fails(f"hw-offload is not true, and {some(switches)} in switchdev mode")


@check(
    "vpp-answers",
    _SUBJECT,
    expected="a VPP that listens on its API socket",
    otherwise=Severity.ERROR,
    why="ports for pods are created there",
    source="docs/vhost.md",
    fix="`systemctl restart vpp`",
)
def vpp_answers(facts: Facts) -> Answer:
    socket = facts.config.vhost.vpp
    if not facts.files.exists(socket):
        return None
    try:
        facts.files.check_connects(socket)
    except Error as error:
        return Fails(error.msg)
    return Holds(socket)

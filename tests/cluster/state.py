"""The traces of pods on a node: interfaces, VF settings and drivers, leases, records, the journal."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cluster.remote import Remote
from tests.cluster.kube import PATIENCE, Kube

# A single command, because each one is slow under emulation. Link states and counters of PFs change by themselves
# and are left out.
_LOOK = """
import glob, json, os, re, sqlite3, subprocess

def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True).stdout

def driver(vf):
    link = vf + "/driver"
    return os.path.basename(vf) + " " + (os.path.basename(os.readlink(link)) if os.path.exists(link) else "-")

result = {"boot": [open("/proc/sys/kernel/random/boot_id").read().strip()]}
# A bridge stays when its last pod is gone, as the bridge plugin leaves it.
links = json.loads(ip("-json", "-details", "link", "show"))
result["links"] = sorted(link["ifname"] for link in links if link.get("linkinfo", {}).get("info_kind") != "bridge")
for pf in ("ens1", "ens2"):
    lines = (line.strip() for line in ip("link", "show", pf).splitlines())
    result[pf] = [line for line in lines if line.startswith("vf ")]
    result[pf] += [driver(vf) for vf in sorted(glob.glob(f"/sys/class/net/{pf}/device/virtfn*"))]
lease = re.compile("^[0-9a-f]+[.:]")
leases = glob.glob("/var/lib/cni/networks/*/*")
result["leases"] = sorted(path for path in leases if lease.match(os.path.basename(path)))
result["records"] = sorted(glob.glob("/var/lib/wirespeed/attachments/*"))
result["namespaces"] = sorted(os.listdir("/run/netns"))
# An agent that has gone leaves its journal, with no rows.
result["attachment"] = result["device"] = []
if os.path.exists("/run/wirespeed/state.db"):
    journal = sqlite3.connect("file:/run/wirespeed/state.db?mode=ro", uri=True)
    for table in ("attachment", "device"):
        result[table] = sorted(map(str, journal.execute(f"select * from {table}")))
print(json.dumps(result))
"""
_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")


def state(node: Remote) -> dict[str, list[str]]:
    """What is there now."""
    return json.loads(node.run("python3 -I -", given=_LOOK.encode()).stdout)  # type: ignore[no-any-return]


@contextmanager
def own_namespace(kube: Kube, nodes: Sequence[Remote], name: str) -> Iterator[Kube]:
    """A namespace that is deleted with its pods. Afterwards the nodes must be in their earlier state."""
    before = [state(node) for node in nodes]
    kube.run("create", "namespace", name)
    inside = kube.inside(name)
    # The namespace's default service account is created asynchronously; pods are rejected until it exists.
    account = ("serviceaccount", "default", "--ignore-not-found", "--output=name")
    inside.until("there is a default account", lambda: inside.run("get", *account))
    try:
        yield inside
    finally:
        kube.delete("namespace", name)
    for node, was in zip(nodes, before, strict=True):
        assert_same(node, was)


def assert_same(node: Remote, before: dict[str, list[str]], *, timeout: float = PATIENCE) -> None:
    """Waits until a node is in its earlier state. AssertionError with what is left over and what is missing.

    Waits, because a runtime removes a sandbox after the pod's object is gone. After a reboot VFs have other MACs,
    so they are not compared.
    """
    deadline = time.monotonic() + timeout
    while differences := compared(before, state(node)):
        if time.monotonic() > deadline:
            raise AssertionError(f"{node.name} is not as it was:\n" + "\n".join(differences))
        time.sleep(1)


def compared(before: dict[str, list[str]], now: dict[str, list[str]]) -> list[str]:
    """The differences between two states, one line for each kind."""
    if before["boot"] != now["boot"]:
        before, now = (
            {key: [_MAC.sub("MAC", one) for one in of[key]] for key in of if key != "boot"} for of in (before, now)
        )
    return [
        f"{key}: left {sorted(set(now.get(key, [])) - set(before.get(key, [])))}, "
        f"missing {sorted(set(before.get(key, [])) - set(now.get(key, [])))}"
        for key in sorted(now.keys() | before.keys())
        if now.get(key) != before.get(key)
    ]

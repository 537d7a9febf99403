"""Random sequences of operations on the 14 VFs of two PFs, compared with a model after every step.

Pods come and go in any order, lose their namespaces, request VFs that others have, and the agent is killed in
between. At every step, a VF that no pod has according to the model must be in its initial state.
WIRESPEED_SEQUENCES is the number of sequences, WIRESPEED_SEED the first seed. A failure shows seed and steps.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import (
    Answer,
    LabVfs,
    Runtime,
    conf,
    differences,
    host_local,
    in_namespace,
    link_in,
    make_vfs,
    pf_of,
    remove_vfs,
    sh,
    state_of_everything,
)
from tests.lab.test_crash import forked_agent, left_behind
from wirespeed.cni.errors import Code
from wirespeed.devices.pci import PciDevice

SEQUENCES = int(os.environ.get("WIRESPEED_SEQUENCES", "10"))
SEED = int(os.environ.get("WIRESPEED_SEED", "1"))
STEPS = 12
INSTANTS = 50  # more than any ADD or DEL has, so some calls are not killed
IFNAMES = ("net1", "net2")
Namespaces = Callable[[], str]


@dataclass
class Pod:
    """A pod in the model. `has` maps its interfaces to devices; `taken` are names of other interfaces in it."""

    container: str
    netns: str
    alive: bool = True
    has: dict[str, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)


class Walk:
    """One sequence: the model, and the node that it is compared with."""

    def __init__(self, runtime: Runtime, vfs: LabVfs, namespaces: Namespaces, seed: int) -> None:
        self.runtime, self.namespaces = runtime, namespaces
        self.random = random.Random(seed)
        self.kernel, self.devices = set(vfs.kernel), [*vfs.kernel, *vfs.vfio]
        self.before = state_of_everything()
        self.pods: list[Pod] = []
        self.asked: dict[str, dict[str, Any]] = {}  # configuration by attached device
        self.past: list[tuple[str, str, str]] = []  # former attachments, for late DELs
        self.told = f"seed {seed}"
        self.agent = ExitStack()

    # The steps

    def step(self) -> None:
        steps = [self.add] * 5 + [self.delete] * 3
        steps += [self.lose_namespace, self.late_delete, self.collect, self.race, self.occupy]
        steps += [self.add_killed, self.delete_killed]
        self.random.choice(steps)()
        self.compare()

    def add(self) -> None:
        pod, ifname, device = self.pod(), self.random.choice(IFNAMES), self.random.choice(self.devices)
        asked = self.configuration(device)
        owner = self.owner(device)
        answer = self.call("ADD", pod, ifname, asked)
        # the owner's namespace is gone without a DEL: ADD first takes back its VF
        if owner is not None and not owner.alive:
            self.forget(owner, next(name for name, has in owner.has.items() if has == device))
        if ifname in pod.has or (owner is not None and owner.alive):
            self.expect(answer, Code.TRY_AGAIN_LATER)
            return
        if ifname in pod.taken and self.is_netdev(device, asked):
            self.expect(answer, Code.INTERFACE)
            return
        self.expect(answer)
        self.note(pod, ifname, asked)

    def delete(self) -> None:
        if (chosen := self.attachment()) is not None:
            pod, ifname = chosen
            netns = pod.netns if self.random.random() < 0.8 else ""
            self.expect(self.call("DEL", pod, ifname, self.asked[pod.has[ifname]], netns=netns))
            self.forget(pod, ifname)

    def lose_namespace(self) -> None:
        living = [pod for pod in self.pods if pod.alive]
        if living:
            pod = self.random.choice(living)
            self.told += f"; lose {pod.container}"
            sh("ip", "netns", "del", Path(pod.netns).name)
            pod.alive = False

    def late_delete(self) -> None:
        """A DEL of a former attachment changes nothing, even if another pod has the VF now."""
        if self.past:
            container, ifname, device = self.random.choice(self.past)
            if not any(pod.container == container and ifname in pod.has for pod in self.pods):
                self.late(container, ifname, device)

    def late(self, container: str, ifname: str, device: str) -> None:
        asked = conf(device, ipam=host_local())
        self.expect(self.call("DEL", Pod(container, "/run/netns/none"), ifname, asked))

    def collect(self) -> None:
        """GC after the runtime has lost one attachment."""
        lost = self.attachment()
        valid = [
            {"containerID": pod.container, "ifname": ifname}
            for pod in self.pods
            for ifname in pod.has
            if (pod, ifname) != lost
        ]
        asked = conf(self.devices[0], ipam=host_local()) | {"cni.dev/valid-attachments": valid}
        self.expect(self.call("GC", Pod("", ""), "", asked))
        if lost is not None:
            self.forget(*lost)

    def race(self) -> None:
        """Two new pods request the same VF at once: exactly one gets it."""
        if (device := self.free()) is None:
            return
        pods, asked = [self.new_pod(), self.new_pod()], self.configuration(device)
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda pod: self.call("ADD", pod, "net1", asked), pods))
        winner, loser = sorted((0, 1), key=lambda number: answers[number].code)
        self.expect(answers[winner])
        self.expect(answers[loser], Code.TRY_AGAIN_LATER)
        self.note(pods[winner], "net1", asked)

    def occupy(self) -> None:
        """The pod creates an interface with a name that an ADD may request."""
        pod, ifname = self.pod(), self.random.choice(IFNAMES)
        if ifname not in pod.taken and link_in(pod.netns, ifname) is None:
            self.told += f"; occupy {pod.container} {ifname}"
            in_namespace(pod.netns, "ip", "link", "add", ifname, "type", "dummy")
            pod.taken.add(ifname)

    def add_killed(self) -> None:
        """The agent is killed during an ADD; the runtime calls DEL."""
        pod, device = self.new_pod(), self.free()
        if device is None:
            return
        asked = self.configuration(device)
        answer = self.killed("ADD", pod, "net1", asked)
        if answer.code == 0:
            self.note(pod, "net1", asked)
            return
        self.expect(answer, Code.TRY_AGAIN_LATER)
        if self.random.random() < 0.3:
            sh("ip", "netns", "del", Path(pod.netns).name)
            pod.alive = False
        self.expect(self.call("DEL", pod, "net1", asked))
        self.past.append((pod.container, "net1", device))

    def delete_killed(self) -> None:
        """The agent is killed during a DEL; the runtime calls DEL again."""
        if (chosen := self.attachment()) is None:
            return
        pod, ifname = chosen
        asked = self.asked[pod.has[ifname]]
        answer = self.killed("DEL", pod, ifname, asked)
        if answer.code:
            self.expect(answer, Code.TRY_AGAIN_LATER)
            self.expect(self.call("DEL", pod, ifname, asked))
        self.forget(pod, ifname)

    # The node

    def call(self, verb: str, pod: Pod, ifname: str, asked: dict[str, Any], *, netns: str | None = None) -> Answer:
        self.told += f"; {verb} {pod.container} {ifname} {asked['deviceID']} {asked.get('driver', '')}"
        where = pod.netns if netns is None else netns
        return self.runtime.call(verb, pod.container, asked, netns=where, ifname=ifname)

    def killed(self, verb: str, pod: Pod, ifname: str, asked: dict[str, Any]) -> Answer:
        """Make a call that is handled by an agent which kills itself at a random instant."""
        instant = self.random.randint(1, INSTANTS)
        self.told += f"; killed at {instant}"
        self.agent.close()
        with forked_agent(self.runtime, verb=verb, die_at=instant):
            answer = self.call(verb, pod, ifname, asked)
        self.agent.enter_context(forked_agent(self.runtime))
        return answer

    def expect(self, answer: Answer, code: int | None = None) -> None:
        assert (answer.code, answer.body.get("code")) == (int(code is not None), code), (
            f"{self.told}: {answer.body}"
        )

    def compare(self) -> None:
        """VFs that are not attached must be in their initial state; attached ones must have the requested VLAN."""
        now = state_of_everything()
        for device in self.devices:
            pf, number = pf_of(device), PciDevice(device).vf_index
            info = now[pf]["vfinfo_list"][number]
            if device in self.asked:
                assert info["vlan_list"][0].get("vlan", 0) == self.asked[device]["vlan"], self.told
                continue
            names = self.before[device]["netdevs"]
            seen = [now[device], info, *(now.get(name) for name in names)]
            was = [self.before[device], self.before[pf]["vfinfo_list"][number], *(self.before[n] for n in names)]
            assert seen == was, self.told

    def finish(self) -> None:
        for pod in self.pods:
            for ifname in list(pod.has):
                self.expect(self.call("DEL", pod, ifname, self.asked[pod.has[ifname]]))
                self.forget(pod, ifname)
        for attachment in self.past:  # a VF that was taken back leaves the pod's lease until its DEL
            self.late(*attachment)
        assert differences(self.before, state_of_everything()) == [], self.told
        assert left_behind(self.runtime) == [], self.told

    # The model

    def new_pod(self) -> Pod:
        pod = Pod(f"pod{len(self.pods)}", self.namespaces())
        self.pods.append(pod)
        return pod

    def pod(self) -> Pod:
        """A pod whose namespace exists: mostly one that was created before."""
        living = [pod for pod in self.pods if pod.alive]
        return self.random.choice(living) if living and self.random.random() < 0.6 else self.new_pod()

    def attachment(self) -> tuple[Pod, str] | None:
        found = [(pod, ifname) for pod in self.pods for ifname in pod.has]
        return self.random.choice(found) if found else None

    def owner(self, device: str) -> Pod | None:
        return next((pod for pod in self.pods if device in pod.has.values()), None)

    def free(self) -> str | None:
        found = [device for device in self.devices if device not in self.asked]
        return self.random.choice(found) if found else None

    def note(self, pod: Pod, ifname: str, asked: dict[str, Any]) -> None:
        pod.has[ifname] = asked["deviceID"]
        self.asked[asked["deviceID"]] = asked

    def forget(self, pod: Pod, ifname: str) -> None:
        device = pod.has.pop(ifname)
        del self.asked[device]
        self.past.append((pod.container, ifname, device))

    def is_netdev(self, device: str, asked: dict[str, Any]) -> bool:
        driver = asked.get("driver") or ("netdevice" if device in self.kernel else "vfio-pci")
        return bool(driver == "netdevice")

    def configuration(self, device: str) -> dict[str, Any]:
        """A random configuration for this VF."""
        asked: dict[str, Any] = {"vlan": self.random.randint(1, 4094), "ipam": host_local()}
        if self.random.random() < 0.2:
            asked["driver"] = "vfio-pci" if device in self.kernel else "netdevice"
        if self.random.random() < 0.5:
            asked["mac"] = f"02:00:00:00:{self.devices.index(device):02x}:{self.random.randint(1, 255):02x}"
        asked |= {
            key: self.random.choice(("on", "off")) for key in ("spoofchk", "trust") if self.random.random() < 0.5
        }
        if self.is_netdev(device, asked):
            asked |= {"mtu": self.random.randint(1280, 1500)} if self.random.random() < 0.5 else {}
            asked |= {"promisc": "on"} if asked.get("trust") == "on" else {}
        return conf(device, **asked)


@pytest.fixture(scope="module")
def all_vfs(vfs: LabVfs) -> Iterator[LabVfs]:
    """Seven VFs of each PF, the maximum. Three of each are bound to vfio-pci."""
    remove_vfs()
    yield make_vfs(7, kernel=4)
    remove_vfs()
    assert make_vfs() == vfs


@pytest.mark.usefixtures("ready_to_fork")
@pytest.mark.parametrize("seed", range(SEED, SEED + SEQUENCES))
def test_every_vf_is_what_it_was_whatever_happened(
    runtime: Runtime, all_vfs: LabVfs, namespaces: Namespaces, seed: int
) -> None:
    walk = Walk(runtime, all_vfs, namespaces, seed)
    with walk.agent:
        walk.agent.enter_context(forked_agent(runtime))
        for _ in range(STEPS):
            walk.step()
        walk.finish()

"""Plugin names taken by the shim, and other software that copies its own files over them, as its images do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from tests import multusfiles, openfiles, sriovfiles
from tests.apiserver import ApiServer
from tests.multusfiles import Attached
from tests.node.calling import until
from tests.node.conftest import PATIENCE, ROOT, Agent
from tests.node.pods import PLUGINS
from tests.node.test_metrics import look, served
from wirespeed.agent import changes, names
from wirespeed.agent.install import binaries, content
from wirespeed.errors import Error, Kind
from wirespeed.kernel.netns import Identity
from wirespeed.kube.cluster import Event
from wirespeed.node import ClusterConfig, Node, NodeConfig
from wirespeed.state.journal import Attachment, DeviceClaim
from wirespeed.state.records import RecordedJournal
from wirespeed.steps import carry_out
from wirespeed.system.files import open_for_writing
from wirespeed.takeover.record import PEERS, Record

GO = PLUGINS / "bridge"  # a Go program, like the replaced plugins
CID = "ab" * 32


@dataclass
class Place:
    """A node's directories, and `theirs`, the executable in the other plugin's image, unlike the one in `bin`."""

    root: Path
    shim: Path
    start_agent: Callable[..., Agent]

    @property
    def bin(self) -> Path:
        return self.root / "opt/cni/bin"

    @property
    def theirs(self) -> Path:
        return self.root / "image/sriov"

    @property
    def record(self) -> Path:
        return self.root / "replaced.json"

    def command(self, *arguments: str) -> str:
        """Run a `wirespeed` command, which must succeed. Return its output."""
        config = self.root / "agent.yaml"
        if not config.exists():
            places = {"socket": "run/agent.sock", "state": "run/state.db", "attachments": "attachments"}
            config.write_text(json.dumps({key: str(self.root / value) for key, value in places.items()}))
        (self.root / "units").mkdir(exist_ok=True)
        more = ["--shim", str(self.shim), "--cni-config-dir", str(self.root / "net.d")]
        run = subprocess.run(
            [
                *(
                    sys.executable,
                    "-m",
                    "wirespeed",
                    *arguments,
                    "--config",
                    str(config),
                    "--bin-dir",
                    str(self.bin),
                ),
                *("--multus-dir", str(self.root / "multus"), "--sriov-dir", str(self.root / "sriov")),
                *("--unit-dir", str(self.root / "units"), *(more if arguments[0] == "install" else ())),
            ],
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    def install(self, *peers: str) -> str:
        """Run `wirespeed install` with --replace for each of these plugins. Return its output."""
        return self.command("install", *(part for peer in peers for part in ("--replace", peer)))

    def agent(self, **config: object) -> Agent:
        return self.start_agent(folder=self.root, **config)

    def ours(self, name: str) -> bool:
        path = self.bin / name
        return path.exists() and path.read_bytes() == self.shim.read_bytes()

    def journal(self) -> RecordedJournal:
        return RecordedJournal(self.root / "run/state.db", self.root / "attachments")


@pytest.fixture
def place(tmp_path: Path, shim: Path, agent_process: Callable[..., Agent]) -> Place:
    made = Place(tmp_path / "node", shim, agent_process)
    for folder in (made.bin, made.theirs.parent):
        folder.mkdir(parents=True)
    shutil.copy(GO, made.theirs)
    (made.bin / "sriov").write_text("#!/bin/sh\nexit 1\n")
    (made.bin / "sriov").chmod(0o755)
    return made


def atomically(source: Path, target: Path) -> None:
    """Like Multus' install_multus and ib-sriov-cni's entry point: temporary file, mode, rename, times."""
    new = target.with_name(f"_{target.name}.temp")
    with new.open("wb") as file:
        file.write(source.read_bytes())
        os.fsync(file.fileno())
    new.chmod(source.stat().st_mode)
    new.rename(target)
    os.utime(target)


def by_shell(script: str) -> Callable[[Path, Path], None]:
    """A writer that runs a shell script with the source as $1 and the target as $2."""

    def write(source: Path, target: Path) -> None:
        subprocess.run(["sh", "-euc", script, "sh", source, target], check=True, timeout=PATIENCE)

    return write


# How the files are installed by sriov-cni and rdma-cni (cp -f, also of BusyBox), by the operator's ovs-cni (cp), by
# Multus (atomically), and by scripts and packages.
WRITERS = {
    "cp -f": by_shell('cp -f "$1" "$2"'),
    "cp -f of BusyBox": by_shell('busybox cp -f "$1" "$2"'),
    "cp": by_shell('cp "$1" "$2"'),
    "cp --remove-destination": by_shell('cp --remove-destination "$1" "$2"'),
    "install": by_shell('install -m 0755 "$1" "$2"'),
    "rm and cp": by_shell('rm "$2"; cp "$1" "$2"'),
    "cat and chmod": by_shell('rm "$2"; cat "$1" >"$2"; chmod +x "$2"'),
    "in pieces": by_shell('rm "$2"; head -c 4096 "$1" >"$2"; tail -c +4097 "$1" >>"$2"; chmod 0755 "$2"'),
    "mv": by_shell('cp "$1" "$2.new"; mv -f "$2.new" "$2"'),
    "a rename": atomically,
}


def told(agent: Agent, part: str) -> list[str]:
    """The agent's log lines with this part, without the lines about events, which would be duplicates."""
    return [line for line in agent.log if part in line and "event of node" not in line]


@pytest.mark.parametrize("how", WRITERS)
def test_what_others_copy_over_the_shim_is_kept_and_the_shim_is_there_again(place: Place, how: str) -> None:
    place.install("sriov-cni")
    agent = place.agent()
    WRITERS[how](place.theirs, place.bin / "sriov")
    said = agent.wait_log("WARNING", "bin/sriov was replaced by ")
    assert "github.com/containernetworking/plugins/plugins/main/bridge" in said
    assert f"({GO.stat().st_size} bytes, sha256 " in said
    assert place.ours("sriov")
    kept = place.bin / "sriov.replaced"
    assert (kept.read_bytes(), kept.stat().st_mode & 0o777) == (GO.read_bytes(), 0o755)
    assert agent.stop() == 0
    assert len(told(agent, "bin/sriov was")) == 1
    place.command("uninstall")
    assert (place.bin / "sriov").read_bytes() == GO.read_bytes()
    assert sorted(os.listdir(place.bin)) == ["sriov"]
    assert not place.record.exists()


def test_writer_in_a_container_is_noticed_though_its_path_is_another(place: Place) -> None:
    place.install("sriov-cni")
    agent = place.agent()
    host = place.root / "host"
    host.mkdir()
    script = 'mount --bind "$0" "$1" && cp -f "$2" "$1/sriov"'
    subprocess.run(["unshare", "--mount", "sh", "-c", script, place.bin, host, place.theirs], check=True)
    agent.wait_log("bin/sriov was replaced by ")
    assert place.ours("sriov")


def test_name_that_somebody_removes_is_there_again_and_what_was_kept_stays(place: Place) -> None:
    place.install("sriov-cni")
    agent = place.agent()
    (place.bin / "sriov").unlink()
    agent.wait_log("WARNING", "bin/sriov was removed; wirespeed's shim is there again")
    assert place.ours("sriov")
    assert (place.bin / "sriov.replaced").read_text() == "#!/bin/sh\nexit 1\n"


def test_kept_file_that_somebody_puts_back_by_a_second_name_is_kept(place: Place) -> None:
    place.install("sriov-cni")
    agent = place.agent()
    subprocess.run(["ln", "-f", "sriov.replaced", "sriov"], cwd=place.bin, check=True)
    agent.wait_log("bin/sriov was replaced by ")
    assert place.ours("sriov")
    assert (place.bin / "sriov.replaced").read_text() == "#!/bin/sh\nexit 1\n"


def test_link_is_kept_as_a_link(place: Place) -> None:
    place.install("sriov-cni")
    agent = place.agent()
    subprocess.run(["ln", "-sfn", place.theirs, place.bin / "sriov"], check=True)
    agent.wait_log("bin/sriov was replaced by a link to ")
    assert place.ours("sriov")
    assert (place.bin / "sriov.replaced").readlink() == place.theirs


def test_writer_of_a_shim_that_runs_makes_another_file_and_that_is_kept(place: Place) -> None:
    place.install("sriov-cni")
    agent = place.agent()
    environ = {"WIRESPEED_SOCKET": str(place.root / "nobody.sock"), "CNI_COMMAND": "STATUS"}
    call = subprocess.Popen([place.bin / "sriov"], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        until(lambda: os.readlink(f"/proc/{call.pid}/exe").endswith("/sriov"), "a call that runs")
        refused = subprocess.run(["cp", place.theirs, place.bin / "sriov"], check=False, capture_output=True)
        assert b"Text file busy" in refused.stderr
        WRITERS["cp -f"](place.theirs, place.bin / "sriov")
        agent.wait_log("bin/sriov was replaced by ")
        assert place.ours("sriov")
        assert (place.bin / "sriov.replaced").read_bytes() == GO.read_bytes()
    finally:
        call.kill()
        call.communicate()


def test_copy_in_progress_is_waited_for_and_kept_whole(place: Place) -> None:
    place.install("sriov-cni", "userspace-cni")
    agent = place.agent()
    data = GO.read_bytes()
    with (place.bin / "sriov").open("wb") as file:
        file.write(data[: len(data) // 2])
        file.flush()
        for _ in range(2):  # each time, the agent checks all names
            WRITERS["cp -f"](place.theirs, place.bin / "userspace")
            agent.wait_log("bin/userspace was replaced by ")
        assert (place.bin / "sriov.replaced").read_text() == "#!/bin/sh\nexit 1\n"
        assert told(agent, "bin/sriov") == []
        file.write(data[len(data) // 2 :])
    agent.wait_log("bin/sriov was replaced by ")
    assert (place.bin / "sriov.replaced").read_bytes() == data
    assert place.ours("sriov")


def test_what_was_replaced_while_no_agent_ran_is_taken_back_at_the_start(place: Place) -> None:
    place.install("sriov-cni")
    agent = place.agent()
    agent.stop()
    WRITERS["cp -f"](place.theirs, place.bin / "sriov")
    agent = place.agent()
    agent.wait_log("bin/sriov was replaced by ")
    assert place.ours("sriov")
    agent.stop()
    WRITERS["rm and cp"](place.theirs, place.bin / "sriov")
    assert "put the shim at" in place.install("sriov-cni")
    assert place.ours("sriov")
    assert place.install("sriov-cni") == "nothing to do\n"


@pytest.mark.parametrize("how", ["cp -f", "ln"])
def test_uninstall_leaves_what_was_put_there_last(place: Place, how: str) -> None:
    place.install("sriov-cni")
    if how == "cp -f":  # no agent has kept it
        WRITERS["cp -f"](place.theirs, place.bin / "sriov")
        assert "the file at" in place.command("uninstall")
        assert (place.bin / "sriov").read_bytes() == GO.read_bytes()
    else:  # a dangling link, which an agent has kept
        agent = place.agent()
        subprocess.run(["ln", "-sfn", "/nowhere/sriov", place.bin / "sriov"], check=True)
        agent.wait_log("bin/sriov was replaced by a link to /nowhere/sriov")
        agent.stop()
        place.command("uninstall")
        assert (place.bin / "sriov").readlink() == Path("/nowhere/sriov")
    assert os.listdir(place.bin) == ["sriov"]


def test_names_that_were_not_taken_are_left_alone(place: Place) -> None:
    place.install("sriov-cni")
    agent = place.agent()
    for name in ("multus", "bridge"):
        WRITERS["cp -f"](place.theirs, place.bin / name)
    WRITERS["cp -f"](place.theirs, place.bin / "sriov")
    agent.wait_log("bin/sriov was replaced by ")
    assert [place.ours(name) for name in ("multus", "bridge")] == [False, False]
    assert told(agent, "bin/multus") == []


def test_two_that_fight_over_a_name_are_told_once_and_by_what(place: Place) -> None:
    place.install("sriov-cni")
    agent = place.agent()
    stop = threading.Event()

    def fight() -> None:
        while not stop.is_set():
            if place.ours("sriov"):
                WRITERS["a rename"](place.theirs, place.bin / "sriov")
            stop.wait(0.01)

    other = threading.Thread(target=fight)
    other.start()
    try:
        said = agent.wait_log("WARNING", "is contested")
        agent.wait_log("bin/sriov was replaced by ")  # the next time, 4 s later
    finally:
        stop.set()
        other.join()
    assert f"bin/sriov is contested: {names._CONTESTED_TIMES} times in a row it was replaced by github.com/" in said
    assert len(told(agent, "is contested")) == 1
    times = [datetime.fromisoformat(line.split()[0]) for line in told(agent, "bin/sriov was replaced by ")]
    assert len(times) == names._CONTESTED_TIMES + 1
    # The third restoration waits 1 s, and each later one twice as long. Lines are logged slightly after the count.
    assert (times[-1] - times[1]).total_seconds() > 5


def test_nodes_event_and_figure_count_the_times(place: Place, tmp_path: Path) -> None:
    place.install("multus", "sriov-cni")
    with ApiServer(tmp_path) as api:
        agent = place.agent(
            cluster={"kubeconfig": str(api.kubeconfig())}, nodeName="n1", metrics="127.0.0.1:0", runtimes=[]
        )
        address = served(agent)
        for _ in range(2):
            WRITERS["a rename"](place.theirs, place.bin / "sriov")
            agent.wait_log("bin/sriov was replaced by ")
        api.wait(lambda: [each["count"] for each in api.objects("Event")] == [2])
        (event,) = api.objects("Event")
        samples = look(address)
        agent.stop()
    assert event["involvedObject"] == {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "n1"}
    assert (event["metadata"]["namespace"], event["type"]) == ("default", "Warning")
    assert event["reason"] == "PluginTakenBack"
    assert "bin/sriov was replaced by github.com/" in event["message"]
    figure = "wirespeed_plugin_names_taken_back_total"
    counted = {dict(labels)["name"]: value for (name, labels), value in samples.items() if name == figure}
    assert counted == {"multus": 0, "multus-shim": 0, "sriov": 2}


# Pods that others attached meanwhile

LOOKED = "looked for pods of other tools to take over"
BRIDGED = Attached(
    config={"cniVersion": "1.0.0", "name": "cbr0", "type": "rec-bridge"},
    ifname="eth0",
    result={"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/gone"}]},
)


@pytest.mark.parametrize("running", [True, False])
def test_pod_that_multus_attached_before_its_name_was_taken_back_is_taken_over(place: Place, running: bool) -> None:
    place.install("multus")
    if running:
        agent = place.agent()
        agent.wait_log(LOOKED)
    WRITERS["a rename"](place.theirs, place.bin / ".new")
    multusfiles.write(place.root / "multus", CID, [BRIDGED], netns="/run/netns/gone")
    (place.bin / ".new").rename(place.bin / "multus")
    if not running:
        agent = place.agent()
    agent.wait_log("bin/multus was replaced by ")
    agent.wait_log("INFO", f"take over container {CID}: eth0")
    until(lambda: not (place.root / "multus" / CID).exists(), "taken over")
    with closing(place.journal()) as journal:
        (row,) = journal.attachments()
    assert (row.container, row.ifname, row.step) == (CID, "eth0", "added")


def test_nothing_is_taken_over_while_others_still_have_a_name(place: Place) -> None:
    place.install("multus", "userspace-cni")
    agent = place.agent()
    agent.wait_log(LOOKED)
    with (place.bin / "multus").open("wb") as file:
        file.write(GO.read_bytes())
        multusfiles.write(place.root / "multus", CID, [BRIDGED], netns="/run/netns/gone")
        for _ in range(2):  # each time, the agent checks all names
            WRITERS["a rename"](place.theirs, place.bin / "userspace")
            agent.wait_log("bin/userspace was replaced by ")
        assert told(agent, "take over container") == []
    agent.wait_log("bin/multus was replaced by ")
    agent.wait_log("INFO", f"take over container {CID}: eth0")


def test_call_of_others_that_runs_is_waited_for_and_what_it_wrote_is_taken_over(
    place: Place,
) -> None:
    place.install("multus")
    agent = place.agent()
    agent.wait_log(LOOKED)
    shutil.copy(shutil.which("sleep") or "", place.bin / ".new")
    call = subprocess.Popen([place.bin / ".new", "1000"])
    try:
        (place.bin / ".new").rename(place.bin / "multus")
        agent.wait_log("bin/multus was replaced by ")
        multusfiles.write(place.root / "multus", CID, [BRIDGED], netns="/run/netns/gone")
        assert told(agent, "take over container") == []
    finally:
        call.kill()
        call.wait(PATIENCE)
    agent.wait_log("INFO", f"take over container {CID}: eth0")


def test_a_process_with_more_files_than_select_knows_waits_for_calls_of_others(tmp_path: Path) -> None:
    shutil.copy(shutil.which("sleep") or "", tmp_path / "multus.replaced")
    call = subprocess.Popen([tmp_path / "multus.replaced", "1000"])
    try:
        with openfiles.many():
            with pytest.raises(Error, match=f"process {call.pid}, which runs it, does not end") as refused:
                carry_out([binaries.await_calls(tmp_path, ["multus"], 0.0)])
            call.kill()
            carry_out([binaries.await_calls(tmp_path, ["multus"], PATIENCE)])
    finally:
        call.kill()
        call.wait(PATIENCE)
    assert refused.value.kind == Kind.TRY_AGAIN


def test_what_cannot_be_taken_over_is_told_once(place: Place) -> None:
    place.install("sriov-cni")
    agent = place.agent()
    agent.wait_log(LOOKED)
    sriovfiles.write(place.root / "sriov", CID, "net1", "/run/netns/gone", sriovfiles.kept("0000:ff:1f.7"))
    WRITERS["a rename"](place.theirs, place.bin / "sriov")
    agent.wait_log("WARNING", "attached by other tools", "device 0000:ff:1f.7: there is no such pci device")
    WRITERS["a rename"](place.theirs, place.bin / "sriov")
    agent.wait_log("bin/sriov was replaced by ")
    agent.stop()
    assert len(told(agent, "attached by other tools")) == 1


# Restored names


def test_who_is_not_replaced_any_more_has_the_name_again(place: Place) -> None:
    place.install("sriov-cni", "userspace-cni")
    said = place.install("userspace-cni")
    assert "put sriov.replaced back at" in said
    assert (place.bin / "sriov").read_text() == "#!/bin/sh\nexit 1\n"
    agent = place.agent()
    for name in ("sriov", "userspace"):
        WRITERS["cp -f"](place.theirs, place.bin / name)
    agent.wait_log("bin/userspace was replaced by ")
    assert (place.bin / "sriov").read_bytes() == GO.read_bytes()
    agent.stop()
    assert "remove" in place.install()
    assert not place.record.exists()
    assert (place.bin / "userspace").read_bytes() == GO.read_bytes()
    assert "keeper" not in "".join(place.agent().log)


@pytest.mark.parametrize(("peer", "name"), [("multus", "multus"), ("sriov-cni", "sriov")])
def test_who_has_pods_attached_in_his_place_stays_replaced_until_they_are_gone(
    place: Place, peer: str, name: str
) -> None:
    place.install(peer)
    with closing(place.journal()) as journal:
        if peer == "multus":
            journal.plan([Attachment(container=CID, ifname="eth0", position=0, netns="/run/netns/gone")])
        else:
            claim = DeviceClaim(
                device="0000:ff:1f.7",
                plugin="sriov",
                container=CID,
                ifname="net1",
                netns="/run/netns/gone",
                identity=Identity(0, 0, 0),
            )
            journal.claim(claim)
    said = place.install()
    assert f"{peer} stays replaced until 1 containers are gone that were attached in its place ({CID})" in said
    assert json.loads(place.record.read_text())["replaced"] == [peer]
    assert place.ours(name)
    WRITERS["cp -f"](place.theirs, place.bin / name)
    place.agent().wait_log(f"bin/{name} was replaced by ")


# What is not possible


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Like `until`, but for a thread of this process, which needs the GIL."""
    end, pause = time.monotonic() + PATIENCE, threading.Event()
    while not condition():
        assert time.monotonic() < end, f"never {what}"
        pause.wait(0.01)


@contextmanager
def keeping(place: Place, *peers: str) -> Iterator[Node]:
    """Run the thread that keeps the names in this process."""
    manifests = place.root / "manifests"
    manifests.mkdir(exist_ok=True)
    node = Node(NodeConfig(cluster=ClusterConfig(manifests=str(manifests)), state=str(place.root / "run/state.db")))
    record = Record(bin_dir=str(place.bin), replaced=peers, sriov_dir=str(place.root / "sriov"))
    keeper, stop = names.Names(node, record), threading.Event()
    thread = threading.Thread(target=keeper.run, args=(stop,))
    thread.start()
    try:
        yield node
    finally:
        stop.set()
        thread.join(PATIENCE)
        node.close()
    assert not thread.is_alive()


def test_who_writes_for_long_loses_the_name_and_goes_on_in_what_is_kept(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place.install("sriov-cni")
    monkeypatch.setitem(names._GRACE, names._State.WRITTEN, 0.3)
    waits = threading.Event()

    def wait(descriptors: Sequence[int | None], seconds: float) -> None:
        waits.set()
        changes.wait(descriptors, seconds)

    monkeypatch.setattr(names, "wait", wait)
    data = GO.read_bytes()
    with keeping(place, "sriov-cni"):
        assert waits.wait(PATIENCE)  # it has seen its own file, so that only an event can make it look again soon
        with (place.bin / "sriov").open("wb") as file:
            file.write(data[:4096])
            file.flush()
            eventually(lambda: place.ours("sriov"), "the shim's again")
            assert (place.bin / "sriov.replaced").read_bytes() == data[:4096]
            file.write(data[4096:])
        assert (place.bin / "sriov.replaced").read_bytes() == data
    assert (
        "bin/sriov has been open for writing for too long; its writer now writes to sriov.replaced" in caplog.text
    )


def test_name_that_is_empty_for_a_moment_can_be_taken_by_who_wants_no_file_there(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like `install` and `cp --remove-destination`: they remove the file, then fail if it exists again."""
    place.install("sriov-cni", "userspace-cni")
    monkeypatch.setitem(names._GRACE, names._State.MISSING, PATIENCE)
    with keeping(place, "sriov-cni", "userspace-cni"):
        (place.bin / "sriov").unlink()
        for _ in range(2):  # each time, all names are checked
            WRITERS["a rename"](place.theirs, place.bin / "userspace")
            eventually(lambda: place.ours("userspace"), "the shim's again")
        with (place.bin / "sriov").open("xb") as file:
            file.write(GO.read_bytes())
            os.fchmod(file.fileno(), 0o755)
        eventually(lambda: place.ours("sriov"), "the shim's again")
    assert (place.bin / "sriov.replaced").read_bytes() == GO.read_bytes()


def test_file_that_is_not_executable_yet_is_waited_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.install("sriov-cni")
    (place.bin / "sriov").unlink()
    shutil.copyfile(place.theirs, place.bin / "sriov")
    assert names._state(place.bin / "sriov") is names._State.WRITTEN
    (place.bin / "sriov").chmod(0o755)
    assert names._state(place.bin / "sriov") is names._State.THEIRS
    # If the kernel does not report writers, the time of the last change decides.
    monkeypatch.setattr(names, "open_for_writing", lambda _: None)
    os.utime(place.bin / "sriov", (0, 0))
    assert names._state(place.bin / "sriov") is names._State.WRITTEN
    eventually(lambda: names._state(place.bin / "sriov") is names._State.THEIRS, "still for a moment")


def test_missing_shim_is_told_once_and_the_name_is_taken_back_when_it_is_there(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place.install("sriov-cni")
    monkeypatch.setattr(names, "RECHECK_INTERVAL", 0.1)
    shim = (place.bin / "wirespeed").rename(place.root / "shim")
    WRITERS["cp -f"](place.theirs, place.bin / "sriov")
    text = f"cannot be taken back: shim {place.bin}/wirespeed: No such file or directory"
    with keeping(place, "sriov-cni"):
        eventually(lambda: text in caplog.text, "told")
        WRITERS["cp -f"](place.theirs, place.bin / "sriov")
        shutil.copy(shim, place.bin / "wirespeed")
        eventually(lambda: place.ours("sriov"), "the shim's again")
    assert caplog.text.count("cannot be taken back") == 1


def test_folder_that_is_gone_is_told_once_and_not_made(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A container without this mount would create a directory that no runtime reads."""
    place.install("sriov-cni")
    monkeypatch.setattr(names, "RECHECK_INTERVAL", 0.1)
    aside = place.bin.rename(place.root / "aside")
    text = f"cannot be taken back: folder {place.bin}: the runtime's folder of plugins does not exist"
    with keeping(place, "sriov-cni"):
        eventually(lambda: text in caplog.text, "told")
        assert not place.bin.exists()
        (aside / "sriov").unlink()
        aside.rename(place.bin)
        eventually(lambda: place.ours("sriov"), "the shim's again")
    assert caplog.text.count("cannot be taken back") == 1


def test_folder_that_cannot_be_written_is_told_once_and_the_agent_serves_on(place: Place) -> None:
    place.install("sriov-cni")
    writable = place.root / "writable"
    writable.mkdir()
    try:
        for over in (writable, place.bin):
            subprocess.run(["mount", "--bind", place.bin, over], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", place.bin], check=True)
        agent = place.agent()
        WRITERS["cp -f"](place.theirs, writable / "sriov")
        said = agent.wait_log("ERROR", "bin/sriov is not wirespeed's any more, and cannot be taken back: ")
        assert "Read-only file system" in said
        WRITERS["a rename"](place.theirs, writable / "sriov")
        checked = subprocess.run(
            [sys.executable, "-m", "wirespeed", "agent", "--check", "--config", str(agent.config)],
            cwd=ROOT,
            check=False,
        )
        assert checked.returncode == 0
        assert agent.stop() == 0
        assert len(told(agent, "cannot be taken back")) == 1
    finally:
        for folder in (place.bin, writable):
            subprocess.run(["umount", folder], check=False)


def test_record_that_cannot_be_read_is_told_and_the_agent_serves(place: Place) -> None:
    place.install("sriov-cni")
    place.record.write_text('{"binDir": 3}')
    agent = place.agent()
    said = agent.wait_log("ERROR", 'replaced.json: key "binDir": expected a string, got 3; remove it, and run ')
    assert "plugin names that other programs replace are not taken back" in said


# Helper functions


def test_who_has_a_file_open_for_writing_is_known(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert open_for_writing(file) is False
    with file.open("ab"):
        assert open_for_writing(file) is True
    with file.open("rb"):
        assert open_for_writing(file) is False
    os.mkfifo(tmp_path / "fifo")
    assert open_for_writing(tmp_path / "fifo") is None


def test_what_a_program_is_stands_in_it_wherever_that_is(tmp_path: Path) -> None:
    file = tmp_path / "file"
    noted = content._GO + b"path\texample.org/cmd/thing\nmod\texample.org\tv1.2.3\th1:sum\n"
    file.write_bytes(b"\x7fELF" + bytes((1 << 20) - 30) + noted)  # across two blocks
    assert content.describe(file).startswith(f"example.org/cmd/thing v1.2.3 ({file.stat().st_size} bytes, sha256 ")
    file.write_text("")
    assert content.describe(file) == "a file (0 bytes, sha256 e3b0c44298fc)"


def test_events_of_a_node_are_no_pods(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    with keeping(place) as node:
        node.cluster.event(Event(kind="Node", name="n1", uid="n1", reason="Told", message="so", warning=True))
    assert "event of node n1: Told: so" in caplog.text


def test_every_name_that_is_taken_is_one_that_an_agent_serves() -> None:
    node = Node(NodeConfig())
    for name in binaries.names_of(PEERS):
        assert name in node.plugins

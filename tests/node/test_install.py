"""`wirespeed install` and `uninstall` on a node's own directories: plugins are replaced and restored."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from tests import multusfiles, sriovfiles, userspacefiles
from tests.apiserver import ApiServer
from tests.multusfiles import Attached
from tests.node.calling import DONE, Call
from tests.node.conftest import PATIENCE, ROOT
from tests.node.pods import PLUGINS, Pod, World
from wirespeed.agent.install import binaries
from wirespeed.cli.install import install, uninstall
from wirespeed.node import load_config
from wirespeed.state.journal import Journal
from wirespeed.state.records import RecordedJournal

CID = "ab" * 32
PRIMARY = {"cniVersion": "1.0.0", "name": "cbr0", "plugins": [{"type": "bridge"}]}
THICK = {
    "cniVersion": "1.0.0",
    "name": "multus-cni-network",
    "type": "multus-shim",
    "clusterNetwork": "/host/etc/cni/net.d/10-cbr0.conflist",
    "namespaceIsolation": True,
}
BRIDGED = Attached(
    config={"cniVersion": "1.0.0", "name": "cbr0", "type": "rec-bridge"},
    ifname="eth0",
    result={"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/gone"}]},
)


@dataclass
class Place:
    """A node's directories. Commands run with their own /run."""

    root: Path
    shim: Path

    @property
    def bin(self) -> Path:
        return self.root / "opt/cni/bin"

    @property
    def conf(self) -> Path:
        return self.root / "etc/cni/net.d"

    @property
    def multus(self) -> Path:
        return self.root / "var/lib/cni/multus"

    @property
    def sriov(self) -> Path:
        return self.root / "var/lib/cni/sriov"

    @property
    def config(self) -> Path:
        return self.root / "etc/wirespeed/agent.yaml"

    def start(self, *arguments: str, without: Collection[str] = ()) -> subprocess.Popen[str]:
        """Start a `wirespeed` command with this node's directories, except for the options in `without`."""
        places = {
            "--bin-dir": self.bin,
            "--config": self.config,
            "--multus-dir": self.multus,
            "--sriov-dir": self.sriov,
            "--unit-dir": self.root / "etc/systemd/system",
        }
        if arguments[0] == "install":
            places |= {"--shim": self.shim, "--cni-config-dir": self.conf}
        given = [part for option, path in places.items() if option not in without for part in (option, str(path))]
        return self.command(arguments[0], *given, *arguments[1:])

    def command(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `wirespeed` with this node's records and /run. /run/netns in it is the real one."""
        run = self.root / "run"
        for made in (run / "netns", run / "records", Path("/var/lib/wirespeed")):
            made.mkdir(exist_ok=True)
        mounts = (
            'mount --bind "$0/records" /var/lib/wirespeed && mount --rbind /run/netns "$0/netns" && '
            'mount --rbind "$0" /run && exec "$@"'
        )
        return subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", mounts, str(run), sys.executable, "-m", "wirespeed", *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, without: Collection[str] = ()) -> list[str]:
        """Run a command, which must succeed. Return the lines it prints."""
        process = self.start(*arguments, without=without)
        stdout, stderr = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, stderr
        return stdout.splitlines()

    def refused(self, *arguments: str, without: Collection[str] = ()) -> str:
        """Run a command, which must fail. Return its error output."""
        process = self.start(*arguments, without=without)
        _, stderr = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1, stderr
        return stderr

    def put(self, name: str, value: object) -> Path:
        path = self.conf / name
        path.write_text(json.dumps(value))
        return path

    def plugin(self, name: str, text: str = "#!/bin/sh\n") -> Path:
        """Install an executable of the replaced plugin."""
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def tree(self) -> dict[str, str]:
        """All files except those in /run, with mode and content."""
        return {
            str(path.relative_to(self.root)): f"{path.stat().st_mode:o} {path.read_bytes()!r}"
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and "run" not in path.relative_to(self.root).parts
        }

    @property
    def records(self) -> Path:
        return self.root / "run/records/attachments"

    def journal(self) -> RecordedJournal:
        return RecordedJournal(self.root / "run/wirespeed/state.db", self.records)

    def rows(self) -> set[tuple[str, str, str]]:
        with closing(self.journal()) as journal:
            return {(row.container, row.ifname, row.step) for row in journal.attachments()}


@pytest.fixture
def place(tmp_path: Path, shim: Path) -> Place:
    made = Place(tmp_path / "node", shim)
    Path("/run/netns").mkdir(exist_ok=True)
    for folder in (made.bin, made.conf, made.root / "run", made.root / "etc/systemd/system"):
        folder.mkdir(parents=True)
    made.put("10-cbr0.conflist", PRIMARY)
    return made


# A new node


def test_shim_is_executable_under_all_names_of_our_plugins(place: Place) -> None:
    place.run("install")
    assert sorted(os.listdir(place.bin)) == ["wirespeed", "wirespeed-sriov", "wirespeed-vhost"]
    for name in binaries.OWN_NAMES:
        path = place.bin / name
        assert (path.is_symlink(), path.stat().st_mode & 0o777) == (False, 0o755)
        answer = subprocess.run([path], env={"CNI_COMMAND": "VERSION"}, input=b"", capture_output=True, check=True)
        assert "1.1.0" in json.loads(answer.stdout)["supportedVersions"]


def test_configuration_is_written_where_there_is_none_and_left_alone_where_there_is(place: Place) -> None:
    place.run("install", "--kubeconfig", "/etc/kubernetes/wirespeed.conf")
    config = load_config(place.config)
    assert config.autoconf is not None
    assert config.autoconf.cni_config_dir == str(place.conf)
    assert config.cluster.kubeconfig == "/etc/kubernetes/wirespeed.conf"
    assert place.config.stat().st_mode & 0o777 == 0o600
    place.config.write_text("workers: 3\n")
    place.run("install")
    assert place.config.read_text() == "workers: 3\n"


def test_second_time_there_is_nothing_to_do(place: Place) -> None:
    place.run("install", "--systemd")
    before = place.tree()
    assert place.run("install", "--systemd")[0] == "nothing to do"
    assert place.tree() == before


def test_dry_run_tells_all_and_changes_nothing(place: Place) -> None:
    place.plugin("multus")
    place.put("00-multus.conf", THICK)
    multusfiles.write(place.multus, CID, [BRIDGED], netns="/run/netns/gone")
    before = place.tree()
    told = place.run("install", "--replace", "multus", "--systemd", "--dry-run")
    assert told.pop().startswith("note: pods' requests were not compared with their networks' capabilities: ")
    assert place.tree() == before
    assert not (place.root / "run/wirespeed").exists()
    done = place.run("install", "--replace", "multus", "--systemd")
    assert [line.removeprefix("would ") for line in told] == done


def test_dry_run_in_json_has_the_steps_and_the_notes_of_the_text(place: Place) -> None:
    text = place.run("install", "--systemd", "--dry-run")
    plan = json.loads("\n".join(place.run("install", "--systemd", "--dry-run", "--json")))
    lines = [f"would {step}" for step in plan["steps"]] + [f"note: {note}" for note in plan["notes"]]
    assert "\n".join(lines).splitlines() == text
    place.run("install", "--systemd")
    assert json.loads("\n".join(place.run("install", "--systemd", "--dry-run", "--json")))["steps"] == []


def test_service_is_written_with_this_programs_path(place: Place) -> None:
    told = place.run("install", "--systemd")
    unit = (place.root / "etc/systemd/system/wirespeed-agent.service").read_text()
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    program = Path(line.removeprefix("ExecStart=").split()[0])
    assert program.is_file()
    assert any("systemctl enable --now wirespeed-agent.service" in line for line in told)


def test_older_shim_is_replaced_and_links_become_files(place: Place) -> None:
    place.plugin("wirespeed", f"older\n{binaries._MARK.decode()}\n")
    (place.bin / "wirespeed-sriov").symlink_to("wirespeed")
    place.run("install")
    for name in binaries.OWN_NAMES:
        assert (place.bin / name).read_bytes() == place.shim.read_bytes()
        assert not (place.bin / name).is_symlink()


def test_others_file_under_our_name_is_not_touched(place: Place) -> None:
    place.plugin("wirespeed")
    before = place.tree()
    assert "bin/wirespeed: expected wirespeed's shim or no file; move this one away" in place.refused("install")
    assert place.tree() == before


def test_what_is_no_shim_is_not_installed(place: Place) -> None:
    assert "expected the executable that is built from wirespeed-cni.c" in place.refused(
        "install", "--shim", "/bin/true"
    )


def test_failure_takes_back_all_that_was_done(place: Place) -> None:
    place.plugin("multus")
    place.put("00-multus.conf", THICK)
    multusfiles.write(place.multus, CID, [BRIDGED], netns="/run/netns/gone")
    (place.root / "file").write_text("")
    before = place.tree()
    said = place.refused(
        "install", "--replace", "multus", "--systemd", "--unit-dir", str(place.root / "file/units")
    )
    assert "Not a directory" in said
    assert place.tree() == before
    assert place.rows() == set()


def test_failure_in_the_middle_of_a_pod_leaves_it_to_multus(place: Place) -> None:
    multusfiles.write(place.multus, CID, [BRIDGED], netns="/run/netns/gone")
    aside = place.multus.with_name("multus.replaced")
    aside.mkdir()
    (aside / "results").write_text("in the way")
    before = place.tree()
    assert f"{aside}/results: File exists" in place.refused("install", "--replace", "multus")
    assert place.tree() == before
    assert place.rows() == set()


def test_only_root_changes_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for command in (install, uninstall):
        answer = CliRunner().invoke(command, ["--shim", "/bin/true"] if command is install else [])
        assert (answer.exit_code, "expected root" in answer.output) == (1, True)


# Multus


def test_multus_names_lead_to_the_agent_and_its_executables_are_kept(place: Place) -> None:
    theirs = place.plugin("multus", "#!/bin/sh\nexit 3\n")
    inode = theirs.stat().st_ino
    place.run("install", "--replace", "multus")
    for name in ("multus", "multus-shim"):
        assert (place.bin / name).read_bytes() == place.shim.read_bytes()
    assert (place.bin / "multus.replaced").stat().st_ino == inode
    assert not (place.bin / "multus-shim.replaced").exists()


def test_multus_that_is_installed_again_is_replaced_again(place: Place) -> None:
    place.plugin("multus", "first")
    place.run("install", "--replace", "multus")
    new = place.bin / "_multus"
    new.write_text("second")
    new.rename(place.bin / "multus")
    place.run("install", "--replace", "multus")
    assert (place.bin / "multus").read_bytes() == place.shim.read_bytes()
    assert (place.bin / "multus.replaced").read_text() == "second"


def test_multus_configuration_becomes_the_agents_and_its_file_follows_the_primary(place: Place) -> None:
    place.put("00-multus.conf", THICK)
    daemon = place.root / "daemon-config.json"
    daemon.write_text(json.dumps({"defaultNetworks": ["data"], "metricsPort": 9090, "cniVersion": "0.4.0"}))
    told = place.run("install", "--replace", "multus", "--daemon-config", str(daemon))
    assert yaml.safe_load(place.config.read_text()) == {
        "autoconf": {
            "networkName": "multus-cni-network",
            "cniVersion": "0.4.0",
            "meta": {
                "defaultNetworks": ["data"],
                "namespaceIsolation": True,
                "lenientCapabilities": ["ips", "mac", "infinibandGUID", "portMappings", "bandwidth"],
            },
            "cniConfigDir": str(place.conf),
            "files": ["00-wirespeed.conflist", "00-multus.conf"],
        }
    }
    assert any('note: key "metricsPort": it has no effect here' in line for line in told)
    assert json.loads((place.conf / "00-multus.conf.replaced").read_text()) == THICK


def test_dry_run_names_the_networks_whose_pods_ask_for_more_than_their_plugins_declare(
    place: Place, tmp_path: Path
) -> None:
    place.put("00-multus.conf", THICK)
    mac, ips = "02:9d:4c:00:00:01", ["10.2.0.5/24"]
    networks: dict[str, Any] = {
        "bridged": {"type": "bridge"},
        "capable": {"type": "bridge", "capabilities": {"mac": True}},
    }
    asked = [{"name": "bridged", "mac": mac, "ips": ips}, {"name": "capable", "mac": mac}]
    with ApiServer(tmp_path) as api:
        for name, config in networks.items():
            text = json.dumps({"cniVersion": "1.0.0", "name": name, **config})
            api.put(
                {
                    "apiVersion": "k8s.cni.cncf.io/v1",
                    "kind": "NetworkAttachmentDefinition",
                    "metadata": {"name": name, "namespace": "vms"},
                    "spec": {"config": text},
                }
            )
        for number in range(5):
            annotations = {"k8s.v1.cni.cncf.io/networks": json.dumps(asked)}
            metadata = {"name": f"vm{number}", "namespace": "vms", "annotations": annotations}
            api.put({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"nodeName": f"n{number}"}})
        options = ("--replace", "multus", "--kubeconfig", str(api.kubeconfig()), "--dry-run")
        lenient = place.run("install", *options)
        place.config.parent.mkdir()
        place.config.write_text(yaml.safe_dump({"cluster": {"kubeconfig": str(api.kubeconfig())}, "autoconf": {}}))
        strict = place.run("install", *options)
    assert {request.verb for request in api.requests} <= {"GET", "LIST"}
    pods = "(vms/vm0, vms/vm1, vms/vm2 and 2 more)"
    lacking = 'note: network vms/bridged: pods ask for "{0}", and no plugin of it has that capability: {1} {2}'
    assert [line for line in lenient if "capability" in line] == [
        lacking.format(key, "it is passed in CNI_ARGS, by lenientCapabilities", pods) for key in ("ips", "mac")
    ]
    refused = 'they are refused, until autoconf.meta.lenientCapabilities has "{0}"'
    assert [line for line in strict if "capability" in line] == [
        lacking.format(key, refused.format(key), pods) for key in ("ips", "mac")
    ]


def test_multus_configuration_without_a_version_is_taken_over(place: Place) -> None:
    """The configuration from the ConfigMap in Multus' manifests."""
    delegate = {"cniVersion": "0.3.1", "name": "default-cni-network", "plugins": [{"type": "flannel"}]}
    config: dict[str, Any] = {"name": "multus-cni-network", "type": "multus"}
    config |= {"capabilities": {"portMappings": True}}
    config |= {"delegates": [delegate], "kubeconfig": "/etc/cni/net.d/multus.d/multus.kubeconfig"}
    place.put("00-multus.conf", config)
    result = {"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.2/24"}, "dns": {}}
    old = Attached(config={"cniVersion": "0.2.0", "name": "old", "type": "rec"}, ifname="net1", result=result)
    none = Attached(config={"name": "none", "type": "rec"}, ifname="net2", result={**result, "cniVersion": "0.1.0"})
    multusfiles.write(place.multus, CID, [BRIDGED, old, none], netns="/run/netns/gone")
    place.run("install", "--replace", "multus")
    assert place.rows() == {(CID, ifname, "added") for ifname in ("eth0", "net1", "net2")}
    assert yaml.safe_load(place.config.read_text()) == {
        "cluster": {"kubeconfig": "/etc/cni/net.d/multus.d/multus.kubeconfig"},
        "autoconf": {
            "networkName": "multus-cni-network",
            "meta": {"lenientCapabilities": ["ips", "mac", "infinibandGUID", "portMappings", "bandwidth"]},
            "cniConfigDir": str(place.conf),
            "files": ["00-wirespeed.conflist", "00-multus.conf"],
        },
    }


def test_primary_that_multus_had_taken_stays_the_primary(place: Place) -> None:
    place.put("05-other.conflist", {**PRIMARY, "name": "other"})
    place.put("00-multus.conf", THICK)
    place.run("install", "--replace", "multus")
    assert yaml.safe_load(place.config.read_text())["autoconf"]["primary"] == "10-cbr0.conflist"


def test_configuration_with_networks_of_its_own_is_taken_as_it_stands(place: Place) -> None:
    mine = place.put(
        "00-multus.conf", {"cniVersion": "1.0.0", "name": "n", "type": "multus", "delegates": [PRIMARY, PRIMARY]}
    )
    before = mine.read_text()
    place.run("install", "--replace", "multus")
    assert mine.read_text() == before
    assert load_config(place.config).autoconf is None


def test_existing_configuration_stays_and_what_multus_would_make_of_it_is_told(place: Place) -> None:
    place.put("00-multus.conf", THICK)
    place.config.parent.mkdir()
    place.config.write_text("workers: 3\n")
    told = "\n".join(place.run("install", "--replace", "multus"))
    assert place.config.read_text() == "workers: 3\n"
    assert "Multus' configuration would make it:" in told
    assert "namespaceIsolation: true" in told
    place.config.write_text(told[told.index("autoconf:") :])
    assert not any("would make it" in line for line in place.run("install", "--replace", "multus"))


def test_pods_of_multus_are_in_the_journal_and_taken_once(place: Place) -> None:
    multusfiles.write(place.multus, CID, [BRIDGED], netns="/run/netns/gone")
    place.run("install", "--replace", "multus")
    assert place.rows() == {(CID, "eth0", "added")}
    assert [path for path in place.multus.rglob("*") if path.is_file()] == []
    with closing(place.journal()) as journal:
        journal.forget(CID, "eth0")  # as its DEL does
    assert place.run("install", "--replace", "multus") == ["nothing to do"]
    assert place.rows() == set()


def test_file_that_cannot_be_read_is_told_and_nothing_is_done_unless_it_may_be_left(place: Place) -> None:
    multusfiles.write(place.multus, CID, [BRIDGED], netns="/run/netns/gone")
    (place.multus / "broken").write_text("[{")
    before = place.tree()
    said = place.refused("install", "--replace", "multus")
    assert f"{place.multus}/broken: container broken: " in said
    assert "use --force to leave them" in said
    assert place.tree() == before
    place.run("install", "--replace", "multus", "--force")
    assert place.rows() == {(CID, "eth0", "added")}
    assert (place.multus / "broken").exists()


@contextmanager
def waiting_for_a_call(place: Place, name: str, *, of: str) -> Iterator[None]:
    """In the body, a call of the replaced plugin is running, and the installation waits for it; then it ends."""
    shutil.copy(shutil.which("sleep") or "", place.bin / name)
    call = subprocess.Popen([place.bin / name, "1000"])
    try:
        process = place.start("install", "--replace", of)
        assert process.stdout is not None
        while "wait for calls" not in process.stdout.readline():
            assert process.poll() is None
        yield
        assert process.poll() is None
    finally:
        call.kill()
        call.wait(PATIENCE)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert (process.returncode, stderr) == (0, "")


def test_call_that_runs_is_waited_for_and_what_it_wrote_is_taken_over(place: Place) -> None:
    with waiting_for_a_call(place, "multus", of="multus"):
        multusfiles.write(place.multus, CID, [BRIDGED], netns="/run/netns/gone")
    assert place.rows() == {(CID, "eth0", "added")}


def test_agent_that_runs_must_be_stopped_before_a_peer_is_replaced(place: Place) -> None:
    place.run("install")
    place.config.write_text("cluster: {manifests: /var/empty}\n")
    agent = place.command("agent", "--config", str(place.config))
    try:
        assert agent.stderr is not None
        while " INFO ready " not in (line := agent.stderr.readline()):
            assert line, "the agent has ended"
        said = place.refused("install", "--replace", "multus")
        assert f"another agent serves it, process {agent.pid}; stop it first" in said
        assert not (place.bin / "multus").exists()
    finally:
        agent.send_signal(signal.SIGTERM)
        agent.communicate(timeout=PATIENCE)


# sriov-cni


def test_sriov_cnis_name_leads_to_the_agent_and_files_of_devices_that_are_none_are_told(place: Place) -> None:
    place.plugin("sriov")
    sriovfiles.write(place.sriov, CID, "net1", "/run/netns/gone", sriovfiles.kept("0000:ff:1f.7"))
    assert "device 0000:ff:1f.7: there is no such pci device" in place.refused("install", "--replace", "sriov-cni")
    place.run("install", "--replace", "sriov-cni", "--force")
    assert (place.bin / "sriov").read_bytes() == place.shim.read_bytes()
    assert (place.sriov / f"{CID}-net1").exists()


def test_vf_of_a_pod_of_multus_is_looked_at_with_it(place: Place) -> None:
    attached = Attached(
        config={"cniVersion": "1.0.0", "name": "fast", "type": "sriov", "deviceID": "0000:ff:1f.7"},
        ifname="net1",
        result={"cniVersion": "1.0.0", "interfaces": [{"name": "net1", "sandbox": "/run/netns/gone"}]},
    )
    multusfiles.write(place.multus, CID, [BRIDGED, attached], netns="/run/netns/gone")
    for container in (CID, "cd" * 32):  # the second one belongs to no pod of Multus
        sriovfiles.write(place.sriov, container, "net1", "/run/netns/gone", sriovfiles.kept("0000:ff:1f.7"))
    said = place.refused("install", "--replace", "multus")
    assert f"{CID}-net1: device 0000:ff:1f.7" in said
    assert "cd" * 32 not in said


# userspace-CNI


def test_userspace_cnis_name_leads_to_the_agent_and_its_ports_stay_until_their_pods_go(place: Place) -> None:
    place.plugin("userspace", "theirs")
    base = place.root / "var/lib/cni/usrspcni"
    for ifname in ("net1", "net2"):
        userspacefiles.keep(base, CID, ifname)
    place.config.parent.mkdir()
    place.config.write_text(json.dumps({"vhost": {"userspaceDir": str(base)}}))
    before = place.tree()
    told = place.run("install", "--replace", "userspace-cni")
    assert "note: ports that userspace-CNI created are removed by wirespeed when their pods are deleted: 2" in told
    assert (place.bin / "userspace").read_bytes() == place.shim.read_bytes()
    assert (place.bin / "userspace.replaced").read_text() == "theirs"
    assert place.run("install", "--replace", "userspace-cni")[0] == "nothing to do"
    place.run("uninstall")
    assert place.tree() == before


def test_call_of_userspace_cni_that_runs_is_waited_for(place: Place) -> None:
    with waiting_for_a_call(place, "userspace", of="userspace-cni"):
        pass


def test_pod_of_multus_with_a_port_of_userspace_cni_is_taken_over_if_it_keeps_the_port(place: Place) -> None:
    attached = Attached(
        config={"cniVersion": "0.3.1", "name": "fast", "type": "userspace"},
        ifname="net1",
        result={"cniVersion": "0.3.1", "interfaces": [{"name": "net1", "sandbox": "/run/netns/gone"}]},
    )
    multusfiles.write(place.multus, CID, [BRIDGED, attached], netns="/run/netns/gone")
    base = place.root / "var/lib/cni/usrspcni"
    place.config.parent.mkdir()
    place.config.write_text(json.dumps({"vhost": {"userspaceDir": str(base)}}))
    said = place.refused("install", "--replace", "multus")
    assert f"attached by userspace-CNI: {base} has no files of it" in said
    file = userspacefiles.keep(base, CID, "net1")
    file.write_text("{")
    said = place.refused("install", "--replace", "multus")
    assert f"{file}: " in said
    assert "expected the format of userspace-CNI" in said
    userspacefiles.keep(base, CID, "net1")
    place.run("install", "--replace", "multus")
    assert place.rows() == {(CID, "eth0", "added"), (CID, "net1", "added")}


# Uninstalling


def test_uninstall_leaves_the_node_as_it_was(place: Place) -> None:
    place.plugin("multus", "theirs")
    place.plugin("sriov", "theirs too")
    place.put("00-multus.conf", THICK)
    multusfiles.write(place.multus, CID, [BRIDGED], netns="/run/netns/gone")
    before = place.tree()
    place.run("install", "--replace", "multus", "--replace", "sriov-cni", "--systemd")
    # Written as by the agent.
    (place.conf / "00-wirespeed.conflist").write_text('{"plugins": [{"type": "wirespeed"}]}')
    (place.conf / "00-multus.conf").write_text('{"type": "wirespeed"}')
    place.run("uninstall")
    after = place.tree()
    assert after.pop("etc/wirespeed/agent.yaml")
    assert after == before
    assert place.rows() == set()
    assert list(place.records.iterdir()) == []
    assert place.run("uninstall")[0] == "nothing to do"


@pytest.mark.parametrize("how", ["option", "configuration"])
def test_uninstall_finds_multus_directory_by_itself(place: Place, how: str) -> None:
    options = {"--multus-dir"}
    place.put("00-multus.conf", THICK if how == "option" else {**THICK, "cniDir": str(place.multus)})
    multusfiles.write(place.multus, CID, [BRIDGED], netns="/run/netns/gone")
    before = place.tree()
    place.run("install", "--replace", "multus", without=() if how == "option" else options)
    place.run("install", "--replace", "multus", without=options)
    place.run("uninstall", without=options)
    after = place.tree()
    assert {path: after[path] for path in before if "/multus/" in path} == {
        path: text for path, text in before.items() if "/multus/" in path
    }
    assert place.rows() == set()


def test_install_and_uninstall_find_sriov_cnis_directory_by_themselves(place: Place) -> None:
    options = {"--sriov-dir"}
    place.run("install", "--replace", "sriov-cni")
    kept = sriovfiles.kept("0000:ff:1f.7")
    sriovfiles.write(place.sriov, CID, "net1", "/run/netns/gone", kept)
    assert f"{place.sriov}/{CID}-net1: device" in place.refused(
        "install", "--replace", "sriov-cni", without=options
    )
    (place.sriov / f"{CID}-net1").unlink()
    aside = place.sriov.with_name("sriov.replaced")
    sriovfiles.write(aside, CID, "net1", "/run/netns/gone", kept)  # of a pod that has ended since
    place.run("install", "--replace", "sriov-cni", without=options)
    place.run("uninstall", without=options)
    assert [path for path in aside.rglob("*") if path.is_file()] == []


def test_option_of_a_directory_decides_against_the_record(place: Place, tmp_path: Path) -> None:
    multusfiles.write(place.multus, CID, [BRIDGED], netns="/run/netns/gone")
    place.run("install", "--replace", "multus", "--multus-dir", str(tmp_path / "m"), "--sriov-dir", str(tmp_path))
    assert place.rows() == set()
    place.run("install", "--replace", "multus")
    assert place.rows() == {(CID, "eth0", "added")}
    recorded = json.loads((place.root / "run/records/replaced.json").read_text())
    assert (recorded["multus"]["folder"], recorded["sriovDir"]) == (str(place.multus), str(place.sriov))


def test_pods_that_ended_meanwhile_are_not_given_back(place: Place) -> None:
    gone = "cd" * 32
    for container in (CID, gone):
        multusfiles.write(place.multus, container, [BRIDGED], netns="/run/netns/gone")
    place.run("install", "--replace", "multus")
    with closing(place.journal()) as journal:
        journal.forget(gone, "eth0")  # as its DEL does
    place.run("uninstall")
    left = {str(path.relative_to(place.multus)) for path in place.multus.rglob("*") if path.is_file()}
    assert left == {CID, f"results/cbr0-{CID}-eth0"}
    assert not [path for path in place.multus.with_name("multus.replaced").rglob("*") if path.is_file()]


@pytest.mark.parametrize("rebooted", [False, True])
def test_pods_that_nobody_else_could_detach_keep_the_installation(
    place: Place, world: World, rebooted: bool
) -> None:
    pod = world.pod("p")
    world.add(pod)
    world.agent.stop()
    if rebooted:  # only the records are left then
        shutil.rmtree(world.agent.state.parent)
    place.config.parent.mkdir()
    shutil.copy(world.agent.config, place.config)
    assert "1 containers were attached by wirespeed and would never be detached (c-p)" in place.refused("uninstall")
    assert "1 containers were attached by wirespeed" in "".join(place.run("uninstall", "--force"))


# End to end


@pytest.fixture
def as_multus_left_it(place: Place, world: World) -> tuple[World, Pod]:
    """A pod with two networks of real plugins, known only from Multus' files."""
    pod = world.pod("p", "bridged")
    world.add(pod)
    world.agent.stop()
    with closing(Journal(world.agent.state)) as journal:
        networks = [_as_attached(row.record["delegate"], row.result) for row in journal.attachments()]
    world.agent.state.unlink()
    multusfiles.write(place.multus, pod.container, networks, netns=pod.netns.path)
    place.config.parent.mkdir()
    shutil.copy(world.agent.config, place.config)
    return world, pod


def _as_attached(delegate: dict[str, Any], result: dict[str, Any] | None) -> Attached:
    config = {"cniVersion": "1.0.0", "name": delegate["label"].rpartition("/")[2], **delegate["raw"]}
    kept = {"cniVersion": "1.0.0", **{key: value for key, value in (result or {}).items() if value}}
    return Attached(config=config, ifname=delegate["ifname"], label=delegate["label"], result=kept)


def test_pod_that_multus_attached_is_checked_and_deleted_under_multus_name(
    place: Place, as_multus_left_it: tuple[World, Pod]
) -> None:
    world, pod = as_multus_left_it
    assert world.veths() != []
    place.run("install", "--replace", "multus")
    world.restart()
    assert world.rows() == {("c-p", "eth0"): "added", ("c-p", "net1"): "added"}
    config = {"cniVersion": "1.0.0", "name": "multus-cni-network", "type": "multus", "binDir": str(PLUGINS)}
    config["delegates"] = world.config["delegates"]
    for verb in ("CHECK", "DEL", "DEL"):
        environ = world.agent.environ(
            verb,
            pod.container,
            CNI_NETNS=pod.netns.path,
            CNI_IFNAME="eth0",
            CNI_ARGS=pod.args,
            CNI_PATH=f"{place.bin}:{PLUGINS}",
        )
        assert Call(place.bin / "multus", environ, config, name="multus").answer() == DONE
    assert world.veths() == []
    assert world.nothing_left(pod)

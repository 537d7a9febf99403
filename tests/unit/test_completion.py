"""What a shell suggests on TAB: through click's protocol, and in a real bash."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.fakesysfs import FakeSysfs
from wirespeed.cli import completion
from wirespeed.kernel.netns import Identity
from wirespeed.plugins.meta.delegate import Delegate, planned_rows
from wirespeed.state.journal import Journal

ROOT = Path(__file__).parents[2]
LIMIT = 60  # seconds, for a busy machine


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A node with two PFs and two pods; its configuration file."""
    sysfs = FakeSysfs(tmp_path / "sys")
    sysfs.pf("0000:18:00.0", "ens1", vfs=2)
    sysfs.pf("0000:3b:00.0", "ens2f0", vfs=0)
    sysfs.device("0000:05:00.0", driver="igb", name="eno1")  # without SR-IOV
    with closing(Journal(tmp_path / "state.db")) as journal:
        for number, (namespace, name) in enumerate([("default", "web-0"), ("tenant", "db")]):
            delegates = [
                delegate(namespace, name, "cluster", "eth0", master=True),
                delegate(namespace, name, "default/fast", "net1"),
                delegate(namespace, name, f"{namespace}/own", "net2"),
            ]
            journal.plan(planned_rows(delegates, f"c{number}", "/run/netns/x", Identity(1, 2, 3)))
    config = tmp_path / "agent.yaml"
    config.write_text(f"state: {tmp_path}/state.db\nsysfs: {tmp_path}/sys\n")
    return config


def delegate(namespace: str, name: str, label: str, ifname: str, *, master: bool = False) -> Delegate:
    return Delegate(
        configuration="wirespeed",
        request_ifname="eth0",
        label=label,
        raw={},
        version="1.1.0",
        ifname=ifname,
        master=master,
        args={"K8S_POD_NAMESPACE": namespace, "K8S_POD_NAME": name},
    )


def run(
    words: Sequence[str], *, config: Path | None = None, folder: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Ask the program as bash does; the last word is incomplete."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "COMP_WORDS": "\n".join(["wirespeed", *words]),
        "COMP_CWORD": str(len(words)),
        completion.VARIABLE: "bash_complete",
        "WIRESPEED_CONFIG": str(config or "/nonexistent"),
    }
    program = "import sys; sys.argv[0] = 'wirespeed'; from wirespeed.cli.main import main; main()"
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=True, timeout=LIMIT
    )


def suggested(*words: str, config: Path | None = None, folder: Path = ROOT) -> list[str]:
    done = run(words, config=config, folder=folder)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_commands_and_options_are_suggested() -> None:
    assert suggested("vf", "cre") == ["create"]
    assert {"attach", "agent"} <= set(suggested("a"))
    assert suggested("vf", "create", "--dr") == ["--driver", "--dry-run"]
    assert suggested("completion", "") == ["bash", "zsh", "fish"]


def test_pods_of_the_journal_are_suggested(node: Path) -> None:
    assert suggested("attach", "", config=node) == ["tenant/db", "web-0"]
    assert suggested("detach", "w", config=node) == ["web-0"]


def test_pod_with_its_namespace_is_suggested_even_if_that_is_the_default(node: Path) -> None:
    assert suggested("attach", "default/", config=node) == ["default/web-0"]


def test_networks_that_pods_have_are_suggested_but_not_the_masters(node: Path) -> None:
    assert suggested("attach", "web-0", "", config=node) == ["default/fast", "default/own", "tenant/own"]


def test_networks_and_interfaces_of_the_named_pod_are_suggested(node: Path) -> None:
    assert suggested("detach", "tenant/db", "", config=node) == ["default/fast", "net1", "net2", "tenant/own"]
    assert suggested("detach", "nobody", "", config=node) == []


def test_configuration_that_the_command_line_names_is_the_one_that_is_read(node: Path) -> None:
    assert suggested("attach", "--config", str(node), "w") == ["web-0"]


def test_pfs_and_vfs_of_sysfs_are_suggested(node: Path) -> None:
    assert suggested("vf", "destroy", "", config=node) == ["ens1", "ens2f0"]
    assert suggested("vf", "create", "ens2", config=node) == ["ens2f0"]
    assert suggested("vf", "bind", "", config=node) == ["ens1#0", "ens1#1"]
    assert suggested("vf", "bind", "ens1#0", "--driver", "v", config=node) == ["vfio-pci"]


def test_node_without_a_journal_is_silent_and_gets_none(tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text(f"state: {tmp_path}/run/state.db\n")
    assert suggested("attach", "", config=config) == []
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", ["no: such: yaml", "unknownKey: 1"])
def test_configuration_that_cannot_be_read_is_silent(tmp_path: Path, content: str) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text(content)
    assert suggested("attach", "", config=config) == []


def test_file_that_is_no_journal_is_silent_and_stays_as_it_is(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("text")
    other.chmod(0o644)
    config = tmp_path / "agent.yaml"
    config.write_text(f"state: {other}\n")
    assert suggested("attach", "", config=config) == []
    assert (other.read_text(), other.stat().st_mode & 0o777) == ("text", 0o644)
    assert [path.name for path in tmp_path.iterdir()].count("other") == len(list(tmp_path.glob("other*"))) == 1


def test_files_are_suggested_by_their_suffixes_and_directories(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.txt", "c.conflist", ".hidden.yaml", "sub/x.json", "other/y"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    assert suggested("check", "", folder=tmp_path) == ["a.yaml", "c.conflist", "other/", "sub/"]
    assert suggested("play", "", folder=tmp_path) == ["a.yaml", "other/", "sub/"]
    assert suggested("check", ".h", folder=tmp_path) == [".hidden.yaml"]
    assert suggested("check", f"{tmp_path}/a", folder=ROOT) == [f"{tmp_path}/a.yaml"]


def test_only_directory_that_fits_is_entered(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("x.json", "y.json"):
        (tmp_path / "sub" / name).write_text("")
    assert suggested("check", "s", folder=tmp_path) == ["sub/x.json", "sub/y.json"]


def test_name_that_a_shell_must_quote_is_left_to_the_shell(tmp_path: Path) -> None:
    (tmp_path / "two words.yaml").write_text("")
    assert run(["check", "t"], folder=tmp_path).stdout == "file,t\n"


def test_completion_loads_neither_the_kubernetes_client_nor_rich(node: Path) -> None:
    program = (
        "import sys, click; from wirespeed.cli.main import main; from wirespeed.cli.completion import pods, pfs;"
        "context = click.Context(main); assert pods(context, None, ''); assert pfs(context, None, '');"
        "print(*sys.modules)"
    )
    environment = {**os.environ, "WIRESPEED_CONFIG": str(node)}
    command = [sys.executable, "-c", program]
    loaded = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not set(loaded.split()) & {"kubernetes", "grpc", "rich", "pyroute2", "ovs", "urllib3"}


# Real shells


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A folder for $PATH that has `wirespeed`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "wirespeed"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from wirespeed.cli.main import main\nsys.exit(main())\n"
    )
    script.chmod(0o755)
    return folder


class Terminal:
    """An interactive bash on a pseudo-terminal, with the completion script loaded."""

    def __init__(self, program: Path, config: Path) -> None:
        self._read = ""
        environment = {
            "PATH": f"{program}:{os.environ['PATH']}",
            "WIRESPEED_CONFIG": str(config),
            "TERM": "dumb",
            "INPUTRC": "/dev/null",
            "HOME": str(program),
        }
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.execve("/bin/bash", ["bash", "--norc", "--noprofile", "-i"], environment)
        self.type("PS1='rea''dy> '; bind 'set enable-bracketed-paste off'\n")
        self.wait_for("ready> ")
        self.type('eval "$(wirespeed completion bash)"\n')
        self.wait_for("ready> ")

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def wait_for(self, text: str) -> None:
        """Read until `text` is on the terminal; then forget what came before it."""
        while text not in self._read:
            readable, _, _ = select.select([self._fd], [], [], LIMIT)
            assert readable, f"expected {text!r}, got {self._read!r}"
            self._read += os.read(self._fd, 4096).decode()
        self._read = self._read.partition(text)[2]

    def close(self) -> None:
        os.close(self._fd)  # bash gets SIGHUP
        os.waitpid(self._pid, 0)


@pytest.fixture
def bash(program: Path, node: Path) -> Iterator[Terminal]:
    with closing(Terminal(program, node)) as terminal:
        yield terminal


def test_tab_in_bash_completes_a_command_a_pf_and_an_option(bash: Terminal) -> None:
    bash.type("wirespeed vf cre\t")
    bash.wait_for("wirespeed vf create ")
    bash.type("ens2\t")
    bash.wait_for("ens2f0 ")
    bash.type("2 --dri\t")
    bash.wait_for("--driver ")
    bash.type("vf\t")
    bash.wait_for("vfio-pci ")


def test_tab_in_bash_completes_the_network_of_a_pod(bash: Terminal) -> None:
    bash.type("wirespeed detach ten\t")
    bash.wait_for("tenant/db ")
    bash.type("tenant/o\t")
    bash.wait_for("tenant/own ")


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_script_is_one_that_the_shell_can_read(shell: str, tmp_path: Path) -> None:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    script.write_text(completion.script(shell))
    subprocess.run([found, "-n", script], check=True, timeout=LIMIT)
    assert re.search(r"\bwirespeed\b", script.read_text())

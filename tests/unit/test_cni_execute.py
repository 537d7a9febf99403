"""Executing plugins, with real executables."""

from __future__ import annotations

import json
import os
import select
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from wirespeed.cni.errors import Code, code_of
from wirespeed.cni.execute import find_plugin, run_plugin
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind

Write = Callable[..., str]


@pytest.fixture
def script(tmp_path: Path) -> Write:
    """Write a plugin as a shell script."""

    def write(body: str, name: str = "probe", folder: str = "bin") -> str:
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return str(path)

    return write


def request(**changes: object) -> Request:
    return Request(command="ADD", config={"name": "net", "cniVersion": "1.1.0"}).derive(**changes)


def failure(binary: str, **changes: object) -> Error:
    with pytest.raises(Error) as failed:
        run_plugin(binary, request(**changes))
    assert "\n" not in failed.value.msg
    return failed.value


def test_plugin_is_the_first_executable_in_the_folders(script: Write, tmp_path: Path) -> None:
    (tmp_path / "a" / "probe").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "probe").write_text("no executable")
    path = [str(tmp_path / name) for name in ("missing", "a", "b", "c", "d")]
    binary = script("", folder="c")
    script("", folder="d")
    assert find_plugin("probe", path) == binary


def test_link_to_an_executable_is_one(script: Write, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "linked").symlink_to(script(""))
    assert find_plugin("linked", [str(tmp_path / "links")]) == str(tmp_path / "links" / "linked")


def test_plugin_that_is_nowhere_is_refused_with_the_folders() -> None:
    with pytest.raises(Error) as refused:
        find_plugin("probe", ["/nonexistent/a", "/nonexistent/b"])
    assert (code_of(refused.value), refused.value.msg) == (
        Code.INVALID_CONFIG,
        'no executable "probe" in /nonexistent/a, /nonexistent/b',
    )


def test_file_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "probe").write_text("")
    with pytest.raises(Error) as refused:
        find_plugin("probe", [str(tmp_path)])
    assert refused.value.msg == (f'no executable "probe" in {tmp_path}; {tmp_path}/probe is not an executable file')


@pytest.mark.parametrize("kind", ["", ".", "..", "a/b", "/bin/sh", "a\0b"])
def test_type_that_is_no_file_name_is_refused(kind: str) -> None:
    with pytest.raises(Error, match='key "type"') as refused:
        find_plugin(kind, ["/bin"])
    assert refused.value.kind == Kind.INVALID_CONFIG


def test_plugin_gets_its_configuration_and_the_cni_variables_alone(
    script: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_TOKEN", "secret")
    binary = script('echo "{\\"stdin\\":$(cat),\\"environ\\":\\"$(env | sort | tr "\\n" "|")\\"}"')
    said = json.loads(
        run_plugin(
            binary,
            request(
                container_id="c1",
                netns="/run/netns/pod",
                ifname="net1",
                args={"K8S_POD_NAME": "p", "NOTE": "a=b"},
                path=("/opt/cni/bin", "/usr/lib/cni"),
            ),
        )
    )
    assert said["stdin"] == {"name": "net", "cniVersion": "1.1.0"}
    given = dict(entry.split("=", 1) for entry in said["environ"].strip("|").split("|"))
    assert {key: value for key, value in given.items() if key not in {"PWD", "_", "SHLVL", "OLDPWD"}} == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/pod",
        "CNI_IFNAME": "net1",
        "CNI_ARGS": "K8S_POD_NAME=p;NOTE=a=b",
        "CNI_PATH": "/opt/cni/bin:/usr/lib/cni",
        "PATH": os.environ["PATH"],
    }


def test_plugin_inherits_no_file_descriptor(script: Write) -> None:
    mine = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(mine, True)
    try:
        said = run_plugin(script("readlink /proc/$$/fd/*; true"), request()).decode()
    finally:
        os.close(mine)
    assert "/dev/null" not in said
    assert "pipe:" in said


def test_large_configuration_and_output_cross_without_waiting_for_each_other(script: Write) -> None:
    config = {"name": "net", "filler": "x" * 900_000}
    said = run_plugin(script("head -c 900000 /dev/zero >&2; cat"), request(config=config))
    assert json.loads(said) == config


def test_plugin_that_reads_nothing_is_well(script: Write) -> None:
    assert run_plugin(script("echo {}"), request(config={"filler": "x" * 900_000})) == b"{}\n"


def test_error_of_the_plugin_keeps_code_and_details(script: Write) -> None:
    error = '{"cniVersion":"1.0.0","code":11,"msg":"not yet\\\\nready","details":"wait"}'
    failed = failure(script(f"echo noise >&2; echo '{error}'; exit 1"))
    assert (code_of(failed), failed.msg, failed.details) == (11, "not yet\\nready", "wait")


def test_failure_without_an_error_object_says_the_last_line(script: Write) -> None:
    failed = failure(script("echo start; printf 'one\\ntwo \\033[1m\\n\\n' >&2; exit 3"))
    assert (failed.kind, failed.msg) == (Kind.PLUGIN, "exit status 3: two \\x1b[1m")


def test_failure_that_speaks_on_standard_output_alone_is_told(script: Write) -> None:
    assert failure(script("echo no such bridge; exit 1")).msg == "exit status 1: no such bridge"


def test_silent_failure_says_so(script: Write) -> None:
    assert failure(script("exit 1")).msg == "exit status 1: it printed no message"


def test_signal_that_ended_the_plugin_is_named(script: Write) -> None:
    assert failure(script("kill -SEGV $$")).msg.startswith("killed by SIGSEGV")


def test_endless_output_is_cut_short(script: Write) -> None:
    failed = failure(script("yes"))
    assert (failed.kind, failed.msg) == (Kind.PLUGIN, "it printed more than 1048576 bytes and was killed")


def test_only_the_end_of_standard_error_is_kept(script: Write) -> None:
    assert failure(script("yes noise | head -c 3000000 >&2; echo the end >&2; exit 1")).msg == (
        "exit status 1: the end"
    )


def test_deadline_ends_the_plugin_and_what_it_started(script: Write, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    binary = script(f"sleep 600 & echo $! > {pid_file}; wait")
    failed = failure(binary, deadline=time.monotonic() + 1.0)
    assert (code_of(failed), failed.msg) == (
        Code.TRY_AGAIN_LATER,
        "ADD took longer than its deadline and was killed",
    )
    assert ends(int(pid_file.read_text()))


def ends(pid: int) -> bool:
    """Whether a process that was sent a signal ends within ten seconds."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], 10)[0])
    finally:
        os.close(process)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in {"Z", "X"}


def test_killed_plugin_is_reaped(script: Write) -> None:
    failure(script("sleep 600"), deadline=time.monotonic())
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_process_that_a_plugin_leaves_behind_is_neither_waited_for_nor_ended(script: Write, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    said = run_plugin(script(f"sleep 600 & echo $! > {pid_file}; echo {{}}"), request())
    pid = int(pid_file.read_text())
    assert said == b"{}\n"
    assert is_running(pid)
    os.kill(pid, 9)


def test_no_file_descriptor_is_left_open(script: Write) -> None:
    good, bad = script("echo {}"), script("exit 1", name="bad")
    run_plugin(good, request())
    before = set(os.listdir("/proc/self/fd"))
    run_plugin(good, request())
    failure(bad)
    failure(bad, deadline=time.monotonic())
    failure("/nonexistent/probe")
    assert set(os.listdir("/proc/self/fd")) <= before


def test_executable_being_written_is_run_as_soon_as_it_is_closed(tmp_path: Path) -> None:
    binary = tmp_path / "true"
    binary.write_bytes(Path("/bin/true").read_bytes())
    binary.chmod(0o755)
    writer = open(binary, "ab")  # noqa: SIM115
    answers: list[bytes] = []
    runner = threading.Thread(target=lambda: answers.append(run_plugin(str(binary), request())))
    runner.start()
    wait_for_inotify()
    writer.close()
    runner.join(10)
    assert answers == [b""]


def wait_for_inotify() -> None:
    """Wait until this process has an inotify instance: then execution has found the file busy."""
    deadline = time.monotonic() + 10
    while not any(map(is_inotify, os.listdir("/proc/self/fd"))):
        assert time.monotonic() < deadline


def is_inotify(fd: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:inotify"
    except FileNotFoundError:
        return False


def test_executable_that_stays_busy_until_the_deadline_is_tried_again_later(tmp_path: Path) -> None:
    binary = tmp_path / "true"
    binary.write_bytes(Path("/bin/true").read_bytes())
    binary.chmod(0o755)
    with open(binary, "ab"):
        failed = failure(str(binary), deadline=time.monotonic() + 0.05)
    assert (failed.kind, failed.msg) == (Kind.TRY_AGAIN, f"{binary}: another program is writing this file")


def test_file_that_is_no_program_is_told(tmp_path: Path) -> None:
    (tmp_path / "probe").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "probe").chmod(0o755)
    failed = failure(str(tmp_path / "probe"))
    assert (failed.kind, failed.msg) == (Kind.PLUGIN, f"{tmp_path}/probe: cannot be run: Exec format error")


def test_many_threads_run_plugins_at_once(script: Write) -> None:
    binary = script('read -r config; echo "$config"')
    wrong: list[int] = []

    def run(number: int) -> None:
        for _ in range(5):
            if json.loads(run_plugin(binary, request(config={"number": number}))) != {"number": number}:
                wrong.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []

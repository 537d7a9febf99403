"""Runs commands on a cluster's nodes: for its start, for tests, and for users (`node1 COMMAND`)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from image.run import run

PATH = "/run/node:/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CONFIG = """\
Host *
  User root
  IdentityFile {folder}/id
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
  BatchMode yes
  ConnectTimeout 20
  ServerAliveInterval 15
  ServerAliveCountMax 4
  ControlMaster auto
  ControlPath {folder}/%n.ssh
  ControlPersist 600
"""
_BY_SSH = 'ssh -F "{folder}/ssh.config" {name}'
_BY_PROCESS = 'nsenter --target "$(cat "{folder}/{name}/pid")" --all --wd=/ -- bash -c'
_PROGRAM = """\
#!/bin/sh
# {name}: a shell on the node.    {name} COMMAND...: a command there.
if [ $# = 0 ]; then
    exec {shell}
fi
exec {how} "export PATH={path}; $*"
"""


def prepare(folder: Path, vms: dict[str, str], here: Iterable[str]) -> str:
    """Write keys, the ssh configuration and a program per node into `folder`; return the public key.

    `vms` has the addresses of VMs by name, `here` the names of nodes that are processes (`folder`/NAME/pid).
    """
    key = folder / "id"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "cluster", "-f", str(key)])
    hosts = "".join(f"Host {name}\n  HostName {address}\n" for name, address in vms.items())
    (folder / "ssh.config").write_text(hosts + _CONFIG.format(folder=folder))
    (folder / "bin").mkdir()
    for name in [*vms, *here]:
        by, terminal = (_BY_SSH, "-t ") if name in vms else (_BY_PROCESS, "")
        how = by.format(folder=folder, name=name)
        shell = f"{how} {terminal}'PATH={PATH} exec bash -i'"
        program = folder / "bin" / name
        program.write_text(_PROGRAM.format(name=name, how=how, shell=shell, path=PATH))
        program.chmod(0o755)
    return key.with_suffix(".pub").read_text()


class Remote:
    """Commands on one node; `folder` is the one that `prepare` has filled."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._folder = folder

    def run(
        self, command: str, *, given: bytes = b"", timeout: float = 120, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command on the node. With `check`, raise AssertionError with its output if it fails."""
        done = subprocess.run(
            [str(self._folder / "bin" / self.name), command],
            input=given,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        output, errors = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
        if check and done.returncode:
            raise AssertionError(f"{self.name}: {command}: ended with {done.returncode}\n{output}{errors}")
        return subprocess.CompletedProcess(command, done.returncode, output, errors)

    @contextmanager
    def beside(self, command: str) -> Iterator[subprocess.Popen[str]]:
        """Run a command that ends when its standard input is closed. Raises AssertionError as `run` does."""
        pipe = subprocess.PIPE
        program = [str(self._folder / "bin" / self.name), command]
        with subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
            try:
                yield process
            finally:
                output, errors = process.communicate(timeout=120)
        if process.returncode:
            raise AssertionError(f"{self.name}: {command}: ended with {process.returncode}\n{output}{errors}")

    def forget(self) -> None:
        """Close the ssh connection that is kept open, such as after a reset of a VM."""
        config = str(self._folder / "ssh.config")
        subprocess.run(["ssh", "-F", config, "-O", "exit", self.name], capture_output=True, check=False)

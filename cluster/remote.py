"""Commands on a cluster's nodes, by ssh: for its own start, for tests, and for a person (`node1 COMMAND`)."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab.errors import LabError

PATH = "/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
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
_PROGRAM = """\
#!/bin/sh
# {name}: a shell on the node.    {name} COMMAND...: a command there.
if [ $# = 0 ]; then
    exec ssh -F "{folder}/ssh.config" -t {name} 'PATH={path} exec bash -i'
fi
exec ssh -F "{folder}/ssh.config" {name} "PATH={path} $*"
"""


def prepare(folder: Path, nodes: dict[str, str]) -> str:
    """Writes keys, ssh's configuration and a program for each node into `folder`; the public key."""
    key = folder / "id"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "cluster", "-f", str(key)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError("ssh-keygen failed", detail=done.stderr)
    hosts = "".join(f"Host {name}\n  HostName {address}\n" for name, address in nodes.items())
    (folder / "ssh.config").write_text(hosts + _CONFIG.format(folder=folder))
    programs = folder / "bin"
    programs.mkdir()
    for name in nodes:
        program = programs / name
        program.write_text(_PROGRAM.format(name=name, folder=folder, path=PATH))
        program.chmod(0o755)
    return key.with_suffix(".pub").read_text()


class Remote:
    """One node by ssh; `folder` is what `prepare` wrote into."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._ssh = ["ssh", "-F", str(folder / "ssh.config")]

    def run(
        self, command: str, *, given: bytes = b"", timeout: float = 120, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs a shell command on the node. With `check`, AssertionError with its output if it fails."""
        done = subprocess.run(
            [*self._ssh, self.name, f"PATH={PATH}; export PATH; {command}"],
            input=given,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        output, errors = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
        if check and done.returncode:
            raise AssertionError(f"{self.name}: {command}: ended with {done.returncode}\n{output}{errors}")
        return subprocess.CompletedProcess(command, done.returncode, output, errors)

    def forget(self) -> None:
        """Closes the connection that is kept, as after a reset of the node."""
        subprocess.run([*self._ssh, "-O", "exit", self.name], capture_output=True, check=False)

"""A lab recipe lends host files to a root file system: writing to them there does not change the host's."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab.recipe import LAB

# In this namespace, the host's files are replaced by ones that may be overwritten.
SCRIPT = """
    mount -t tmpfs machine /etc/ssl/certs
    echo certificates > /etc/ssl/certs/ca-certificates.crt
    for file in hosts resolv.conf; do
        echo "machine's $file" > "$TARGET.$file"
        mount --bind "$TARGET.$file" "/etc/$file"
    done
    . "$LAB/recipes/chroot.sh"
    lend "$TARGET"
    cat "$TARGET/etc/ssl/certs/ca-certificates.crt" "$TARGET/etc/hosts" "$TARGET/etc/resolv.conf"
    for file in ssl/certs/ca-certificates.crt hosts resolv.conf; do
        { echo spoilt > "$TARGET/etc/$file"; } 2> /dev/null || true
    done
    cat /etc/ssl/certs/ca-certificates.crt /etc/hosts /etc/resolv.conf
"""
OURS = ["certificates", "machine's hosts", "machine's resolv.conf"]


def test_a_root_sees_this_machines_certificates_and_name_service_and_cannot_spoil_them(tmp_path: Path) -> None:
    for folder in ("carry", "root/proc", "root/run", "root/tmp"):
        (tmp_path / folder).mkdir(parents=True)
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "bash", "-ec", SCRIPT],
        env={
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LAB": str(LAB),
            "CARRY": f"{tmp_path}/carry",
            "TARGET": f"{tmp_path}/root",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()) == (0, [*OURS, *OURS]), done.stderr

"""Unpacks Debian packages of any architecture into a root directory, without running their scripts."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Sequence
from pathlib import Path

from image import archive
from image.run import run
from lab.carry import apt_settings, mirror

# What the packages' scripts would write.
_USERS = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
# Links that update-alternatives would create, with their targets.
_TOOLS = [f"{family}{tool}" for family in ("iptables", "ip6tables") for tool in ("", "-save", "-restore")]
_ALTERNATIVES = {
    **{f"usr/sbin/{tool}": tool.replace("tables", "tables-nft") for tool in _TOOLS},
    "usr/sbin/ebtables": "ebtables-nft",
    "usr/sbin/arptables": "arptables-nft",
}
# Unpacked packages are recorded nowhere else. The variable names the packages' files, below the root.
_STATUS = "var/lib/dpkg/status"
_RECORD = f"""set -e
for package in $MMDEBSTRAP_ESSENTIAL; do dpkg-deb --field "$1/$package"; echo; done > "$1/{_STATUS}"
"""
# Empty directories of base-files that its script would replace with links.
_LINKS = {"var/run": "/run", "var/lock": "/run/lock"}


def unpack(packages: Sequence[str], root: Path, *, suite: str, architecture: str, epoch: int) -> None:
    """Unpack `packages` and their dependencies into the new directory `root`. Raises LabError.

    dpkg's database, /var/lib/dpkg/status, lists them with their versions, for scanners of images.
    """
    packed = root.with_suffix(".tar")
    settings = root.with_suffix(".apt")
    settings.write_text(apt_settings())
    # base-files has the links of the merged /usr, on which all other packages rely.
    chosen = ["--include=" + ",".join(["base-files", *packages]), f"--architectures={architecture}"]
    program = ["mmdebstrap", "--quiet", "--variant=extract", f"--aptopt={settings}", *chosen]
    program.append(f"--extract-hook={_RECORD}")
    run([*program, suite, str(packed), mirror({})], environment={"SOURCE_DATE_EPOCH": str(epoch)})
    root.mkdir()
    with tarfile.open(packed) as content:
        # Device nodes are created by the runtime.
        members = [member for member in content if not member.isdev() and not member.name.startswith("./dev/")]
        archive.unpack(content, root, members=members, trusted=True)
    (root / _STATUS).write_text(installed((root / _STATUS).read_text()))
    packed.unlink()
    settings.unlink()


def installed(records: str) -> str:
    """Return dpkg's database of these package records: all marked as installed, sorted by name."""
    stanzas = sorted(stanza.strip("\n") for stanza in records.split("\n\n") if stanza.strip())
    return "".join(
        re.sub(r"\A(Package: .*\n)", r"\1Status: install ok installed\n", stanza) + "\n\n" for stanza in stanzas
    )


def configure(root: Path, *, busybox: bool) -> None:
    """Make the unpacked root usable for a container."""
    for name, text in _USERS.items():
        (root / "etc" / name).write_text(text)
    for link, target in _LINKS.items():
        (root / link).rmdir()
        (root / link).symlink_to(target)
    for link, target in _ALTERNATIVES.items():
        if (root / link).with_name(target).exists() or (root / link).with_name(target).is_symlink():
            (root / link).unlink(missing_ok=True)
            (root / link).symlink_to(target)
    _certificates(root)
    if busybox:
        _busybox(root)


def _certificates(root: Path) -> None:
    """Write the certificates of ca-certificates to the bundle that OpenSSL reads."""
    found = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    if found:
        bundle = root / "etc/ssl/certs/ca-certificates.crt"
        bundle.parent.mkdir(parents=True, exist_ok=True)
        bundle.write_text("".join(file.read_text().rstrip("\n") + "\n" for file in found))


def _busybox(root: Path) -> None:
    """Link to busybox the commands that the root does not have."""
    # This machine's busybox: same commands, and it runs for any architecture.
    for name in run(["busybox", "--list"]).split():
        if not any((root / folder / name).exists() for folder in ("usr/bin", "usr/sbin")):
            (root / "usr/bin" / name).symlink_to("busybox")

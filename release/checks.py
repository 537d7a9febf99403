"""What a release is refused for, before anything is built."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from lab.errors import LabError
from release import version as versions

CHANGELOG = Path("CHANGELOG.md")


def check(root: Path, version: str) -> str:
    """The commit of the release `version`. Raises LabError if the repository `root` must not become it as it is."""
    head = git(root, "rev-parse", "HEAD").strip()
    if changes := git(root, "status", "--porcelain").splitlines():
        raise LabError(
            f"{root}: expected a working tree without changes: commit or stash them, or have git ignore them",
            detail="\n".join(changes),
        )
    if differing := versions.differing(root):
        raise LabError(
            f"expected the version {version} everywhere: make version VERSION={version}",
            detail="\n".join(map(str, differing)),
        )
    changelog = root / CHANGELOG
    if not (changelog.is_file() and changelog_has(changelog.read_text(), version)):
        raise LabError(f'{CHANGELOG}: expected a heading "## [{version}] - YYYY-MM-DD"')
    tagged = git(root, "for-each-ref", "--format=%(objectname) %(*objectname)", f"refs/tags/v{version}").split()
    if tagged and tagged[-1] != head:  # the last one is the commit, also if the tag is an object of its own
        raise LabError(
            f"tag v{version}: expected it at HEAD, {head[:12]}, found it at {tagged[-1][:12]}: "
            "check it out to build that release again, or set another version (make version)"
        )
    return head


def changelog_has(text: str, version: str) -> bool:
    """Whether a change log (https://keepachangelog.com) has a dated section for this version."""
    return re.search(rf"(?m)^## \[{re.escape(version)}\] - \d{{4}}-\d{{2}}-\d{{2}}$", text) is not None


def git(root: Path, *arguments: str) -> str:
    """The standard output of git in `root`. Raises LabError."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{root}: git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout

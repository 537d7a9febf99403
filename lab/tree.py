"""The copy of the project for the guest: a tar of all files that git tracks or would add."""

import io
import subprocess
import tarfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

from lab.errors import LabError
from wirespeed import __version__

# Path of the project in the guest.
GUEST_TREE = "/work/wirespeed"


def project_files(repo: Path) -> list[Path]:
    """Return tracked files and untracked files that are not ignored, relative to `repo`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"]
    listing = subprocess.run(command, cwd=repo, capture_output=True, check=False)
    if listing.returncode:
        raise LabError(f"git cannot list the files of {repo}: {listing.stderr.decode(errors='replace').strip()}")
    return [Path(name.decode(errors="surrogateescape")) for name in listing.stdout.split(b"\0") if name]


def added_files(argument: str, repo: Path) -> list[tuple[Path, str]]:
    """Return the files of `--add PATH[:GUESTPATH]`: (file on the host, path in the guest)."""
    source, _, place = argument.partition(":")
    path = Path(source).resolve()
    if not path.exists():
        raise LabError(f"--add {argument}: there is no {path}")
    if place and not place.startswith("/"):
        raise LabError(f"--add {argument}: the path in the guest must begin with /")
    if not place:
        if not path.is_relative_to(repo):
            raise LabError(f"--add {argument}: {path} is outside the project, say where it goes: {argument}:/PLACE")
        place = f"{GUEST_TREE}/{path.relative_to(repo)}"
    if path.is_file():
        return [(path, place)]
    found = sorted(file for file in path.rglob("*") if file.is_symlink() or not file.is_dir())
    return [(file, f"{place}/{file.relative_to(path)}") for file in found]


def metadata_files(repo: Path) -> dict[str, tuple[bytes, int]]:
    """Return files that an installation would create from pyproject.toml: entry points and commands.

    The format is {path: (content, mode)}. The tree is on PYTHONPATH but not installed (pip takes seconds under
    TCG), and importlib.metadata finds entry points only in a .dist-info directory.
    """
    project = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    name, version = project["name"], __version__
    groups = {"console_scripts": project.get("scripts", {}), **project.get("entry-points", {})}
    lines = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in groups.items()
    ]
    folder = f"{GUEST_TREE}/{name}-{version}.dist-info"
    result = {
        f"{folder}/METADATA": (f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(), 0o644),
        f"{folder}/entry_points.txt": ("\n".join(lines).encode(), 0o644),
    }
    for command, point in project.get("scripts", {}).items():
        module, _, function = point.partition(":")
        # They need no environment variables, so that containers can call them like those of an image.
        lines = ["#!/opt/venv/bin/python3", "import sys", f'sys.path.insert(0, "{GUEST_TREE}")']
        lines += [f"from {module} import {function}", f"sys.exit({function}())"]
        result[f"/usr/local/bin/{command}"] = ("\n".join([*lines, ""]).encode(), 0o755)
    return result


def write_tree(target: Path, repo: Path, *, add: Iterable[str] = ()) -> None:
    """Write the tar that guest/setup unpacks at /. Files that disappear meanwhile are skipped."""
    files = [(repo / file, f"{GUEST_TREE}/{file}") for file in project_files(repo)]
    for argument in add:
        files += added_files(argument, repo)
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
        for path, place in files:
            add_file(archive, path, place)
        if (repo / "pyproject.toml").is_file():
            for place, (content, mode) in metadata_files(repo).items():
                entry = tarfile.TarInfo(place.lstrip("/"))
                entry.mode, entry.size = mode, len(content)
                archive.addfile(entry, io.BytesIO(content))


def add_file(archive: tarfile.TarFile, path: Path, place: str) -> None:
    """Add one file in its current state; the tree may be edited meanwhile."""
    try:
        entry = archive.gettarinfo(path, place)
        if entry is None or entry.isdir():  # a socket or a nested repository
            return
        if entry.islnk():  # a hard link by tarfile's guess from the inode; its target may not be in the archive
            entry.type, entry.linkname = tarfile.REGTYPE, ""
        content = path.read_bytes() if entry.isreg() else b""
    except (FileNotFoundError, NotADirectoryError):
        return
    entry.size = len(content)
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    archive.addfile(entry, io.BytesIO(content))

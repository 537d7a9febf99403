"""What the containers of a play see of their devices, as tests.examples.INSIDE prints it: for `wirespeed play
--then`.

    wirespeed play --then "python3 -m tests.inside FOLDER" ...

writes FOLDER/pods.json (the pods at that time) and FOLDER/inside.json (by pod).
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

NETNS = "wirespeed.play/netns"


def told(process: Path) -> str:
    """What INSIDE would print in the container of this process, given as a directory in /proc."""
    variables = (process / "environ").read_bytes().decode().split("\0")
    lines = [each for each in variables if each.startswith(("PCIDEVICE_", "VHOSTUSER_"))]
    folder = process / "root/dev/vfio"
    nodes = sorted(folder.iterdir()) if folder.is_dir() else []
    lines += [f"/dev/vfio/{each.name}" for each in nodes if stat.S_ISCHR(each.lstat().st_mode)]
    return "".join(f"{line}\n" for line in lines)


def first_process(netns: str) -> Path | None:
    """The first process of the container in this network namespace, or None if it has ended."""
    namespace = os.stat(netns).st_ino
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "ns/net").stat().st_ino == namespace and _is_first(folder):
                return folder
        except OSError:  # the process has ended
            continue
    return None


def _is_first(folder: Path) -> bool:
    line = next(each for each in (folder / "status").read_text().splitlines() if each.startswith("NSpid:"))
    return len(line.split()) > 2 and line.split()[-1] == "1"


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(os.environ["PODS"], folder / "pods.json")
    pods: dict[str, Any] = json.loads((folder / "pods.json").read_text())
    found = {}
    for pod in pods["items"]:
        if process := first_process(pod["metadata"]["annotations"][NETNS]):
            found[pod["metadata"]["name"]] = told(process)
    (folder / "inside.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()

"""The nodes' images, imported into a containerd store on this machine: an emulated node would take minutes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from image.layer import write_layer
from image.oci import Variant, write_archive
from image.run import run
from lab.errors import LabError, tail
from lab.process import spawn

MULTUS_PROGRAMS = ("multus-daemon", "multus-shim", "install_multus", "passthru")
STORE_SIZE = "16G"
START_TIMEOUT = 60.0
# Only the parts that store images. The CRI plugin would need a network.
_CONFIG = """\
version = 3
root = '{root}'
state = '{state}'
disabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime', \
'io.containerd.nri.v1.nri']
[grpc]
address = '{socket}'
[ttrpc]
address = '{socket}.ttrpc'
"""


def pause_archive(programs: Path, target: Path) -> Path:
    """Write the image localhost/pause:1, whose process holds a pod's namespaces."""
    files = {"pause": (programs / "bin/pause").read_bytes()}
    return _archive(files, target, reference="localhost/pause:1", entrypoint="/pause")


def multus_archive(programs: Path, target: Path) -> Path:
    """Write the image that Multus' manifest names, with the programs that it runs."""
    manifest = (programs / "manifests/multus-daemonset-thick.yml").read_text()
    reference = next(line.split()[1] for line in manifest.splitlines() if line.strip().startswith("image:"))
    place = "usr/src/multus-cni/bin"
    files = {f"{place}/{name}": (programs / "bin" / name).read_bytes() for name in MULTUS_PROGRAMS}
    # The daemon needs its user's name, and /var/run, below which runtimes report network namespaces.
    files["etc/passwd"] = b"root:x:0:0:root:/:/bin/sh\n"
    entrypoint, links = f"/{place}/multus-daemon", {"var/run": "/run"}
    return _archive(files, target, reference=reference, entrypoint=entrypoint, links=links)


def _archive(
    files: Mapping[str, bytes], target: Path, *, reference: str, entrypoint: str, links: Mapping[str, str] = {}
) -> Path:
    """Write an image with these files and links, given by their paths in it."""
    root = target.with_suffix("")
    for place, content in files.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(content)
        (root / place).chmod(0o755)
    for place, leads_to in links.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).symlink_to(leads_to)
    layer = write_layer(root, target.with_suffix(".layer"), epoch=0)
    variant = Variant(
        architecture="amd64",
        layers=[(layer, ", ".join(files))],
        environment={},
        entrypoint=[entrypoint],
        command=[],
    )
    write_archive(target, [variant], reference=reference, version="1", epoch=0, labels={})
    return target


def write_store(programs: Path, archives: Sequence[Path], folder: Path) -> Path:
    """Return a directory for /var/lib/containerd with these images, unpacked. Raises LabError."""
    root, state = folder / "store", folder / "containerd"
    socket = state / "c.sock"
    state.mkdir()
    config = folder / "containerd.toml"
    config.write_text(_CONFIG.format(root=root, state=state, socket=socket))
    log = folder / "containerd.log"
    bin_folder = programs / "bin"
    with log.open("wb") as output:
        # In a mount namespace, so that its mounts end with it.
        process = spawn(["unshare", "--mount", str(bin_folder / "containerd"), f"--config={config}"], output)
    try:
        ctr = [str(bin_folder / "ctr"), f"--address={socket}", "--namespace=k8s.io"]
        deadline = time.monotonic() + START_TIMEOUT
        while subprocess.run([*ctr, "version"], capture_output=True, check=False).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                raise LabError("containerd did not start here", detail=tail(log.read_text(), 12))
            time.sleep(0.1)
        for archive in archives:
            run([*ctr, "images", "import", "--local", str(archive)])
    finally:
        process.terminate()
        process.wait()
    return root


def write_disk(label: str, content: Path, disk: Path, size: str) -> Path:
    run(["mke2fs", "-q", "-t", "ext4", "-m", "0", "-L", label, "-d", str(content), str(disk), size])
    return disk

"""The images that nodes have: put into a containerd's store here, for which an emulated node would take minutes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from cluster.run import run
from image.layer import write_layer
from image.oci import Variant, write_archive
from lab.errors import LabError, tail

STORE_SIZE = "16G"
START_TIMEOUT = 60.0
# Only what keeps images: no CRI, which would want a network.
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


def pause_archive(program: Path, target: Path) -> Path:
    """The image localhost/pause:1, of one program."""
    root = target.with_suffix("")
    root.mkdir()
    (root / "pause").write_bytes(program.read_bytes())
    (root / "pause").chmod(0o755)
    layer = write_layer(root, target.with_suffix(".layer"), epoch=0)
    variant = Variant(
        architecture="amd64", layers=[(layer, "pause")], environment={}, entrypoint=["/pause"], command=[]
    )
    write_archive(target, [variant], reference="localhost/pause:1", version="1", epoch=0, labels={})
    return target


def write_store(programs: Path, archives: Sequence[Path], folder: Path) -> Path:
    """A folder for /var/lib/containerd with these images, unpacked. Raises LabError."""
    root, state = folder / "store", folder / "containerd"
    socket = state / "c.sock"
    state.mkdir()
    config = folder / "containerd.toml"
    config.write_text(_CONFIG.format(root=root, state=state, socket=socket))
    log = folder / "containerd.log"
    bin_folder = programs / "bin"
    with log.open("wb") as output:
        process = subprocess.Popen(
            # Its mounts end with it.
            [
                "setpriv",
                "--pdeathsig",
                "KILL",
                "unshare",
                "--mount",
                str(bin_folder / "containerd"),
                f"--config={config}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        ctr = [str(bin_folder / "ctr"), f"--address={socket}", "--namespace=k8s.io"]
        deadline = time.monotonic() + START_TIMEOUT
        while subprocess.run([*ctr, "version"], capture_output=True, check=False).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                raise LabError("containerd did not start here", detail=tail(log.read_text(), 12))
            time.sleep(0.1)
        for archive in archives:
            run(*ctr, "images", "import", "--local", str(archive))
    finally:
        process.terminate()
        process.wait()
    return root


def write_disk(store: Path, disk: Path) -> Path:
    """A store as a disk."""
    run("mke2fs", "-q", "-t", "ext4", "-m", "0", "-L", "store", "-d", str(store), str(disk), STORE_SIZE)
    return disk

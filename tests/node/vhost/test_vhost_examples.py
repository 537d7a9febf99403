"""The unchanged examples, played: their applications only know what `wirespeed eal` prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import examples
from tests.node.conftest import ROOT, Netns
from tests.node.vhost.conftest import Switch, missing

EXAMPLES = ROOT / "examples"


def device_info(pods: Path, name: str) -> dict[str, Any]:
    """The device-info of net1 in a pod's network-status. The socket's path must be the one in the container."""
    pod = next(pod for pod in json.loads(pods.read_text())["items"] if pod["metadata"]["name"] == name)
    status = json.loads(pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"])
    info: dict[str, Any] = next(entry for entry in status if entry["interface"] == "net1")["device-info"]
    assert info[info["type"]]["path"].startswith(("/run/vhost-user/vhost-", "/var/lib/cni/usrspcni/"))
    return info


def test_packets_arrive_through_the_switch_and_over_the_link(
    switch: Switch, rundir: Path, netns: Callable[[], Netns], shim: Path, tmp_path: Path
) -> None:
    if not Path("/usr/lib/cni/bridge").exists():
        missing("needs the bridge plugin: apt-get install containernetworking-plugins")
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    for file in sorted((EXAMPLES / "vhost").glob("*.yaml")):
        text = file.read_text().replace("$(wirespeed eal)", "$(wirespeed eal --memory 128)")
        text = text.replace("/run/wirespeed/example/", f"{switch.folder}/example-")
        (manifests / file.name).write_text(text)
    out = tmp_path / "out"
    play = [sys.executable, "-m", "wirespeed", "play", "--in-order", "--shim", str(shim), "--out", str(out)]
    play += ["--then", f"{sys.executable} -m tests.inside {out}/seen"]
    play += ["--cni-conf", str(EXAMPLES / "00-wirespeed.conf"), "--timeout", "120", str(manifests)]
    play += ["--pools", str(EXAMPLES / "node/values.yaml")]
    done = subprocess.run(
        [*switch.as_the_nodes(rundir, netns()), *play],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert examples.broken("vhost", examples.played(out)) == []
    assert device_info(out / "pods.json", "sink")["vhost-user"]["mode"] == "server"
    assert device_info(out / "pods.json", "link-sink")["memif"]["role"] == "master"
    assert switch.vsctl("list-br").split() == ["br0"]

"""The examples as they stand, on the cluster and by `wirespeed play` on one of its nodes: each promise kept, and no
difference between the two.

Those that need an Open vSwitch with DPDK beside them are played in the other layers alone.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from cluster.remote import Remote
from tests import examples
from tests.cluster.kube import Kube
from tests.cluster.release import REPO
from tests.examples import Seen

TREE = "/work/wirespeed"


def on_the_cluster(kube: Kube, example: str) -> dict[str, Seen]:
    """Applies the example as its README says; what its pods came to, with their whole output."""
    folder = REPO / "examples" / example
    applied = subprocess.run(
        [str(REPO / "examples/apply"), str(folder), f"--namespace={kube.namespace}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert applied.returncode == 0, f"{applied.stdout}{applied.stderr}\n{kube.picture()}\n{logs(kube)}"
    pods = kube.get("pods")
    running = [pod["metadata"]["name"] for pod in pods["items"] if pod["status"]["phase"] == "Running"]
    inside = {name: kube.execute(name, "sh", "-c", examples.INSIDE) for name in running}
    said = {pod["metadata"]["name"]: kube.run("logs", pod["metadata"]["name"]) for pod in pods["items"]}
    for name in running:
        # What it says when it ends is told to those who follow it.
        follower = subprocess.Popen(
            [kube.program, f"--namespace={kube.namespace}", "logs", "--follow", name],
            stdout=subprocess.PIPE,
            text=True,
        )
        kube.delete("pod", name)
        said[name] = follower.communicate(timeout=60)[0]
    return examples.seen(pods, said=said, inside=inside)


def logs(kube: Kube) -> str:
    """The end of each pod's output, for an error."""
    names = [pod["metadata"]["name"] for pod in kube.items("pods")]
    return "\n".join(f"{name}: {kube.run('logs', name, '--tail=15', check=False)}" for name in names)


def played(node: Remote, example: str) -> dict[str, Seen]:
    """Plays the example on a node; what its pods came to."""
    out, seen = f"/tmp/played-{example}", f"/tmp/seen-{example}"
    then = f"cd {TREE} && python3 -m tests.inside {seen}"
    options = f"--in-order --cni-conf examples/00-wirespeed.conf --pools examples/node/values.yaml --out {out}"
    node.run(
        f"cd {TREE} && export PYTHONPATH={TREE} && wirespeed play {options} --then '{then}' examples/{example}",
        timeout=600,
    )
    read = "{str(p): p.read_text() for p in pathlib.Path(sys.argv[1]).rglob('*') if p.is_file()}"
    read = f'python3 -I -c "import json, pathlib, sys; print(json.dumps({read}))"'
    files = {folder: json.loads(node.run(f"{read} {folder}").stdout) for folder in (out, seen)}
    # Of a container: out/logs/NAMESPACE_POD_CONTAINER.log
    said = {Path(path).stem.split("_")[1]: text for path, text in files[out].items() if path.endswith(".log")}
    # One that ends by itself is ready while it runs: how it ended is known when the play has.
    pods, inside = (json.loads(files[seen][f"{seen}/{name}.json"]) for name in ("pods", "inside"))
    ended = json.loads(files[out][f"{out}/pods.json"])
    for number, pod in enumerate(pods["items"]):
        if pod["spec"].get("restartPolicy") == "Never":
            name = pod["metadata"]["name"]
            [pods["items"][number]] = [one for one in ended["items"] if one["metadata"]["name"] == name]
            inside.pop(name, None)
    return examples.seen(pods, said=said, inside=inside)


@pytest.mark.parametrize("example", ["vfw", "vlan"])
def test_example(kube: Kube, vms: list[Remote], example: str) -> None:
    clustered = on_the_cluster(kube, example)
    assert examples.broken(example, clustered) == []
    assert examples.differences(played(vms[0], example), clustered) == []

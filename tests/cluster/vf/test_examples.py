"""The unchanged examples on the cluster: each must do what its promise says, as under `wirespeed play`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from cluster.remote import Remote
from lab.tree import GUEST_TREE
from tests import examples
from tests.cluster.kube import Kube
from tests.cluster.release import REPO
from tests.examples import Seen


def on_the_cluster(kube: Kube, example: str) -> dict[str, Seen]:
    """Applies the example as its README describes. Returns the state of its pods, with their complete output."""
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
        # Only a follower reads what it prints when it ends.
        follower = subprocess.Popen(
            [kube.program, f"--namespace={kube.namespace}", "logs", "--follow", name],
            stdout=subprocess.PIPE,
            text=True,
        )
        kube.delete("pod", name)
        said[name] = follower.communicate(timeout=60)[0]
    return examples.seen(pods, said=said, inside=inside)


def logs(kube: Kube) -> str:
    """The end of each pod's output, for error messages."""
    names = [pod["metadata"]["name"] for pod in kube.items("pods")]
    return "\n".join(f"{name}: {kube.run('logs', name, '--tail=15', check=False)}" for name in names)


SWITCHED = ("vhost", "chain", "chain-kernel")  # examples that need an Open vSwitch with DPDK


@pytest.mark.parametrize("example", sorted({*examples.PROMISES} - {*SWITCHED}))
def test_example(kube: Kube, example: str) -> None:
    assert examples.broken(example, on_the_cluster(kube, example)) == []


@pytest.fixture(scope="module")
def switch(vms: list[Remote]) -> Iterator[Remote]:
    """The node, with the administrator's Open vSwitch with DPDK running on it."""
    node = vms[0]
    with node.beside(f'{GUEST_TREE}/examples/switch sh -c "echo up; cat"') as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield node


@pytest.fixture
def bridges(switch: Remote) -> Iterator[None]:
    """The bridge that the administrator creates. Any other bridge or port afterwards was left behind by a pod."""
    switch.run("ovs-vsctl add-br br-inside -- set Bridge br-inside datapath_type=netdev")
    yield
    assert switch.run("ovs-vsctl list-br").stdout.split() == ["br-inside"]
    assert switch.run("ovs-vsctl list-ports br-inside").stdout.split() == []
    switch.run("ovs-vsctl del-br br-inside")


@pytest.mark.usefixtures("bridges")
@pytest.mark.parametrize("example", SWITCHED)
def test_example_with_open_vswitch(kube: Kube, example: str) -> None:
    assert examples.broken(example, on_the_cluster(kube, example)) == []

"""containerd as the node's runtime: a process with an image for sandboxes, controlled through the CRI."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import message_factory

from tests.node.calling import until
from tests.node.conftest import PATIENCE, Netns
from tests.node.pods import PLUGINS
from wirespeed.kube import rpc

IMAGE = "wirespeed.test/pause:1"
CONFIG = """\
version = 2
root = "{root}"
state = "{data}/state"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{data}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  disable_apparmor = true
  disable_tcp_service = true
  # A sandbox's process gets no better protection from the kernel's memory killer than this one has.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{folder}/bin"
    conf_dir = "{folder}/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        Root = "{data}/runc"
"""
# containerd's mounts for containers end with its mount namespace. The exception is pods' network namespaces, which
# are mounted in a shared directory. Its processes end with the init process of its PID namespace.
START = """\
ulimit -l 8192 || true  # as the kernel gives it a service; not all can raise it
mount --make-private "$(stat -c %m "$1")"
mount -t tmpfs tmpfs "$1"
exec nsenter --net="$2" containerd --config "$3" --log-level debug
"""
ISOLATED = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "unchanged")

_EXITED = 2  # CRI state of a container that has ended

cri: Any = grpc.protos("tests/node/cri.proto")


class _Runtime:
    """The methods of the CRI runtime service: `runtime.Status(request, timeout=5)`."""

    def __init__(self, channel: grpc.Channel) -> None:
        for method in cri.DESCRIPTOR.services_by_name["RuntimeService"].methods:
            call = channel.unary_unary(
                f"/runtime.v1.RuntimeService/{method.name}",
                request_serializer=message_factory.GetMessageClass(method.input_type).SerializeToString,
                response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
            )
            setattr(self, method.name, call)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        raise AttributeError(f"the service has no method {name}")


class Containerd:
    """A running containerd. Its CNI directories are `net.d` and `bin` in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._channel = rpc.channel(str(folder / "containerd.sock"))
        self._runtime = _Runtime(self._channel)

    def network_is_ready(self) -> bool:
        """Whether NetworkReady is true: there is a network configuration, and its plugins report that they work."""
        conditions = self._runtime.Status(cri.StatusRequest(), timeout=PATIENCE).status.conditions
        return bool({each.type: each.status for each in conditions}["NetworkReady"])

    def run(self, name: str, attempt: int = 0, *, privileged: bool = False) -> str:
        """Run a sandbox of the pod default/<name>, its `attempt`-th. Return its id. Raises grpc.RpcError."""
        request = cri.RunPodSandboxRequest(config=self._pod(name, attempt, privileged=privileged))
        return str(self._runtime.RunPodSandbox(request, timeout=PATIENCE).pod_sandbox_id)

    def _pod(self, name: str, attempt: int = 0, *, privileged: bool) -> Any:
        metadata = cri.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="default", attempt=attempt)
        security = cri.LinuxSandboxSecurityContext(privileged=privileged)
        linux = cri.LinuxPodSandboxConfig(security_context=security)
        return cri.PodSandboxConfig(metadata=metadata, log_directory=str(self.folder / "logs"), linux=linux)

    def output(self, name: str, command: list[str], security: Any, image: str = IMAGE) -> list[str]:
        """Return the output of a container of the pod default/<name> when it ends. `security` is its
        LinuxContainerSecurityContext. Raises grpc.RpcError.
        """
        sandbox = self.run(name, privileged=security.privileged)
        config = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name="main"),
            image=cri.ImageSpec(image=image),
            command=command,
            log_path=f"{name}.log",
            linux=cri.LinuxContainerConfig(security_context=security),
        )
        pod = self._pod(name, privileged=security.privileged)
        request = cri.CreateContainerRequest(pod_sandbox_id=sandbox, config=config, sandbox_config=pod)
        made = self._runtime.CreateContainer(request, timeout=PATIENCE)
        self._runtime.StartContainer(made, timeout=PATIENCE)
        until(lambda: self._container(made).state == _EXITED, f"ended: {name}")
        log = (self.folder / "logs" / f"{name}.log").read_text()
        assert self._container(made).exit_code == 0, log
        self.stop(sandbox)
        return [line.split(" ", 3)[3] for line in log.splitlines()]  # without time, stream and tag

    def _container(self, made: Any) -> Any:
        return self._runtime.ContainerStatus(made, timeout=PATIENCE).status

    def stop(self, sandbox: str) -> None:
        """Stop and remove a sandbox. Raises grpc.RpcError."""
        for call in (self._runtime.StopPodSandbox, self._runtime.RemovePodSandbox):
            call(cri.PodSandboxRequest(pod_sandbox_id=sandbox), timeout=PATIENCE)

    def address(self, sandbox: str) -> str:
        """The pod's IP address, as the CRI reports it to the kubelet."""
        return str(self._status(sandbox).status.network.ip)

    def netns(self, sandbox: str) -> Netns:
        """The sandbox's network namespace."""
        spec = json.loads(self._status(sandbox).info["info"])["runtimeSpec"]
        (path,) = [each["path"] for each in spec["linux"]["namespaces"] if each["type"] == "network"]
        return Netns(Path(path).name, path)

    def _status(self, sandbox: str) -> Any:
        request = cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox, verbose=True)
        return self._runtime.PodSandboxStatus(request, timeout=PATIENCE)

    def close(self) -> None:
        self._channel.close()


@contextmanager
def running(
    folder: Path,
    node: Netns,
    environ: Mapping[str, str],
    files: Mapping[str, bytes] | None = None,
    *,
    root: Path | None = None,
) -> Iterator[Containerd]:
    """Run a containerd in the network namespace `node`; plugins that it executes inherit `environ`.

    Its image also has these `files`. Its persistent data is in `root`, where a later containerd finds it; by
    default it is deleted at the end.
    """
    data = folder / "data"
    data.mkdir(exist_ok=True)
    config = folder / "config.toml"
    config.write_text(CONFIG.format(folder=folder, data=data, root=root or data / "root", image=IMAGE))
    with (folder / "containerd.log").open("ab") as log:
        command = (*ISOLATED, "sh", "-euc", START, "sh", str(data), node.path, str(config))
        process = subprocess.Popen(command, env={**os.environ, **environ}, stdout=log, stderr=subprocess.STDOUT)
    runtime = Containerd(folder)
    try:
        grpc.channel_ready_future(runtime._channel).result(PATIENCE)
        _import_image(folder, files or {})
        yield runtime
    finally:
        runtime.close()
        process.kill()
        process.wait(PATIENCE)


def write_network(folder: Path) -> None:
    """Configure a pod network for a containerd in `folder`, with the reference plugins."""
    for made in ("net.d", "bin"):
        (folder / made).mkdir(parents=True)
    for plugin in ("bridge", "host-local", "loopback"):
        shutil.copy(PLUGINS / plugin, folder / "bin")
    ipam = {"type": "host-local", "dataDir": str(folder / "leases"), "subnet": "10.98.0.0/24"}
    bridge = {"type": "bridge", "bridge": "br1", "ipam": ipam}
    conflist = {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]}
    (folder / "net.d/10-pods.conflist").write_text(json.dumps(conflist))


def _import_image(folder: Path, files: Mapping[str, bytes]) -> None:
    """Import the image. Its program waits to be killed."""
    program = folder / "pause"
    source = b"#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"
    subprocess.run(["cc", "-static", "-O2", "-x", "c", "-o", program, "-"], input=source, check=True)
    layer = _archive({"pause": program.read_bytes(), **files})
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": ["/pause"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]).encode()
    image = folder / "image.tar"
    image.write_bytes(_archive({"layer.tar": layer, "config.json": config, "manifest.json": manifest}))
    ctr = ("ctr", "--address", str(folder / "containerd.sock"), "--namespace", "k8s.io")
    subprocess.run([*ctr, "images", "import", "--snapshotter", "native", image], check=True, capture_output=True)


def _archive(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()

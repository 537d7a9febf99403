"""A node with a cluster of manifests, and a runtime that attaches pods through shim, agent and real plugins."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.node.calling import Answer, Call
from tests.node.conftest import Agent, Netns

PLUGINS = Path("/usr/lib/cni")

Config = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """A pod's sandbox: its container ID and its network namespace."""

    name: str
    namespace: str
    container: str
    netns: Netns

    @property
    def args(self) -> str:
        return (
            f"IgnoreUnknown=1;K8S_POD_NAMESPACE={self.namespace};K8S_POD_NAME={self.name};"
            f"K8S_POD_INFRA_CONTAINER_ID={self.container};K8S_POD_UID=uid-{self.name}"
        )

    def links(self) -> dict[str, Any]:
        """Its interfaces by name, without lo."""
        return {name: link for name, link in self.netns.links().items() if name != "lo"}

    def addresses(self) -> dict[str, list[str]]:
        """The IPv4 addresses of each interface."""
        return {
            name: [f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"] if a["family"] == "inet"]
            for name, link in self.links().items()
        }

    def routes(self, *options: str) -> list[dict[str, Any]]:
        """The output of `ip route show` for its main table."""
        shown = subprocess.run(
            ["ip", "-n", self.netns.name, *options, "-j", "route", "show"], check=True, capture_output=True
        ).stdout
        routes: list[dict[str, Any]] = json.loads(shown)
        return routes


@dataclass
class World:
    """A node: its agent, its network namespace, and the runtime's CNI configuration."""

    start: Callable[..., Agent]
    shim: Path
    folder: Path
    node: Netns
    namespaces: Callable[[], Netns]
    agent: Agent
    config: Config

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def records(self) -> Path:
        """The agent's records of containers, which survive a reboot."""
        return self.folder / "attachments"

    # The cluster

    def conflist(self, name: str, *plugins: Config, version: str = "1.0.0") -> Config:
        return {"cniVersion": version, "name": name, "plugins": list(plugins)}

    def ipam(self, subnet: str, *routes: str) -> Config:
        """host-local with this world's leases directory; each route is "destination" or "destination gateway"."""
        fields = [route.split() for route in routes]
        return {
            "type": "host-local",
            "subnet": subnet,
            "dataDir": str(self.folder / "leases"),
            "routes": [dict(zip(("dst", "gw"), each, strict=False)) for each in fields],
        }

    def bridge(self, subnet: str, *routes: str, **more: Any) -> Config:
        name = "br" + subnet.split("/", maxsplit=1)[0].replace(".", "")[:8]
        return {"type": "bridge", "bridge": name, "isGateway": True, "ipam": self.ipam(subnet, *routes), **more}

    def define(self, name: str, config: Config | str, *, namespace: str = "default", resource: str = "") -> None:
        """Create a NetworkAttachmentDefinition."""
        annotations = {"k8s.v1.cni.cncf.io/resourceName": resource} if resource else {}
        self._write(
            {
                "apiVersion": "k8s.cni.cncf.io/v1",
                "kind": "NetworkAttachmentDefinition",
                "metadata": {"name": name, "namespace": namespace, "annotations": annotations},
                "spec": {"config": config if isinstance(config, str) else json.dumps(config)},
            }
        )

    def pod(self, name: str, networks: Any = "", *, namespace: str = "default", **annotations: str) -> Pod:
        """Create a pod with a networks annotation, and its sandbox. It is not attached yet."""
        text = networks if isinstance(networks, str) else json.dumps(networks)
        self._write(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "namespace": namespace,
                    "uid": f"uid-{name}",
                    "annotations": {"k8s.v1.cni.cncf.io/networks": text, **annotations},
                },
                "spec": {"containers": [{"name": "main", "image": "none"}]},
            }
        )
        return Pod(name, namespace, f"c-{name}", self.namespaces())

    def _write(self, value: Config) -> None:
        metadata = value["metadata"]
        file = f"{value['kind']}-{metadata['namespace']}-{metadata['name']}.json"
        (self.folder / "manifests" / file).write_text(json.dumps(value))

    def script(self, name: str, body: str = "") -> None:
        """Install a plugin that records each call, runs the script `body`, and then succeeds.

        If the file `$CNI_COMMAND-<name>` exists in the directory `fail`, it fails with the file's content.
        """
        text = f"""#!/bin/sh
call=$(mktemp -d {self.folder}/calls/XXXXXX.new)
env > $call/env; cat > $call/stdin
mv $call {self.folder}/calls/$(date +%s.%N)-{name}
fail={self.folder}/fail/$CNI_COMMAND-{name}
[ -e $fail ] && {{ cat $fail; exit 1; }}
{body}
[ "$CNI_COMMAND" = ADD ] && printf '{{"cniVersion":"1.0.0","interfaces":[{{"name":"%s","sandbox":"%s"}}]}}' \\
  "$CNI_IFNAME" "$CNI_NETNS"
exit 0
"""
        for folder in (self.bin, self.folder / "calls", self.folder / "fail"):
            folder.mkdir(exist_ok=True)
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def fail(self, name: str, verb: str, error: Config | None) -> None:
        """Make a script fail in a verb with this error; None makes it succeed again."""
        file = self.folder / "fail" / f"{verb}-{name}"
        if error is None:
            file.unlink()
        else:
            file.write_text(json.dumps({"cniVersion": "1.0.0", **error}))

    def calls(self, name: str, verb: str = "") -> list[tuple[dict[str, str], Config]]:
        """The calls of a script in order, as (environment, configuration)."""
        found = []
        for folder in sorted((self.folder / "calls").glob(f"[0-9]*-{name}")):
            lines = (folder / "env").read_text().splitlines()
            environ = dict(line.split("=", maxsplit=1) for line in lines)
            if verb in ("", environ["CNI_COMMAND"]):
                found.append((environ, json.loads((folder / "stdin").read_text())))
        return found

    # The runtime

    def environ(self, verb: str, pod: Pod, **environ: str) -> dict[str, str]:
        """The environment of a CNI call."""
        given = {
            "CNI_NETNS": pod.netns.path,
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": pod.args,
            "CNI_PATH": f"{self.bin}:{PLUGINS}",
            **environ,
        }
        return self.agent.environ(verb, pod.container, **given)

    def begin(self, verb: str, pod: Pod, config: Config | None = None, **environ: str) -> Call:
        """Start a call."""
        return Call(self.shim, self.environ(verb, pod, **environ), config or self.config, name="wirespeed")

    def call(self, verb: str, pod: Pod, config: Config | None = None, **environ: str) -> Answer:
        return self.begin(verb, pod, config, **environ).answer()

    def add(self, pod: Pod, config: Config | None = None, **environ: str) -> Config:
        """Make an ADD, which must succeed. Return its result."""
        answer = self.call("ADD", pod, config, **environ)
        assert answer.status == 0, answer.body
        return answer.body

    def refused(self, verb: str, pod: Pod, config: Config | None = None, **environ: str) -> tuple[int, str]:
        """Make a call, which must fail. Return (code, message)."""
        answer = self.call(verb, pod, config, **environ)
        assert answer.status == 1
        return answer.body["code"], answer.body["msg"]

    def runtime(self, verb: str, valid: Sequence[tuple[str, str]] = (), config: Config | None = None) -> Answer:
        """Call GC with the attachments to keep, or STATUS."""
        listed = [{"containerID": container, "ifname": ifname} for container, ifname in valid]
        environ = self.agent.environ(verb, CNI_PATH=f"{self.bin}:{PLUGINS}")
        for key in ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"):
            del environ[key]
        given = {**(config or self.config), "cniVersion": "1.1.0"}
        if verb == "GC":
            given["cni.dev/valid-attachments"] = listed
        return Call(self.shim, environ, given, name="wirespeed").answer()

    def restart(self, **config: Any) -> None:
        """Start another agent on the files of the previous one."""
        self.agent = self.start(folder=self.folder, node=self.node, **config)

    # State

    def rows(self) -> dict[tuple[str, str], str]:
        """The journal's attachments: (container, interface) -> step."""
        return {(container, ifname): step for container, ifname, step, _ in self._journal()}

    def recorded(self, pod: Pod, ifname: str) -> Config:
        """The result of an attachment in the journal."""
        (text,) = [
            text for container, name, _, text in self._journal() if (container, name) == (pod.container, ifname)
        ]
        result: Config = json.loads(text)
        return result

    def _journal(self) -> list[tuple[str, str, str, str]]:
        with closing(sqlite3.connect(f"file:{self.agent.state}?mode=ro", uri=True)) as journal:
            return journal.execute("SELECT container, ifname, step, result FROM attachment").fetchall()

    def leases(self) -> dict[str, str]:
        """The leased addresses of all networks, mapped to "container ifname"."""
        return {
            path.name: " ".join(path.read_text().split())
            for path in (self.folder / "leases").glob("*/*")
            if path.name[0].isdigit()
        }

    def veths(self) -> list[str]:
        """The host ends of the pods' interfaces."""
        return [name for name in self.node.links() if name.startswith("veth")]

    def status(self, pod: Pod) -> list[Config] | None:
        file = self.folder / "manifests/.status" / f"{pod.namespace}_{pod.name}.json"
        return json.loads(file.read_text()) if file.exists() else None

    def nothing_left(self, pod: Pod) -> bool:
        """Assert that nothing of a pod is left."""
        assert pod.links() == {}
        assert [row for row in self.rows() if row[0] == pod.container] == []
        assert [owner for owner in self.leases().values() if owner.startswith(pod.container)] == []
        devices = self.folder / "devinfo/cni"
        assert not devices.exists() or list(devices.iterdir()) == []
        return True

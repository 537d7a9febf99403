"""The tests' interface to the cluster: kubectl with JSON, and waits that report what they waited for."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster.control import is_ready
from tests.examples import STATUS

# The nodes are emulated: what takes a second on hardware can take half a minute here.
PATIENCE = 300.0
Object = dict[str, Any]


class Kube:
    """kubectl with a default namespace; "" leaves the choice to kubectl."""

    def __init__(self, program: str, namespace: str = "default") -> None:
        self.program = program
        self.namespace = namespace

    def inside(self, namespace: str) -> Kube:
        """The same client with another default namespace."""
        return Kube(self.program, namespace)

    def run(self, *arguments: str, given: str = "", check: bool = True, timeout: float = 180) -> str:
        """Return kubectl's output. AssertionError with its error, unless `check` is False."""
        done = self._run(arguments, given, timeout)
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout if check else done.stdout + done.stderr

    def refused(self, *arguments: str, given: str = "") -> str:
        """Return kubectl's error output. AssertionError if it succeeds."""
        done = self._run(arguments, given, timeout=180)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def _run(self, arguments: Sequence[str], given: str, timeout: float) -> subprocess.CompletedProcess[str]:
        namespace = [f"--namespace={self.namespace}"] if self.namespace else []
        return subprocess.run(
            [self.program, *namespace, *arguments],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def get(self, *what: str) -> Object:
        """An object, or a list of them."""
        return json.loads(self.run("get", *what, "-o", "json"))  # type: ignore[no-any-return]

    def items(self, *what: str) -> list[Object]:
        """The objects of a list."""
        return self.get(*what)["items"]  # type: ignore[no-any-return]

    def apply(self, *objects: Object | Path) -> None:
        """Applies objects or files."""
        texts = [one.read_text() if isinstance(one, Path) else json.dumps(one) for one in objects]
        self.run("apply", "--filename=-", given="\n---\n".join(texts))

    def try_out(self, *objects: Object) -> None:
        """Makes the API server validate the objects strictly, without creating them."""
        dry = ("--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict")
        self.run("apply", *dry, "--filename=-", given="\n---\n".join(map(json.dumps, objects)))

    def delete(self, kind: str, *names: str, wait: bool = True) -> None:
        """Deletes, and waits until they are gone."""
        self.run("delete", kind, *names, f"--wait={str(wait).lower()}", "--ignore-not-found", timeout=PATIENCE)

    def until(self, what: str, condition: Callable[[], Any], *, timeout: float = PATIENCE) -> Any:
        """Polls until `condition` is true, and returns its value. AssertionError with pods and events otherwise."""
        deadline = time.monotonic() + timeout
        while True:
            answer = condition()
            if answer:
                return answer
            if time.monotonic() > deadline:
                raise AssertionError(f"not in {timeout:.0f} s: {what}\n{self.picture()}")
            time.sleep(0.5)

    def pods_ready(self, *names: str, timeout: float = PATIENCE) -> list[Object]:
        """Waits until the pods with these names are Ready."""

        def ready() -> list[Object]:
            found = {pod["metadata"]["name"]: pod for pod in self.items("pods")}
            return [found[name] for name in names] if all(is_ready(found.get(name, {})) for name in names) else []

        return self.until(f"pods {', '.join(names)} are Ready", ready, timeout=timeout)  # type: ignore[no-any-return]

    def pod_ended(self, name: str, *, timeout: float = PATIENCE) -> Object:
        """Waits until a pod has Succeeded. AssertionError with its log if it Failed."""

        def ended() -> Object | None:
            pod = self.get("pod", name)
            if pod["status"].get("phase") == "Failed":
                raise AssertionError(f"{name} failed:\n{self.run('logs', name, check=False)}\n{self.picture()}")
            return pod if pod["status"].get("phase") == "Succeeded" else None

        return self.until(f"pod {name} ends", ended, timeout=timeout)  # type: ignore[no-any-return]

    def execute(self, pod: str, *command: str, check: bool = True) -> str:
        """Runs a command in a pod's first container."""
        return self.run("exec", pod, "--", *command, check=check)

    def picture(self) -> str:
        """The namespace's pods and latest events, for error messages."""
        pods = self.run("get", "pods", "-o", "wide", check=False)
        events = self.run("get", "events", "--sort-by=.lastTimestamp", check=False)
        return f"{pods}\n" + "\n".join(line[:300] for line in events.splitlines()[-25:])


def network_status(pod: Object) -> list[Object]:
    """The pod's network-status annotation, parsed."""
    return json.loads(pod["metadata"].get("annotations", {}).get(STATUS, "[]"))  # type: ignore[no-any-return]


def kubeconfig(kubectl: Kube, token: str, folder: Path) -> str:
    """The path of a kubeconfig with this token; with an empty token, the administrator's."""
    if not token:
        return os.environ["KUBECONFIG"]
    config = json.loads(kubectl.run("config", "view", "--raw", "--flatten", "--minify", "-o", "json"))
    config["users"] = [{"name": "agent", "user": {"token": token}}]
    config["contexts"][0]["context"]["user"] = "agent"
    path = folder / f"kubeconfig{len(list(folder.iterdir()))}"
    path.write_text(json.dumps(config))
    return str(path)

"""The control plane on this machine: etcd, API server, controller manager and scheduler."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster.certificates import Authority, key_pair
from cluster.network import HERE, SERVICE, SERVICES
from lab.errors import LabError, tail
from lab.process import spawn

API_SERVER = f"https://{HERE}:443"
READY_TIMEOUT = 120.0


class Control:
    """The programs of the control plane, with their certificates and logs in `folder`.

    A program that ends is restarted, unless the file `folder`/held/NAME exists: tests use it to keep a program
    down. The PID is in `folder`/NAME.pid.
    """

    def __init__(self, programs: Path, version: str, folder: Path) -> None:
        self.folder = folder
        self._bin = programs / "bin"
        self._version = version
        self._ended = threading.Event()
        self._keepers: list[threading.Thread] = []
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.authority = Authority(folder / "pki")
        for name in ("logs", "held"):
            (folder / name).mkdir()

    def start(self) -> None:
        """Start everything and wait until the API server is ready. Raises LabError with the ends of the logs."""
        for name, command in self._commands().items():
            keeper = threading.Thread(target=self._keep, args=(name, command), name=name, daemon=True)
            self._keepers.append(keeper)
            keeper.start()
        self._await_ready()

    def stop(self) -> None:
        self._ended.set()
        for process in list(self._processes.values()):
            process.send_signal(signal.SIGCONT)
            process.kill()
        for keeper in self._keepers:
            keeper.join()

    def kubeconfig(self, name: str, subject: str, *, elsewhere: Path | None = None) -> str:
        """Return a kubeconfig for `subject`, with certificates in `elsewhere` or the authority's directory."""
        certificate, key = self.authority.sign(name, subject, "extendedKeyUsage=clientAuth")
        folder = elsewhere or self.authority.folder
        user = {"client-certificate": str(folder / certificate.name), "client-key": str(folder / key.name)}
        cluster = {"server": API_SERVER, "certificate-authority": str(folder / self.authority.certificate.name)}
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "cluster", "cluster": cluster}],
                "users": [{"name": name, "user": user}],
                "contexts": [{"name": "cluster", "context": {"cluster": "cluster", "user": name}}],
                "current-context": "cluster",
            }
        )

    def write_kubeconfig(self, name: str, subject: str) -> Path:
        """Write `kubeconfig` to a file on this machine; return its path."""
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(self.kubeconfig(name, subject))
        return path

    def _commands(self) -> dict[str, list[str]]:
        pki = self.authority.folder
        names = ("kubernetes.default.svc", "kubernetes.default", "kubernetes", "localhost")
        alternatives = ",".join([*(f"DNS:{name}" for name in names), f"IP:{HERE}", f"IP:{SERVICE}", "IP:127.0.0.1"])
        usage = "extendedKeyUsage=serverAuth"
        self.authority.sign("apiserver", "/CN=kube-apiserver", f"subjectAltName={alternatives}", usage)
        client = "/O=system:masters/CN=apiserver-kubelet"
        self.authority.sign("kubelet-client", client, "extendedKeyUsage=clientAuth")
        key_pair(pki, "accounts")
        manager = self.write_kubeconfig("manager", "/CN=system:kube-controller-manager")
        scheduler = self.write_kubeconfig("scheduler", "/CN=system:kube-scheduler")
        etcd = "http://127.0.0.1:2379"
        peer = "http://127.0.0.1:2380"
        kubernetes = self._bin / self._version
        return {
            "etcd": [
                str(self._bin / "etcd"),
                f"--data-dir={self.folder / 'etcd'}",
                *(f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}"),
                *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
                f"--initial-cluster=default={peer}",
                "--unsafe-no-fsync",
            ],
            "apiserver": [
                str(kubernetes / "kube-apiserver"),
                f"--etcd-servers={etcd}",
                *("--bind-address=0.0.0.0", "--secure-port=443", f"--advertise-address={HERE}"),
                f"--service-cluster-ip-range={SERVICES}",
                *(f"--tls-cert-file={pki}/apiserver.crt", f"--tls-private-key-file={pki}/apiserver.key"),
                f"--client-ca-file={pki}/ca.crt",
                f"--kubelet-client-certificate={pki}/kubelet-client.crt",
                f"--kubelet-client-key={pki}/kubelet-client.key",
                "--kubelet-preferred-address-types=InternalIP",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={pki}/accounts.pub",
                f"--service-account-signing-key-file={pki}/accounts.key",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                "--allow-privileged",
                f"--cert-dir={pki}",
            ],
            "controller-manager": [
                str(kubernetes / "kube-controller-manager"),
                f"--kubeconfig={manager}",
                *("--leader-elect=false", "--secure-port=0", "--use-service-account-credentials"),
                f"--service-account-private-key-file={pki}/accounts.key",
                f"--root-ca-file={pki}/ca.crt",
                f"--flex-volume-plugin-dir={self.folder}/volume-plugins",
            ],
            "scheduler": [
                str(kubernetes / "kube-scheduler"),
                f"--kubeconfig={scheduler}",
                *("--leader-elect=false", "--secure-port=0"),
            ],
        }

    def _keep(self, name: str, command: Sequence[str]) -> None:
        held = self.folder / "held" / name
        with (self.folder / "logs" / f"{name}.log").open("ab") as log:
            while not self._ended.is_set():
                if held.exists():
                    self._ended.wait(0.1)
                    continue
                started = time.monotonic()
                process = spawn(command, log, environment=dict(os.environ, HOME=str(self.folder)))
                self._processes[name] = process
                (self.folder / f"{name}.pid").write_text(str(process.pid))
                process.wait()
                # Until etcd is up, the other programs exit and are restarted, as on a booting machine.
                self._ended.wait(max(0.0, 1.0 - (time.monotonic() - started)))

    def _await_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT
        context = ssl.create_default_context(cafile=str(self.authority.certificate))
        while time.monotonic() < deadline:
            # URLError, and HTTPError for a status other than 200, are OSErrors.
            with suppress(OSError), urllib.request.urlopen(f"{API_SERVER}/readyz", timeout=5, context=context):
                return
            time.sleep(0.2)
        logs = "".join(
            f"{path.name}:\n{tail(path.read_text(errors='replace'), 12)}\n"
            for path in sorted((self.folder / "logs").iterdir())
        )
        raise LabError(f"the API server was not ready in {READY_TIMEOUT:.0f} s", detail=logs)


def is_ready(item: dict[str, Any]) -> bool:
    """Return whether a Node or Pod object has the condition Ready."""
    conditions = item.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)

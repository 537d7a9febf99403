"""Generate the plain manifests in this directory from the chart, and the generated parts of the chart's schema.

python -m deploy.manifests          # write them: make manifests
python -m deploy.manifests --check  # fail if a file differs from what would be written
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from wirespeed.cli.checks import schemas

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "chart"
SCHEMA = CHART / "values.schema.json"
# The manifests in the order in which they are applied. Each is generated from the template of the same name.
FILES = ("crd.yaml", "rbac.yaml", "admission.yaml", "config.yaml", "daemonset.yaml")
# The rights for the web page. A component of kustomize adds them and the port; the key `web` of agent.yaml is
# written by hand, as all others there.
WEB = "web/web.yaml"
UNINSTALL = "uninstall/uninstall.yaml"
# The oldest Kubernetes that supports all of their objects. By default, helm assumes its own build's version.
KUBERNETES = "1.32.0"
_HEAD = "# Made from deploy/chart by `make manifests`.\n"
# Keys of agent.yaml that the chart sets itself, or that differ between nodes.
_OWN_KEYS = ("devicePlugin", "kubelet", "metrics", "nodeName", "readinessIndicatorFile", "runtimes", "web")


def helm() -> str:
    """The path of helm: HELM, or `helm` from PATH. Exits if there is none."""
    named = os.environ.get("HELM") or "helm"
    found = shutil.which(named)
    if found is None:
        sys.exit(f"{named}: expected the program helm, 3.14 or later: name it by HELM, or put it into PATH")
    return found


def rendered() -> dict[str, str]:
    """The generated files, by name relative to this directory."""
    files = {name: _template(name) for name in FILES}
    files[WEB] = _template("web.yaml", "--set=web.enabled=true")
    files["web/kustomization.yaml"] = _web_kustomization()
    files[UNINSTALL] = _template("uninstall.yaml")
    files["uninstall/kustomization.yaml"] = _kustomization(["uninstall.yaml"])
    files["kustomization.yaml"] = _kustomization(list(FILES))
    return {name: _HEAD + text for name, text in files.items()}


def _web_kustomization() -> str:
    return f"""\
# sha256 of the chart: {chart_digest()}
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
resources:
  - web.yaml
patches:
  - target: {{kind: DaemonSet, name: wirespeed}}
    patch: |-
      - op: add
        path: /spec/template/spec/containers/0/ports
        value: [{{name: web, containerPort: 9809, hostPort: 9809}}]
"""


def _kustomization(resources: list[str]) -> str:
    listed = "".join(f"  - {name}\n" for name in resources)
    return (
        f"# sha256 of the chart: {chart_digest()}\n"
        f"apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{listed}"
    )


def _template(name: str, *values: str) -> str:
    command = [helm(), "template", "wirespeed", str(CHART), "--namespace=kube-system", "--set=plain=true", *values]
    command.append(f"--kube-version={KUBERNETES}")
    run = subprocess.run([*command, f"--show-only=templates/{name}"], capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(f"helm template: {run.stderr.strip()}")
    documents = [
        re.sub(r"\A(# Source: .*\n)?\n*", "", document.strip("\n"))
        for document in re.split(r"(?m)^---\n", run.stdout)
        if document.strip()
    ]
    text = "\n---\n".join(documents) + "\n"
    return re.sub(r"(?m)[ \t]+$", "", text)


def chart_digest(chart: Path = CHART) -> str:
    """A digest of the chart, so that outdated manifests are detected without helm."""
    digest = hashlib.sha256()
    for path in sorted([chart / "Chart.yaml", chart / "values.yaml", *(chart / "templates").iterdir()]):
        digest.update(f"{path.name}\n".encode() + path.read_bytes())
    return digest.hexdigest()


# The schema of the chart's values


def schema() -> dict[str, Any]:
    """values.schema.json, with the definitions generated from the readers of the configurations."""
    document: dict[str, Any] = json.loads(SCHEMA.read_bytes())
    document["$defs"] |= _without_texts(_agent() | _pools())
    return document


def _agent() -> dict[str, Any]:
    found: dict[str, Any] = schemas.schema("agent")["$defs"]
    meta = schemas.schema("meta")
    found["AutoconfConfig"]["properties"]["meta"] = {"$ref": "#/$defs/MetaConfig"}
    found["MetaConfig"] = {key: value for key, value in meta.items() if key != "$schema"}
    for key in _OWN_KEYS:
        del found["NodeConfig"]["properties"][key]
    del found["WebConfig"]  # nothing refers to it any more
    return found


def _pools() -> dict[str, Any]:
    """Make unknown keys errors; the device plugin, like the SR-IOV network device plugin, only warns about them."""
    found: dict[str, Any] = schemas.schema("device-plugin")["$defs"]
    for each in found.values():
        each["additionalProperties"] = False
    found["PoolKeys"]["required"] = ["resourceName"]
    return found


def _without_texts(value: Any) -> Any:  # JSON, in and out
    """Remove descriptions, titles and defaults: the agent has the defaults, and Helm would not apply them."""
    if isinstance(value, dict):
        keep = {key: each for key, each in value.items() if key not in {"description", "default", "title"}}
        # Keys below `properties` and `$defs` are names, not keywords of the schema.
        return {
            key: {name: _without_texts(rule) for name, rule in value[key].items()}
            if key in {"properties", "$defs"}
            else _without_texts(each)
            for key, each in keep.items()
        }
    return [_without_texts(each) for each in value] if isinstance(value, list) else value


def schema_text() -> str:
    return json.dumps(schema(), indent=2) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    files = {SCHEMA: schema_text()} | {DEPLOY / name: text for name, text in rendered().items()}
    changed = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    for path in changed:
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(files[path])
        print(path.relative_to(ROOT))
    if check and changed:
        sys.exit("they are not as the chart makes them: make manifests")


if __name__ == "__main__":
    main()

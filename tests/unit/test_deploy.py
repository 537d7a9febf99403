"""The manifests: the permissions are those that the agent uses, the mounts are the paths that it uses."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import click
import msgspec
import pytest
import yaml

from deploy import manifests as made
from image.recipe import PREFIX
from tests.apiserver import ApiServer
from wirespeed.agent import cniconf
from wirespeed.cli.agent import agent as agent_command
from wirespeed.cli.install import install as install_command
from wirespeed.cli.install import uninstall as uninstall_command
from wirespeed.cli.install import uninstall_nodes as uninstall_nodes_command
from wirespeed.deviceplugin import config as pools
from wirespeed.kube.apiserver import ApiCluster
from wirespeed.kube.cluster import NETWORK_STATUS, Event
from wirespeed.node import AutoconfConfig, NodeConfig
from wirespeed.plugins.meta.config import MetaConfig
from wirespeed.plugins.vhost.poddata import CONFIGURATION_DATA, MAPPED_DIR

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def manifests() -> dict[str, dict[str, Any]]:
    """All objects of the manifests, by "kind/name"."""
    found = {}
    for name in yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())["resources"]:
        for document in yaml.safe_load_all((DEPLOY / name).read_text()):
            found[f"{document['kind']}/{document['metadata']['name']}"] = document
    return found


@pytest.fixture(scope="module")
def objects() -> dict[str, dict[str, Any]]:
    return manifests()


@pytest.fixture(scope="module")
def pod(objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = objects["DaemonSet/wirespeed"]["spec"]["template"]["spec"]
    return spec


def containers(pod: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (*pod.get("initContainers", ()), *pod["containers"])


def test_every_manifest_belongs_to_the_whole() -> None:
    listed = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())["resources"]
    assert {path.name for path in DEPLOY.glob("*.yaml")} == {*listed, "kustomization.yaml"}


# The chart


def test_manifests_are_made_from_the_chart_that_is_here() -> None:
    for name in ("kustomization.yaml", "uninstall/kustomization.yaml", "web/kustomization.yaml"):
        assert f"# sha256 of the chart: {made.chart_digest()}\n" in (DEPLOY / name).read_text(), "make manifests"


def test_values_are_checked_by_what_the_readers_know() -> None:
    assert made.SCHEMA.read_text() == made.schema_text(), "make manifests"


def test_manifests_of_the_web_page_add_the_rights_that_the_page_needs_and_the_port(pod: dict[str, Any]) -> None:
    """The page asks for these reviews: wirespeed.kube.access."""
    whole = yaml.safe_load((DEPLOY / "web/kustomization.yaml").read_text())
    assert (whole["kind"], whole["resources"]) == ("Component", ["web.yaml"])
    documents = list(yaml.safe_load_all((DEPLOY / "web/web.yaml").read_text()))
    roles = {each["metadata"]["name"]: each for each in documents if "rules" in each}
    assert granted(roles["wirespeed-web"]) == {
        ("authentication.k8s.io", "tokenreviews", "create"),
        ("authorization.k8s.io", "subjectaccessreviews", "create"),
    }
    assert ("", "nodes", "get") in granted(roles["wirespeed-viewer"])
    (binding,) = [each for each in documents if each["kind"] == "ClusterRoleBinding"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "wirespeed", "namespace": "kube-system"}]
    (patch,) = yaml.safe_load(whole["patches"][0]["patch"])
    assert patch["path"] == "/spec/template/spec/containers/0/ports"
    assert "ports" not in pod["containers"][0]
    assert patch["value"] == [{"name": "web", "containerPort": 9809, "hostPort": 9809}]


# Permissions


def granted(role: dict[str, Any]) -> set[tuple[str, str, str]]:
    """The permissions of a role, as (group, resource, verb)."""
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def needed(verb: str, path: str) -> tuple[str, str, str]:
    """The permission that a request needs."""
    match = re.fullmatch(r"/(?:api|apis/([^/]+))/v1(?:/namespaces/[^/]+)?/([^/]+)(?:/[^/]+(/status)?)?", path)
    assert match, path
    return match[1] or "", match[2] + (match[3] or ""), "create" if verb == "POST" else verb.lower()


def test_role_grants_the_requests_that_the_agent_makes_and_no_other(
    objects: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    with ApiServer(tmp_path) as api:
        api.put(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "web", "namespace": "default"},
                "spec": {"nodeName": "n1", "containers": []},
            }
        )
        for watch in (True, False):
            cluster = ApiCluster(kubeconfig=str(api.kubeconfig()), node_name="n1", watch=watch)
            with contextlib.closing(cluster):
                _every_request(cluster, api)
                if watch:
                    api.wait(lambda: len(api.watches) == 4)
        asked = {
            needed(request.verb, urlsplit(request.path).path)
            for request in api.requests
            if request.path != "/version"  # allowed for every user by system:public-info-viewer
        }
    assert granted(objects["ClusterRole/wirespeed"]) == asked


def _every_request(cluster: ApiCluster, api: ApiServer) -> None:
    uid = cluster.pod("default", "web")["metadata"]["uid"]
    cluster.set_network_status("default", "web", uid, [])
    cluster.annotate("default", "web", uid, lambda _: {"a": "b"})
    event = Event(namespace="default", name="web", uid=uid, reason="AddedInterface", message="net1")
    before = len(api.objects("Event"))
    cluster.event(event)
    api.wait(lambda: len(api.objects("Event")) == before + 1)
    cluster.event(event)
    api.wait(lambda: [each["count"] for each in api.objects("Event")] == [2] * (before + 1))
    cluster.check()
    cluster.slices("gpu.example.com")
    for missing in (cluster.network, cluster.claim):
        with contextlib.suppress(Exception):
            missing("default", "none")


def test_role_is_bound_to_the_agents_account(objects: dict[str, dict[str, Any]], pod: dict[str, Any]) -> None:
    binding = objects["ClusterRoleBinding/wirespeed"]
    account = objects["ServiceAccount/wirespeed"]["metadata"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
    ]
    assert binding["roleRef"]["name"] == "wirespeed"
    assert pod["serviceAccountName"] == account["name"]
    assert objects["DaemonSet/wirespeed"]["metadata"]["namespace"] == account["namespace"]


def test_policies_let_the_agent_write_the_annotations_that_it_writes(objects: dict[str, dict[str, Any]]) -> None:
    spec = objects["ValidatingAdmissionPolicy/wirespeed-pods"]["spec"]
    variables = {each["name"]: each["expression"] for each in spec["variables"]}
    assert re.findall(r"'([^']+)'", variables["own"]) == [NETWORK_STATUS, CONFIGURATION_DATA, MAPPED_DIR]


def test_policies_are_for_the_agents_account_and_deny(objects: dict[str, dict[str, Any]]) -> None:
    for name in ("wirespeed-pods", "wirespeed-events"):
        spec = objects[f"ValidatingAdmissionPolicy/{name}"]["spec"]
        (condition,) = spec["matchConditions"]
        assert condition["expression"].endswith("== 'system:serviceaccount:kube-system:wirespeed'")
        assert spec["failurePolicy"] == "Fail"
        binding = objects[f"ValidatingAdmissionPolicyBinding/{name}"]["spec"]
        assert binding == {"policyName": name, "validationActions": ["Deny"]}


# Paths


def mounted(container: dict[str, Any], pod: dict[str, Any]) -> dict[str, str]:
    """The host path of each mount of a container, by mount path."""
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    return {
        mount["mountPath"]: volumes[mount["name"]].get("hostPath", {}).get("path", "")
        for mount in container["volumeMounts"]
    }


def places(config: NodeConfig) -> list[str]:
    """The host paths that the agent and the plugins it executes use with this configuration."""
    autoconf, meta = config.autoconf or AutoconfConfig(), MetaConfig(cluster_network="x")
    found = [config.socket, config.state, config.kubelet, config.devinfo, config.cdi_dir, config.leases]
    found += [config.attachments, *config.runtimes]
    return [*found, autoconf.cni_config_dir, meta.conf_dir, meta.bin_dir, "/run/netns"]


def covered(place: str, mounts: dict[str, str]) -> bool:
    path = PurePosixPath(place.replace("/var/run/", "/run/"))
    return any(str(folder) in mounts for folder in (path, *path.parents))


def test_agent_sees_every_place_of_its_configuration_under_the_nodes_own_path(
    objects: dict[str, dict[str, Any]], pod: dict[str, Any]
) -> None:
    (agent,) = pod["containers"]
    mounts = {path: node for path, node in mounted(agent, pod).items() if node}
    assert all(path == node for path, node in mounts.items())
    config = _config(objects)
    assert [place for place in places(config) if not covered(place, mounts)] == []


def test_nothing_is_mounted_that_nobody_reads(objects: dict[str, dict[str, Any]], pod: dict[str, Any]) -> None:
    read = places(_config(objects))
    for container in containers(pod):
        for path, node in mounted(container, pod).items():
            assert not node or any(covered(place, {path: node}) for place in read), path
    used = {mount["name"] for container in containers(pod) for mount in container["volumeMounts"]}
    assert used == {volume["name"] for volume in pod["volumes"]}


def test_folders_in_which_others_mount_are_followed(pod: dict[str, Any]) -> None:
    (agent,) = pod["containers"]
    propagated = {mount["mountPath"] for mount in agent["volumeMounts"] if "mountPropagation" in mount}
    assert propagated == {"/run/netns", "/var/lib/kubelet", "/run/containerd", "/run/crio"}


def test_installer_sees_where_it_writes(pod: dict[str, Any]) -> None:
    (installer,) = pod["initContainers"]
    mounts = mounted(installer, pod)
    defaults = [option.default for option in install_command.params if option.name in {"bin_dir", "cni_config_dir"}]
    taken = ["/var/lib/cni/multus", "/var/lib/cni/sriov", NodeConfig().state, NodeConfig().attachments]
    assert all(covered(str(place), mounts) for place in [*defaults, *taken])


# Configuration


def _config(objects: dict[str, dict[str, Any]]) -> NodeConfig:
    text = objects["ConfigMap/wirespeed"]["data"]["agent.yaml"]
    return msgspec.convert(yaml.safe_load(text), NodeConfig)


def test_configuration_is_the_defaults_with_the_parts_that_a_cluster_needs(
    objects: dict[str, dict[str, Any]], pod: dict[str, Any]
) -> None:
    config = _config(objects)
    assert config == NodeConfig(autoconf=AutoconfConfig(), device_plugin="/etc/wirespeed/device-plugin.json")
    cniconf.check(config.autoconf or AutoconfConfig())
    data = objects["ConfigMap/wirespeed"]["data"]
    found = pools.parse(data["device-plugin.json"].encode(), config.resource_prefix)
    assert {pool.resource for pool in found} == {"intel.com/vf_kernel", "intel.com/vf_dpdk"}
    mount = next(m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "config")
    assert {f"{mount['mountPath']}/{name}" for name in data} == {
        "/etc/wirespeed/agent.yaml",
        "/etc/wirespeed/device-plugin.json",
    }


def test_commands_and_their_options_are_there(pod: dict[str, Any]) -> None:
    commands: dict[str, click.Command] = {"agent": agent_command, "install": install_command}
    (agent,) = pod["containers"]
    probes = [agent[name]["exec"]["command"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    for name, *arguments in [container["args"] for container in containers(pod)]:
        with commands[name].make_context(name, arguments):
            pass
    # The shim's path in the images: see image/agent.py and the Dockerfile.
    assert {tuple(probe) for probe in probes} == {(f"/{PREFIX}/share/wirespeed/wirespeed-cni", "--check")}
    assert f"-o /{PREFIX}/share/wirespeed/wirespeed-cni" in (ROOT / "deploy/Dockerfile").read_text()


def test_commands_of_an_uninstallation_and_their_options_are_there() -> None:
    commands: dict[str, click.Command] = {
        "uninstall": uninstall_command,
        "uninstall-nodes": uninstall_nodes_command,
    }
    documents = list(yaml.safe_load_all((DEPLOY / "uninstall/uninstall.yaml").read_text()))
    templates = [each["spec"]["template"]["spec"] for each in documents if "template" in each.get("spec", {})]
    called = [container["args"] for pod in templates for container in containers(pod) if "args" in container]
    assert [name for name, *_ in called] == ["uninstall", "uninstall-nodes"]
    for name, *arguments in called:
        with commands[name].make_context(name, arguments):
            pass


def test_agent_may_finish_what_runs_before_it_is_killed(pod: dict[str, Any]) -> None:
    unit = (DEPLOY / "wirespeed-agent.service").read_text()
    stop = int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[1])  # type: ignore[index]
    longest = NodeConfig().deadline + 10  # and 10 s for the rollback: agent/server.py
    assert min(stop, pod["terminationGracePeriodSeconds"]) > longest


# The CRD


def test_definition_is_the_specifications(objects: dict[str, dict[str, Any]]) -> None:
    spec = objects["CustomResourceDefinition/network-attachment-definitions.k8s.cni.cncf.io"]["spec"]
    assert (spec["group"], spec["scope"]) == ("k8s.cni.cncf.io", "Namespaced")
    assert spec["names"]["shortNames"] == ["nad", "net-attach-def"]
    (version,) = spec["versions"]
    assert (version["name"], version["served"], version["storage"]) == ("v1", True, True)


@pytest.mark.parametrize(
    ("config", "fits"),
    [
        ("", True),
        ('{"cniVersion": "1.0.0", "type": "bridge"}', True),
        ('\n  {"plugins": [\n  ]}\n', True),
        ("type: bridge", False),
        ('["a"]', False),
        ("{", False),
    ],
)
def test_definition_takes_what_can_be_a_configuration(
    objects: dict[str, dict[str, Any]], config: str, fits: bool
) -> None:
    spec = objects["CustomResourceDefinition/network-attachment-definitions.k8s.cni.cncf.io"]["spec"]
    schema = spec["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["config"]
    assert bool(re.search(schema["pattern"], config)) == fits


# The image


def test_image_is_built_of_what_is_there() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    makefile = (ROOT / "Makefile").read_text()
    flags = "gcc -std=c11 -O2 -static -Wall -Wextra -Werror"
    assert flags in text
    assert flags in makefile
    for path in ("deploy/images/requirements.lock", "deploy/images/wirespeed.packages", "shim/wirespeed-cni.c"):
        assert path in text
        assert (ROOT / path).exists()

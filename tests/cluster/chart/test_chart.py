"""The chart: the objects it renders, the values it rejects, and that an API server accepts all objects."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import tarfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from deploy import manifests
from image.archive import unpack
from image.recipe import version
from release.build import write_chart
from tests.cluster.chart.conftest import CHART, Helm
from tests.cluster.kube import Kube, Object
from wirespeed.deviceplugin import config as pools
from wirespeed.kube import kubeyaml
from wirespeed.node import NodeConfig, parse_config

PRESETS = sorted((CHART / "presets").glob("*.yaml"))
# Each distribution with its usual primary CNI plugins. Each preset is also tested alone.
TOGETHER = [
    ("k3s", "flannel"),
    ("rke2", "calico", "flannel"),
    ("rke2", "cilium"),
    ("microk8s", "calico"),
    ("k0s", "calico"),
    ("openshift", "ovn-kubernetes"),
    ("ovn-kubernetes", "vpp"),
]


def named(objects: Iterable[Object], kind: str, name: str = "") -> Object:
    found = [each for each in objects if each["kind"] == kind and name in ("", each["metadata"]["name"])]
    assert len(found) == 1, [f"{each['kind']}/{each['metadata']['name']}" for each in found]
    return found[0]


def pod_of(objects: Iterable[Object], name: str = "wirespeed") -> Object:
    spec: Object = named(objects, "DaemonSet", name)["spec"]["template"]["spec"]
    return spec


def config_of(objects: Iterable[Object], name: str = "wirespeed") -> NodeConfig:
    """agent.yaml, parsed as the agent does it."""
    return parse_config(named(objects, "ConfigMap", name)["data"]["agent.yaml"])


def pools_of(objects: Iterable[Object], name: str = "wirespeed") -> set[str]:
    """The resource names of the device plugin's pools, parsed as the device plugin does it."""
    text = named(objects, "ConfigMap", name)["data"]["device-plugin.json"]
    return {pool.resource for pool in pools.parse(text.encode(), "intel.com")}


def mounts_of(container: Object, pod: Object) -> dict[str, str]:
    """The host directories mounted into a container, by mount path."""
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    return {
        mount["mountPath"]: volumes[mount["name"]]["hostPath"]["path"]
        for mount in container["volumeMounts"]
        if "hostPath" in volumes[mount["name"]]
    }


def preset(name: str) -> str:
    return f"--values={CHART / 'presets' / name}.yaml"


def values(tmp_path: Path, document: Object) -> str:
    path = tmp_path / f"values{len(list(tmp_path.iterdir()))}.yaml"
    path.write_text(json.dumps(document))
    return f"--values={path}"


ALL_VALUES: Object = {
    "image": {"repository": "registry.example.com:5000/net/wirespeed", "digest": f"sha256:{'ab' * 32}"},
    "mounts": {"x": {"path": "/run/x", "readOnly": True, "propagation": "HostToContainer", "type": "Directory"}},
    "nodeGroups": {
        "label": "example.com/nic",
        "groups": {
            "e810": {"pools": [{"resourceName": "fast"}], "agent": {"cdi": True, "deadline": 200.5}},
            "None": {},
        },
    },
    "defaultNetworks": ["infra/storage"],
    "namespaceIsolation": True,
    "globalNamespaces": ["default", "infra"],
    "readinessIndicatorFile": "/run/x/ready",
    "agent": {"workers": 64, "autoconf": {"meta": {"firstInterface": 0}}},
    "replace": ["multus", "sriov-cni", "userspace-cni"],
    "multus": {"daemonConfigMap": "multus-daemon-config", "dir": "/var/lib/multus/cni"},
    "metrics": {"enabled": True, "address": "[::]"},
    "web": {"enabled": True, "address": "[::]", "tlsSecret": "page"},
    "serviceAccount": {"name": "agent", "annotations": {"a": "b"}},
    "openshift": {"scc": True},
    "nodeSelector": {"role": "edge"},
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "a", "operator": "Exists"}]},
                    {"matchExpressions": [{"key": "b", "operator": "Exists"}]},
                ]
            }
        }
    },
    "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}},
    "podLabels": {"team": "net"},
    "podAnnotations": {"note": "x"},
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy"}],
    "extraVolumes": [{"name": "more", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    "extraObjects": [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "{{ .Release.Name }}-more", "namespace": "{{ .Release.Namespace }}"},
        }
    ],
    "uninstall": {"force": True, "timeout": 600},
}


# Helm


def test_chart_is_clean_to_helm(helm: Helm, tmp_path: Path) -> None:
    for arguments in ([], [values(tmp_path, ALL_VALUES)], *([preset(path.stem)] for path in PRESETS)):
        run = helm.run("lint", "--strict", str(CHART), *arguments)
        assert run.returncode == 0, run.stdout + run.stderr


def test_manifests_are_as_the_chart_makes_them(helm: Helm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELM", helm.program)
    made = manifests.rendered()
    assert {name: (manifests.DEPLOY / name).read_text() for name in made} == made


def test_chart_of_a_release_is_the_same_whenever_it_is_packaged(
    helm: Helm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELM", helm.program)
    epoch = int(time.time()) - 60
    for name in ("one", "two"):
        source = shutil.copytree(CHART, tmp_path / name / "chart")  # its files' times differ
        write_chart(source, tmp_path / name / "chart.tgz", work=tmp_path / name / "work", epoch=epoch)
    assert (tmp_path / "one/chart.tgz").read_bytes() == (tmp_path / "two/chart.tgz").read_bytes()
    assert helm.objects(chart=tmp_path / "one/chart.tgz") == helm.objects()


def test_packaged_chart_is_installed_with_its_own_presets(helm: Helm, tmp_path: Path) -> None:
    assert helm.run("package", str(CHART), f"--destination={tmp_path}").returncode == 0
    (package,) = tmp_path.glob("*.tgz")
    with tarfile.open(package) as content:
        unpack(content, tmp_path)
    chart = tmp_path / "wirespeed"
    assert {path.name for path in (chart / "presets").iterdir()} == {path.name for path in PRESETS}
    files = ("k3s", "flannel")
    unpacked = helm.objects(*(f"--values={chart}/presets/{name}.yaml" for name in files), chart=chart)
    assert unpacked == helm.objects(*(preset(name) for name in files))


def test_every_value_is_documented_and_in_the_schema(helm: Helm) -> None:
    given = kubeyaml.load((CHART / "values.yaml").read_text())
    known = json.loads((CHART / "values.schema.json").read_text())["properties"]
    assert {*given, "global"} == set(known)
    for key, value in given.items():
        if "properties" in known[key]:
            inner = known[key]["properties"]
            assert set(value) == set(inner) or key in {"affinity", "resources"}, key


# The API server


@pytest.mark.parametrize("names", [(), *((path.stem,) for path in PRESETS), *TOGETHER], ids="+".join)
def test_api_server_takes_what_a_preset_makes(helm: Helm, kubectl: Kube, namespace: str, names: tuple[str]) -> None:
    arguments = [preset(name) for name in names]
    kubectl.try_out(*helm.objects(*arguments, "--set=crds.install=false", namespace=namespace))


def test_api_server_takes_what_all_values_make(helm: Helm, kubectl: Kube, namespace: str, tmp_path: Path) -> None:
    objects = helm.objects(values(tmp_path, ALL_VALUES), "--set=crds.install=false", namespace=namespace)
    kubectl.try_out(*objects)


def test_api_server_takes_the_definition_and_the_plain_manifests(kubectl: Kube) -> None:
    others = [manifests.DEPLOY / name for name in (manifests.UNINSTALL, manifests.WEB)]
    for path in [*manifests.DEPLOY.glob("*.yaml"), *others]:
        if path.name != "kustomization.yaml":
            kubectl.run("apply", "--dry-run=server", "--validate=strict", "-f", str(path))
    for folder in (manifests.DEPLOY, manifests.DEPLOY / "uninstall"):
        kubectl.run("apply", "--dry-run=server", "--validate=strict", "-k", str(folder))


def test_component_adds_the_web_page_to_the_plain_manifests(kubectl: Kube, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(manifests.DEPLOY, tmp_path / "deploy"))
    with (folder / "kustomization.yaml").open("a") as file:
        file.write("components:\n  - web\n")
    text = kubectl.run("kustomize", str(folder))
    objects = [each for each in kubeyaml.load_all(text) if each]
    assert pod_of(objects)["containers"][0]["ports"][0]["name"] == "web"
    assert reviews_of(objects) >= REVIEWS
    kubectl.run("apply", "--dry-run=server", "--validate=strict", "-k", str(folder))


# Rendered objects


def test_defaults_are_the_agents(helm: Helm) -> None:
    objects = helm.objects()
    config = config_of(objects)
    assert config.autoconf is not None
    assert config.runtimes == NodeConfig().runtimes
    assert pools_of(objects) == {"intel.com/vf_kernel", "intel.com/vf_dpdk"}
    assert pod_of(objects)["initContainers"][0]["args"] == ["install"]


def test_all_values_reach_the_agent(helm: Helm, tmp_path: Path) -> None:
    objects = helm.objects(values(tmp_path, ALL_VALUES))
    config, pod = config_of(objects), pod_of(objects)
    assert config.autoconf is not None
    assert config.autoconf.meta == {
        "defaultNetworks": ["infra/storage"],
        "namespaceIsolation": True,
        "globalNamespaces": "default,infra",
        "firstInterface": 0,
        "lenientCapabilities": ["ips", "mac", "infinibandGUID", "portMappings", "bandwidth"],
    }
    assert config.autoconf.files == ("00-wirespeed.conflist", "00-multus.conf")
    assert config.autoconf.network_name == "multus-cni-network"
    assert (config.workers, config.metrics) == (64, "[::]:9808")
    assert config.readiness_indicator_file == "/run/x/ready"
    (agent,) = pod["containers"]
    assert agent["image"] == f"registry.example.com:5000/net/wirespeed:{version()}@sha256:{'ab' * 32}"
    assert {"name": "x", "value": "y"} not in agent["env"]
    assert agent["env"][1] == {"name": "HTTPS_PROXY", "value": "http://proxy"}
    assert mounts_of(agent, pod)["/run/x"] == "/run/x"
    assert pod["serviceAccountName"] == "agent"
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux", "role": "edge"}
    assert named(objects, "ConfigMap", "wirespeed-more")


@pytest.mark.parametrize("names", [*((path.stem,) for path in PRESETS), *TOGETHER], ids="+".join)
def test_agent_has_every_folder_of_a_preset_under_its_own_path(helm: Helm, names: tuple[str]) -> None:
    objects = helm.objects(*(preset(name) for name in names))
    config, pod = config_of(objects), pod_of(objects)
    (agent,), (installer,) = pod["containers"], pod["initContainers"]
    assert config.autoconf is not None
    bin_dir = config.autoconf.meta.get("binDir", "/opt/cni/bin")
    places = [bin_dir, config.autoconf.cni_config_dir]
    more = [config.kubelet, *config.runtimes, *filter(None, [config.readiness_indicator_file])]
    more += [mount["path"] for name in names for mount in _mounts(name)]
    for container, looked_at in ((installer, places), (agent, [*places, *more])):
        mounts = mounts_of(container, pod)
        assert all(path == node for path, node in mounts.items())
        for place in looked_at:
            assert any(str(folder) in mounts for folder in (Path(place), *Path(place).parents)), place
    options = dict(argument.split("=") for argument in installer["args"][1:])
    assert options.get("--bin-dir", "/opt/cni/bin") == bin_dir
    assert options.get("--cni-config-dir", "/etc/cni/net.d") == config.autoconf.cni_config_dir


def _mounts(name: str) -> Iterable[Object]:
    found: Object = kubeyaml.load((CHART / "presets" / f"{name}.yaml").read_text()).get("mounts", {})
    return found.values()


def test_groups_of_nodes_have_agents_of_their_own_and_no_node_has_two(helm: Helm, tmp_path: Path) -> None:
    objects = helm.objects(values(tmp_path, ALL_VALUES))
    assert pools_of(objects, "wirespeed-e810") == {"intel.com/fast"}
    assert pools_of(objects, "wirespeed-none") == set()
    group = config_of(objects, "wirespeed-e810")
    assert (group.cdi, group.workers) == (True, 64)
    sets = [each for each in objects if each["kind"] == "DaemonSet" and "hook" not in str(each["metadata"])]
    assert len(sets) == 3
    for one, other in itertools.combinations(sets, 2):
        assert one["spec"]["selector"]["matchLabels"] != other["spec"]["selector"]["matchLabels"]
    nodes = [{"example.com/nic": value} for value in ("e810", "None", "other")] + [{}]
    for labels in nodes:
        node = {"kubernetes.io/os": "linux", "role": "edge", "b": "", **labels}
        serving = [each["metadata"]["name"] for each in sets if _runs_on(node, each["spec"]["template"]["spec"])]
        assert len(serving) == 1, (labels, serving)
    assert pod_of(objects, "wirespeed-e810")["terminationGracePeriodSeconds"] == 231
    for each in sets:
        volume = next(v for v in each["spec"]["template"]["spec"]["volumes"] if v["name"] == "config")
        assert volume["configMap"]["name"] == each["metadata"]["name"]


def test_probes_of_a_group_use_its_agents_socket(helm: Helm, tmp_path: Path) -> None:
    groups = {"own": {"agent": {"socket": "/run/wirespeed/own.sock"}}, "same": {}}
    for everywhere in ("", "/run/wirespeed/all.sock"):
        agent = {"socket": everywhere} if everywhere else {}
        given = {"agent": agent, "nodeGroups": {"label": "example.com/nic", "groups": groups}}
        objects = helm.objects(values(tmp_path, given))
        probed = {}
        for name in ("wirespeed", "wirespeed-own", "wirespeed-same"):
            (container,) = pod_of(objects, name)["containers"]
            env = {each["name"]: each.get("value") for each in container["env"]}
            probed[name] = env.get("WIRESPEED_SOCKET", NodeConfig().socket)
            assert probed[name] == config_of(objects, name).socket
        assert set(probed.values()) == {everywhere or NodeConfig().socket, "/run/wirespeed/own.sock"}


def _runs_on(node: dict[str, str], pod: Object) -> bool:
    """Whether a pod's nodeSelector and node affinity (In, NotIn, Exists) match a node with these labels."""

    def fits(key: str, operator: str, values: Sequence[str] = ()) -> bool:
        there = {"Exists": key in node, "In": node.get(key) in values, "NotIn": node.get(key) not in values}
        return there[operator]

    affinity = pod.get("affinity", {}).get("nodeAffinity", {})
    terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [{}])
    return all(node.get(key) == value for key, value in pod["nodeSelector"].items()) and any(
        all(fits(**rule) for rule in term.get("matchExpressions", [])) for term in terms
    )


def test_restart_is_for_the_agents_configuration_and_not_for_pools(helm: Helm) -> None:
    def template(*arguments: str) -> Any:
        return named(helm.objects(*arguments), "DaemonSet", "wirespeed")["spec"]["template"]

    assert template() == template("--set-json=pools=[]")
    assert template() != template("--set=agent.workers=64")


def test_replacing_is_an_option_of_the_installer_alone(helm: Helm, tmp_path: Path) -> None:
    objects = helm.objects(values(tmp_path, ALL_VALUES))
    pod = pod_of(objects)
    (installer,) = pod["initContainers"]
    assert [each for each in installer["args"] if each.startswith("--replace")] == [
        "--replace=multus",
        "--replace=sriov-cni",
        "--replace=userspace-cni",
    ]
    assert "--daemon-config=/etc/multus/daemon-config.json" in installer["args"]
    assert "--multus-dir=/var/lib/multus/cni" in installer["args"]
    assert mounts_of(installer, pod)["/var/lib/multus"] == "/var/lib/multus"
    remover = pod_of(objects, "wirespeed-uninstall")["initContainers"][0]
    assert remover["args"] == ["uninstall", "--multus-dir=/var/lib/multus/cni", "--force", "--dry-run"]


def test_multus_default_directory_is_named_too_where_multus_is_replaced(helm: Helm) -> None:
    for arguments, expected in (['--set-json=replace=["multus"]'], ["--multus-dir=/var/lib/cni/multus"]), ([], []):
        objects = helm.objects(*arguments)
        for name in ("wirespeed", "wirespeed-uninstall"):
            given = pod_of(objects, name)["initContainers"][0]["args"]
            assert [each for each in given if each.startswith("--multus-dir")] == expected


def test_removers_have_the_installers_mounts_and_the_agents_nodes(helm: Helm, tmp_path: Path) -> None:
    for arguments in ([], [values(tmp_path, ALL_VALUES)], [preset("k3s")]):
        objects = helm.objects(*arguments)
        for each in objects:
            if each["kind"] != "DaemonSet" or "uninstall" not in each["metadata"]["name"]:
                continue
            remover = each["spec"]["template"]["spec"]
            agent = pod_of(objects, each["metadata"]["name"].replace("-uninstall", ""))
            theirs = mounts_of(remover["initContainers"][0], remover)
            ours = mounts_of(agent["initContainers"][0], agent)
            assert theirs == ours
            for key in ("nodeSelector", "affinity", "tolerations", "hostNetwork"):
                assert remover.get(key) == agent.get(key)


def test_job_names_all_daemonsets_and_may_change_no_other(helm: Helm, tmp_path: Path) -> None:
    objects = helm.objects(values(tmp_path, ALL_VALUES))
    sets = {each["metadata"]["name"] for each in objects if each["kind"] == "DaemonSet"}
    job = named(objects, "Job")["spec"]["template"]["spec"]["containers"][0]
    given = [argument.split("=")[1] for argument in job["args"] if re.match("--(agents|removers)=", argument)]
    assert sorted(given) == sorted(sets)
    rules = named(objects, "Role", "wirespeed-uninstall")["rules"]
    assert set(rules[0]["resourceNames"]) == sets


def test_only_hooks_are_left_out_where_uninstalling_is_off(helm: Helm) -> None:
    with_hooks, without = helm.objects(), helm.objects("--set=uninstall.enabled=false")
    hooks = [each for each in with_hooks if "helm.sh/hook" in (each["metadata"].get("annotations") or {})]
    assert {each["kind"] for each in hooks} == {"ServiceAccount", "Role", "RoleBinding", "DaemonSet", "Job"}
    assert [each for each in with_hooks if each not in hooks] == without


def test_definition_outlives_the_release(helm: Helm) -> None:
    definition = named(helm.objects(), "CustomResourceDefinition")
    assert definition["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    without = helm.objects("--set=crds.install=false")
    assert not [each for each in without if each["kind"] == "CustomResourceDefinition"]


@pytest.mark.parametrize(
    ("version", "choice", "there"),
    [
        ("1.32.0", "auto", True),
        ("v1.33.1-eks-abc", "auto", True),
        ("1.31.4", "auto", False),
        ("1.31.4", "true", True),
        ("1.36.3", "false", False),
    ],
)
def test_policies_are_where_the_api_server_names_nodes(helm: Helm, version: str, choice: str, there: bool) -> None:
    objects = helm.objects(f"--kube-version={version}", f"--set=admissionPolicy={choice}")
    found = [each["metadata"]["name"] for each in objects if each["kind"] == "ValidatingAdmissionPolicy"]
    assert found == (["wirespeed-pods", "wirespeed-events"] if there else [])


def test_monitors_find_the_agents_port(helm: Helm) -> None:
    on = ["--set=metrics.enabled=true", "--set=metrics.port=9999"]
    objects = helm.objects(
        *on, "--set=metrics.serviceMonitor.enabled=true", "--set=metrics.podMonitor.enabled=true"
    )
    (agent,) = pod_of(objects)["containers"]
    assert agent["ports"] == [{"name": "metrics", "containerPort": 9999, "hostPort": 9999}]
    assert config_of(objects).metrics == "0.0.0.0:9999"
    labels = named(objects, "DaemonSet", "wirespeed")["spec"]["template"]["metadata"]["labels"]
    service = named(objects, "Service")
    assert service["spec"]["selector"].items() <= labels.items()
    by_service, by_pod = named(objects, "ServiceMonitor")["spec"], named(objects, "PodMonitor")["spec"]
    assert by_service["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert by_pod["selector"]["matchLabels"].items() <= labels.items()
    assert by_service["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"] == "metrics"
    assert by_pod["podMetricsEndpoints"][0]["port"] == "metrics"


REVIEWS = {("authentication.k8s.io", "tokenreviews"), ("authorization.k8s.io", "subjectaccessreviews")}


def reviews_of(objects: list[Object]) -> set[tuple[str, str]]:
    """The reviews that the agent's roles permit."""
    bound = {each["roleRef"]["name"] for each in objects if each["kind"] == "ClusterRoleBinding"}
    roles = [each for each in objects if each["kind"] == "ClusterRole" and each["metadata"]["name"] in bound]
    rules = [rule for role in roles for rule in role["rules"]]
    return {(rule["apiGroups"][0], rule["resources"][0]) for rule in rules if rule["verbs"] == ["create"]}


def test_web_page_has_the_rights_and_the_certificate_that_it_needs(helm: Helm) -> None:
    objects = helm.objects("--set=web.enabled=true", "--set=web.address=10.0.0.1", "--set=web.tlsSecret=page")
    pod = pod_of(objects)
    (agent,) = pod["containers"]
    assert agent["ports"] == [{"name": "web", "containerPort": 9809, "hostPort": 9809}]
    web = config_of(objects).web
    assert (web.address, web.anonymous) == ("10.0.0.1:9809", False)
    (mount,) = [each for each in agent["volumeMounts"] if each["name"] == "web-tls"]
    assert (web.tls_certificate, web.tls_key) == tuple(
        f"{mount['mountPath']}/tls.{kind}" for kind in ("crt", "key")
    )
    assert {"name": "web-tls", "secret": {"secretName": "page"}} in pod["volumes"]
    assert reviews_of(objects) >= REVIEWS


def test_without_the_web_page_there_is_neither_its_port_nor_its_rights(helm: Helm) -> None:
    objects = helm.objects()
    (agent,) = pod_of(objects)["containers"]
    assert "ports" not in agent
    assert config_of(objects).web.address == ""
    assert not reviews_of(objects) & REVIEWS


def test_roles_for_those_who_see_the_page_have_what_the_agent_and_kubectl_wirespeed_ask_for(helm: Helm) -> None:
    objects = helm.objects("--set=web.enabled=true")
    viewer = named(objects, "ClusterRole", "wirespeed-viewer")["rules"]
    assert {(resource, verb) for rule in viewer for resource in rule["resources"] for verb in rule["verbs"]} == {
        ("nodes", "get"),
        ("nodes", "list"),
        ("pods", "get"),
        ("pods", "list"),
        ("events", "list"),
    }
    connect = named(objects, "Role", "wirespeed-connect")
    assert connect["metadata"]["namespace"] == "kube-system"
    assert [rule["resources"] for rule in connect["rules"]] == [["pods"], ["pods/portforward"]]
    # Nobody has them by the chart: an administrator binds them.
    bound = {each["roleRef"]["name"] for each in objects if each["kind"].endswith("RoleBinding")}
    assert not bound & {"wirespeed-viewer", "wirespeed-connect"}


def test_web_page_on_a_loopback_address_needs_no_certificate(helm: Helm) -> None:
    objects = helm.objects("--set=web.enabled=true")
    assert config_of(objects).web.address == "127.0.0.1:9809"
    assert not [each for each in pod_of(objects)["volumes"] if each["name"] == "web-tls"]


def test_monitors_label_by_node_and_leave_the_labels_of_the_pods_of_vfs(helm: Helm) -> None:
    on = [f"--set=metrics.{key}=true" for key in ("enabled", "serviceMonitor.enabled", "podMonitor.enabled")]
    objects = helm.objects(*on)
    (by_service,) = named(objects, "ServiceMonitor")["spec"]["endpoints"]
    (by_pod,) = named(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]
    for each in (by_service, by_pod):
        label, drop = each["relabelings"]
        assert label == {"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"}
        assert drop == {"action": "labeldrop", "regex": "namespace|pod|container"}


def test_alerts_and_the_dashboard_are_those_of_the_files(helm: Helm) -> None:
    """What they ask for is compared with the agent's metrics in tests/node/test_metrics_conventions.py."""
    own = ["--set=metrics.rules.labels.release=kps", "--set=metrics.dashboard.labels.folder=net"]
    objects = helm.objects(
        "--set=metrics.enabled=true",
        "--set=metrics.rules.enabled=true",
        "--set=metrics.dashboard.enabled=true",
        *own,
    )
    rule, dashboard = named(objects, "PrometheusRule"), named(objects, "ConfigMap", "wirespeed-dashboard")
    files = CHART / "monitoring"
    assert rule["spec"] == kubeyaml.load((files / "rules.yaml").read_text())
    assert rule["metadata"]["labels"]["release"] == "kps"
    assert json.loads(dashboard["data"]["wirespeed.json"]) == json.loads((files / "dashboard.json").read_text())
    assert {"grafana_dashboard": "1", "folder": "net"}.items() <= dashboard["metadata"]["labels"].items()
    without = helm.objects("--set=metrics.enabled=true")
    assert "PrometheusRule" not in {each["kind"] for each in without}
    assert "wirespeed-dashboard" not in {each["metadata"]["name"] for each in without}


def test_monitors_select_the_agents_of_all_groups_and_no_other_pods(helm: Helm, tmp_path: Path) -> None:
    monitors = {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}
    objects = helm.objects(values(tmp_path, {**ALL_VALUES, "metrics": {"enabled": True, **monitors}}))
    selectors = [
        named(objects, "Service")["spec"]["selector"],
        named(objects, "PodMonitor")["spec"]["selector"]["matchLabels"],
    ]
    templates = {
        (each["kind"], each["metadata"]["name"]): each["spec"]["template"]["metadata"]["labels"]
        for each in objects
        if each["kind"] in {"DaemonSet", "Job"}
    }
    assert len(templates) == 7  # three groups' agents and removers, and the Job
    for selector in selectors:
        selected = {each for each, labels in templates.items() if selector.items() <= labels.items()}
        assert selected == {("DaemonSet", f"wirespeed{suffix}") for suffix in ("", "-e810", "-none")}


def test_namespace_lets_privileged_pods_in_and_outlives_the_release(helm: Helm) -> None:
    (made,) = [
        each
        for each in helm.objects("--set=namespace.create=true", namespace="wirespeed")
        if each["kind"] == "Namespace"
    ]
    assert made["metadata"]["name"] == "wirespeed"
    assert made["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"
    assert made["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


# Rejected values


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"images": {}}, "images"),
        ({"image": {"name": "x"}}, "name"),
        ({"node": {"binDir": "/x"}}, "binDir"),
        ({"node": {"cniBinDir": "opt/cni/bin"}}, "cniBinDir"),
        ({"mounts": {"x": {"path": "/x", "readonly": True}}}, "readonly"),
        ({"mounts": {"x": {"path": "x"}}}, "path"),
        ({"pools": [{"resourceName": "a", "selector": {}}]}, "selector"),
        ({"pools": [{"resourceName": "a", "selectors": {"driver": ["x"]}}]}, "selectors"),
        ({"pools": [{}]}, "resourceName"),
        ({"agent": {"worker": 1}}, "worker"),
        ({"agent": {"workers": 0}}, "workers"),
        ({"agent": {"metrics": "127.0.0.1:1"}}, "metrics"),
        ({"agent": {"autoconf": {"meta": {"defaultNetwork": []}}}}, "autoconf"),
        ({"nodeGroups": {"groups": {"a": {"pool": []}}}}, "pool"),
        ({"nodeGroups": {"groups": {"a": {}}}}, "nodeGroups.label: expected the key of a node label"),
        (
            {"nodeGroups": {"label": "x", "groups": {"a.b": {}, "a-b": {}}}},
            "the names of .* differ in nothing that a DaemonSet's name may have",
        ),
        ({"autoconf": False, "defaultNetworks": ["x"]}, "expected autoconf: true"),
        ({"replace": ["calico"]}, "replace"),
        ({"admissionPolicy": "yes"}, "admissionPolicy"),
        ({"metrics": {"port": 0}}, "port"),
        ({"agent": {"web": {"address": "127.0.0.1:1"}}}, "web"),
        ({"web": {"enabled": True, "address": "0.0.0.0"}}, "web.tlsSecret: tokens would be sent unencrypted"),
        ({"web": {"enabled": True, "address": "localhost"}}, "address"),
        ({"metrics": {"address": "localhost"}}, "address"),
        ({"metrics": {"podMonitor": {"enabled": True}}}, "expected metrics.enabled: true"),
        ({"metrics": {"rules": {"enabled": True}}}, "expected metrics.enabled: true"),
        ({"metrics": {"dashboard": {"enabled": True, "folder": "x"}}}, "folder"),
        ({"updateStrategy": {"rollingUpdate": {"maxSurge": 1}}}, "maxSurge"),
        ({"tolerations": [{"operators": "Exists"}]}, "operators"),
        ({"namespace": {"create": True}}, "kube-system is a namespace of the cluster itself"),
        ({"uninstall": {"timeout": 1}}, "timeout"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_values_with_a_mistake_are_refused_with_its_name(
    helm: Helm, tmp_path: Path, given: Object, said: str
) -> None:
    assert re.search(said, helm.refused(values(tmp_path, given)))


def test_policies_are_refused_where_tokens_name_no_node(helm: Helm) -> None:
    error = helm.refused("--kube-version=1.29.0", "--set=admissionPolicy=true")
    assert "this Kubernetes is v1.29.0; expected 1.30 or later" in error

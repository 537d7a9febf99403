"""Accepted manifests, and the errors for others: with file, document, object and key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.client import models

from wirespeed.errors import Error, Kind
from wirespeed.play import manifests, objects
from wirespeed.play.manifests import Manifests, extended_resources, hugepages
from wirespeed.play.objects import EmptyDir

Manifest = dict[str, Any]


def pod(container: Manifest | None = None, **spec: Any) -> Manifest:
    made = {"name": "main", "command": ["true"], **(container or {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [made], **spec}}


def config_map(name: str = "c", **data: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def network(config: object = '{"cniVersion": "1.0.0", "type": "sriov"}') -> Manifest:
    version = "k8s.cni.cncf.io/v1"
    kind = "NetworkAttachmentDefinition"
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "n"}, "spec": {"config": config}}


def load(tmp_path: Path, *documents: object) -> Manifests:
    file = tmp_path / "m.yaml"
    file.write_text("\n---\n".join(map(json.dumps, documents)))
    return manifests.load([file])


def test_pods_networks_and_config_maps_are_found_in_files_folders_and_lists(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("\n---\n".join(map(json.dumps, [network(), None, config_map(key="value")])))
    (tmp_path / "a.json").write_text(json.dumps({"kind": "List", "items": [pod()]}))
    (tmp_path / "notes.txt").write_text("not read")
    loaded = manifests.load([tmp_path])
    assert [each.label for each in loaded.pods] == ["default/p"]
    assert list(loaded.networks) == [("default", "n")]
    assert loaded.config_maps == {("default", "c"): {"key": "value"}}


def test_keys_that_have_no_effect_here_are_taken(tmp_path: Path) -> None:
    container = {
        "image": "dpdk",
        "securityContext": {"privileged": True},
        "livenessProbe": {"exec": {}},
        "tty": True,
    }
    loaded = load(tmp_path, pod(container, nodeSelector={"a": "b"}, serviceAccountName="x", dnsPolicy="Default"))
    assert loaded.pods[0].spec.containers[0].image == "dpdk"


def test_kinds_without_effect_here_are_named_and_passed_over(tmp_path: Path) -> None:
    others = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "edge"}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "vfw", "namespace": "edge"}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "vfw", "namespace": "core"}},
        {"apiVersion": "example.com/v1", "kind": "Wish"},
    ]
    loaded = load(tmp_path, *others, pod())
    assert [each.label for each in loaded.pods] == ["default/p"]
    assert loaded.notes == [
        f"{tmp_path}/m.yaml: not played, without effect here: Namespace edge, ServiceAccount vfw, Wish"
    ]


EXPORTED = """
apiVersion: v1
kind: List
metadata: {resourceVersion: ""}
items:
- apiVersion: v1
  kind: Pod
  metadata:
    annotations: {k8s.v1.cni.cncf.io/networks: , built: 2024-05-01}
    creationTimestamp: 2024-05-01T10:00:00Z
    labels: {release: 1.2.3, since: 2024-05-01}
    managedFields: [{manager: kubectl, time: 2024-05-01T10:00:00Z}]
    name: vfw
    resourceVersion: "77"
    uid: 00000000-0000-4000-8000-000000000001
  spec:
    affinity: null
    containers:
    - args:
      command: [/bin/true]
      env:
      - {name: DEVICE, value: 0000:18:00.1}
      - name: EMPTY
        value:
      name: main
      ports: null
      resources:
      volumeMounts:
      - {mountPath: /var/run/secrets/kubernetes.io/serviceaccount, name: kube-api-access-x7, readOnly: yes}
      - {mountPath: /work, name: work}
    initContainers:
    nodeName: node-1
    nodeSelector:
    serviceAccount: default
    terminationGracePeriodSeconds: 1e1
    volumes:
    - name: work
      emptyDir:
    - name: kube-api-access-x7
      projected:
        defaultMode: 0644
        sources:
        - serviceAccountToken: {expirationSeconds: 3607, path: token}
        - configMap: {items: [{key: ca.crt, path: ca.crt}], name: kube-root-ca.crt}
        - downwardAPI: {items: [{fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}, path: namespace}]}
  status: {phase: Running, podIP: 10.0.0.1}
- apiVersion: v1
  data: {key: }
  kind: ConfigMap
  metadata: {creationTimestamp: null, name: c}
"""


def test_what_kubectl_writes_is_played(tmp_path: Path) -> None:
    """Null is absent, unquoted addresses and dates are strings, keys added by the API server are accepted."""
    (tmp_path / "m.yaml").write_text(EXPORTED)
    loaded = manifests.load([tmp_path / "m.yaml"])
    (played,) = loaded.pods
    (main,) = played.spec.containers
    assert [(each.name, each.value) for each in main.env] == [("DEVICE", "0000:18:00.1"), ("EMPTY", None)]
    assert played.metadata.labels == {"release": "1.2.3", "since": "2024-05-01"}
    assert played.metadata.annotations == {"k8s.v1.cni.cncf.io/networks": "", "built": "2024-05-01"}
    assert played.spec.termination_grace_period_seconds == 10
    assert played.spec.volumes[0].empty_dir == EmptyDir()
    assert loaded.config_maps == {("default", "c"): {"key": ""}}
    assert loaded.notes == [
        f"{tmp_path}/m.yaml, document 1: Pod default/vfw: volume kube-api-access-x7: without serviceAccountToken "
        "and ConfigMap default/kube-root-ca.crt: there is no API server here"
    ]


def test_a_number_is_no_string(tmp_path: Path) -> None:
    """As in Kubernetes."""
    (tmp_path / "m.yaml").write_text(EXPORTED.replace("value: 0000:18:00.1", "value: 5"))
    with pytest.raises(Error, match=r'spec.containers\[0\].env\[0\].value": expected a string, got 5'):
        manifests.load([tmp_path / "m.yaml"])


def test_a_pod_may_have_the_begin_of_a_name(tmp_path: Path) -> None:
    nameless = {**pod(), "metadata": {"generateName": "vfw-"}}
    first, second = load(tmp_path, nameless, nameless).pods
    for each in (first, second):
        assert each.raw["metadata"]["name"] == each.name
        assert re.fullmatch("vfw-[a-z0-9]{5}", each.name)
    assert first.name != second.name


def test_extended_resources_and_hugepages_are_counted(tmp_path: Path) -> None:
    limits = {"intel.com/b": "2", "intel.com/a": 1, "intel.com/none": 0, "hugepages-2Mi": "64Mi", "memory": "1Gi"}
    played = load(tmp_path, pod({"resources": {"limits": limits, "requests": {"cpu": "500m"}}})).pods[0]
    assert list(extended_resources(played.spec.containers[0]).items()) == [("intel.com/a", 1), ("intel.com/b", 2)]
    assert hugepages(played) == {"2Mi": 64 << 20}


def test_the_device_plugins_configuration_is_the_one_config_json(tmp_path: Path) -> None:
    pools = '{"resourceList": []}'
    both = [config_map("other", **{"config.json": "{}"}), config_map("pools", **{"config.json": pools})]
    assert load(tmp_path, *both).device_plugin() == pools
    assert load(tmp_path, pod()).device_plugin() == ""
    with pytest.raises(Error, match="ConfigMaps default/a and default/b: expected one device plugin conf"):
        load(tmp_path, *(config_map(name, **{"config.json": pools}) for name in "ab")).device_plugin()


def env(**variable: Any) -> Manifest:
    return pod({"env": [{"name": "V", **variable}]})


def volume(mount: Manifest | None = None, **kind: Any) -> Manifest:
    mounts = {"volumeMounts": [{"name": "v", "mountPath": "/v", **mount}]} if mount is not None else {}
    return pod(mounts, volumes=[{"name": "v", **kind}])


def limits(**amounts: Any) -> Manifest:
    return pod({"resources": {"limits": {key.replace("__", "/"): value for key, value in amounts.items()}}})


def probe(**keys: Any) -> Manifest:
    return pod({"readinessProbe": {"exec": {"command": ["true"]}, **keys}})


CONTAINER = 'Pod default/p: key "spec.containers[0]'
REFUSED: list[tuple[object, str]] = [
    ("text", "expected an object with kind and metadata, got 'text'"),
    ({"apiVersion": "v1"}, 'key "kind" is missing'),
    ({"kind": "List", "items": 3}, 'key "items": expected a list'),
    ({**pod(), "kind": "Deployment"}, 'key "kind": expected Pod, '),
    ({**pod(), "apiVersion": "v2"}, "Pod: key \"apiVersion\": expected v1, got 'v2'"),
    ({**pod(), "metadata": {"name": "A"}}, 'Pod: key "metadata.name": expected an object\'s name'),
    (
        {**pod(), "metadata": {"name": "p", "namespace": "a.b"}},
        'Pod p: key "metadata.namespace": expected a namespace',
    ),
    (
        {**pod(), "metadata": {"name": "p", "labels": {"a": 1}}},
        'Pod: key "metadata.labels',
    ),
    ({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}, 'Pod default/p: key "spec" is missing'),
    (pod(containers=[]), 'Pod default/p: key "spec.containers": expected at least one'),
    (
        pod(restartPolicy="always"),
        'Pod default/p: key "spec.restartPolicy": expected "Always", "OnFailure" or "Never", got \'always\'',
    ),
    (
        pod(restartpolicy="Never"),
        'Pod default/p: unknown key "spec.',
    ),
    (pod(hostNetwork=True), 'Pod default/p: key "spec.hostNetwork": `wirespeed play` does not'),
    (pod(hostPID=True), 'Pod default/p: key "spec.hostPID": `wirespeed play` does not'),
    (pod(shareProcessNamespace=True), 'Pod default/p: key "spec.shareProcessNamespace": `wirespeed play` does not'),
    (pod(ephemeralContainers=[{}]), 'Pod default/p: key "spec.ephemeralContainers": `wirespeed play` does not'),
    (pod(terminationGracePeriodSeconds=-1), 'key "spec.terminationGracePeriodSeconds": expected seconds from 0'),
    (
        pod({"name": "Main"}),
        f"{CONTAINER}.name\": expected lower-case letters, digits and -, at most 63, got 'Main'",
    ),
    (pod({"command": []}), f"{CONTAINER}.command\" is missing: expected a program of this machine's file system"),
    (pod({"command": "true"}), f"{CONTAINER}.command\": expected a list, got 'true'"),
    (pod({"comand": []}), 'unknown key "spec.containers[0].comand"; '),
    (pod({"workingDir": "tmp"}), f"{CONTAINER}.workingDir\": expected an absolute path, got 'tmp'"),
    (pod({"envFrom": [{}]}), f'{CONTAINER}.envFrom": `wirespeed play` does not'),
    (
        pod(initContainers=[{"name": "main", "command": ["true"]}]),
        "key \"spec.containers[0].name\": 'main' is there twice",
    ),
    (
        pod(initContainers=[{"name": "i", "command": ["true"], "resources": {"limits": {"a.b/c": 1}}}]),
        'key "spec.initContainers[0].resources": extended resources of init containers are not supported',
    ),
    (env(name="A=B"), f"{CONTAINER}.env[0].name\": expected a variable's name, got 'A=B'"),
    (env(value=1), f'{CONTAINER}.env[0].value": expected a string, got 1'),
    (
        env(value="a", valueFrom={"fieldRef": {"fieldPath": "metadata.name"}}),
        f'{CONTAINER}.env[0]": expected one of value',
    ),
    (env(valueFrom={"secretKeyRef": {}, "fieldRef": None}), f'{CONTAINER}.env[0]": expected one of value'),
    (
        env(valueFrom={"secretKeyRef": {"name": "s"}}),
        f'{CONTAINER}.env[0].valueFrom.secretKeyRef": `wirespeed play` does not',
    ),
    (
        env(valueFrom={"fieldRef": {"fieldPath": "status.hostIP"}}),
        f'{CONTAINER}.env[0].valueFrom.fieldRef.fieldPath": expected one of metadata.name, ',
    ),
    (
        env(valueFrom={"configMapKeyRef": {"name": "c", "key": "k"}}),
        "Pod default/p: container main: variable V: no key k in a ConfigMap default/c in the files",
    ),
    (
        pod({"securityContext": {"runasuser": 1}}),
        'unknown key "spec.containers[0].securityContext.runasuser"',
    ),
    (
        pod({"securityContext": {"capabilities": {"ad": []}}}),
        'unknown key "spec.containers[0].securityContext.capabilities.ad"',
    ),
    (
        pod(securityContext={"privileged": True}),
        'Pod default/p: unknown key "spec.securityContext.privileged"',
    ),
    (pod({"securityContext": {"runAsNonRoot": True}}), f'{CONTAINER}.securityContext.runAsNonRoot": expected'),
    (limits(hugepages="1MB"), f'{CONTAINER}.resources.limits.hugepages": expected a quantity like 2'),
    (limits(**{"hugepages-2Mi": "4Mi"}), f'{CONTAINER}.resources": expected cpu or memory beside hugepages-2Mi'),
    (limits(intel__x="0.5"), f'{CONTAINER}.resources.limits.intel/x": expected a whole number from 0'),
    (limits(Intel__x=1), f"{CONTAINER}.resources.limits.Intel/x\": prefix 'Intel'"),
    (
        pod({"resources": {"limits": {"a.b/c": 1}, "requests": {"a.b/c": 2}}}),
        f'{CONTAINER}.resources.limits["a.b/c"]": expected the same in limits and requests',
    ),
    (pod({"resources": {"claims": [{"name": "x"}]}}), f'{CONTAINER}.resources.claims": `wirespeed play` does not'),
    (probe(periodSeconds=0), f'{CONTAINER}.readinessProbe": expected periodSeconds and timeoutSeconds from 1'),
    (
        volume(emptyDir={}, hostPath={"path": "/"}),
        'key "spec.volumes[0]": expected one of emptyDir, hostPath, configMap, downwardAPI, projected, got ',
    ),
    (volume(emptydir={}), 'unknown key "spec.volumes[0].emptydir"; '),
    (
        volume(secret={"secretName": "s"}),
        'key "spec.volumes[0]": expected one of emptyDir, hostPath, configMap, downwardAPI, projected, got '
        "'secret'",
    ),
    (
        volume(emptyDir={"medium": "Disk"}),
        'key "spec.volumes[0].emptyDir.medium": expected Memory, HugePages or HugePages-',
    ),
    (
        volume(emptyDir={"medium": "HugePages"}),
        'emptyDir.medium": expected requests of hugepages of one size for HugePages, got None',
    ),
    (
        volume(emptyDir={"medium": "HugePages-1Gi"}),
        "expected a container that requests hugepages-1Gi for HugePages-1Gi",
    ),
    (volume(emptyDir={"sizeLimit": "big"}), 'key "spec.volumes[0].emptyDir.sizeLimit": expected a quantity'),
    (
        volume(hostPath={"path": "etc"}),
        "key \"spec.volumes[0].hostPath.path\": expected an absolute path, got 'etc'",
    ),
    (volume(hostPath={"path": "/etc/../root"}), 'key "spec.volumes[0].hostPath.path": expected an absolute path'),
    (
        volume(hostPath={"path": "/etc", "type": "Folder"}),
        'key "spec.volumes[0].hostPath.type": expected one of Directory',
    ),
    (volume(configMap={"name": "c"}), "Pod default/p: volume v: no ConfigMap default/c in the files"),
    (volume(configMap={"name": "c", "items": [{"key": "k"}]}), 'configMap.items[0].path" is missing'),
    (
        volume(configMap={"name": "c", "items": [{"key": "k", "path": "../k"}]}),
        "key \"spec.volumes[0].configMap.items[0].path\": expected a path in the volume, got '../k'",
    ),
    (
        volume(downwardAPI={"items": [{"path": "a", "fieldRef": {"fieldPath": "status.podIP"}}]}),
        'key "spec.volumes[0].downwardAPI.items[0].fieldRef.fieldPath": expected one of metadata.name, ',
    ),
    (
        volume(downwardAPI={"items": [{"path": "a"}]}),
        'key "spec.volumes[0].downwardAPI.items[0]": expected one of fieldRef and resourceFieldRef',
    ),
    (
        volume(downwardAPI={"items": [{"path": "a", "resourceFieldRef": {"resource": "limits.cpu"}}]}),
        "key \"spec.volumes[0].downwardAPI.items[0].resourceFieldRef.containerName\": expected one of main, got ''",
    ),
    (
        volume(downwardAPI={"items": [{"path": "a", "mode": 0o1777, "fieldRef": {"fieldPath": "metadata.name"}}]}),
        'key "spec.volumes[0].downwardAPI.items[0].mode": expected permissions from 0 to 0777, got 0o1777',
    ),
    (
        volume(projected={"sources": [], "defaultMode": 0o1777}),
        'key "spec.volumes[0].projected.defaultMode": expected permissions from 0 to 0777, got 0o1777',
    ),
    (
        volume(projected={"sources": [{"secret": {"name": "s"}}]}),
        'key "spec.volumes[0].projected.sources[0]": expected one of configMap, downwardAPI, serviceAccountToken, '
        "got 's",
    ),
    (
        volume(projected={"sources": [{"configMap": {"name": "c"}}]}),
        "Pod default/p: volume v: no ConfigMap default/c in the files",
    ),
    (
        env(valueFrom={"resourceFieldRef": {"resource": "cpu"}}),
        f'{CONTAINER}.env[0].valueFrom.resourceFieldRef.resource": expected limits or requests of cpu, ',
    ),
    (
        env(valueFrom={"resourceFieldRef": {"resource": "limits.cpu", "divisor": "x"}}),
        f'{CONTAINER}.env[0].valueFrom.resourceFieldRef.divisor": expected a quantity like',
    ),
    (volume({"name": "w"}, emptyDir={}), f"{CONTAINER}.volumeMounts[0].name\": no volume 'w' in spec.volumes"),
    (volume({"mountPath": "v"}, emptyDir={}), f'{CONTAINER}.volumeMounts[0].mountPath": expected an absolute path'),
    (
        volume({"mountPath": "/v/../.."}, emptyDir={}),
        f'{CONTAINER}.volumeMounts[0].mountPath": expected an absolute',
    ),
    (volume({"subPath": "a"}, emptyDir={}), f'{CONTAINER}.volumeMounts[0].subPath": `wirespeed play` does not'),
    (network(3), 'NetworkAttachmentDefinition default/n: key "spec.config": expected a string, got 3'),
    (network("{"), 'NetworkAttachmentDefinition default/n: key "spec.config": not JSON'),
    (
        network('{"cniVersion": "1.0.0"}'),
        'default/n: key "spec.config": network n: expected the key "type" or the key "plugins"',
    ),
    ({**config_map(), "data": {"a": 1}}, 'ConfigMap default/c: key "data'),
]


@pytest.mark.parametrize(("document", "told"), REFUSED, ids=[told[-60:] for _, told in REFUSED])
def test_what_cannot_be_played_is_refused_with_its_place(tmp_path: Path, document: object, told: str) -> None:
    with pytest.raises(Error) as refused:
        load(tmp_path, document)
    assert refused.value.kind == Kind.INVALID_CONFIG
    assert refused.value.msg.startswith(f"{tmp_path / 'm.yaml'}, document 1: ")
    assert told in refused.value.msg


# Valid in Kubernetes, but not supported by `wirespeed play`.
NOT_DONE = (
    *(
        "`wirespeed play` does not",
        "expected a program of this",
        "is not played",
        "got 'secret'",
        'mountPath": expected an absolute',
    ),
    *(
        "of init containers are not supported",
        'valueFrom.fieldRef.fieldPath": expected one of',
        "expected one of configMap, downwardAPI, serviceAccountToken",
        "in the files",
        "and timeoutSeconds from 1",
        'runAsNonRoot": expected',
    ),
)


@pytest.mark.parametrize(("document", "told"), REFUSED, ids=[told[-60:] for _, told in REFUSED])
def test_an_object_by_itself_is_refused_for_what_kubernetes_refuses_too(document: Any, told: str) -> None:
    if not isinstance(document, dict) or document.get("kind") not in manifests.VERSIONS:
        return
    if any(text in told for text in NOT_DONE):
        manifests.check(document)
    else:
        with pytest.raises(Error, match=re.escape(told)):
            manifests.check(document)


MODELS = {
    "V1PodSpec": objects.PodSpec,
    "V1Container": objects.Container,
    "V1EnvVar": objects.EnvVar,
    "V1EnvVarSource": objects.ValueFrom,
    "V1Probe": objects.Probe,
    "V1ResourceRequirements": objects.Resources,
    "V1VolumeMount": objects.VolumeMount,
    "V1EmptyDirVolumeSource": objects.EmptyDir,
    "V1HostPathVolumeSource": objects.HostPath,
    "V1ConfigMapVolumeSource": objects.ConfigMapVolume,
}


@pytest.mark.parametrize("model", MODELS)
def test_every_key_that_kubernetes_has_is_known(model: str) -> None:
    known = set(MODELS[model].__struct_encode_fields__)
    assert set(getattr(models, model).attribute_map.values()) == known


def test_every_kind_of_volume_that_kubernetes_has_is_known() -> None:
    assert set(manifests.KINDS_OF_VOLUMES) == {*models.V1Volume.attribute_map.values()} - {"name"}


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("m.yaml", "a: [", "m.yaml, document 1 in line 2: not YAML: "),
        ("m.yaml", "---\nkind: List\nitems: []\n---\n\tx: 1", "m.yaml, document 2 in line 5: not YAML: "),
        ("m.json", '{"a": ', "m.json, document 1: not JSON: "),
        ("none.yaml", None, "none.yaml: No such file or directory"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, name: str, text: str | None, told: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(Error) as refused:
        manifests.load([tmp_path / name])
    assert told in refused.value.msg


def test_an_empty_folder_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(Error, match=r"expected \*\.yaml, \*\.yml or \*\.json files in that directory"):
        manifests.load([tmp_path])


def test_an_object_that_is_there_twice_is_refused_with_both_places(tmp_path: Path) -> None:
    with pytest.raises(Error, match=r"Pod default/p: it is defined twice: .*document 1 and .*document 2"):
        load(tmp_path, pod(), pod())


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ["containers", "name", "command", "volumes", "env", "resources", "emptyDir", "limits"]
                ),
                inner,
            )
        ),
        max_leaves=12,
    )
)
def test_no_spec_raises_anything_but_a_refusal(tmp_path_factory: pytest.TempPathFactory, spec: object) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzzed.json"
    file.write_text(json.dumps({**pod(), "spec": spec}))
    try:
        manifests.load([file])
    except Error as error:
        assert error.kind == Kind.INVALID_CONFIG


# Pools from a file


POOLS = {"resourceList": [{"resourceName": "left", "selectors": {"vendors": ["8086"]}}]}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(POOLS),
        "# values of the chart\nlogLevel: info\npools:\n  - {resourceName: left, selectors: {vendors: ['8086']}}\n",
    ],
)
def test_pools_are_those_of_the_device_plugins_file_or_of_the_charts_values(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.json").write_text(json.dumps(pod()))
    (tmp_path / "values.yaml").write_text(text)
    loaded = manifests.load([tmp_path / "m.json"], pools=tmp_path / "values.yaml")
    assert json.loads(loaded.device_plugin()) == POOLS


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "values.yaml: it is empty; expected pools"),
        (
            "logLevel: info",
            r"values.yaml, document 1: expected the key .resourceList., or the chart's values with a list",
        ),
        (
            "pools: left",
            r"values.yaml, document 1: expected the key .resourceList., or the chart's values with a list",
        ),
        (
            "- pools: []",
            r"values.yaml, document 1: expected the key .resourceList., or the chart's values with a list",
        ),
        ("pools: [", "values.yaml, document 1( in line [0-9]+)?: not YAML"),
    ],
)
def test_a_file_without_pools_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "values.yaml").write_text(text)
    with pytest.raises(Error, match=told) as raised:
        manifests.load([], pools=tmp_path / "values.yaml")
    assert raised.value.kind == Kind.INVALID_CONFIG


def test_pools_are_said_once(tmp_path: Path) -> None:
    (tmp_path / "pools.json").write_text(json.dumps(POOLS))
    (tmp_path / "m.json").write_text(json.dumps(config_map("sriovdp-config", **{"config.json": json.dumps(POOLS)})))
    loaded = manifests.load([tmp_path / "m.json"], pools=tmp_path / "pools.json")
    with pytest.raises(Error, match="ConfigMap default/sriovdp-config: expected no device plugin configuration"):
        loaded.device_plugin()

"""`wirespeed check`: its findings, their line numbers, and that it reports something for any file."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.test_play_manifests import NOT_DONE, REFUSED
from wirespeed.cli.checks import files, places
from wirespeed.cli.main import main
from wirespeed.errors import Error
from wirespeed.play import manifests
from wirespeed.provision import policy


def run(folder: Path, *arguments: str, **contents: str | bytes) -> Result:
    """Run the command on these files. Keywords are file names with "__" for the dot: {name}__conf="..."."""
    paths = []
    for name, content in contents.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else textwrap.dedent(content).encode())
        paths.append(str(path))
    return CliRunner().invoke(main, ["check", *arguments, *paths], catch_exceptions=False)


def said(folder: Path, **contents: str | bytes) -> list[str]:
    """The findings, without the directory before file names."""
    return run(folder, **contents).stdout.replace(f"{folder}/", "").splitlines()


# CNI configurations


def test_every_mistake_of_a_configuration_is_told_on_its_line(tmp_path: Path) -> None:
    conf = """\
        {
          "cniVersion": "1.0.0",
          "name": "net",
          "type": "wirespeed-sriov",
          "deviceID": "0000:01:00.0",
          "vlan": 5000,
          "vlanQoS": 3,
          "spoofchk": true,
          "vlam": 1,
          "ipam": {
            "type": "host-local",
            "subnet": "10.1.0.0/16",
            "rangeStart": "10.2.0.1",
            "dataDir": "leases"
          }
        }
        """
    assert said(tmp_path, net__conf=conf) == [
        'net.conf:6: error: key "vlan": expected an integer from 0 to 4094, got 5000',
        'net.conf:8: error: key "spoofchk": expected "on" or "off", got True',
        'net.conf:9: error: unknown key "vlam"; did you mean "vlan"?',
        "net.conf:13: error: key \"ipam.rangeStart\": expected an address of 10.1.0.0/16, got '10.2.0.1'",
        "net.conf:14: error: key \"ipam.dataDir\": expected an absolute path, got 'leases'",
    ]


def test_what_a_peer_ignores_is_a_warning_as_is_a_device_that_only_a_pod_has(tmp_path: Path) -> None:
    conf = '{"cniVersion": "1.0.0", "name": "net", "type": "sriov",\n "VLAN": 5, "vlam": 1, "loglevel": "debug"}'
    result = run(tmp_path, net__conf=conf)
    assert result.exit_code == 0
    assert [line.partition("warning: ")[2][:60] for line in result.stdout.splitlines()] == [
        'key "deviceID" is missing: expected the PCI address of a VF;',
        'network configuration of type sriov: unknown key "vlam": it ',
    ]


def test_a_list_is_told_of_by_plugin(tmp_path: Path) -> None:
    conflist = """\
        {
          "cniVersion": "1.9.0",
          "name": "net/1",
          "plugins": [
            {"type": "bridge", "ipam": {"type": "static",
              "addresses": [{"address": "10.0.0.1"}]}},
            {"typ": "tuning"},
            {"type": "portmap", "capabilities": {"portMappings": "yes"}},
            7
          ]
        }
        """
    assert said(tmp_path, net__conflist=conflist) == [
        'net.conflist:2: error: key "cniVersion": expected one of 0.1.0, 0.2.0, 0.3.0, 0.3.1, '
        "0.4.0, 1.0.0, 1.1.0, got '1.9.0'",
        "net.conflist:3: error: key \"name\": expected letters, digits, _ . - after a letter or digit, got 'net/1'",
        'net.conflist:6: warning: key "ipam.addresses[0].address": expected an address with prefix length, '
        "got '10.0.0.1'",
        'net.conflist:7: error: key "plugins[1].type" is missing: expected the name of a plugin',
        'net.conflist:8: error: key "plugins[2].capabilities": expected an object of true and false, '
        "got {'portMappings': 'yes'}",
        'net.conflist:9: error: key "plugins[3]": expected an object, got 7',
    ]


def test_the_meta_plugins_configuration_is_told_of_with_the_networks_in_it(tmp_path: Path) -> None:
    conf = """\
        {
          "cniVersion": "1.0.0", "name": "cluster", "type": "wirespeed",
          "namespaceIsolation": "yes",
          "clusterNetwrk": "main",
          "delegates": [
            {"type": "bridge"},
            {"name": "second", "cniVersion": "0.1.9", "type": "ptp"}
          ],
          "confDir": "net.d"
        }
        """
    assert said(tmp_path, a__conf=conf) == [
        "a.conf:3: error: key \"namespaceIsolation\": expected true or false, got 'yes'",
        'a.conf:4: error: unknown key "clusterNetwrk"; did you mean "clusterNetwork"?',
        'a.conf:6: error: key "delegates[0].name" is missing',
        'a.conf:7: error: key "cniVersion": expected one of 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, '
        "1.0.0, 1.1.0, got '0.1.9'",
        "a.conf:9: error: key \"confDir\": expected an absolute path, got 'net.d'",
    ]


@pytest.mark.parametrize(
    "delegate", [{"type": "bridge"}, {"plugins": [{"type": "bridge"}]}, {"name": "", "type": "a"}]
)
def test_a_delegate_has_a_name_also_where_it_is_a_list(tmp_path: Path, delegate: dict[str, Any]) -> None:
    """Multus accepts such a configuration, but libcni then rejects every pod."""
    conf = {
        "cniVersion": "1.0.0",
        "name": "cluster",
        "type": "multus",
        "delegates": [{**delegate, "cniVersion": "1.0.0"}],
    }
    assert said(tmp_path, a__conf=json.dumps(conf)) == ['a.conf:1: error: key "delegates[0].name" is missing']
    found = said(tmp_path, a__conf=json.dumps({**conf, "clusterNetwork": "main"}))
    assert found == [
        'a.conf:1: warning: key "delegates": it must not be combined with "clusterNetwork"; it has no effect'
    ]


def test_a_vhost_configuration_is_told_of_by_path(tmp_path: Path) -> None:
    conf = """\
        {"cniVersion": "1.0.0", "name": "net", "type": "wirespeed-vhost",
          "host": {
            "engine": "ovs-dpdk",
            "iftype": "memif",
            "queus": 4}}
        """
    assert said(tmp_path, net__conf=conf) == [
        'net.conf:4: error: key "host.iftype": expected "vhostuser" with engine ovs-dpdk, got \'memif\'',
        'net.conf:5: error: unknown key "host.queus"; did you mean "queues"?',
    ]


def test_what_is_no_json_is_told_where_it_ends_to_be(tmp_path: Path) -> None:
    assert said(
        tmp_path, a__conf='{\n  "name": "net",\n  "type" "x"\n}\n', b__conf='{"type": "x"\n', c__json=""
    ) == [
        "a.conf:3: error: not JSON: expecting ':' delimiter",
        "b.conf:2: error: not JSON: expecting ',' delimiter: the { of line 1 is not closed",
        "c.json:1: error: not JSON: expecting value",
    ]


def test_a_key_that_is_there_twice_is_a_warning(tmp_path: Path) -> None:
    conf = '{"cniVersion": "1.0.0",\n "name": "net", "type": "ptp",\n "name": "net2"}'
    manifest = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  name: b\nspec: {containers: [{name: c}]}\n"
    text = 'key "name" is there twice in one object: the last one counts'
    assert said(tmp_path, a__conf=conf, b__yaml=manifest) == [
        f"a.conf:3: warning: {text}",
        f"b.yaml:5: warning: {text}",
    ]


# Manifests

NETWORKS = """\
    apiVersion: k8s.cni.cncf.io/v1
    kind: NetworkAttachmentDefinition
    metadata:
      name: vf
      annotations: {k8s.v1.cni.cncf.io/resourceName: intel.com/vf}
    spec:
      config: '{"cniVersion": "1.0.0", "type": "sriov", "ipam": {"type": "static"}}'
    ---
    apiVersion: k8s.cni.cncf.io/v1
    kind: NetworkAttachmentDefinition
    metadata: {name: tap}
    spec:
      config: '{"cniVersion": "1.0.0", "type": "bridge"}'
    """


def definition(config: str) -> str:
    head = (
        "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: a}\nspec:\n  config: "
    )
    return head + config


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ('|\n\n    {\n      "type": "sriov",\n      "vlan": 5000\n    }\n', 9),
        ('>-\n    {\n      "type": "sriov",\n      "vlan": 5000\n    }\n', 8),
        ('\'{"type": "sriov",\n      "vlan": 5000}\'\n', 6),
        ('"{\\"type\\": \\"sriov\\",\\n\n      \\"vlan\\": 5000}"\n', 6),
        ('"{\\"type\\": \\"sriov\\",\\n \\"vlan\\": 5000}"\n', 5),
    ],
    ids=["literal", "folded", "single quoted", "double quoted", "one line"],
)
def test_a_definitions_configuration_is_told_of_on_the_files_lines(tmp_path: Path, config: str, line: int) -> None:
    found = [each for each in said(tmp_path, a__yaml=definition(config)) if "vlan" in each]
    assert found == [f'a.yaml:{line}: error: key "vlan": expected an integer from 0 to 4094, got 5000']


def test_a_definition_that_no_pod_could_use_is_an_error(tmp_path: Path) -> None:
    manifest = """\
        apiVersion: k8s.cni.cncf.io/v1
        kind: NetworkAttachmentDefinition
        metadata:
          name: a
          annotations:
            k8s.v1.cni.cncf.io/resourceName: sriov_nic_1
        spec:
          config: |
            {"type": "ptp",
             "plugins": [}
        ---
        apiVersion: k8s.cni.cncf.io/v1
        kind: NetworkAttachmentDefinition
        metadata:
          name: A_b
        ---
        apiVersion: k8s.cni.cncf.io/v1beta1
        kind: NetworkAttachmentDefinition
        ---
        apiVersion: k8s.cni.cncf.io/v1
        kind: NetworkAttachmentDefinition
        metadata: {name: a}
        """
    assert said(tmp_path, a__yaml=manifest) == [
        'a.yaml:10: error: NetworkAttachmentDefinition default/a: key "spec.config": not JSON: expecting value: '
        "the [ of line 10 is not closed",
        'a.yaml:15: error: NetworkAttachmentDefinition: key "metadata.name": expected an object\'s name '
        "(lower-case letters, digits, - and ., at most 253), got 'A_b'",
        'a.yaml:17: error: NetworkAttachmentDefinition: key "apiVersion": expected k8s.cni.cncf.io/v1, '
        "got 'k8s.cni.cncf.io/v1beta1'",
        "a.yaml:20: error: NetworkAttachmentDefinition default/a is there twice: a.yaml:1 has it too",
        'a.yaml:20: warning: NetworkAttachmentDefinition default/a: key "spec.config": expected a CNI '
        "configuration; without one, the configuration of the name 'a' on the node is used",
    ]


def pod(annotation: str, limits: str = "", **spec: str) -> str:
    more = "".join(f"\n  {key}: {value}" for key, value in spec.items())
    return (
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  annotations:\n"
        f"    k8s.v1.cni.cncf.io/networks: {annotation}\n"
        f"spec:\n  containers:\n    - name: c\n      resources: {{limits: {{{limits}}}}}{more}\n"
    )


def test_the_short_form_is_told_of_by_item(tmp_path: Path) -> None:
    annotation = "|\n      tap, vf@a/b,\n      tap@net-with-a-long-name,\n      default/tap/x,\n"
    expected = "expected an interface name (1 to 15 letters, digits, _ . -, not lo)"
    where = "annotation k8s.v1.cni.cncf.io/networks"
    assert said(tmp_path, a__yaml=pod(annotation), n__yaml=NETWORKS) == [
        f"a.yaml:7: error: {where}: element 2: key \"interface\": {expected}, got 'a/b'",
        f"a.yaml:8: error: {where}: element 3: key \"interface\": {expected}, got 'net-with-a-long-name'",
        f"a.yaml:9: error: {where}: element 4: expected [<namespace>/]<name>[@<interface>], got 'default/tap/x'",
        f"a.yaml:9: error: {where}: element 5: expected [<namespace>/]<name>[@<interface>], got ''",
    ]


def test_the_json_form_is_told_of_by_element_and_key(tmp_path: Path) -> None:
    annotation = """|
      [
        {"name": "tap", "interfce": "a", "mac": "zz"},
        {"name": "tap", "portMappings": [{"hostPort": 80, "containerPort": 80},
          {"hostPort": 99999, "containerPort": 80}]},
        {"nam": "tap"},
        "tap"
      ]
"""
    where = "annotation k8s.v1.cni.cncf.io/networks"
    assert said(tmp_path, a__yaml=pod(annotation)) == [
        f'a.yaml:8: error: {where}: element 1 (default/tap): key "mac": expected a unicast MAC address like '
        "02:00:00:00:00:01, got 'zz'",
        f'a.yaml:8: warning: {where}: element 1 (default/tap): unknown key "interfce": it has no effect; '
        'did you mean "interface"?',
        "a.yaml:8: warning: network default/tap: none of the files has this NetworkAttachmentDefinition",
        "a.yaml:9: warning: network default/tap: none of the files has this NetworkAttachmentDefinition",
        f'a.yaml:10: error: {where}: element 2 (default/tap): key "portMappings[1].hostPort": '
        "expected an integer from 1 to 65535, got 99999",
        f'a.yaml:11: error: {where}: element 3: key "name" is missing',
        f'a.yaml:11: warning: {where}: element 3 (default/unknown): unknown key "nam": it has no effect; '
        'did you mean "name"?',
        f"a.yaml:12: error: {where}: element 4: expected an object, got 'tap'",
    ]


def test_keys_of_the_annotation_are_read_in_any_case(tmp_path: Path) -> None:
    annotation = """|
      [{"Name": "vf", "Mac": "02:00:00:00:00:01",
        "gateway": ["10.1.1.1"]},
       {"NAME": "tap", "MAC": 7}]
"""
    where = "annotation k8s.v1.cni.cncf.io/networks"
    assert said(tmp_path, a__yaml=pod(annotation, "intel.com/vf: 1"), n__yaml=NETWORKS) == [
        f'a.yaml:8: warning: {where}: element 1 (default/vf): unknown key "gateway": it has no effect; '
        'did you mean "default-route"?',
        f'a.yaml:9: error: {where}: element 2 (default/tap): key "mac": expected a unicast MAC address like '
        "02:00:00:00:00:01, got 7",
    ]


def test_an_annotation_that_is_no_json_list_is_an_error(tmp_path: Path) -> None:
    where = "annotation k8s.v1.cni.cncf.io/networks"
    other = pod('\'{"name": "a"}\'').replace("name: web", "name: other")
    assert said(tmp_path, a__yaml=pod('\'[{"name": "a"\n      "mac"}]\''), b__yaml=other) == [
        f"a.yaml:7: error: {where}: not JSON: expecting ',' delimiter",
        f"b.yaml:6: error: {where}: the JSON form: expected a list of objects, got {{'name': 'a'}}",
    ]


def test_a_network_of_the_files_own_namespaces_must_be_there_another_may_be_in_the_cluster(tmp_path: Path) -> None:
    missing = "none of the files has this NetworkAttachmentDefinition"
    annotation = "tpa, kube-system/mgmt, tap"
    assert said(tmp_path, a__yaml=pod(annotation), n__yaml=NETWORKS) == [
        f'a.yaml:6: error: network default/tpa: {missing}; did you mean "default/tap"?',
        f"a.yaml:6: warning: network kube-system/mgmt: {missing}",
    ]


def test_what_no_plugin_of_the_network_takes_is_an_error(tmp_path: Path) -> None:
    annotation = """|
      [{"name": "tap", "mac": "02:00:00:00:00:01",
        "ips": ["10.0.0.1/24"]},
       {"name": "vf", "mac": "02:00:00:00:00:02", "ips": ["10.0.0.2/24"]}]
"""
    found = said(tmp_path, a__yaml=pod(annotation, "intel.com/vf: 1"), n__yaml=NETWORKS)
    text = 'network default/tap (net1): key "{0}": no plugin of the network has the capability for it; expected '
    text += '"capabilities": {{"{0}": true}} in the configuration of one, or "lenientCapabilities": ["{0}"] in the '
    text += "meta-plugin's (autoconf.meta of agent.yaml)"
    assert found == [f"a.yaml:7: error: {text.format('mac')}", f"a.yaml:8: error: {text.format('ips')}"]


LENIENT = {
    "agent": "autoconf: {meta: {lenientCapabilities: [mac, ips]}}\n",
    "own": """type: wirespeed
name: n
cniVersion: 1.0.0
clusterNetwork: /etc/cni/net.d/10-cbr0.conflist
lenientCapabilities: [ips, mac]
""",
    "multus": """cniVersion: 1.0.0
name: n
plugins: [{type: multus, clusterNetwork: /etc/cni/net.d/10-cbr0.conflist}]
""",
    "daemon": """apiVersion: v1
kind: ConfigMap
metadata: {name: multus-daemon-config, namespace: kube-system}
data:
  daemon-config.json: '{"cniVersion": "1.0.0", "multusConfigFile": "auto"}'
""",
}


@pytest.mark.parametrize("kind", LENIENT)
def test_what_the_clusters_configuration_lets_pods_ask_for_is_no_error(tmp_path: Path, kind: str) -> None:
    text = LENIENT[kind]
    if kind in ("own", "multus"):  # the runtime reads these as JSON
        text = json.dumps(yaml.safe_load(text))
    annotation = """|
      [{"name": "tap", "mac": "02:00:00:00:00:01", "ips": ["10.0.0.1/24"]}]
"""
    assert len(said(tmp_path, a__yaml=pod(annotation), n__yaml=NETWORKS)) == 2
    assert said(tmp_path, a__yaml=pod(annotation), n__yaml=NETWORKS, c__yaml=text) == []


@pytest.mark.parametrize(
    ("annotation", "limits", "expected"),
    [
        ("vf, vf", "intel.com/vf: 2", []),
        ("vf, vf", "intel.com/vf: 1", ["all 1 are attached already"]),
        ("vf", "intel.com/vf: 0", ["it was given none"]),
        ("vf", 'intel.com/vf: "1", hugepages-1Gi: 2Gi, memory: 64Gi', []),
        ("tap@net2, tap", "", ["network default/tap and network default/tap would both be interface net2"]),
        ("tap@a, tap@a", "", ["network default/tap and network default/tap would both be interface a"]),
        ("tap@eth0", "", ["network primary and network default/tap would both be interface eth0"]),
    ],
)
def test_networks_of_one_pod_must_get_on_with_each_other(
    tmp_path: Path, annotation: str, limits: str, expected: list[str]
) -> None:
    found = said(tmp_path, a__yaml=pod(annotation, limits), n__yaml=NETWORKS)
    assert len(found) == len(expected)
    assert all(
        line.startswith("a.yaml:6: error: ") and text in line for line, text in zip(found, expected, strict=True)
    )


def test_a_resource_may_have_any_name_and_is_no_device_to_a_network_without_use_for_one(tmp_path: Path) -> None:
    counted = "annotations: {k8s.v1.cni.cncf.io/resourceName: bridge.kubevirt.io/br0}"
    networks = textwrap.dedent(NETWORKS).replace("intel.com/vf", "sriov_nic_1")
    networks = networks.replace("{name: tap}", f"{{name: tap, {counted}}}")
    (found,) = said(tmp_path, a__yaml=pod("vf, tap, tap"), n__yaml=networks)
    assert found.startswith("a.yaml:6: warning: network default/vf: no device of resource sriov_nic_1 is left for ")
    assert said(tmp_path, a__yaml=pod("tap", "bridge.kubevirt.io/br0: 1"), n__yaml=networks) == []
    claiming = pod("vf, tap", resourceClaims="[{name: vfs, resourceClaimName: vfs}]")
    assert said(tmp_path, a__yaml=claiming, n__yaml=networks) == []


def test_configurations_without_a_version_and_of_the_oldest_are_read(tmp_path: Path) -> None:
    conf = '{"name": "n", "type": "bridge"%s}'
    multus = '{"name": "multus-cni-network", "type": "multus", "delegates": [{"name": "d", "type": "bridge"}]}'
    assert said(tmp_path, a__conf=conf % "", b__conf=conf % ', "cniVersion": "0.2.0"', c__conf=multus) == []


def test_a_pod_with_claims_may_have_its_devices_from_them(tmp_path: Path) -> None:
    claiming = pod("vf, vf", resourceClaims="[{name: vfs, resourceClaimName: vfs}]")
    assert said(tmp_path, a__yaml=claiming, n__yaml=NETWORKS) == []


def test_a_name_may_be_left_to_the_api_server(tmp_path: Path) -> None:
    manifest = pod("tap").replace("name: web", "generateName: web-")
    assert said(tmp_path, a__yaml=manifest, n__yaml=NETWORKS) == []


def test_devices_that_are_asked_for_by_id_count(tmp_path: Path) -> None:
    annotation = '\'[{"name": "vf", "deviceID": "0000:01:00.1"}, {"name": "vf"}]\''
    assert said(tmp_path, a__yaml=pod(annotation, "intel.com/vf: 2"), n__yaml=NETWORKS) == []
    (found,) = said(tmp_path, a__yaml=pod(annotation, "intel.com/vf: 1"), n__yaml=NETWORKS)
    assert "no device of resource intel.com/vf is left" in found


def test_only_one_network_has_the_default_route(tmp_path: Path) -> None:
    annotation = """|
      [{"name": "tap", "default-route": ["10.0.0.1"]},
       {"name": "tap",
        "default-route": []}]
"""
    assert said(tmp_path, a__yaml=pod(annotation), n__yaml=NETWORKS) == [
        "a.yaml:9: error: "
        'key "default-route": only one network may have it, but network default/tap (net1) and '
        "network default/tap (net2) have it"
    ]


def test_another_master_is_one_network_that_the_runtime_names(tmp_path: Path) -> None:
    manifest = pod("tap").replace(
        "networks: tap", "networks: tap\n    v1.multus-cni.io/default-network: default/tap@x"
    )
    assert said(tmp_path, a__yaml=manifest, n__yaml=NETWORKS) == [
        "a.yaml:7: error: network default/tap: key \"interface\": expected eth0, the runtime's name for the pod's "
        "first interface, got 'x'"
    ]


@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet", "StatefulSet", "Job", "CronJob"])
def test_what_makes_pods_is_told_of_like_a_pod(tmp_path: Path, kind: str) -> None:
    template = {
        "metadata": {"annotations": {"k8s.v1.cni.cncf.io/networks": "vf, other"}},
        "spec": {"containers": [{"name": "c"}]},
    }
    spec: dict[str, Any] = {"template": template}
    if kind == "CronJob":
        spec = {"jobTemplate": {"spec": spec}}
    manifest = {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "web"}, "spec": spec}
    found = said(tmp_path, a__json=json.dumps(manifest), n__yaml=NETWORKS)
    assert len(found) == 2
    assert "network default/other: none of the files has this" in found[0]
    assert "no device of resource intel.com/vf is left for pod default/web: it was given none" in found[1]
    assert found[1].endswith("; ignore this if a network resources injector adds it")
    assert " warning: " in found[1]


def test_a_list_of_objects_is_its_items(tmp_path: Path) -> None:
    item = json.dumps({"metadata": {"name": "a"}, "spec": {"config": '{"type": ""}'}})
    manifest = (
        f'{{"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinitionList",\n"items": [\n{item}]}}'
    )
    assert said(tmp_path, a__json=manifest) == ['a.json:3: error: expected the key "type" or the key "plugins"']


def test_a_file_is_read_as_kubernetes_reads_it(tmp_path: Path) -> None:
    """Unquoted addresses are strings, keys without a value are absent, lists contain objects."""
    manifest = """\
        apiVersion: v1
        kind: List
        items:
        - apiVersion: sriovnetwork.openshift.io/v1
          kind: SriovNetworkNodePolicy
          metadata: {name: default, creationTimestamp: null}
          spec: {resourceName: "", nicSelector: {}, nodeSelector: {}, numVfs: 0}
        - apiVersion: sriovnetwork.openshift.io/v1
          kind: SriovNetworkNodePolicy
          metadata: {name: mine, creationTimestamp: 2024-05-01T10:00:00Z}
          spec:
            mtu:
            nodeSelector:
            nicSelector: {rootDevices: [0000:18:00.0], vendor: }
            resourceName: nics
            numVfs: 1e1
            priority: 200
        - apiVersion: v1
          kind: PodList
          items:
          - metadata: {name: web, annotations: {k8s.v1.cni.cncf.io/networks: , built: 2024-05-01}}
            spec: {containers: [{name: main, image: i, resources: }], volumes: ~}
          - metadata: {name: other, annotations: {k8s.v1.cni.cncf.io/networks: tip}}
            spec: {containers: [{name: main, image: i}]}
        """
    found = said(tmp_path, a__yaml=manifest, n__yaml=NETWORKS)
    assert found[0] == (
        'a.yaml:17: error: policy mine: key "spec.priority": expected an integer from 0 to 99, got 200'
    )
    assert [line.partition(": ")[0] for line in found] == ["a.yaml:17", "a.yaml:23"]


def test_merged_keys_have_their_place_and_may_be_there_twice(tmp_path: Path) -> None:
    manifest = """\
        apiVersion: sriovnetwork.openshift.io/v1
        kind: SriovNetworkNodePolicy
        metadata: {name: mine}
        spec:
          resourceName: nics
          nicSelector: &nics
            vendor: "8086"
            deviceId: 158b
          numVfs: 2
        ---
        apiVersion: sriovnetwork.openshift.io/v1
        kind: SriovNetworkNodePolicy
        metadata: {name: other}
        spec:
          <<: &rest
            resourceName: nics
            numVfs: 0
          <<: {nicSelector: {vendor: "15b3"}}
        """
    found = said(tmp_path, a__yaml=manifest)
    assert [line.split(" error")[0] for line in found] == ["a.yaml:8:", "a.yaml:17:"], found


def test_objects_that_have_no_networks_are_passed_over(tmp_path: Path) -> None:
    result = run(tmp_path, a__yaml="apiVersion: v1\nkind: Service\nmetadata: {}\n---\n---\n", b__yaml="")
    assert (result.exit_code, result.stdout, result.stderr) == (
        0,
        "",
        "0 documents: 0 errors, 0 warnings; not read: 1 Service\n",
    )


def test_a_device_that_a_webhook_would_ask_for_is_a_warning(tmp_path: Path) -> None:
    (found,) = said(tmp_path, a__yaml=pod("vf", "intel.com/other: 1"), n__yaml=NETWORKS)
    assert found.startswith("a.yaml:6: warning: ")
    assert found.endswith("; ignore this if a network resources injector adds it")


@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet", "StatefulSet", "ReplicaSet", "Job", "CronJob"])
def test_networks_asked_of_what_makes_pods_are_not_its_pods(tmp_path: Path, kind: str) -> None:
    steps = ["spec", "jobTemplate", "spec", "template"] if kind == "CronJob" else ["spec", "template"]
    inside: dict[str, Any] = {"metadata": {}, "spec": {"containers": [{"name": "c"}]}}
    for step in reversed(steps):
        inside = {step: inside}
    manifest = {
        "apiVersion": "batch/v1" if "Job" in kind else "apps/v1",
        "kind": kind,
        "metadata": {"name": "web", "annotations": {"k8s.v1.cni.cncf.io/networks": "vf"}},
        **inside,
    }
    where = ".".join(steps)
    text = (
        f"annotation k8s.v1.cni.cncf.io/networks of the {kind} itself is not read: its pods have those of "
        f"{where}.metadata.annotations"
    )
    assert said(tmp_path, a__json=json.dumps(manifest, indent=1)) == [f"a.json:7: error: {text}"]
    pods = inside["spec"]["jobTemplate"]["spec"]["template"] if kind == "CronJob" else inside["spec"]["template"]
    pods["metadata"]["annotations"] = {"k8s.v1.cni.cncf.io/networks": "tap"}
    assert said(tmp_path, a__json=json.dumps(manifest, indent=1), n__yaml=NETWORKS) == [
        f"a.json:7: warning: {text}"
    ]


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        (
            "annotations: {k8s.v1.cni.cncf.io/network: a}",
            "annotation k8s.v1.cni.cncf.io/network is not read: expected ",
        ),
        (
            "annotations: {k8s.v1.cni.cncf/networks: a}",
            "annotation k8s.v1.cni.cncf/networks is not read: expected ",
        ),
        (
            "annotations: {k8s.v1.cni.cncf.io/Networks: a}",
            "annotation k8s.v1.cni.cncf.io/Networks is not read: exp",
        ),
        (
            "annotations: {k8s.cni.cncf.io/networks: a}",
            "annotation k8s.cni.cncf.io/networks is not read: expected k8s",
        ),
        (
            "labels: {k8s.v1.cni.cncf.io/networks: a}",
            "label k8s.v1.cni.cncf.io/networks is not read: expected the anno",
        ),
        (
            "annotations: {v1.multus-cni.io/default-networks: a}",
            "annotation v1.multus-cni.io/default-networks is not read: expected v1.multus-cni.io/default-network",
        ),
        (
            "k8s.v1.cni.cncf.io/networks: a",
            "metadata.k8s.v1.cni.cncf.io/networks is not read: expected k8s.v1.cni.cncf",
        ),
        ("annotation: {}", 'unknown key "metadata.annotation"; did you mean "annotations"?'),
    ],
)
def test_a_slip_in_where_networks_are_asked_for_is_told(tmp_path: Path, metadata: str, found: str) -> None:
    of_pod = f"metadata:\n  name: web\n  {metadata}\n"
    spec = "spec: {containers: [{name: c}]}\n"
    manifest = f"apiVersion: v1\nkind: Pod\n{of_pod}{spec}"
    (line,) = said(tmp_path, a__yaml=manifest)
    assert line.startswith("a.yaml:5: error: ")
    assert found.removeprefix("metadata.").removeprefix('unknown key "metadata.') in line
    template = textwrap.indent(f"template:\n{textwrap.indent(of_pod + spec, '  ')}", "  ")
    workload = f"apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n{template}"
    (line,) = said(tmp_path, a__yaml=workload)
    assert line.startswith("a.yaml:8: error: ")
    assert "spec.template.metadata" in line


def test_annotations_of_others_are_nobodys_slip(tmp_path: Path) -> None:
    annotations = (
        "{k8s.v1.cni.cncf.io/network-status: '[]', k8s.v1.cni.cncf.io/networks-status: '[]', networks: a, "
        "k8s.ovn.org/pod-networks: '{}', k8s.v1.cni.cncf.io/nodeSelector: a=b, cni.projectcalico.org/podIP: a}"
    )
    manifest = f"apiVersion: v1\nkind: Pod\nmetadata: {{name: web, annotations: {annotations}}}\n"
    assert said(tmp_path, a__yaml=f"{manifest}spec: {{containers: [{{name: c}}]}}\n") == []


def test_a_definitions_annotation_may_be_misspelt_too(tmp_path: Path) -> None:
    manifest = NETWORKS.replace("resourceName: intel", "resourcename: intel")
    assert said(tmp_path, n__yaml=manifest)[0] == (
        "n.yaml:5: error: metadata: annotation k8s.v1.cni.cncf.io/resourcename is not read: expected "
        "k8s.v1.cni.cncf.io/resourceName"
    )


def test_a_pod_is_told_of_as_kubernetes_would_refuse_it(tmp_path: Path) -> None:
    spec = """\
        spec:
          restartPolicy: always
          containers:
            - name: main
              comand: [a]
              resources: {limits: {memory: much}}
              volumeMounts: [{name: w, mountPath: /w}]
            - name: main
          volumes:
            - name: v
              emptydir: {}
        """
    head = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n"
    expected = [
        (
            2,
            'key "restartPolicy": expected "Always", "OnFailure" or "Never", got \'always\'; '
            'did you mean "Always"?',
        ),
        (5, 'unknown key "containers[0].comand"; did you mean "command"?'),
        (6, 'key "containers[0].resources.limits.memory": expected a quantity like 2, "500m" or "128Mi"'),
        (7, "key \"containers[0].volumeMounts[0].name\": no volume 'w' in spec.volumes"),
        (8, "key \"containers[1].name\": 'main' is there twice"),
        (11, 'unknown key "volumes[0].emptydir"; did you mean "emptyDir"?'),
    ]
    found = said(tmp_path, a__yaml=head + textwrap.dedent(spec))
    assert [line.split(", got 'much'")[0] for line in found] == [
        f"a.yaml:{line + 4}: error: Pod default/web: " + text.replace('key "', 'key "spec.')
        for line, text in expected
    ]
    workload = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  template:\n"
    found = said(tmp_path, a__yaml=workload + textwrap.indent(textwrap.dedent(spec), "    "))
    assert found[0] == (
        'a.yaml:7: error: Deployment default/web: key "spec.template.spec.restartPolicy": expected '
        '"Always", "OnFailure" or "Never", got \'always\'; did you mean "Always"?'
    )


def test_what_makes_pods_needs_a_template_and_may_be_anothers(tmp_path: Path) -> None:
    manifest = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {replicas: 1}\n"
    assert said(tmp_path, a__yaml=manifest) == [
        "a.yaml:4: error: Deployment: spec.template: expected the template of a pod"
    ]
    others = "apiVersion: batch.volcano.sh/v1alpha1\nkind: Job\nmetadata: {name: web}\nspec: {tasks: []}\n"
    assert run(tmp_path, a__yaml=others).stderr.endswith("; not read: 1 Job\n")


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (document, told)
        for document, told in REFUSED
        if not any(text in told for text in NOT_DONE) and not isinstance(document, str)
    ],
    ids=str,
)
def test_what_a_play_refuses_as_input_is_an_error(tmp_path: Path, document: Any, told: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(json.dumps(document, indent=1))
    with pytest.raises(Error):
        manifests.load([path])
    report = files.check([path])
    assert any(finding.error for _, finding in report.findings), told


@pytest.mark.parametrize(
    "text",
    [
        *(
            "a: [",
            "a: b: c",
            "\tx: 1",
            "- 1",
            "text",
            "kind: Pod",
            "apiVersion: v1",
            "\0",
            "*a",
            "a: &b *b",
        ),
        *(
            "kind: List\nitems: 3\napiVersion: v1",
            "kind: List\napiVersion: v1",
            "{",
            "{}",
            "[]",
            "7",
            '{"kind": "Pod"}',
        ),
        *("kind: List\napiVersion: v1\nitems: [1]", "kind: List\napiVersion: v1\nitems: [{kind: Pod}]"),
        "kind: List\napiVersion: v1\nitems: [{apiVersion: v1, kind: Pod, metadata: {name: A}}]",
        "kind: PodList\napiVersion: v1\nitems: [{metadata: {name: A}}]",
        "a: {{ .Values.x }}",
        "{{- if .x }}\nkind: Pod\n{{- end }}",
    ],
)
@pytest.mark.parametrize("read", [manifests.load, policy.load], ids=["play", "vf apply"])
def test_what_no_reader_takes_for_a_document_is_told(tmp_path: Path, text: str, read: Any) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(Error):
        read([path])
    assert files.check([path]).findings


def test_two_of_one_name_are_told_as_a_play_refuses_them(tmp_path: Path) -> None:
    config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"
    assert said(
        tmp_path, a__yaml=f"{config}---\n{config}---\n{pod('tap')}", b__yaml=pod("tap"), n__yaml=NETWORKS
    ) == [
        "a.yaml:5: error: ConfigMap default/a is there twice: a.yaml:1 has it too",
        "b.yaml:1: error: Pod default/web is there twice: a.yaml:9 has it too",
    ]


def test_a_config_map_holds_strings(tmp_path: Path) -> None:
    manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  x: 7\n"
    assert said(tmp_path, a__yaml=manifest) == [
        'a.yaml:5: error: ConfigMap default/a: key "data.x": expected a string, got 7'
    ]


# Objects from which other controllers create networks and pods

OPERATORS = """\
    apiVersion: sriovnetwork.openshift.io/v1
    kind: SriovNetwork
    metadata: {name: net, namespace: operator}
    spec:
      networkNamespace: default
      resourceName: vf
      vlan: 5000
      spoofChk: perhaps
      linkStat: auto
      ipam: |
        {"type": "host-local",
         "subnet": "10.1.0.0/33"}
      metaPlugins: |
        {"type": "tuning"},
        {"typ": "rdma"}
      capabilities: '{"mac": true'
    """


def test_the_operators_network_is_told_of_by_the_configuration_that_it_becomes(tmp_path: Path) -> None:
    assert [line.split("got")[0] for line in said(tmp_path, a__yaml=OPERATORS)] == [
        'a.yaml:7: error: key "vlan": expected an integer from 0 to 4094, ',
        'a.yaml:8: error: key "spoofchk": expected "on" or "off", ',
        'a.yaml:9: error: SriovNetwork net: unknown key "spec.linkStat"; did you mean "linkState"?',
        'a.yaml:12: error: key "ipam.subnet": expected a network with prefix length, ',
        'a.yaml:15: error: key "plugins[2].type" is missing: expected the name of a plugin',
        "a.yaml:16: error: spec.capabilities: not JSON: expecting ',' delimiter: the { of line 16 is not closed",
    ]


def test_pods_may_ask_for_the_operators_networks(tmp_path: Path) -> None:
    network = "\n".join(line for line in textwrap.dedent(OPERATORS).splitlines()[:6]) + "\n  vlan: 5\n"
    assert said(tmp_path, n__yaml=network, a__yaml=pod("net", "openshift.io/vf: 1")) == []
    (found,) = said(tmp_path, n__yaml=network, a__yaml=pod("nett"))
    assert found.endswith('; did you mean "default/net"?')


MACHINE = """\
    apiVersion: kubevirt.io/v1
    kind: VirtualMachine
    metadata: {name: vm}
    spec:
      template:
        metadata:
          annotations: {k8s.v1.cni.cncf.io/network: tap}
        spec:
          networks:
            - name: a
              multus: {networkName: vf}
            - name: b
              multus:
                networkName: tapp
            - name: c
              multus: {networkName: a/b/c}
            - name: d
              pod: {}
    """


def test_a_virtual_machines_networks_are_its_pods(tmp_path: Path) -> None:
    found = said(tmp_path, a__yaml=MACHINE, n__yaml=NETWORKS)
    assert [line.split(" is not read")[0].split(": expected")[0] for line in found] == [
        "a.yaml:7: error: spec.template.metadata: annotation k8s.v1.cni.cncf.io/network",
        "a.yaml:14: error: network default/tapp: none of the files has this NetworkAttachmentDefinition; "
        'did you mean "default/tap"?',
        "a.yaml:16: error: multus.networkName",
    ]
    assert found[2].endswith(": expected [<namespace>/]<name>, got 'a/b/c'")


def test_objects_of_others_are_counted(tmp_path: Path) -> None:
    manifest = "apiVersion: x.io/v1\nkind: SriovNetwork\n---\napiVersion: v1\nkind: Service\n---\n" * 2
    result = run(tmp_path, a__yaml=f"{manifest}{textwrap.dedent(MACHINE)}", n__yaml=NETWORKS)
    assert result.stderr.endswith("; not read: 2 Service, 2 SriovNetwork\n")


# Executables


def test_executables_are_looked_for_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WIRESPEED_CONFIG", str(tmp_path / "none.yaml"))
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    (bin_dir / "bridge").write_text("")
    (bin_dir / "bridge").chmod(0o755)
    conflist = """\
        {"cniVersion": "1.0.0", "name": "net", "plugins": [
          {"type": "bridge", "ipam": {"type": "static"}},
          {"type": "sriov", "deviceID": "0000:01:00.0", "ipam": {"type": "whereabouts"}},
          {"type": "tuning"}]}
        """
    networks = NETWORKS.replace('"type": "bridge"', '"type": "bridge", "ipam": {"type": "static"}')
    files = {"a__conflist": conflist, "n__yaml": networks, "p__yaml": pod("tap")}
    assert run(tmp_path, **files).stdout == ""
    found = run(tmp_path, "--bin-dir", str(bin_dir), **files).stdout.replace(f"{tmp_path}/", "").splitlines()
    assert found == [
        'a.conflist:2: error: ipam static: no executable "static" in bin',
        'a.conflist:3: error: ipam whereabouts: no executable "whereabouts" in bin',
        'a.conflist:4: error: no executable "tuning" in bin',
        'n.yaml:13: error: ipam static: no executable "static" in bin',
    ]


def test_a_node_is_looked_at_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, bin_dir = tmp_path / "agent.yaml", tmp_path / "bin"
    bin_dir.mkdir()
    monkeypatch.setenv("WIRESPEED_CONFIG", str(config))
    config.write_text(f"autoconf: {{meta: {{binDir: {bin_dir}}}}}\n")
    conf = '{"cniVersion": "1.0.0", "name": "net", "type": "absent"}'
    missing = f'{tmp_path}/a.conf:1: error: no executable "absent" in {bin_dir}\n'
    assert run(tmp_path, a__conf=conf).stdout == missing
    assert run(tmp_path, "--no-node", a__conf=conf).stdout == ""
    bin_dir.rmdir()
    assert run(tmp_path, a__conf=conf).stdout == ""
    assert run(tmp_path, "--node", a__conf=conf).stdout == missing
    config.write_text("nonsense: 1\n")
    assert run(tmp_path, a__conf=conf).stdout == ""
    refused = run(tmp_path, "--node", a__conf=conf)
    assert (refused.exit_code, "nonsense" in refused.stderr) == (1, True)


# Incomplete files


def test_one_document_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    manifest = (
        f"a: [1,\n2\n---\n{pod('tapp')}---\nkind: {{{{ .Values.kind }}}}\n---\n{pod('tappp').replace('web', 'b')}"
    )
    assert said(tmp_path, a__yaml=manifest, n__yaml=NETWORKS) == [
        "a.yaml:3: error: not YAML: did not find expected ',' or ']' while parsing a flow sequence of line 1",
        "a.yaml:9: error: network default/tapp: none of the files has this NetworkAttachmentDefinition; "
        'did you mean "default/tap"?',
        f"a.yaml:15: warning: {places.TEMPLATE}",
        "a.yaml:22: error: network default/tappp: none of the files has this NetworkAttachmentDefinition; "
        'did you mean "default/tap"?',
    ]


def test_a_template_that_is_yaml_is_told_of_as_one(tmp_path: Path) -> None:
    manifest = pod("tap").replace("name: web", "name: 'web-{{ .Release.Name }}'")
    assert said(tmp_path, a__yaml=manifest, n__yaml=NETWORKS) == [f"a.yaml:4: warning: {places.TEMPLATE}"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            '[{"name": "a"},\n {"name": "b"}\n',
            "3: error: not JSON: expecting ',' delimiter: the [ of line 1 is not closed",
        ),
        ('{"a": [1, 2}', "1: error: not JSON: expecting ',' delimiter: the [ of line 1 is not closed"),
        ('{"a": "["\n', "2: error: not JSON: expecting ',' delimiter: the { of line 1 is not closed"),
        ('{"a": [1 2]}', "1: error: not JSON: expecting ',' delimiter"),
        ('{"a": 1} x', "1: error: not JSON: extra data"),
    ],
)
def test_a_bracket_that_is_not_closed_is_told_where_it_is(tmp_path: Path, text: str, told: str) -> None:
    assert said(tmp_path, a__conf=text) == [f"a.conf:{told}"]


def test_folders_below_are_read_where_that_is_asked_for(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "c.yaml").write_text("{")
    (below / "p.yaml").write_text(pod("tap"))
    (below / "notes.yaml").write_text("x: 1\n")
    result = run(tmp_path, str(tmp_path))
    assert (result.exit_code, result.stdout.replace(str(tmp_path), "DIR")) == (
        1,
        "DIR:1: error: expected files *.yaml, *.yml, *.json, *.conf, *.conflist in this folder; there are 2 in the "
        "folders below it, which --recursive reads\n",
    )
    result = run(tmp_path, "-R", str(tmp_path))
    assert result.exit_code == 0
    assert [line.replace(str(tmp_path), "")[:50] for line in result.stdout.splitlines()] == [
        "/a/b/notes.yaml:1: warning: not known: expected a ",
        "/a/b/p.yaml:6: warning: network default/tap: none ",
    ]


# Other configurations


def test_the_agents_configuration_is_told_of_by_key(tmp_path: Path) -> None:
    config = """\
        socket: /run/agent.sock
        wokers: 3
        cluster:
          kubeconfg: /etc/kubeconfig
        workers: 0
        autoconf:
          files: [x]
          meta:
            namespaceIsolation: perhaps
        """
    assert said(tmp_path, agent__yaml=config) == [
        'agent.yaml:2: error: unknown key "wokers"; did you mean "workers"?',
        'agent.yaml:4: error: unknown key "cluster.kubeconfg"; did you mean "kubeconfig"?',
        'agent.yaml:5: error: key "workers": expected an integer from 1 to 1024, got 0',
        "agent.yaml:7: error: key \"autoconf.files[0]\": expected the name of a file *.conflist or *.conf, got 'x'",
        "agent.yaml:9: error: key \"autoconf.meta.namespaceIsolation\": expected true or false, got 'perhaps'",
    ]


DEVICES = """\
{
\t"resourceList": [
\t\t{"resourceName": "a.b",
\t\t "selectors": [{"vendors": ["80866"]}, {"pfNames": ["eth0#5-3"]}]},
\t\t{"resourceName": "c", "selector": {}}
\t]
}
"""
OF_DEVICES = [
    "3: error: key \"resourceList[0].resourceName\": expected letters, digits, - and _, got 'a.b'",
    "4: error: key \"resourceList[0].selectors[0].vendors[0]\": expected four hex digits, got '80866'",
    '4: error: key "resourceList[0].selectors[1].pfNames[0]": expected VF numbers like #0,2-5 behind the PF, got '
    "'eth0#5-3'",
    '5: warning: unknown key "resourceList[1].selector": it has no effect; did you mean "selectors"?',
]


def test_the_device_plugins_configuration_is_told_of_by_place(tmp_path: Path) -> None:
    assert said(tmp_path, config__json=DEVICES) == [f"config.json:{line}" for line in OF_DEVICES]


def test_configurations_in_a_config_map_are_told_of_on_the_files_lines(tmp_path: Path) -> None:
    inside = textwrap.indent(DEVICES.replace("\t", " "), "    ")
    manifest = (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  notes: 'x: {'\n  config.json: |\n" + inside
    )
    lines = [f"{int(line.partition(':')[0]) + 6}:{line.partition(':')[2]}" for line in OF_DEVICES]
    assert said(tmp_path, a__yaml=manifest) == [f"a.yaml:{line}" for line in lines]


@pytest.mark.parametrize(
    ("name", "near"),
    [("vfio_pci", "vfio-pci"), ("VFIO-PCI", "vfio-pci"), ("kernal", "netdevice"), ("kernel", "netdevice")],
)
def test_a_drivers_name_that_is_nearly_anothers_is_a_warning(tmp_path: Path, name: str, near: str) -> None:
    conf = (
        f'{{"cniVersion": "1.0.0", "name": "a", "type": "sriov", "deviceID": "0000:01:00.0",\n "driver": "{name}"}}'
    )
    assert said(tmp_path, a__conf=conf) == [
        f'a.conf:2: warning: key "driver": no driver called "{name}" is known here; did you mean "{near}"?'
    ]


@pytest.mark.parametrize("name", ["vfio-pci", "iavf", "mlx5_core", "mlx5-vfio-pci", "netdevice", "hns3", "igb_uio"])
def test_drivers_of_nics_are_nobodys_slip(tmp_path: Path, name: str) -> None:
    conf = (
        f'{{"cniVersion": "1.0.0", "name": "a", "type": "sriov", "deviceID": "0000:01:00.0", "driver": "{name}"}}'
    )
    pools = {"resourceList": [{"resourceName": "a", "selectors": {"drivers": [name]}}]}
    assert said(tmp_path, a__conf=conf, b__json=json.dumps(pools)) == []


def test_drivers_of_pools_may_be_misspelt_too(tmp_path: Path) -> None:
    pools = """\
        {"resourceList": [
          {"resourceName": "a", "cdi": true, "bind": "vfio_pci",
           "selectors": {"drivers": ["vfiopci"]}},
          {"resourceName": "b", "Selectors": [{}, {
            "Drivers": ["iavf", "vfio_pci"]}]}]}
        """
    said_of = 'no driver called "{}" is known here; did you mean "vfio-pci"?'
    assert said(tmp_path, a__json=pools) == [
        f'a.json:{line}: warning: key "resourceList{where}": {said_of.format(name)}'
        for line, where, name in (
            (2, "[0].bind", "vfio_pci"),
            (3, "[0].selectors.drivers", "vfiopci"),
            (5, "[1].selectors[1].drivers", "vfio_pci"),
        )
    ]


def test_what_a_config_map_calls_json_must_be_json(tmp_path: Path) -> None:
    manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  a.json: |\n    {\n    x\n"
    assert said(tmp_path, a__yaml=manifest) == [
        "a.yaml:7: error: ConfigMap: data: a.json: not JSON: expecting property name enclosed in double quotes"
    ]


def test_multus_daemon_is_told_of_as_the_agent_takes_it_over(tmp_path: Path) -> None:
    config = """\
        {
          "chrootDir": "/hostroot",
          "socketDir": "/host/run/multus/",
          "metricsPort": 9091,
          "cniVersion": "0.5.0",
          "cniConfigDir": 7,
          "namespaceIsolation": "yes",
          "confdr": "/etc"
        }
        """
    found = said(tmp_path, daemon_config__json=config)
    assert [line[: line.index('" ') + 1] if '" ' in line else line for line in found] == [
        'daemon_config.json:4: warning: key "metricsPort": it has no effect here: the agent serves metrics at the '
        "address and port of its own key metrics",
        "daemon_config.json:5: warning: key \"cniVersion\": '0.5.0' is not supported: the version of the primary's "
        "configuration is used",
        'daemon_config.json:6: error: key "cniConfigDir": expected a string, got 7',
        "daemon_config.json:7: error: key \"namespaceIsolation\": expected true or false, got 'yes'",
        'daemon_config.json:8: warning: unknown key "confdr": it has no effect; did you mean "confDir"?',
    ]


CHART_VALUES = """\
namespaceIsolation: true
replace: [multus]
pools:
  - resourceName: left
    selectors: {drivers: [vfio_pci]}
  - resourceName: right
    selector: {}
nodeGroups:
  label: example.com/nic
  groups:
    e810:
      pools:
        - resourceName: left
          deviceTyp: vhostUser
          selectors: 7
    none: {pools: null}
"""


def test_pools_in_values_of_the_chart_are_told_of_by_path(tmp_path: Path) -> None:
    assert said(tmp_path, v__yaml=CHART_VALUES) == [
        'v.yaml:5: warning: key "pools[0].selectors.drivers": no driver called "vfio_pci" is known here; '
        'did you mean "vfio-pci"?',
        'v.yaml:7: warning: unknown key "pools[1].selector": it has no effect; did you mean "selectors"?',
        'v.yaml:14: warning: unknown key "nodeGroups.groups.e810.pools[0].deviceTyp": it has no effect; '
        'did you mean "deviceType"?',
        'v.yaml:15: error: key "nodeGroups.groups.e810.pools[0].selectors": expected an object or a list of at '
        "least "
        "one, got 7",
    ]


def test_default_values_of_the_chart_are_without_findings_and_pools_of_others_unknown(tmp_path: Path) -> None:
    values = Path(__file__).parents[2] / "deploy/chart/values.yaml"
    report = files.check([values])
    assert (report.findings, report.documents) == ([], 1)
    assert "not known: expected" in run(tmp_path, a__yaml="pools: [{name: x}]\n").stdout


def test_a_policy_for_vfs_is_told_of_by_key(tmp_path: Path) -> None:
    manifest = """\
        apiVersion: sriovnetwork.openshift.io/v1
        kind: SriovNetworkNodePolicy
        metadata: {name: p}
        spec:
          resourceName: x-
          numVfs: 0
          nicSelector:
            pfName: [a]
        """
    found = said(tmp_path, a__yaml=manifest)
    assert [line.split(": ")[0] for line in found] == ["a.yaml:5", "a.yaml:6", "a.yaml:7", "a.yaml:8"]


# DPDK applications


VFIO_SOURCES = {
    "device plugin": """\
        {"resourceList": [{"resourceName": "dpdk", "selectors": [{"drivers": ["vfio-pci"]}]},
                          {"resourceName": "any", "selectors": {"drivers": ["vfio-pci", "iavf"]}}]}
        """,
    "chart values": """\
        pools: [{resourceName: dpdk, selectors: {drivers: [vfio-pci]}}]
        """,
    "policy": """\
        apiVersion: sriovnetwork.openshift.io/v1
        kind: SriovNetworkNodePolicy
        metadata: {name: p}
        spec: {resourceName: dpdk, numVfs: 2, deviceType: vfio-pci, nicSelector: {pfNames: [a]}}
        """,
    "network": """\
        apiVersion: k8s.cni.cncf.io/v1
        kind: NetworkAttachmentDefinition
        metadata: {name: net, annotations: {k8s.v1.cni.cncf.io/resourceName: intel.com/dpdk}}
        spec: {config: '{"cniVersion": "1.0.0", "name": "net", "type": "wirespeed-sriov", "driver": "vfio-pci"}'}
        """,
}


def dpdk_pod(context: str = "{}", limits: str = "intel.com/dpdk: 1") -> str:
    return f"""\
        apiVersion: v1
        kind: Pod
        metadata: {{name: p}}
        spec:
          containers:
            - {{name: other, image: i}}
            - name: dpdk
              image: i
              securityContext: {context}
              resources: {{limits: {{{limits}}}}}
        """


ON_VFIO = "p.yaml:7: warning: container dpdk: intel.com/dpdk is on vfio-pci: its "


@pytest.mark.parametrize("source", VFIO_SOURCES)
def test_a_container_with_vfio_devices_that_cannot_lock_memory_is_told_of(tmp_path: Path, source: str) -> None:
    found = [line for line in said(tmp_path, s__yaml=VFIO_SOURCES[source], p__yaml=dpdk_pod()) if "vfio" in line]
    pages, lock = (line.removeprefix(ON_VFIO) for line in found if line.startswith("p.yaml"))
    assert pages == "limits have no hugepages, which DPDK takes memory from"
    assert lock.startswith("securityContext does not add the capability IPC_LOCK: vfio locks the memory")


@pytest.mark.parametrize(
    "context",
    [
        "{privileged: true}",
        "{capabilities: {add: [IPC_LOCK]}}",
        "{capabilities: {add: [ALL], drop: [NET_RAW]}}",
        "{capabilities: {add: [ipc_lock], drop: [ALL]}}",
    ],
)
def test_a_container_that_can_lock_memory_and_has_hugepages_is_well(tmp_path: Path, context: str) -> None:
    limits = "intel.com/dpdk: 1, hugepages-2Mi: 64Mi, memory: 64Mi"
    contents = {"s__yaml": VFIO_SOURCES["device plugin"], "p__yaml": dpdk_pod(context, limits)}
    assert said(tmp_path, **contents) == []


def test_a_capability_with_cap_is_told_of(tmp_path: Path) -> None:
    contents = {"s__yaml": VFIO_SOURCES["policy"], "p__yaml": dpdk_pod("{capabilities: {add: [CAP_IPC_LOCK]}}")}
    assert any("the capability is IPC_LOCK in Kubernetes" in line for line in said(tmp_path, **contents))


@pytest.mark.parametrize("limits", ["intel.com/any: 1", "other.com/dpdk: 1", "cpu: 1"])
def test_a_resource_that_may_be_on_another_driver_is_not_told_of(tmp_path: Path, limits: str) -> None:
    assert said(tmp_path, s__yaml=VFIO_SOURCES["device plugin"], p__yaml=dpdk_pod(limits=limits)) == []


# The command


def test_strict_takes_warnings_for_errors(tmp_path: Path) -> None:
    conf = '{"cniVersion": "1.0.0", "name": "net", "type": "sriov", "deviceID": "0000:01:00.0", "vlam": 1}'
    assert run(tmp_path, net__conf=conf).exit_code == 0
    result = run(tmp_path, "--strict", net__conf=conf)
    assert result.exit_code == 1
    assert f"{tmp_path}/net.conf:1: error: " in result.stdout
    assert result.stderr == "1 document: 1 error, 0 warnings\n"


def test_findings_come_as_json_too(tmp_path: Path) -> None:
    result = run(tmp_path, "--format", "json", net__conf='{"cniVersion": "1.0.0",\n "name": 7, "type": "ptp"}')
    assert result.exit_code == 1
    assert json.loads(result.stdout) == [
        {
            "file": f"{tmp_path}/net.conf",
            "line": 2,
            "level": "error",
            "message": 'key "name": expected letters, digits, _ . - after a letter or digit, got 7',
        }
    ]


def test_a_folder_is_its_files_and_other_files_need_no_suffix(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("{")
    (tmp_path / "sub.yaml").mkdir()
    (tmp_path / "a.conf").write_text("{")
    (tmp_path / "dp").write_text('{"resourceList": [],}')
    assert run(tmp_path, str(tmp_path)).stdout.splitlines() == [
        f"{tmp_path}/a.conf:1: error: not JSON: expecting property name enclosed in double quotes: the {{ of line "
        "1 is not closed"
    ]
    assert run(tmp_path, str(tmp_path / "dp")).stdout.splitlines() == [
        f"{tmp_path}/dp:1: error: device plugin configuration: not JSON: expecting property name enclosed in "
        "double quotes"
    ]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\xff\xfe", "expected text in UTF-8, got byte 0xff"),
        (b"foo: bar\n", "not known: expected a Kubernetes object"),
        (b"- 1\n", "not known: expected a Kubernetes object"),
        (b"a: [\n", "not YAML: did not find expected node content"),
        (b"kind: Pod\n", 'Pod: key "apiVersion" is missing'),
        (b'{"$schema": "x", "type": "object"}', "not known: expected a Kubernetes object"),
        (b"\x00", "not YAML: control characters are not allowed"),
        (b'{"type": ' * 3000, "not JSON: "),
        (b"a: !!int ''", "not YAML: "),
    ],
)
def test_what_cannot_be_told_is_an_error(tmp_path: Path, content: bytes, text: str) -> None:
    result = run(tmp_path, a=content)
    assert result.exit_code == 1
    assert text in result.stdout


@pytest.mark.parametrize(
    "arguments", [[], ["/nowhere/at/all.yaml"], ["--format", "xml", "/"], ["--schema", "none"]]
)
def test_bad_use_is_status_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, ["check", *arguments]).exit_code == 2


def test_the_examples_are_without_findings() -> None:
    examples = Path(__file__).parents[2] / "examples"
    report = files.check([*sorted(examples.rglob("*.yaml")), *examples.glob("*.conf")])
    assert (report.findings, report.documents > 10) == ([], True)


# Arbitrary files

SEEDS = [
    NETWORKS,
    pod(
        '|\n      [{"name": "vf", "mac": "02:00:00:00:00:01", "portMappings": [{"hostPort": 1}]}]',
        "intel.com/vf: 1",
    ),
    pod("vf, tap@net2"),
    DEVICES,
    '{"cniVersion": "1.0.0", "name": "a", "plugins": [{"type": "sriov", "ipam": {"type": "host-local"}}]}',
    '{"cniVersion": "1.0.0", "name": "a", "type": "multus", "delegates": [{"name": "b", "type": "bridge"}]}',
    "socket: /x\ncluster: {manifests: /y}\nautoconf: {files: [a.conf], meta: {defaultNetworks: [a]}}\n",
    '{"socketDir": "/a", "chrootDir": "/b", "cniVersion": "1.0.0", "delegates": [{}, {}]}',
    'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  a: |\n    {"resourceList": [{}]}\n',
]
PIECES = st.sampled_from(
    ["{", "}", "[", "]", ":", ",", '"', "'", "\n", "  ", "- ", "null", "7", "&a ", "*a", "<<: ", "|"]
)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """One of the seeds with pieces left out, doubled or replaced."""
    text = textwrap.dedent(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(text)))
        end = min(len(text), begin + draw(st.integers(0, 12)))
        text = text[:begin] + draw(PIECES | st.text(max_size=3) | st.just(text[begin:end] * 2)) + text[end:]
    return text


@given(damaged() | st.text(), st.sampled_from(["any.yaml", "any.conf", "any"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_is_told_of(tmp_path: Path, text: str, name: str) -> None:
    path = tmp_path / name
    path.write_text(text, errors="surrogateescape" if text.isprintable() else "replace")
    report = files.check([path])
    lines = len(text.splitlines()) + 1
    assert all(1 <= finding.line <= lines for _, finding in report.findings)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@st.composite
def changed(draw: st.DrawFn) -> list[Any]:
    """The objects of one of the seeds with some values changed, also inside JSON strings."""
    objects = list(yaml.safe_load_all(textwrap.dedent(draw(st.sampled_from(SEEDS))).replace("\t", " ")))
    for _ in range(draw(st.integers(1, 3))):
        _change(draw, draw(st.sampled_from(objects)))
    return objects


def _change(draw: st.DrawFn, value: Any) -> None:
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = draw(st.sampled_from(keys) if keys else st.just("new")) if isinstance(value, dict) or keys else None
    if key is None:
        return
    inside = value.get(key) if isinstance(value, dict) else value[key]
    parsed = _parsed(inside)
    if parsed is not None and draw(st.booleans()):
        _change(draw, parsed)
        value[key] = json.dumps(parsed, indent=1)
    elif isinstance(inside, dict | list) and inside and draw(st.integers(0, 3)):
        _change(draw, inside)
    else:
        value[key] = draw(VALUES)


def _parsed(value: Any) -> Any:
    """Parse a string as a JSON object or list; None for anything else."""
    try:
        return json.loads(value) if isinstance(value, str) and value.strip().startswith(("{", "[")) else None
    except ValueError:
        return None


@given(changed())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_anywhere_is_told_of(tmp_path: Path, objects: list[Any]) -> None:
    path = tmp_path / "any.yaml"
    path.write_text("---\n".join(json.dumps(each, indent=1) + "\n" for each in objects))
    files.check([path])

"""What the meta-plugin rejects in a configuration, an annotation, a network, a call: code and message."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from wirespeed.cni.errors import code_of
from wirespeed.cni.request import Request
from wirespeed.errors import Error
from wirespeed.node import ClusterConfig, Node, NodeConfig
from wirespeed.plugins.meta.meta import Meta

Config = dict[str, Any]
Refusal = tuple[int, str]

MASTER: Config = {"cniVersion": "1.0.0", "name": "pods", "type": "main"}
CONFIG: Config = {"cniVersion": "1.0.0", "name": "cluster", "type": "wirespeed", "delegates": [MASTER]}
CAPABLE = {"mac": True, "ips": True, "portMappings": True, "bandwidth": True, "infinibandGUID": True}
NETWORKS: dict[str, Any] = {
    "capable": {"cniVersion": "1.0.0", "type": "side", "capabilities": CAPABLE},
    "plain": {"cniVersion": "1.0.0", "type": "side"},
    "vf": {"cniVersion": "1.0.0", "type": "sriov", "deviceID": "0000:03:02.0"},
}
ARGS = {"K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": "p", "K8S_POD_UID": "u1"}


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[..., Refusal]:
    """(code, message) of an ADD that must be rejected before anything is written or executed."""
    (tmp_path / "bin").mkdir()
    for name in ("main", "side", "macvlan"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\nexit 99\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "bin/text").write_text("no program")
    manifests = tmp_path / "manifests"
    manifests.mkdir()

    def refuse(
        *,
        config: Mapping[str, Any] | None = None,
        annotation: Any = "",
        networks: Mapping[str, Any] | None = None,
        resources: Mapping[str, str] | None = None,
        args: Mapping[str, str] | None = None,
        more: Mapping[str, str] | None = None,
    ) -> Refusal:
        text = annotation if isinstance(annotation, str) else json.dumps(annotation)
        annotations = {"k8s.v1.cni.cncf.io/networks": text, **(more or {})}
        objects = [_object("Pod", "v1", "default/p", annotations, {})]
        for name, raw in (NETWORKS | dict(networks or {})).items():
            label = name if "/" in name else f"default/{name}"
            resource = (resources or {}).get(name)
            marks = {"k8s.v1.cni.cncf.io/resourceName": resource} if resource else {}
            spec = {"config": raw if isinstance(raw, str) else json.dumps(raw)}
            objects.append(_object("NetworkAttachmentDefinition", "k8s.cni.cncf.io/v1", label, marks, spec))
        (manifests / "all.json").write_text(json.dumps({"kind": "List", "items": objects}))
        node = Node(
            NodeConfig(
                state=str(tmp_path / "state.db"),
                attachments=str(tmp_path / "attachments"),
                cluster=ClusterConfig(manifests=str(manifests)),
                kubelet=str(tmp_path / "kubelet"),
                devinfo=str(tmp_path / "devinfo"),
            ),
            once=True,
        )
        request = Request(
            command="ADD",
            container_id="c1",
            netns="/run/netns/none",  # not checked before
            ifname="eth0",
            args=ARGS if args is None else args,
            path=(str(tmp_path / "bin"),),
            config={**CONFIG, **(config or {})},
        )
        with pytest.raises(Error) as refused:
            Meta(node).add(request)
        assert node.journal.attachments() == []
        assert not (tmp_path / "devinfo").exists()
        node.close()
        return code_of(refused.value), refused.value.msg.replace(str(tmp_path), "$")

    return refuse


def _object(kind: str, version: str, label: str, annotations: Mapping[str, str], spec: Config) -> Config:
    namespace, _, name = label.partition("/")
    metadata = {"namespace": namespace, "name": name, "annotations": dict(annotations)}
    return {"kind": kind, "apiVersion": version, "metadata": metadata, "spec": spec}


def test_what_these_tests_change_is_accepted_unchanged(refusal: Callable[..., Refusal]) -> None:
    """The unchanged call is accepted up to the missing network namespace."""
    everything = {
        "name": "capable",
        "mac": "02:00:00:00:00:01",
        "ips": ["10.0.0.2/24"],
        "portMappings": [{"hostPort": 80, "containerPort": 80}],
        "bandwidth": {"ingressRate": 1},
        "infiniband-guid": "02:00:00:00:00:00:00:01",
        "default-route": ["10.0.0.1", "fd00::1"],
        "cni-args": {"a": 1},
    }
    vf = {"name": "vf", "mac": "02:00:00:00:00:02"}
    expected = (3, "pod default/p: network namespace /run/netns/none: No such file or directory")
    assert refusal(annotation=[everything, {"name": "plain"}, vf]) == expected
    assert refusal(annotation="capable,default/plain@fast") == expected


DELEGATES = (
    'configuration cluster: key "clusterNetwork" is missing: expected it, or the key "delegates", for the network '
    "of "
    "the primary CNI plugin"
)


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"delegates": []}, 7, DELEGATES),
        (
            {"firstInterface": -1},
            7,
            'configuration cluster: key "firstInterface": expected an integer from 0 to 9999, got -1',
        ),
        (
            {"lenientCapabilities": ["ips", "aliases"]},
            7,
            'configuration cluster: key "lenientCapabilities[1]": expected "ips", "mac", "infinibandGUID", '
            '"portMappings" or "bandwidth", got \'aliases\'',
        ),
        ({"delegates": None}, 7, DELEGATES),
        (
            {"clusterNetwork": "x"},
            7,
            'configuration cluster: key "delegates": it must not be combined with "clusterNetwork"',
        ),
        (
            {"defaultNetworks": ["x"]},
            7,
            'configuration cluster: key "defaultNetworks": it needs the key "clusterNetwork"',
        ),
        (
            {"delegate": [MASTER]},
            7,
            'configuration cluster: unknown key "delegate"; did you mean "delegates"?',
        ),
        (
            {"NamespaceIsolation": True},
            7,
            'configuration cluster: unknown key "NamespaceIsolation"; did you mean "namespaceIsolation"?',
        ),
        ({"zzz": 1}, 7, 'configuration cluster: unknown key "zzz"'),
        (
            {"namespaceIsolation": "yes"},
            7,
            "configuration cluster: key \"namespaceIsolation\": expected true or false, got 'yes'",
        ),
        ({"delegates": {}}, 7, 'configuration cluster: key "delegates": expected a list, got {}'),
        (
            {"delegates": [MASTER, "x"]},
            7,
            "configuration cluster: key \"delegates[1]\": expected an object, got 'x'",
        ),
        (
            {"systemNamespaces": "kube-system"},
            7,
            "configuration cluster: key \"systemNamespaces\": expected a list, got 'kube-system'",
        ),
        (
            {"runtimeConfig": []},
            7,
            'configuration cluster: key "runtimeConfig": expected an object, got []',
        ),
        ({"binDir": "bin"}, 7, "configuration cluster: key \"binDir\": expected an absolute path, got 'bin'"),
        ({"confDir": "x/y"}, 7, "configuration cluster: key \"confDir\": expected an absolute path, got 'x/y'"),
        ({"delegates": [{"type": "main"}]}, 7, 'pod default/p: key "delegates[0].name" is missing'),
        (
            {"delegates": [{**MASTER, "masterplugin": "yes"}]},
            7,
            "pod default/p: key \"delegates[0].masterplugin\": expected true or false, got 'yes'",
        ),
        (
            {"delegates": [{**MASTER, "masterplugin": True}, MASTER, {**MASTER, "masterplugin": True}]},
            7,
            'pod default/p: key "delegates[2].masterplugin": only one may be true, and that of delegates[0] '
            "already is",
        ),
        (
            {"delegates": [{**MASTER, "name": "a b"}]},
            7,
            'pod default/p: network a b (eth0): network a b: key "name": expected letters, digits, _ . - after a '
            "letter or digit, got 'a b'",
        ),
        (
            {"delegates": [{"name": "pods", "cniVersion": "1.0.0"}]},
            7,
            'pod default/p: network pods (eth0): network pods: expected the key "type" or the key "plugins"',
        ),
        (
            {"delegates": [{"name": "pods", "plugins": []}]},
            7,
            'pod default/p: network pods (eth0): network pods: key "plugins": expected a list of plugin '
            "configurations, got []",
        ),
        (
            {"delegates": [{**MASTER, "cniVersion": "9.0"}]},
            1,
            'pod default/p: network pods (eth0): network pods: key "cniVersion": expected one of 0.1.0, 0.2.0, '
            "0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0, got '9.0'",
        ),
        (
            {"delegates": [{**MASTER, "type": "absent"}]},
            7,
            'pod default/p: network pods (eth0): plugin absent: no executable "absent" in /opt/cni/bin, $/bin',
        ),
        (
            {"delegates": [{**MASTER, "type": "text"}]},
            7,
            'pod default/p: network pods (eth0): plugin text: no executable "text" in /opt/cni/bin, $/bin; '
            "$/bin/text is not an executable file",
        ),
        (
            {"delegates": [{**MASTER, "type": "../main"}]},
            7,
            'pod default/p: network pods (eth0): network pods: key "type": expected the name of a plugin, no '
            "path, got '../main'",
        ),
        (
            {"delegates": [{**MASTER, "type": "multus"}]},
            7,
            "pod default/p: network pods (eth0): plugin multus: a delegate must not be the meta-plugin itself: it "
            "would recurse",
        ),
        (
            {"delegates": [MASTER, {"name": "x", "plugins": [{"type": "main"}, {"type": "wirespeed"}]}]},
            7,
            "pod default/p: network x (net1): plugin wirespeed: a delegate must not be the meta-plugin itself: it "
            "would recurse",
        ),
        (
            {"delegates": None, "clusterNetwork": "absent", "confDir": "/nowhere"},
            7,
            "pod default/p: configuration cluster: key \"clusterNetwork\", 'absent': NetworkAttachmentDefinition "
            "kube-system/absent: no manifest in $/manifests defines it; no configuration in /nowhere has the name "
            "'absent'",
        ),
        (
            {"delegates": None, "clusterNetwork": "/nowhere/x.conf"},
            7,
            "pod default/p: configuration cluster: key \"clusterNetwork\", '/nowhere/x.conf': /nowhere/x.conf: "
            "No such file or directory",
        ),
        (
            {
                "delegates": None,
                "clusterNetwork": "capable",
                "multusNamespace": "default",
                "defaultNetworks": ["gone"],
                "confDir": "/nowhere",
            },
            7,
            "pod default/p: configuration cluster: key \"defaultNetworks\", 'gone': NetworkAttachmentDefinition "
            "default/gone: no manifest in $/manifests defines it; no configuration in /nowhere has the name 'gone'",
        ),
    ],
)
def test_configuration_is_refused(refusal: Callable[..., Refusal], change: Config, code: int, message: str) -> None:
    assert refusal(config=change) == (code, message)


ANNOTATION = "pod default/p: annotation k8s.v1.cni.cncf.io/networks: "
SHORT = ANNOTATION + "element {}: expected [<namespace>/]<name>[@<interface>], got {!r}"
NAME = "expected an object's name (lower-case letters, digits, - and ., at most 253)"
TAKEN, OTHER = 'pod default/p: key "interface": ', "expected another name for one of them"
HOST = "the IP address of a host, with or without a prefix length (10.0.0.2/24)"
IFNAME = "expected an interface name (1 to 15 letters, digits, _ . -, not lo)"
SHORT_INTERFACE = f'{ANNOTATION}element 1: key "interface": {IFNAME}'


def element(key: str, value: Any, **more: Any) -> list[Config]:
    return [{"name": "capable", key: value, **more}]


def of(key: str) -> str:
    return f'{ANNOTATION}element 1 (default/capable): key "{key}"'


@pytest.mark.parametrize(
    ("annotation", "code", "message"),
    [
        # The short form
        ("capable,", 7, SHORT.format(2, "")),
        ("a/b/c", 7, SHORT.format(1, "a/b/c")),
        ("a/b@c@d", 7, SHORT.format(1, "a/b@c@d")),
        ("default/Capable", 7, f"{ANNOTATION}element 1: key \"name\": {NAME}, got 'Capable'"),
        (
            "de_fault/capable",
            7,
            f'{ANNOTATION}element 1: key "namespace": expected a namespace (lower-case letters, digits, -, '
            "at most 63), got 'de_fault'",
        ),
        ("capable@my Ifc", 7, f"{SHORT_INTERFACE}, got 'my Ifc'"),
        (
            "capable@sixteen-letters-",
            7,
            f"{SHORT_INTERFACE}, got 'sixteen-letters-'",
        ),
        ("capable@lo", 7, f"{SHORT_INTERFACE}, got 'lo'"),
        ("capable@net%d", 7, f"{SHORT_INTERFACE}, got 'net%d'"),
        # JSON
        ("[adsf]", 7, f"{ANNOTATION}not JSON: JSON is malformed: invalid character (byte 1)"),
        (
            {"name": "capable"},
            7,
            f"{ANNOTATION}the JSON form: expected a list of objects, got {{'name': 'capable'}}",
        ),
        (["capable"], 7, f"{ANNOTATION}element 1: expected an object, got 'capable'"),
        ([{"interface": "x1"}], 7, f'{ANNOTATION}element 1: key "name" is missing'),
        ([{"name": "../x"}], 7, f"{ANNOTATION}element 1: key \"name\": {NAME}, got '../x'"),
        (
            element("Mac", 5),
            7,
            f"{of('mac')}: expected a unicast MAC address like 02:00:00:00:00:01, got 5",
        ),
        (element("interface", "this/is bad"), 7, f"{of('interface')}: {IFNAME}, got 'this/is bad'"),
        (element("ips", "10.0.0.1"), 7, f"{of('ips')}: expected a list, each {HOST}, got '10.0.0.1'"),
        (
            element("ips", ["10.0.0.256"]),
            7,
            f"{of('ips[0]')}: expected {HOST}, got '10.0.0.256'",
        ),
        (element("ips", ["10.0.0.1/24", "10.0.0.1"]), 7, f"{of('ips')}: 10.0.0.1 is there twice"),
        (
            element("mac", "01:00:00:00:00:01"),
            7,
            f"{of('mac')}: expected a unicast MAC address like 02:00:00:00:00:01, got '01:00:00:00:00:01'",
        ),
        (
            element("mac", "02:00:00:00:00:00:00:01"),
            7,
            f"{of('mac')}: expected a unicast MAC address like 02:00:00:00:00:01, got '02:00:00:00:00:00:00:01'",
        ),
        (
            element("infiniband-guid", "02:00:00:00:00:01"),
            7,
            f"{of('infiniband-guid')}: expected an 8-byte GUID like 02:00:00:00:00:00:00:01, "
            "got '02:00:00:00:00:01'",
        ),
        (
            element("portMappings", [{"hostPort": 70000, "containerPort": 80}]),
            7,
            f"{of('portMappings[0].hostPort')}: expected an integer from 1 to 65535, got 70000",
        ),
        (
            element("portMappings", [{"hostPort": 80, "containerPort": 80, "protocol": "XYZ"}]),
            7,
            f"{of('portMappings[0].protocol')}: expected tcp, udp or sctp, got 'XYZ'",
        ),
        (
            element("portMappings", [{"hostPort": 80}]),
            7,
            f"{of('portMappings[0].containerPort')} is missing",
        ),
        (
            element("portMappings", [{"hostPort": 80, "containerPort": n} for n in (80, 81)]),
            7,
            f"{of('portMappings')}: host port 80/tcp is mapped twice",
        ),
        (
            element("bandwidth", {"ingressrate": "1"}),
            7,
            f"{of('bandwidth.ingressRate')}: expected an integer from 0 to 9223372036854775807, got '1'",
        ),
        (
            element("bandwidth", {"egressRate": -1}),
            7,
            f"{of('bandwidth.egressRate')}: expected an integer from 0 to 9223372036854775807, got -1",
        ),
        (
            element("deviceID", "../../x"),
            7,
            f"{of('deviceID')}: expected a PCI address like 0000:03:02.0, or a scalable function like "
            "mlx5_core.sf.4, got '../../x'",
        ),
        (element("cni-args", "x"), 7, f"{of('cni-args')}: expected an object, got 'x'"),
        (
            element("default-route", ["10.0.0.1/24"]),
            7,
            f"{of('default-route[0]')}: expected the IP address of a host, without a prefix length, "
            "got '10.0.0.1/24'",
        ),
        (
            element("ipam-claim-reference", ["c"]),
            7,
            f"{of('ipam-claim-reference')}: expected the name of an IPAMClaim, got ['c']",
        ),
        # Combinations
        (
            element("default-route", ["10.0.0.1", "10.0.0.2"]),
            7,
            'pod default/p: network default/capable (net1): key "default-route": expected one gateway of each '
            "address family, got ['10.0.0.1', '10.0.0.2']",
        ),
        (
            [{"name": "capable", "default-route": ["10.0.0.1"]}, {"name": "plain", "default-route": []}],
            7,
            'pod default/p: key "default-route": only one network may have it, but network default/capable (net1) '
            "and "
            "network default/plain (net2) have it",
        ),
        (
            "capable@x,plain@x",
            102,
            f"{TAKEN}network default/capable and network default/plain would both be interface x; {OTHER}",
        ),
        (
            "capable@net2,plain",
            102,
            f"{TAKEN}network default/capable and network default/plain would both be interface net2; {OTHER}",
        ),
        (
            "capable@eth0",
            102,
            f"{TAKEN}network pods and network default/capable would both be interface eth0; {OTHER}",
        ),
        (
            "absent",
            7,
            "pod default/p: NetworkAttachmentDefinition default/absent: no manifest in $/manifests defines it",
        ),
    ],
)
def test_annotation_is_refused(refusal: Callable[..., Refusal], annotation: Any, code: int, message: str) -> None:
    assert refusal(annotation=annotation) == (code, message)


def lacks(network: str, key: str, capability: str) -> str:
    return (
        f'pod default/p: network default/{network} (net1): key "{key}": no plugin of the network has the '
        "capability "
        f'for it; expected "capabilities": {{"{capability}": true}} in the configuration of one, or '
        f'"lenientCapabilities": ["{capability}"] in the meta-plugin\'s (autoconf.meta of agent.yaml)'
    )


@pytest.mark.parametrize(
    ("network", "key", "value", "capability"),
    [
        ("plain", "mac", "02:00:00:00:00:01", "mac"),
        ("plain", "ips", ["10.0.0.2"], "ips"),
        ("plain", "portMappings", [{"hostPort": 80, "containerPort": 80}], "portMappings"),
        ("plain", "bandwidth", {"ingressRate": 1}, "bandwidth"),
        ("plain", "infiniband-guid", "02:00:00:00:00:00:00:01", "infinibandGUID"),
        ("vf", "ips", ["10.0.0.2"], "ips"),  # without an IPAM plugin, no address can be assigned
        ("vf", "portMappings", [{"hostPort": 80, "containerPort": 80}], "portMappings"),
    ],
)
def test_request_that_no_plugin_of_the_network_takes_is_refused(
    refusal: Callable[..., Refusal], network: str, key: str, value: Any, capability: str
) -> None:
    assert refusal(annotation=[{"name": network, key: value}]) == (106, lacks(network, key, capability))


def test_capability_that_is_declared_false_is_not_one(refusal: Callable[..., Refusal]) -> None:
    capabilities = {"mac": False}
    network = {"cniVersion": "1.0.0", "plugins": [{"type": "side", "capabilities": capabilities}, {"type": "main"}]}
    asked = [{"name": "x", "mac": "02:00:00:00:00:01"}]
    assert refusal(annotation=asked, networks={"x": network}) == (106, lacks("x", "mac", "mac"))
    vf = {**NETWORKS["vf"], "capabilities": capabilities}
    assert refusal(annotation=asked, networks={"x": vf}) == (106, lacks("x", "mac", "mac"))


OF_X = "pod default/p: NetworkAttachmentDefinition default/x: "
X = "pod default/p: network default/x (net1): "
NOWHERE = 'no executable "wherabouts" in /opt/cni/bin, $/bin'


@pytest.mark.parametrize(
    ("raw", "code", "message"),
    [
        (
            "{",
            7,
            f'{OF_X}key "spec.config": not JSON: Expecting property name enclosed in double quotes: line 1 column '
            "2 "
            "(char 1)",
        ),
        ("[]", 7, f'{OF_X}key "spec.config": expected a JSON object, got []'),
        ({"cniVersion": "1.0.0"}, 7, f'{X}network x: expected the key "type" or the key "plugins"'),
        (
            {"cniVersion": "1.0.0", "type": ["side"]},
            7,
            f"{X}network x: key \"type\": expected the name of a plugin, no path, got ['side']",
        ),
        (
            {"cniVersion": "1.0.0", "plugins": {}},
            7,
            f'{X}network x: key "plugins": expected a list of plugin configurations, got {{}}',
        ),
        (
            {"cniVersion": "1.0.0", "plugins": []},
            7,
            f'{X}network x: key "plugins": expected a list of plugin configurations, got []',
        ),
        (
            {"cniVersion": "1.0.0", "plugins": [{"type": "side"}, {}]},
            7,
            f'{X}network x: key "plugins[1].type" is missing: expected the name of a plugin',
        ),
        (
            {"cniVersion": "2.0.0", "type": "side"},
            1,
            f'{X}network x: key "cniVersion": expected one of 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, '
            "1.1.0, got '2.0.0'",
        ),
        (
            {"cniVersion": "1.0.0", "name": "a/b", "type": "side"},
            7,
            f"{X}network a/b: key \"name\": expected letters, digits, _ . - after a letter or digit, got 'a/b'",
        ),
        (
            {"cniVersion": "1.0.0", "type": "side", "capabilities": {"mac": 1}},
            7,
            f"{X}network x: key \"capabilities\": expected an object of true and false, got {{'mac': 1}}",
        ),
        (
            {"cniVersion": "1.0.0", "type": "absent"},
            7,
            f'{X}plugin absent: no executable "absent" in /opt/cni/bin, $/bin',
        ),
        *(
            (
                {"cniVersion": "1.0.0", "type": kind, "ipam": ipam},
                7,
                f"{X}plugin {kind}: {why}",
            )
            for kind, ipam, why in (
                ("macvlan", {"type": "wherabouts"}, f"ipam wherabouts: {NOWHERE}"),
                ("macvlan", "host-local", "key \"ipam\": expected an object, got 'host-local'"),
                ("wirespeed-vhost", {"type": "wherabouts"}, f"ipam wherabouts: {NOWHERE}"),
                ("wirespeed-vhost", {"type": 5}, 'key "ipam.type": expected the name of a plugin, got 5'),
            )
        ),
        (
            {"cniVersion": "1.0.0", "type": "meta"},
            7,
            f"{X}plugin meta: a delegate must not be the meta-plugin itself: it would recurse",
        ),
        (
            {"cniVersion": "1.0.0", "plugins": [{"type": "side"}, {"type": "multus-shim"}]},
            7,
            f"{X}plugin multus-shim: a delegate must not be the meta-plugin itself: it would recurse",
        ),
        (
            {"cniVersion": "1.0.0", "type": "side", "disableCheck": "maybe"},
            7,
            f"{X}network x: key \"disableCheck\": expected true or false, got 'maybe'",
        ),
    ],
)
def test_network_is_refused(refusal: Callable[..., Refusal], raw: Any, code: int, message: str) -> None:
    assert refusal(annotation="x", networks={"x": raw}) == (code, message)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("x", "expected an object, for the cni-args of the pod, got 'x'"),
        ([], "expected an object, for the cni-args of the pod, got []"),
    ],
)
def test_cni_args_for_a_network_whose_own_args_are_no_object_are_refused(
    refusal: Callable[..., Refusal], args: Any, message: str
) -> None:
    asked = [{"name": "x", "cni-args": {"a": 1}}]
    networks = {"x": {**NETWORKS["plain"], "args": args}}
    assert refusal(annotation=asked, networks=networks) == (7, f'{X}plugin side: key "args": {message}')
    networks = {"x": {**NETWORKS["plain"], "args": {"cni": args}}}
    assert refusal(annotation=asked, networks=networks) == (7, f'{X}plugin side: key "args.cni": {message}')


def test_network_of_another_namespace_is_refused_where_namespaces_are_isolated(
    refusal: Callable[..., Refusal],
) -> None:
    isolated = {"namespaceIsolation": True}
    theirs = {"other/x": NETWORKS["plain"]}
    text = "pod default/p: network other/x: namespaces are isolated; expected a network of namespace default"
    assert refusal(config=isolated, annotation="other/x", networks=theirs) == (106, text)
    # The error does not reveal whether the network exists.
    assert refusal(config=isolated, annotation="other/y") == (106, text.replace("other/x", "other/y"))
    others = isolated | {"globalNamespaces": "shared, third"}
    text = f"{text} or shared or third"
    assert refusal(config=others, annotation="other/x", networks=theirs) == (106, text)
    allowed = isolated | {"globalNamespaces": "other"}
    # accepted up to the missing network namespace
    assert refusal(config=allowed, annotation="other/x", networks=theirs)[0] == 3


DEFAULT = "v1.multus-cni.io/default-network"


@pytest.mark.parametrize(
    ("annotation", "config", "code", "message"),
    [
        ("a,b", {}, 7, f"annotation {DEFAULT}: expected one network, got 2"),
        ("[{}]", {}, 7, f'annotation {DEFAULT}: element 1: key "name" is missing'),
        (
            "default/capable@pri0",
            {},
            7,
            "network default/capable: key \"interface\": expected eth0, the runtime's name for the pod's first "
            "interface, got 'pri0'",
        ),
        (
            "other/x",
            {"namespaceIsolation": True},
            106,
            "network other/x: namespaces are isolated; expected a network of namespace default or kube-system",
        ),
        ("absent", {}, 7, "NetworkAttachmentDefinition kube-system/absent: no manifest in $/manifests defines it"),
    ],
)
def test_other_master_is_refused(
    refusal: Callable[..., Refusal], annotation: str, config: Config, code: int, message: str
) -> None:
    assert refusal(more={DEFAULT: annotation}, config=config) == (code, f"pod default/p: {message}")


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (
            {"K8S_POD_NAME": "p"},
            4,
            "CNI_ARGS: K8S_POD_NAMESPACE: expected a namespace (lower-case letters, digits, -, at most 63), got ''",
        ),
        ({"K8S_POD_NAMESPACE": "default"}, 4, f"CNI_ARGS: K8S_POD_NAME: {NAME}, got ''"),
        ({**ARGS, "K8S_POD_NAME": "../p"}, 4, f"CNI_ARGS: K8S_POD_NAME: {NAME}, got '../p'"),
        (
            {**ARGS, "K8S_POD_NAME": "q"},
            11,
            "pod default/q: Pod default/q: no manifest in $/manifests defines it",
        ),
    ],
)
def test_call_for_a_pod_that_is_not_there_is_refused(
    refusal: Callable[..., Refusal], args: Config, code: int, message: str
) -> None:
    assert refusal(args=args) == (code, message)


def test_runtime_that_names_no_pod_cannot_have_devices(refusal: Callable[..., Refusal]) -> None:
    config = {"delegates": None, "clusterNetwork": "plain", "multusNamespace": "default"}
    assert refusal(config=config, args={}, resources={"plain": "intel.com/vfs"}) == (
        101,
        "container c1: network default/plain: no device of resource intel.com/vfs: devices are given to pods, and "
        "CNI_ARGS name no pod",
    )
    assert refusal(config=config, args={})[0] == 3


def test_default_networks_too_share_the_names(refusal: Callable[..., Refusal]) -> None:
    config = {
        "delegates": None,
        "clusterNetwork": "plain",
        "multusNamespace": "default",
        "defaultNetworks": ["capable"],
    }
    assert refusal(config=config, annotation="vf@net1") == (
        102,
        f"{TAKEN}network default/capable and network default/vf would both be interface net1; {OTHER}",
    )

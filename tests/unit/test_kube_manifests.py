"""A cluster defined by a directory of manifests."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wirespeed.errors import Error, Kind
from wirespeed.kube import documents
from wirespeed.kube.cluster import MIRROR, NotFoundError
from wirespeed.kube.manifests import ManifestCluster

STATUS = [{"name": "default/net", "interface": "net1"}]


def pod(name: str = "web", **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **metadata}, "spec": {}}


def network(name: str = "net", config: str = "{}") -> dict[str, Any]:
    return {
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": name},
        "spec": {"config": config},
    }


def write(path: Path, *values: Any) -> Path:
    path.write_text("\n---\n".join(yaml.safe_dump(value) for value in values))
    return path


def refusal(cluster: ManifestCluster, name: str = "web") -> str:
    """The error when a pod is looked up that may be in an unreadable file."""
    with pytest.raises(Error) as caught:
        cluster.pod("default", name)
    assert not isinstance(caught.value, NotFoundError)
    assert caught.value.kind == Kind.INVALID_CONFIG
    return caught.value.msg


def test_objects_are_found_in_all_files_and_documents(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", pod(annotations={"a": "1"}), None, network(config='{"type": "bridge"}'))
    write(tmp_path / "b.yml", pod("other", namespace="space"))
    (tmp_path / "c.json").write_text(json.dumps(pod("third")))
    write(tmp_path / "d.txt", pod("fourth"))
    cluster = ManifestCluster(tmp_path)
    assert cluster.pod("default", "web")["metadata"]["annotations"] == {"a": "1"}
    assert cluster.network("default", "net")["spec"] == {"config": '{"type": "bridge"}'}
    assert cluster.pod("space", "other")["metadata"]["annotations"] == {}
    assert cluster.pod("default", "third")["metadata"]["namespace"] == "default"
    with pytest.raises(NotFoundError) as caught:
        cluster.pod("default", "fourth")
    assert caught.value.msg == f"Pod default/fourth: no manifest in {tmp_path} defines it"


def test_files_below_the_folder_and_hidden_ones_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "below.yaml").mkdir()
    write(tmp_path / "below.yaml/a.yaml", pod())
    write(tmp_path / ".a.yaml", pod())
    (tmp_path / "gone.yaml").symlink_to(tmp_path / "nowhere")
    with pytest.raises(NotFoundError):
        ManifestCluster(tmp_path).pod("default", "web")


def test_a_pod_and_a_network_may_have_one_name(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", pod("same"), network("same"))
    cluster = ManifestCluster(tmp_path)
    assert cluster.pod("default", "same")["kind"] == "Pod"
    assert cluster.network("default", "same")["kind"] == "NetworkAttachmentDefinition"


def test_other_kinds_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", {"kind": "ConfigMap"}, {"kind": "WishList", "metadata": {}}, pod())
    assert ManifestCluster(tmp_path).pod("default", "web")


@pytest.mark.parametrize(
    "value",
    [
        {"kind": "List", "apiVersion": "v1", "items": [network(), pod()]},
        {"kind": "PodList", "apiVersion": "v1", "items": [{"metadata": {"name": "web"}}]},
        {"kind": "List", "apiVersion": "v1", "items": [{"kind": "PodList", "apiVersion": "v1", "items": [pod()]}]},
    ],
    ids=["List", "PodList", "nested"],
)
def test_lists_hold_objects(tmp_path: Path, value: dict[str, Any]) -> None:
    write(tmp_path / "a.yaml", value)
    assert ManifestCluster(tmp_path).pod("default", "web")["kind"] == "Pod"


def test_files_are_read_as_kubernetes_reads_them(tmp_path: Path) -> None:
    """Null values are absent, and strings need quotes only where Kubernetes requires them."""
    (tmp_path / "a.yaml").write_text(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  namespace:\n  creationTimestamp: null\n"
        "  labels: {since: 2024-05-01, none: }\n  annotations: {mac: 52:54:00:12:34:56, none: ~, 1: one}\n"
        "spec:\n  containers:\n  volumes: [{name: a, emptyDir: }]\n"
    )
    found = ManifestCluster(tmp_path).pod("default", "web")
    assert found["metadata"] == {
        "name": "web",
        "namespace": "default",
        "labels": {"since": "2024-05-01", "none": ""},
        "annotations": {"mac": "52:54:00:12:34:56", "none": "", "1": "one"},
    }
    assert found["spec"] == {"volumes": [{"name": "a"}]}


@pytest.mark.parametrize("name", ["a.json", "a.yaml"])
def test_json_objects_may_stand_one_after_the_other(tmp_path: Path, name: str) -> None:
    first, second = (json.dumps(pod(each), indent="\t") for each in "ab")
    (tmp_path / name).write_text(f"\n{first}\n{second}\n")
    cluster = ManifestCluster(tmp_path)
    assert cluster.pod("default", "a")
    assert cluster.pod("default", "b")


def test_what_begins_like_json_may_be_yaml(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "{apiVersion: v1, kind: Pod, metadata: {name: web}}\n---\n" + json.dumps(pod("b"))
    )
    assert ManifestCluster(tmp_path).pod("default", "web")
    assert ManifestCluster(tmp_path).pod("default", "b")


def test_json_may_have_tabs(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(pod(), indent="\t"))
    assert ManifestCluster(tmp_path).pod("default", "web")


# Unreadable files


def unread(folder: Path) -> str:
    """How the refusal of a pod begins that may be in a file which cannot be read."""
    return f"Pod default/web: no manifest in {folder} defines it; not all can be read: "


def test_a_file_that_is_no_yaml_is_told_with_document_and_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(pod("first")) + "---\na: [\n")
    cluster = ManifestCluster(tmp_path)
    assert cluster.pod("default", "first")  # earlier documents are read
    assert refusal(cluster).startswith(f"{unread(tmp_path)}{tmp_path}/a.yaml, document 2 in line 8: not YAML: ")


def test_a_file_that_is_no_json_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    assert f"{tmp_path}/a.json, document 1: not JSON: Expecting property name" in refusal(ManifestCluster(tmp_path))


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\xff")
    assert f"{tmp_path}/a.yaml, document 1: not YAML: 'utf-8' codec" in refusal(ManifestCluster(tmp_path))


def test_a_broken_file_hides_nothing_that_another_defines(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("{")
    write(tmp_path / "b.yaml", pod())
    assert ManifestCluster(tmp_path).pod("default", "web")


def test_a_broken_document_hides_nothing_in_the_others(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", pod(uid=1), pod("second"))
    cluster = ManifestCluster(tmp_path)
    assert cluster.pod("default", "second")
    assert refusal(cluster) == (
        f'{unread(tmp_path)}{tmp_path}/a.yaml, document 1: Pod default/web: key "metadata.uid": '
        "expected a string, got 1"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("words", "expected an object with kind and metadata, got 'words'"),
        ({}, 'key "kind" is missing'),
        ({"kind": 1}, 'key "kind" is missing'),
        ({"kind": "List", "items": {}}, 'key "items": expected a list, got {}'),
        ({"kind": "List"}, 'key "items": expected a list, got None'),
        ({"kind": "List", "items": [{"metadata": {}}]}, 'key "items[0].kind" is missing'),
        (
            {"kind": "List", "items": [1]},
            'key "items[0]": expected an object with kind and metadata, got 1',
        ),
        ({"kind": "Pod"}, 'Pod: key "apiVersion": expected v1, got None'),
        ({"kind": "Pod", "apiVersion": "v1"}, 'Pod: key "metadata": expected an object, got None'),
        (pod(None), 'Pod: key "metadata.name": expected lower-case letters, digits, - and ., got None'),  # type: ignore[arg-type]
        (pod("../x"), "Pod: key \"metadata.name\": expected lower-case letters, digits, - and ., got '../x'"),
        (
            pod(namespace="A"),
            "Pod: key \"metadata.namespace\": expected lower-case letters, digits, - and ., got 'A'",
        ),
        (
            pod(annotations={"a": 1}),
            "Pod default/web: key \"metadata.annotations\": expected an object of strings, got {'a': 1}",
        ),
        (
            pod(annotations=["a"]),
            "Pod default/web: key \"metadata.annotations\": expected an object of strings, got ['a']",
        ),
        ({**pod(), "spec": "x"}, "Pod default/web: key \"spec\": expected an object, got 'x'"),
    ],
)
def test_what_is_wrong_with_a_document_is_told(tmp_path: Path, value: Any, text: str) -> None:
    write(tmp_path / "a.yaml", value)
    assert refusal(ManifestCluster(tmp_path)) == f"{unread(tmp_path)}{tmp_path}/a.yaml, document 1: {text}"


def test_the_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Error) as caught:
        ManifestCluster(tmp_path / "no").network("default", "net")
    assert caught.value.kind == Kind.IO
    assert caught.value.msg == f"manifests in {tmp_path}/no: No such file or directory"


@pytest.mark.parametrize("files", [("a.yaml", "b.yaml"), ("a.yaml", "a.yaml")])
def test_an_object_that_is_defined_twice_is_neither(tmp_path: Path, files: tuple[str, str]) -> None:
    if files[0] == files[1]:
        write(tmp_path / files[0], pod(), pod(namespace="default"), pod("other"))
        places = [f"{tmp_path}/a.yaml, document {number}" for number in (1, 2)]
    else:
        write(tmp_path / files[0], pod())
        write(tmp_path / files[1], pod(), pod("other"))
        places = [f"{tmp_path}/{file}, document 1" for file in files]
    cluster = ManifestCluster(tmp_path)
    assert refusal(cluster) == f"Pod default/web: defined twice: {places[0]} and {places[1]}"
    assert cluster.pod("default", "other")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["Pod", "v1", "List"]),
        lambda values: (
            st.lists(values, max_size=3)
            | st.dictionaries(
                st.sampled_from(["kind", "apiVersion", "metadata", "items", "name", "namespace", "spec", "uid"]),
                values,
                max_size=4,
            )
        ),
    )
)
def test_no_document_is_more_than_a_refusal(tmp_path: Path, value: Any) -> None:
    (tmp_path / "a.json").write_text(json.dumps(value))
    cluster = ManifestCluster(tmp_path)
    with pytest.raises(Error):
        cluster.network("default", "no-such")


# Changed files


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", pod(annotations={"a": "1"}))
    cluster = ManifestCluster(tmp_path)
    cluster.pod("default", "web")
    times = file.stat()
    for number in range(2, 6):  # faster than the file system's clock, with the same size and an old mtime
        write(file, pod(annotations={"a": str(number)}))
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert cluster.pod("default", "web")["metadata"]["annotations"] == {"a": str(number)}
    write(tmp_path / "new", pod(annotations={"a": "9"})).replace(file)
    assert cluster.pod("default", "web")["metadata"]["annotations"] == {"a": "9"}


def test_a_file_that_did_not_change_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.yaml", pod())
    monkeypatch.setattr("wirespeed.kube.manifests._MIN_AGE", 0)
    cluster = ManifestCluster(tmp_path)
    first = cluster.pod("default", "web")
    assert cluster.pod("default", "web") is first
    os.utime(file)
    assert cluster.pod("default", "web") is not first


def test_files_come_and_go(tmp_path: Path) -> None:
    cluster = ManifestCluster(tmp_path)
    with pytest.raises(NotFoundError):
        cluster.pod("default", "web")
    file = write(tmp_path / "a.yaml", pod())
    assert cluster.pod("default", "web")
    file.rename(tmp_path / "a.yaml.off")
    with pytest.raises(NotFoundError):
        cluster.pod("default", "web")


def test_a_file_that_was_put_right_is_taken(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("{")
    cluster = ManifestCluster(tmp_path)
    refusal(cluster)
    write(tmp_path / "a.yaml", pod())
    assert cluster.pod("default", "web")


# UIDs and status


def test_uids_are_those_of_the_manifest_where_it_has_one(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", pod(uid="u1"), pod("none"), pod("static", uid="u2", annotations={MIRROR: "hash"}))
    cluster = ManifestCluster(tmp_path)
    assert cluster.pod("default", "web", "u1")
    assert cluster.pod("default", "web", "")
    assert cluster.pod("default", "none", "whatever")
    assert cluster.pod("default", "static", "hash")
    with pytest.raises(NotFoundError) as caught:
        cluster.pod("default", "web", "u2")
    assert caught.value.msg == f"pod default/web: its UID in {tmp_path} is u1, not u2"


def test_status_is_a_file_beside_the_manifests(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", pod(uid="u1"))
    cluster = ManifestCluster(tmp_path)
    cluster.set_network_status("default", "web", "u1", STATUS)
    path = tmp_path / ".status/default_web.json"
    assert cluster.status_file("default", "web") == path
    assert json.loads(path.read_text()) == STATUS
    cluster.set_network_status("default", "web", "u1", [])
    assert json.loads(path.read_text()) == []
    assert [file.name for file in path.parent.iterdir()] == ["default_web.json"]
    with pytest.raises(NotFoundError):
        cluster.set_network_status("default", "web", "u2", STATUS)
    assert json.loads(path.read_text()) == []


def test_status_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", pod())
    (tmp_path / ".status").write_text("in the way")
    with pytest.raises(Error) as caught:
        ManifestCluster(tmp_path).set_network_status("default", "web", "", STATUS)
    assert caught.value.kind == Kind.IO
    assert caught.value.msg == f"network-status {tmp_path}/.status/default_web.json: File exists"


def test_status_written_at_once_is_whole(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", pod())
    cluster = ManifestCluster(tmp_path)
    begin = threading.Barrier(8)

    def set_status(number: int) -> None:
        begin.wait()
        for _ in range(20):
            cluster.set_network_status("default", "web", "", [{"name": str(number) * 1000}])

    threads = [threading.Thread(target=set_status, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (entry,) = json.loads(cluster.status_file("default", "web").read_text())
    assert len(set(entry["name"])) == 1


# Splitting documents


def test_documents_come_with_where_they_stand(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", {"a": 1}, None, [2])
    assert list(documents.read(file)) == [
        (f"{file}, document 1", {"a": 1}),
        (f"{file}, document 2", None),
        (f"{file}, document 3", [2]),
    ]


def test_documents_before_a_mistake_are_given(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("a: 1\n---\n}\n")
    found = documents.read(file)
    assert next(found) == (f"{file}, document 1", {"a": 1})
    with pytest.raises(Error) as caught:
        next(found)
    assert caught.value.kind == Kind.INVALID_CONFIG
    assert caught.value.msg.startswith(f"{file}, document 2 in line 3: not YAML: ")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Error) as caught:
        list(documents.read(tmp_path / "no.yaml"))
    assert caught.value.msg == f"{tmp_path}/no.yaml: No such file or directory"


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    for name, text in (("a.json", "[" * 100_000), ("a.yaml", "[" * 10_000)):
        (tmp_path / name).write_text(text)
        with pytest.raises(Error) as caught:
            list(documents.read(tmp_path / name))
        assert caught.value.kind == Kind.INVALID_CONFIG


def test_annotations_are_made_of_the_present_ones_and_kept_beside_the_manifests(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", pod(annotations={"a": "1", "b": "2"}))
    cluster = ManifestCluster(tmp_path)
    cluster.annotate("default", "web", "", lambda present: {"b": present["b"] + "!", "c": "3"})
    cluster.annotate("default", "web", "", lambda present: {"c": present["c"] + present["b"] + present["a"]})
    assert json.loads(cluster.annotations_file("default", "web").read_text()) == {"b": "2!", "c": "32!1"}
    assert cluster.pod("default", "web")["metadata"]["annotations"] == {"a": "1", "b": "2"}


def test_annotations_written_at_once_are_all_there(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", pod())
    cluster = ManifestCluster(tmp_path)
    threads = [
        threading.Thread(target=cluster.annotate, args=("default", "web", "", lambda _, n=n: {str(n): "x"}))
        for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(json.loads(cluster.annotations_file("default", "web").read_text())) == set(map(str, range(20)))

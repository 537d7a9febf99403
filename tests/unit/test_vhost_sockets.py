"""Directories for sockets: their owners, the maximum length of paths, and that no path leads out of them."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from wirespeed.cni.errors import Code, code_of
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.plugins.vhost import sockets
from wirespeed.plugins.vhost.conf import Access
from wirespeed.plugins.vhost.sockets import LONGEST_PATH, Folder

KUBELET = Path("/var/lib/kubelet")
UID = "3d9a4e2c-1111-2222-3333-444444444444"


def pod(volume: dict[str, Any] | None, *mounts: str, **metadata: str) -> dict[str, Any]:
    containers = [{"volumeMounts": [{"name": "shared-dir", "mountPath": mount}]} for mount in mounts]
    volumes = [{"name": "podinfo", "downwardAPI": {}}]
    return {
        "metadata": {"uid": UID, **metadata},
        "spec": {
            "volumes": volumes + ([{"name": "shared-dir", **volume}] if volume is not None else []),
            "containers": containers,
        },
    }


def of_pod(value: dict[str, Any], **args: str) -> Folder | None:
    return sockets.of_pod(value, Request(command="ADD", args=args), KUBELET)


def test_the_volume_is_the_folder() -> None:
    assert of_pod(pod({"hostPath": {"path": "/run/pod7/"}}, "/sockets/")) == Folder(
        path="/run/pod7", inside="/sockets"
    )
    assert of_pod(pod({"emptyDir": {}}, "/a", "/b")) == Folder(
        path=f"/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~empty-dir/shared-dir", inside="/b", kubelets=True
    )
    assert of_pod(pod(None)) is None
    assert of_pod({"metadata": {}, "spec": {}}) is None


def test_a_static_pods_empty_dir_is_under_the_uid_that_the_runtime_knows() -> None:
    folder = of_pod(pod({"emptyDir": {}}), K8S_POD_UID="c0ffee")
    assert folder is not None
    assert "/pods/c0ffee/" in folder.path


@pytest.mark.parametrize(
    ("volume", "text"),
    [
        ({"persistentVolumeClaim": {}}, "expected a hostPath or an emptyDir, got 'persistentVolumeClaim'"),
        ({}, "expected a hostPath or an emptyDir, got 'nothing'"),
        ({"hostPath": {"path": "run"}}, "expected a hostPath that is absolute and has no .., got 'run'"),
        (
            {"hostPath": {"path": "/run/../etc"}},
            "expected a hostPath that is absolute and has no .., got '/run/../etc'",
        ),
    ],
)
def test_another_volume_is_refused(volume: dict[str, Any], text: str) -> None:
    with pytest.raises(Error) as caught:
        of_pod(pod(volume))
    assert caught.value.msg == f"volume shared-dir: {text}"


@pytest.mark.parametrize("uid", ["", "../x", "a/b"])
def test_a_uid_is_no_path(uid: str) -> None:
    with pytest.raises(Error, match="UID of the pod"):
        of_pod(pod({"emptyDir": {}}, uid=uid))


def test_a_path_that_the_kernel_takes_is_left_as_it_is() -> None:
    file = "s" * 10
    folder = Folder(path="/" + "d" * (LONGEST_PATH - 12))
    assert len(folder.switch_path(file)) == LONGEST_PATH
    assert sockets.with_short_path(folder, file, Path("/run/links")) == folder


def test_a_longer_path_gets_a_link_of_its_own(tmp_path: Path) -> None:
    long = tmp_path / ("d" * 120)
    folders = [sockets.with_short_path(Folder(path=str(long)), file, tmp_path / "l") for file in ("a", "b")]
    assert folders[0].link != folders[1].link
    long.mkdir()
    for folder, file in zip(folders, ("a", "b"), strict=True):
        sockets.prepare(folder, Access())
        sockets.prepare(folder, Access())  # repeated, as after a crash
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(folder.switch_path(file))
        assert (long / file).is_socket()
    sockets.clear(folders[0], ["a"])
    assert [path.name for path in long.iterdir()] == ["b"]
    assert not Path(folders[0].link).is_symlink()
    assert Path(folders[1].link).is_symlink()


def test_a_path_that_is_too_long_all_the_same_is_explained() -> None:
    with pytest.raises(
        Error, match=r"expected at most 107 bytes, the kernel's limit, got 212; configure a shorter vhost.sockets"
    ) as caught:
        sockets.with_short_path(Folder(path="/" + "d" * 150), "s" * 30, Path("/" + "l" * 163))
    assert caught.value.kind == Kind.INVALID_CONFIG
    with pytest.raises(Error, match=r"too long; .*; mount the volume at a shorter path"):
        sockets.check_inside(Folder(path="/run", inside="/" + "d" * 120), "s")


def test_a_folder_of_ours_goes_when_nothing_else_is_in_it(tmp_path: Path) -> None:
    folder = sockets.container_folder(tmp_path / "base", "a" * 64)
    assert folder.path == f"{tmp_path}/base/aaaaaaaaaaaa"
    sockets.prepare(folder, Access(mode=0o640))
    assert stat.S_IMODE(os.stat(folder.path).st_mode) == 0o750
    for file in ("a", "b"):
        sockets.write_file(folder, file, b"{}", Access())
    assert sockets.exists(folder, "a")
    sockets.clear(folder, ["a"])
    assert [path.name for path in Path(folder.path).iterdir()] == ["b"]
    sockets.clear(folder, ["b"])
    assert not Path(folder.path).exists()
    sockets.clear(folder, ["b"])
    assert not sockets.exists(folder, "b")


def test_an_administrators_folder_keeps_its_mode_and_stays(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o755)
    folder = Folder(path=str(theirs))
    sockets.prepare(folder, Access(mode=0o600))
    assert stat.S_IMODE(theirs.stat().st_mode) == 0o755
    sockets.write_file(folder, "a", b"", Access())
    sockets.clear(folder, ["a"])
    assert list(theirs.iterdir()) == []


def test_what_is_left_of_a_write_that_was_killed_is_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sockets.container_folder(tmp_path, "container")
    sockets.prepare(folder, Access())

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(Killed):
        sockets.write_file(folder, "data.json", b"{}", Access())
    assert os.listdir(folder.path) == [".data.json.new"]
    sockets.clear(folder, ["socket", "data.json"])
    assert os.listdir(tmp_path) == []


def test_a_link_that_cannot_be_removed_is_named(tmp_path: Path) -> None:
    (tmp_path / "link").mkdir()
    with pytest.raises(Error) as caught:
        sockets.clear(Folder(path=str(tmp_path), link=str(tmp_path / "link")), [])
    assert (code_of(caught.value), caught.value.msg) == (
        Code.IO_FAILURE,
        f"short path {tmp_path}/link: Is a directory",
    )


def test_a_folder_that_the_kubelet_has_removed_is_cleared(tmp_path: Path) -> None:
    sockets.clear(Folder(path=str(tmp_path / "gone/shared-dir"), kubelets=True), ["a"])


def test_a_folder_that_the_kubelet_has_not_made_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(Error) as caught:
        sockets.prepare(Folder(path=str(tmp_path / "shared-dir"), kubelets=True), Access())
    assert caught.value.kind == Kind.IO
    assert not (tmp_path / "shared-dir").exists()


def test_what_a_pod_puts_in_the_folder_is_not_followed(tmp_path: Path) -> None:
    shared, outside = tmp_path / "shared", tmp_path / "outside"
    shared.mkdir()
    outside.write_text("theirs")
    folder = Folder(path=str(shared), kubelets=True)
    (shared / "data.json").symlink_to(outside)
    (shared / ".data.json.new").symlink_to(outside)
    sockets.write_file(folder, "data.json", b"ours", Access())
    assert (outside.read_text(), (shared / "data.json").read_text()) == ("theirs", "ours")
    (shared / "socket").symlink_to(outside)
    mode = stat.S_IMODE(outside.stat().st_mode)
    with pytest.raises(Error):
        sockets.set_access(folder, "socket", Access(mode=0o666))
    assert stat.S_IMODE(outside.stat().st_mode) == mode
    (shared / "folder/inner").mkdir(parents=True)
    sockets.clear(folder, ["socket", "data.json", "folder"])
    assert outside.read_text() == "theirs"
    assert [path.name for path in shared.iterdir()] == ["folder"]

"""Container images: reproducible layers and archives, and the contents of their package lists."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from image import agent, debian
from image.archive import unpack
from image.layer import Layer, write_layer
from image.oci import Variant, write_archive
from image.recipe import ARCHITECTURES, IMAGES, ROOT, commit_time
from image.run import run
from lab.errors import LabError

EPOCH = 1_700_000_000


def tree(folder: Path, names: list[str], *, mtime: int) -> Path:
    """A root file system: files with their own names as content, created in the order of `names`, and a symlink."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        path.chmod(0o755 if "bin" in name else 0o644)
        os.utime(path, (mtime, mtime))
    (folder / "sh").symlink_to("usr/bin/dash")
    return folder


NAMES = ["usr/bin/dash", "etc/passwd", "usr/share/doc/dash/README", "usr/share/doc/x"]


def test_layer_is_the_same_whenever_and_in_whatever_order_its_files_were_made(tmp_path: Path) -> None:
    one = write_layer(tree(tmp_path / "a", NAMES, mtime=EPOCH + 5), tmp_path / "1", epoch=EPOCH)
    two = write_layer(tree(tmp_path / "b", NAMES[::-1], mtime=EPOCH + 999), tmp_path / "2", epoch=EPOCH)
    assert (one.digest, one.diff_id, one.size) == (two.digest, two.diff_id, two.size)


def test_layer_has_the_files_modes_and_links_of_the_folder_as_roots(tmp_path: Path) -> None:
    layer = write_layer(tree(tmp_path / "a", NAMES, mtime=EPOCH - 7), tmp_path / "1", epoch=EPOCH)
    with tarfile.open(layer.path) as archive:
        found = {member.name: member for member in archive}
        assert found["usr/bin/dash"].mode == 0o755
        assert found["etc/passwd"].mode == 0o644
        assert found["etc/passwd"].mtime == EPOCH - 7
        assert (found["sh"].issym(), found["sh"].linkname) == (True, "usr/bin/dash")
        assert {(member.uid, member.gid, member.uname) for member in found.values()} == {(0, 0, "")}
        content = archive.extractfile("etc/passwd")
        assert content is not None
        assert content.read() == b"etc/passwd"


def test_layer_tells_the_digests_of_its_file_and_of_its_content(tmp_path: Path) -> None:
    layer = write_layer(tree(tmp_path / "a", NAMES, mtime=EPOCH), tmp_path / "1", epoch=EPOCH)
    packed = layer.path.read_bytes()
    assert layer.digest == hashlib.sha256(packed).hexdigest()
    assert layer.diff_id == hashlib.sha256(gzip.decompress(packed)).hexdigest()
    assert layer.size == len(packed)


def test_layer_lacks_what_nothing_in_a_container_reads(tmp_path: Path) -> None:
    root = tree(tmp_path / "a", NAMES, mtime=EPOCH)
    layer = write_layer(root, tmp_path / "1", epoch=EPOCH, unused=("usr/share/doc/*", "etc/passwd"))
    with tarfile.open(layer.path) as archive:
        assert archive.getnames() == ["etc", "sh", "usr", "usr/bin", "usr/share", "usr/bin/dash", "usr/share/doc"]


@pytest.fixture
def old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """tarfile of Debian 12's Python 3.11.2, which has no filters."""
    extract = tarfile.TarFile.extractall

    def extractall(
        self: tarfile.TarFile, path: Any = ".", members: Any = None, *, numeric_owner: bool = False
    ) -> None:
        extract(self, path, members, numeric_owner=numeric_owner)

    monkeypatch.setattr(tarfile.TarFile, "extractall", extractall)
    monkeypatch.delattr(tarfile, "data_filter", raising=False)


@pytest.mark.parametrize("trusted", [False, True])
def test_archive_is_unpacked_by_the_python_of_debian_12(tmp_path: Path, old_python: None, trusted: bool) -> None:
    layer = write_layer(tree(tmp_path / "a", NAMES, mtime=EPOCH), tmp_path / "1", epoch=EPOCH)
    with tarfile.open(layer.path) as archive:
        unpack(archive, tmp_path / "out", members=[archive.getmember("sh")], trusted=trusted)
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["sh"]
        unpack(archive, tmp_path / "all", trusted=trusted)
    assert {str(path.relative_to(tmp_path / "all")) for path in (tmp_path / "all").rglob("*")} >= {*NAMES, "sh"}


@pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="this Python has no filters")
def test_file_that_would_be_written_outside_of_the_folder_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("../outside"))
    with tarfile.open(tmp_path / "tar") as archive, pytest.raises(tarfile.OutsideDestinationError):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "outside").exists()


def test_layer_of_a_folder_with_a_device_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LabError, match=r"pipe: expected a file, folder or symbolic link"):
        write_layer(tmp_path, tmp_path.with_suffix(".layer"), epoch=EPOCH)


# Archives


@pytest.fixture
def layer(tmp_path: Path) -> Layer:
    return write_layer(tree(tmp_path / "root", NAMES, mtime=EPOCH), tmp_path / "layer", epoch=EPOCH)


@pytest.fixture
def archive(tmp_path: Path, layer: Layer) -> Callable[..., tuple[str, dict[str, bytes]]]:
    """Write an archive for these architectures. Return its digest and its files."""

    def write(*architectures: str) -> tuple[str, dict[str, bytes]]:
        variants = [
            Variant(
                architecture=each,
                layers=[(layer, "files")],
                environment={"PATH": "/bin"},
                entrypoint=["wirespeed"],
                command=["agent"],
            )
            for each in architectures
        ]
        target = tmp_path / "image.tar"
        digest = write_archive(
            target, variants, reference="localhost/x:1", version="1", epoch=EPOCH, labels={"title": "x"}
        )
        with tarfile.open(target) as content:
            return digest, {member.name: content.extractfile(member).read() for member in content}  # type: ignore[union-attr]

    return write


def blob(files: dict[str, bytes], descriptor: dict[str, Any]) -> bytes:
    """The blob of a descriptor, after checking its size and digest."""
    content = files["blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")]
    assert hashlib.sha256(content).hexdigest() == descriptor["digest"].removeprefix("sha256:")
    assert len(content) == descriptor["size"]
    return content


def test_archive_for_two_architectures_is_one_image_with_a_manifest_for_each(archive: Any, layer: Layer) -> None:
    digest, files = archive("amd64", "arm64")
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (named,) = json.loads(files["index.json"])["manifests"]
    assert named["annotations"]["io.containerd.image.name"] == "localhost/x:1"
    assert named["digest"] == digest
    manifests = json.loads(blob(files, named))["manifests"]
    assert [each["platform"]["architecture"] for each in manifests] == ["amd64", "arm64"]
    for each in manifests:
        manifest = json.loads(blob(files, each))
        config = json.loads(blob(files, manifest["config"]))
        assert config["architecture"] == each["platform"]["architecture"]
        assert config["rootfs"]["diff_ids"] == [f"sha256:{layer.diff_id}"]
        assert config["config"]["Entrypoint"] == ["wirespeed"]
        assert [blob(files, each) for each in manifest["layers"]] == [layer.path.read_bytes()]


def test_archive_for_one_architecture_names_its_manifest(archive: Any) -> None:
    digest, files = archive("arm64")
    (named,) = json.loads(files["index.json"])["manifests"]
    assert named["digest"] == digest
    assert "config" in json.loads(blob(files, named))
    assert len(files) == 2 + 3  # manifest, config and layer, and no blob without a reference


def test_archive_is_the_same_each_time(archive: Any) -> None:
    assert archive("amd64", "arm64") == archive("amd64", "arm64")


# Contents of the images


@pytest.mark.parametrize("name", IMAGES)
def test_list_names_debian_packages_once(name: str) -> None:
    packages = IMAGES[name].packages
    assert packages == sorted(set(packages))
    assert "python3" in packages


def test_debian_packages_are_listed_as_installed_in_one_order() -> None:
    one, other = "Package: b\nVersion: 1:2-3\n", "Package: a\nVersion: 4\nDescription: short\n Package: no name\n"
    written = debian.installed(f"{one}\n{other}\n")
    assert written == debian.installed(f"{other}\n{one}\n")
    assert written == (
        "Package: a\nStatus: install ok installed\nVersion: 4\nDescription: short\n Package: no name\n\n"
        "Package: b\nStatus: install ok installed\nVersion: 1:2-3\n\n"
    )


def test_lock_of_the_image_has_the_versions_and_hashes_of_the_lock() -> None:
    def pins(path: Path) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for line in path.read_text().splitlines():
            if line and not line.startswith((" ", "#")):
                name = line.split(" ")[0]
                found[name] = set()
            elif "--hash=" in line:
                found[name].add(line.strip(" \\"))
        return found

    image, whole = pins(agent.LOCK), pins(ROOT / "requirements.lock")
    assert image.items() <= whole.items()
    assert {name.split("==")[0] for name in image}.isdisjoint({"pytest", "mypy", "ruff", "hypothesis", "uv"})


def test_machine_code_of_another_architecture_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "a.c"
    source.write_text("int main(void) { return 0; }\n")
    run(["cc", "-o", str(tmp_path / "a.out"), str(source)])
    machine = (tmp_path / "a.out").read_bytes()[18]
    for name, architecture in ARCHITECTURES.items():
        if machine == architecture.elf_machine:
            agent.check_machine(tmp_path, name)
        else:
            with pytest.raises(LabError, match=f"a.out: expected machine code of {name}"):
                agent.check_machine(tmp_path, name)


def test_images_have_a_fixed_time_without_the_program_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_time() == 1_735_689_600  # 2025-01-01

"""Releases: what they are refused for, their checksums, and what is in their bills of materials."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from image.layer import write_layer
from image.oci import Variant, write_archive
from image.recipe import ROOT
from lab.errors import LabError
from lab.progress import Progress
from release import build, checks, sbom, version

EPOCH = 1_700_000_000
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2026-01-31\n\n### Added\n\n- All.\n"

# What a release is refused for


class Repository:
    """A git repository that becomes release 1.2.3."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("wirespeed/__init__.py", '__version__ = "1.2.3"\n')
        self.write("CHANGELOG.md", CHANGELOG)
        self.write(".gitignore", "/build/\n")
        self.git("init", "--quiet")
        self.commit()

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)

    def git(self, *arguments: str) -> str:
        someone = ("-c", "user.name=someone", "-c", "user.email=someone@example.com")
        return checks.git(self.root, *someone, *arguments).strip()

    def commit(self) -> str:
        self.git("add", ".")
        self.git("commit", "--quiet", "--allow-empty", "--message=change")
        return self.git("rev-parse", "HEAD")

    def refusal(self) -> str:
        with pytest.raises(LabError) as refused:
            checks.check(self.root, "1.2.3")
        return f"{refused.value}\n{refused.value.detail}"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def test_a_release_is_of_the_commit_that_is_checked_out(repository: Repository) -> None:
    assert checks.check(repository.root, "1.2.3") == repository.git("rev-parse", "HEAD")


@pytest.mark.parametrize("name", ["CHANGELOG.md", "new.py"])
def test_a_tree_with_changes_is_refused(repository: Repository, name: str) -> None:
    repository.write(name, CHANGELOG + "\n")
    assert name in repository.refusal()


def test_what_git_ignores_is_no_change(repository: Repository) -> None:
    repository.write("build/release/file", "")
    checks.check(repository.root, "1.2.3")


def test_a_version_that_the_change_log_lacks_is_refused(repository: Repository) -> None:
    repository.write("CHANGELOG.md", CHANGELOG.replace("1.2.3", "1.2.2"))
    repository.commit()
    assert 'CHANGELOG.md: expected a heading "## [1.2.3] - YYYY-MM-DD"' in repository.refusal()


def test_a_tree_without_a_change_log_is_refused(repository: Repository) -> None:
    (repository.root / "CHANGELOG.md").unlink()
    repository.commit()
    assert "CHANGELOG.md" in repository.refusal()


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        ("## [1.2.3] - 2026-01-31", True),
        ("## [1.2.3]", False),
        ("## [1.2.3] - Unreleased", False),
        ("## [1x2.3] - 2026-01-31", False),
        ("## [11.2.3] - 2026-01-31", False),
        ("### [1.2.3] - 2026-01-31", False),
    ],
)
def test_a_version_is_in_the_change_log_once_it_has_a_date(heading: str, expected: bool) -> None:
    assert checks.changelog_has(f"# Changelog\n\n{heading}\n\ntext\n", "1.2.3") is expected


def test_a_place_with_another_version_is_refused(repository: Repository) -> None:
    repository.write("README.md", "docker pull wirespeed:1.2.2\n")
    repository.commit()
    refusal = repository.refusal()
    assert "make version VERSION=1.2.3" in refusal
    assert "README.md:1: 1.2.2" in refusal


@pytest.mark.parametrize("options", [(), ("--annotate", "--message=release")])
def test_a_tag_at_another_commit_is_refused(repository: Repository, options: tuple[str, ...]) -> None:
    tagged = repository.git("rev-parse", "HEAD")
    repository.git("tag", *options, "v1.2.3")
    assert checks.check(repository.root, "1.2.3") == tagged
    head = repository.commit()
    refusal = repository.refusal()
    assert refusal.startswith(f"tag v1.2.3: expected it at HEAD, {head[:12]}, found it at {tagged[:12]}")


def test_tags_of_other_versions_do_not_matter(repository: Repository) -> None:
    for tag in ("v1.2.2", "v1.2.30", "1.2.3"):
        repository.git("tag", tag)
    repository.commit()
    checks.check(repository.root, "1.2.3")


def test_a_folder_without_git_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="git rev-parse"):
        checks.check(tmp_path, "1.2.3")


# The files


def test_files_of_a_commit_are_written_as_they_are_with_links_and_without_the_umask(
    repository: Repository, tmp_path: Path
) -> None:
    (repository.root / "link").symlink_to("wirespeed/__init__.py")
    repository.write("run", "#!/bin/sh\n")
    (repository.root / "run").chmod(0o700)
    (repository.root / "CHANGELOG.md").chmod(0o600)
    repository.commit()
    repository.write("later", "not committed")
    build.export(repository.root, tmp_path / "files/wirespeed-1.2.3")
    (tree,) = (tmp_path / "files").iterdir()
    assert {path.name for path in tree.iterdir()} == {".gitignore", "CHANGELOG.md", "link", "run", "wirespeed"}
    assert (tree / "link").readlink() == Path("wirespeed/__init__.py")
    modes = {name: (tree / name).stat().st_mode & 0o777 for name in ("run", "CHANGELOG.md", "wirespeed")}
    assert modes == {"run": 0o755, "CHANGELOG.md": 0o644, "wirespeed": 0o755}


def test_a_release_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    target = tmp_path / "build/release"
    with build.replacing(target) as new:
        (new / "one").touch()
    with pytest.raises(FileNotFoundError), build.replacing(target) as new:
        (new / "none/two").touch()
    assert [path.name for path in target.iterdir()] == ["one"]
    with build.replacing(target) as new:
        (new / "three").touch()
    assert [path.name for path in target.iterdir()] == ["three"]
    assert list(target.parent.iterdir()) == [target]


def test_a_release_that_is_refused_writes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> str:
        raise LabError("changed")

    monkeypatch.setattr(build, "check", refuse)
    with pytest.raises(LabError, match="changed"):
        build.build(tmp_path / "build/release", None)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_files_of_a_release_are_those_that_the_security_policy_lists(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    number = version.current()

    def write_wheel(tree: Path, target: Path, *, epoch: int, project: str = ".") -> Path:
        assert (tree / project).is_dir()
        name = {".": "wirespeed", "eal": "wirespeed_eal"}[project]
        wheel = target / f"{name}-{number}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as content:
            content.writestr(f"{name}-{number}.dist-info/METADATA", f"Name: {name}\nVersion: {number}\n")
        return wheel

    monkeypatch.setattr(build, "check", lambda *_: "commit")
    monkeypatch.setattr(build, "export", lambda _, tree: (tree / "eal").mkdir(parents=True))
    monkeypatch.setattr(build, "write_wheel", write_wheel)
    monkeypatch.setattr(build, "write_chart", lambda _, target, **__: target.touch())
    monkeypatch.setattr(build, "build_image", lambda _, __, target, ___: target.touch())
    monkeypatch.setattr(sbom, "write", lambda target, *_, **__: target.touch())
    with Progress(stream=io.StringIO()) as progress:
        found = {path.name for path in build.build(tmp_path / "release", progress)}
    rows = re.findall(r"(?m)^\| (`.*?`) \|", (ROOT / "SECURITY.md").read_text())
    listed = {name.replace("VERSION", number) for row in rows for name in re.findall("`(.*?)`", row)}
    assert found == listed
    sums = (tmp_path / "release/SHA256SUMS").read_text().splitlines()
    assert {line.split("  ")[1] for line in sums} == listed - {"SHA256SUMS"}


def test_checksums_are_checked_by_sha256sum(tmp_path: Path) -> None:
    for name in ("b.whl", "a.tar.gz"):
        (tmp_path / name).write_text(name)
    build.write_sums(tmp_path)
    build.write_sums(tmp_path)
    lines = (tmp_path / "SHA256SUMS").read_text().splitlines()
    assert lines[0] == f"{hashlib.sha256(b'a.tar.gz').hexdigest()}  a.tar.gz"
    assert len(lines) == 2
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path, check=True)
    (tmp_path / "b.whl").write_text("changed")
    assert subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=tmp_path, check=False).returncode == 1


# The bill of materials

STATUS = """\
Package: libc6
Status: install ok installed
Source: glibc
Architecture: {architecture}
Version: 2.41-12

Package: libgcc-s1
Status: install ok installed
Source: gcc-14 (14.2.0-19)
Architecture: {architecture}
Version: 1:14.2.0-19+b1

"""
LIBRARIES = {
    "typing_extensions-4.16.0": "Name: typing_extensions\nVersion: 4.16.0\nLicense-Expression: PSF-2.0\n",
    "two-1.0": "Name: two\nVersion: 1.0\nLicense: Apache-2.0 OR BSD-3-Clause\n",
    "text-2": "Name: text\nVersion: 2\nLicense: Two\n        lines\nClassifier: License :: OSI Approved :: MIT\n",
    "none-3": "Name: none\nVersion: 3\n\nLicense: in the description\n",
}


@pytest.fixture
def archive(tmp_path: Path) -> Callable[..., Path]:
    """Writes an image for these architectures."""

    def write(*architectures: str) -> Path:
        variants = []
        for architecture in architectures:
            files = {
                "var/lib/dpkg/status": STATUS.format(architecture=architecture),
                "usr/lib/os-release": 'PRETTY_NAME="Debian GNU/Linux 13"\nVERSION_ID="13"\nID=debian\n',
                **{f"opt/packages/{name}.dist-info/METADATA": text for name, text in LIBRARIES.items()},
            }
            for name, text in files.items():
                path = tmp_path / architecture / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            layer = write_layer(tmp_path / architecture, tmp_path / f"{architecture}.layer", epoch=EPOCH)
            variants.append(
                Variant(
                    architecture=architecture, layers=[(layer, "")], environment={}, entrypoint=[], command=["sh"]
                )
            )
        path = tmp_path / "image.tar"
        write_archive(path, variants, reference="localhost/x:1", version="1", epoch=EPOCH, labels={})
        return path

    return write


def bill(archive: Path) -> dict[str, Any]:
    target = archive.with_name("bill.json")
    sbom.write(target, archive, name="wirespeed", version="1.2.3", sha256="ab" * 32, epoch=EPOCH)
    found: dict[str, Any] = json.loads(target.read_text())
    return found


def test_bill_has_the_debian_packages_of_each_architecture_and_the_libraries_once(archive: Any) -> None:
    found = bill(archive("amd64", "arm64"))
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    libraries = [each for each in found["components"] if each["type"] == "library"]
    assert {each["purl"] for each in libraries} == {
        "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13&upstream=glibc",
        "pkg:deb/debian/libc6@2.41-12?arch=arm64&distro=debian-13&upstream=glibc",
        "pkg:deb/debian/libgcc-s1@1:14.2.0-19%2Bb1?arch=amd64&distro=debian-13&upstream=gcc-14%4014.2.0-19",
        "pkg:deb/debian/libgcc-s1@1:14.2.0-19%2Bb1?arch=arm64&distro=debian-13&upstream=gcc-14%4014.2.0-19",
        "pkg:pypi/typing-extensions@4.16.0",
        "pkg:pypi/two@1.0",
        "pkg:pypi/text@2",
        "pkg:pypi/none@3",
    }
    assert len(libraries) == 8
    (system,) = [each for each in found["components"] if each["type"] == "operating-system"]
    assert (system["name"], system["version"]) == ("debian", "13")


def test_bill_is_about_the_image(archive: Any) -> None:
    path = archive("amd64")
    found = bill(path)
    image = found["metadata"]["component"]
    assert (image["type"], image["name"], image["version"]) == ("container", "wirespeed", "1.2.3")
    assert image["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert image["purl"].startswith("pkg:oci/wirespeed@sha256:")
    assert found["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"
    (needed,) = [each["dependsOn"] for each in found["dependencies"] if each["ref"] == image["bom-ref"]]
    assert set(needed) == {each["bom-ref"] for each in found["components"]}


def test_bill_has_licences_as_the_libraries_declare_them(archive: Any) -> None:
    licenses = {each["name"]: each.get("licenses") for each in bill(archive("amd64"))["components"]}
    declared = {"acknowledgement": "declared"}
    assert licenses["typing-extensions"] == [{"license": {"id": "PSF-2.0", **declared}}]
    assert licenses["two"] == [{"expression": "Apache-2.0 OR BSD-3-Clause", **declared}]
    assert licenses["text"] == [{"license": {"id": "MIT", **declared}}]
    assert licenses["none"] is None


def test_bill_of_the_same_image_is_the_same(archive: Any) -> None:
    assert bill(archive("amd64", "arm64")) == bill(archive("amd64", "arm64"))
    assert bill(archive("amd64"))["serialNumber"] != bill(archive("arm64"))["serialNumber"]


LIBRARY = "Metadata-Version: 2.4\nName: wirespeed-eal\nVersion: 1.2.3\nLicense-Expression: Apache-2.0\n"


def bill_of_library(target: Path, *, sha256: str = "cd" * 32) -> dict[str, Any]:
    sbom.write_library(target, LIBRARY, sha256=sha256, epoch=EPOCH)
    found: dict[str, Any] = json.loads(target.read_text())
    return found


def test_bill_of_the_application_library_describes_its_wheel_and_lists_no_dependencies(tmp_path: Path) -> None:
    found = bill_of_library(tmp_path / "bill.json")
    library = found["metadata"]["component"]
    assert (library["type"], library["name"], library["version"]) == ("library", "wirespeed-eal", "1.2.3")
    assert library["purl"] == "pkg:pypi/wirespeed-eal@1.2.3"
    assert library["hashes"] == [{"alg": "SHA-256", "content": "cd" * 32}]
    assert library["licenses"] == [{"license": {"id": "Apache-2.0", "acknowledgement": "declared"}}]
    assert found.get("components", []) == []
    assert found["dependencies"] == [{"ref": library["bom-ref"]}]


def test_bill_of_the_same_wheel_is_the_same_and_another_wheel_has_another_serial_number(tmp_path: Path) -> None:
    first, again = (bill_of_library(tmp_path / name) for name in ("first", "again"))
    assert first == again
    assert first["serialNumber"] != bill_of_library(tmp_path / "other", sha256="ef" * 32)["serialNumber"]


def test_bill_of_a_library_with_dependencies_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="wirespeed-eal: expected no dependencies, got click>=8"):
        sbom.write_library(tmp_path / "bill", LIBRARY + "Requires-Dist: click>=8\n", sha256="", epoch=EPOCH)
    assert not (tmp_path / "bill").exists()

"""The images of `make test-images`: a runtime starts their programs; the agent's image on both architectures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from image.archive import unpack
from image.build import build
from image.recipe import ARCHITECTURES, IMAGES, LIBRARY, PREFIX, ROOT, version
from lab.progress import Progress
from tests.node import containerd
from tests.node.conftest import Netns
from tests.node.containerd import cri

# Every module of the agent except wirespeed.play, because the image lacks the programs that it runs.
IMPORT_ALL = """
import importlib, pkgutil
import wirespeed
for module in pkgutil.walk_packages(wirespeed.__path__, "wirespeed."):
    if not module.name.endswith("__main__") and not module.name.startswith("wirespeed.play"):
        importlib.import_module(module.name)
print("all")
"""

# Fails if Python compiled an imported module, or compared one with its source.
COMPILED = """
import sys
for name, module in sys.modules.items():
    if type(module.__spec__ and module.__spec__.loader).__name__ == "SourceFileLoader":
        with open(module.__cached__, "rb") as compiled:
            assert compiled.read(8)[4] == 1, f"{name} is compared with its source"
"""


def built(image: str) -> Path:
    path = ROOT / f"build/test-images/{image}-{version()}.tar"
    if not path.is_file():
        pytest.fail(f"there is no {path}: run `make test-images`", pytrace=False)
    return path


@pytest.fixture(scope="module")
def archive() -> Path:
    """The archive of the agent's image, with both architectures."""
    return built("wirespeed")


@pytest.fixture(scope="module")
def roots(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The root file systems of the image, by architecture."""
    folder = tmp_path_factory.mktemp("roots")
    with tarfile.open(archive) as content:
        unpack(content, folder / "oci")

    def blob(digest: str) -> Path:
        return folder / "oci/blobs/sha256" / digest.removeprefix("sha256:")

    (named,) = json.loads((folder / "oci/index.json").read_text())["manifests"]
    found = {}
    for each in json.loads(blob(named["digest"]).read_text())["manifests"]:
        root = folder / each["platform"]["architecture"]
        root.mkdir()
        for layer in json.loads(blob(each["digest"]).read_text())["layers"]:
            with tarfile.open(blob(layer["digest"])) as content:
                unpack(content, root, trusted=True)
        found[root.name] = root
    return found


def inside(root: Path, *command: str) -> str:
    """Run a program of the image, which must succeed. Return its standard output."""
    done = subprocess.run(["chroot", root, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def imported(archive: Path, image: str, folder: Path, netns: Netns) -> Iterator[Callable[..., list[str]]]:
    """A runtime that has imported the archive. Yields a function that runs a command in a container."""
    containerd.write_network(folder)
    with containerd.running(folder, netns, {}) as runtime:
        ctr = ("ctr", "--address", str(runtime.folder / "containerd.sock"), "--namespace", "k8s.io")
        subprocess.run(
            [*ctr, "images", "import", "--snapshotter", "native", archive], check=True, capture_output=True
        )

        def run(name: str, *command: str) -> list[str]:
            security = cri.LinuxContainerSecurityContext()
            return runtime.output(name, list(command), security, image=f"localhost/{image}:{version()}")

        yield run


def test_runtime_imports_the_image_and_its_program_has_all_that_it_imports(
    archive: Path, tmp_path: Path, netns: Callable[[], Netns]
) -> None:
    with imported(archive, "wirespeed", tmp_path, netns()) as run:
        (told,) = run("one", "wirespeed", "version")
        assert told.startswith(f"wirespeed {version()}, CNI ")
        assert run("two", "python3", "-c", IMPORT_ALL) == ["all"]


def test_starting_agent_compiles_nothing(roots: dict[str, Path]) -> None:
    start = f"import wirespeed.cli.agent, wirespeed.agent.server, wirespeed.agent.daemon\n{COMPILED}"
    inside(roots["amd64"], f"/{PREFIX}/bin/python3", "-B", "-c", start)
    for root in roots.values():
        assert list((root / LIBRARY).glob("asyncio/__pycache__/base_events.*.pyc"))


def test_tools_that_executed_plugins_call_run(roots: dict[str, Path]) -> None:
    assert "nf_tables" in inside(roots["amd64"], "iptables", "--version")
    assert inside(roots["amd64"], "ip", "-V").startswith("ip utility")
    assert inside(roots["amd64"], "nft", "--version").startswith("nftables")


def test_image_lists_its_debian_packages_where_scanners_look(roots: dict[str, Path]) -> None:
    shown = inside(roots["amd64"], "dpkg-query", "--show", "--showformat", "${Package} ${Status}\n")
    assert {f"{name} install ok installed" for name in IMAGES["wirespeed"].packages} <= set(shown.splitlines())
    lists = {name: (root / "var/lib/dpkg/status").read_text() for name, root in roots.items()}
    assert "\nArchitecture: arm64\n" in lists["arm64"]
    assert "\nArchitecture: arm64\n" not in lists["amd64"]


def test_image_holds_nothing_of_the_machine_that_built_it(roots: dict[str, Path]) -> None:
    for root in roots.values():
        for name in ("etc/hostname", "etc/resolv.conf", "etc/machine-id", "etc/apt"):
            assert not (root / name).is_file()
            assert not (root / name).is_dir() or not any((root / name).iterdir())
        records = root.rglob("direct_url.json")
        assert [path for path in records if "file:" in path.read_text()] == []


def test_image_for_arm64_runs(roots: dict[str, Path]) -> None:
    root = roots["arm64"]
    emulator = shutil.which(ARCHITECTURES["arm64"].qemu) or shutil.which("qemu-aarch64")
    assert emulator, "expected qemu-user, which `make node-packages` installs"
    shutil.copy(emulator, root / "emulator")
    python = ("/emulator", f"/{PREFIX}/bin/python3")
    assert inside(root, *python, f"/{PREFIX}/bin/wirespeed", "version").startswith(f"wirespeed {version()}")
    machine = inside(root, *python, "-c", "import platform, grpc, msgspec, yaml, cffi; print(platform.machine())")
    assert machine == "aarch64\n"
    shim = ["chroot", str(root), "/emulator", f"/{PREFIX}/share/wirespeed/wirespeed-cni"]
    called = subprocess.run(
        shim,
        env={**os.environ, "WIRESPEED_WAIT_MS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert json.loads(called.stdout)["code"] == 11  # it tried to reach an agent, and there is none


def test_same_sources_and_packages_make_the_same_image(archive: Path, tmp_path: Path) -> None:
    def digests(path: Path) -> set[str]:
        """The digests of layers, configurations and manifests."""
        with tarfile.open(path) as content:
            return {name for name in content.getnames() if name.startswith("blobs/sha256/")}

    again = tmp_path / "again.tar"
    with Progress(label="image") as progress:
        build(IMAGES["wirespeed"], ["amd64"], again, progress)
    assert len(digests(again)) == 4  # two layers, a configuration, a manifest
    assert digests(again) <= digests(archive)


# The image of the examples' pods

# The programs that their scripts and probes call.
PROGRAMS = "cat dpdk-testpmd env find grep ip ping python3 seq sh sleep stdbuf tail wirespeed"
TESTPMD = "dpdk-testpmd --no-huge -m 64 --no-pci --vdev=net_null0 -- --total-num-mbufs=2048 --auto-start"
READY = f"""
sleep 60 | {TESTPMD} > /tmp/testpmd.log 2>&1 &
for try in $(seq 300); do wirespeed ready 2> /tmp/ready && echo ready && exit; sleep 0.1; done
cat /tmp/ready /tmp/testpmd.log
"""
LIBRARIES = """
import ctypes
import wirespeed_eal as eal
assert "--no-pci" in eal.arguments()
library = ctypes.CDLL("libwirespeed_eal.so")
print(bool(library.ws_eal_open), eal.__file__)
"""


def test_pods_of_the_examples_have_all_that_they_run(tmp_path: Path, netns: Callable[[], Netns]) -> None:
    with imported(built("wirespeed-testpmd"), "wirespeed-testpmd", tmp_path, netns()) as run:
        missing = f"for each in {PROGRAMS}; do command -v $each > /dev/null || echo no $each; done; ls -ld /var/run"
        (link,) = run("programs", "sh", "-c", missing)
        assert link.endswith("/var/run -> /run")
        assert run("ready", "sh", "-c", READY) == ["ready"]
        assert run("nobody", "sh", "-c", "wirespeed ready 2>&1; echo $?")[1:] == ["1"]
        assert run("libraries", "python3", "-c", LIBRARIES) == [
            f"True /{PREFIX}/bin/wirespeed/wirespeed_eal/__init__.py"
        ]

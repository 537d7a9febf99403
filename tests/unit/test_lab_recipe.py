"""The lab's recipes and cache keys, its command line, QEMU's command line, and the guest's source tree."""

import dataclasses
import io
import itertools
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from image.archive import unpack
from lab import carry, recipe, scratch, tree, vm, vmlinux
from lab.build import Artefacts, cache_folder, finished
from lab.errors import LabError, tail
from lab.options import parse
from lab.progress import Progress
from lab.recipe import Recipe, Recipes, recipes


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.lock"
    path.write_text("msgspec==1.0\n")
    return path


@pytest.fixture
def files(tmp_path: Path) -> vm.Files:
    artefacts = Artefacts(
        cache=tmp_path, qemu=tmp_path / "qemu-1", image=tmp_path / "image-1", boot=tmp_path / "boot-1"
    )
    return vm.Files(
        artefacts=artefacts,
        tree=tmp_path / "tree.tar",
        out=tmp_path / "out",
        console=tmp_path / "console.log",
    )


def simple(**changes: object) -> Recipe:
    base = Recipe(name="one", title="one", script="true", settings={"SUITE": "trixie"}, inputs={})
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def keys(of: Recipes) -> dict[str, str]:
    return {field.name: getattr(of, field.name).key for field in dataclasses.fields(of)}


# Recipes


def test_key_is_the_same_for_the_same_recipe() -> None:
    assert simple().key == simple().key
    assert simple().folder == f"one-{simple().key}"


@pytest.mark.parametrize(
    "changes",
    [
        {"script": "false"},
        {"settings": {"SUITE": "forky"}},
        {"settings": {"SUITE": "trixie", "PACKAGES": "udev"}},
        {"inputs": {"BASE": Recipe(name="base", title="base", script="", settings={}, inputs={})}},
    ],
)
def test_key_changes_with_every_part(changes: dict[str, object]) -> None:
    assert simple(**changes).key != simple().key


def test_key_changes_when_something_below_changes() -> None:
    above = [simple(inputs={"BASE": simple(script=text)}).key for text in ("a", "b")]
    assert above[0] != above[1]


def test_key_changes_with_a_file_the_recipe_reads(tmp_path: Path) -> None:
    path = tmp_path / "init"
    path.write_text("one")
    before = simple(files=(path,)).key
    path.write_text("two")
    assert simple(files=(path,)).key != before


def test_lock_file_decides_the_python_layer_and_the_disk_only(lock: Path) -> None:
    before = keys(recipes(lock=lock))
    lock.write_text("msgspec==2.0\n")
    after = keys(recipes(lock=lock))
    assert {name for name in before if before[name] != after[name]} == {"python", "image"}


def test_guest_script_decides_the_initrd_only(lock: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = keys(recipes(lock=lock))
    copy = tmp_path / "lab"
    (copy / "guest").mkdir(parents=True)
    for folder in ("recipes", "drivers"):
        (copy / folder).symlink_to(recipe.LAB / folder)
    for name in ("vmlinux.py", "guest/init", "guest/setup", "guest/agent.py"):
        (copy / name).write_bytes((recipe.LAB / name).read_bytes())
    with (copy / "guest/setup").open("a") as file:
        file.write("# changed\n")
    monkeypatch.setattr(recipe, "LAB", copy)
    after = keys(recipes(lock=lock))
    assert {name for name in before if before[name] != after[name]} == {"boot"}


def test_guest_packages_decide_everything_in_the_guest(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(recipes(lock=lock))
    monkeypatch.setattr(recipe, "GUEST_PACKAGES", (*recipe.GUEST_PACKAGES, "iperf3"))
    after = keys(recipes(lock=lock))
    assert {name for name in before if before[name] != after[name]} == {
        *("guest", "python", "modules", "image", "boot")
    }


def test_list_of_test_drivers_decides_them_and_the_disk_only(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(recipes(lock=lock))
    monkeypatch.setattr(recipe, "TEST_DRIVERS", (*recipe.TEST_DRIVERS, "drivers/ptp/ptp_mock.c"))
    after = keys(recipes(lock=lock))
    assert {name for name in before if before[name] != after[name]} == {"modules", "image"}


def test_the_labs_own_drivers_are_compiled_with_them(lock: Path) -> None:
    assert [path.name for path in recipes(lock=lock).modules.files] == ["wirespeed_sf.c"]


def test_build_counts_as_finished_only_when_every_folder_is_there(lock: Path, tmp_path: Path) -> None:
    wanted = recipes(lock=lock)
    for name in (wanted.qemu.folder, wanted.image.folder, f".building-{wanted.boot.folder}"):
        (tmp_path / name).mkdir()
    assert finished(tmp_path, wanted) is None
    (tmp_path / wanted.boot.folder).mkdir()
    assert finished(tmp_path, wanted) is not None


def test_cache_folder_follows_xdg() -> None:
    assert cache_folder({"XDG_CACHE_HOME": "/x"}) == Path("/x/wirespeed/lab")
    assert cache_folder({}) == Path.home() / ".cache/wirespeed/lab"


# Files and settings lent by the host


def test_pip_settings_are_found_where_the_recipe_sees_them(tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "carry"
    (home / ".config/pip").mkdir(parents=True)
    (home / ".config/pip/pip.conf").write_text("[global]\ntimeout = 7\n")
    folder.mkdir()
    bundle = tmp_path / "ca.pem"
    bundle.write_text("certificate")
    links = tmp_path / "wheels"
    links.mkdir()
    host = {
        "SSL_CERT_FILE": str(bundle),
        "PIP_FIND_LINKS": f"{links} /absent",
        "https_proxy": "p",
        "SECRET": "s",
    }
    result = carry.pip_settings(host, home, folder)
    assert (folder / "user/pip/pip.conf").read_text() == "[global]\ntimeout = 7\n"
    assert result["XDG_CONFIG_HOME"] == "/run/carry/user"
    assert (folder / "certificates.pem").read_text() == "certificate"
    assert result["PIP_CERT"] == "/run/carry/certificates.pem"
    assert (folder / "binds").read_text() == f"{links} /run/links/0\n"
    assert result["PIP_FIND_LINKS"] == "/run/links/0 /absent"
    assert result["https_proxy"] == "p"
    assert "SECRET" not in result


def test_mirror_can_be_named() -> None:
    assert carry.mirror({"WIRESPEED_LAB_MIRROR": "here"}) == "here"


# The command line


def test_command_is_what_follows_the_first_dashes() -> None:
    asked = parse(["run", "--timeout", "5", "--env", "A=b=c", "--", "sh", "-x", "--", "y"])
    assert asked.command == ["sh", "-x", "--", "y"]
    assert asked.timeout == 5
    assert asked.env == [("A", "b=c")]
    assert asked.hub == "separate"
    assert not asked.udev


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "build|run|shell"),
        (["fly"], "fly"),
        (["run"], "after --"),
        (["run", "--"], "after --"),
        (["run", "pytest"], "pytest"),
        (["shell", "--", "ls"], "shell takes no command"),
        (["run", "--env", "A", "--", "x"], "'A' is not K=V"),
        (["run", "--timeout", "0", "--", "x"], "'0' is not a positive number of seconds"),
        (["run", "--timeout", "soon", "--", "x"], "'soon' is not a positive number of seconds"),
        (["run", "--hugepages", "-1", "--", "x"], "'-1' is not a number"),
        (["run", "--hub", "none", "--", "x"], "none"),
    ],
)
def test_bad_use_gives_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(arguments)
    assert end.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("lab: ")
    assert text.count("\n") == 1
    assert says in text


# QEMU's command line


def values(command: list[str], option: str) -> list[str]:
    return [value for name, value in itertools.pairwise(command) if name == option]


def test_image_is_opened_under_a_throw_away_overlay(files: vm.Files) -> None:
    command = vm.qemu_arguments(files, vm.Machine(), {"ctl": 3, "out": 4, "err": 5})
    disk, tree_disk = values(command, "-drive")
    assert disk.endswith(f"snapshot=on,file={files.artefacts.image}/disk.img")
    assert "readonly=on" in tree_disk


def test_two_pfs_sit_on_root_ports_of_their_own(files: vm.Files) -> None:
    command = vm.qemu_arguments(files, vm.Machine(), {"ctl": 3, "out": 4, "err": 5})
    cards = [value for value in values(command, "-device") if value.startswith("igb,")]
    assert [value.split(",")[2] for value in cards] == ["bus=port1", "bus=port2"]


@pytest.mark.parametrize(("hub", "hubs"), [("separate", {"hubid=1", "hubid=2"}), ("joined", {"hubid=1"})])
def test_hub_decides_whether_the_pfs_share_a_wire(files: vm.Files, hub: str, hubs: set[str]) -> None:
    command = vm.qemu_arguments(files, vm.Machine(hub=hub), {"ctl": 3, "out": 4, "err": 5})
    assert {value.split(",")[1] for value in values(command, "-netdev")} == hubs


def test_accelerator_and_kernel_line_follow_the_machine(files: vm.Files) -> None:
    machine = vm.Machine(accel="kvm", hugepages=8, udev=True, extra_kernel="debug")
    command = vm.qemu_arguments(files, machine, {"ctl": 3, "out": 4, "err": 5})
    assert values(command, "-accel") == ["kvm"]
    line = values(command, "-append")[0].split()
    assert {"intel_iommu=on", "iommu=pt", "lab.hugepages=8", "lab.udev=1", "debug"} <= set(line)
    command = vm.qemu_arguments(files, vm.Machine(), {"ctl": 3, "out": 4, "err": 5})
    assert values(command, "-accel") == ["tcg,thread=multi"]


def test_commas_in_paths_do_not_end_an_option(files: vm.Files, tmp_path: Path) -> None:
    odd = dataclasses.replace(files, out=tmp_path / "a,readonly=on")
    command = vm.qemu_arguments(odd, vm.Machine(), {"ctl": 3, "out": 4, "err": 5})
    assert f"path={tmp_path}/a,,readonly=on,mount_tag=out" in values(command, "-virtfs")[0]


# The source tree


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    path = tmp_path / "repo"
    (path / "build").mkdir(parents=True)
    (path / ".gitignore").write_text("/build/\n")
    (path / "new.py").write_text("new")
    (path / "run.sh").write_text("run")
    (path / "run.sh").chmod(0o755)
    (path / "link").symlink_to("new.py")
    (path / "build/shim").write_text("shim")
    (path / "gone").write_text("")
    subprocess.run(["git", "init", "-q", path], check=True)
    subprocess.run(["git", "-C", path, "add", "gone"], check=True)
    (path / "gone").unlink()
    return path


def members(archive: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(archive) as opened:
        return {entry.name: entry for entry in opened}


def test_tree_holds_what_git_lists_and_nothing_ignored_or_gone(repo: Path, tmp_path: Path) -> None:
    tree.write_tree(tmp_path / "tree.tar", repo)
    found = members(tmp_path / "tree.tar")
    assert set(found) == {f"work/wirespeed/{name}" for name in (".gitignore", "new.py", "run.sh", "link")}
    assert found["work/wirespeed/run.sh"].mode & 0o111
    assert found["work/wirespeed/link"].linkname == "new.py"


def test_add_brings_ignored_and_outside_files(repo: Path, tmp_path: Path) -> None:
    outside = tmp_path / "bin"
    outside.mkdir()
    (outside / "sriov").write_text("")
    tree.write_tree(tmp_path / "tree.tar", repo, add=[str(repo / "build"), f"{outside}:/opt/peers"])
    assert {"work/wirespeed/build/shim", "opt/peers/sriov"} <= set(members(tmp_path / "tree.tar"))


@pytest.mark.parametrize("argument", ["/nonexistent-file", "/usr/bin/env", "/usr/bin/env:relative"])
def test_add_refuses_what_it_cannot_place(repo: Path, argument: str) -> None:
    with pytest.raises(LabError, match="--add"):
        tree.added_files(argument, repo)


def test_entry_points_are_found_as_if_installed(repo: Path, tmp_path: Path) -> None:
    (repo / "pyproject.toml").write_text(
        '[project]\nname = "w"\nversion = "1"\nscripts = {w = "cli:main"}\n'
        '[project.entry-points."w.plugins"]\nmeta = "p.meta:create"\n'
    )
    tree.write_tree(tmp_path / "tree.tar", repo)
    with tarfile.open(tmp_path / "tree.tar") as archive:
        unpack(archive, tmp_path / "guest")
    script = "import importlib.metadata as m; print([e.value for e in m.entry_points(group='w.plugins')])"
    python_path = dict(os.environ, PYTHONPATH=str(tmp_path / "guest/work/wirespeed"))
    shown = subprocess.run(
        [sys.executable, "-c", script], env=python_path, capture_output=True, text=True, check=True
    )
    assert shown.stdout == "['p.meta:create']\n"
    command = tmp_path / "guest/usr/local/bin/w"
    assert os.access(command, os.X_OK)
    assert 'sys.path.insert(0, "/work/wirespeed")' in command.read_text()


# Helper functions


def test_kernel_payload_is_cut_out_by_the_boot_header() -> None:
    image = bytearray(0x400 + 100)
    image[0x1F1] = 1
    image[0x202:0x206] = b"HdrS"
    image[0x248:0x250] = (10).to_bytes(4, "little") + (20).to_bytes(4, "little")
    image[0x400 + 10 : 0x400 + 30] = b"sixteen bytes ok" + b"size"
    assert vmlinux.payload(bytes(image)) == b"sixteen bytes ok"


@pytest.mark.parametrize("image", [b"\0" * 1024, b""])
def test_what_is_no_kernel_is_refused(image: bytes) -> None:
    with pytest.raises(ValueError, match="not a bzImage"):
        vmlinux.payload(image)


def test_progress_without_a_terminal_writes_plain_lines() -> None:
    stream = io.StringIO()

    def steps() -> None:
        with Progress(stream) as progress:
            with progress.step("booting", done="up"):
                pass
            with progress.step("guest"):
                raise RuntimeError

    with pytest.raises(RuntimeError):
        steps()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "lab: booting ..."
    assert lines[1].startswith("lab: booting: up in ")
    assert lines[3].startswith("lab: guest: failed in ")
    assert "\x1b" not in stream.getvalue()


def test_scratch_folders_of_dead_processes_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead, young = tmp_path / "wirespeed-lab-dead", tmp_path / "wirespeed-lab-young"
    dead.mkdir()
    young.mkdir()
    long_ago = time.time() - 2 * scratch.GRACE
    with scratch.scratch() as used:
        os.utime(dead, (long_ago, long_ago))
        os.utime(used, (long_ago, long_ago))
        with scratch.scratch():
            assert used.is_dir()
            assert not dead.exists()
            assert young.is_dir()
    assert not used.exists()


def test_tail_keeps_the_end() -> None:
    assert tail("a\nb\nc\n", 2) == "b\nc"

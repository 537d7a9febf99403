"""The recipes of the lab's artefacts. A recipe's key is part of the name of the artefact's directory."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

LAB = Path(__file__).resolve().parent
REPO = LAB.parent
LOCK = REPO / "requirements.lock"

SUITE = "trixie"
QEMU_AT_LEAST = "10.0.5"
QEMU_PACKAGES = ("qemu-system-x86", "seabios")
GUEST_PACKAGES = (
    "containernetworking-plugins",
    "dpdk-dev",
    "dropbear-bin",
    "ethtool",
    "iproute2",
    "iputils-ping",
    "kmod",
    "linux-image-amd64",
    "openvswitch-switch-dpdk",
    "pciutils",
    "procps",
    "python3",
    "python3-venv",
    "runc",
    "tcpdump",
    "udev",
)
ROOT_DISK_MODULES = ("virtio_pci", "virtio_blk", "ext4")
# Installed in the guest's root: modules that its setup loads, and modules that tests load.
GUEST_MODULES = (
    *ROOT_DISK_MODULES,
    *("virtio_console", "9p", "9pnet_virtio"),
    *("igb", "igbvf", "vfio-pci", "vfio_iommu_type1"),
    *("bridge", "veth", "macvlan", "8021q"),
    *("dummy", "ipvlan", "macvtap", "overlay", "tun", "vhost_net", "vxlan"),
    *("psample", "vdpa", "vhost_vdpa", "virtio_net", "virtio_vdpa"),
)
# The kernel's test drivers, which Debian does not build: the sources to unpack, and the options for make.
TEST_DRIVERS = ("drivers/net/netdevsim", "drivers/vdpa/vdpa_sim", "drivers/vhost/vringh.c")
TEST_DRIVER_OPTIONS = ("CONFIG_NETDEVSIM=m", "CONFIG_VDPA_SIM=m", "CONFIG_VDPA_SIM_NET=m")
# To compile them; the headers' objtool needs libelf.
COMPILER_PACKAGES = ("gcc", "libelf1t64", "make")
IMAGE_SIZE = "8G"
# Commands needed on the host, and the packages to install if they are missing.
HOST_TOOLS = {
    "busybox": "busybox-static",
    "cpio": "cpio",
    "debootstrap": "debootstrap",
    "depmod": "kmod",
    "mke2fs": "e2fsprogs",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "xz": "xz-utils",
    "zstd": "zstd",
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How an artefact is built: shell script, settings, files it reads, artefacts it depends on."""

    name: str
    title: str
    script: str
    settings: dict[str, str]
    inputs: dict[str, "Recipe"]
    files: tuple[Path, ...] = ()

    @property
    def key(self) -> str:
        """16 hexadecimal digits that change whenever anything changes from which the artefact is built."""
        parts = {
            "script": self.script,
            "settings": self.settings,
            "inputs": {name: recipe.key for name, recipe in self.inputs.items()},
            "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.files},
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def folder(self) -> str:
        """The name of the artefact's directory in the cache."""
        return f"{self.name}-{self.key}"


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """All artefacts of the lab."""

    base: Recipe
    qemu: Recipe
    guest: Recipe
    python: Recipe
    modules: Recipe
    image: Recipe
    boot: Recipe


def _recipe(
    name: str, title: str, inputs: dict[str, Recipe], files: tuple[Path, ...] = (), **settings: str
) -> Recipe:
    """Return a recipe whose script is NAME.sh, preceded by the shared functions."""
    script = "".join((LAB / "recipes" / f"{part}.sh").read_text() for part in ("chroot", name))
    return Recipe(name=name, title=title, script=script, settings=settings, inputs=inputs, files=files)


def recipes(*, lock: Path = LOCK) -> Recipes:
    """Return the recipes for this source tree and its lock file."""
    base = _recipe("base", "Debian base (debootstrap)", {}, SUITE=SUITE)
    qemu = _recipe("qemu", "QEMU", {"BASE": base}, PACKAGES=" ".join(QEMU_PACKAGES), QEMU_AT_LEAST=QEMU_AT_LEAST)
    packages, kernel_modules = " ".join(GUEST_PACKAGES), " ".join(GUEST_MODULES)
    guest = _recipe("guest", "guest system", {"BASE": base}, PACKAGES=packages, MODULES=kernel_modules)
    python = _recipe("python", "guest Python packages", {"GUEST": guest}, (lock,))
    modules = _recipe(
        "modules",
        "the kernel's test drivers",
        {"BASE": base, "GUEST": guest},
        tuple(sorted((LAB / "drivers").glob("*.c"))),
        PACKAGES=" ".join(COMPILER_PACKAGES),
        DRIVERS=" ".join(TEST_DRIVERS),
        OPTIONS=" ".join(TEST_DRIVER_OPTIONS),
    )
    parts = {"GUEST": guest, "VENV": python, "MODULES": modules}
    image = _recipe("image", "guest disk", parts, SIZE=IMAGE_SIZE)
    files = (LAB / "vmlinux.py", *(LAB / "guest" / name for name in ("init", "setup", "agent.py")))
    boot = _recipe("boot", "kernel and initrd", {"GUEST": guest}, files, MODULES=" ".join(ROOT_DISK_MODULES))
    return Recipes(base=base, qemu=qemu, guest=guest, python=python, modules=modules, image=image, boot=boot)

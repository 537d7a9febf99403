"""A fake sysfs of PCI network devices, laid out as the kernel does it. Tests change it as the kernel would."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


class FakeSysfs:
    """PFs, their VFs and other network devices, under `root`. Code that reads `/sys` is given `root` instead.

    Attributes and links are those of the kernel. Addresses look like "0000:18:00.0"; the VFs of that PF are
    0000:19:00.0, 0000:19:00.1 ... 0000:19:00.7, 0000:19:01.0 ...
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("bus/pci/devices", "bus/pci/drivers", "class/net", "kernel/iommu_groups"):
            (root / folder).mkdir(parents=True, exist_ok=True)

    def device(
        self,
        address: str,
        *,
        driver: str = "",
        name: str = "",
        vendor: str = "8086",
        device: str = "1592",
        pci_class: str = "0x020000",
        numa: int | str | None = 0,
        iommu_group: int | None = None,
        link_type: int = 1,
    ) -> str:
        """Add a PCI device. Return its address. `name` adds an interface; `numa` None omits the attribute."""
        bus = address.rpartition(":")[0]
        real = self.root / "devices" / f"pci{bus}" / address
        real.mkdir(parents=True)
        self._link(self.root / "bus/pci/devices" / address, real)
        attributes = {
            "vendor": f"0x{vendor}",
            "device": f"0x{device}",
            "class": pci_class,
            "driver_override": "(null)",
        }
        if numa is not None:
            attributes["numa_node"] = str(numa)
        for attribute, text in attributes.items():
            self.write(address, attribute, text)
        if iommu_group is not None:
            self.iommu_group(address, iommu_group)
        if driver:
            self.bind(address, driver)
        if name:
            self.interface(address, name, link_type=link_type)
        return address

    def pf(
        self,
        address: str,
        name: str,
        *,
        vfs: int = 0,
        driver: str = "ice",
        vf_driver: str = "iavf",
        vf_device: str = "1889",
        numa: int | str | None = 0,
        link_type: int = 1,
        **attributes: str,
    ) -> list[str]:
        """Add a PF with an interface (with `attributes`) and VFs (see `set_vfs`). Return the VFs' addresses."""
        self.device(address, driver=driver, numa=numa)
        self.interface(address, name, link_type=link_type, **attributes)
        for attribute, number in {"totalvfs": 256, "numvfs": 0, "offset": 256, "stride": 1}.items():
            self.write(address, f"sriov_{attribute}", str(number))
        return self.set_vfs(address, vfs, driver=vf_driver, device=vf_device)

    def set_vfs(self, pf: str, count: int, *, driver: str = "iavf", device: str = "1889") -> list[str]:
        """Replace the PF's VFs by `count` new ones, bound to `driver`. Kernel network drivers create interfaces."""
        path = self.path(pf)
        for link in path.glob("virtfn*"):
            if link.exists():  # otherwise the device was removed on its own, and its PF still has the link
                self.remove(link.resolve().name)
            link.unlink()
        self.write(pf, "sriov_numvfs", str(count))
        vfs = [vf_address(pf, number) for number in range(count)]
        numa = (path / "numa_node").read_text().strip() if (path / "numa_node").exists() else None
        for number, address in enumerate(vfs):
            self.device(address, device=device, vendor=self.read(pf, "vendor").removeprefix("0x"), numa=numa)
            self._link(path / f"virtfn{number}", self.path(address))
            self._link(self.path(address) / "physfn", path)
            self.iommu_group(address, _number(address))
            if driver:
                self.bind(address, driver)
            if driver not in {"", "vfio-pci", "igb_uio", "uio_pci_generic"}:
                pf_interface = next(iter(sorted(os.listdir(path / "net"))), "eth")
                self.interface(address, f"{pf_interface}v{number}")
        return vfs

    def bind(self, address: str, driver: str) -> None:
        """Bind the device to another driver; "" only unbinds it. Interfaces are not changed."""
        link = self.path(address) / "driver"
        if link.is_symlink():
            (link.resolve() / address).unlink()
            link.unlink()
        if driver:
            folder = self.root / "bus/pci/drivers" / driver
            folder.mkdir(exist_ok=True)
            self._link(link, folder)
            self._link(folder / address, self.path(address))

    def interface(self, address: str, name: str, *, link_type: int = 1, **attributes: str) -> None:
        """Add an interface to the device; `link_type` is 1 for Ethernet, 32 for InfiniBand."""
        folder = self.path(address) / "net" / name
        folder.mkdir(parents=True)
        self._link(folder / "device", self.path(address))
        for attribute, text in {"type": str(link_type), **attributes}.items():
            (folder / attribute).write_text(f"{text}\n")
        self._link(self.root / "class/net" / name, folder)

    def upper(self, name: str, *lower: str) -> None:
        """Add a virtual interface (a bond, a bridge, a VLAN interface) on top of others."""
        folder = self.root / "devices/virtual/net" / name
        folder.mkdir(parents=True)
        self._link(self.root / "class/net" / name, folder)
        for below in lower:
            self._link(folder / f"lower_{below}", self.root / "class/net" / below)

    def drop_interface(self, name: str) -> None:
        """Remove the interface, as when it moves into a pod or its driver is unbound."""
        link = self.root / "class/net" / name
        shutil.rmtree(link.resolve())
        link.unlink()

    def iommu_group(self, address: str, number: int, name: str = "DMAR") -> None:
        """Put the device into an IOMMU group. The kernel names a group without an IOMMU `vfio-noiommu`."""
        group = self.root / "kernel/iommu_groups" / str(number)
        group.mkdir(exist_ok=True)
        (group / "name").write_text(f"{name}\n")
        (group / "devices").mkdir(exist_ok=True)
        link = self.path(address) / "iommu_group"
        if link.is_symlink():
            (link / "devices" / address).unlink()
            link.unlink()
        self._link(link, group)
        self._link(group / "devices" / address, self.path(address))

    def uio(self, address: str, number: int) -> None:
        """Add the uio device that igb_uio creates."""
        (self.path(address) / "uio" / f"uio{number}").mkdir(parents=True)

    def vfio_device(self, address: str, number: int) -> None:
        """Add what vfio creates if the kernel has per-device nodes (CONFIG_VFIO_DEVICE_CDEV) and iommufd."""
        folder = self.path(address) / "vfio-dev" / f"vfio{number}"
        folder.mkdir(parents=True)
        (folder / "dev").write_text(f"511:{number}\n")
        (self.root / "class/misc/iommu").mkdir(parents=True, exist_ok=True)

    def function(self, pf: str, name: str, number: int, *, interface: str = "") -> str:
        """Add a scalable function of a PF on the auxiliary bus, such as "mlx5_core.sf.4". Return its name."""
        folder = self.path(pf) / name
        folder.mkdir()
        (folder / "sfnum").write_text(f"{number}\n")
        bus, driver = self.root / "bus/auxiliary", f"{name.partition('.')[0]}.sf"
        (bus / "devices").mkdir(parents=True, exist_ok=True)
        (bus / "drivers" / driver).mkdir(parents=True, exist_ok=True)
        self._link(bus / "devices" / name, folder)
        self._link(folder / "driver", bus / "drivers" / driver)
        if interface:
            (folder / "net" / interface).mkdir(parents=True)
        return name

    def rdma(self, of: Path, name: str, *, number: int, pkey: str = "0xffff") -> None:
        """Add an RDMA device to the device in the directory `of`, with all its character devices."""
        (of / "infiniband" / name / "ports/1/pkeys").mkdir(parents=True)
        (of / "infiniband" / name / "ports/1/pkeys/0").write_text(f"{pkey}\n")
        nodes = {"infiniband_verbs": ["uverbs"], "infiniband_mad": ["issm", "umad"], "infiniband_cm": ["ucm"]}
        for kind, prefixes in nodes.items():
            for prefix in prefixes:
                folder = self.root / "class" / kind / f"{prefix}{number}"
                folder.mkdir(parents=True)
                (folder / "ibdev").write_text(f"{name}\n")
        (self.root / "class/misc/rdma_cm").mkdir(parents=True, exist_ok=True)

    def vdpa(self, of: Path, name: str, driver: str = "", *, number: int = 0, interface: str = "") -> None:
        """Add a vdpa device of the device in directory `of`, bound to "virtio_vdpa" (with `interface`) or
        "vhost_vdpa".
        """
        folder = of / name
        folder.mkdir()
        (self.root / "bus/vdpa/devices").mkdir(parents=True, exist_ok=True)
        self._link(self.root / "bus/vdpa/devices" / name, folder)
        if driver:
            drivers = self.root / "bus/vdpa/drivers" / driver
            drivers.mkdir(parents=True, exist_ok=True)
            self._link(folder / "driver", drivers)
        if driver == "vhost_vdpa":
            (folder / f"vhost-vdpa-{number}").mkdir()
        if driver == "virtio_vdpa":
            self._virtio(folder, f"virtio{number}", interface)

    def _virtio(self, of: Path, name: str, interface: str) -> None:
        """Add a virtio device bound to virtio_net."""
        (of / name / "net" / interface).mkdir(parents=True)
        bus = self.root / "bus/virtio"
        (bus / "devices").mkdir(parents=True, exist_ok=True)
        (bus / "drivers/virtio_net").mkdir(parents=True, exist_ok=True)
        self._link(bus / "devices" / name, of / name)
        self._link(of / name / "driver", bus / "drivers/virtio_net")

    def remove(self, address: str) -> None:
        """Remove the device."""
        self.bind(address, "")
        if (group := self.path(address) / "iommu_group").is_symlink():
            (group / "devices" / address).unlink()
        for interface in self.path(address).glob("net/*"):
            self.drop_interface(interface.name)
        shutil.rmtree(self.path(address))
        (self.root / "bus/pci/devices" / address).unlink()

    def set_interface(self, name: str, attribute: str, text: str) -> None:
        """Set an attribute of an interface, such as `operstate` or `flags`."""
        (self.root / "class/net" / name / attribute).write_text(f"{text}\n")

    def path(self, address: str) -> Path:
        """The device's real directory."""
        return (self.root / "bus/pci/devices" / address).resolve()

    def write(self, address: str, attribute: str, text: str) -> None:
        (self.path(address) / attribute).write_text(f"{text}\n")

    def read(self, address: str, attribute: str) -> str:
        return (self.path(address) / attribute).read_text().strip()

    def _link(self, link: Path, target: Path) -> None:
        link.symlink_to(os.path.relpath(target, link.parent.resolve()))


def vf_address(pf: str, number: int) -> str:
    """The address of a VF of the PF."""
    domain, bus, _ = pf.split(":")
    return f"{domain}:{int(bus, 16) + 1:02x}:{number >> 3:02x}.{number & 7}"


def _number(address: str) -> int:
    """A distinct number for each address."""
    _, bus, function = address.split(":")
    slot, _, part = function.partition(".")
    return int(bus, 16) << 8 | int(slot, 16) << 3 | int(part)

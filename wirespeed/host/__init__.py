"""The node's hardware and kernel: PCI, PFs and VFs, netlink, network namespaces, driver binding, vfio."""

"""The node: PCI, physical and virtual functions, netlink, network namespaces, driver binding, vfio."""

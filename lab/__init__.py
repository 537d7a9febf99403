"""A virtual machine with an SR-IOV network card (QEMU igb), vfio and dpdk-testpmd, for tests and the demo."""

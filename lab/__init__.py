"""A virtual machine with a real SR-IOV network card (QEMU igb), vfio and dpdk-testpmd, for tests and the demo."""

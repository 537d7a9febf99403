"""The plugins of the suite: meta, sriov."""

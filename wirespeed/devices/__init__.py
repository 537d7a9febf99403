"""The node's network devices: PFs, VFs, scalable functions and vdpa devices, their state and their drivers."""

"""Installing wirespeed on a node and removing it: the shim, the configuration, pods that other tools attached."""

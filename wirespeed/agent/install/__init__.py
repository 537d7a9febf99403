"""A node taken into service, and given back: the shim, the configuration, the pods that peers attached."""

"""Replaces the kubelet, the container runtime and the API server on one node, without a cluster."""

"""Stands where the kubelet, the runtime and the API server stand, on one node with no cluster."""

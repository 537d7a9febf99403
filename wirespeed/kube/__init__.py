"""Pods, NetworkAttachmentDefinitions, pod-resources and network-status: from an API server or from files."""

import os

# Keep gRPC's core from logging to standard error: the errors that its calls raise have the same information. The
# variable must be set before grpc is loaded: every module that loads it imports this package first.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

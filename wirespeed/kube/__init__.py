"""Pods, NetworkAttachmentDefinitions, pod-resources and network-status: from an API server or from files."""

import os

# What gRPC's core would write to standard error, in lines of its own, is in the errors that its calls raise as
# well. It reads this when it is loaded, which the modules here do, and those that use it load one of them first.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

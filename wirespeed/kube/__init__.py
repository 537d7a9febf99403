"""Pods, NetworkAttachmentDefinitions, pod-resources and network-status: from an API server or from files."""

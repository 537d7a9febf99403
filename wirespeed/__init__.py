"""wirespeed: line-rate interfaces for Kubernetes pods."""

__version__ = "0.1.0"

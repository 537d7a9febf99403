"""Plugins of the CNI reference set in this process: the same results and kernel state as the executables."""

from __future__ import annotations

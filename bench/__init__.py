"""Benchmarks: the duration of wirespeed's calls, compared with the kernel's minimum and with other plugins."""

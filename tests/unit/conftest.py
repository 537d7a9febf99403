"""For all unit tests: hypothesis has no deadline, because durations only depend on the machine's load."""

from hypothesis import HealthCheck, settings

settings.register_profile("wirespeed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("wirespeed")

"""For all unit tests: how long an example of hypothesis takes says how busy the machine is, and nothing else."""

from hypothesis import HealthCheck, settings

settings.register_profile("wirespeed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("wirespeed")

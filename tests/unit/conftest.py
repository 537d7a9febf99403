"""For all unit tests: how long an example of hypothesis takes says how busy the machine is, and nothing else."""

from hypothesis import settings

settings.register_profile("wirespeed", deadline=None)
settings.load_profile("wirespeed")

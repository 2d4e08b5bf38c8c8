"""What all tests share: how much hypothesis tries. HYPOTHESIS_PROFILE=ci for more than at a desk."""

import os

from hypothesis import settings

# No deadline: a busy machine is no failure, and time is measured in bench/.
settings.register_profile("dev", max_examples=60, deadline=None)
settings.register_profile("ci", max_examples=500, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

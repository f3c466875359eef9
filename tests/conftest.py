"""The same examples in every run; ``HYPOTHESIS_PROFILE=default`` draws fresh ones."""

import os

from hypothesis import settings

# Before NumPy is loaded: threads that wait for each other make fits of small matrices many times
# as long where the machine is busy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
settings.register_profile("repeatable", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

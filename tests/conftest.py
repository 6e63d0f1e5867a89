"One thread, no window, the same hypothesis examples every time."

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch is imported: two cores are shared with other work
os.environ.setdefault("MPLBACKEND", "Agg")

from hypothesis import settings  # noqa: E402

settings.register_profile("house", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile("house")

"""One thread, no window, the same hypothesis examples every time; long forms when they are asked for.

`pytest` runs the short forms; `pytest --long` (`make test-all`) all of it: what is marked `long`, more random
cases, more kills, every drill.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the tests share the processors
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

house = settings(deadline=None, derandomize=True, database=None, print_blob=True)
settings.register_profile("short", house, max_examples=20)
settings.register_profile("long", house, max_examples=200)

# Files with few tests that take long are begun first: no worker is left alone with one of them at the end.
FIRST = (
    "test_drills.py",
    "test_site_pages.py",
    "test_study_sweep.py",
    "test_learn_distributed.py",
    "test_run_preflight.py",
    "test_reliability.py",
    "test_doors.py",
)


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="long forms too: clusters, browsers, more cases")


def pytest_configure(config):
    config.addinivalue_line("markers", "long: left out unless --long is given")
    settings.load_profile("long" if config.getoption("long") else "short")


def pytest_collection_modifyitems(config, items):
    "Leave out what is long, and begin with what takes longest."
    left_out = [] if config.getoption("long") else [i for i in items if i.get_closest_marker("long")]
    config.hook.pytest_deselected(items=left_out)
    rank = {name: i for i, name in enumerate(FIRST)}
    items[:] = sorted(
        (item for item in items if item not in set(left_out)),
        key=lambda item: rank.get(item.path.name, len(rank)),
    )


@pytest.fixture(scope="session")
def long(request) -> bool:
    "Whether the long forms run."
    return request.config.getoption("long")

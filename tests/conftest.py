"""Strict mode for the whole suite: float64, no implicit type or rank promotion."""

import gc
import os
import platform
from pathlib import Path

# Several workers share the cores, and many small LAPACK calls on several threads each would spend
# their time waiting for one another. Read when jax loads the library.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import jax
import pytest

import compiling

compiling.for_small_programs()

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Hundreds of small programs, each run a few times: what costs is compiling them. This leaves out
# the backend's expensive passes over machine code, and computes the same.
jax.config.update("jax_disable_most_optimizations", True)

# And what an earlier run compiled is not compiled again, where that took much longer than writing
# and reading a file does: in a first run, writing is what the cache costs. A folder for each
# worker, because one that reads what another is writing is warned, and a warning is an error here.
cache = Path(__file__).parents[1] / ".jax_cache" / os.environ.get("PYTEST_XDIST_WORKER", "main")
jax.config.update("jax_compilation_cache_dir", str(cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

# Compilation dwarfs the rest, so no deadline, and the same examples in every run.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, max_examples=12)
hypothesis.settings.load_profile("suite")

# Linux grants a process 65,530 mappings of memory, and each compiled program takes several. The
# file that adds most adds 7,000; what is forgotten early is compiled anew by the files after it.
MAPPINGS = Path("/proc/self/maps")
MANY = 48_000


@pytest.fixture(scope="module", autouse=True)
def _forget_programs_before_there_are_too_many():
    yield
    if MAPPINGS.exists() and MAPPINGS.read_bytes().count(b"\n") > MANY:
        jax.clear_caches()
        gc.collect()


def pytest_addoption(parser):
    parser.addoption(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="Run the first test and every N-th after it. Every file is imported.",
    )


def pytest_collection_modifyitems(config, items):
    every = config.getoption("--every")
    if every < 1:
        raise pytest.UsageError(f"--every must be at least 1; got {every}. Pass 1 for all tests.")
    config.hook.pytest_deselected(items=[item for at, item in enumerate(items) if at % every])
    items[:] = items[::every]


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(
        f"Python {platform.python_version()}, jax {jax.__version__} on {jax.default_backend()}, "
        f"XLA_FLAGS={os.environ['XLA_FLAGS']!r}"
    )

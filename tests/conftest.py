"""Strict mode for the whole suite: float64, no implicit type or rank promotion."""

import os

# Several workers share the cores, and many small LAPACK calls on several threads each would spend
# their time waiting for one another. Read when jax loads the library.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Hundreds of small programs, each run a few times: what costs is compiling them. This leaves out
# the backend's expensive passes over machine code, and computes the same.
jax.config.update("jax_disable_most_optimizations", True)

# Compilation dwarfs the rest, so no deadline, and the same examples in every run.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, max_examples=12)
hypothesis.settings.load_profile("suite")

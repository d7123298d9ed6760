"""What the checks import beside them, and how they compile."""

import sys
from pathlib import Path

import jax

DOCS = Path(__file__).parents[1]
sys.path[:0] = [str(DOCS), str(DOCS / "_extensions")]
sys.path.append(str(DOCS.parent / "tests"))  # Last: some of its folders have names of packages.

import compiling  # noqa: E402

compiling.for_small_programs()
# Examples are small, so that compiling takes most of their time.
jax.config.update("jax_disable_most_optimizations", True)

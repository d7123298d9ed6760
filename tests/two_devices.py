"""A process of its own that has two devices, for what has to be spread over several."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np


def run_on_two_devices(program: str) -> None:
    """Runs some Python in the suite's strict mode; what it raises fails the test that asks."""
    tests = Path(__file__).parent
    environment = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": "2",
        "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent), *sys.path]),
        "JAX_ENABLE_X64": "true",
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
    }
    program = f"import compiling; compiling.for_small_programs(); {program}"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def write_known(results: dict[str, Any], file: Path) -> None:
    """Keeps the leaves of what each case gives on one device, so that it is not computed twice."""
    leaves = {name: [np.asarray(x) for x in jax.tree.leaves(r)] for name, r in results.items()}
    file.write_bytes(pickle.dumps(leaves))


def read_known(file: str) -> dict[str, list[np.ndarray]]:
    """What `write_known` has written, by name."""
    return pickle.loads(Path(file).read_bytes())

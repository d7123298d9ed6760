"""A process of its own that has two devices, for what has to be spread over several."""

import os
import subprocess
import sys
from pathlib import Path


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
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]

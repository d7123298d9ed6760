"""Whether blocks that exchange their parts of the state do so rightly on the device at hand.

`exchange.py` says what the exchange rests on. Its reasoning is about CUDA's model of memory and how
Pallas and Triton compile it; what a card and a driver make of it is tried out here, once per
process and device, before a program that exchanges is compiled for it.
"""

import functools
import math
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax.sequence.kernels.adjoint import run_adjoint
from rnn_jax.sequence.kernels.forward import run_forward
from rnn_jax.sequence.kernels.rules import Arrays, Group, Keep, StepRule
from rnn_jax.sequence.kernels.tiles import Tiles

# trial(device) -> what went wrong, or "".
Trial = Callable[[Any], str]

STEPS = 300
# A value of another step would be off by as much as the values are large; three products of tf32
# are off by 1e-6 of that.
TOLERANCE = 1e-3
# Far longer than the trial takes if all is well, however slowly it is compiled.
PATIENCE_S = 120.0

_lock = threading.Lock()
_works: dict[Any, bool] = {}


def exchange_works(device: Any, trial: Trial | None = None) -> bool:
    """Whether kernels may exchange on a device: found out at the first call, then remembered.

    If not, there is one warning, and sequences are to be scanned.

    Args:
      device: a local CUDA device.
      trial: what is run; by default `try_exchange`.
    """
    with _lock:
        if device not in _works:
            failure = _in_thread_of_its_own(trial or try_exchange, device)
            _works[device] = not failure
            if failure:
                warnings.warn(
                    f"Kernels whose blocks exchange their states failed their self-test on {device}"
                    f": {failure}. Sequences that need them are scanned instead in this process; "
                    "results are right, and slower.",
                    RuntimeWarning,
                    stacklevel=2,
                )
        return _works[device]


def _in_thread_of_its_own(trial: Trial, device: Any) -> str:
    """What went wrong in a trial, exceptions included.

    It is asked for while other programs are traced and lowered, under whatever mesh, precision and
    other context they have; JAX keeps these by thread.
    """
    outcome = [f"it did not return within {PATIENCE_S:g} s"]

    def run() -> None:
        try:
            outcome[0] = trial(device)
        except Exception as error:  # Whatever it is, there is a way without these kernels.
            outcome[0] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"

    thread = threading.Thread(target=run, name="self-test of the exchange", daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return outcome[0]


def try_exchange(device: Any) -> str:
    """Runs a few recurrences in both directions on a device and in NumPy, and compares them."""
    for split, tiles in _arrangements(device.core_count):
        for name, actual, expected in _runs(device, split, tiles):
            deviation = np.max(np.abs(np.asarray(actual) - expected)) / np.max(np.abs(expected))
            if not deviation < TOLERANCE:  # Not with NaN, either.
                return (
                    f"the {name} of {tiles} tiles with {split} blocks each is off by "
                    f"{deviation:.1e} of its size"
                )
    return ""

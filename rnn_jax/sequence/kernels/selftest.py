"""Whether blocks that exchange their parts of the state do so rightly on the device at hand.

`exchange.py` says what the exchange rests on. Its reasoning is about CUDA's model of memory and how
Pallas and Triton compile it; what a card and a driver make of it is tried out here, once per
process and device, before a program that exchanges is compiled for it.
"""

import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax.sequence.kernels.adjoint import run_adjoint
from rnn_jax.sequence.kernels.forward import run_forward
from rnn_jax.sequence.kernels.rules import Arrays, Group, Keep, StepRule, transposed
from rnn_jax.sequence.kernels.tiles import SMALLEST_TILE, Tiles

# trial(device) -> what went wrong, or "".
Trial = Callable[[Any], str]

# Blocks that share a tile; with each, as many tiles as the device has multiprocessors for.
SPLITS = (2, 16)
STEPS = 100
LARGEST = 1023
TOLERANCE = 0.25
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
    with warnings.catch_warnings():
        # That Pallas is to drop its lowering through Triton one day is no failure today.
        warnings.filterwarnings("ignore", "The Pallas Triton backend", DeprecationWarning)
        thread.start()
        thread.join(PATIENCE_S)
    return outcome[0]


def try_exchange(device: Any, run: Callable[..., Any] | None = None) -> str:
    """Runs a recurrence and its transpose on a device, with few and with many blocks a tile.

    h_t = x_t + h_{t−1} W,    λ_t = y_t + λ_{t+1} Wᵀ,    W a permutation of the units

    What h and λ are to be is drawn first, and x and y made from them. They are whole numbers that
    tf32 holds, so that products are exact, a tag is rounded away, and any value of another step is
    off by many times what is allowed.

    Args:
      device: a local CUDA device.
      run: what runs them, (device, (x, y), W, tiles) -> (h, λ); by default the kernels.

    Returns:
      What went wrong; empty if nothing did.
    """
    for split in SPLITS:
        row_tiles = device.core_count // split
        if not row_tiles:
            continue
        tiles = Tiles(SMALLEST_TILE, split, warps=4, parts=1, chunks=1, at_once=row_tiles * split)
        drives, w, expected = _problem(row_tiles * SMALLEST_TILE, split * SMALLEST_TILE)
        actual = (run or _run_on)(device, drives, w, tiles)
        pairs = zip(actual, expected, strict=True)
        off = np.max([np.max(np.abs(np.asarray(a) - e)) for a, e in pairs])  # NaN if any is.
        if not off < TOLERANCE:
            return f"with {row_tiles} x {split} blocks, values are off by up to {off:.3g}"
    return ""


def _run_on(device: Any, drives: Any, w: np.ndarray, tiles: Tiles) -> Any:
    with jax.default_device(device):
        return _run(drives, w, tiles)


def _problem(rows: int, units: int) -> tuple[Any, np.ndarray, Any]:
    """((x, y), W, (h, λ))."""
    rng = np.random.default_rng(0)
    order = rng.permutation(units)
    w = np.zeros((units, units), np.float32)
    w[order, np.arange(units)] = 1.0
    whole = rng.integers(0, LARGEST + 1, (2, STEPS, rows, units), np.int16)
    h, cotangents = whole.astype(np.float32)
    xs, ys = h.copy(), cotangents.copy()
    xs[1:] -= h[:-1, :, order]
    ys[:-1] -= cotangents[1:, :, np.argsort(order)]
    return (xs, ys), w, (h, cotangents)


@functools.partial(jax.jit, static_argnames=("tiles", "interpret"))
def _run(
    drives: tuple[jax.Array, jax.Array], w: jax.Array, tiles: Tiles, *, interpret: bool = False
) -> tuple[Any, ...]:
    """(h, λ), each (1, T, B, H)."""
    xs, ys = (drive[None] for drive in drives)
    weights = (w[None],)
    options: dict[str, Any] = {"precision": "tf32", "tiles": tiles, "interpret": interpret}
    zero = (jnp.zeros((1, *xs.shape[2:]), jnp.float32),)
    ahead = run_forward(_RULE, weights, (xs,), zero, keep=Keep(ys=True), **options)
    # One after the other: only one of them may count on the whole card.
    _, ys = lax.optimization_barrier((ahead.last, ys))
    back = run_adjoint(transposed(_RULE), weights, (ys,), zero, keep=Keep(), **options)
    return ahead.ys, *back.d_drives


def _advance(carry: Arrays, pre: Arrays, streams: Arrays) -> tuple[Arrays, Arrays]:
    return pre, ()


_RULE = StepRule((Group(blocks=1, sees_state=True),), parts=1, hidden=0, function=_advance)

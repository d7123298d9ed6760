"""Sequences along which gradients reach back only so far."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.sequence.running.boundaries import select
from rnn_jax.sequence.running.chunks import Chunk, scan_chunks


def truncated(
    run: Chunk, carry: Any, xs: Any, *, every: int, reverse: bool = False
) -> tuple[Any, Any]:
    """Runs in stretches of `every` steps; no gradient passes from one to the one before.

    Values are those of `run` over all steps. A gradient reaches back to the start of its own
    stretch, so a dependence longer than `every` steps is not learnt from (R. Williams and J. Peng,
    "An efficient gradient-based algorithm for on-line training of recurrent network
    trajectories", 1990).

    Args:
      run: runs some steps: maps the carry and their inputs to the carry and their outputs.
      carry: where to start; the first stretch passes gradients on to it.
      xs, every, reverse: as for `scan_chunks`.

    Returns:
      (carry, ys), equal to those of `run` over all steps.
    """
    stretches = jnp.arange(jax.tree.leaves(xs)[0].shape[0]) // every
    is_first = stretches == (stretches[-1] if reverse else 0)

    def stretch(carry: Any, part: Any) -> tuple[Any, Any]:
        xs, is_first = part
        return run(select(is_first[0], carry, lax.stop_gradient(carry)), xs)

    return scan_chunks(stretch, carry, (xs, is_first), every=every, reverse=reverse)

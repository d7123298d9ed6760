"""Sequences whose gradient keeps only every k-th state."""

import math
from typing import Any

import jax

from rnn_jax.checks import check_size
from rnn_jax.sequence.running.chunks import Chunk, scan_chunks


def resolve_interval(checkpoint: int | str | None, steps: int) -> int | None:
    """The interval k in steps that `checkpoint` asks for; None keeps every state.

    Raises:
      ValueError: neither None, "sqrt" nor a whole number of at least 1.
    """
    if checkpoint is None:
        return None
    if isinstance(checkpoint, str) and checkpoint == "sqrt":
        return max(1, math.isqrt(steps))
    try:
        return min(check_size("checkpoint", checkpoint), steps)
    except (TypeError, ValueError):
        raise ValueError(
            'checkpoint must be None, "sqrt", or an interval of at least 1 step; '
            f'got {checkpoint!r}. Pass "sqrt" for the least memory.'
        ) from None


def checkpointed(
    run: Chunk, carry: Any, xs: Any, *, every: int, reverse: bool = False
) -> tuple[Any, Any]:
    """Runs in chunks of `every` steps; the gradient recomputes a chunk from its first state.

    Peak memory of the gradient is T/k carries plus one chunk's intermediates, so k = √T makes it
    grow like √T, for one more forward pass (T. Chen et al., "Training deep nets with sublinear
    memory cost", 2016).

    Args:
      run: runs some steps: maps the carry and their inputs to the carry and their outputs.
      carry, xs, every, reverse: as for `scan_chunks`.

    Returns:
      (carry, ys), equal to those of `run` over all steps.
    """
    # The scan is itself a barrier to common-subexpression elimination.
    chunk = jax.checkpoint(run, prevent_cse=False)
    return scan_chunks(chunk, carry, xs, every=every, reverse=reverse)

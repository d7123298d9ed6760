"""A scan whose gradient keeps only every k-th state."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.checks import check_size


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


def checkpointed_scan(
    step: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    xs: Any,
    *,
    every: int,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """`lax.scan` in chunks of `every` steps; the gradient recomputes a chunk from its first state.

    Peak memory of the gradient is T/k carries plus one chunk's intermediates, so k = √T makes it
    grow like √T, for one more forward pass (T. Chen et al., "Training deep nets with sublinear
    memory cost", 2016).

    Args:
      step, carry, xs, reverse: as for `lax.scan`.
      every: k, the length of a chunk; the last chunk in time may be shorter.

    Returns:
      (carry, ys), equal to those of `lax.scan`.
    """
    steps = jax.tree.leaves(xs)[0].shape[0]
    whole = steps // every * every
    head = jax.tree.map(lambda a: a[:whole].reshape(whole // every, every, *a.shape[1:]), xs)
    tail = jax.tree.map(lambda a: a[whole:], xs)

    # The scan is itself a barrier to common-subexpression elimination.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def chunk(carry: Any, part: Any) -> tuple[Any, Any]:
        return lax.scan(step, carry, part, reverse=reverse)

    if reverse:
        carry, ys_tail = chunk(carry, tail)
        carry, ys_head = lax.scan(chunk, carry, head, reverse=True)
    else:
        carry, ys_head = lax.scan(chunk, carry, head)
        carry, ys_tail = chunk(carry, tail)
    ys = jax.tree.map(
        lambda a, b: jnp.concatenate([a.reshape(whole, *a.shape[2:]), b]), ys_head, ys_tail
    )
    return carry, ys

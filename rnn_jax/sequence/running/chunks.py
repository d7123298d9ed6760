"""A scan over chunks of steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# chunk(carry, the inputs of some steps) -> (carry, what it stacks over these steps)
Chunk = Callable[[Any, Any], tuple[Any, Any]]


def even_interval(steps: int, about: int, *, most: int) -> int:
    """A chunk of about so many steps, and one that divides the sequence if there is one.

    Args:
      steps: T.
      about: the length to be near to; half of it is the least.
      most: the longest that may be.
    """
    near = sorted(range(max(1, about // 2), most + 1), key=lambda k: abs(k - about))
    return next((k for k in near if steps % k == 0), about)


def scan_chunks(
    chunk: Chunk, carry: Any, xs: Any, *, every: int, reverse: bool = False
) -> tuple[Any, Any]:
    """Applies a function of several steps to one chunk after another.

    Args:
      chunk: maps the carry and the inputs of some steps to the carry and outputs of as many.
      carry: where to start.
      xs: a pytree of arrays with a leading axis T.
      every: the length of a chunk; the last chunk in time may be shorter.
      reverse: go from the last chunk in time to the first.

    Returns:
      (carry, ys), ys with a leading axis T.
    """
    steps = jax.tree.leaves(xs)[0].shape[0]
    whole = steps // every * every
    if every >= steps:
        return chunk(carry, xs)
    head = jax.tree.map(lambda a: a[:whole].reshape(whole // every, every, *a.shape[1:]), xs)

    def joined(ys: Any) -> Any:
        return jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), ys)

    if whole == steps:
        carry, ys = lax.scan(chunk, carry, head, reverse=reverse)
        return carry, joined(ys)
    tail = jax.tree.map(lambda a: a[whole:], xs)
    if reverse:
        carry, last = chunk(carry, tail)
        carry, ys = lax.scan(chunk, carry, head, reverse=True)
    else:
        carry, ys = lax.scan(chunk, carry, head)
        carry, last = chunk(carry, tail)
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), joined(ys), last)

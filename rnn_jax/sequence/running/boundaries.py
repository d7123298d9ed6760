"""Where sequences begin and end within a row: lengths and resets, as part of a scan's body."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# advance(carry, input) -> (carry after the step, y, whatever else is to be stacked)
Advance = Callable[[Any, Any], tuple[Any, Any, Any]]


class Boundaries(NamedTuple):
    """For each step, None where the sequence has no such boundary.

    Attributes:
      valid: whether the step belongs to the sequence, (T,); where not, the carry is frozen.
      resets: whether the carry returns to the initial one before the step, (T, ...).
    """

    valid: jax.Array | None
    resets: jax.Array | None


def within(
    advance: Advance, initial: Any, *, return_carries: bool
) -> Callable[[Any, tuple[Any, Boundaries]], tuple[Any, Any]]:
    """A scan's body that keeps to the boundaries.

    All it does is to choose between carries, so it is linear and serves tangents as it does values.

    Args:
      advance: one step inside a sequence.
      initial: the carry that a reset returns to.
      return_carries: stack the carries too.

    Returns:
      body(carry, (input, boundaries of that step)) -> (carry, (y, carry or None, whatever else)).
    """

    def body(carry: Any, at: tuple[Any, Boundaries]) -> tuple[Any, Any]:
        value, (is_valid, is_reset) = at
        start = carry if is_reset is None else select(is_reset, initial, carry)
        after, y, more = advance(start, value)
        if is_valid is not None:
            # Frozen is what came in: a reset that the padding marks must not undo the last carry.
            after = select(is_valid, after, carry)
            y = select(is_valid, y, jax.tree.map(jnp.zeros_like, y))
        return after, (y, after if return_carries else None, more)

    return body


def select(condition: jax.Array, one: Any, other: Any) -> Any:
    """Leaf by leaf, `one` where a condition on each sequence holds and `other` where not."""

    def choose(a: jax.Array, b: jax.Array) -> jax.Array:
        of_sequence = jnp.expand_dims(condition, tuple(range(condition.ndim, a.ndim)))
        return lax.select(jnp.broadcast_to(of_sequence, a.shape), a, b)

    return jax.tree.map(choose, one, other)

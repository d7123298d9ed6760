"""Where sequences begin and end within a row, as part of a scan's body."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.sequence.running.chunks import Chunk

# advance(carry, input) -> (carry after the step, y, whatever else is to be stacked)
Advance = Callable[[Any, Any], tuple[Any, Any, Any]]


class Boundaries(NamedTuple):
    """For each step, None where the sequence has no such boundary.

    Attributes:
      valid: whether the step belongs to a sequence, (T, ...); where not, it is skipped.
      resets: whether a sequence starts on the way into the step, (T, ...).
    """

    valid: jax.Array | None
    resets: jax.Array | None


def within(
    advance: Advance, initial: Any, spare: Any | None, *, return_carries: bool
) -> Callable[[Any, tuple[Any, Boundaries]], tuple[Any, Any]]:
    """A scan's body that keeps to the boundaries.

    All it does is to choose between carries, so it is linear and serves tangents as it does values.

    Args:
      advance: one step inside a sequence.
      initial: the carry that a reset returns to.
      spare: the carry from which skipped steps are computed, if there are any; see `spare_carry`.
      return_carries: stack the carries too.

    Returns:
      body(carry, (input, boundaries of that step)) -> (carry, (y, carry or None, whatever else)).
    """

    def body(carry: Any, at: tuple[Any, Boundaries]) -> tuple[Any, Any]:
        value, (is_valid, is_reset) = at
        before = carry if is_reset is None else select(is_reset, initial, carry)
        start = before if is_valid is None else select(is_valid, before, spare)
        after, y, more = advance(start, value)
        if is_valid is not None:
            after = select(is_valid, after, before)
            y = select(is_valid, y, jax.tree.map(jnp.zeros_like, y))
        return after, (y, after if return_carries else None, more)

    return body


def left_backwards(run: Chunk, initial: Any) -> Chunk:
    """A run backwards over some steps that leaves a sequence through its first step.

    Resets mark first steps in the order of time. Backwards, the boundary before step t is crossed
    on the way out of t and into t − 1, if need be by those who run the steps before: the carry that
    these are handed is the one to start from.

    Args:
      run: runs steps backwards: maps a carry and (inputs, boundaries) to a carry and outputs, its
        resets on the way into steps in the order in which they are run.
      initial: the carry that a reset returns to.

    Returns:
      The same of boundaries whose resets mark first steps in the order of time.
    """

    def left(carry: Any, part: tuple[Any, Boundaries]) -> tuple[Any, Any]:
        inputs, (valid, resets) = part
        if resets is None:
            return run(carry, part)
        inner = jnp.concatenate([resets[1:], jnp.zeros_like(resets[:1])])
        last, outputs = run(carry, (inputs, Boundaries(valid, inner)))
        return select(resets[0], initial, last), outputs

    return left


def spare_carry(initial: Any) -> Any:
    """A constant carry from which a loop computes the steps that are skipped.

    Nothing comes of such a step, but its derivative must be finite, or 0 · ∞ spoils the gradient of
    all who share the weights. The carry that passes by may be infinite, after an explosion; where
    a sequence starts the cell has a derivative.
    """

    def finite(leaf: jax.Array) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        return lax.select(jnp.isfinite(leaf), leaf, jnp.zeros_like(leaf))

    return lax.stop_gradient(jax.tree.map(finite, initial))


def select(condition: jax.Array, one: Any, other: Any) -> Any:
    """Leaf by leaf, `one` where a condition on each sequence holds and `other` where not."""

    def choose(a: jax.Array, b: jax.Array) -> jax.Array:
        of_sequence = jnp.expand_dims(condition, tuple(range(condition.ndim, a.ndim)))
        return lax.select(jnp.broadcast_to(of_sequence, a.shape), a, b)

    return jax.tree.map(choose, one, other)

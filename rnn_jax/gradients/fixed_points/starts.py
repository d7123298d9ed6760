"""Where to search: states that a network has visited, and their surroundings."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.arrays import varying_like
from rnn_jax.cells.asking import as_pytree
from rnn_jax.checks import check_key, check_number, check_size
from rnn_jax.gradients.precision import compiled, full_precision
from rnn_jax.sequence.calling import Carry, check_carry_leaves
from rnn_jax.sequence.inputs import read_inputs, resolve_feature_axes
from rnn_jax.sequence.unroll import unroll


def sample_starts(
    cell: Any,
    xs: Any,
    count: int,
    noise: float = 0.0,
    *,
    key: jax.Array,
    carry: Carry | None = None,
    feature_axes: int | None = None,
) -> Carry:
    """Carries drawn from a cell's trajectories, with noise added, to search fixed points from.

    start_i = carry_t + noise · ε_i,    ε_i ~ N(0, 1) in each number

    with t, and the sequence if there are several, drawn uniformly for each i. The states that a
    network visits when it works are those whose fixed points explain it; noise finds those around
    them, in particular the saddles between, which no trajectory comes to rest at.

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y).
      xs: inputs, (..., T, I), or whatever else `unroll` takes.
      count: how many starts, N.
      noise: standard deviation, in the carry's own units; 0 adds none.
      key: random key.
      carry: where the sequences start, its leaves with the leading axes of xs; None asks the cell.
      feature_axes: as of `unroll`.

    Returns:
      Carries of the cell's structure, each leaf with a leading axis N.

    Raises:
      ValueError: wrong shapes, a count below 1, a negative noise.
      TypeError: inputs that are no floats, a carry that does not consist of floats, no key.

    Example:
      >>> rj.sample_starts(cell, xs, 16, noise=0.1, key=jax.random.key(0)).shape
      (16, 8)
    """
    cell, axes = as_pytree(cell), resolve_feature_axes(cell, feature_axes)
    xs, leading = read_inputs(xs, axes, batched=True)
    count, key = check_size("count", count), check_key(key)
    noise = check_number("noise", noise)
    if noise < 0:
        raise ValueError(
            f"noise must be at least 0, a standard deviation; got {noise}. Pass 0 for none."
        )
    with full_precision():
        *_, carries = unroll(
            cell, xs, check_carry_leaves(carry), feature_axes=axes, return_carries=True
        )
    leaves, structure = jax.tree.flatten(carries)
    if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        kinds = ", ".join(sorted({str(leaf.dtype) for leaf in leaves}))
        raise TypeError(
            f"the cell's carry must be made of real floats to have fixed points; got {kinds}. Keep "
            "counters and keys out of it."
        )
    drawn = _draw(leaves, key, jnp.asarray(noise), axes=len(leading), count=count)
    return jax.tree.unflatten(structure, drawn)


@functools.partial(compiled, static=("axes", "count"))
def _draw(
    leaves: list[jax.Array], key: jax.Array, noise: jax.Array, *, axes: int, count: int
) -> list[jax.Array]:
    """Rows of arrays with so many leading axes, the same of each, with noise."""
    key, leaves, noise = varying_like((key, leaves, noise), key, leaves)
    of_rows, *of_noise = jax.random.split(key, len(leaves) + 1)
    states = [leaf.reshape(-1, *leaf.shape[axes:]) for leaf in leaves]
    rows = jax.random.randint(of_rows, (count,), 0, states[0].shape[0])
    return [
        state[rows] + noise.astype(state.dtype) * jax.random.normal(k, shape, state.dtype)
        for state, k in zip(states, of_noise, strict=True)
        for shape in [(count, *state.shape[1:])]
    ]

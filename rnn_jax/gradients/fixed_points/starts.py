"""Where to search: states that a network has visited, and their surroundings."""

from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_key, check_number, check_size
from rnn_jax.sequence.calling import ArrayLike, Carry, as_pytree, as_sequence, check_carry_leaves
from rnn_jax.sequence.unroll import unroll


def sample_starts(
    cell: Any,
    xs: ArrayLike,
    count: int,
    noise: float = 0.0,
    *,
    key: jax.Array,
    carry: Carry | None = None,
) -> Carry:
    """Carries drawn from a cell's trajectories, with noise added, to search fixed points from.

    start_i = carry_t + noise · ε_i,    ε_i ~ N(0, 1) in each number

    with t, and the sequence if there are several, drawn uniformly for each i. The states that a
    network visits when it works are those whose fixed points explain it; noise finds those around
    them, in particular the saddles between, which no trajectory comes to rest at.

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y).
      xs: inputs, (..., T, I).
      count: how many starts, N.
      noise: standard deviation, in the carry's own units; 0 adds none.
      key: random key.
      carry: where the sequences start, its leaves with the leading axes of xs; None asks the cell.

    Returns:
      Carries of the cell's structure, each leaf with a leading axis N.

    Raises:
      ValueError: wrong shapes, a count below 1, a negative noise.
      TypeError: inputs that are no floats, a carry that does not consist of floats, no key.
    """
    cell, xs = as_pytree(cell), as_sequence(xs, batched=True)
    count, key = check_size("count", count), check_key(key)
    noise = check_number("noise", noise)
    if noise < 0:
        raise ValueError(
            f"noise must be at least 0, a standard deviation; got {noise}. Pass 0 for none."
        )
    *_, carries = unroll(cell, xs, check_carry_leaves(carry), return_carries=True)
    lead = xs.ndim - 1
    visited = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[lead:]), carries)
    leaves, structure = jax.tree.flatten(visited)
    if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        kinds = ", ".join(sorted({str(leaf.dtype) for leaf in leaves}))
        raise TypeError(
            f"the cell's carry must be made of real floats to have fixed points; got {kinds}. Keep "
            "counters and keys out of it."
        )
    of_time, of_noise = jax.random.split(key)
    rows = jax.random.randint(of_time, (count,), 0, leaves[0].shape[0])
    keys = jax.random.split(of_noise, len(leaves))
    drawn = [
        leaf[rows] + jnp.asarray(noise, leaf.dtype) * jax.random.normal(k, shape, leaf.dtype)
        for leaf, k in zip(leaves, keys, strict=True)
        for shape in [(count, *leaf.shape[1:])]
    ]
    return jax.tree.unflatten(structure, drawn)

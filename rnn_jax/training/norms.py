"""The norm of a gradient, in any precision."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def global_norm(leaves: Sequence[jax.Array]) -> jax.Array:
    """√(Σ over the arrays ‖g‖²), () in float32 or wider; inf or NaN where an element is.

    Squares of ordinary float16 numbers leave its range, and those of float32 numbers beyond 1e19
    leave theirs, so the largest element is taken out before anything is squared.
    """
    sizes = [jnp.abs(leaf) for leaf in leaves if leaf.size]
    # By hand, so that the user's choice of strict promotion does not matter.
    widest = any(size.dtype == jnp.float64 for size in sizes)
    dtype = jnp.dtype(jnp.float64 if widest else jnp.float32)
    wide = [size.astype(dtype) for size in sizes]
    if not wide:
        return jnp.zeros((), dtype)
    largest = jnp.max(jnp.stack([jnp.max(leaf) for leaf in wide]))
    divisible = (largest > 0) & jnp.isfinite(largest)
    scale = jnp.where(divisible, largest, jnp.ones((), dtype))
    squares = jnp.stack([jnp.sum(jnp.square(leaf / scale)) for leaf in wide])
    return scale * jnp.sqrt(jnp.sum(squares))

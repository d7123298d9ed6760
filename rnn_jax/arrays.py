"""Small things that JAX's own modes ask of arrays."""

import jax
import jax.numpy as jnp


def nan_unless(known: jax.Array, values: jax.Array) -> jax.Array:
    """`values` where `known`, of the same shape, and NaN elsewhere.

    It makes no NaN where all is known, so that `jax.debug_nans` is not alarmed by a constant.
    """
    ones = jnp.ones_like(values)
    return jnp.where(known, values, jnp.sqrt(jnp.where(known, ones, -ones)))

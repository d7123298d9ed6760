"""Angles between subspaces."""

import jax
import jax.numpy as jnp


def smallest_angle(one: jax.Array, other: jax.Array) -> jax.Array:
    """The smallest angle between a vector of one subspace and a vector of another, rad.

    cos θ = σ_max(Q₁ᵀ Q₂),    sin θ = σ_min(Q₂ − Q₁ Q₁ᵀ Q₂)

    Of the two the one that is small is accurate, so that angles near 0 keep their digits.

    Args:
      one, other: columns that span the subspaces, (..., n, p) and (..., n, q).

    Returns:
      (...), in [0, π/2].

    References:
      Å. Björck and G. Golub, "Numerical methods for computing angles between linear subspaces",
      1973.
    """
    q_one, q_other = (jnp.linalg.qr(columns)[0] for columns in (one, other))
    shared = jnp.matmul(q_one.mT, q_other)
    rest = q_other - jnp.matmul(q_one, shared)
    cosine = jnp.linalg.svd(shared, compute_uv=False)[..., 0]
    sine = jnp.linalg.svd(rest, compute_uv=False)[..., -1]
    return jnp.arctan2(sine, cosine)

"""Products of many matrices, factorised so that every singular value stays a number.

A long product P is held as Q · D · Y: Q orthonormal, D a diagonal whose entries carry whole
exponents beside them (so that e^−5000 is exact), Y well-conditioned. Rounding then changes each
singular value by a small *factor*, the smallest as well as the largest, because the scales in D
are never mixed.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.gradients import loops
from rnn_jax.gradients.numerics.row_sorted_qr import noise_of_pivots, pivoted_qr, sorted_qr
from rnn_jax.gradients.numerics.scaled import LN2, log_exactly, normalised, power_of_two

# Entries of a triangular factor that pivoting would have kept below 1: beyond this, pivot.
_LARGE = 32.0


class Graded(NamedTuple):
    """P = Q · diag(mantissa · 2^exponent) · Y.

    Attributes:
      q: orthonormal columns, (S, n).
      mantissa: in [0.5, 1), or 0 where the product has lost a dimension, (n,).
      exponent: whole numbers, (n,).
      y: well-conditioned, (n, n); its rows are in [0.5, 1) at their largest.
    """

    q: jax.Array
    mantissa: jax.Array
    exponent: jax.Array
    y: jax.Array

    @property
    def log_diagonal(self) -> jax.Array:
        """ln of the diagonal, (n,); −inf for a dimension that is lost."""
        return log_exactly(self.mantissa) + LN2 * self.exponent.astype(self.mantissa.dtype)


def empty_product(q: jax.Array) -> Graded:
    """The product of no matrices, on the space that the orthonormal columns of q (S, n) span."""
    n = q.shape[1]
    return Graded(q, jnp.ones(n, q.dtype), jnp.zeros(n, jnp.int32), jnp.eye(n, dtype=q.dtype))


def multiply(graded: Graded, z: jax.Array, formed: jax.Array) -> Graded:
    """The factorisation of A · P, given z = A · Q.

    The columns are sorted by size before the QR, which mostly serves as well as pivoting within
    it. Where it does not, because Y would lose its good condition or a dimension is lost on the
    way, the QR is done again with pivoting.

    Args:
      graded: P.
      z: A · Q, (S, n).
      formed: the size of the terms that were added up to make z, about |A| · |Q|, (S, n), whose
        rounding errors z has; 0 where z is exact.

    References:
      A. Tomás, C.-C. Chang, R. Scalettar and Z. Bai, "Advancing large scale many-body QMC
      simulations on GPU accelerated multicore systems", 2012 (sorting instead of pivoting).
    """
    alive = jnp.broadcast_to(graded.mantissa != 0, z.shape)
    z, shift = normalised(jnp.where(alive, z, jnp.zeros_like(z)), axis=0)
    formed = formed * jnp.broadcast_to(power_of_two(-shift, z.dtype)[None], z.shape)
    graded = graded._replace(exponent=graded.exponent + shift)
    weights = graded.log_diagonal
    row_sizes = jnp.max(log_exactly(jnp.abs(z)) + jnp.broadcast_to(weights, z.shape), axis=1)
    order = jnp.argsort(-(log_exactly(jnp.linalg.norm(z, axis=0)) + weights), stable=True)
    q, r = sorted_qr(z[:, order], row_sizes)
    noise = noise_of_pivots(z[:, order], q, formed[:, order])
    lost = jnp.abs(jnp.diagonal(r)) <= noise
    kept = jnp.where(jnp.broadcast_to(lost[:, None], r.shape), jnp.zeros_like(r), r)
    # A lost row that is not exactly 0, or large entries in Y's new factor: pivoting was needed.
    wasted = lost & (jnp.max(jnp.abs(r), axis=1) > 0)
    unit = _unit(kept, graded.mantissa[order], graded.exponent[order])
    poor = jnp.any(wasted) | (jnp.max(jnp.abs(unit)) > _LARGE)

    def again(_: Graded) -> Graded:
        pivoted = pivoted_qr(z, formed, weights, row_sizes)
        return _advanced(graded, pivoted.order, pivoted.q, pivoted.r)

    return loops.cond(poor, again, lambda done: done, _advanced(graded, order, q, kept))


def flip(graded: Graded) -> Graded:
    """The factorisation of (D · Y)ᵀ: the same singular values, in a triangle more diagonal."""
    eye = jnp.eye(len(graded.mantissa), dtype=graded.y.dtype)
    scales = Graded(eye, graded.mantissa, graded.exponent, eye)
    return multiply(scales, graded.y.T, jnp.zeros_like(graded.y))


def _advanced(graded: Graded, order: jax.Array, q: jax.Array, r: jax.Array) -> Graded:
    """Q · R · diag(d) · Y[order] as a new factorisation."""
    mantissa, exponent = graded.mantissa[order], graded.exponent[order]
    y, growth = normalised(_unit(r, mantissa, exponent) @ graded.y[order], axis=1)
    grown = mantissa * jnp.abs(jnp.diagonal(r))
    mantissa, change = normalised(grown[None], axis=0)
    return Graded(q, mantissa[0], exponent + growth + change, y)


def _unit(r: jax.Array, mantissa: jax.Array, exponent: jax.Array) -> jax.Array:
    """diag(|R_jj| · d)⁻¹ · R · diag(d): ±1 on the diagonal, small above it where d falls fast."""
    pivots = jnp.abs(jnp.diagonal(r))
    kept = pivots != 0
    below = jnp.where(kept, pivots * mantissa, jnp.ones_like(pivots))
    ahead = jnp.broadcast_to(exponent[None], r.shape) - jnp.broadcast_to(exponent[:, None], r.shape)
    # A lost dimension is the zero that it is, whatever exponent it was left with.
    matters = jnp.triu(jnp.outer(kept, mantissa != 0))
    scale = power_of_two(jnp.where(matters, ahead, jnp.zeros_like(ahead)), r.dtype)
    return jnp.where(matters, r * jnp.outer(1 / below, mantissa) * scale, jnp.zeros_like(r))

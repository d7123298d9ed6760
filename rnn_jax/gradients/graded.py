"""Products of many matrices, factorised so that every singular value stays a number.

A long product P is held as Q · D · Y: Q orthonormal, D a diagonal whose entries carry whole
exponents beside them (so that e^−5000 is exact), Y well-conditioned. Rounding then changes each
singular value by a small *factor*, the smallest as well as the largest, because the scales in D
are never mixed.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.gradients.scaled import LN2, exponent_of, log_exactly, power_of_two

# A pivot below this many rounding errors of its own step carries no information.
_NOISE = 4.0


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


def multiply(graded: Graded, z: jax.Array) -> Graded:
    """The factorisation of A · P, given z = A · Q.

    The columns are sorted by size before the QR, which serves as well as pivoting within it.

    References:
      A. Tomás, C.-C. Chang, R. Scalettar and Z. Bai, "Advancing large scale many-body QMC
      simulations on GPU accelerated multicore systems", 2012.
    """
    alive = jnp.broadcast_to(graded.mantissa != 0, z.shape)
    z, shift = _normalised(jnp.where(alive, z, jnp.zeros_like(z)), axis=0)
    order = _by_size(z, graded.mantissa, graded.exponent + shift)
    z, mantissa, exponent = z[:, order], graded.mantissa[order], (graded.exponent + shift)[order]
    q, r = sorted_qr(z)
    pivots = jnp.abs(jnp.diagonal(r))
    pivots = jnp.where(lost_pivots(z, q, r), jnp.zeros_like(pivots), pivots)
    y, growth = _normalised(_unit(r, pivots, mantissa, exponent) @ graded.y[order], axis=1)
    mantissa, change = _normalised((mantissa * pivots)[None], axis=0)
    return Graded(q, mantissa[0], exponent + growth + change, y)


def flip(graded: Graded) -> Graded:
    """The factorisation of (D · Y)ᵀ: the same singular values, in a triangle more diagonal."""
    eye = jnp.eye(len(graded.mantissa), dtype=graded.y.dtype)
    return multiply(Graded(eye, graded.mantissa, graded.exponent, eye), graded.y.T)


def sorted_qr(z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """QR with the rows taken from large to small.

    Rows of very different size (units in saturation) then keep their relative precision, and rows
    that are exactly 0 (dead units) leave rows of R that are exactly 0.

    Returns:
      (Q, R) with z = Q R.

    References:
      A. J. Cox and N. J. Higham, "Stability of Householder QR factorization for weighted least
      squares problems", 1998.
    """
    rows = jnp.linalg.norm(jax.lax.stop_gradient(z), axis=1)
    order = jnp.argsort(-rows, stable=True)
    q, r = jnp.linalg.qr(z[order])
    return q[jnp.argsort(order)], r


def lost_pivots(z: jax.Array, q: jax.Array, r: jax.Array) -> jax.Array:
    """Which diagonal entries of R are 0, or cannot be told from 0, (n,).

    Forming z has put an error of about eps·‖row i‖ into its row i, which reaches R_jj by q_ij.
    """
    rows = jnp.linalg.norm(z, axis=1)
    noise = jnp.linalg.norm(q * jnp.broadcast_to(rows[:, None], q.shape), axis=0)
    return jnp.abs(jnp.diagonal(r)) <= _NOISE * jnp.finfo(z.dtype).eps * noise


def _by_size(z: jax.Array, mantissa: jax.Array, exponent: jax.Array) -> jax.Array:
    """The order of the columns of z · diag(mantissa · 2^exponent), largest first, zeros last."""
    size = mantissa * jnp.linalg.norm(z, axis=0)
    zero = size == 0
    log = jnp.log2(jnp.where(zero, jnp.ones_like(size), size)) + exponent.astype(size.dtype)
    return jnp.argsort(jnp.where(zero, jnp.inf, -log), stable=True)


def _unit(r: jax.Array, pivots: jax.Array, mantissa: jax.Array, exponent: jax.Array) -> jax.Array:
    """diag(pivots · d)⁻¹ · R · diag(d): 1 on the diagonal, small above it where d falls fast."""
    kept = pivots != 0
    below = jnp.where(kept, pivots * mantissa, jnp.ones_like(pivots))
    ahead = jnp.broadcast_to(exponent[None], r.shape) - jnp.broadcast_to(exponent[:, None], r.shape)
    # A lost dimension is the zero that it is, whatever exponent it was left with.
    matters = jnp.triu(jnp.outer(kept, mantissa != 0))
    scale = power_of_two(jnp.where(matters, ahead, jnp.zeros_like(ahead)), r.dtype)
    return jnp.where(matters, r * jnp.outer(1 / below, mantissa) * scale, jnp.zeros_like(r))


def _normalised(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """x with its largest entry along `axis` brought into [0.5, 1), and the exponents taken out."""
    exponents = exponent_of(x, axis)
    scale = jnp.expand_dims(power_of_two(-exponents, x.dtype), axis)
    return x * jnp.broadcast_to(scale, x.shape), exponents

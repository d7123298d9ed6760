"""Singular values of a graded matrix by one-sided Jacobi rotations, each to its own precision."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax.arrays import nan_unless
from rnn_jax.gradients.numerics.scaled import LN2, log_exactly, normalised, power_of_two

# Convergence is quadratic once it sets in; after the QR steps before it, a handful of sweeps do.
_MAX_SWEEPS = 60


class _Rows(NamedTuple):
    """Rows mantissa · 2^exponent · y."""

    mantissa: jax.Array
    exponent: jax.Array
    y: jax.Array


def log_singular_values(mantissa: jax.Array, exponent: jax.Array, y: jax.Array) -> jax.Array:
    """ln of the singular values of diag(mantissa · 2^exponent) · Y, descending, (n,).

    Pairs of rows are rotated until all are orthogonal; the values are then their lengths. A
    rotation works on the two unscaled rows and the *ratio* of their scales, so that nothing
    underflows however far apart they are: in the limit it is a Gram–Schmidt step. The relative
    error of each value is about eps·n·κ(Y), however graded D is.

    Args:
      mantissa: (n,); 0 for a row that is exactly zero.
      exponent: whole numbers, (n,).
      y: (n, n).

    Returns:
      (n,); −inf for exact zeros.

    References:
      M. R. Hestenes, 1958; J. Demmel and K. Veselić, "Jacobi's method is more accurate than QR",
      1992; R. P. Brent and F. T. Luk, 1985 (the order in which disjoint pairs are rotated).
    """
    n = y.shape[0]
    if n % 2:  # Rounds pair up all rows: a zero row joins where one would be left over.
        mantissa = jnp.concatenate([mantissa, jnp.zeros(1, mantissa.dtype)])
        exponent = jnp.concatenate([exponent, jnp.zeros(1, exponent.dtype)])
        y = jnp.concatenate([y, jnp.zeros((1, n), y.dtype)])
    rows = _Rows(mantissa, exponent, y)
    tolerance = n * float(jnp.finfo(y.dtype).eps)

    def unfinished(state: tuple[_Rows, jax.Array, jax.Array]) -> jax.Array:
        _, cosine, sweeps = state
        return (cosine > tolerance) & (sweeps < _MAX_SWEEPS)

    def sweep(state: tuple[_Rows, jax.Array, jax.Array]) -> tuple[_Rows, jax.Array, jax.Array]:
        rows, _, sweeps = state
        rows, cosine = _sweep(rows)
        return rows, cosine, sweeps + 1

    begin = (rows, jnp.asarray(jnp.inf, y.dtype), jnp.asarray(0, jnp.int32))
    rows, cosine, _ = lax.while_loop(unfinished, sweep, begin)
    logs = jnp.sort(_log_lengths(rows), descending=True)[:n]
    # Not settled (or NaN from the start) must not look like an answer.
    return nan_unless(jnp.broadcast_to(cosine <= tolerance, logs.shape), logs)


def _sweep(rows: _Rows) -> tuple[_Rows, jax.Array]:
    """Rotates every pair once; returns the rows and the largest cosine met."""
    size = rows.y.shape[0]
    turn = jnp.asarray(_round_robin(size))

    def one_round(_: jax.Array, state: tuple[_Rows, jax.Array]) -> tuple[_Rows, jax.Array]:
        rows, worst = state
        rows, cosine = _rotate(rows)
        return jax.tree.map(lambda a: a[turn], rows), jnp.maximum(worst, cosine)

    return lax.fori_loop(0, size - 1, one_round, (rows, jnp.zeros((), rows.y.dtype)))


def _round_robin(size: int) -> np.ndarray:
    """The permutation after which the halves of the rows meet new partners.

    The rows i and i + size/2 are partners. Row 0 stays, all others move one seat around the table.
    """
    half = size // 2
    top, bottom = list(range(half)), list(range(half, size))
    if half == 1:
        return np.arange(size)
    new_top = [top[0], bottom[0], *top[1:-1]]
    new_bottom = [*bottom[1:], top[-1]]
    return np.asarray(new_top + new_bottom)


def _rotate(rows: _Rows) -> tuple[_Rows, jax.Array]:
    """Makes the rows i and i + size/2 orthogonal, for all i at once."""
    half = rows.y.shape[0] // 2
    one, other = (jax.tree.map(lambda a, s=s: a[s], rows) for s in (slice(half), slice(half, None)))
    swap = _log_lengths(one) < _log_lengths(other)
    large, small = _where(swap, other, one), _where(swap, one, other)
    alpha, beta, gamma = (
        jnp.sum(a * b, axis=1)
        for a, b in ((large.y, large.y), (small.y, small.y), (large.y, small.y))
    )
    active = (gamma != 0) & (small.mantissa != 0)
    # The scale of the smaller row over that of the larger.
    rho = small.mantissa / jnp.where(active, large.mantissa, jnp.ones_like(alpha))
    behind = small.exponent - large.exponent
    rho = rho * power_of_two(jnp.where(active, behind, jnp.zeros_like(behind)), rho.dtype)
    # tan of the angle over rho: finite, however small rho is.
    gap = jnp.where(active, alpha - rho * rho * beta, jnp.ones_like(alpha))
    root = jnp.sqrt(gap * gap + jnp.square(2 * rho * gamma))
    sign = jnp.where(gap < 0, -jnp.ones_like(gap), jnp.ones_like(gap))
    tau = jnp.where(active, -2 * gamma * sign / (jnp.abs(gap) + root), jnp.zeros_like(gamma))
    cosine = jax.lax.rsqrt(1 + jnp.square(rho * tau))
    column = (half, 1)
    c, s_large, s_small = (v.reshape(column) for v in (cosine, rho * rho * tau, tau))
    wide = large.y.shape
    c, s_large, s_small = (jnp.broadcast_to(v, wide) for v in (c, s_large, s_small))
    y_large, y_small = c * (large.y - s_large * small.y), c * (small.y + s_small * large.y)
    large, small = _normalised(large._replace(y=y_large)), _normalised(small._replace(y=y_small))
    # Back into their own seats: the round-robin meets every pair only if none is swapped.
    one, other = _where(swap, small, large), _where(swap, large, small)
    rows = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), one, other)
    angle = jnp.abs(gamma) / jnp.sqrt(jnp.where(active, alpha * beta, jnp.ones_like(alpha)))
    return rows, jnp.max(jnp.where(active, angle, jnp.zeros_like(angle)))


def _log_lengths(rows: _Rows) -> jax.Array:
    """ln of the lengths of the rows, scales included; −inf for zeros."""
    lengths = rows.mantissa * jnp.linalg.norm(rows.y, axis=1)
    return log_exactly(lengths) + LN2 * rows.exponent.astype(lengths.dtype)


def _where(choice: jax.Array, one: _Rows, other: _Rows) -> _Rows:
    wide = jnp.broadcast_to(choice[:, None], one.y.shape)
    return _Rows(
        jnp.where(choice, one.mantissa, other.mantissa),
        jnp.where(choice, one.exponent, other.exponent),
        jnp.where(wide, one.y, other.y),
    )


def _normalised(rows: _Rows) -> _Rows:
    """The same rows with y in [0.5, 1) at its largest, so that squares stay numbers."""
    y, shift = normalised(rows.y, 1)
    return rows._replace(exponent=rows.exponent + shift, y=y)

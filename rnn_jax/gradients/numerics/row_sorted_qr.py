"""QR decompositions that keep the precision of small rows, and know a lost column from a small one.

Householder reflections commit an error relative to each row's own size, provided that rows go from
large to small and columns are pivoted (Cox and Higham). So a unit in saturation keeps its digits
beside units that are not.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.gradients import loops
from rnn_jax.gradients.numerics.scaled import log_exactly
from rnn_jax.gradients.precision import full_precision

# What is below this many rounding errors of its own step carries no information.
NOISE = 4.0


class PivotedQR(NamedTuple):
    """z[:, order] = Q · R.

    Attributes:
      q: orthonormal columns, (S, n).
      r: upper triangular, (n, n); its last rows are exactly 0 if z has lost dimensions.
      order: the columns of z in the order of R, (n,).
    """

    q: jax.Array
    r: jax.Array
    order: jax.Array


def sorted_qr(z: jax.Array, row_sizes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """QR of the rows from large to small, columns as they come; Q's rows are put back in place.

    Args:
      z: (S, n), S >= n.
      row_sizes: what to sort by, (S,).

    References:
      A. J. Cox and N. J. Higham, "Stability of Householder QR factorization for weighted least
      squares problems", 1998.
    """
    order = jnp.argsort(-row_sizes, stable=True)
    q, r = _qr(z[order])
    return q[inverse_permutation(order)], r


def inverse_permutation(order: jax.Array) -> jax.Array:
    """The permutation that undoes one, without sorting once more."""
    index = jnp.arange(order.shape[0], dtype=order.dtype)
    return jnp.zeros_like(order).at[order].set(index, unique_indices=True)


@jax.custom_jvp
def _qr(z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Q (S, n) and R (n, n), S >= n, with a derivative whose products are in full precision.

    JAX's own derivative multiplies at the precision that is set where it is asked for.
    """
    q, r = jnp.linalg.qr(z)
    return q, r


@_qr.defjvp
def _qr_jvp(primals: Any, tangents: Any) -> Any:
    (z,), (dz,) = primals, tangents
    q, r = _qr(z)
    # A column that is lost has no derivative; as the last one it takes nothing from the others.
    lost = jnp.diag(jnp.diagonal(r) == 0)
    with full_precision():
        solved = lax.linalg.triangular_solve(jnp.where(lost, jnp.ones_like(r), r), dz)  # dz R⁻¹
        inside = q.mT @ solved
        lower = jnp.tril(inside, -1)
        turn = lower - lower.mT
        return (q, r), (q @ (turn - inside) + solved, (inside - turn) @ r)


def noise_of_pivots(z: jax.Array, q: jax.Array, formed: jax.Array) -> jax.Array:
    """What rounding puts into each row of R, (n,).

    Forming z has put an error of about eps·formed_ij into its entries, and the reflections one of
    eps times the row's entries in the columns so far; it reaches row j of R by q_ij.

    Args:
      z: (S, n).
      q: its Q, (S, n).
      formed: the size of the terms that were added up to make z, (S, n).
    """
    so_far = jnp.sqrt(jnp.cumsum(z * z, axis=1))
    error = NOISE * jnp.finfo(z.dtype).eps * (formed + so_far)
    return jnp.linalg.norm(q * error, axis=0)


def pivoted_qr(
    z: jax.Array, formed: jax.Array, log_weights: jax.Array, row_sizes: jax.Array
) -> PivotedQR:
    """QR with rows sorted and the columns of z · diag(exp(log_weights)) pivoted.

    At each turn the longest remaining column comes next; a column whose remaining entries are all
    below the rounding error of their rows counts as lost, and the lost ones come last. An XLA loop
    over the columns: slow beside LAPACK, needed where sorting the columns once is not enough.

    Args:
      z: (S, n), S >= n, its columns of about one size.
      formed: the size of the terms that were added up to make z, (S, n).
      log_weights: of the columns, (n,); −inf for a column that counts as 0.
      row_sizes: what to sort the rows by, (S,).
    """
    size, count = z.shape
    eps = jnp.finfo(z.dtype).eps
    rows = jnp.argsort(-row_sizes, stable=True)
    index, columns = jnp.arange(size, dtype=jnp.int32), jnp.arange(count, dtype=jnp.int32)
    z, formed = z[rows], formed[rows]

    def body(j: jax.Array, state: tuple[Any, ...]) -> tuple[Any, ...]:
        work, q, order, rank, reflected = state
        below = jnp.broadcast_to((index >= j)[:, None], work.shape)
        so_far = jnp.sqrt(jnp.broadcast_to(reflected[:, None], z.shape) + jnp.square(z[:, order]))
        noise = NOISE * eps * (formed[:, order] + so_far)
        # Noise is 0 from here on, so that it cannot hide what smaller rows still tell.
        work = jnp.where(below & (jnp.abs(work) <= noise), jnp.zeros_like(work), work)
        rest = jnp.where(below, work, jnp.zeros_like(work))
        key = log_exactly(jnp.linalg.norm(rest, axis=0)) + log_weights[order]
        key = jnp.where(columns >= j, key, jnp.full_like(key, -jnp.inf))
        pivot = lax.argmax(key, 0, jnp.int32)
        found = key[pivot] > -jnp.inf
        pivot = jnp.where(found, pivot, j)
        swap = columns.at[j].set(pivot).at[pivot].set(j)
        work, order = work[:, swap], order[swap]
        x = jnp.where(index >= j, work[:, j], jnp.zeros_like(work[:, j]))
        v, scale = _reflector(x, j)
        scale = jnp.where(found, scale, jnp.zeros_like(scale))
        work = work - scale * jnp.outer(v, v @ work)
        q = q - scale * jnp.outer(q @ v, v)
        reflected = reflected + jnp.square(z[:, order[j]])
        return work, q, order, rank + found.astype(rank.dtype), reflected

    eye = jnp.eye(size, dtype=z.dtype)
    start = (z, eye, columns, jnp.asarray(0, jnp.int32), jnp.zeros(size, z.dtype))
    work, q, order, rank, _ = loops.fori_loop(jnp.int32(0), jnp.int32(count), body, start)
    kept = jnp.broadcast_to((columns < rank)[:, None], (count, count))
    r = jnp.where(kept, jnp.triu(work[:count]), jnp.zeros((count, count), z.dtype))
    return PivotedQR(q[inverse_permutation(rows)][:, :count], r, order)


def _reflector(x: jax.Array, j: jax.Array) -> tuple[jax.Array, jax.Array]:
    """v and 2/‖v‖² of the reflection that turns x into a multiple of e_j; 0 for x = 0."""
    length = jnp.linalg.norm(x)
    # The sign that adds up: cancellation here would cost the small rows their digits.
    v = x.at[j].add(jnp.where(x[j] < 0, -length, length))
    square = jnp.sum(v * v)
    none = square == 0
    scale = 2 / jnp.where(none, jnp.ones_like(square), square)
    return v, jnp.where(none, jnp.zeros_like(scale), scale)

"""A frame of perturbations carried through all steps by one kernel, for a GPU.

A QR decomposition of a few columns is thousands of dependent operations on little data: a GPU that
is asked for one library call a step spends its time on starting them. Here one block of threads
holds the frame on chip from the first step to the last, and orthonormalises it by Gram–Schmidt.

Gram–Schmidt works on columns alone, so each row's error is relative to that row, as with the
sorted Householder reflections of `numerics.row_sorted_qr`; each column is orthogonalised twice,
after which it is orthogonal to rounding unless it is lost. What is lost, or not finite, the
kernel does not treat: it says so, and the usual sweep has to be made.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.gradients.numerics.on_chip import (
    exponent_on_chip,
    launch,
    padded_size,
    padded_to_tiles,
    power_of_two_on_chip,
)
from rnn_jax.gradients.numerics.row_sorted_qr import NOISE
from rnn_jax.gradients.numerics.scaled import LN2, log_exactly


def growth_by_step(
    jacobians: jax.Array, first: jax.Array, *, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """ln|R_ii| of every step, A_t Q_{t−1} = Q_t R_t, from a frame Q_0 on.

    Args:
      jacobians: A_t, (T, S, S), float32.
      first: Q_0, orthonormal columns, (S, k), float32.
      interpret: run it in Pallas' interpret mode, on a CPU.

    Returns:
      (growth (T, k); whether all of it can be trusted, ()). It cannot where a direction is mapped
      to less than the rounding error of its step, or to what is not finite.
    """
    steps = jacobians.shape[0]
    size, count = first.shape
    side, width = padded_size(size), padded_size(count)
    pivots, exponents, lost = launch(
        _kernel(steps, side, width, count),
        (padded_to_tiles(jacobians), padded_to_tiles(first)),
        (((steps, width), jnp.float32), ((steps, width), jnp.int32), ((1,), jnp.int32)),
        blocks=1,
        name="frame",
        interpret=interpret,
    )
    growth = log_exactly(pivots) + LN2 * exponents.astype(jnp.float32)
    return growth[:, :count], lost[0] == 0


class _Columns(NamedTuple):
    """What is known of A · Q while its columns are orthogonalised one after another.

    Attributes:
      q: the new frame, 0 for the columns ahead, (side, width).
      pivots: R_ii, 2^exponents apart, (width,).
      exponents: what was taken out of the columns, (width,).
      weighed: the sums of squares so far, weighted by the squares of each column, (width,).
      so_far: sums of squares of the rows, each column in its own scale, (side,).
      sizes: the same, all columns in the scale of the first, (side,).
      first: the exponent of the first column, ().
    """

    q: jax.Array
    pivots: jax.Array
    exponents: jax.Array
    weighed: jax.Array
    so_far: jax.Array
    sizes: jax.Array
    first: jax.Array


def _kernel(steps: int, side: int, width: int, count: int) -> Any:
    """The kernel of one block, which is all there is."""
    noise_level = NOISE * float(jnp.finfo(jnp.float32).eps)

    def kernel(
        jacobians: Any, first: Any, pivots_out: Any, exponents_out: Any, lost_out: Any
    ) -> None:
        column = lax.broadcasted_iota(jnp.int32, (side, width), 1)
        index = lax.broadcasted_iota(jnp.int32, (width,), 0)
        used = index < count

        def advance(a: jax.Array, before: jax.Array, j: jax.Array, so_far: _Columns) -> _Columns:
            """Column j of A · Q, and what it leaves when the columns before it are taken out."""
            q, pivots, exponents, weighed, squares, sizes, first = so_far
            here, place = column == j, index == j
            old = jnp.sum(jnp.where(here, before, jnp.zeros_like(before)), axis=1)
            # By sums and not as a product of all columns: A stays where it is, in registers.
            v = jnp.sum(a * old[None, :], axis=1)
            exponent = exponent_on_chip(jnp.max(jnp.abs(v)))
            v = v * power_of_two_on_chip(-exponent)
            first = jnp.where(j == 0, exponent, first)
            squares = squares + v * v
            true = v * power_of_two_on_chip(exponent - first)
            sizes = sizes + true * true
            for _ in range(2):
                along = jnp.sum(q * v[:, None], axis=0)
                v = v - jnp.sum(q * along[None, :], axis=1)
            pivot = jnp.sqrt(jnp.sum(v * v))
            new = v / pivot
            return _Columns(
                jnp.where(here, new[:, None], q),
                jnp.where(place, pivot, pivots),
                jnp.where(place, exponent, exponents),
                jnp.where(place, jnp.sum(new * new * squares), weighed),
                squares,
                sizes,
                first,
            )

        def is_lost(found: _Columns) -> jax.Array:
            """1 if a pivot is below what rounding puts into it, as `noise_of_pivots` says."""
            formed = jnp.sum(found.q * found.q * found.sizes[:, None], axis=0)
            scale = power_of_two_on_chip(found.first - found.exponents)
            noise = noise_level * (jnp.sqrt(formed) * scale + jnp.sqrt(found.weighed))
            # So that what is not a number counts as lost too.
            kept = (found.pivots > noise) & (found.pivots < jnp.inf)
            return jnp.max((used & ~kept).astype(jnp.int32))

        def step(t: jax.Array, state: Any) -> Any:
            q, a, lost = state
            # Of the next step, so that reading it takes no time of its own.
            t = t.astype(jnp.int32)
            ahead = jacobians[jnp.minimum(t + 1, steps - 1)]
            numbers = jnp.zeros((width,), jnp.float32)
            rows = jnp.zeros((side,), jnp.float32)
            start = _Columns(
                jnp.zeros((side, width), jnp.float32),
                numbers,
                jnp.zeros((width,), jnp.int32),
                numbers,
                rows,
                rows,
                jnp.int32(0),
            )
            found = lax.fori_loop(
                0, count, lambda j, x: advance(a, q, j.astype(jnp.int32), x), start
            )
            pivots_out[t] = found.pivots
            exponents_out[t] = found.exponents
            return found.q, ahead, lost | is_lost(found)

        start = (first[...], jacobians[0], jnp.int32(0))
        _, _, lost = lax.fori_loop(0, steps, step, start)
        lost_out[0] = lost

    return kernel

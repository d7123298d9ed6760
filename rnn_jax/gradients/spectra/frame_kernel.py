"""A frame of perturbations carried through all steps by one kernel, for a GPU.

A QR decomposition of a few columns is thousands of dependent operations on little data: a GPU that
is asked for one library call a step spends its time on starting them. Here one block of threads
holds the frame on chip from the first step to the last, and orthonormalises it by Gram–Schmidt.

Gram–Schmidt works on columns alone, so each row's error is relative to that row, as with the
sorted Householder reflections of `numerics.row_sorted_qr`; each column is orthogonalised twice,
after which it is orthogonal to rounding unless it is lost. What is lost, or not finite, the
kernel does not treat: it says so, and the usual sweep has to be made.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from rnn_jax.gradients.numerics.row_sorted_qr import NOISE
from rnn_jax.gradients.numerics.scaled import LN2, log_exactly
from rnn_jax.sequence.kernels.card import card_of_lowering

# The longest side of a Jacobian whose rows and frame stay on chip.
_MOST = 128
# Of all Jacobians together: 1 GB. The sweep forms none.
_ELEMENTS = 2**28
# The narrowest operand that a product in a kernel takes.
_NARROWEST = 16
# float32 by its bits: an exponent of 8 bits, offset by 127, above a mantissa of 23.
_MANTISSA_BITS, _OFFSET = 23, 127


def can_serve(steps: int, size: int, dtype: Any) -> bool:
    """Whether the kernel takes so many Jacobians (S, S) of this type, on a card that has room."""
    return size <= _MOST and steps * size**2 <= _ELEMENTS and dtype == jnp.float32


def has_room(size: int, count: int) -> bool:
    """Whether the card that a program is being lowered for holds a Jacobian and a frame."""
    card = card_of_lowering()
    side, width = _padded(size), _padded(count)
    # The operands of the product, and a margin for what sums go through.
    return card is not None and 4 * side * (side + width) + 2**14 <= card.shared_memory


def growth_by_step(
    jacobians: jax.Array, count: int, *, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """ln|R_ii| of every step, A_t Q_{t−1} = Q_t R_t, from the frame of the first axes on.

    Args:
      jacobians: A_t, (T, S, S), float32.
      count: k, the columns of the frame.
      interpret: run it in Pallas' interpret mode, on a CPU.

    Returns:
      (growth (T, k); whether all of it can be trusted, ()). It cannot where a direction is mapped
      to less than the rounding error of its step, or to what is not finite.
    """
    steps, size, _ = jacobians.shape
    side, width = _padded(size), _padded(count)
    padded = jnp.pad(jacobians, [(0, 0), (0, side - size), (0, side - size)])
    call = pl.pallas_call(
        _kernel(steps, side, width, count),
        out_shape=(
            jax.ShapeDtypeStruct((steps, width), jnp.float32),
            jax.ShapeDtypeStruct((steps, width), jnp.int32),
            jax.ShapeDtypeStruct((1,), jnp.int32),
        ),
        grid=(1,),
        interpret=interpret,
        name="frame",
        compiler_params=None if interpret else _compiler_params(side * width),
    )
    pivots, exponents, lost = call(padded)
    growth = log_exactly(pivots) + LN2 * exponents.astype(jnp.float32)
    return growth[:, :count], lost[0] == 0


def _padded(size: int) -> int:
    """The next power of two."""
    return max(_NARROWEST, 1 << (size - 1).bit_length())


def _compiler_params(elements: int) -> Any:
    # Only what lowers the kernel needs the part of Pallas that knows of GPUs.
    from jax.experimental.pallas import triton

    return triton.CompilerParams(num_warps=16 if elements > 2**12 else 8, num_stages=1)


def _kernel(steps: int, side: int, width: int, count: int) -> Any:
    """The kernel of one block, which is all there is."""
    noise_level = NOISE * float(jnp.finfo(jnp.float32).eps)

    def kernel(jacobians: Any, pivots_out: Any, exponents_out: Any, lost_out: Any) -> None:
        column = lax.broadcasted_iota(jnp.int32, (side, width), 1)
        row = lax.broadcasted_iota(jnp.int32, (side, width), 0)
        index = lax.broadcasted_iota(jnp.int32, (width,), 0)

        def orthonormal(z: jax.Array, sizes: jax.Array, scales: jax.Array) -> Any:
            """(Q, the pivots, whether one is lost) of z, given the sizes of its rows."""

            def body(j: jax.Array, state: Any) -> Any:
                q, pivots, lost, so_far = state
                here = column == j
                v = jnp.sum(jnp.where(here, z, 0.0), axis=1)
                so_far = so_far + v * v
                for _ in range(2):
                    along = jnp.sum(q * v[:, None], axis=0)
                    v = v - jnp.sum(q * along[None, :], axis=1)
                pivot = jnp.sqrt(jnp.sum(v * v))
                new = v / pivot
                scale = jnp.sum(jnp.where(index == j, scales, 0.0))
                error = new * (noise_level * (sizes * scale + jnp.sqrt(so_far)))
                # So that what is not a number counts as lost too.
                found = pivot > jnp.sqrt(jnp.sum(error * error))
                lost = jnp.where(found, lost, 1)
                q = jnp.where(here, new[:, None], q)
                return q, jnp.where(index == j, pivot, pivots), lost, so_far

            start = (
                jnp.zeros((side, width), jnp.float32),
                jnp.zeros((width,), jnp.float32),
                jnp.int32(0),
                jnp.zeros((side,), jnp.float32),
            )
            q, pivots, lost, _ = lax.fori_loop(0, count, body, start)
            return q, pivots, lost

        def step(t: jax.Array, state: Any) -> Any:
            q, a, lost = state
            # Of the next step, so that reading it takes no time of its own.
            ahead = jacobians[jnp.minimum(t + 1, steps - 1)]
            z = lax.dot(a, q, precision=lax.Precision.HIGHEST)
            exponents = _exponents(jnp.max(jnp.abs(z), axis=0))
            z = z * _power_of_two(-exponents)[None, :]
            # The size of the terms that were added up: the rows, in the scale of each column.
            below = exponents - jnp.max(jnp.where(index < count, exponents, -_OFFSET))
            true = z * _power_of_two(below)[None, :]
            sizes = jnp.sqrt(jnp.sum(true * true, axis=1))
            q, pivots, lost_here = orthonormal(z, sizes, _power_of_two(-below))
            pivots_out[t] = pivots
            exponents_out[t] = exponents
            return q, ahead, lost | lost_here

        q = jnp.where((row == column) & (column < count), 1.0, 0.0)
        _, _, lost = lax.fori_loop(0, steps, step, (q, jacobians[0], jnp.int32(0)))
        lost_out[0] = lost

    return kernel


def _exponents(largest: jax.Array) -> jax.Array:
    """e with x in [2^{e−1}, 2^e) of numbers x ≥ 0; in the range in which 2^−e is normal."""
    bits = lax.bitcast_convert_type(largest, jnp.int32)
    exponents = (bits >> _MANTISSA_BITS) - (_OFFSET - 1)
    return jnp.clip(exponents, 2 - _OFFSET, _OFFSET - 3)


def _power_of_two(exponents: jax.Array) -> jax.Array:
    """2^exponents, 0 below the range of normal numbers and about the largest above it."""
    kept = jnp.clip(exponents + _OFFSET, 0, 2 * _OFFSET)
    return lax.bitcast_convert_type(kept << _MANTISSA_BITS, jnp.float32)

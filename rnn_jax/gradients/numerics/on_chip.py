"""What kernels that hold matrices of float32 on chip share.

A kernel is one block of threads for each piece of the work, and no block waits for another.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.arrays import varying_like

# The longest side of a matrix that the threads of one block keep.
_MOST = 128
# Of all matrices together: 1 GB. They are read where they are, once a step.
_ELEMENTS = 2**28
# The narrowest tile.
_NARROWEST = 16
# float32 by its bits: an exponent of 8 bits, offset by 127, above a mantissa of 23.
_MANTISSA_BITS, _OFFSET = 23, 127


def fits_on_chip(steps: int, size: int, dtype: Any) -> bool:
    """Whether a kernel takes so many matrices (S, S) of this type."""
    return size <= _MOST and steps * size**2 <= _ELEMENTS and dtype == jnp.float32


def padded_size(size: int) -> int:
    """The next power of two, which the sides of tiles are."""
    return max(_NARROWEST, 1 << (size - 1).bit_length())


def padded_to_tiles(matrices: jax.Array) -> jax.Array:
    """Matrices (..., n, m) with zeros beside each."""
    missing = [(0, padded_size(size) - size) for size in matrices.shape[-2:]]
    return jnp.pad(matrices, [(0, 0)] * (matrices.ndim - 2) + missing)


def launch(
    kernel: Any,
    arrays: tuple[jax.Array, ...],
    results: tuple[tuple[tuple[int, ...], Any], ...],
    *,
    blocks: int,
    name: str,
    interpret: bool,
) -> Any:
    """Runs a kernel over arrays of which the first is what `padded_to_tiles` made.

    Args:
      kernel: (refs of the arrays and of the results) -> None.
      arrays: what it reads.
      results: (shape, type) of what it writes.
      blocks: how many.
      name: of the kernel.
      interpret: run it in Pallas' interpret mode, on a CPU.
    """
    from jax.experimental import pallas as pl

    parameters = None
    if not interpret:
        # The part of Pallas that knows of GPUs.
        from jax.experimental.pallas import triton

        warps = 8 if arrays[0].shape[-1] <= _MOST // 2 else 16
        parameters = triton.CompilerParams(num_warps=warps, num_stages=1)

    def like(arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        # Inside `shard_map` their types say over which devices they vary.
        return varying_like(tuple(jnp.zeros(*result) for result in results), arrays)

    return pl.pallas_call(
        kernel,
        out_shape=jax.eval_shape(like, arrays),
        grid=(blocks,),
        interpret=interpret,
        name=name,
        compiler_params=parameters,
    )(*arrays)


def exponent_on_chip(largest: jax.Array) -> jax.Array:
    """e with x in [2^{e−1}, 2^e) of x ≥ 0, in the range in which 2^−e is normal; 0 of 0."""
    bits = lax.bitcast_convert_type(largest, jnp.int32)
    exponent = jnp.clip((bits >> _MANTISSA_BITS) - (_OFFSET - 1), 2 - _OFFSET, _OFFSET - 3)
    return jnp.where(largest == 0, jnp.zeros_like(exponent), exponent)


def power_of_two_on_chip(exponents: jax.Array) -> jax.Array:
    """2^exponents, 0 below the range of normal numbers and about the largest above it."""
    kept = jnp.clip(exponents + _OFFSET, 0, 2 * _OFFSET)
    return lax.bitcast_convert_type(kept << _MANTISSA_BITS, jnp.float32)

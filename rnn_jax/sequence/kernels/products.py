"""Products of a float32 tile with weights that stay on chip, at the precision that was asked for.

| precision | how                                                                | relative error |
|-----------|--------------------------------------------------------------------|----------------|
| tf32      | one product of operands rounded to 10 bits of mantissa             | 1e-3           |
| bf16x3    | three products of bfloat16 halves, x = hi + lo; lo·lo is left out  | 1e-5           |
| tf32x3    | three products of TF32 halves                                      | 1e-7           |
| bf16      | one product of bfloat16, for weights that are bfloat16             | 1e-2           |

All are added up in float32.
"""

import jax
import jax.numpy as jnp
from jax import lax

PRECISIONS = ("tf32", "bf16x3", "tf32x3", "bf16")

_PRESETS = {
    "tf32": lax.DotAlgorithmPreset.TF32_TF32_F32,
    "tf32x3": lax.DotAlgorithmPreset.TF32_TF32_F32_X3,
}


def operands(w: jax.Array, precision: str) -> tuple[jax.Array, ...]:
    """The arrays that a kernel reads weights from: W itself, or its two halves."""
    if precision != "bf16x3":
        return (w,)
    # Rounding by a cast to bfloat16 and back would be simplified away outside of a kernel.
    high = lax.reduce_precision(w, exponent_bits=8, mantissa_bits=7)
    return high.astype(jnp.bfloat16), (w - high).astype(jnp.bfloat16)


def operand_bytes(precision: str) -> int:
    """Bytes on chip for each weight, all its halves together."""
    # TF32 halves are made by the compiler, which keeps both.
    return {"bf16": 2, "tf32x3": 8}.get(precision, 4)


def product(
    a: jax.Array, w: tuple[jax.Array, ...], precision: str, *, interpret: bool = False
) -> jax.Array:
    """A float32 tile times weights; inside of a kernel.

    Args:
      a: (rows, K), float32.
      w: what `operands` made of the weights, (K, N) each.
      precision: one of `PRECISIONS`.
      interpret: on a CPU, where all but bfloat16 weights are full float32.

    Returns:
      (rows, N), float32.
    """
    if interpret:
        return _product_in_float32(a, w)
    if precision == "bf16":
        return _dot(a.astype(jnp.bfloat16), w[0])
    if precision == "bf16x3":
        high = a.astype(jnp.bfloat16)
        low = (a - high.astype(jnp.float32)).astype(jnp.bfloat16)
        return _dot(high, w[1]) + _dot(low, w[0]) + _dot(high, w[0])
    return _dot(a, w[0], _PRESETS[precision])


def _dot(a: jax.Array, b: jax.Array, precision: lax.DotAlgorithmPreset | None = None) -> jax.Array:
    return lax.dot(a, b, precision=precision, preferred_element_type=jnp.float32)


def _product_in_float32(a: jax.Array, w: tuple[jax.Array, ...]) -> jax.Array:
    if len(w) == 1 and w[0].dtype == jnp.bfloat16:
        a = a.astype(jnp.bfloat16).astype(jnp.float32)
    whole = sum((half.astype(jnp.float32) for half in w[1:]), start=w[0].astype(jnp.float32))
    return lax.dot(a, whole, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)

"""The path through which a gated cell hands its memory on, apart from everything else."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from rnn_jax.gradients.scaled import (
    LN2,
    exponent_of,
    log_exactly,
    log_frobenius,
    log_of_sum,
    power_of_two,
)


@struct.dataclass
class MemoryPath:
    """∂m_t/∂m_0 of one part m of the carry, split into its direct path and the rest.

    ∂m_t/∂m_0 = diag(∏_{r≤t} f_r) + (every path that leaves m or mixes its units)

    Attributes:
      factors: f_t, what of m is handed on by itself: the forget gate of an LSTM, the update gate
        of a GRU, (T, H).
      log_products: ln ∏_{r≤t} f_r for each unit, (T, H).
      path_log_norms: ln‖diag(∏ f)‖_F, (T,).
      rest_log_norms: ln‖∂m_t/∂m_0 − diag(∏ f)‖_F, (T,); never found by subtraction, so small rests
        are right.
      total_log_norms: ln‖∂m_t/∂m_0‖_F, (T,).
    """

    factors: jax.Array
    log_products: jax.Array
    path_log_norms: jax.Array
    rest_log_norms: jax.Array
    total_log_norms: jax.Array


def split_path(state_jacobians: jax.Array, factors: jax.Array, rows: tuple[int, int]) -> MemoryPath:
    """Splits the products of one-step Jacobians into a diagonal path and the rest.

    rest_t = A_t rest_{t−1} + (A_t − F_t) diag(∏_{r<t} f_r),    F_t = f_t in the diagonal of m

    Args:
      state_jacobians: A_t, (T, S, S).
      factors: f_t, (T, H).
      rows: where the part m stands in the state, (start, stop).
    """
    size, (begin, end) = state_jacobians.shape[-1], rows
    count, dtype = end - begin, state_jacobians.dtype
    inside = jnp.arange(begin, end)

    def body(moving: Any, at: tuple[jax.Array, jax.Array]) -> tuple[Any, Any]:
        # Column j of the rest and the path of unit j share an exponent.
        rest, path, exponents = moving
        a, f = at
        leaves = a.at[inside, inside].add(-f)[:, begin:end]
        rest = jnp.matmul(a, rest, precision="highest")
        rest = rest + leaves * jnp.broadcast_to(path[None], leaves.shape)
        path = path * f
        shift = exponent_of(jnp.concatenate([rest, path[None]]), 0)
        scale = power_of_two(-shift, dtype)
        rest, path = rest * jnp.broadcast_to(scale[None], rest.shape), path * scale
        exponents = exponents + shift
        total = rest[begin:end] + jnp.diag(path)
        scales = LN2 * exponents.astype(dtype)
        logs = (
            log_exactly(jnp.abs(path)) + scales,
            log_of_sum(log_frobenius(rest[begin:end], 0) + scales, power=2),
            log_of_sum(log_frobenius(total, 0) + scales, power=2),
        )
        return (rest, path, exponents), logs

    start = (
        jnp.zeros((size, count), dtype),
        jnp.ones(count, dtype),
        jnp.zeros(count, jnp.int32),
    )
    products, rest, total = lax.scan(body, start, (state_jacobians, factors))[1]
    path = jax.vmap(lambda row: log_of_sum(row, power=2))(products)
    return MemoryPath(factors, products, path, rest, total)

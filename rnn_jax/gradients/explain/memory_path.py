"""The path through which a gated cell hands its memory on, apart from everything else."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rnn_jax.gradients import loops
from rnn_jax.gradients.jacobians.propagation import StepMatrices
from rnn_jax.gradients.linearize import Record
from rnn_jax.gradients.numerics.scaled import (
    LN2,
    add_scaled,
    log_exactly,
    log_frobenius,
    log_of_sum,
    normalised,
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
      rest_log_norms: ln‖∂m_t/∂m_0 − diag(∏ f)‖_F, (T,). The products are not subtracted, so a rest
        far below the path is right; only A_t − F_t is, so what is below the rounding of A_t itself
        counts as 0.
      total_log_norms: ln‖∂m_t/∂m_0‖_F, (T,).
    """

    factors: jax.Array
    log_products: jax.Array
    path_log_norms: jax.Array
    rest_log_norms: jax.Array
    total_log_norms: jax.Array


def split_path(record: Record, factors: jax.Array, rows: tuple[int, int]) -> MemoryPath:
    """Splits the products of one-step Jacobians into a diagonal path and the rest.

    rest_t = A_t rest_{t−1} + (A_t − F_t) diag(∏_{r<t} f_r),    F_t = f_t in the diagonal of m

    Args:
      record: of the sequence, for its A_t.
      factors: f_t, (T, H).
      rows: where the part m stands in the state, (start, stop).
    """
    size, dtype, (begin, end) = record.sizes.state, record.sizes.dtype, rows
    count = end - begin
    unit = jnp.arange(count)

    def body(moving: Any, at: Any) -> tuple[Any, Any]:
        # Each column of the rest, and each unit's path, with an exponent of its own.
        rest, exponents, path, path_exponents = moving
        matrices, a, f = at
        leaves = a[:, begin:end].at[begin + unit, unit].add(-f)
        leaving = leaves * jnp.broadcast_to(path[None], leaves.shape)
        rest = matrices.times(rest[:, :, None])[:, :, 0]
        rest, exponents = add_scaled(rest, exponents, leaving, path_exponents, axis=0)
        (path,), shift = normalised((path * f)[None], axis=0)
        path_exponents = path_exponents + shift
        total, total_exponents = add_scaled(
            rest[begin:end], exponents, jnp.diag(path), path_exponents, axis=0
        )
        logs = (
            log_exactly(jnp.abs(path)) + LN2 * path_exponents.astype(dtype),
            _log_norm(rest[begin:end], exponents),
            _log_norm(total, total_exponents),
        )
        return (rest, exponents, path, path_exponents), logs

    whole = jnp.zeros(count, jnp.int32)
    start = (jnp.zeros((size, count), dtype), whole, jnp.ones(count, dtype), whole)
    at = (StepMatrices.of(record.steps), record.jacobians.state_by_state, factors)
    products, rest, total = loops.scan(body, start, at)[1]
    path = jax.vmap(lambda row: log_of_sum(row, power=2))(products)
    return MemoryPath(factors, products, path, rest, total)


def _log_norm(columns: jax.Array, exponents: jax.Array) -> jax.Array:
    """ln of the Frobenius norm of columns · 2^exponent."""
    logs = log_frobenius(columns, 0) + LN2 * exponents.astype(columns.dtype)
    return log_of_sum(logs, power=2)

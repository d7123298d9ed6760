"""The path through which a gated cell hands its memory on, apart from everything else."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from rnn_jax.gradients import loops
from rnn_jax.gradients.by_platform import by_platform
from rnn_jax.gradients.explain.memory_path_kernel import column_logs
from rnn_jax.gradients.jacobians.blocks_of_time import (
    ScaledColumns,
    block_length,
    cut,
    identities,
)
from rnn_jax.gradients.jacobians.propagation import StepMatrices
from rnn_jax.gradients.linearize import Record
from rnn_jax.gradients.numerics.on_chip import fits_on_chip
from rnn_jax.gradients.numerics.scaled import (
    LN2,
    add_scaled,
    log_exactly,
    log_frobenius,
    log_of_sum,
    normalised,
)
from rnn_jax.gradients.one_step import StepJacobians


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

    Example:
      >>> lstm = rj.LSTMCell(2, 8, forget_bias=5.0, rngs=nnx.Rngs(0))
      >>> path = rj.attribution(lstm, xs).paths["c"]
      >>> bool((path.log_products[-1] > -1).all())  # Gates alone keep more than e⁻¹
      True
    """

    factors: jax.Array
    log_products: jax.Array
    path_log_norms: jax.Array
    rest_log_norms: jax.Array
    total_log_norms: jax.Array


class _Split(NamedTuple):
    """∂(state)/∂m_0 of one part m, less its path, and the path: a column or number for each unit.

    Attributes:
      rest: every path that leaves m or mixes its units, (S, H).
      exponents: of its columns, (H,).
      path: the product of the factors, (H,).
      path_exponents: of each, (H,).
    """

    rest: jax.Array
    exponents: jax.Array
    path: jax.Array
    path_exponents: jax.Array


class _Logs(NamedTuple):
    """What is read of a split: ln of each unit's path, (H,), of the rest and of all, ()."""

    path: jax.Array
    rest: jax.Array
    total: jax.Array


def split_path(record: Record, factors: jax.Array, rows: tuple[int, int]) -> MemoryPath:
    """Splits the products of one-step Jacobians into a diagonal path and the rest.

    rest_t = A_t rest_{t−1} + (A_t − F_t) diag(∏_{r<t} f_r),    F_t = f_t in the diagonal of m

    From step to step on a CPU, in blocks of time on a GPU, or by a kernel where A_t fits on chip.

    Args:
      record: of the sequence, for its A_t.
      factors: f_t, (T, H).
      rows: where the part m stands in the state, (start, stop).
    """
    steps, size = record.sizes.steps, record.sizes.state
    by_step = functools.partial(sweep, rows=rows)
    length = block_length(steps, 2 * size * size)
    if length is None:
        logs: _Logs = by_step(record.steps, factors)
    else:
        blocks = functools.partial(in_blocks, rows=rows, length=length)
        on_chip = fits_on_chip(steps, size, record.sizes.dtype)
        kernel = functools.partial(by_kernel, rows=rows) if on_chip else None
        choose = by_platform(by_step, cuda=blocks, kernel=kernel)
        logs = choose(record.steps, factors)
    path = jax.vmap(lambda row: log_of_sum(row, power=2))(logs.path)
    return MemoryPath(factors, logs.path, path, logs.rest, logs.total)


def sweep(steps: StepJacobians, factors: jax.Array, *, rows: tuple[int, int]) -> _Logs:
    """The logs of every step, one after another."""

    def body(split: _Split, at: Any) -> tuple[_Split, _Logs]:
        matrices, a, f = at
        rest = matrices.times(split.rest[:, :, None])[:, :, 0]
        split = _advanced(split, rest, a, f, rows)
        return split, _read(split, rows)

    a = steps.jacobians.state_by_state
    at = (StepMatrices.of(steps), a, factors)
    logs: _Logs = loops.scan(body, _unsplit(a, rows), at)[1]
    return logs


def in_blocks(
    steps: StepJacobians, factors: jax.Array, *, rows: tuple[int, int], length: int
) -> _Logs:
    """The same: each block of steps from a split that starts with it, then from block to block.

    With W the product of a block's Jacobians so far, and with its own rest and path,

    rest = W rest_before + rest_own diag(path_before),    path = path_own path_before
    """
    a, f = cut(steps.jacobians.state_by_state, length), cut(factors, length)
    start = _unsplit(a[0, 0], rows)
    blocks = a.shape[1]

    def within(before: Any, at: Any) -> tuple[Any, Any]:
        whole, own = before
        a, f = at
        rest = jnp.matmul(a, own.rest)
        own = jax.vmap(functools.partial(_advanced, rows=rows))(own, rest, a, f)
        after = whole.after(a), own
        return after, after

    def across(before: _Split, block: Any) -> tuple[_Split, _Logs]:
        split = jax.vmap(_joined, in_axes=(None, 0, 0))(before, *block)
        last: _Split = jax.tree.map(lambda leaf: leaf[-1], split)
        return last, jax.vmap(functools.partial(_read, rows=rows))(split)

    each = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (blocks, *leaf.shape)), start)
    _, found = loops.scan(within, (identities(blocks, a.shape[2], a.dtype), each), (a, f))
    found = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), found)
    _, logs = loops.scan(across, start, found)
    joined: _Logs = jax.tree.map(
        lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[: factors.shape[0]], logs
    )
    return joined


def by_kernel(
    steps: StepJacobians, factors: jax.Array, *, rows: tuple[int, int], interpret: bool = False
) -> _Logs:
    """The same by a kernel with a block of threads for each unit."""
    a = steps.jacobians.state_by_state
    columns = column_logs(a, factors, rows, interpret=interpret)
    together = jax.vmap(functools.partial(log_of_sum, power=2))
    return _Logs(columns.path, together(columns.rest), together(columns.total))


def _unsplit(a: jax.Array, rows: tuple[int, int]) -> _Split:
    """The path of no steps: 1 for each unit, and no rest."""
    size, count = a.shape[-1], rows[1] - rows[0]
    whole = jnp.zeros(count, jnp.int32)
    return _Split(jnp.zeros((size, count), a.dtype), whole, jnp.ones(count, a.dtype), whole)


def _advanced(
    split: _Split, rest: jax.Array, a: jax.Array, f: jax.Array, rows: tuple[int, int]
) -> _Split:
    """One step on, given A_t times the rest."""
    begin, end = rows
    unit = jnp.arange(end - begin)
    leaves = a[:, begin:end].at[begin + unit, unit].add(-f)
    leaving = leaves * jnp.broadcast_to(split.path[None], leaves.shape)
    rest, exponents = add_scaled(rest, split.exponents, leaving, split.path_exponents, axis=0)
    path, path_exponents = _near_one(split.path * f, split.path_exponents)
    return _Split(rest, exponents, path, path_exponents)


def _joined(before: _Split, whole: ScaledColumns, own: _Split) -> _Split:
    """The split since the start, from that before a block and what the block has made so far."""
    rest, exponents = whole.times(before.rest[:, None], before.exponents)
    leaving = own.rest * jnp.broadcast_to(before.path[None], own.rest.shape)
    leaving_exponents = own.exponents + before.path_exponents
    rest, exponents = add_scaled(rest[:, 0], exponents, leaving, leaving_exponents, axis=0)
    path, path_exponents = _near_one(
        own.path * before.path, own.path_exponents + before.path_exponents
    )
    return _Split(rest, exponents, path, path_exponents)


def _near_one(path: jax.Array, exponents: jax.Array) -> tuple[jax.Array, jax.Array]:
    (path,), shift = normalised(path[None], axis=0)
    return path, exponents + shift


def _read(split: _Split, rows: tuple[int, int]) -> _Logs:
    rest, exponents, path, path_exponents = split
    own = rest[slice(*rows)]
    total = add_scaled(own, exponents, jnp.diag(path), path_exponents, axis=0)
    logs = log_exactly(jnp.abs(path)) + LN2 * path_exponents.astype(path.dtype)
    return _Logs(logs, _log_norm(own, exponents), _log_norm(*total))


def _log_norm(columns: jax.Array, exponents: jax.Array) -> jax.Array:
    """ln of the Frobenius norm of columns · 2^exponent."""
    logs = log_frobenius(columns, 0) + LN2 * exponents.astype(columns.dtype)
    return log_of_sum(logs, power=2)

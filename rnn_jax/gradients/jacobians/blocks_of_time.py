"""Products of one-step Jacobians in blocks of time: few operations that wait for one another.

A sweep from step to step is T products, each too small for an accelerator to be busy with. Here the
sequence is cut into blocks of b steps. First all blocks advance side by side: each finds, step by
step, the product of its own Jacobians so far and the derivatives by its own sources. Then the
derivatives by all earlier sources go from block to block, and the b steps of a block read them in
one product. That is b + T/b operations in a row instead of T, for more arithmetic in all.

∂y_t/∂x_s = V_t · Q_s,    V_t = C_t A_{t−1} ⋯ A_{kb+1} of t's block k,    Q_s = ∂carry_{kb}/∂x_s
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.gradients import loops
from rnn_jax.gradients.numerics.scaled import (
    LN2,
    NEVER,
    normalizing_exponent,
    power_of_two,
    times_powers,
    zero_or_never,
)
from rnn_jax.gradients.one_step import StepJacobians

# Derivatives that a block reads at once, in array elements: 64 MB of float32.
_READ_ELEMENTS = 2**24
# Shorter blocks, or fewer of them, save too little.
_LEAST = 8

# From matrices (..., m, n, K) to a number each, (..., K).
LogNorm = Callable[[jax.Array], jax.Array]


class ScaledColumns(NamedTuple):
    """M · diag(2^exponents): columns that decay at rates of their own keep their digits.

    Attributes:
      values: near 1 at the largest of each column, (..., m, S).
      exponents: whole numbers, (..., S); about `NEVER` for a column that is exactly 0.
    """

    values: jax.Array
    exponents: jax.Array

    def after(self, a: jax.Array) -> "ScaledColumns":
        """A · M."""
        values = jnp.matmul(a, self.values)
        shift = normalizing_exponent(values, -2)
        scale = power_of_two(-shift, values.dtype)[..., None, :]
        exponents = jnp.maximum(self.exponents + shift, NEVER) + zero_or_never(values, -2)
        exponents = jnp.maximum(exponents, NEVER)
        return ScaledColumns(values * jnp.broadcast_to(scale, values.shape), exponents)

    def times(self, p: jax.Array, exponents: jax.Array) -> tuple[jax.Array, jax.Array]:
        """M · p · 2^exponents of one matrix M: (S, n, K), (K,) to (m, n, K), (K,)."""
        own = jnp.broadcast_to(jnp.expand_dims(self.exponents, (1, 2)), p.shape)
        scaled, shift = times_powers(p, own, (0, 1))
        # What is all 0 has no scale to hand on, or a thousand blocks would add up beyond int32.
        shift = jnp.where(shift <= NEVER // 2, jnp.zeros_like(shift), shift)
        return jnp.einsum("ij,jnk->ink", self.values, scaled), exponents + shift


def identities(blocks: int, size: int, dtype: Any) -> ScaledColumns:
    """The product of no Jacobians, for each block."""
    eye = jnp.broadcast_to(jnp.eye(size, dtype=dtype), (blocks, size, size))
    return ScaledColumns(eye, jnp.zeros((blocks, size), jnp.int32))


def cut(array: jax.Array, length: int) -> jax.Array:
    """(T, ...) to (b, n, ...), steps within a block first; what is missing at the end is 0."""
    missing = -array.shape[0] % length
    padded = jnp.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))
    return jnp.swapaxes(padded.reshape(-1, length, *array.shape[1:]), 0, 1)


def block_length(steps: int, elements: int) -> int | None:
    """b, about √T; None where blocks would be too short or too few to be worth it.

    Args:
      steps: T.
      elements: of the array that is held for each step of a block.
    """
    about = min(round(steps**0.5), _READ_ELEMENTS // max(1, elements))
    if about < _LEAST or steps < 2 * _LEAST**2:
        return None
    # One that divides the sequence leaves nothing to be filled up.
    near = range(about, about * 3 // 4, -1)
    return next((length for length in near if steps % length == 0), about)


class _Blocks(NamedTuple):
    """What is known of all blocks before anything comes from one to the next.

    Attributes:
      reads: V_t of each step, (n, b, m, S).
      whole: the product of each block's Jacobians, (n, S, S).
      sources: the derivatives of the state at a block's end by its own sources, (n, S, i, b).
      exponents: of these, (n, b).
      logs: of the norms of the outputs by the sources of the same block, (n, b, b).
    """

    reads: ScaledColumns
    whole: ScaledColumns
    sources: jax.Array
    exponents: jax.Array
    logs: jax.Array


def log_norms_in_blocks(
    steps: StepJacobians, *, wrt: str, log_norm: LogNorm, length: int
) -> jax.Array:
    """ln‖∂y_t/∂x_s‖, or of carries by carries, for all pairs of steps.

    Equal to the sweep to rounding. A derivative that is not finite is inf or NaN at the same pairs
    of steps, but may be NaN where the sweep has inf: sums are in another order.

    Args:
      steps: the one-step Jacobians.
      wrt: "input" or "state".
      log_norm: of derivatives (..., m, i, K), to (..., K).
      length: b.

    Returns:
      (T, T), −inf for s > t and where the derivative is exactly 0.
    """
    total = steps.jacobians.state_by_state.shape[0]
    blocks = _within_blocks(steps, wrt=wrt, log_norm=log_norm, length=length)
    table = _across_blocks(blocks, log_norm)
    return table[:total, :total]


def _within_blocks(steps: StepJacobians, *, wrt: str, log_norm: LogNorm, length: int) -> _Blocks:
    """All blocks side by side, step by step."""
    cut_up = jax.tree.map(functools.partial(cut, length=length), steps.jacobians)
    _, count, size, features = cut_up.state_by_input.shape
    dtype = cut_up.state_by_state.dtype
    by_state = wrt == "state"
    columns = size if by_state else features
    eye = jnp.broadcast_to(jnp.eye(size, dtype=dtype), (count, size, size))
    own_output = not by_state and steps.output_rows is None
    rows = slice(None) if by_state or own_output else slice(*(steps.output_rows or ()))
    slots = jnp.arange(length, dtype=jnp.int32)

    def enter(p: jax.Array, source: jax.Array, j: jax.Array) -> jax.Array:
        return lax.dynamic_update_index_in_dim(p, source, j, 3)

    def body(before: Any, at: Any) -> tuple[Any, Any]:
        whole, p, exponents = before
        j, now = at
        if own_output:
            reads = whole.after(now.output_by_state)
            shown = enter(_times(now.output_by_state, p), now.output_by_input, j)
            shown_exponents = exponents
        whole = whole.after(now.state_by_state)
        p = enter(_times(now.state_by_state, p), eye if by_state else now.state_by_input, j)
        p, exponents = _near_one(p, exponents)
        if not own_output:
            reads = ScaledColumns(whole.values[:, rows], whole.exponents)
            shown, shown_exponents = p[:, rows], exponents
        logs = log_norm(shown) + LN2 * shown_exponents.astype(dtype)
        reached = jnp.broadcast_to((slots <= j)[None], logs.shape)
        logs = jnp.where(reached, logs, jnp.full_like(logs, -jnp.inf))
        return (whole, p, exponents), (reads, logs)

    nothing = jnp.zeros((count, size, columns, length), dtype)
    start = (identities(count, size, dtype), nothing, jnp.zeros((count, length), jnp.int32))
    (whole, p, exponents), found = loops.scan(body, start, (slots, cut_up))
    reads, logs = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), found)
    return _Blocks(reads, whole, p, exponents, logs)


def _across_blocks(blocks: _Blocks, log_norm: LogNorm) -> jax.Array:
    """From block to block: the derivatives by all earlier sources, and what each step reads."""
    count, size, columns, length = blocks.sources.shape
    dtype, total = blocks.sources.dtype, count * length
    index = jnp.arange(total, dtype=jnp.int32)

    def body(before: Any, at: Any) -> tuple[Any, jax.Array]:
        q, exponents = before
        first, block = at
        y, read_exponents = jax.vmap(ScaledColumns.times, in_axes=(0, None, None))(
            block.reads, q, exponents
        )
        logs = log_norm(y) + LN2 * read_exponents.astype(dtype)
        earlier = jnp.broadcast_to((index < first)[None], logs.shape)
        logs = jnp.where(earlier, logs, jnp.full_like(logs, -jnp.inf))
        zero = jnp.zeros_like(first)
        logs = lax.dynamic_update_slice(logs, block.logs, (zero, first))
        q, exponents = block.whole.times(q, exponents)
        q = lax.dynamic_update_slice(q, block.sources, (zero, zero, first))
        exponents = lax.dynamic_update_slice(exponents, block.exponents, (first,))
        return _near_one(q, exponents), logs

    start = (jnp.zeros((size, columns, total), dtype), jnp.zeros(total, jnp.int32))
    firsts = length * jnp.arange(count, dtype=jnp.int32)
    _, table = loops.scan(body, start, (firsts, blocks))
    return table.reshape(total, total)


def _times(a: jax.Array, p: jax.Array) -> jax.Array:
    """A · P for every source of every block: (n, m, S) with (n, S, i, b)."""
    return jnp.einsum("nij,njsk->nisk", a, p)


def _near_one(p: jax.Array, exponents: jax.Array) -> tuple[jax.Array, jax.Array]:
    """p · 2^exponents, (..., S, i, K) and (..., K), with p near 1 for each of K."""
    shift = normalizing_exponent(p, (-3, -2))
    scale = jnp.expand_dims(power_of_two(-shift, p.dtype), (-3, -2))
    return p * jnp.broadcast_to(scale, p.shape), exponents + shift

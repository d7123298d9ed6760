"""Norms of the Jacobian between every two steps, in log space."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.arrays import nan_unless
from rnn_jax.checks import as_steps, check_choice, read_whole_numbers
from rnn_jax.gradients.by_platform import by_platform
from rnn_jax.gradients.input_vectors import check_by_input
from rnn_jax.gradients.jacobians.blocks_of_time import block_length, log_norms_in_blocks
from rnn_jax.gradients.jacobians.propagation import AtStep, sweep_backward, sweep_forward
from rnn_jax.gradients.linearize import (
    Record,
    Sizes,
    Source,
    accept,
    check_decomposable,
    sizes_of,
)
from rnn_jax.gradients.memory import check_fits
from rnn_jax.gradients.numerics.scaled import LN2, log_frobenius, log_spectral
from rnn_jax.gradients.one_step import StepJacobians
from rnn_jax.gradients.precision import compiled
from rnn_jax.sequence.calling import ArrayLike, Carry


def jacobian_log_norms(
    cell: Any,
    xs: Any = None,
    carry: Carry | None = None,
    *,
    feature_axes: int | None = None,
    wrt: str = "input",
    norm: str = "fro",
    targets: ArrayLike | None = None,
) -> jax.Array:
    """Natural log of the norm of the Jacobian between every two steps, without underflow.

    L[t, s] = ln‖∂y_t/∂x_s‖    or, with wrt="state",    ln‖∂carry_t/∂carry_s‖

    A product that has shrunk to e^−2000 is a number here. Each product is kept near 1 beside a
    whole exponent, whose bookkeeping rounds nothing; the result never holds T² matrices.

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y).
      xs: one sequence, (T, I), or a pytree of inputs; `jax.vmap` gives a batch.
      carry: initial carry; None asks the cell.
      feature_axes: trailing axes of xs that are features; as for `unroll`.
      wrt: "input", the outputs by the inputs, or "state", the carries by earlier carries.
      norm: "fro", the Frobenius norm, or "spectral", the largest singular value.
      targets: steps t in [−T, T), (K,): only these rows, in time and memory that grow with K; None
        gives all. Where they cannot be read (inside `jit`), one out of range gives a row of NaN.

    Returns:
      (T, T), or (K, T) with targets; −inf only where the derivative is structurally (s > t) or
      exactly 0. One exponent serves each whole product, so a path that is more than 2^100 times
      (float32; 2^800 in float64) below the largest entry of the same product reads as 0 too.

    Raises:
      ValueError: wrong shapes, unknown names, targets out of range, an empty sequence, or a
        result too large for memory.
      TypeError: inputs or carries of the wrong type, or a cell that needs `carry`.

    Example:
      >>> logs = rj.jacobian_log_norms(cell, xs)
      >>> logs.shape
      (20, 20)
      >>> round(float(logs[19, 0]), 1)
      -6.7
      >>> sigmoid = rj.SimpleRNNCell(1, 8, activation="sigmoid", rngs=nnx.Rngs(0))
      >>> far = rj.jacobian_log_norms(sigmoid, jnp.zeros((1000, 1)), targets=[-1])[0, 0]
      >>> bool(far < -1000)  # Where float32 would hold 0
      True
    """
    check_choice("wrt", wrt, ("input", "state"))
    check_choice("norm", norm, ("fro", "spectral"))
    source = accept(cell, xs, carry, feature_axes)
    check_by_input(wrt, source.inputs)
    sizes = sizes_of(source)
    if targets is not None:
        targets = check_targets(targets, sizes.steps)
    if norm == "spectral":
        check_decomposable(sizes, 'norm="spectral"')
    count = None if targets is None else targets.shape[0]
    check_log_norms(sizes, wrt, count, of=(source, targets))
    return _jacobian_log_norms(source, targets, wrt=wrt, norm=norm)


@functools.partial(compiled, static=("wrt", "norm"))
def _jacobian_log_norms(
    source: Source, targets: jax.Array | None, *, wrt: str, norm: str
) -> jax.Array:
    record = Record(source)
    if targets is None:
        return log_norms_of(record, wrt=wrt, norm=norm)
    steps, size, outputs, inputs, dtype = record.sizes
    rows, columns = (size, size) if wrt == "state" else (outputs, inputs)
    rank = targets % steps

    def emit(r: jax.Array, exponents: jax.Array) -> jax.Array:
        logs = log_frobenius(r, (1, 2)) if norm == "fro" else log_spectral(r)
        return logs + LN2 * exponents.astype(dtype)

    # Multiplications a step: K·rows·S backward from the targets, S·T·columns forward from all.
    if targets.shape[0] * rows < steps * columns:
        table = sweep_backward(record, rank, wrt, emit).T
    else:
        table = log_norms_of(record, wrt=wrt, norm=norm)[rank]
    known = jnp.broadcast_to(((targets >= -steps) & (targets < steps))[:, None], table.shape)
    return nan_unless(known, table)


def log_norms_of(record: Record, *, wrt: str, norm: str = "fro") -> jax.Array:
    """`jacobian_log_norms` of all steps, (T, T), read off a record.

    From step to step on a CPU, in blocks of time on a GPU.
    """
    sizes = record.sizes
    rows, columns = (sizes.state, sizes.state) if wrt == "state" else (sizes.output, sizes.inputs)
    frobenius = norm == "fro" or columns == 1

    def emit(at: AtStep) -> jax.Array:
        logs = at.log_norms() if frobenius else log_spectral(jnp.moveaxis(at.masked(), 2, 0))
        return logs + LN2 * at.exponents.astype(sizes.dtype)

    def sweep(steps: StepJacobians) -> jax.Array:
        return sweep_forward(steps, wrt, emit, rescale=True, fill=-jnp.inf, time_last=True)

    length = block_length(sizes.steps, rows * columns * sizes.steps)
    if length is None:
        return sweep(record.steps)

    log_norm = log_norm_by_source("fro" if frobenius else norm)
    blocks = functools.partial(log_norms_in_blocks, wrt=wrt, log_norm=log_norm, length=length)
    table: jax.Array = by_platform(sweep, cuda=blocks)(record.steps)
    return table


def log_norm_by_source(norm: str) -> Callable[[jax.Array], jax.Array]:
    """ln of a norm of derivatives (..., m, i, K) by K sources, to (..., K)."""
    if norm == "fro":
        return lambda y: log_frobenius(y, (-3, -2))
    return lambda y: log_spectral(jnp.moveaxis(y, -1, -3))


def check_log_norms(
    sizes: Sizes, wrt: str, count: int | None = None, *, of: Any, batch: int = 1
) -> None:
    """Raises unless there is something to differentiate by, and room for the result.

    Args:
      sizes: of one sequence.
      wrt: "input" or "state".
      count: K, how many targets; None is all steps.
      of, batch: as for `check_fits`.

    Raises:
      ValueError: there is not.
    """
    steps, size, outputs, inputs, dtype = sizes
    columns = size if wrt == "state" else inputs
    if columns == 0:
        raise ValueError(
            'wrt="input" needs at least one input feature to differentiate by; got xs of shape '
            f'{(steps, inputs)}. For a system without input pass wrt="state".'
        )
    check_fits(
        "jacobian_log_norms",
        [
            (steps if count is None else count, steps),
            (steps, size + outputs, size + inputs),
            (3, size, steps if count is None else min(count, steps), columns),
        ],
        dtype,
        "Pass targets=, the few steps t whose rows you want, or a shorter sequence."
        if count is None
        else "Pass fewer targets or a shorter sequence, or use backprop_signal, which forms no "
        "Jacobian.",
        of=of,
        batch=batch,
    )


def check_targets(targets: ArrayLike, steps: int) -> jax.Array:
    """Returns targets as an array of whole numbers, checked as far as they can be read.

    Raises:
      TypeError: they are no whole numbers.
      ValueError: no list of at least one, or out of [−steps, steps).
    """
    array = read_whole_numbers(
        "targets",
        targets,
        rule="a list of whole numbers, steps of xs",
        fix="Pass ints, for one step targets=[t].",
        for_booleans="Pass the steps that a mask marks, jnp.flatnonzero(mask).",
    )
    if array.ndim != 1 or array.shape[0] == 0:
        raise ValueError(
            f"targets must be a list of at least one step, shape (K,); got shape {array.shape}. "
            "For one step pass targets=[t]."
        )
    if isinstance(array, np.ndarray):  # Else they are marked by NaN where out of range.
        outside = array[(array < -steps) | (array >= steps)]
        if outside.size:
            raise ValueError(
                f"targets must lie in [-{steps}, {steps}), the steps of xs; got {outside[0]}."
            )
    return as_steps(array, steps)

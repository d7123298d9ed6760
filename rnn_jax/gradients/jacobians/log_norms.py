"""Norms of the Jacobian between every two steps, in log space."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import as_steps, check_choice, read_whole_numbers
from rnn_jax.gradients.jacobians.propagation import sweep_backward, sweep_forward
from rnn_jax.gradients.linearize import linearize_flat
from rnn_jax.gradients.memory import check_fits
from rnn_jax.gradients.numerics.scaled import LN2, log_frobenius, log_spectral
from rnn_jax.gradients.trajectory import FlatCell, check_decomposable, flatten_cell
from rnn_jax.sequence.calling import ArrayLike, Carry, as_pytree, as_sequence, check_carry_leaves


def jacobian_log_norms(
    cell: Any,
    xs: ArrayLike,
    carry: Carry | None = None,
    *,
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
      xs: one sequence, (T, I); `jax.vmap` gives a batch.
      carry: initial carry; None asks the cell.
      wrt: "input", the outputs by the inputs, or "state", the carries by earlier carries.
      norm: "fro", the Frobenius norm, or "spectral", the largest singular value.
      targets: steps t in [−T, T), (K,): only these rows, in time and memory that grow with K; None
        gives all. Where they cannot be read (inside `jit`), one out of range gives a row of NaN.

    Returns:
      (T, T), or (K, T) with targets; −inf only where the derivative is structurally (s > t) or
      exactly 0. One exponent serves each whole product, so a path that is more than 2^126 times
      (float32; 2^1022 in float64) below the largest entry of the same product reads as 0 too.

    Raises:
      ValueError: wrong shapes, unknown names, targets out of range, an empty sequence, or a
        result too large for memory.
      TypeError: inputs or carries that are no floats, or a cell that needs `carry`.
    """
    check_choice("wrt", wrt, ("input", "state"))
    check_choice("norm", norm, ("fro", "spectral"))
    xs = as_sequence(xs, batched=False)
    if targets is not None:
        targets = check_targets(targets, xs.shape[0])
    return _log_norms(as_pytree(cell), xs, check_carry_leaves(carry), targets, wrt=wrt, norm=norm)


@functools.partial(jax.jit, static_argnames=("wrt", "norm"))
def _log_norms(
    cell: Any,
    xs: jax.Array,
    carry: Carry | None,
    targets: jax.Array | None,
    *,
    wrt: str,
    norm: str,
) -> jax.Array:
    flat = flatten_cell(cell, xs, carry)
    if norm == "spectral":
        check_decomposable(flat, 'norm="spectral"')
    rows = flat.state_size if wrt == "state" else flat.output_size
    columns = flat.state_size if wrt == "state" else xs.shape[1]
    if columns == 0:
        raise ValueError(
            'wrt="input" needs at least one input feature to differentiate by; got xs of shape '
            f'{xs.shape}. For a system without input pass wrt="state".'
        )
    _check_fits(flat, xs, columns, None if targets is None else targets.shape[0])
    lin = linearize_flat(flat, xs)
    dtype = lin.state_jacobians.dtype

    def emit_forward(p: jax.Array, exponents: jax.Array) -> jax.Array:
        if norm == "fro" or columns == 1:
            logs = log_frobenius(p, (0, 1))
        else:
            logs = log_spectral(jnp.moveaxis(p, 2, 0))
        return logs + LN2 * exponents.astype(dtype)

    def emit_backward(r: jax.Array, exponents: jax.Array) -> jax.Array:
        logs = log_frobenius(r, (1, 2)) if norm == "fro" else log_spectral(r)
        return logs + LN2 * exponents.astype(dtype)

    def all_targets() -> jax.Array:
        return sweep_forward(lin, wrt, emit_forward, rescale=True, fill=-jnp.inf, time_last=True)

    if targets is None:
        return all_targets()
    steps = xs.shape[0]
    rank = targets % steps
    # Multiplications a step: K·rows·S backward from the targets, S·T·columns forward from all.
    if targets.shape[0] * rows < steps * columns:
        table = sweep_backward(lin, rank, wrt, emit_backward).T
    else:
        table = all_targets()[rank]
    known = jnp.broadcast_to(((targets >= -steps) & (targets < steps))[:, None], table.shape)
    return jnp.where(known, table, jnp.full_like(table, jnp.nan))


def _check_fits(flat: FlatCell, xs: jax.Array, columns: int, count: int | None) -> None:
    steps, size = xs.shape[0], flat.state_size
    check_fits(
        "jacobian_log_norms",
        [
            (steps if count is None else count, steps),
            (steps, size + flat.output_size, size + xs.shape[1]),
            (3, size, steps if count is None else min(count, steps), columns),
        ],
        flat.initial.dtype,
        "Pass targets=, the few steps t whose rows you want, or a shorter sequence."
        if count is None
        else "Pass fewer targets or a shorter sequence, or use backprop_signal, which forms no "
        "Jacobian.",
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

"""The error signal taken apart by the step whose loss it comes from."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.gradients import loops
from rnn_jax.gradients.linearize import Record, Source, accept, sizes_of
from rnn_jax.gradients.memory import check_fits
from rnn_jax.gradients.numerics.scaled import LN2, log_frobenius, normalizing_exponent, power_of_two
from rnn_jax.gradients.precision import compiled
from rnn_jax.gradients.signals.backprop import (
    Loss,
    check_loss,
    loss_gradient,
    outputs_of,
    signal_of,
)
from rnn_jax.gradients.step_maps import step_maps
from rnn_jax.sequence.calling import Carry


def backprop_signal_log_norms(
    loss: Loss,
    cell: Any,
    xs: Any = None,
    carry: Carry | None = None,
    *,
    feature_axes: int | None = None,
) -> jax.Array:
    """Log-norm of what the loss at each step sends back to each earlier carry.

    L[t, s] = ln‖(∂carry_t/∂carry_s)ᵀ ∂L/∂carry_t‖

    The rows add up, as vectors, to the total signal of `backprop_signal`; the lag t − s is the
    time of the loss minus the time of use. With the loss at the last step only, the last row is
    all there is. No Jacobian is formed: the T signals travel back together, one vector-Jacobian
    product each, beside whole exponents.

    Args:
      loss: loss(ys) -> scalar, of the outputs (T, H) that `unroll` gives.
      cell: any callable pytree cell(carry, x) -> (carry, y).
      xs: one sequence, (T, I), or a pytree of inputs.
      carry: initial carry; None asks the cell.
      feature_axes: trailing axes of xs that are features; as for `unroll`.

    Returns:
      (T, T); row t is the step of the loss, column s the step of use; −inf for s > t, for steps
      that the loss does not read, and where the derivative is exactly 0.

    Raises:
      ValueError: a loss that is no scalar, wrong shapes, an empty sequence, or a result too large
        for memory.
      TypeError: a loss that is not callable, inputs or carries of the wrong type, or a cell that
        needs `carry`.

    Example:
      >>> logs = rj.backprop_signal_log_norms(lambda ys: (ys**2).sum(), cell, xs)
      >>> logs.shape
      (20, 20)
      >>> curve = rj.by_lag(logs)
      >>> bool(curve[10] < curve[0])
      True
    """
    check_loss(loss)
    source = accept(cell, xs, carry, feature_axes)
    steps, size, *_, dtype = sizes_of(source)
    check_fits(
        "backprop_signal_log_norms",
        [(steps, steps), (4, steps, size)],
        dtype,
        "Use a shorter sequence, or backprop_signal, which gives the sum over the rows.",
        of=source,
    )
    ran, ys = outputs_of(source)
    return _signal_log_norms(ran, loss_gradient(loss, ys))


@compiled
def _signal_log_norms(source: Source, output_gradients: Any) -> jax.Array:
    record = Record(source)
    _, signal = signal_of(record, output_gradients)
    return _sweep(record, signal.direct)


def _sweep(record: Record, direct: jax.Array) -> jax.Array:
    """Every row of direct (T, S) carried back to every earlier step, as log-norms (T, T)."""
    steps, dtype = direct.shape[0], direct.dtype
    rank, maps = jnp.arange(steps), step_maps(record)

    def body(moving: tuple[jax.Array, jax.Array], at: Any) -> tuple[Any, jax.Array]:
        rows, exponents = moving
        s, here, own = at
        rows = lax.dynamic_update_index_in_dim(rows, own, s, axis=0)
        logs = log_frobenius(rows, 1) + LN2 * exponents.astype(dtype)
        rows = jax.vmap(maps.pull_state(here))(rows)
        # Set to 0 once more for losses not yet passed: 0 times a Jacobian may be NaN.
        passed = jnp.broadcast_to((rank >= s)[:, None], rows.shape)
        rows = jnp.where(passed, rows, jnp.zeros_like(rows))
        shift = normalizing_exponent(rows, 1)
        rows = rows * jnp.broadcast_to(power_of_two(-shift, dtype)[:, None], rows.shape)
        return (rows, exponents + shift), logs

    start = (jnp.zeros_like(direct), jnp.zeros(steps, jnp.int32))
    _, table = loops.scan(body, start, (rank, maps.at, direct), reverse=True)
    return table.T

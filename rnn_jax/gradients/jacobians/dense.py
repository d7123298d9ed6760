"""Jacobians of the whole sequence, materialised."""

from typing import Any

import jax

from rnn_jax.gradients.jacobians.propagation import sweep_forward
from rnn_jax.gradients.linearize import linearize_flat
from rnn_jax.gradients.memory import check_fits
from rnn_jax.gradients.trajectory import FlatCell, flatten_cell
from rnn_jax.sequence.calling import ArrayLike, Carry, as_pytree, as_sequence, check_carry_leaves


def input_jacobian(cell: Any, xs: ArrayLike, carry: Carry | None = None) -> jax.Array:
    """Exact Jacobian of every output with respect to every input.

    J[t, :, s, :] = ∂y_t/∂x_s = C_t A_{t−1} ⋯ A_{s+1} B_s    (D_t at s = t, 0 for s > t)

    Equal to `jax.jacrev` of the unrolled network, to rounding, and made of the products that it
    needs and no others. Entries underflow where the type does; `jacobian_log_norms` does not.

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y).
      xs: one sequence, (T, I); `jax.vmap` gives a batch.
      carry: initial carry; None asks the cell.

    Returns:
      (T, H, T, I), H the size of the flattened output.

    Raises:
      ValueError: wrong shapes, an empty sequence, or a result too large for memory.
      TypeError: inputs or carries that are no floats, or a cell that needs `carry`.
    """
    return _input_jacobian(
        as_pytree(cell), as_sequence(xs, batched=False), check_carry_leaves(carry)
    )


def state_jacobian(cell: Any, xs: ArrayLike, carry: Carry | None = None) -> jax.Array:
    """Exact Jacobian of every carry with respect to every earlier one, over the whole carry.

    J[t, :, s, :] = ∂carry_t/∂carry_s = A_t A_{t−1} ⋯ A_{s+1}    (I at s = t, 0 for s > t)

    For an LSTM the carry is (c, h): holding c fixed would drop the path that remembers.

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y).
      xs: one sequence, (T, I); `jax.vmap` gives a batch.
      carry: initial carry; None asks the cell.

    Returns:
      (T, S, T, S), S the size of the flattened carry; index t is the carry after step t.

    Raises:
      ValueError: wrong shapes, an empty sequence, or a result too large for memory.
      TypeError: inputs or carries that are no floats, or a cell that needs `carry`.
    """
    return _state_jacobian(
        as_pytree(cell), as_sequence(xs, batched=False), check_carry_leaves(carry)
    )


@jax.jit
def _input_jacobian(cell: Any, xs: jax.Array, carry: Carry | None) -> jax.Array:
    flat = flatten_cell(cell, xs, carry)
    steps, inputs = xs.shape
    _check_fits("input_jacobian", flat, steps, (flat.output_size, inputs), inputs)
    return _sweep(flat, xs, "input")


@jax.jit
def _state_jacobian(cell: Any, xs: jax.Array, carry: Carry | None) -> jax.Array:
    flat = flatten_cell(cell, xs, carry)
    steps, size = xs.shape[0], flat.state_size
    _check_fits("state_jacobian", flat, steps, (size, size), size)
    return _sweep(flat, xs, "state")


def _sweep(flat: FlatCell, xs: jax.Array, wrt: str) -> jax.Array:
    lin = linearize_flat(flat, xs)
    return sweep_forward(lin, wrt, lambda p, _: p, rescale=False, fill=0.0, time_last=False)


def _check_fits(
    call: str, flat: FlatCell, steps: int, block: tuple[int, int], columns: int
) -> None:
    size = flat.state_size
    wrt = call.removesuffix("_jacobian")
    check_fits(
        call,
        [
            (steps, block[0], steps, block[1]),
            (steps, size, size + columns),
            (2, size, steps, columns),
        ],
        flat.initial.dtype,
        f'Use jacobian_log_norms(cell, xs, wrt="{wrt}"), which keeps one number for each pair of '
        "steps, or a shorter sequence.",
    )

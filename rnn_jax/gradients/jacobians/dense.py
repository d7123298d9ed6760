"""Jacobians of the whole sequence, materialised."""

import functools
from typing import Any

import jax

from rnn_jax.gradients.input_vectors import check_by_input
from rnn_jax.gradients.jacobians.propagation import AtStep, sweep_forward
from rnn_jax.gradients.linearize import Given, Record, Source, accept, sizes_of
from rnn_jax.gradients.memory import check_fits
from rnn_jax.gradients.precision import compiled
from rnn_jax.sequence.calling import Carry


def input_jacobian(
    cell: Any,
    xs: Any = None,
    carry: Carry | None = None,
    *,
    feature_axes: int | None = None,
) -> jax.Array:
    """Exact Jacobian of every output with respect to every input.

    J[t, :, s, :] = ∂y_t/∂x_s = C_t A_{t−1} ⋯ A_{s+1} B_s    (D_t at s = t, 0 for s > t)

    Equal to `jax.jacrev` of the unrolled network, to rounding, and made of the products that it
    needs and no others. Entries underflow where the type does; `jacobian_log_norms` does not.

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y).
      xs: one sequence, (T, I), or a pytree of inputs; `jax.vmap` gives a batch.
      carry: initial carry; None asks the cell.
      feature_axes: trailing axes of xs that are features; as for `unroll`.

    Returns:
      (T, H, T, I), H the size of the flattened output, I the floats of one input, flattened: whole
      numbers in a pytree are held constant.

    Raises:
      ValueError: wrong shapes, an empty sequence, or a result too large for memory.
      TypeError: inputs or carries of the wrong type, or a cell that needs `carry`.

    Example:
      >>> J = rj.input_jacobian(cell, xs)
      >>> J.shape
      (20, 8, 20, 2)
      >>> by_jax = jax.jacrev(lambda xs: rj.unroll(cell, xs)[1])(xs)
      >>> bool(jnp.allclose(J, by_jax, atol=1e-6))
      True
    """
    source = accept(cell, xs, carry, feature_axes)
    check_by_input("input", source.inputs)
    _check_fits(source, "input")
    return _sweep(source, wrt="input")


def state_jacobian(
    cell: Any,
    xs: Any = None,
    carry: Carry | None = None,
    *,
    feature_axes: int | None = None,
) -> jax.Array:
    """Exact Jacobian of every carry with respect to every earlier one, over the whole carry.

    J[t, :, s, :] = ∂carry_t/∂carry_s = A_t A_{t−1} ⋯ A_{s+1}    (I at s = t, 0 for s > t)

    For an LSTM the carry is (c, h): holding c fixed would drop the path that remembers.

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y).
      xs: one sequence, (T, I), or a pytree of inputs; `jax.vmap` gives a batch.
      carry: initial carry; None asks the cell.
      feature_axes: trailing axes of xs that are features; as for `unroll`.

    Returns:
      (T, S, T, S), S the size of the flattened carry; index t is the carry after step t.

    Raises:
      ValueError: wrong shapes, an empty sequence, or a result too large for memory.
      TypeError: inputs or carries of the wrong type, or a cell that needs `carry`.

    Example:
      >>> J = rj.state_jacobian(cell, xs)
      >>> J.shape
      (20, 8, 20, 8)
      >>> bool(jnp.allclose(J[9, :, 2], J[9, :, 6] @ J[6, :, 2], atol=1e-6))  # A chain of products
      True
    """
    source = accept(cell, xs, carry, feature_axes)
    _check_fits(source, "state")
    return _sweep(source, wrt="state")


@functools.partial(compiled, static=("wrt",))
def _sweep(source: Source, *, wrt: str) -> jax.Array:
    return sweep_forward(
        Record(source).steps, wrt, AtStep.masked, rescale=False, fill=0.0, time_last=False
    )


def _check_fits(source: Given, wrt: str) -> None:
    steps, size, outputs, inputs, dtype = sizes_of(source)
    rows, columns = (outputs, inputs) if wrt == "input" else (size, size)
    check_fits(
        f"{wrt}_jacobian",
        [
            (steps, rows, steps, columns),
            (steps, size, size + columns),
            (2, size, steps, columns),
        ],
        dtype,
        f'Use jacobian_log_norms(cell, xs, wrt="{wrt}"), which keeps one number for each pair of '
        "steps, or a shorter sequence.",
        of=source,
    )

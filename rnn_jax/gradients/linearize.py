"""One-step Jacobians along a trajectory."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from flax import struct

from rnn_jax.gradients.memory import check_fits
from rnn_jax.gradients.trajectory import FlatCell, flatten_cell, run
from rnn_jax.sequence.calling import ArrayLike, Carry, as_pytree, as_sequence, check_carry_leaves
from rnn_jax.sequence.running.chunks import scan_chunks

# One-step Jacobians computed side by side, in array elements: a few megabytes, to stay in cache.
_CHUNK_ELEMENTS = 2**20


@struct.dataclass
class Linearization:
    """A trajectory and its one-step Jacobians; carries and outputs are flattened.

    Attributes:
      carries: carry_0 … carry_T, (T+1, S).
      outputs: y_1 … y_T, (T, O).
      state_jacobians: A_t = ∂carry_t/∂carry_{t−1}, (T, S, S).
      input_jacobians: B_t = ∂carry_t/∂x_t, (T, S, I).
      output_state_jacobians: C_t = ∂y_t/∂carry_{t−1}, (T, O, S).
      output_input_jacobians: D_t = ∂y_t/∂x_t, (T, O, I).
      output_rows: (start, stop) where y_t stands in carry_t; None if it is no part of it.
      diagonal_columns: (start, stop) of the columns of A_t that are known to be diagonal blocks,
        one on top of the other; None if none are.
    """

    carries: jax.Array
    outputs: jax.Array
    state_jacobians: jax.Array
    input_jacobians: jax.Array
    output_state_jacobians: jax.Array
    output_input_jacobians: jax.Array
    output_rows: tuple[int, int] | None = struct.field(pytree_node=False, default=None)
    diagonal_columns: tuple[int, int] | None = struct.field(pytree_node=False, default=None)

    @property
    def steps(self) -> int:
        """T, the length of the sequence."""
        return self.outputs.shape[0]


def linearize(cell: Any, xs: ArrayLike, carry: Carry | None = None) -> Linearization:
    """One-step Jacobians of the full carry and of the output along a sequence.

    carry_t ≈ A_t carry_{t−1} + B_t x_t,    y_t ≈ C_t carry_{t−1} + D_t x_t

    in the directions around the trajectory. Everything else in the instrument is products of
    these.

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y).
      xs: one sequence, (T, I).
      carry: initial carry; None asks the cell.

    Returns:
      A `Linearization`.

    Raises:
      ValueError: wrong shapes, an empty sequence, or a result too large for memory.
      TypeError: inputs or carries that are no floats, or a cell that needs `carry`.
    """
    return _linearize(as_pytree(cell), as_sequence(xs, batched=False), check_carry_leaves(carry))


@jax.jit
def _linearize(cell: Any, xs: jax.Array, carry: Carry | None) -> Linearization:
    return linearize_flat(flatten_cell(cell, xs, carry), xs)


def linearize_flat(flat: FlatCell, xs: jax.Array) -> Linearization:
    """`linearize` for a cell that is flattened already."""
    steps, inputs = xs.shape
    size, outputs, rows = flat.state_size, flat.output_size, flat.output_rows
    check_fits(
        "linearize",
        [(steps, size, size), (steps, size, inputs), (steps, outputs, size + inputs)],
        flat.initial.dtype,
        "Use a shorter sequence, or backprop_signal, which forms no Jacobian.",
    )
    states, ys = run(flat, xs)
    if flat.assembled is not None:
        jacobians: Callable[..., Any] = flat.assembled
    else:
        jacobians = jax.vmap(partial(_by_automatic_differentiation, flat))
    _, found = scan_chunks(
        lambda _, part: (None, jacobians(*part)),
        None,
        (states[:-1], xs),
        every=max(1, _CHUNK_ELEMENTS // (size * (size + inputs))),
    )
    if rows:
        a, b = found
        c, d = a[:, slice(*rows)], b[:, slice(*rows)]
    else:
        a, b, c, d = found
    return Linearization(states, ys, a, b, c, d, rows, flat.diagonal_columns)


def _by_automatic_differentiation(
    flat: FlatCell, state: jax.Array, x: jax.Array
) -> tuple[jax.Array, ...]:
    """One step's Jacobians, those of the output too unless they are rows of the carry's."""
    (a, b), (c, d) = jax.jacfwd(flat.step, argnums=(0, 1))(state, x)
    return (a, b) if flat.output_rows else (a, b, c, d)

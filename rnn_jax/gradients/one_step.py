"""The one-step Jacobians along a trajectory."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import struct

from rnn_jax.gradients.differentiation import Jacobians, step_jacobians
from rnn_jax.gradients.trajectory import FlatCell
from rnn_jax.sequence.running.chunks import even_interval, scan_chunks

# One-step Jacobians computed side by side, in array elements: a few megabytes, to stay in cache.
_CHUNK_ELEMENTS = 2**20


@struct.dataclass
class StepJacobians:
    """The Jacobians of all steps and what is known of their form, as products of them need it.

    Attributes:
      jacobians: with a leading axis T.
      output_rows: as in `linearize.Linearization`.
      diagonal_columns, diagonal_width: as in `linearize.Linearization`.
    """

    jacobians: Jacobians
    output_rows: tuple[int, int] | None = struct.field(pytree_node=False)
    diagonal_columns: tuple[int, int] | None = struct.field(pytree_node=False)
    diagonal_width: int | None = struct.field(pytree_node=False, default=None)


def one_step_jacobians(flat: FlatCell, states: jax.Array, xs: Any) -> Jacobians:
    """A, B, C and D of every step, some steps side by side."""
    size, inputs, rows = flat.state_size, flat.input_size, flat.output_rows
    if flat.assembled is not None:
        jacobians: Callable[..., Any] = flat.assembled
    else:
        jacobians = jax.vmap(functools.partial(_by_automatic_differentiation, flat))
    # One that divides the sequence leaves no rest to be compiled, and then copied, beside it.
    most = max(1, _CHUNK_ELEMENTS // (size * (size + inputs)))
    _, found = scan_chunks(
        lambda _, part: (None, jacobians(*part)),
        None,
        (states[:-1], xs),
        every=even_interval(states.shape[0] - 1, most, most=most),
    )
    if rows is None:
        return Jacobians(*found)
    a, b = found
    return Jacobians(a, b, a[:, slice(*rows)], b[:, slice(*rows)])


def _by_automatic_differentiation(
    flat: FlatCell, state: jax.Array, x: Any
) -> tuple[jax.Array, ...]:
    """One step's Jacobians, those of the output too unless they are rows of the carry's."""
    step, numbers = flat.step_from(x)
    # In reverse mode those by inputs are of the inputs' type.
    jacobians = [part.astype(state.dtype) for part in step_jacobians(step, state, numbers)]
    return tuple(jacobians[:2] if flat.output_rows else jacobians)

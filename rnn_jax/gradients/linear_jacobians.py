"""One-step Jacobians of a cell that is linear in its carry: Λ itself, with nothing differentiated.

carry' = Λ(z) carry + b(z),    y = g(carry', z),    z = project(x)

A = Λ
B = ∂(Λ(z) carry + b(z))/∂x
C = G Λ            with G = ∂g/∂carry'
D = ∂g/∂x + G B

What is left to automatic differentiation is the projection and the readout, I and S tangents of
them, and neither sees the recurrence.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from rnn_jax.cells.linear import LinearForm, apply, state_jacobian_of
from rnn_jax.cells.wrappers.noise import project_with
from rnn_jax.gradients.differentiation import step_jacobians
from rnn_jax.gradients.input_vectors import ravel_input


def linear_jacobians(
    form: LinearForm, cell: Any, unravel: Any, states: jax.Array, xs: Any, *, output_is_part: bool
) -> tuple[jax.Array, ...]:
    """Jacobians of steps side by side.

    Args:
      form: of the cell.
      cell: the cell, for its projection.
      unravel: from (S,) to the carry.
      states: flattened carries before each step, (T, S).
      xs: inputs, (T, ...).
      output_is_part: whether y is a part of the carry, whose rows C and D then are.

    Returns:
      A (T, S, S) and B (T, S, I), and C (T, O, S) and D (T, O, I) unless `output_is_part`.
    """
    one_step = partial(_of_one_step, form, cell, unravel, output_is_part)
    found: tuple[jax.Array, ...] = jax.vmap(one_step)(states, xs)
    return found


def _of_one_step(
    form: LinearForm, cell: Any, unravel: Any, output_is_part: bool, state: jax.Array, x: Any
) -> tuple[jax.Array, ...]:
    numbers, unravel_input = ravel_input(x, state.dtype)
    carry, nothing = unravel(state), state[:0]

    def project(numbers: jax.Array) -> Any:
        return project_with(cell, unravel_input(numbers), None)

    def enter(_: jax.Array, numbers: jax.Array) -> tuple[jax.Array, jax.Array]:
        factor, added = form.transition(project(numbers))
        after = form.unpack(apply(form.kind, factor, form.pack(carry)) + added)
        return ravel_pytree(after)[0], nothing

    def read(after: jax.Array, numbers: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = form.output(unravel(after), project(numbers))
        return ravel_pytree(y)[0].astype(state.dtype), nothing

    a = state_jacobian_of(form, carry, project(numbers))
    b = step_jacobians(enter, nothing, numbers).state_by_input.astype(state.dtype)
    if output_is_part:
        return a, b
    after = enter(nothing, numbers)[0]
    reading = step_jacobians(read, after, numbers)
    g, direct = (part.astype(state.dtype) for part in reading[:2])
    return a, b, jnp.matmul(g, a), direct + jnp.matmul(g, b)

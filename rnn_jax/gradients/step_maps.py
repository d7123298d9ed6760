"""One step's derivative as a map, forward and back: by its matrices, or by differentiating it.

Where a record is linearized already its matrices are the cheapest way; where it is not, products
with the derivative need no matrix, and so serve cells whose matrices would not fit.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.arrays import varying_like
from rnn_jax.gradients.differentiation import Jacobians, pullback, pushforward
from rnn_jax.gradients.linearize import Record
from rnn_jax.gradients.trajectory import FlatCell

# A_t applied to a vector (S,), or its transpose.
Map = Callable[[jax.Array], jax.Array]
Pair = tuple[jax.Array, jax.Array]
# The state before a step and its input, in the cell's own form.
At = tuple[jax.Array, Any]
# The same for the state beside the input or the output.
PairMap = Callable[[jax.Array, jax.Array], Pair]


class StepMaps(NamedTuple):
    """The derivative of (carry_t, y_t) by (carry_{t−1}, x_t) of every step, as maps of vectors.

    Attributes:
      at: what the functions take at one step, leading axis T.
      push: at_t -> the map (v (S,), u (I,)) -> (A_t v + B_t u, C_t v + D_t u).
      pull: at_t -> the map (w (S,), z (O,)) -> (A_tᵀ w + C_tᵀ z, B_tᵀ w + D_tᵀ z).
      push_state: at_t -> the map v -> A_t v.
      pull_state: at_t -> the map w -> A_tᵀ w.
    """

    at: Any
    push: Callable[[Any], PairMap]
    pull: Callable[[Any], PairMap]
    push_state: Callable[[Any], Map]
    pull_state: Callable[[Any], Map]


def step_maps(record: Record) -> StepMaps:
    """The maps of all steps."""
    if record.is_linearized:
        return StepMaps(
            record.jacobians, _push_by_matrices, _pull_by_matrices, _forward_matrix, _back_matrix
        )
    return maps_at(record.flat, record.states[:-1], record.inputs)


def maps_at(flat: FlatCell, states: jax.Array, xs: Any) -> StepMaps:
    """The maps of a cell's steps from the states before them (n, S) and their inputs."""

    def push(at: At) -> PairMap:
        state, x = at
        step, numbers = flat.step_from(x)

        def along(v: jax.Array, u: jax.Array) -> Pair:
            tangents = varying_like((v, u.astype(numbers.dtype)), at)
            after: Pair = pushforward(step, (state, numbers), tangents)[1]
            return after

        return along

    def pull(at: At) -> PairMap:
        state, x = at
        step, numbers = flat.step_from(x)
        result, back = pullback(step, state, numbers)

        def through(w: jax.Array, z: jax.Array) -> Pair:
            by_state, by_input = back(varying_like((w, z), result))
            return by_state, by_input.astype(w.dtype)

        return through

    def push_state(at: At) -> Map:
        return _push_of_state(flat, *at)

    def pull_state(at: At) -> Map:
        state, x = at
        result, back = pullback(lambda before: flat.step(before, x)[0], state)
        return lambda w: back(varying_like(w, result))[0]

    return StepMaps((states, xs), push, pull, push_state, pull_state)


class Pushes(NamedTuple):
    """∂carry_t/∂carry_{t−1} along a trajectory that need not be stored.

    Attributes:
      start: what `advance` carries from step to step, before the first.
      at: what it takes at each step, leading axis T.
      advance: (carried, at_t) -> (carried after the step, the map v -> A_t v).
    """

    start: Any
    at: Any
    advance: Callable[[Any, Any], tuple[Any, Map]]


def pushes(record: Record) -> Pushes:
    """The forward maps of all steps, in their order."""
    if record.is_linearized:
        return Pushes((), record.jacobians, lambda carried, at: (carried, _forward_matrix(at)))
    flat = record.flat

    def advance(state: jax.Array, x: Any) -> tuple[jax.Array, Map]:
        return flat.step(state, x)[0], _push_of_state(flat, state, x)

    return Pushes(flat.initial, record.inputs, advance)


def _push_of_state(flat: FlatCell, state: jax.Array, x: Any) -> Map:
    def push(v: jax.Array) -> jax.Array:
        v = varying_like(v, state)
        return pushforward(lambda before: flat.step(before, x)[0], (state,), (v,))[1]

    return push


def _push_by_matrices(at: Jacobians) -> PairMap:
    a, b, c, d = at
    return lambda v, u: (a @ v + b @ u, c @ v + d @ u)


def _pull_by_matrices(at: Jacobians) -> PairMap:
    a, b, c, d = at
    return lambda w, z: (w @ a + z @ c, w @ b + z @ d)


def _forward_matrix(at: Jacobians) -> Map:
    return lambda v: jnp.matmul(at.state_by_state, v)


def _back_matrix(at: Jacobians) -> Map:
    return lambda w: jnp.matmul(w, at.state_by_state)

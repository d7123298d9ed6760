"""One-step Jacobians of a cell in fused form, put together from its coefficients.

Automatic differentiation pushes S + I tangents through each step, a product with the weights for
each. In fused form that product is of unit vectors, so it is the weights themselves: what is left
is to multiply their rows by each step's coefficients.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from rnn_jax.cells.stages import Products, advance_step, coefficients_of, tangent_step
from rnn_jax.cells.structure import FusedForm, input_rows, state_rows
from rnn_jax.sequence.running.scanned import tangent_products

Unravel = Callable[[jax.Array], Any]


def assembled_jacobians(
    form: FusedForm, states: jax.Array, xs: jax.Array, unravel: Unravel
) -> tuple[jax.Array, jax.Array]:
    """∂carry_t/∂carry_{t−1} and ∂carry_t/∂x_t for steps side by side.

    Args:
      form: the cell.
      states: flattened carries before each step, (T, S).
      xs: inputs, (T, I).
      unravel: from (S,) to the carry.

    Returns:
      A, (T, S, S), and B, (T, S, I).
    """
    mathematics = form.mathematics
    carries = jax.vmap(unravel)(states)
    saved = advance_step(mathematics, carries, _pre_activations(form, xs))[1]
    coefficients = coefficients_of(mathematics, carries, saved)
    size, features = states.shape[1], xs.shape[1]
    w_h = state_rows(form, features)
    nothing = [None] * len(w_h)

    def columns(basis: jax.Array, driven: Sequence[jax.Array | None]) -> jax.Array:
        """(T, S, n) from n tangents of the carry and what else enters the pre-activations."""
        tangents = jax.vmap(unravel)(basis)

        def column(coefficients: Any, tangent: Any, driven: Sequence[jax.Array | None]) -> Any:
            products = tangent_products(form, w_h, driven, like=tangent)
            return ravel_pytree(tangent_step(mathematics, coefficients, tangent, products))[0]

        along = jax.vmap(column, in_axes=(None, 0, 0), out_axes=1)
        return jax.vmap(along, in_axes=(0, None, None))(coefficients, tangents, driven)

    # Unit vectors pick rows of the weights, and leave the others 0: exact in any precision.
    by_state = columns(jnp.eye(size, dtype=states.dtype), nothing)
    by_input = columns(jnp.zeros((features, size), states.dtype), input_rows(form, features))
    return by_state, by_input


def _pre_activations(form: FusedForm, xs: jax.Array) -> Products:
    """(x K_x + b) + h K_h, in the order in which a cell's own step rounds.

    So a factor that the cell names, as its forget gate, is the very number that stands in A.
    """
    w_h, w_x = state_rows(form, xs.shape[1]), input_rows(form, xs.shape[1])

    def products(k: int, h: jax.Array | None) -> jax.Array:
        kernel, of_state, of_input = form.kernels[k], w_h[k], w_x[k]
        terms = [] if of_input is None else [xs @ of_input]
        terms.append(jnp.broadcast_to(kernel[-1], (xs.shape[0], kernel.shape[1])))
        terms += [] if h is None or of_state is None else [h @ of_state]
        return functools.reduce(operator.add, terms)

    return products

"""One-step Jacobians of a cell in fused form, put together from its coefficients.

Automatic differentiation pushes S + I tangents through each step, a product with the weights for
each. In fused form that product is of unit vectors, so it is the weights themselves: what is left
is to multiply their rows by each step's coefficients.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from rnn_jax.cells.structure import (
    Blocks,
    FusedForm,
    input_rows,
    split_blocks,
    state_rows,
)

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
    _, saved = mathematics.advance(carries, _pre_activations(form, mathematics.hidden(carries), xs))
    coefficients = mathematics.coefficients(carries, saved)

    def columns(basis: tuple[Any, Blocks]) -> jax.Array:
        """(T, S, n) from n tangents of the carry and of the pre-activations they cause."""

        def column(coefficients: Any, tangent: Any) -> jax.Array:
            return ravel_pytree(mathematics.tangent(coefficients, *tangent))[0]

        along = jax.vmap(column, in_axes=(None, 0), out_axes=1)
        return jax.vmap(along, in_axes=(0, None))(coefficients, basis)

    return columns(_state_basis(form, states, xs, unravel)), columns(
        _input_basis(form, states, xs, unravel)
    )


def _pre_activations(form: FusedForm, h: jax.Array, xs: jax.Array) -> Blocks:
    """(x K_x + b) + h K_h, in the order in which a cell's own step rounds.

    So a factor that the cell names, as its forget gate, is the very number that stands in A.
    """
    pre = []
    rows = (form.kernels, state_rows(form, xs.shape[1]), input_rows(form, xs.shape[1]))
    for kernel, w_h, w_x in zip(*rows, strict=True):
        terms = [] if w_x is None else [xs @ w_x]
        terms.append(jnp.broadcast_to(kernel[-1], (xs.shape[0], kernel.shape[1])))
        terms += [] if w_h is None else [h @ w_h]
        pre.append(functools.reduce(operator.add, terms))
    return split_blocks(form.mathematics.groups, pre)


def _state_basis(
    form: FusedForm, states: jax.Array, xs: jax.Array, unravel: Unravel
) -> tuple[Any, Blocks]:
    """Unit vectors of the carry, and what each adds to the pre-activations."""
    size = states.shape[1]
    units = jax.vmap(unravel)(jnp.eye(size, dtype=states.dtype))
    h = form.mathematics.hidden(units)
    pre = [
        jnp.zeros((size, kernel.shape[1]), kernel.dtype)
        if rows is None
        # Unit vectors pick rows, and leave the others 0: exact in any precision.
        else jnp.matmul(h, rows)
        for kernel, rows in zip(form.kernels, state_rows(form, xs.shape[1]), strict=True)
    ]
    return units, split_blocks(form.mathematics.groups, pre)


def _input_basis(
    form: FusedForm, states: jax.Array, xs: jax.Array, unravel: Unravel
) -> tuple[Any, Blocks]:
    """Nothing of the carry, and what each input feature adds to the pre-activations."""
    features = xs.shape[1]
    nothing = jax.vmap(unravel)(jnp.zeros((features, states.shape[1]), states.dtype))
    pre = [
        jnp.zeros((features, kernel.shape[1]), kernel.dtype) if rows is None else rows
        for kernel, rows in zip(form.kernels, input_rows(form, features), strict=True)
    ]
    return nothing, split_blocks(form.mathematics.groups, pre)

"""What a cell tells of itself if its recurrence is linear in the carry for given inputs.

carry_t = Λ_t carry_{t−1} + b_t,    y_t = output(carry_t, z_t)

where Λ_t and b_t depend on the projected input z_t alone. Nothing in such a recurrence needs the
step before but the carry itself, so sequences can be run by an associative scan
(`rnn_jax.sequence.running.associative`), and Λ_t is the Jacobian ∂carry_t/∂carry_{t−1}, with no
automatic differentiation.

A cell says so by a method `linear_form() -> LinearForm | None`, a claim in the sense of
`rnn_jax.cells.claims`; its `step` remains the definition.

The carry is packed into one array, whose trailing axes have a meaning that is the form's *kind*:

| kind       | packed carry | Λ           | Λ applied to v                                   |
|------------|--------------|-------------|--------------------------------------------------|
| "diagonal" | (..., *S)    | (..., *S)   | Λ ∘ v; an axis of Λ of size 1 is shared           |
| "complex"  | (..., 2, N)  | (..., 2, N) | product of complex numbers, [real, imaginary]     |
| "block"    | (..., n, k)  | (..., n, k, k) | n products with k × k matrices                 |
| "dense"    | (..., S)     | (..., S, S) | one product                                      |
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from rnn_jax.cells.claims import claim

Carry = Any
Kind = Literal["diagonal", "complex", "block", "dense"]

KINDS: tuple[Kind, ...] = ("diagonal", "complex", "block", "dense")


class LinearForm(NamedTuple):
    """A cell as a recurrence that is linear in its carry.

    Attributes:
      kind: of Λ, see the table above.
      transition: z -> (Λ, b), of one step or of many that lead (..., ·). Λ has as many axes as the
        table says; an axis of size 1 is the same for all: one Λ for all steps is written down once.
      output: (carry after the step, z) -> y, of one step or of many.
      pack: carry -> the array that Λ is applied to.
      unpack: its inverse.
      contracts: whether no product of Λ's grows without bound whatever the weights, so that no
        product of many overflows where the carries themselves do not.
    """

    kind: Kind
    transition: Callable[[Any], tuple[jax.Array, jax.Array]]
    output: Callable[[Carry, Any], jax.Array]
    pack: Callable[[Carry], jax.Array]
    unpack: Callable[[jax.Array], Carry]
    contracts: bool


def linear_form(cell: Any) -> LinearForm | None:
    """The cell's `LinearForm`; None if it has none that holds for the mathematics it runs."""
    form = claim(cell, "linear_form")
    return None if form is None else form()


def apply(kind: Kind, factor: jax.Array, values: jax.Array) -> jax.Array:
    """Λ v, for any leading axes."""
    if kind == "diagonal":
        return factor * values
    if kind == "complex":
        return _times(factor, values)
    own = 2 if kind == "dense" else 3
    if all(size == 1 for size in factor.shape[:-own]):
        # One for all: written so that its gradient is one product, not a sum of as many as v has.
        factor = factor.reshape(factor.shape[-own:])
        equation = "ij,...j->...i" if kind == "dense" else "nij,...nj->...ni"
        return jnp.einsum(equation, factor, values)
    return jnp.einsum("...ij,...j->...i", factor, values)


def compose(kind: Kind, later: jax.Array, earlier: jax.Array) -> jax.Array:
    """Λ₂ Λ₁, for any leading axes."""
    if kind == "diagonal":
        return later * earlier
    if kind == "complex":
        return _times(later, earlier)
    return jnp.matmul(later, earlier)


def transposed(kind: Kind, factor: jax.Array) -> jax.Array:
    """Λᵀ, as of the real matrix that Λ is."""
    if kind == "diagonal":
        return factor
    if kind == "complex":  # The conjugate.
        real, imaginary = _parts(factor)
        return jnp.concatenate([real, -imaginary], axis=-2)
    return jnp.swapaxes(factor, -1, -2)


def identity_like(kind: Kind, factor: jax.Array) -> jax.Array:
    """The Λ that changes nothing, of the shape of another."""
    if kind == "diagonal":
        return jnp.ones_like(factor)
    if kind == "complex":
        real, imaginary = _parts(factor)
        return jnp.concatenate([jnp.ones_like(real), jnp.zeros_like(imaginary)], axis=-2)
    return jnp.broadcast_to(jnp.eye(factor.shape[-1], dtype=factor.dtype), factor.shape)


def state_jacobian_of(form: LinearForm, carry: Carry, z: Any) -> jax.Array:
    """∂carry'/∂carry of one step, (S, S) over the flattened carry, without differentiating it.

    Args:
      form: of the cell.
      carry: any carry, for its structure alone.
      z: the projected input of the step.
    """
    factor, _ = form.transition(z)
    flat, unravel = ravel_pytree(carry)

    def column(unit: jax.Array) -> jax.Array:
        moved = apply(form.kind, factor, form.pack(unravel(unit)))
        return ravel_pytree(form.unpack(moved))[0]

    return jax.vmap(column, out_axes=1)(jnp.eye(flat.size, dtype=flat.dtype))


def _parts(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(real, imaginary), each with an axis of size 1 before the last."""
    return values[..., :1, :], values[..., 1:, :]


def _times(one: jax.Array, other: jax.Array) -> jax.Array:
    a, b = _parts(one)
    c, d = _parts(other)
    return jnp.concatenate([a * c - b * d, a * d + b * c], axis=-2)

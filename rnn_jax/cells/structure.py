"""What a cell must tell for its recurrence to be differentiated in one sweep.

`rnn_jax.sequence.running.fused_scan` runs and differentiates a recurrence whose only weights are
those of affine maps of the state and the input, and whose other mathematics acts on each unit by
itself:

u_t = [h_{t−1}, x_t, 1] K    for each kernel K,        carry_t = φ(carry_{t−1}, u_t)

A cell of that form describes itself by a `FusedForm`; its `step` remains the definition, and the
oracle that the tests hold this form against.
"""

from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from rnn_jax.cells.claims import claim, owner_of

Carry = Any
# One array of pre-activations (..., P) for each kernel.
PreActivations = tuple[jax.Array, ...]
Sees = tuple[tuple[bool, bool], ...]


class UnitMathematics(Protocol):
    """φ and its derivative, unit by unit. Holds no arrays and hashes, so that `jit` can key on it.

    Attributes:
      sees: for each kernel, whether its pre-activations see (the state h, the input x).
    """

    sees: ClassVar[Sees]

    def advance(self, carry: Carry, pre: PreActivations) -> tuple[Carry, Any]:
        """(the carry after the step, what `coefficients` needs of it)."""

    def coefficients(self, carry: Carry, saved: Any) -> Any:
        """The numbers that `tangent` is linear with, from the carry before the step."""

    def tangent(self, coefficients: Any, carry: Carry, pre: PreActivations) -> Carry:
        """The derivative of `advance` applied to tangents of its two arguments."""

    def hidden(self, carry: Carry) -> jax.Array:
        """The part of the carry that the kernels see, which is also the output."""


class FusedForm(NamedTuple):
    """A cell as affine maps and mathematics that act on each unit by itself.

    Attributes:
      mathematics: φ and its derivative.
      kernels: for each entry of `mathematics.sees` the rows for h (if seen), for x (if seen) and
        one row of biases: shape (H + I + 1, P) where both are seen.
    """

    mathematics: UnitMathematics
    kernels: tuple[jax.Array, ...]


def fused_form(cell: Any) -> FusedForm | None:
    """The cell's `FusedForm`; None if it has none that holds for the mathematics it runs."""
    form = claim(cell, "fused_form")
    return None if form is None else form()


def fused_form_for(cell: Any, xs: Any, carry: Carry) -> FusedForm | None:
    """The cell's `FusedForm`, if its kernels, the inputs and the carry are all of one type.

    Whole numbers are of every type, being cast to that of the kernels.
    """
    form = fused_form(cell)
    if form is None or not hasattr(xs, "dtype"):  # Several inputs are for another step.
        return None
    kind = xs.dtype if jnp.issubdtype(xs.dtype, jnp.inexact) else form.kernels[0].dtype
    types = {kind} | {leaf.dtype for leaf in jax.tree.leaves((form.kernels, carry))}
    computed_in = getattr(owner_of(cell), "dtype", None) or kind
    return form if types == {jnp.dtype(computed_in)} else None


def seen(sees: Sees, h: jax.Array, x: jax.Array) -> list[jax.Array]:
    """[h, x, 1] for each kernel, without what it does not see."""
    one = jnp.ones((*x.shape[:-1], 1), x.dtype)
    return [
        jnp.concatenate([*([h] if sees_h else []), *([x] if sees_x else []), one], axis=-1)
        for sees_h, sees_x in sees
    ]


def state_rows(form: FusedForm, features: int) -> list[jax.Array | None]:
    """The rows of each kernel that the state meets, (H, P); None where it does not see it."""
    return [
        kernel[: -1 - (features if sees_x else 0)] if sees_h else None
        for kernel, (sees_h, sees_x) in zip(form.kernels, form.mathematics.sees, strict=True)
    ]


def input_rows(form: FusedForm, features: int) -> list[jax.Array | None]:
    """The rows of each kernel that the input meets, (I, P); None where it does not see it."""
    return [
        kernel[-1 - features : -1] if sees_x else None
        for kernel, (_, sees_x) in zip(form.kernels, form.mathematics.sees, strict=True)
    ]

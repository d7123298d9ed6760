"""What a cell must tell for its recurrence to be differentiated in one sweep.

`rnn_jax.sequence.fused` runs and differentiates a recurrence whose only weights are those of affine
maps of the state and the input, and whose other mathematics acts on each unit by itself:

u_t = [h_{t−1}, x_t, 1] K    for each kernel K,        carry_t = φ(carry_{t−1}, u_t)

A cell of that form describes itself by a `FusedForm`; its `step` remains the definition, and the
oracle that the tests hold this form against.
"""

from typing import Any, ClassVar, NamedTuple, Protocol

import jax

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
    """The cell's `FusedForm`; None if it has none, or if a subclass changed what it describes."""
    lineage = type(cell).__mro__

    def defined_at(name: str) -> int:
        return next((k for k, cls in enumerate(lineage) if name in vars(cls)), len(lineage))

    described = defined_at("fused_form")
    if described == len(lineage) or any(
        defined_at(name) < described for name in ("step", "project", "__call__")
    ):
        return None
    return cell.fused_form()

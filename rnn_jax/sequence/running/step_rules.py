"""The steps of a fused form's recurrence and of its tangent, as rules of the kernels."""

from dataclasses import dataclass
from typing import Any

import jax

from rnn_jax.cells.structure import Mathematics, Stages, UnitMathematics
from rnn_jax.sequence.kernels.rules import Group, StepRule

Blocks = tuple[jax.Array, ...]


def rule_of_recurrence(mathematics: Mathematics, carry: Any) -> StepRule:
    """One step of a cell, which emits what its tangent needs.

    Args:
      mathematics: of a cell whose step has one stage, of which nothing but the output is seen.
      carry: any carry of its structure.
    """
    mathematics = _of_one_stage(mathematics)
    structure: Any = jax.tree.structure(carry)
    unit = jax.ShapeDtypeStruct((), jax.tree.leaves(carry)[0].dtype)
    pre = (unit,) * sum(group.blocks for group in mathematics.groups)
    units = structure.unflatten([unit] * structure.num_leaves)
    saved = jax.eval_shape(mathematics.advance, units, pre)[1]
    return _rule(mathematics, structure, _Advance(mathematics, structure), len(saved))


def rule_of_tangent(mathematics: Mathematics, carry: Any, saved: int) -> StepRule:
    """One step of the tangent.

    Its streams are the carry that the step was computed from, what the step saved (`saved` blocks)
    and, if there is more, what is to be added to the tangent after it.
    """
    mathematics, structure = _of_one_stage(mathematics), jax.tree.structure(carry)
    return _rule(mathematics, structure, _Move(mathematics, structure, saved), 0)


def _of_one_stage(mathematics: Mathematics) -> UnitMathematics:
    assert not isinstance(mathematics, Stages), "`why_no_kernel` refuses it"
    return mathematics


def _rule(mathematics: UnitMathematics, structure: Any, function: Any, emits: int) -> StepRule:
    count: int = structure.num_leaves
    hidden: Any = mathematics.hidden(structure.unflatten(range(count)))
    groups = tuple(Group(group.blocks, group.sees_state) for group in mathematics.groups)
    return StepRule(groups, count, hidden, function, emits)


@dataclass(frozen=True)
class _Advance:
    mathematics: UnitMathematics
    structure: Any

    def __call__(self, carry: Blocks, pre: Blocks, _: Blocks) -> tuple[Blocks, Blocks]:
        after, saved = self.mathematics.advance(self.structure.unflatten(carry), pre)
        return tuple(jax.tree.leaves(after)), saved


@dataclass(frozen=True)
class _Move:
    mathematics: UnitMathematics
    structure: Any
    saved: int

    def __call__(self, carry: Blocks, pre: Blocks, streams: Blocks) -> tuple[Blocks, Blocks]:
        parts = self.structure.num_leaves
        start = self.structure.unflatten(streams[:parts])
        saved, added = streams[parts:][: self.saved], streams[parts + self.saved :]
        coefficients = self.mathematics.coefficients(start, saved)
        moved = self.mathematics.tangent(coefficients, self.structure.unflatten(carry), pre)
        after = tuple(jax.tree.leaves(moved))
        if added:
            after = tuple(a + b for a, b in zip(after, added, strict=True))
        return after, ()

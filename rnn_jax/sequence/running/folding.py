"""The operands of a mapped call as the kernels take them: members, steps, rows, units."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.cells.structure import UnitMathematics, state_rows
from rnn_jax.sequence.kernels.marking import SKIPPED, STARTS
from rnn_jax.sequence.running.boundaries import Boundaries, select
from rnn_jax.sequence.running.levels import Fold, Level, sizes_of
from rnn_jax.sequence.running.scanned import Settings, projected


def fold_of(leaves: Sequence[Any], record: Any, levels: Sequence[Level]) -> Fold:
    """How a call's axes are folded; arguments as of `Folded`, of whose leaves the shapes count."""
    kernels, xs = record.kernels, record.xs
    sizes = sizes_of(levels, leaves)
    member = tuple(any(levels[k][depth] for k in kernels) for depth in range(len(sizes)))
    return Fold(sizes, member, leaves[xs].shape[sum(levels[xs]) + 1 : -1])


class Folded:
    """The operands of a call, steps in the order in which they are run.

    Args:
      call: of a primitive; see `recurrence.py`.
      leaves: of its operands.
      record: the part of the operands that holds kernels and inputs, an `Inputs` or a `Recorded`
        of the numbers of leaves.
      levels: of `jax.vmap`, by leaf.

    Attributes:
      mathematics: of the cell.
      fold: how axes are folded.
      kernels: (M, R, P) by group.
      marks: int32 (M, T, N), see `kernels/marking.py`; None if there are no boundaries.
    """

    def __init__(
        self,
        call: Any,
        leaves: Sequence[jax.Array],
        record: Any,
        levels: Sequence[Level],
    ):
        self._leaves, self._levels = leaves, levels
        self._settings: Settings = call.settings
        self.mathematics: UnitMathematics = call.settings.mathematics
        self.fold = fold_of(leaves, record, levels)
        self.kernels = [self.fold.kernel(leaves[k], levels[k]) for k in record.kernels]
        self._features = leaves[record.xs].shape[-1]
        self.marks = self._bits(self.steps(record.boundaries))

    @property
    def is_marked(self) -> bool:
        """Whether any step starts a sequence or is skipped."""
        return self.marks is not None

    def steps(self, numbers: Any) -> Any:
        """Leaves (levels…, T, batch…, …) as (M, T, N, …)."""
        return jax.tree.map(
            lambda k: self._in_order(self.fold.steps(self._leaves[k], self._levels[k])), numbers
        )

    def rows(self, numbers: Any) -> Any:
        """Leaves (levels…, batch…, …) as (M, N, …)."""
        return jax.tree.map(lambda k: self.fold.rows(self._leaves[k], self._levels[k]), numbers)

    def steps_of(self, array: jax.Array) -> jax.Array:
        """An array with the axes of all levels as (M, T, N, …)."""
        return self._in_order(self.fold.steps(array, (True,) * len(self.fold.sizes)))

    def steps_back(self, tree: Any) -> Any:
        """The inverse of `steps`, with the axes of all levels."""
        return jax.tree.map(lambda a: self.fold.steps_back(self._in_order(a)), tree)

    def rows_back(self, tree: Any) -> Any:
        """The inverse of `rows`, with the axes of all levels."""
        return jax.tree.map(self.fold.rows_back, tree)

    def weights(self) -> tuple[jax.Array, ...]:
        """The rows of kernels that the state meets, (M, H, P), of the groups that see it.

        In the type in which the kernels multiply.
        """

        def of_member(*kernels: jax.Array) -> list[jax.Array]:
            form = self._settings.form(kernels)
            rows = state_rows(form, self._features)
            return [row.astype(form.input_type) for row in rows if row is not None]

        return tuple(jax.vmap(of_member)(*self.kernels))

    def drives(self, xs: jax.Array) -> tuple[jax.Array, ...]:
        """What inputs (M, T, N, I) and biases add to the pre-activations, by group.

        (M, T, N, P), or (M, P) of a group that sees no input.
        """

        def of_member(xs: jax.Array, *kernels: jax.Array) -> Any:
            return projected(self._settings.form(kernels), xs)

        products = jax.vmap(of_member)(xs, *self.kernels)
        return tuple(
            z if group.sees_input else kernel[:, -1]
            for group, kernel, z in zip(
                self.mathematics.groups, self.kernels, products, strict=True
            )
        )

    def without_skipped(self, array: jax.Array) -> jax.Array:
        """(M, T, N, H) with 0 where steps are skipped."""
        if self.marks is None:
            return array
        return select(self.marks & SKIPPED == 0, array, jnp.zeros_like(array))

    def at_starts(self, array: jax.Array) -> tuple[jax.Array | None, jax.Array]:
        """(M, T, N, H) where sequences start, None if they do nowhere, and elsewhere."""
        if self.marks is None:
            return None, array
        starts, nothing = self.marks & STARTS != 0, jnp.zeros_like(array)
        return select(starts, array, nothing), select(starts, nothing, array)

    def _in_order(self, array: jax.Array) -> jax.Array:
        return jnp.flip(array, 1) if self._settings.reverse else array

    def _bits(self, boundaries: Boundaries) -> jax.Array | None:
        valid, resets = boundaries
        bits = []
        if resets is not None:
            bits.append(jnp.where(resets, jnp.int32(STARTS), jnp.int32(0)))
        if valid is not None:
            bits.append(jnp.where(valid, jnp.int32(0), jnp.int32(SKIPPED)))
        return sum(bits[1:], start=bits[0]) if bits else None

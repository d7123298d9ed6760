"""Cells made from cells: the base of those that wrap one and change some of what it does."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from flax import nnx

from rnn_jax.cells.asking import (
    carry_maker,
    check_cell,
    features_said_of_output,
    features_taken,
    make_carry,
    parameter_dtype,
    part_names,
)
from rnn_jax.cells.cell import Carry
from rnn_jax.cells.claims import SelfDescribing, claim, owner_of, splits_call
from rnn_jax.cells.linear import LinearForm, linear_form
from rnn_jax.cells.structure import FusedForm, fused_form
from rnn_jax.cells.wrappers.noise import Noise, draw_noise, project_with, step_with
from rnn_jax.checks import kind_of
from rnn_jax.initializers import Initializer

ByName = Callable[[Carry, jax.Array], dict[str, jax.Array]]


class CellWrapper(nnx.RNNCellBase, SelfDescribing):
    """Base of cells that wrap another, `cell`; as it stands, the cell itself.

    A subclass overrides what it changes. One with another recurrence overrides `step`, and thereby
    makes none of the inner cell's claims (see `rnn_jax.cells.claims`) but those that it makes anew;
    one that draws noise overrides the three methods of `rnn_jax.cells.wrappers.noise`, which here
    hand the inner cell's noise through. So wrappers nest.

    What the inner cell does not say of itself (`in_features`, `gates`, …) the wrapper does not say
    either.

    Args:
      cell: any cell with an initial carry, plain or wrapped; see `rnn_jax.as_cell`.

    Raises:
      TypeError: it is no cell, or has no initial carry.
    """

    splits_call: bool = True

    # I, where it was said beside the cell.
    _features: int | None = None

    def __init__(self, cell: Any):
        # Marked as data, because Flax takes pytrees that are none of its own for constants.
        self.cell = nnx.data(check_cell(cell, "cell"))

    def __call__(self, carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
        """Advances the carry by one input, without noise; see `RNNCell.__call__`."""
        z = self.project(x)
        self._check_carry(carry, x)
        return self.step(carry, z)

    def project(self, x: jax.Array) -> Any:
        """All that depends on the input alone; see `RNNCell.project`."""
        return project_with(self.cell, x, None)

    def step(self, carry: Carry, z: Any) -> tuple[Carry, jax.Array]:
        """The recurrence, without noise; see `RNNCell.step`."""
        return step_with(self.cell, carry, z, None)

    def fused_form(self) -> FusedForm | None:
        """The inner cell's form, which is this one's too where `step` is the inner cell's."""
        return fused_form(self.cell)

    def linear_form(self) -> LinearForm | None:
        """The inner cell's form, which is this one's too where `step` is the inner cell's."""
        return linear_form(self.cell)

    def noise(self, key: jax.Array, steps: int) -> Noise:
        """The noise for one sequence of so many steps; see `rnn_jax.cells.wrappers.noise`."""
        return draw_noise(self.cell, key, steps)

    def noisy_project(self, x: jax.Array, noise: Noise) -> Any:
        """All that depends on the input and the noise alone; see `rnn_jax.cells.wrappers.noise`."""
        return project_with(self.cell, x, noise)

    def noisy_step(self, carry: Carry, z: Any, noise: Noise) -> tuple[Carry, jax.Array]:
        """The recurrence, with the noise of one step; see `rnn_jax.cells.wrappers.noise`."""
        return step_with(self.cell, carry, z, noise)

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: Initializer | None = None,
    ) -> Carry:
        """The initial carry for inputs of a given shape; see `RNNCell.initialize_carry`."""
        return make_carry(self.cell, input_shape, rngs, carry_init)

    @property
    def gates(self) -> ByName:
        """The inner cell's `gates(carry, x)`; absent where it has none."""
        return self._claim_of_cell("gates")

    @property
    def memory_path(self) -> ByName:
        """The inner cell's `memory_path(carry, x)`; absent where it has none."""
        return self._claim_of_cell("memory_path")

    @property
    def slopes(self) -> Callable[[Carry, jax.Array], jax.Array]:
        """The inner cell's `slopes(carry, x)`; absent where it has none."""
        return self._claim_of_cell("slopes")

    @property
    def jacobian_bound(self) -> Callable[[], tuple[float, jax.Array]]:
        """The inner cell's `jacobian_bound()`; absent where it has none."""
        return self._claim_of_cell("jacobian_bound")

    @property
    def recurrent_kernel(self) -> nnx.Param[jax.Array]:
        """The inner cell's."""
        return owner_of(self.cell).recurrent_kernel

    @property
    def transition_kernel(self) -> Callable[[], jax.Array | None]:
        """The inner cell's `transition_kernel()`; absent where it has none."""
        return owner_of(self.cell).transition_kernel

    @property
    def diagonal_part(self) -> str | None:
        """The inner cell's; see `RNNCell`."""
        return claim(self.cell, "diagonal_part")

    @property
    def in_features(self) -> int:
        """I, the features of one input; absent where the inner cell does not say."""
        found = features_taken(self.cell) if self._features is None else self._features
        if found is None:
            raise AttributeError(
                "a wrapped cell has the in_features of the cell inside; got "
                f"{kind_of(owner_of(self.cell))}, which does not say how many it takes. Say so "
                "with rnn_jax.as_cell(cell, in_features=…)."
            )
        return found

    @property
    def hidden_features(self) -> int:
        """H, the features of one hidden state; absent where the inner cell does not say."""
        return owner_of(self.cell).hidden_features

    @property
    def output_features(self) -> int:
        """The features of one output; absent where the inner cell does not say."""
        return features_said_of_output(self.cell)

    @property
    def carry_parts(self) -> tuple[str, ...]:
        """Names of the parts of the carry; absent where the inner cell has none."""
        return owner_of(self.cell).carry_parts

    def parts_of(self, carry: Carry) -> tuple[str, ...]:
        """A name for each leaf of a carry, the inner cell's or its path."""
        return part_names(self.cell, carry)

    @property
    def dtype(self) -> Any:
        """The type that products are computed in; None takes JAX's promotion."""
        return getattr(owner_of(self.cell), "dtype", None)

    @property
    def carry_dtype(self) -> Any:
        """The type that carries are kept and gates computed in; None is that of products."""
        return getattr(owner_of(self.cell), "carry_dtype", None)

    @property
    def param_dtype(self) -> Any:
        """The type of the parameters."""
        return parameter_dtype(self.cell)

    @property
    def num_feature_axes(self) -> int:
        """The number of trailing axes of an input that are features; 1 unless the cell says so."""
        return getattr(carry_maker(self.cell), "num_feature_axes", 1)

    def _claim_of_cell(self, name: str) -> Any:
        """A claim of the inner cell: this one's too, where its step is the inner cell's."""
        found = claim(self.cell, name)
        if found is None:
            raise AttributeError(
                f"a wrapped cell has the {name} of the cell inside; "
                f"{kind_of(owner_of(self.cell))} has none that holds for its own step. Define it "
                "in the class that has that step."
            )
        return found

    def _check_carry(self, carry: Carry, x: jax.Array) -> None:
        if splits_call(self.cell):  # Otherwise its call is run, and checks for itself.
            self.cell._check_carry(carry, x)

    def _kept(self, *parts: jax.Array) -> list[jax.Array]:
        return self.cell._kept(*parts)

    def _product(self, values: jax.Array, kernel: jax.Array) -> jax.Array:
        return self.cell._product(values, kernel)


def within(cell: Any) -> Iterator[Any]:
    """The cell, what it wraps, and so on to the cell inside all wrappers."""
    yield cell
    while isinstance(cell, CellWrapper):
        cell = cell.cell
        yield cell


def check_unshared(cells: Sequence[Any]) -> None:
    """Raises ValueError if two cells are one and the same, also inside wrappers.

    Their weights would stand twice in the pytree: counted twice, and two things after one step of
    an optimiser.
    """
    seen: dict[int, int] = {}
    for index, cell in enumerate(cells):
        *_, inner = within(cell)
        if id(inner) in seen and jax.tree.leaves(inner):
            raise ValueError(
                "each cell must have weights of its own; got the same "
                f"{kind_of(owner_of(inner))} twice, at places {seen[id(inner)]} and {index}. Build "
                "another with the next key of rngs."
            )
        seen[id(inner)] = index

"""Several layers as one cell."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.cells.asking import (
    features_said_of_output,
    make_carry,
    parameter_dtype,
    part_names,
)
from rnn_jax.cells.claims import SelfDescribing, claim, owner_of
from rnn_jax.cells.wrappers.noise import Noise, draw_noise, project_with, step_with
from rnn_jax.sequence.layers import check_fit, check_layers, features_given


class StackedCell(nnx.RNNCellBase, SelfDescribing):
    """Cells stacked in depth, as one cell whose carry is the tuple of theirs.

    h¹_t = cell₁(h¹_{t−1}, x_t),  h²_t = cell₂(h²_{t−1}, h¹_t),  …,    y_t = output of the top

    So whatever takes a cell takes a stack: the instrument then sees the carry of all layers at
    once, and tells them apart by the names in `carry_parts`.

    Args:
      cells: the layers from input to output, any cells with an initial carry, plain or wrapped
        (see `rnn_jax.as_cell`); each takes the features that the one below gives.

    Raises:
      ValueError: no cell, or layers that do not fit.
      TypeError: a layer that is no cell, or has no initial carry.

    Example:
      >>> layers = [rj.LSTMCell(2, 4, rngs=nnx.Rngs(0)), rj.GRUCell(4, 8, rngs=nnx.Rngs(1))]
      >>> stack = rj.StackedCell(layers)
      >>> stack.carry_parts
      ('0.c', '0.h', '1.h')
      >>> rj.unroll(stack, xs)[1].shape
      (20, 8)
    """

    def __init__(self, cells: Any):
        layers = check_layers(cells, causal=True)
        # What cells do not say of themselves, the first input shows.
        for depth, (below, above) in enumerate(itertools.pairwise(layers)):
            owner = owner_of(below)
            said = getattr(owner, "output_features", None) or getattr(
                owner, "hidden_features", None
            )
            check_fit(said, above, depth + 1)
        # Marked as data, because Flax takes pytrees that are none of its own for constants.
        self.cells = nnx.List(map(nnx.data, layers))

    def __call__(self, carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        """Advances every layer by one step, from the input up.

        Args:
          carry: one carry for each layer, (carry¹, carry², …).
          x: the input, (..., I).

        Returns:
          (the carries after the step, the top layer's output (..., H)).

        Raises:
          ValueError, TypeError: as the layers; or a carry that is no tuple of one for each layer.
        """
        if not isinstance(carry, (tuple, list)) or len(carry) != len(self.cells):
            arrived = f"{len(carry)} of them" if isinstance(carry, (tuple, list)) else type(carry)
            raise ValueError(
                f"carry must be a tuple of {len(self.cells)} carries, one for each layer; got "
                f"{arrived}. Start from cell.initialize_carry(x.shape)."
            )
        after, y = [], x
        for cell, before in zip(self.cells, carry, strict=True):
            layer_carry, y = cell(before, y)
            after.append(layer_carry)
        return tuple(after), y

    def noise(self, key: jax.Array, steps: int) -> Noise:
        """The noise of each layer that has some; see `rnn_jax.cells.wrappers.noise`."""
        keys = jax.random.split(key, len(self.cells))
        return tuple(draw_noise(cell, k, steps) for cell, k in zip(self.cells, keys, strict=True))

    def noisy_step(self, carry: Any, x: jax.Array, noise: Noise) -> tuple[Any, jax.Array]:
        """Advances every layer by one step, with its noise; see `rnn_jax.cells.wrappers.noise`."""
        after, y = [], x
        for cell, before, own in zip(self.cells, carry, noise, strict=True):
            layer_carry, y = step_with(cell, before, project_with(cell, y, own), own)
            after.append(layer_carry)
        return tuple(after), y

    def initialize_carry(
        self, input_shape: tuple[int, ...], rngs: Any = None, carry_init: Any = None
    ) -> tuple[Any, ...]:
        """One carry for each layer; see `RNNCell.initialize_carry`."""
        *batch, size = input_shape
        carries = []
        for depth, cell in enumerate(self.cells):
            carries.append(make_carry(cell, (*batch, size), rngs, carry_init))
            if depth + 1 < len(self.cells):
                size = features_given(cell, size, depth)
        return tuple(carries)

    def gates(self, carry: Any, x: jax.Array) -> dict[str, jax.Array]:
        """The gate activations of all gated layers, named "layer.gate" from "0." on.

        Args:
          carry: one carry for each layer.
          x: the input, (..., I).

        Returns:
          {"0.forget": …}: each (..., H); empty if no layer has gates.
        """
        return self._collect("gates", carry, x)

    def memory_path(self, carry: Any, x: jax.Array) -> dict[str, jax.Array]:
        """The factors by which parts of the carry are handed on by themselves.

        Args:
          carry: one carry for each layer.
          x: the input, (..., I).

        Returns:
          {"0.c": …}: each (..., H); empty if no layer has such a path.
        """
        return self._collect("memory_path", carry, x)

    def _collect(self, method: str, carry: Any, x: jax.Array) -> dict[str, jax.Array]:
        """What `method` returns in the layers that have it, named "layer.name"."""
        found: dict[str, jax.Array] = {}
        y = x
        for depth, (cell, before) in enumerate(zip(self.cells, carry, strict=True)):
            of_layer = claim(cell, method)
            if of_layer is not None:
                named = of_layer(before, y)
                found |= {f"{depth}.{name}": value for name, value in named.items()}
            _, y = cell(before, y)
        return found

    @property
    def carry_parts(self) -> tuple[str, ...]:
        """Names of the parts of the carry, "layer.part" from "0." on.

        Absent where a layer has no names for its parts; see `parts_of`.
        """
        return tuple(
            f"{depth}.{part}"
            for depth, cell in enumerate(self.cells)
            for part in owner_of(cell).carry_parts
        )

    def parts_of(self, carry: Any) -> tuple[str, ...]:
        """A name for each leaf of a carry, "layer.part", or "layer.path" where it has no name."""
        return tuple(
            f"{depth}.{part}"
            for depth, (cell, own) in enumerate(zip(self.cells, carry, strict=True))
            for part in part_names(cell, own)
        )

    @property
    def in_features(self) -> int:
        """I, the features of one input; absent where the first layer does not say."""
        return owner_of(self.cells[0]).in_features

    @property
    def hidden_features(self) -> int:
        """H, the features of the top layer's output; absent where that layer does not say."""
        return features_said_of_output(self.cells[-1])

    @property
    def param_dtype(self) -> Any:
        """The type of the parameters, of all layers promoted."""
        return functools.reduce(jnp.promote_types, map(parameter_dtype, self.cells))

    @property
    def num_feature_axes(self) -> int:
        """The number of trailing axes of an input that are features: 1."""
        return 1

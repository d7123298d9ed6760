"""Which cells may stand on one another."""

import itertools
from collections.abc import Iterable
from typing import Any

from rnn_jax.cells.cell import RNNCell
from rnn_jax.cells.wrappers.wrapper import CellWrapper, check_unshared
from rnn_jax.checks import kind_of
from rnn_jax.sequence.bidirectional import Bidirectional


def check_layers(cells: Any, *, causal: bool) -> list[Any]:
    """Returns the layers as a list if each fits on the one below.

    Args:
      cells: one cell of ours, plain or wrapped, or several.
      causal: refuse `Bidirectional`, which is no cell.

    Raises:
      ValueError: no cell, one that stands there twice, or layers that do not fit.
      TypeError: a layer that is none of these.
    """
    layers = list(cells) if isinstance(cells, Iterable) else [cells]
    if not layers:
        raise ValueError("a stack needs at least one cell; got none. Pass cells=[cell].")
    for layer in layers:
        if isinstance(layer, Bidirectional) and causal:
            raise TypeError(
                "cells must be cells of this package, which go from the past to the future one "
                "step at a time; got Bidirectional, which sees the future. Stack such layers in a "
                "SequenceModel, or call them one after the other."
            )
        if not isinstance(layer, (RNNCell, CellWrapper, Bidirectional)):
            raise TypeError(
                "cells must be cells of this package (instances of RNNCell); got "
                f"{kind_of(layer)}. For another cell, call unroll and read its outputs."
            )
    check_unshared([cell for layer in layers for cell in _cells_of(layer)])
    for depth, (below, above) in enumerate(itertools.pairwise(layers)):
        if above.in_features != below.hidden_features:
            raise ValueError(
                f"each layer must take what the one below gives; layer {depth} gives "
                f"{below.hidden_features} features and layer {depth + 1} takes "
                f"{above.in_features}. Build layer {depth + 1} with "
                f"in_features={below.hidden_features}."
            )
    return layers


def _cells_of(layer: Any) -> list[Any]:
    both = isinstance(layer, Bidirectional)
    return [layer.forward, layer.backward] if both else [layer]

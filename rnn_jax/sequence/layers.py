"""Which cells may stand on one another, and the features that each takes and gives."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.cells.asking import check_cell, features_taken, parameter_dtype
from rnn_jax.cells.wrappers.wrapper import check_unshared
from rnn_jax.checks import check_size, kind_of
from rnn_jax.sequence.bidirectional import Bidirectional
from rnn_jax.sequence.calling import describe, resolve_step


class Layer(NamedTuple):
    """What a layer takes and gives.

    Attributes:
      taken: I, features of its input.
      given: H, features of its output.
      forward: how many of these are of the cell that goes forward: all, but of `Bidirectional`.
      dtype: the type of its parameters.
    """

    taken: int
    given: int
    forward: int
    dtype: Any


def check_layers(cells: Any, *, causal: bool) -> list[Any]:
    """Returns the layers as a list of pytrees.

    Args:
      cells: one cell, or several.
      causal: refuse `Bidirectional`, which is no cell.

    Raises:
      ValueError: no cell, or one that stands there twice.
      TypeError: a layer that is no cell with an initial carry.
    """
    layers = _as_list(cells)
    if not layers:
        raise ValueError("a stack needs at least one cell; got none. Pass cells=[cell].")
    for depth, layer in enumerate(layers):
        if not isinstance(layer, Bidirectional):
            layers[depth] = check_cell(layer, f"layer {depth} of cells")
        elif causal:
            raise TypeError(
                "cells must go from the past to the future one step at a time; got Bidirectional, "
                "which sees the future. Stack such layers in a SequenceModel, or call them one "
                "after the other."
            )
    check_unshared([cell for layer in layers for cell in cells_of(layer)])
    return layers


def trace_layers(layers: Sequence[Any], in_features: int | None, name: str) -> tuple[Layer, ...]:
    """What each layer takes and gives, by tracing one step of each on what the one below gives.

    Args:
      layers: as `check_layers` returns them.
      in_features: I; None asks the first layer.
      name: of what is made of them.

    Raises:
      ValueError: layers that do not fit, or a cell that breaks the contract.
      TypeError: neither the call nor the first layer says how many features it takes.
    """
    said = features_said(layers[0])
    if in_features is not None:
        size = check_size("in_features", in_features)
        if said is not None and said != size:
            raise ValueError(
                f"in_features must be what the first layer takes, {said}; got {size}. Leave it out."
            )
    elif said is None:
        raise TypeError(
            f"{name} needs to know how many features its inputs have; got a first layer, "
            f"{kind_of(layers[0])}, that does not say by in_features. Pass in_features= to "
            f"{name}, or say so of the cell: rnn_jax.as_cell(cell, in_features=…)."
        )
    else:
        size = said
    found: list[Layer] = []
    for depth, layer in enumerate(layers):
        check_fit(size, layer, depth)
        cells = cells_of(layer)
        given = [features_given(cell, size, depth) for cell in cells]
        dtype = functools.reduce(jnp.promote_types, map(parameter_dtype, cells))
        found.append(Layer(size, sum(given), given[0], dtype))
        size = sum(given)
    return tuple(found)


def check_fit(given: int | None, layer: Any, depth: int) -> None:
    """Raises ValueError if a layer says that it takes other features than the one below gives."""
    own = features_said(layer)
    if own is not None and given is not None and own != given:
        raise ValueError(
            f"each layer must take what the one below gives; layer {depth - 1} gives {given} "
            f"features and layer {depth} takes {own}. Build layer {depth} with in_features={given}."
        )


def features_said(layer: Any) -> int | None:
    """The features that a layer says it takes, by one of its cells."""
    return next((size for size in map(features_taken, cells_of(layer)) if size is not None), None)


def cells_of(layer: Any) -> list[Any]:
    """A layer's cells."""
    both = isinstance(layer, Bidirectional)
    return [layer.forward, layer.backward] if both else [layer]


def features_given(cell: Any, size: int, depth: int) -> int:
    """H of one cell for inputs of so many features; `depth` is its place, for messages."""
    x = jax.ShapeDtypeStruct((size,), parameter_dtype(cell))
    output = resolve_step(cell, x, None).output
    if not isinstance(output, jax.ShapeDtypeStruct) or len(output.shape) != 1:
        raise ValueError(
            "each layer must give one array of features (H,) at each step; got "
            f"{describe(output)} from layer {depth}, {kind_of(cell)}. Let its step return one "
            "vector as y; what else is to be kept belongs to the carry."
        )
    return output.shape[0]


def _as_list(cells: Any) -> list[Any]:
    """Several cells as a list; what can be called is one, also where it can be iterated over."""
    if callable(cells) or not hasattr(cells, "__iter__"):
        return [cells]
    return list(cells)

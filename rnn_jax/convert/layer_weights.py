"""The weights of several layers, and models made of them."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
from flax import nnx

from rnn_jax.checks import check_flag, kind_of
from rnn_jax.convert.cell_weights import CellWeights, cell_of, weights_of
from rnn_jax.sequence.bidirectional import Bidirectional
from rnn_jax.sequence.model import SequenceModel
from rnn_jax.sequence.stack import StackedCell

# One cell, or two: (forward, backward).
LayerWeights = tuple[CellWeights, ...]


def model_of(
    layers: Sequence[LayerWeights], *, dropout: float = 0.0, readout: str = "all"
) -> SequenceModel:
    """A model of these layers without a dense readout."""
    built: list[Any] = []
    for layer in layers:
        cells = [cell_of(weights) for weights in layer]
        built.append(cells[0] if len(cells) == 1 else Bidirectional(*cells))
    return SequenceModel(built, readout=readout, dropout=dropout)


def layers_of(source: Any, to: str, *, reads_last: bool = False) -> list[LayerWeights]:
    """The layers of a model, a stack, a layer, or a sequence of layers.

    Args:
      source: what is converted.
      to: the library that it is for, for messages.
      reads_last: whether a layer of that library may return its last step alone.

    Raises:
      TypeError: a part is no cell of this package.
      ValueError: the model does more than its layers do.
    """
    if isinstance(source, SequenceModel):
        _check_bare(source, to, reads_last)
        return _each(source.cells, to)
    if type(source) is StackedCell:
        return _each(source.cells, to)
    one = isinstance(source, nnx.Module) and not isinstance(source, nnx.List)
    return _each([source] if one or not isinstance(source, Iterable) else source, to)


def cells_in(layers: Iterable[LayerWeights]) -> list[CellWeights]:
    """All cells, from input to output, forward before backward."""
    return [cell for layer in layers for cell in layer]


def with_bias(layers: Iterable[LayerWeights], bias: bool | None) -> list[LayerWeights]:
    """Layers all with biases, or all without; None is with, if any has some.

    Raises:
      TypeError: `bias` is no bool.
      ValueError: biases that are left out are not 0.
    """
    found = list(layers)
    if bias is None:
        bias = any(cell.bias is not None for cell in cells_in(found))
    wanted = check_flag("bias", bias)
    return [tuple(cell.with_bias(wanted) for cell in layer) for layer in found]


def _each(layers: Iterable[Any], to: str) -> list[LayerWeights]:
    found = [_layer_of(layer, to) for layer in layers]
    if not found:
        raise ValueError(f"what goes to {to} must have a layer; got none. Pass a cell or a model.")
    return found


def _layer_of(layer: Any, to: str) -> LayerWeights:
    if type(layer) is Bidirectional:
        return weights_of(layer.forward, to), weights_of(layer.backward, to)
    return (weights_of(layer, to),)


def _check_bare(model: SequenceModel, to: str, reads_last: bool) -> None:
    """Raises ValueError if a model is other than recurrent layers on one another."""
    if type(model) is not SequenceModel:
        raise TypeError(
            f"a model that goes to {to} must be a SequenceModel as it stands; got "
            f"{kind_of(model)}, which may compute something else. Pass its layers, model.cells."
        )
    if model.ensemble_size is not None:
        raise ValueError(
            f"a model that goes to {to} must be a single one; got an ensemble of "
            f"{model.ensemble_size}. Take a member: rnn_jax.member(models, 0)."
        )
    if model.readout == "last" and not reads_last and model.kernel is None:
        raise ValueError(
            f"a model that goes to {to} must have readout='all', because {to}'s layers return "
            "every step; got readout='last'. Pass model.cells, and read the last step there."
        )
    extras = {
        "a dense readout": model.kernel is not None,
        "an embedding": model.embedding is not None,
        "residual=True": model.residual,
        "layer_norm=True": bool(jax.tree.leaves(model.norms)),
    }
    found = [name for name, there in extras.items() if there]
    if found:
        raise ValueError(
            f"a model that goes to {to} must be recurrent layers alone, because {to} has no one "
            f"layer that does more; got one with {' and '.join(found)}. Convert the parts: pass "
            "model.cells, and hand on the rest (model.kernel, model.bias) by itself."
        )

"""Keras' recurrent layers as this package's models, and back."""

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

from rnn_jax.activations import computes
from rnn_jax.cells.cell import RNNCell
from rnn_jax.checks import check_choice, check_flag, kind_of
from rnn_jax.convert.cell_weights import (
    BLOCKS,
    CellWeights,
    cell_of,
    name_of_activation,
    weights_of,
    with_origin,
)
from rnn_jax.convert.keras_arrays import read_arrays, write_arrays
from rnn_jax.convert.layer_weights import LayerWeights, layers_of, model_of, with_bias
from rnn_jax.sequence.model import SequenceModel

_LAYERS = {"SimpleRNN": "rnn", "GRU": "gru", "LSTM": "lstm"}
_CELLS = {f"{name}Cell": kind for name, kind in _LAYERS.items()}
_NAMES = {kind: name for name, kind in _LAYERS.items()}

# Keras' names of activations, and this package's.
_ACTIVATIONS = {
    "linear": "identity",
    **{name: name for name in ("elu", "gelu", "relu", "sigmoid", "softplus", "softsign", "tanh")},
}


def from_keras(
    source: Any,
    *,
    kind: str | None = None,
    activation: str = "tanh",
    reset_after: bool | None = None,
) -> SequenceModel | RNNCell:
    """A model from Keras' recurrent layers or their arrays, a cell from a Keras cell.

    The model is called on (..., T, I). It returns the outputs of every step, or with
    return_sequences=False that of the last, as the layer does.

    Args:
      source: a built SimpleRNN, GRU, LSTM, RNN of their cells (one or several), Bidirectional of
        one, or a list or Sequential of such layers; one of their cells; or `layer.get_weights()`,
        a list of such lists for several layers, of a Bidirectional twice as long. Keras itself is
        needed for objects alone.
      kind: "rnn", "lstm" or "gru", what arrays must be of; None reads it off the sizes.
      activation: of a SimpleRNN's arrays, which do not say.
      reset_after: of a GRU's arrays; None reads it off the bias. A layer says these three.

    Returns:
      A `SequenceModel` without a dense readout; of a cell, a cell.

    Raises:
      TypeError: it is something else, or its weights are no floats.
      ValueError: options that have no counterpart, or arrays whose number, sizes or kind do not
        fit.

    Example:
      >>> arrays = rj.convert.to_keras(cell, layer=False)  # as layer.get_weights() gives them
      >>> [array.shape for array in arrays]
      [(2, 24), (8, 24), (2, 24)]
      >>> gru = rj.convert.from_keras(arrays).cells[0]
      >>> bool(jnp.array_equal(gru.kernel[...], cell.kernel[...]))
      True
    """
    if isinstance(source, (list, tuple)) and source and not _is_layer(source[0]):
        if kind is not None:
            check_choice("kind", kind, BLOCKS)
        lists = source if isinstance(source[0], (list, tuple)) else [source]
        said: dict[str, Any] = {"reset_after": reset_after, "activation": activation}
        return model_of([_read_lists(arrays, kind, said) for arrays in lists])
    given: dict[str, Any] = {"kind": kind, "reset_after": reset_after}
    given |= {"activation": None if activation == "tanh" else activation}
    refused = next((name for name, value in given.items() if value is not None), None)
    if refused is not None:
        raise ValueError(
            f"{refused} must be left out for Keras' own objects, which say it by themselves; got "
            f"{given[refused]!r}. Leave it out, or pass layer.get_weights()."
        )
    keras = sys.modules.get("keras")  # Whose layers have been made has been imported.
    name = _class_of(source, keras, _CELLS)
    if name is not None:
        return cell_of(_read_cell(source, keras))
    if isinstance(source, (list, tuple)):
        layers = list(source)
    elif keras is not None and isinstance(source, keras.Sequential):
        layers = list(source.layers)
    else:
        layers = [source]
    if not layers:
        raise ValueError("from_keras needs a layer; got none. Pass for example a keras LSTM.")
    for below in layers[:-1]:
        if not getattr(below, "return_sequences", True):
            raise ValueError(
                "each layer below another must return every step; got return_sequences=False of "
                f"{kind_of(below)}. Convert the layers apart."
            )
    read = [weights for layer in layers for weights in _read_layer(layer, keras)]
    return model_of(read, readout="all" if layers[-1].return_sequences else "last")


def to_keras(model: Any, *, layer: bool = True, bias: bool | None = None) -> Any:
    """The Keras layer of a model, or its arrays; the inverse of `from_keras`.

    Args:
      model: a `SequenceModel` without a dense readout, a `StackedCell`, a `Bidirectional`, or a
        list of layers; or a cell, for a keras.layers.LSTMCell and its like.
      layer: False gives the arrays alone, and needs no Keras.
      bias: None is with biases if any cell has some; True is with them in any case, 0 in a cell
        without; False leaves them out, and they must then be 0.

    Returns:
      A built SimpleRNN, GRU, LSTM or Bidirectional, a keras.Sequential of several, or a cell; or
      what `set_weights` of these takes: a list of arrays, for several layers a list of lists. The
      type is that of the parameters, which Keras on JAX computes in up to float32.

    Raises:
      TypeError: it is no such model.
      ValueError: Keras has nothing that computes the same.
      ImportError: there is no Keras.

    Example:
      >>> import os
      >>> os.environ["KERAS_BACKEND"] = "jax"  # as wherever Keras has no TensorFlow to run on
      >>> import keras
      >>> layer = rj.convert.to_keras(rj.SequenceModel(cell, rngs=nnx.Rngs(0)))
      >>> type(layer).__name__, [array.shape for array in layer.get_weights()]
      ('GRU', [(2, 24), (8, 24), (2, 24)])
    """
    check_flag("layer", layer)
    if isinstance(model, RNNCell):
        ((cell,),) = with_bias([(weights_of(model, "Keras"),)], bias)
        arrays = write_arrays(cell)
        return _make_cell(cell, arrays) if layer else arrays
    if isinstance(model, SequenceModel) and model.dropout and len(model.cells) > 1:
        raise ValueError(
            f"layers that go to Keras must be without dropout between them; got dropout="
            f"{model.dropout}. Convert model.cells, and put keras.layers.Dropout between."
        )
    layers = with_bias(layers_of(model, "Keras", reads_last=True), bias)
    lists = [[a for cell in cells for a in write_arrays(cell)] for cells in layers]
    if not layer:
        return lists[0] if len(lists) == 1 else lists
    last = isinstance(model, SequenceModel) and model.readout == "last"
    return _make_layers(layers, lists, last)


def _read_lists(arrays: Sequence[Any], kind: str | None, said: dict[str, Any]) -> LayerWeights:
    """One layer's arrays, or those of two directions one after the other."""
    half = len(arrays) // 2
    if len(arrays) in (4, 6):
        forward = read_arrays(arrays[:half], kind, **said)
        return forward, read_arrays(arrays[half:], forward.kind, **said)
    return (read_arrays(arrays, kind, **said),)


def _is_layer(value: Any) -> bool:
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(value, keras.layers.Layer)


def _class_of(value: Any, keras: Any, names: Any) -> str | None:
    """Under which of these names an object's class is Keras' own."""
    if keras is None:
        return None
    return next((n for n in names if type(value) is getattr(keras.layers, n)), None)


def _read_layer(layer: Any, keras: Any) -> list[LayerWeights]:
    """The layers in a Keras layer: several of an RNN of several cells."""
    if keras is not None and type(layer) is keras.layers.Bidirectional:
        if layer.merge_mode != "concat":
            raise ValueError(
                "a Bidirectional layer must have merge_mode='concat'; got "
                f"{layer.merge_mode!r}. Convert its forward_layer and backward_layer, and merge "
                "their outputs yourself."
            )
        both = (layer.forward_layer, layer.backward_layer)
        cells = [_cells_of(one, keras, backward=one is both[1]) for one in both]
        if any(len(found) > 1 for found in cells):
            raise ValueError(
                "a Bidirectional layer must have one cell in each direction; got several. Convert "
                "its forward_layer and backward_layer."
            )
        return [(cells[0][0], cells[1][0])]
    return [(weights,) for weights in _cells_of(layer, keras, backward=False)]


def _cells_of(layer: Any, keras: Any, *, backward: bool) -> list[CellWeights]:
    """The cells of a Keras layer that runs in one direction, from input to output."""
    if _class_of(layer, keras, [*_LAYERS, "RNN"]) is None:
        raise TypeError(
            "a layer must be a keras SimpleRNN, GRU, LSTM, an RNN of their cells, or a "
            f"Bidirectional of one; got {with_origin(layer)}. Pass the recurrent layers alone, or "
            "their arrays, layer.get_weights()."
        )
    if bool(layer.go_backwards) is not backward:
        raise ValueError(
            "a layer must run forward; got go_backwards=True. Convert it with go_backwards=False, "
            "and call rnn_jax.unroll(cell, xs, reverse=True)."
        )
    if layer.stateful:
        raise ValueError(
            "a layer must start each call anew; got stateful=True. Set it to False, and hand the "
            "carry on yourself."
        )
    cell = layer.cell
    cells = cell.cells if type(cell) is keras.layers.StackedRNNCells else [cell]
    return [_read_cell(cell, keras) for cell in cells]


def _read_cell(cell: Any, keras: Any) -> CellWeights:
    name = _class_of(cell, keras, _CELLS)
    if name is None:
        raise TypeError(
            "a cell must be a keras SimpleRNNCell, GRUCell or LSTMCell; got "
            f"{kind_of(cell)}. Pass one of these."
        )
    kind = _CELLS[name]
    if not cell.built:
        raise ValueError(
            "a layer must be built, so that it has weights; got one that is not. Call it once, or "
            "layer.build((None, None, features))."
        )
    for noise in ("dropout", "recurrent_dropout"):
        if getattr(cell, noise):
            raise ValueError(
                f"a layer must be without {noise}, which is no part of its weights; got {noise}="
                f"{getattr(cell, noise)}. Pass layer.get_weights(), and wrap the cells: "
                "rnn_jax.RecurrentDropout(cell, recurrent_dropout, dropout)."
            )
    activation = _activation_of(cell.activation, keras)
    if kind != "rnn":
        found = (activation, _activation_of(cell.recurrent_activation, keras))
        if found != ("tanh", "sigmoid"):
            raise ValueError(
                "a gated cell must have activation tanh and recurrent_activation sigmoid; got "
                f"{found[0]} and {found[1]}. This package has no other: train one with these."
            )
    arrays = [cell.kernel, cell.recurrent_kernel, *([cell.bias] if cell.use_bias else [])]
    reset_after = cell.reset_after if kind == "gru" else None
    return read_arrays(
        [keras.ops.convert_to_numpy(array) for array in arrays],
        kind,
        reset_after=reset_after,
        activation=activation,
    )


def _activation_of(function: Any, keras: Any) -> str:
    """This package's name of an activation of Keras.

    Raises:
      ValueError: it has none.
    """
    for theirs, ours in _ACTIVATIONS.items():
        if function is getattr(keras.activations, theirs):
            return ours
    raise ValueError(
        f"an activation must be one of {', '.join(_ACTIVATIONS)}; got "
        f"{getattr(function, '__name__', kind_of(function))}. Build a SimpleRNNCell with a "
        "function of JAX that computes it, and set its weights."
    )


def _options(cell: CellWeights) -> dict[str, Any]:
    """How a Keras cell of these weights is built."""
    options: dict[str, Any] = {
        "use_bias": cell.bias is not None,
        "dtype": jnp.dtype(cell.param_dtype).name,
    }
    if cell.kind == "gru":
        options["reset_after"] = cell.reset_after
    elif cell.kind == "rnn":
        named = (t for t, o in _ACTIVATIONS.items() if computes(cell.activation, o))
        options["activation"] = next(named, None)
        if options["activation"] is None:
            raise ValueError(
                "a simple RNN that goes to Keras must have one of the activations "
                f"{', '.join(_ACTIVATIONS.values())}; got {name_of_activation(cell.activation)}. "
                "Pass layer=False for the arrays alone, and build the layer yourself."
            )
    return options


def _make_cell(cell: CellWeights, arrays: list[np.ndarray]) -> Any:
    keras = _keras()
    of_class = getattr(keras.layers, f"{_NAMES[cell.kind]}Cell")
    built = of_class(cell.hidden_features, **_options(cell))
    built.build((None, cell.in_features))
    built.set_weights(arrays)
    return built


def _make_layers(layers: list[LayerWeights], lists: list[list[np.ndarray]], last: bool) -> Any:
    keras, made = _keras(), []
    for cells, arrays in zip(layers, lists, strict=True):
        every_step = not (last and cells is layers[-1])
        one, *other = [
            getattr(keras.layers, _NAMES[cell.kind])(
                cell.hidden_features,
                return_sequences=every_step,
                go_backwards=index == 1,
                **_options(cell),
            )
            for index, cell in enumerate(cells)
        ]
        built = keras.layers.Bidirectional(one, backward_layer=other[0]) if other else one
        built.build((None, None, cells[0].in_features))
        built.set_weights(arrays)
        made.append(built)
    if len(made) == 1:
        return made[0]
    return keras.Sequential([keras.Input((None, layers[0][0].in_features)), *made])


def _keras() -> ModuleType:
    try:
        import keras
    except ImportError as error:
        raise ImportError(
            "a Keras layer needs Keras, which cannot be imported here. Install it, or pass "
            "layer=False for the arrays."
        ) from error
    return keras

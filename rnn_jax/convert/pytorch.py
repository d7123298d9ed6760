"""PyTorch's recurrent modules as this package's models, and back."""

import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

from rnn_jax.activations import computes
from rnn_jax.cells.cell import RNNCell
from rnn_jax.checks import check_choice, check_flag, check_rate, kind_of
from rnn_jax.convert.cell_weights import (
    BLOCKS,
    CellWeights,
    cell_of,
    check_gated,
    name_of_activation,
    weights_of,
    with_origin,
)
from rnn_jax.convert.layer_weights import LayerWeights, cells_in, layers_of, model_of, with_bias
from rnn_jax.convert.state_dict import State, own_entries, read_layers, write_cell
from rnn_jax.sequence.model import SequenceModel


def from_torch(
    source: Any,
    *,
    kind: str | None = None,
    prefix: str = "",
    nonlinearity: str = "tanh",
    dropout: float = 0.0,
) -> SequenceModel | RNNCell:
    """A model from a PyTorch recurrent module or its state dict, a cell from that of a cell.

    The model is called on (..., T, I), whatever `batch_first` says, and returns the outputs of
    every step, as the module does. PyTorch's two biases are added; the gradient by each of theirs
    is the gradient by ours, so a step of plain gradient descent moves their sum twice as far.

    Args:
      source: a torch.nn.RNN, LSTM (with `proj_size` too), GRU, RNNCell, LSTMCell or GRUCell, any
        depth and direction; or a state dict of one, of tensors or NumPy arrays. PyTorch itself is
        needed for modules alone.
      kind: "rnn", "lstm" or "gru", what a state dict must be of; None reads it off the sizes.
      prefix: of the names to take of a larger network's state dict, such as "encoder.lstm.".
      nonlinearity: "tanh" or "relu", of a simple RNN's state dict, which does not say.
      dropout: between layers, of a state dict, which does not say. A module says the last two.

    Returns:
      A `SequenceModel` without a dense readout, readout="all"; of a cell, a cell. Parameters have
      the type of the weights.

    Raises:
      TypeError: it is something else, or its weights are no floats.
      ValueError: names are unknown or missing, sizes or kinds do not fit, or the weights' type is
        one that JAX is not set to compute in.

    Example:
      >>> import torch
      >>> lstm = torch.nn.LSTM(2, 8, num_layers=2, batch_first=True)
      >>> model = rj.convert.from_torch(lstm)
      >>> theirs, _ = lstm(torch.tensor(np.array(xs)))
      >>> bool(jnp.allclose(model(xs), theirs.detach().numpy(), atol=1e-5))
      True
    """
    if isinstance(source, Mapping):
        state = own_entries(source, prefix)
        if kind is not None:
            check_choice("kind", kind, BLOCKS)
        check_choice("nonlinearity", nonlinearity, ("tanh", "relu"))
        layers = read_layers(state, kind, nonlinearity)
        if "weight_ih" in state:
            return cell_of(layers[0][0])
        return model_of(layers, dropout=check_rate("dropout", dropout))
    given = {"kind": kind, "prefix": prefix, "dropout": dropout}
    _refuse_options(given | {"nonlinearity": None if nonlinearity == "tanh" else nonlinearity})
    kind, nonlinearity = _kind_of_module(source)
    state = own_entries(source.state_dict(), "")
    layers = read_layers(state, kind, nonlinearity)
    if "weight_ih" in state:
        return cell_of(layers[0][0])
    if source.dropout == 1:
        raise ValueError(
            "dropout must lie in [0, 1); got a module with dropout=1, whose upper layers see "
            "nothing in training. Set module.dropout to less."
        )
    return model_of(layers, dropout=source.dropout)


def to_torch(model: Any, *, module: bool = True, bias: bool | None = None) -> Any:
    """The PyTorch module of a model, or its state dict; the inverse of `from_torch`.

    Args:
      model: a `SequenceModel` without a dense readout, a `StackedCell`, a `Bidirectional`, or a
        list of layers, all of one kind and size; or a cell, for a torch.nn.LSTMCell and its like.
      module: False gives the state dict alone, as NumPy arrays, and needs no PyTorch.
      bias: None is with biases if any cell has some; True is with them in any case, 0 in a cell
        without; False leaves them out, and they must then be 0.

    Returns:
      A torch.nn.RNN, LSTM or GRU with batch_first=True on the CPU, in training mode as new modules
      are; or {name: array}. The second of PyTorch's two biases is 0, but for the candidate of a
      GRU. It computes in the type of the parameters, also where the cell computes in another.

    Raises:
      TypeError: it is no such model.
      ValueError: PyTorch has no one module for it.
      ImportError: there is no PyTorch.

    Example:
      >>> weights = rj.convert.to_torch(cell, module=False)  # a state dict of NumPy arrays
      >>> {name: array.shape for name, array in weights.items()}
      {'weight_ih': (24, 2), 'weight_hh': (24, 8), 'bias_ih': (24,), 'bias_hh': (24,)}
      >>> import torch
      >>> rj.convert.to_torch(cell)
      GRUCell(2, 8)
    """
    check_flag("module", module)
    if isinstance(model, RNNCell):
        ((cell,),) = _for_torch([(weights_of(model, "PyTorch"),)], bias)
        if cell.projection is not None:
            raise ValueError(
                "a cell that goes to PyTorch must be without a projection, which torch.nn.LSTMCell "
                f"does not have; got projection={cell.output_features}. Pass a list, [cell], for a "
                "torch.nn.LSTM of one layer."
            )
        state = write_cell(cell, "")
        return _make_cell(cell, state) if module else state
    layers = _for_torch(layers_of(model, "PyTorch"), bias)
    _check_uniform(layers)
    state = {}
    for depth, layer in enumerate(layers):
        for cell, direction in zip(layer, ("", "_reverse"), strict=False):
            state |= write_cell(cell, f"_l{depth}{direction}")
    dropout = model.dropout if isinstance(model, SequenceModel) else 0.0
    return _make_module(layers, state, dropout) if module else state


def _refuse_options(given: dict[str, Any]) -> None:
    """Raises ValueError if something was said that a module says by itself."""
    said = [name for name, value in given.items() if value]
    if said:
        raise ValueError(
            f"{said[0]} must be left out for a module, which says it by itself; got "
            f"{said[0]}={given[said[0]]!r}. Leave it out, or pass module.state_dict()."
        )


def _kind_of_module(source: Any) -> tuple[str, str]:
    """(kind, nonlinearity) of a PyTorch module.

    Raises:
      TypeError: it is none of those that are known, or computes something else.
    """
    torch = sys.modules.get("torch")  # Whose module has been made has been imported.
    nn = getattr(torch, "nn", None)
    if nn is not None:
        for name in ("RNN", "LSTM", "GRU"):
            for of_class in (getattr(nn, name), getattr(nn, f"{name}Cell")):
                if isinstance(source, of_class):
                    _check_forward(source, of_class)
                    return name.lower(), getattr(source, "nonlinearity", "tanh")
    raise TypeError(
        "source must be a torch.nn.RNN, LSTM, GRU, RNNCell, LSTMCell or GRUCell, or a state dict "
        f"of one; got {with_origin(source)}. {_recurrent_parts(source, nn)}"
    )


def _check_forward(source: Any, of_class: Any) -> None:
    if type(source).forward is not of_class.forward:
        raise TypeError(
            f"a module must compute what torch.nn.{of_class.__name__} computes; got "
            f"{kind_of(source)}, which has a forward of its own. Pass module.state_dict(), if its "
            "recurrence is the usual one."
        )


def _recurrent_parts(source: Any, nn: Any) -> str:
    """What to do with something that is no recurrent module."""
    if nn is not None and isinstance(source, nn.Module):
        parts = [
            name
            for name, part in source.named_modules()
            if isinstance(part, (nn.RNNBase, nn.RNNCellBase))
        ]
        if parts:
            return f"Pass its recurrent part: module.{parts[0]}."
    return "Pass one of these."


def _for_torch(layers: list[LayerWeights], bias: bool | None) -> list[LayerWeights]:
    """The layers, all with biases or all without, if PyTorch has their kind.

    Raises:
      ValueError: it has not.
    """
    for cell in cells_in(layers):
        _check_kind(cell)
    return with_bias(layers, bias)


def _check_kind(cell: CellWeights) -> None:
    if cell.kind == "gru" and not cell.reset_after:
        raise ValueError(
            "a GRU that goes to PyTorch must have reset_after=True, the only variant there; got "
            "reset_after=False. Keras has both: rnn_jax.convert.to_keras."
        )
    if cell.kind == "rnn":
        _nonlinearity(cell)
    check_gated(cell, "PyTorch")


def _nonlinearity(cell: CellWeights) -> str:
    for name in ("tanh", "relu"):
        if computes(cell.activation, name):
            return name
    raise ValueError(
        "a simple RNN that goes to PyTorch must have activation tanh or relu; got "
        f"{name_of_activation(cell.activation)}. PyTorch has no other: keep this one here, or "
        "train one with tanh."
    )


def _check_uniform(layers: list[LayerWeights]) -> None:
    """Raises ValueError unless all layers are of one kind and size, as in one module."""
    cells = cells_in(layers)
    first = cells[0]

    def forms() -> Iterator[tuple[str, list[Any]]]:
        yield "kind", [cell.kind for cell in cells]
        yield "hidden_features", [cell.hidden_features for cell in cells]
        yield "projection", [cell.output_features for cell in cells]
        yield "type", [jnp.dtype(cell.param_dtype).name for cell in cells]
        if first.kind == "rnn":
            yield "activation", [name_of_activation(cell.activation) for cell in cells]
        yield "number of directions", [len(layer) for layer in layers]

    for what, values in forms():
        if len(set(values)) > 1:
            raise ValueError(
                f"the layers of one PyTorch module must all have the same {what}; got "
                f"{', '.join(map(str, values))}. Convert them one by one: "
                "[rnn_jax.convert.to_torch([cell]) for cell in model.cells]."
            )
    if first.projection is not None and first.output_features >= first.hidden_features:
        raise ValueError(
            "a projection must be smaller than the cell state for PyTorch; got projection="
            f"{first.output_features} and hidden_features={first.hidden_features}. PyTorch has no "
            "such module: pass module=False for the arrays alone."
        )


def _make_module(layers: list[LayerWeights], state: State, dropout: float) -> Any:
    cell = cells_in(layers)[0]
    options: dict[str, Any] = {
        "num_layers": len(layers),
        "bias": cell.bias is not None,
        "batch_first": True,
        # Which acts between layers, and of which PyTorch warns where there is no between.
        "dropout": dropout if len(layers) > 1 else 0.0,
        "bidirectional": len(layers[0]) == 2,
    }
    if cell.kind == "rnn":
        options["nonlinearity"] = _nonlinearity(cell)
    if cell.projection is not None:
        options["proj_size"] = cell.output_features
    return _filled(cell.kind.upper(), cell, state, options)


def _make_cell(cell: CellWeights, state: State) -> Any:
    options: dict[str, Any] = {"bias": cell.bias is not None}
    if cell.kind == "rnn":
        options["nonlinearity"] = _nonlinearity(cell)
    return _filled(f"{cell.kind.upper()}Cell", cell, state, options)


def _filled(name: str, cell: CellWeights, state: State, options: dict[str, Any]) -> Any:
    """A module of torch.nn with these weights."""
    torch = _torch()

    def tensor(array: np.ndarray) -> Any:
        if array.dtype == jnp.bfloat16:
            return torch.from_numpy(array.astype(np.float32)).bfloat16()
        return torch.from_numpy(array)

    tensors = {name: tensor(array) for name, array in state.items()}
    dtype = next(iter(tensors.values())).dtype
    # Its initial weights are not used, and its random numbers are the user's.
    with torch.random.fork_rng(devices=[]):
        make = getattr(torch.nn, name)
        module = make(cell.in_features, cell.hidden_features, dtype=dtype, **options)
    module.load_state_dict(tensors)
    return module


def _torch() -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "a PyTorch module needs PyTorch, which cannot be imported here. Install it, or pass "
            "module=False for the state dict as NumPy arrays."
        ) from error
    return torch

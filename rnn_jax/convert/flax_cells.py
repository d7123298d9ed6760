"""Flax's recurrent cells, of NNX and of Linen, as this package's, and back.

Flax keeps kernels as this package does, (I, H) by gate or (I, G·H) for all, in the order input,
forget, candidate, output and reset, update, candidate. Its NNX GRU has no bias within the reset
gate's product, its Linen GRU has one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from rnn_jax.activations import ACTIVATIONS, Activation
from rnn_jax.cells.cell import RNNCell
from rnn_jax.checks import check_choice, check_flag, kind_of
from rnn_jax.convert.cell_weights import CellWeights, as_numpy, cell_of, weights_of, with_origin
from rnn_jax.convert.layer_weights import LayerWeights, layers_of, model_of, with_bias
from rnn_jax.convert.linen_params import GATES, read_params, write_params
from rnn_jax.sequence.model import SequenceModel

_KINDS = {"SimpleCell": "rnn", "GRUCell": "gru", "LSTMCell": "lstm", "OptimizedLSTMCell": "lstm"}
_SIGMOIDS = (jax.nn.sigmoid, nnx.sigmoid, linen.sigmoid, jax.lax.logistic)
_TANHS = (jnp.tanh, nnx.tanh, linen.tanh, jax.lax.tanh)


def from_flax(source: Any, params: Mapping[str, Any] | None = None) -> SequenceModel | RNNCell:
    """A cell from a Flax cell, a model from Flax's layers of them.

    The model is called on (..., T, I), whatever `time_major` says, and returns the outputs of every
    step.

    Args:
      source: of NNX, a SimpleCell, GRUCell, LSTMCell or OptimizedLSTMCell; an RNN of one, a
        Bidirectional of two such, or a list or nnx.Sequential of these layers. Of Linen, a cell of
        the same names, its class, or its name.
      params: of Linen, the cell's parameters, as `init` gives them.

    Returns:
      A cell; of layers, a `SequenceModel` without a dense readout, readout="all". The type that
      Flax computes in, `dtype`, and its functions, `gate_fn` and `activation_fn`, go along.

    Raises:
      TypeError: it is something else.
      ValueError: options that have no counterpart, or params that are not those of the cell.

    Example:
      >>> flax_cell = nnx.LSTMCell(2, 8, rngs=nnx.Rngs(0))
      >>> lstm = rj.convert.from_flax(flax_cell)
      >>> carry = jnp.zeros(8), jnp.zeros(8)
      >>> bool(jnp.allclose(lstm(carry, xs[0])[1], flax_cell(carry, xs[0])[1], atol=1e-6))
      True
      >>> sorted(lstm.gates(carry, xs[0]))
      ['forget', 'input', 'output']
    """
    if params is not None:
        return cell_of(_read_linen(source, params))
    if isinstance(source, (linen.Module, str, type)):
        raise TypeError(
            f"a Linen cell must come with its parameters; got {kind_of(source)} alone. Pass "
            "from_flax(cell, params), with params as cell.init gives them."
        )
    if isinstance(source, nnx.RNNCellBase):
        return cell_of(_read_nnx(source))
    if isinstance(source, nnx.Sequential):
        source = source.layers
    layers = list(source) if isinstance(source, (Sequence, nnx.List)) else [source]
    if not layers:
        raise ValueError("from_flax needs a layer; got none. Pass for example [nnx.RNN(cell)].")
    return model_of([_read_layer(layer) for layer in layers])


def to_flax(model: Any, *, api: str = "nnx", optimized: bool = True) -> Any:
    """The Flax cell of a cell, the Flax layer of a model; the inverse of `from_flax`.

    Args:
      model: a cell; or a `SequenceModel` without a dense readout, a `StackedCell`, a
        `Bidirectional` or a list of layers.
      api: "nnx", or "linen" for a single cell.
      optimized: make LSTMs an OptimizedLSTMCell, which is faster and computes the same.

    Returns:
      Of NNX, a cell, an nnx.RNN, an nnx.Bidirectional, or an nnx.Sequential of several layers,
      called on (B, T, I). Of Linen, (cell, {"params": …}). A `dtype` to compute in goes along; a
      `carry_dtype` has no counterpart. Flax's cells have biases: those of a cell without are 0.

    Raises:
      TypeError: it is no such model.
      ValueError: Flax has nothing that computes the same.

    Example:
      >>> flax_cell = rj.convert.to_flax(cell)
      >>> (_, ours), (_, theirs) = cell(jnp.zeros(8), xs[0]), flax_cell(jnp.zeros(8), xs[0])
      >>> type(flax_cell).__name__, bool(jnp.allclose(ours, theirs, atol=1e-6))
      ('GRUCell', True)
    """
    check_choice("api", api, ("linen", "nnx"))
    check_flag("optimized", optimized)
    if isinstance(model, RNNCell):
        weights = weights_of(model, "Flax").with_bias(True)
        return _write_nnx(weights, optimized) if api == "nnx" else _write_linen(weights, optimized)
    if api == "linen":
        raise ValueError(
            f"api='linen' converts one cell; got {kind_of(model)}. Convert the cells of its layers "
            "one by one."
        )
    if isinstance(model, SequenceModel) and model.dropout and len(model.cells) > 1:
        raise ValueError(
            f"layers that go to Flax must be without dropout between them; got dropout="
            f"{model.dropout}. Convert model.cells, and put nnx.Dropout between the layers."
        )
    found = with_bias(layers_of(model, "Flax"), True)
    layers = [_write_layer(layer, optimized) for layer in found]
    return layers[0] if len(layers) == 1 else nnx.Sequential(*layers)


class _Fused(NamedTuple):
    """Kernels of all gates side by side, and what there is of biases."""

    kernel: Any
    recurrent_kernel: Any
    bias: Any


def _read_layer(layer: Any) -> LayerWeights:
    if isinstance(layer, nnx.Bidirectional):
        _check_call(layer, nnx.Bidirectional)
        if not _concatenates(layer.merge_fn):
            raise ValueError(
                "a bidirectional layer must put its two outputs side by side; got one with another "
                f"merge_fn, {kind_of(layer.merge_fn)}. Convert its two RNNs, and merge their "
                "outputs yourself."
            )
        # Whatever they say of `reverse`, forward and backward are told their direction.
        return _cell_in(layer.forward_rnn), _cell_in(layer.backward_rnn)
    weights = _cell_in(layer)
    if layer.reverse:
        raise ValueError(
            "an nnx.RNN must run forward; got one with reverse=True. Convert its cell, and call "
            "rnn_jax.unroll(cell, xs, reverse=True)."
        )
    return (weights,)


def _cell_in(layer: Any) -> CellWeights:
    """The weights of the cell in an nnx.RNN."""
    if not isinstance(layer, nnx.RNN):
        raise TypeError(
            "a layer must be an nnx.RNN or an nnx.Bidirectional of two; got "
            f"{kind_of(layer)}. Pass the recurrent layers alone, or a cell."
        )
    _check_call(layer, nnx.RNN)
    return _read_nnx(layer.cell)


def _read_nnx(cell: Any) -> CellWeights:
    name = next(
        (n for n in _KINDS if isinstance(cell, getattr(nnx, n)) and not isinstance(cell, RNNCell)),
        None,
    )
    if name is None:
        raise TypeError(
            "a cell must be an nnx.SimpleCell, GRUCell, LSTMCell or OptimizedLSTMCell; got "
            f"{with_origin(cell)}. Any other cell is used as it is, by rnn_jax.unroll and the rest."
        )
    _check_call(cell, getattr(nnx, name))
    functions = _functions(cell)
    if name == "LSTMCell":
        gates = GATES["lstm"]
        into = [cell.if_ if gate == "f" else getattr(cell, f"i{gate}") for gate in gates]
        of_state = [getattr(cell, f"h{gate}") for gate in gates]
        fused = _Fused(
            np.concatenate([as_numpy("kernel", layer.kernel) for layer in into], axis=1),
            np.concatenate([as_numpy("kernel", layer.kernel) for layer in of_state], axis=1),
            np.concatenate([as_numpy("bias", layer.bias) for layer in of_state]),
        )
    else:
        biased = cell.dense_h if name == "OptimizedLSTMCell" else cell.dense_i
        fused = _Fused(
            as_numpy("dense_i.kernel", cell.dense_i.kernel),
            as_numpy("dense_h.kernel", cell.dense_h.kernel),
            as_numpy("bias", biased.bias),
        )
    within = np.zeros_like(fused.bias[: cell.hidden_features]) if name == "GRUCell" else None
    return CellWeights(
        _KINDS[name],
        *fused,
        candidate_recurrent_bias=within,
        dtype=cell.dtype,
        **functions,
    )


def _read_linen(source: Any, params: Any) -> CellWeights:
    of_class = type(source) if isinstance(source, linen.Module) else source
    name = of_class if isinstance(of_class, str) else getattr(of_class, "__name__", "")
    known = name in _KINDS and of_class in (name, getattr(linen, name))
    if not known:
        raise TypeError(
            "with params, source must be a Linen cell, its class or its name, one of "
            f"{', '.join(_KINDS)}; got {source if isinstance(source, str) else kind_of(source)}. "
            "Any other cell is used as it is, by jax.tree_util.Partial(cell.apply, variables)."
        )
    said: dict[str, Any] = {}
    if isinstance(source, linen.Module):
        said = _functions(source) | {"dtype": getattr(source, "dtype", None)}
    return read_params(_KINDS[name], params, **said)


def _functions(cell: Any) -> dict[str, Any]:
    """Activation and gates of a Flax cell; those that this package knows, as it knows them.

    Raises:
      ValueError: a residual cell.
    """
    if getattr(cell, "residual", False):
        raise ValueError(
            "a SimpleCell must be without its residual; got residual=True, which adds h to what φ "
            "is given. Add the identity to its recurrent kernel, and set residual=False."
        )
    gate = getattr(cell, "gate_fn", jax.nn.sigmoid)
    return {"activation": _known(cell.activation_fn), "gate": _known(gate)}


def _known(function: Any) -> Any:
    """A function as this package has it, if it does."""
    for name, functions in (("sigmoid", _SIGMOIDS), ("tanh", _TANHS)):
        if any(function is one for one in functions):
            return ACTIVATIONS[name]
    return next((own for own in ACTIVATIONS.values() if own.function is function), function)


def _check_call(module: Any, of_class: type) -> None:
    if type(module).__call__ is not of_class.__call__:
        raise TypeError(
            f"a module must compute what nnx.{of_class.__name__} computes; got {kind_of(module)}, "
            "which has a __call__ of its own. Use it as it is, by rnn_jax.unroll and the rest."
        )


def _concatenates(merge: Any) -> bool:
    """Whether a function puts two arrays side by side, tried out."""
    one, other = jnp.asarray([[1.0, 2.0]]), jnp.asarray([[3.0]])
    try:
        return np.array_equal(merge(one, other), [[1.0, 2.0, 3.0]])
    except (TypeError, ValueError):
        return False


def _write_layer(layer: LayerWeights, optimized: bool) -> Any:
    rnns = [nnx.RNN(_write_nnx(weights, optimized)) for weights in layer]
    return rnns[0] if len(rnns) == 1 else nnx.Bidirectional(*rnns)


def _write_nnx(weights: CellWeights, optimized: bool) -> Any:
    options = _options(weights) | {"rngs": nnx.Rngs(0)}
    sizes = weights.in_features, weights.hidden_features
    kernel, recurrent, bias = map(
        jnp.asarray, (weights.kernel, weights.recurrent_kernel, weights.bias)
    )
    if weights.kind == "lstm" and not optimized:
        cell: Any = nnx.LSTMCell(*sizes, **options)
        parts = (jnp.split(array, 4, axis=-1) for array in (kernel, recurrent, bias))
        for gate, w_x, w_h, b in zip(GATES["lstm"], *parts, strict=True):
            into = cell.if_ if gate == "f" else getattr(cell, f"i{gate}")
            of_state = getattr(cell, f"h{gate}")
            into.kernel[...], of_state.kernel[...], of_state.bias[...] = w_x, w_h, b
        return cell
    make, biased = {
        "rnn": (nnx.SimpleCell, "dense_i"),
        "gru": (nnx.GRUCell, "dense_i"),
        "lstm": (nnx.OptimizedLSTMCell, "dense_h"),
    }[weights.kind]
    within = weights.candidate_recurrent_bias
    if within is not None and np.any(within != 0):
        raise ValueError(
            "a GRU that goes to NNX must have no bias within the reset gate's product, where "
            "nnx.GRUCell has none; got a candidate_recurrent_bias other than 0. Linen's GRU has "
            "it: pass api='linen'."
        )
    cell = make(*sizes, **options)
    cell.dense_i.kernel[...], cell.dense_h.kernel[...] = kernel, recurrent
    getattr(cell, biased).bias[...] = bias
    return cell


def _write_linen(weights: CellWeights, optimized: bool) -> tuple[Any, dict[str, Any]]:
    options = _options(weights)
    name = {"rnn": "SimpleCell", "gru": "GRUCell", "lstm": "LSTMCell"}[weights.kind]
    name = f"Optimized{name}" if weights.kind == "lstm" and optimized else name
    cell = getattr(linen, name)(weights.hidden_features, **options)
    return cell, {"params": write_params(weights)}


def _options(weights: CellWeights) -> dict[str, Any]:
    """How a Flax cell of these weights is built.

    Raises:
      ValueError: Flax has none.
    """
    if weights.projection is not None:
        raise ValueError(
            "an LSTM that goes to Flax must be without a projection, which Flax's do not have; got "
            f"projection={weights.output_features}. PyTorch's has one: rnn_jax.convert.to_torch."
        )
    if weights.kind == "gru" and not weights.reset_after:
        raise ValueError(
            "a GRU that goes to Flax must have reset_after=True, the only variant there; got "
            "reset_after=False. Keras has both: rnn_jax.convert.to_keras."
        )
    options = {"dtype": weights.dtype, "param_dtype": weights.param_dtype}
    options["activation_fn"] = _function(weights.activation)
    if weights.kind != "rnn":
        options["gate_fn"] = _function(weights.gate)
    return options


def _function(phi: Any) -> Any:
    return phi.function if isinstance(phi, Activation) else phi

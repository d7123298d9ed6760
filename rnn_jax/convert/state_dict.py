"""PyTorch's state dicts of recurrent modules, read and written without PyTorch.

PyTorch keeps each kernel transposed, (G·H, I), its gates in the order of this package's blocks
(LSTM: input, forget, candidate, output; GRU: reset, update, candidate), and two biases that are
added, b_ih + b_hh. Here is one, but for the candidate of a GRU, where the reset gate multiplies
b_hh alone:

n = tanh(x W_n + b_in + r ∘ (h W_hn + b_hn))
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rnn_jax.checks import kind_of
from rnn_jax.convert.cell_weights import (
    BLOCKS,
    CellWeights,
    as_numpy,
    check_names,
    check_shape,
    sum_of_biases,
)
from rnn_jax.convert.layer_weights import LayerWeights

_NAME = re.compile(r"(?:weight_(?:ih|hh|hr)|bias_(?:ih|hh))(?:_l(\d+)(_reverse)?)?")

State = dict[str, np.ndarray]


def own_entries(source: Mapping[str, Any], prefix: str) -> State:
    """The entries of a state dict whose names have the prefix, without it."""
    if not isinstance(prefix, str):
        raise TypeError(f'prefix must be a str; got {kind_of(prefix)}. Pass for example "lstm.".')
    entries = {str(name): value for name, value in source.items()}
    own = {name[len(prefix) :]: v for name, v in entries.items() if name.startswith(prefix)}
    known = [name for name in own if _NAME.fullmatch(name)]
    if not known:
        inside = sorted(
            {n[: m.start()] for n in entries if (m := re.search(_NAME.pattern + "$", n))}
        )
        fix = f"Pass prefix={inside[0]!r}." if inside else "Pass that of the recurrent module."
        raise ValueError(
            "a state dict must hold weight_ih_l0, weight_hh_l0 and so on, or weight_ih of a cell; "
            f"got {len(own)} entries with prefix {prefix!r}, none of them so named. {fix}"
        )
    fix = "Pass the entries of one recurrent module, or the prefix= of its names."
    expected = _expected_names(known)
    check_names("a state dict", list(own), expected, fix)
    return {name: as_numpy(f"{prefix}{name}", own[name]) for name in expected}


def _expected_names(known: list[str]) -> list[str]:
    """All names that go with those that there are, in PyTorch's order."""
    found = [match for match in map(_NAME.fullmatch, known) if match is not None]
    parts = ["weight_ih", "weight_hh"]
    parts += ["bias_ih", "bias_hh"] if any(name.startswith("bias") for name in known) else []
    parts += ["weight_hr"] if any(name.startswith("weight_hr") for name in known) else []
    if any(match[1] is None for match in found):
        return parts
    depth = 1 + max(int(match[1]) for match in found)
    directions = ("", "_reverse") if any(match[2] for match in found) else ("",)
    return [f"{p}_l{level}{d}" for level in range(depth) for d in directions for p in parts]


def read_layers(state: State, kind: str | None, nonlinearity: str) -> list[LayerWeights]:
    """The layers of a state dict that holds the right names."""
    if "weight_ih" in state:
        return [(_read_cell(state, "", kind, None, nonlinearity),)]
    layers: list[LayerWeights] = []
    directions = ("", "_reverse") if "weight_ih_l0_reverse" in state else ("",)
    while f"weight_ih_l{len(layers)}" in state:
        into = sum(cell.output_features for cell in layers[-1]) if layers else None
        cells: list[CellWeights] = []
        for direction in directions:
            suffix = f"_l{len(layers)}{direction}"
            cells.append(_read_cell(state, suffix, kind, into, nonlinearity))
            kind, into = cells[0].kind, cells[0].in_features
        layers.append(tuple(cells))
    return layers


def _read_cell(
    state: State, suffix: str, kind: str | None, in_features: int | None, nonlinearity: str
) -> CellWeights:
    """The cell whose names end in `suffix`."""

    def get(name: str) -> np.ndarray | None:
        return state.get(name + suffix)

    recurrent, into = state[f"weight_hh{suffix}"], state[f"weight_ih{suffix}"]
    for name, array in ((f"weight_hh{suffix}", recurrent), (f"weight_ih{suffix}", into)):
        if array.ndim != 2:
            raise ValueError(
                f"{name} must be a matrix; got shape {array.shape}. Pass the weights as they "
                "are in the module."
            )
    projection = get("weight_hr")
    size = recurrent.shape[1] if projection is None else projection.shape[-1]
    kind = _check_kind(f"weight_hh{suffix}", recurrent.shape, size, kind)
    if projection is not None:
        if kind != "lstm":
            raise ValueError(
                f"only an LSTM has a projection; got weight_hr{suffix} and the sizes of a "
                f"{kind.upper()}, weight_hh{suffix} of shape {recurrent.shape}. Pass the weights "
                "of one module."
            )
        out = (recurrent.shape[1], size)
        check_shape(f"weight_hr{suffix}", projection, out, "(P, H)")
    rows = BLOCKS[kind] * size
    width = into.shape[1] if in_features is None else in_features
    why = "as the layer below and weight_hh say"
    check_shape(f"weight_ih{suffix}", into, (rows, width), why)
    bias, candidate = None, None
    first, second = get("bias_ih"), get("bias_hh")
    if first is not None and second is not None:
        for name, row in (("bias_ih", first), ("bias_hh", second)):
            check_shape(f"{name}{suffix}", row, (rows,), "one row of all blocks")
        if kind == "gru":
            candidate = second[2 * size :].copy()
            second = np.concatenate([second[: 2 * size], np.zeros_like(candidate)])
        bias = sum_of_biases(first, second)
    return CellWeights(
        kind,
        into.T.copy(),
        recurrent.T.copy(),
        bias,
        candidate,
        None if projection is None else projection.T.copy(),
        nonlinearity,
    )


def _check_kind(name: str, shape: tuple[int, ...], size: int, kind: str | None) -> str:
    """The kind of cell whose recurrent kernel has this shape."""
    found = {blocks: k for k, blocks in BLOCKS.items()}.get(shape[0] // max(size, 1))
    if found is None or shape[0] % max(size, 1):
        raise ValueError(
            f"{name} must have H rows for an RNN, 3 H for a GRU or 4 H for an LSTM; got shape "
            f"{shape} with H = {size}. Pass the weights of one of these."
        )
    if kind is not None and found != kind:
        raise ValueError(
            f"the weights must be those of kind {kind!r}, whose {name} has {BLOCKS[kind]} H rows; "
            f"got shape {shape} with H = {size}, those of kind {found!r}. Pass the other weights, "
            f"or kind={found!r}."
        )
    return found


def write_cell(cell: CellWeights, suffix: str) -> State:
    """A cell's entries of a state dict."""
    state = {f"weight_ih{suffix}": cell.kernel.T, f"weight_hh{suffix}": cell.recurrent_kernel.T}
    if cell.bias is not None:
        second = np.zeros_like(cell.bias)
        if cell.candidate_recurrent_bias is not None:
            second[2 * cell.hidden_features :] = cell.candidate_recurrent_bias
        state |= {f"bias_ih{suffix}": cell.bias, f"bias_hh{suffix}": second}
    if cell.projection is not None:
        state[f"weight_hr{suffix}"] = cell.projection.T
    return {name: np.array(array, order="C") for name, array in state.items()}

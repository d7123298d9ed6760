"""The arrays of Keras' recurrent layers, as `get_weights` gives them, read without Keras.

A layer has a kernel (I, G·H), a recurrent kernel (H, G·H) and, unless use_bias=False, a bias. An
LSTM's blocks lie in this package's order. A GRU's are update, reset, candidate; its bias is (3·H,)
with reset_after=False, and (2, 3·H) with reset_after=True: one row that goes with x, one with h.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rnn_jax.activations import ActivationLike
from rnn_jax.convert.cell_weights import (
    BLOCKS,
    CellWeights,
    as_numpy,
    check_gated,
    check_shape,
    sum_of_biases,
)

_NAMES = ("kernel", "recurrent_kernel", "bias")


def read_arrays(
    arrays: Sequence[Any],
    kind: str | None,
    *,
    reset_after: bool | None,
    activation: ActivationLike = "tanh",
    dtype: Any = None,
) -> CellWeights:
    """The weights of one cell: a kernel, a recurrent kernel, and a bias if there is one.

    Args:
      arrays: two or three of them.
      kind: "rnn", "lstm" or "gru"; None reads it off the sizes.
      reset_after: of a GRU; None reads it off its bias.
      activation: of a simple RNN.
      dtype: the type to compute in.

    Raises:
      TypeError: they are no floats.
      ValueError: number or shapes are not those of a layer.
    """
    if len(arrays) not in (2, 3):
        raise ValueError(
            "a Keras layer must have a kernel, a recurrent kernel and perhaps a bias; got "
            f"{len(arrays)} arrays. Pass layer.get_weights() of one layer, or a list of such "
            "lists, one for each."
        )
    found = [as_numpy(n, array) for n, array in zip(_NAMES, arrays, strict=False)]
    kernel, recurrent = found[:2]
    if kernel.ndim != 2 or recurrent.ndim != 2:
        raise ValueError(
            "kernel and recurrent kernel must be matrices; got shapes "
            f"{kernel.shape} and {recurrent.shape}. Pass layer.get_weights()."
        )
    size, columns = recurrent.shape
    kind = _check_kind(size, columns, kind)
    check_shape("kernel", kernel, (kernel.shape[0], columns), "columns as the recurrent kernel has")
    bias = found[2] if len(found) == 3 else None
    if kind != "gru":
        if bias is not None:
            check_shape("bias", bias, (columns,), "one for each column")
        return CellWeights(kind, kernel, recurrent, bias, activation=activation, dtype=dtype)
    if reset_after is None:
        reset_after = _resets_after(bias)
    flat, within = (None, None) if bias is None else _read_gru_bias(bias, size, reset_after)
    return CellWeights(
        kind,
        swapped(kernel),
        swapped(recurrent),
        None if flat is None else swapped(flat),
        within,
        reset_after=reset_after,
        dtype=dtype,
    )


def write_arrays(cell: CellWeights) -> list[np.ndarray]:
    """What `set_weights` of the Keras layer takes.

    Raises:
      ValueError: Keras has no such cell.
    """
    if cell.projection is not None:
        raise ValueError(
            "an LSTM that goes to Keras must be without a projection, which Keras' does not have; "
            f"got projection={cell.output_features}. PyTorch's has one: rnn_jax.convert.to_torch."
        )
    check_gated(cell, "Keras")
    arrays = [cell.kernel, cell.recurrent_kernel, *([] if cell.bias is None else [cell.bias])]
    if cell.kind == "gru":
        arrays = [swapped(array) for array in arrays]
        within = cell.candidate_recurrent_bias
        if within is not None:
            second = np.zeros_like(arrays[2])
            second[2 * cell.hidden_features :] = within
            arrays[2] = np.stack([arrays[2], second])
    return [np.array(array, order="C") for array in arrays]


def swapped(array: np.ndarray) -> np.ndarray:
    """A GRU's blocks with reset and update exchanged, along the last axis."""
    first, second, candidate = np.split(array, 3, axis=-1)
    return np.concatenate([second, first, candidate], axis=-1)


def _resets_after(bias: np.ndarray | None) -> bool:
    """Where a GRU's reset gate acts, by the shape of its bias."""
    if bias is None:
        raise ValueError(
            "a GRU without a bias must say where its reset gate acts, which its arrays do not "
            "tell; got reset_after=None. Pass reset_after=True (Keras' default) or False."
        )
    return bias.ndim == 2


def _read_gru_bias(
    bias: np.ndarray, size: int, reset_after: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """(bias of all blocks in Keras' order, the candidate's within the reset product if any)."""
    if not reset_after:
        check_shape("bias", bias, (3 * size,), "that of a GRU with reset_after=False")
        return bias, None
    check_shape("bias", bias, (2, 3 * size), "that of a GRU with reset_after=True")
    first, second = bias
    within = second[2 * size :].copy()
    added = np.concatenate([second[: 2 * size], np.zeros_like(within)])
    return sum_of_biases(first, added), within


def _check_kind(size: int, columns: int, kind: str | None) -> str:
    """The kind of cell whose recurrent kernel is (size, columns)."""
    found = {blocks * size: k for k, blocks in BLOCKS.items()}.get(columns) if size else None
    if found is None:
        raise ValueError(
            "a recurrent kernel must be (H, H) for a SimpleRNN, (H, 3 H) for a GRU or (H, 4 H) for "
            f"an LSTM; got shape {(size, columns)}. Pass layer.get_weights() of one of these."
        )
    if kind is not None and found != kind:
        raise ValueError(
            f"the arrays must be those of kind {kind!r}, whose recurrent kernel is (H, "
            f"{BLOCKS[kind]} H); got shape {(size, columns)}, that of kind {found!r}. Pass the "
            f"other arrays, or kind={found!r}."
        )
    return found

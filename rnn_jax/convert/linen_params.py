"""The parameters of Linen's recurrent cells, which hold one dense layer for each gate."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import kind_of
from rnn_jax.convert.cell_weights import CellWeights, as_numpy, check_names, check_shape

# Flax's letters for the blocks of a fused kernel, in the order of this package's.
GATES = {"rnn": ("",), "gru": ("r", "z", "n"), "lstm": ("i", "f", "g", "o")}


def read_params(kind: str, params: Any, **said: Any) -> CellWeights:
    """The weights in a Linen cell's parameters, with what else is said of it.

    Raises:
      TypeError: they are no nested dict of floats.
      ValueError: names or shapes are not those of the cell.
    """
    if not isinstance(params, Mapping):
        raise TypeError(
            f"params must be a dict, as cell.init gives it; got {kind_of(params)}. Pass "
            "variables['params'], or variables."
        )
    found = dict(_flat(params.get("params", params)))
    fix = "Pass the params of one cell, and the cell that they are of."
    check_names(f"params of a {kind.upper()} cell", found, list(_names(kind)), fix)
    arrays = {name: as_numpy(name, value) for name, value in found.items()}
    gates = GATES[kind]
    for name, array in arrays.items():
        if name.endswith("kernel") and array.ndim != 2:
            raise ValueError(
                f"{name} must be a matrix; got shape {array.shape}. Pass the params of one cell."
            )
    first = f"h{gates[0]}/kernel"
    size, into = arrays[first].shape[0], arrays[f"i{gates[0]}/kernel"].shape[0]
    for name, array in arrays.items():
        rows = size if name.startswith("h") else into
        shape = (rows, size) if name.endswith("kernel") else (size,)
        check_shape(name, array, shape, f"H being the {size} rows of {first}")

    def fused(side: str, what: str) -> np.ndarray:
        return np.concatenate([arrays[f"{side}{gate}/{what}"] for gate in gates], axis=-1)

    return CellWeights(
        kind,
        fused("i", "kernel"),
        fused("h", "kernel"),
        fused("h" if kind == "lstm" else "i", "bias"),
        arrays.get("hn/bias") if kind == "gru" else None,
        **said,
    )


def write_params(weights: CellWeights) -> dict[str, dict[str, Any]]:
    """A Linen cell's parameters with these weights."""
    gates = GATES[weights.kind]
    params: dict[str, dict[str, Any]] = {}

    def split(side: str, what: str, fused: np.ndarray) -> None:
        parts = np.split(fused, len(gates), axis=-1)
        for gate, part in zip(gates, parts, strict=True):
            params.setdefault(f"{side}{gate}", {})[what] = jnp.asarray(part)

    split("i", "kernel", weights.kernel)
    split("h", "kernel", weights.recurrent_kernel)
    if weights.bias is not None:
        split("h" if weights.kind == "lstm" else "i", "bias", weights.bias)
    if weights.candidate_recurrent_bias is not None:
        params["hn"]["bias"] = jnp.asarray(weights.candidate_recurrent_bias)
    return params


def _names(kind: str) -> Iterator[str]:
    for gate in GATES[kind]:
        yield f"i{gate}/kernel"
        yield f"h{gate}/kernel"
        yield f"h{gate}/bias" if kind == "lstm" else f"i{gate}/bias"
    if kind == "gru":
        yield "hn/bias"


def _flat(params: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}/")
        else:
            yield f"{path}{name}", value

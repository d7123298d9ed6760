"""How far each candidate is from float64."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu.candidates import (
    KINDS,
    Problem,
    Results,
    Shape,
    by_leaves,
    candidates,
    problem,
    widened,
)
from benchmarks.gpu.recurrences import label
from benchmarks.gpu.results import Table
from benchmarks.gpu.rounds import Cell, Effort, Measured, deviation, prepare

SHAPES: list[Shape] = [(64, 200, 2, 64), (64, 200, 2, 128), (16, 1000, 32, 256)]
TINY: list[Shape] = [(3, 5, 2, 8)]


def measure_row(kind: str, shape: Shape, effort: Effort) -> Measured:
    """Relative deviations of outputs and of dW_h from the scan in float64."""
    cells: dict[str, Cell] = {}
    values, gradient = (problem(kind, shape, gradient=by) for by in (False, True))
    exact = in_float64(values)
    makes = candidates(kind)
    _, outputs = prepare({name: partial(make, values) for name, make in makes.items()}, cells)
    _, by_weights = prepare({name: partial(makes[name], gradient) for name in outputs}, cells)
    for name in by_weights:
        errors = [
            deviation(outputs[name], {"outputs": exact["outputs"]}),
            deviation(by_weights[name], {"dW_h": exact["dW_h"]}),
        ]
        cells[name] = {"text": " / ".join(f"{error:.1e}" for error in errors)}
    return Measured({name: cells[name] for name in makes}, 1)


def in_float64(given: Problem) -> Results:
    """Outputs and the gradient by W_h of the scan in float64, on the same device."""
    xs = np.asarray(given.xs, np.float64)
    with jax.enable_x64(True):
        cell = widened(given.kind, given.cell)
        outputs, leaves, structure = by_leaves(cell, "scan")

        def summed(leaves: Any, xs: jax.Array) -> tuple[jax.Array, jax.Array]:
            ys = outputs(leaves, xs)
            return jnp.sum(ys), ys

        gradient, ys = jax.jit(jax.grad(summed, has_aux=True))(leaves, jnp.asarray(xs))
    dw_h = jax.tree.unflatten(structure, gradient).recurrent_kernel[...]
    return {"outputs": np.asarray(ys), "dW_h": np.asarray(dw_h)}


def tables(tiny: bool) -> list[Table]:
    """By kind and shape."""
    rows = {
        label(kind, shape): partial(measure_row, kind, shape)
        for shape in (TINY if tiny else SHAPES)
        for kind in KINDS
    }
    note = (
        "‖a − b‖ / ‖b‖ of the outputs / of the gradient of their sum by W_h, b being the scan in "
        "float64; (B, T, I, H)."
    )
    return [Table("Accuracy", note, tuple(candidates("LSTM")), rows)]

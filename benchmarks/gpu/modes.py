"""Every way of differentiating, through the kernels and through the scan."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu.candidates import (
    KINDS,
    Candidate,
    Outputs,
    Results,
    Shape,
    by_leaves,
    of_jax,
    problem,
)
from benchmarks.gpu.recurrences import quotient
from benchmarks.gpu.results import Table
from benchmarks.gpu.rounds import Cell, Effort, Measured, measure

SHAPE: Shape = (64, 200, 2, 128)
TINY: Shape = (3, 5, 2, 8)


def _summed(outputs: Outputs) -> Outputs:
    return lambda weights, xs: jnp.sum(outputs(weights, xs))


def _jvp(outputs: Outputs, weights: Any, xs: jax.Array) -> Any:
    return jax.jvp(lambda weights: outputs(weights, xs), (weights,), (weights,))[1]


def _hvp(outputs: Outputs, weights: Any, xs: jax.Array) -> Any:
    gradient = jax.grad(_summed(outputs))
    return jax.jvp(lambda weights: gradient(weights, xs), (weights,), (weights,))[1]


def _reverse_over_forward(outputs: Outputs, weights: Any, xs: jax.Array) -> Any:
    return jax.grad(lambda weights: jnp.sum(_jvp(outputs, weights, xs)))(weights)


def _reverse_over_reverse(outputs: Outputs, weights: Any, xs: jax.Array) -> Any:
    def squared(weights: Any) -> jax.Array:
        gradient = jax.grad(_summed(outputs))(weights, xs)
        return sum((jnp.sum(part**2) for part in jax.tree.leaves(gradient)), jnp.float32(0))

    return jax.grad(squared)(weights)


def _by_inputs(outputs: Outputs, weights: Any, xs: jax.Array) -> Any:
    return jax.grad(_summed(outputs), argnums=1)(weights, xs)


def _checkpointed(outputs: Outputs, weights: Any, xs: jax.Array) -> Any:
    return jax.grad(jax.checkpoint(_summed(outputs)))(weights, xs)


MODES: dict[str, Callable[[Outputs, Any, jax.Array], Any]] = {
    "jvp": _jvp,
    "gradient by the inputs": _by_inputs,
    "Hessian-vector product, forward over reverse": _hvp,
    "reverse over forward": _reverse_over_forward,
    "reverse over reverse": _reverse_over_reverse,
    "gradient under jax.checkpoint": _checkpointed,
}


def measure_row(kind: str, mode: str, shape: Shape, effort: Effort) -> Measured:
    """A mode by each implementation."""
    makes = {
        name: partial(_candidate, implementation, precision, kind, mode, shape)
        for name, (implementation, precision) in COLUMNS.items()
    }
    return measure(makes, effort)


COLUMNS = {
    "scan, highest": ("scan", "highest"),
    "scan": ("scan", "default"),
    "kernel": ("kernel", "default"),
    "kernel, highest": ("kernel", "highest"),
}


def _candidate(
    implementation: str, precision: str, kind: str, mode: str, shape: Shape
) -> Candidate:
    given = problem(kind, shape, gradient=True)
    outputs, leaves, _ = by_leaves(given.cell, implementation)

    def read(derivative: Any) -> Results:
        return {str(i): np.asarray(x) for i, x in enumerate(jax.tree.leaves(derivative))}

    return of_jax(partial(MODES[mode], outputs), (leaves, given.xs), read, precision)


def _quotients(cells: Mapping[str, Cell]) -> dict[str, str]:
    return {
        "scan ÷ kernel": quotient(cells, ["scan"], "kernel"),
        "scan ÷ kernel, highest": quotient(cells, ["scan, highest"], "kernel, highest"),
    }


def tables(tiny: bool) -> list[Table]:
    """Modes by kind."""
    shape = TINY if tiny else SHAPE
    rows = {
        f"{kind}, {mode}": partial(measure_row, kind, mode, shape)
        for mode in MODES
        for kind in (["GRU"] if tiny else KINDS)
    }
    note = (
        "Milliseconds for derivatives of the outputs or of their sum, by all weights where nothing "
        f"else is said; (B, T, I, H) = {shape}."
    )
    return [Table("Modes of differentiation", note, tuple(COLUMNS), rows, _quotients)]

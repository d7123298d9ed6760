"""The instrument: the (t, s) map, spectra and the whole gradient flow; and first calls."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import rnn_jax as rj
from benchmarks.gpu.candidates import (
    KINDS,
    Candidate,
    Shape,
    by_leaves,
    inputs,
    nothing,
    problem,
    widened,
)
from benchmarks.gpu.modes import MODES
from benchmarks.gpu.results import Table
from benchmarks.gpu.rounds import Cell, Effort, Measured, caught, measure
from benchmarks.gradient_flow import nothing_compiled

# Steps, input features, hidden features.
SEQUENCE, TINY = (1000, 2, 64), (6, 2, 4)
FIRST_SHAPE, FIRST_TINY = (64, 200, 2, 128), (2, 3, 2, 4)
WITHIN = "deviation from float64, nat"

CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "linearize": rj.linearize,
    "map, with linearize": rj.jacobian_log_norms,
    "gradient_flow": rj.gradient_flow,
    "all singular values": rj.jacobian_log_singular_values,
    "all exponents": rj.lyapunov_exponents,
}
COLUMNS = (*CALLS, "map alone", "gradient_flow, first call", WITHIN)


def measure_instrument(kind: str, shape: tuple[int, int, int], effort: Effort) -> Measured:
    """Each call on one sequence."""
    cell, xs = _sequence(kind, shape)
    calls = {name: partial(call, cell, xs) for name, call in CALLS.items()}
    linearization = rj.linearize(cell, xs)
    calls["map alone"] = partial(rj.jacobian_log_norms, linearization)
    makes = {name: partial(_candidate, call) for name, call in calls.items()}
    cells, repeats = measure(makes, effort)
    with caught(WITHIN, cells):
        cells[WITHIN] = {"text": f"{_deviation(kind, cell, xs):.1e}"}
    name = "gradient_flow, first call"
    with caught(name, cells):
        cells[name] = _first(lambda: calls["gradient_flow"], 1)
    return Measured(cells, repeats)


def _sequence(kind: str, shape: tuple[int, int, int]) -> tuple[rj.RNNCell, jax.Array]:
    steps, features, size = shape
    cell = KINDS[kind](features, size, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    return cell, inputs((steps, features))


def _candidate(call: Callable[[], Any]) -> Candidate:
    def run(times: int) -> None:
        for _ in range(times):
            result = call()
        jax.block_until_ready(jax.tree.leaves(result))

    def results() -> dict[str, np.ndarray]:
        run(1)
        return {}

    return Candidate(nothing, results, run, "highest")


def _deviation(kind: str, cell: rj.RNNCell, xs: jax.Array) -> float:
    """Of the map of log-norms from that in float64, the largest; NaN where only one is finite."""
    found = np.asarray(rj.jacobian_log_norms(cell, xs))
    with jax.enable_x64(True):
        wide = jnp.asarray(np.asarray(xs, np.float64))
        exact = np.asarray(rj.jacobian_log_norms(widened(kind, cell), wide))
    if not np.array_equal(np.isfinite(found), np.isfinite(exact)):
        return float("nan")
    both = np.isfinite(exact)
    return float(np.abs(found[both] - exact[both]).max())


def measure_first(kind: str, mode: str, shape: Shape, effort: Effort) -> Measured:
    """Milliseconds of the first call, with nothing kept from before."""
    cells: dict[str, Cell] = {}
    given = problem(kind, shape, gradient=True)

    def call(implementation: str) -> Callable[[], Any]:
        outputs, leaves, _ = by_leaves(given.cell, implementation)
        # A function of its own each time, so that nothing is kept for it.
        compiled = jax.jit(partial(FIRST[mode], outputs))
        return lambda: compiled(leaves, given.xs)

    for implementation in ("scan", "kernel"):
        with caught(implementation, cells):
            make = partial(call, implementation)
            cells[implementation] = _first(make, max(1, effort.rounds // 3))
    return Measured(cells, 1)


def _forward(outputs: Any, weights: Any, xs: jax.Array) -> Any:
    return outputs(weights, xs)


def _gradient(outputs: Any, weights: Any, xs: jax.Array) -> Any:
    return jax.grad(lambda weights: jnp.sum(outputs(weights, xs)))(weights)


FIRST: dict[str, Callable[[Any, Any, jax.Array], Any]] = {
    "forward": _forward,
    "gradient": _gradient,
    "Hessian-vector product": MODES["Hessian-vector product, forward over reverse"],
}


def _first(make: Callable[[], Callable[[], Any]], times: int) -> Cell:
    """Milliseconds from the call to its result, tracing and compiling included."""
    taken = []
    for _ in range(times):
        with nothing_compiled():
            call = make()
            start = time.perf_counter()
            jax.block_until_ready(jax.tree.leaves(call()))
            taken.append(1e3 * (time.perf_counter() - start))
    return {"best": min(taken), "median": float(np.median(taken))}


def tables(tiny: bool) -> list[Table]:
    """The instrument by kind."""
    shape = TINY if tiny else SEQUENCE
    kinds = ["GRU"] if tiny else list(KINDS)
    note = (
        f"Milliseconds on one sequence, (T, I, H) = {shape}, in float32: the (t, s) map of "
        "log-norms with the linearization that it needs and alone, `gradient_flow` later and the "
        "first time, with nothing compiled before; and the largest deviation of the map from that "
        "in float64."
    )
    rows = {kind: partial(measure_instrument, kind, shape) for kind in kinds}
    return [Table("Instrument", note, COLUMNS, rows)]


def first_call_tables(tiny: bool) -> list[Table]:
    """First calls by kind and mode."""
    shape = FIRST_TINY if tiny else FIRST_SHAPE
    rows = {
        f"{kind}, {mode}": partial(measure_first, kind, mode, shape)
        for kind in (["GRU"] if tiny else KINDS)
        for mode in FIRST
    }
    note = (
        "Milliseconds of a first call in an empty cache, which traces and compiles; "
        f"(B, T, I, H) = {shape}."
    )
    return [Table("First calls", note, ("scan", "kernel"), rows)]

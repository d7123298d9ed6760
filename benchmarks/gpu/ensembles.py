"""Several members at once: the bare gradient under `jax.vmap`, and `fit`."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import rnn_jax as rj
from benchmarks.gpu.candidates import (
    KINDS,
    TOLERANCES,
    Candidate,
    Problem,
    Results,
    by_leaves,
    of_jax,
    problem,
)
from benchmarks.gpu.recurrences import quotient
from benchmarks.gpu.results import Table
from benchmarks.gpu.rounds import Cell, Effort, Measured, caught, deviation, measure

MEMBERS = [1, 8, 32]
SIZES = [32, 64, 128]
BATCH, STEPS = 64, 200
# Of training: sequence length, and steps of a call of the compiled loop.
LENGTH, CHUNK = 100, 100
COLUMNS = tuple(f"{name}, {count}" for name in ("scan", "kernel") for count in MEMBERS)
MEMBER_COLUMNS = tuple(f"{count} members" if count > 1 else "1 member" for count in MEMBERS)


def measure_gradient(kind: str, size: int, batch: int, steps: int, effort: Effort) -> Measured:
    """One gradient of all members, in each implementation."""
    given = problem(kind, (batch, steps, 2, size), gradient=True)
    alone = jax.jit(jax.grad(_summed(given, "scan")))
    makes = {
        f"{name}, {count}": partial(_candidate, given, name, count, alone)
        for name in ("scan", "kernel")
        for count in MEMBERS
    }
    return measure(makes, effort)


def _summed(given: Problem, implementation: str) -> Callable[[Any, jax.Array], jax.Array]:
    outputs, _, _ = by_leaves(given.cell, implementation)
    return lambda leaves, xs: jnp.sum(outputs(leaves, xs))


def _candidate(
    given: Problem, implementation: str, members: int, alone: Callable[..., Any]
) -> Candidate:
    leaves, structure = jax.tree.flatten(given.cell)
    scales = 1 - jnp.arange(members, dtype=jnp.float32) / 100

    def stacked(array: jax.Array) -> jax.Array:
        return scales.reshape(-1, *[1] * array.ndim) * array[None]

    def kernel_of(leaves: Any) -> np.ndarray:
        return np.asarray(jax.tree.unflatten(structure, leaves).recurrent_kernel[...])

    arguments = (jax.tree.map(stacked, leaves), stacked(given.xs))

    def read(gradient: Any) -> Results:
        """The first member's, the same in every ensemble; the last one is compared here."""
        last = alone(*jax.tree.map(lambda array: array[-1], arguments))
        dw_h = kernel_of(gradient)
        error = deviation({"dW_h": dw_h[-1]}, {"dW_h": kernel_of(last)})
        if not error <= TOLERANCES["default"]:
            raise ValueError(f"the last member deviates by {error:.1e} from itself alone")
        return {"dW_h": dw_h[0]}

    call = jax.vmap(jax.grad(_summed(given, implementation)))
    return of_jax(call, arguments, read, "default")


def measure_fit(kind: str, size: int, batch: int, length: int, effort: Effort) -> Measured:
    """Milliseconds a step, from the times at which rows of evaluations arrive."""
    cells: dict[str, Cell] = {}
    for name, count in zip(MEMBER_COLUMNS, MEMBERS, strict=True):
        with caught(name, cells):
            taken = _step_times(kind, size, batch, length, count, effort.rounds)
            cells[name] = {"best": min(taken), "median": float(np.median(taken))}
    return Measured(cells, CHUNK)


def _step_times(
    kind: str, size: int, batch: int, length: int, members: int, rounds: int
) -> list[float]:
    """Milliseconds a step of each chunk of one run of `fit`."""

    def make(rngs: nnx.Rngs) -> rj.SequenceModel:
        cell = KINDS[kind](2, size, param_dtype=jnp.float32, rngs=rngs)
        return rj.SequenceModel(cell, 1, rngs=rngs)

    model = make(nnx.Rngs(0)) if members == 1 else rj.ensemble(make, members)
    seen: list[float] = []
    rj.fit(
        model,
        rj.tasks.Adding(length),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3)),
        # The first chunk compiles, and the last one has none after it to be computed meanwhile.
        steps=(rounds + 2) * CHUNK,
        batch_size=batch,
        seed=0,
        evaluate_every=CHUNK,
        evaluation_size=batch,
        stop_when_solved=False,
        on_evaluation=lambda _: seen.append(time.perf_counter()),
    )
    return [1e3 * taken / CHUNK for taken in np.diff(seen[-rounds - 2 : -1])]


def _gradient_quotients(cells: Mapping[str, Cell]) -> dict[str, str]:
    return {
        "scan ÷ kernel, 8": quotient(cells, ["scan, 8"], "kernel, 8"),
        "kernel, 8 ÷ 1": quotient(cells, ["kernel, 8"], "kernel, 1"),
        "kernel, 32 ÷ 1": quotient(cells, ["kernel, 32"], "kernel, 1"),
    }


def _fit_quotients(cells: Mapping[str, Cell]) -> dict[str, str]:
    one, *more = MEMBER_COLUMNS
    return {f"{name} ÷ 1": quotient(cells, [name], one) for name in more}


def tables(tiny: bool) -> list[Table]:
    """The bare gradient, and training."""
    kinds, sizes = (["GRU"], [8]) if tiny else (list(KINDS), SIZES)
    batch, steps, length = (2, 3, 5) if tiny else (BATCH, STEPS, LENGTH)
    gradient = {
        f"{kind}, H = {size}": partial(measure_gradient, kind, size, batch, steps)
        for size in sizes
        for kind in kinds
    }
    fit = {
        f"{kind}, H = {size}": partial(measure_fit, kind, size, batch, length)
        for size in sizes
        for kind in kinds
    }
    return [
        Table(
            "Ensembles",
            "Milliseconds for the gradient of the summed outputs by the weights of 1, 8 and 32 "
            f"members with inputs of their own, under `jax.vmap`; B = {batch}, T = {steps}, I = 2.",
            COLUMNS,
            gradient,
            _gradient_quotients,
        ),
        Table(
            "fit",
            f"Milliseconds a step of `fit` on the adding problem, B = {batch}, T = {length}: the "
            f"time from one evaluation's row to the next, {CHUNK} steps and an evaluation, after "
            "the first; rounds are successive evaluations of one run.",
            MEMBER_COLUMNS,
            fit,
            _fit_quotients,
        ),
    ]

"""The whole instrument in one call: what a user waits for, first and later."""

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import jax
from flax import nnx

import rnn_jax as rj
from benchmarks.peers import OURS
from benchmarks.timing import Benchmark, Row, Timing, time_in_turn

INPUTS, SIZE = 2, 64
LENGTHS = [200, 1000]


def measure(kind: str, steps: int, rounds: int) -> Row:
    """Milliseconds of the first call and of later ones, and how often the first traces a step."""
    cell = OURS[kind](INPUTS, SIZE, rngs=nnx.Rngs(0))
    xs = jax.random.normal(jax.random.key(0), (steps, INPUTS))

    def call() -> Any:
        return jax.block_until_ready(jax.tree.leaves(rj.gradient_flow(cell, xs)))

    first = []
    for _ in range(max(1, rounds // 3)):
        with nothing_compiled():
            start = time.perf_counter()
            call()
            first.append(1e3 * (time.perf_counter() - start))
    later = time_in_turn({"later call": call}, rounds=rounds)
    with nothing_compiled(), counted(OURS[kind]) as traced:
        call()
    # What was traced with the counter inside is not to be answered from later.
    jax.clear_caches()
    return {"first call": Timing.of(first), **later, "traces of the step": str(len(traced))}


@contextmanager
def nothing_compiled() -> Iterator[None]:
    """Nothing in memory, and nothing taken from what earlier processes left on the disk."""
    kept = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    jax.clear_caches()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", kept)


@contextmanager
def counted(kind: Any) -> Iterator[list[None]]:
    """A list that grows by one with each call of the cells' step."""
    calls: list[None] = []
    step = kind.step

    @functools.wraps(step)
    def counting(*arguments: Any) -> Any:
        calls.append(None)
        return step(*arguments)

    # In the class itself, so that the cell remains the one whose equations are known.
    with mock.patch.object(kind, "step", counting):
        yield calls


BENCHMARKS = [
    Benchmark(
        "Gradient flow",
        f"`gradient_flow(cell, xs)`, I = {INPUTS}, H = {SIZE}: the first call, which traces and "
        "compiles with nothing kept from before, a later one, and how often the first call traces "
        "the cell's step.",
        {
            f"{kind}, T = {steps}": partial(measure, kind, steps)
            for kind in OURS
            for steps in LENGTHS
        },
    )
]
